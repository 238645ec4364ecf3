//! What is done on one host reaches all.

use super::{HERE, Numbered, THERE, host, host_on, hosts, on_bus, plain_host, status, two_hosts};
use crate::both_engines;
use crate::harness::http::free_port;
use crate::harness::process::alive;
use crate::harness::redis::Sentinel;
use crate::harness::{Builder, Engine, Redis, Router, TempDir, client, repository};
use nix::sys::signal::Signal;
use serde_json::json;

both_engines! {
    fn two_routers_and_a_host_without_are_one_cluster(engine) {
        let redis = Redis::start();
        let (a, b) = two_hosts(engine, &redis);
        let (_plain, c) = plain_host(&redis);
        let all = hosts(&[(&a.url(), 2), (&b.url(), 2), (&c, 1)]);
        client("hosts", &a.url(), &json!({ "hosts": all }));
        let stream = json!({ "hosts": all, "redis": redis.url(), "stream": "socket.io" });
        client("emitter", &a.url(), &stream);
        assert!(alive(a.pid()) && alive(b.pid()), "both routers live");
    }

    fn workers_of_the_documentation_on_two_hosts_are_one_cluster(engine) {
        let redis = Redis::start();
        let sticky = |address: &str| {
            let listen = format!("{address}:0");
            Router::on(engine).listen(&listen).option("--bus", redis.url()).start()
        };
        let (a, b) = (sticky(HERE), sticky(THERE));
        client("sticky_hosts", &a.url(), &json!({ "urls": [a.url(), b.url()] }));
        // Each host has one connection: nobody counts subscribers.
        assert_eq!(redis.connections(), 2);
    }

    fn redis_is_found_by_its_sentinels_and_spoken_to_in_tls(engine) {
        let tls = free_port();
        let file = |what| repository().join(format!("tests/node/tls/for-tests-only-redis-{what}.pem"));
        let (key, certificate) = (file("key"), file("certificate"));
        let (port, key, path) =
            (tls.to_string(), key.display().to_string(), certificate.display().to_string());
        let options = ["--tls-port", &port, "--tls-auth-clients", "no"];
        let files = ["--tls-key-file", &key, "--tls-cert-file", &path, "--tls-ca-cert-file", &path];
        let redis = Redis::with(&[&options[..], &files[..]].concat(), None);
        let sentinel = Sentinel::of(&redis);
        let by_sentinel = format!("redis+sentinel://127.0.0.1:{}/main", sentinel.port);
        let a = host_on(engine, HERE, &by_sentinel).start();
        let in_tls = host_on(engine, THERE, &format!("rediss://localhost:{tls}"));
        let b = in_tls.env("SSL_CERT_FILE", &path).start();
        let all = hosts(&[(&a.url(), 2), (&b.url(), 2)]);
        client("broadcast", "-", &json!({ "hosts": all }));
        let of = |router: &Router| status(router)["bus"]["redis"].clone();
        assert_eq!(of(&a), by_sentinel);
        assert_eq!(of(&b), format!("rediss://localhost:{tls}"));
    }

    fn hosts_whose_workers_speak_json_are_one_cluster(engine) {
        let redis = Redis::start();
        let json = |address| host(engine, address, &redis).option("--serialization", "json").start();
        let (a, b) = (json(HERE), json(THERE));
        let all = hosts(&[(&a.url(), 2), (&b.url(), 2)]);
        client("hosts", &a.url(), &json!({ "hosts": all, "binary": false }));
    }

    fn fifty_thousand_packets_come_once_and_in_order_whatever_redis_does(engine) {
        let mut redis = Redis::start();
        let long = |address| host(engine, address, &redis).option("--bus-max-len", 100_000).start();
        let (a, b) = (long(HERE), long(THERE));
        let all = hosts(&[(&a.url(), 2), (&b.url(), 2)]);
        let mut numbered = Numbered::start(&all, 50_000);
        numbered.send_up_to(10_000);
        redis.stop();
        numbered.send_up_to(18_000);
        redis.start_again();
        numbered.send_up_to(28_000);
        redis.stop();
        redis.start_again();
        numbered.send_up_to(36_000);
        // Stopped with what is on its way, and the routers replaced meanwhile.
        redis.hold_still();
        numbered.send_up_to(40_000);
        for router in [&a, &b] {
            router.signal(Signal::SIGUSR2);
        }
        redis.let_go();
        for router in [&a, &b] {
            router.event("upgraded");
        }
        redis.stop();
        numbered.send_up_to(45_000);
        redis.start_again();
        numbered.send_up_to(50_000);
        assert_eq!(numbered.received(), [50_000; 4]);
    }

    fn a_router_that_dies_has_its_workers_catch_up(engine) {
        let Beside { _redis, _a, mortal, mut b, mut numbered } = Beside::start(engine);
        // What it has in hand when it dies is lost: nothing is.
        numbered.until_heard();
        b.crash();
        numbered.send_up_to(2000);
        let b = mortal.router().spawn();
        b.event_number("adopted", 2);
        numbered.send_up_to(3000);
        assert_eq!(numbered.received(), [3000; 4]);
    }

    fn what_a_router_had_in_hand_when_it_died_does_not_come_twice(engine) {
        let Beside { _redis, _a, mortal, mut b, mut numbered } = Beside::start(engine);
        b.crash();
        let b = mortal.router().spawn();
        b.event_number("adopted", 2);
        numbered.send_up_to(3000);
        // The client sees to it that each number is larger than the one before.
        let received = numbered.received();
        assert_eq!(received[..2], [3000; 2]);
        assert!(received[2..].iter().all(|n| *n >= 2000), "only what it had is lost: {received:?}");
    }
}

/// A host, and another whose router is to die; a client of the first has sent 1,000 of 3,000 packets.
struct Beside {
    _redis: Redis,
    _a: Router,
    mortal: Mortal,
    b: Router,
    numbered: Numbered,
}

impl Beside {
    fn start(engine: Engine) -> Self {
        let redis = Redis::start();
        let a = host(engine, HERE, &redis).start();
        let mortal = Mortal::new(engine, &redis);
        let b = mortal.router().start();
        let mut numbered = Numbered::start(&hosts(&[(&a.url(), 2), (&b.url(), 2)]), 3000);
        numbered.send_up_to(1000);
        Self { _redis: redis, _a: a, mortal, b, numbered }
    }
}

/// A host whose router may die: with the same words each time, which its directory is found by.
struct Mortal {
    engine: Engine,
    redis: String,
    runtime: TempDir,
    port: u16,
    admin: u16,
}

impl Mortal {
    fn new(engine: Engine, redis: &Redis) -> Self {
        let (port, admin) = (free_port(), free_port());
        Self { engine, redis: redis.url(), runtime: TempDir::new(), port, admin }
    }

    fn router(&self) -> Builder {
        let (listen, admin) =
            (format!("{THERE}:{}", self.port), format!("127.0.0.1:{}", self.admin));
        let router = on_bus(self.engine, &self.redis).listen(&listen).option("--admin", admin);
        router.runtime(self.runtime.path())
    }
}
