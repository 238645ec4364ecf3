//! What goes wrong between hosts, and what becomes of it.

use super::{HERE, THERE, counted, host, host_on, hosts, status, two_hosts};
use crate::both_engines;
use crate::harness::process::{alive, signal};
use crate::harness::{Redis, SOON, client, until};
use nix::sys::signal::Signal;
use serde_json::json;

both_engines! {
    fn a_wrong_password_is_an_error_at_start_and_tried_again_later(engine) {
        let redis = Redis::asking_for("right-one");
        let wrong = redis.url().replace("right-one", "wrong-one");
        let (status, text) = host_on(engine, HERE, &wrong).fails();
        assert_eq!(status.code(), Some(2), "{text}");
        assert!(text.contains("--bus") && text.contains("refuses"), "{text}");
        assert!(!text.contains("wrong-one"), "a password is shown to nobody: {text}");

        // It is changed under a router that runs, and changed back.
        let router = host(engine, HERE, &redis).start();
        router.event("the bus is connected");
        redis.ask(&["CONFIG", "SET", "requirepass", "another"]);
        let kill = || redis.ask_as("another", &["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        kill();
        redis.ask_as("another", &["CLIENT", "KILL", "TYPE", "pubsub"]);
        router.event("Redis refuses");
        redis.ask_as("another", &["CONFIG", "SET", "requirepass", "right-one"]);
        router.event_number("the bus is connected", 2);
        assert!(!router.log.text().contains("right-one"), "{}", router.log.text());
    }

    fn what_is_no_packet_is_skipped_and_counted(engine) {
        let redis = Redis::start();
        let (a, b) = two_hosts(engine, &redis);
        let all = json!({ "hosts": hosts(&[(&a.url(), 2), (&b.url(), 2)]) });
        client("broadcast", "-", &all);
        let poison: &[&[&str]] = &[
            &["uid", "x", "nsp", "/", "type", "3"],
            &["uid", "x", "nsp", "/", "type", "3", "data", "{"],
            &["uid", "x", "nsp", "/", "type", "3", "data", "{\"packet\":7,\"opts\":{}}"],
            &["uid", "x", "nsp", "/", "type", "3", "data", "no base64 at all!"],
            &["uid", "x", "nsp", "/", "type", "4", "data", "{\"opts\":{\"rooms\":5}}"],
            &["uid", "x", "nsp", "/", "type", "8", "data", "{\"requestId\":\"r\",\"sockets\":[null]}"],
            &["uid", "x", "nsp", "/", "type", "9", "data", "{\"packet\":\"abc\"}"],
            &["uid", "x", "nsp", "/", "type", "no number", "data", "{}"],
            &["some", "thing", "of", "somebody else's"],
        ];
        for fields in poison {
            redis.ask(&[&["XADD", "socket.io", "*"], *fields].concat());
        }
        redis.ask(&["PUBLISH", "socket.io#/#", "no MessagePack"]);
        let workers = (a.slots(), b.slots());
        for router in [&a, &b] {
            // The last one says nothing that anybody knows, and is passed over in silence.
            counted(router, "bus_skipped", poison.len() as u64);
            assert!(router.log.text().contains("is no packet, and skipped"));
        }
        client("broadcast", "-", &all);
        assert_eq!((a.slots(), b.slots()), workers, "no worker died of it");
    }

    fn a_slow_redis_holds_nobody_back(engine) {
        let redis = Redis::start();
        let (a, b) = two_hosts(engine, &redis);
        let all = hosts(&[(&a.url(), 2), (&b.url(), 2)]);
        client("broadcast", "-", &json!({ "hosts": all }));
        redis.hold_still();
        let here = hosts(&[(&a.url(), 2)]);
        let seen = client("blast", "-", &json!({ "hosts": here, "count": 2000 }));
        assert_eq!(seen["heard"], json!([2000, 2000]));
        // Nobody waits for answers that cannot come.
        client("broadcast", "-", &json!({ "hosts": here }));
        assert!(status(&a)["bus"]["backlog"].as_u64().unwrap() > 0);
        redis.let_go();
        client("broadcast", "-", &json!({ "hosts": all }));
        until("the backlog is gone", SOON, || {
            (status(&a)["bus"]["backlog"] == 0).then_some(())
        });
    }

    fn what_was_trimmed_before_it_was_read_is_counted(engine) {
        let redis = Redis::start();
        let a = host(engine, HERE, &redis).option("--bus-max-len", 100).start();
        let b = host(engine, THERE, &redis).start();
        let all = json!({ "hosts": hosts(&[(&a.url(), 2), (&b.url(), 2)]) });
        client("broadcast", "-", &all);
        signal(b.pid(), Signal::SIGSTOP);
        let here = hosts(&[(&a.url(), 2)]);
        client("blast", "-", &json!({ "hosts": here, "count": 2000 }));
        until("Redis has them", SOON, || (status(&a)["bus"]["backlog"] == 0).then_some(()));
        signal(b.pid(), Signal::SIGCONT);
        counted(&b, "bus_missed", 1);
        client("broadcast", "-", &all);
        let totals = status(&b)["totals"].clone();
        let of = |name: &str| totals[name].as_u64().unwrap();
        assert!(of("bus_missed") < 2100 && of("bus_received") > 0, "{totals}");
        assert!(b.log.text().contains("the stream was trimmed"), "{}", b.log.text());
    }

    fn a_host_that_dies_is_not_waited_for(engine) {
        let redis = Redis::start();
        let (a, b) = two_hosts(engine, &redis);
        let all = json!({ "hosts": hosts(&[(&a.url(), 2), (&b.url(), 2)]) });
        client("broadcast", "-", &all);
        let others = || status(&a)["bus"]["hosts"].as_array().unwrap().len();
        until("a sees b", SOON, || (others() == 1).then_some(()));
        let pids = [vec![b.pid()], b.pids()].concat();
        pids.iter().for_each(|pid| signal(*pid, Signal::SIGKILL));
        until("a knows", SOON, || {
            (others() == 0).then_some(())
        });
        client("broadcast", "-", &json!({ "hosts": hosts(&[(&a.url(), 2)]) }));
        assert!(alive(a.pid()));
    }

    fn without_redis_a_host_starts_alone_and_joins_when_it_comes(engine) {
        let mut redis = Redis::start();
        redis.stop();
        let (a, b) = two_hosts(engine, &redis);
        client("broadcast", "-", &json!({ "hosts": hosts(&[(&a.url(), 2)]) }));
        assert_eq!(status(&a)["bus"]["connected"], false);
        redis.start_again();
        client("broadcast", "-", &json!({ "hosts": hosts(&[(&a.url(), 2), (&b.url(), 2)]) }));
        assert_eq!(status(&a)["bus"]["connected"], true);
    }
}
