//! Workers that die, stop, run out or misbehave: their clients and the other workers notice as
//! little as can be.

use crate::both_engines;
use crate::harness::polling::many;
use crate::harness::process::{alive, fds, resident, signal};
use crate::harness::{Connection, Engine, Router, SOON, TempDir, client, node, until};
use nix::sys::signal::Signal;
use serde_json::json;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const MIB: u64 = 1 << 20;

both_engines! {
    fn clients_handed_to_a_worker_that_is_killed_are_answered_by_another(engine) {
        let router = Router::on(engine).option("--balance", "round-robin").start();
        router.lives();
        let victim = router.pids()[0];
        signal(victim, Signal::SIGSTOP);
        let mut clients: Vec<Connection> = (0..420).map(|_| router.connect()).collect();
        for connection in &mut clients {
            connection.send("GET /pid HTTP/1.1\r\nHost: x\r\n\r\n");
        }
        // The healthy worker has answered its half when no more answers come.
        let mut answered = vec![false; clients.len()];
        until("the healthy worker's answers", SOON, || {
            for (connection, done) in clients.iter_mut().zip(&mut answered) {
                *done = *done || !connection.is_quiet(Duration::from_micros(500));
            }
            (answered.iter().filter(|a| **a).count() >= 200).then_some(())
        });
        let waiting = answered.iter().filter(|a| !**a).count();
        assert!(waiting >= 200, "only {waiting} hand-offs are open");
        signal(victim, Signal::SIGKILL);
        for connection in &mut clients {
            assert_ne!(connection.response().pid(), victim);
        }
        router.replaced(victim);
    }

    fn clients_a_worker_has_no_descriptors_for_are_answered_by_another(engine) {
        let dir = TempDir::new();
        // Only the first slot is short of descriptors.
        let script = format!(
            "#!/bin/sh\n[ \"$NODE_APP_INSTANCE\" = 0 ] && ulimit -n 48\nexec {} \"$@\"\n",
            node::command()
        );
        let wrapper = dir.write_script("few-files", &script);
        let router =
            Router::on(engine).interpreter(&wrapper).option("--balance", "round-robin").start();
        let mut clients: Vec<Connection> = (0..160).map(|_| router.connect()).collect();
        for connection in &mut clients {
            connection.send("GET /slow?ms=1500 HTTP/1.1\r\nHost: x\r\n\r\n");
        }
        let short = router.slots()[&0];
        let mut by_short = 0;
        for connection in &mut clients {
            by_short += usize::from(connection.response().pid() == short);
        }
        assert!(by_short < 60, "{by_short} in a worker of 48 descriptors: it refused none");
        assert!(alive(short), "it lives on");
    }

    fn questions_in_flight_are_settled_when_a_worker_dies(engine) {
        let router = Router::on(engine).workers(3).start();
        let seen = client("questions_in_flight_when_a_worker_dies", &router.url(), &json!({}));
        for question in ["fetch", "emit"] {
            let ms = seen["times"][question].as_f64().unwrap();
            assert!(ms < 200.0, "{question} took {ms} ms: {seen}");
        }
        assert!(seen["fetched"]["error"].is_null(), "{seen}");
        assert!(seen["emitted"]["error"].is_null(), "{seen}");
    }

    fn any_javascript_value_a_worker_sends_is_harmless(engine) {
        for how in ["null", "true", "one", "x", "map", "nested", "wrongsid", "big"] {
            let router = Router::on(engine).start();
            harmless(&router, how);
        }
    }

    fn any_json_value_a_worker_sends_is_harmless(engine) {
        let router = Router::on(engine).option("--serialization", "json").start();
        for how in ["null", "true", "one", "x", "map", "nested", "wrongsid", "big"] {
            harmless(&router, how);
        }
    }

    fn raw_garbage_on_a_channel_costs_that_worker_at_most(engine) {
        costs_one_worker(engine, "garbage");
    }

    fn an_impossible_length_on_a_channel_costs_that_worker_at_most(engine) {
        costs_one_worker(engine, "hugelen");
    }

    fn a_frame_cut_by_exit_costs_that_worker_at_most(engine) {
        costs_one_worker(engine, "cutframe");
    }

    fn garbage_on_a_json_channel_is_harmless_to_the_others(engine) {
        let router = Router::on(engine).option("--serialization", "json").start();
        router.get("/misbehave?how=garbage").pid();
        others_work(&router);
    }

    fn a_socket_sent_by_a_worker_does_not_block_its_messages(engine) {
        let router = Router::on(engine).app("handle").start();
        for _ in 0..4 {
            let answer = router.get("/send");
            assert_eq!((answer.status, &*answer.text()), (200, "5 messages went out"));
        }
        router.output("the socket was closed", |l| l.contains("the sent socket was closed").then_some(()));
    }

    fn a_stopped_worker_holds_nobody_up_for_long_and_memory_stays_bounded(engine) {
        let router = Router::on(engine).workers(3).start();
        let (pid, url, done) = (router.pid(), router.url(), AtomicBool::new(false));
        let (seen, most) = std::thread::scope(|scope| {
            let watch = scope.spawn(|| {
                let mut most = 0;
                while !done.load(Ordering::Relaxed) {
                    most = most.max(resident(pid));
                    std::thread::sleep(Duration::from_millis(20));
                }
                most
            });
            // 80,000 packets of 1 KiB: more than the 64 MiB a worker's queue may hold.
            let _end = SetOnDrop(&done);
            let options = json!({ "count": 40_000, "size": 1024 });
            let seen = client("one_worker_stops_while_others_blast", &url, &options);
            done.store(true, Ordering::Relaxed);
            (seen, watch.join().unwrap())
        });
        println!("most memory: {} MiB", most / MIB);
        assert!(most < 128 * MIB, "{} MiB", most / MIB);
        let victim = seen["victim"].as_u64().unwrap() as u32;
        router.replaced(victim);
        router.lives();
    }

    fn twenty_thousand_short_connections_leave_no_descriptor(engine) {
        let router = Router::on(engine).start();
        let port = router.port();
        let visit = |_| {
            let answer = Connection::tcp(port).try_get("/pid").map_err(|e| e.to_string())?;
            if answer.status == 200 { Ok(()) } else { Err(format!("{answer:?}")) }
        };
        let count = || {
            let mut all: Vec<usize> = router.pids().into_iter().map(|p| fds(p).len()).collect();
            all.push(fds(router.pid()).len());
            all
        };
        assert_eq!(many(200, 4, visit), [""; 0]);
        // What was opened for the first requests is closed: the same twice in a row.
        let mut before = count();
        until("descriptors at rest", SOON, || {
            std::thread::sleep(Duration::from_millis(200));
            let now = count();
            std::mem::replace(&mut before, now.clone()).eq(&now).then_some(())
        });
        let failures = many(20_000, 8, visit);
        assert!(failures.is_empty(), "{} failed: {:?}", failures.len(), failures.first());
        until("the same descriptors as before", SOON, || {
            let now = count();
            now.iter().zip(&before).all(|(n, b)| n <= b).then_some(())
        });
    }

    fn a_busy_worker_loses_no_client(engine) {
        let router = Router::on(engine).start();
        router.lives();
        let mut busy = router.connect();
        busy.send("GET /block?ms=1500 HTTP/1.1\r\nHost: x\r\n\r\n");
        std::thread::sleep(Duration::from_millis(100));
        // All are answered in the end, whichever worker they were given to.
        let port = router.port();
        let failures = many(40, 8, |_| {
            let answer = Connection::tcp(port).try_get("/pid").map_err(|e| e.to_string())?;
            if answer.status == 200 { Ok(()) } else { Err(format!("{answer:?}")) }
        });
        assert!(failures.is_empty(), "{failures:?}");
        busy.response().pid();
    }
}

/// The worker did it, and it and everybody else are as before.
#[track_caller]
fn harmless(router: &Router, how: &str) {
    let before = router.slots();
    router.get(&format!("/misbehave?how={how}")).pid();
    if how == "big" {
        // What this worker says next, a session's announcement too, waits behind it.
        router.output("the end of the big one", |l| (l == "big is out").then_some(()));
    }
    others_work(router);
    assert_eq!(router.slots(), before, "{how}: no worker was restarted");
}

fn costs_one_worker(engine: Engine, how: &str) {
    let router = Router::on(engine).start();
    let before = router.slots();
    let culprit = router.get(&format!("/misbehave?how={how}")).pid();
    router.replaced(culprit);
    router.ready(2);
    for (slot, pid) in before {
        if pid != culprit {
            assert_eq!(router.slots()[&slot], pid, "{how}: the other worker is the same");
        }
    }
    others_work(&router);
}

/// Long enough after a misdeed for it to have been read: clients come, and the cluster works.
#[track_caller]
fn others_work(router: &Router) {
    std::thread::sleep(Duration::from_millis(150));
    router.lives();
    client("emit_reaches_all", &router.url(), &json!({ "clients": 4, "binary": false }));
}

/// Ends the watching thread also when the scenario panics.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
