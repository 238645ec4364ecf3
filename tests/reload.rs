//! New workers for old ones, more of them and fewer, with clients that must not notice.

use crate::both_engines;
use crate::harness::http::free_port;
use crate::harness::load::Load;
use crate::harness::{Connection, Engine, Router, TempDir, until};
use nix::sys::signal::Signal;
use serde_json::json;
use std::time::Duration;

/// Reloads of one story.
const RELOADS: usize = 20;

fn reload(router: &Router) {
    let done = router.events("reload done");
    router.signal(Signal::SIGHUP);
    router.event_number("reload done", done + 1);
}

both_engines! {
    fn twenty_reloads_under_load_and_nobody_notices_before_the_deadline(engine) {
        let router = Router::steady(engine)
            .option("--drain-timeout", "1500ms")
            .option("--disconnect-over", "1000ms")
            .start();
        let load = Load::start(&router.url(), &json!({ "clients": 64 }));
        for _ in 0..RELOADS {
            reload(&router);
            router.nobody_drains();
        }
        let summary = load.stop();
        summary.nothing_failed();
        assert!(summary.ended("websocket") > 0, "the drains have ended some: {}", summary.0);
    }

    fn a_new_generation_that_fails_leaves_the_old_one(engine) {
        let directory = TempDir::new();
        let (port, other) = (free_port(), free_port());
        let mode = directory.write("mode", "serve");
        let router = Router::steady(engine)
            .no_listen()
            .env("PORT", port)
            .env("MODE_FILE", mode.display())
            .option("--listen-timeout", 1500)
            .start();
        let before = router.slots();
        let elsewhere = format!("port {other}");
        let missing = format!("127.0.0.1:{port}");
        for (mode, word) in [
            ("throw", "this version is broken"),
            ("exit 7", "exited with code 7"),
            ("never", "was not ready"),
            (&elsewhere, &missing),
        ] {
            directory.write("mode", mode);
            let failed = router.events("reload failed");
            router.signal(Signal::SIGHUP);
            let line = router.event_number("reload failed", failed + 1);
            let error = line.string("error").unwrap();
            assert!(error.contains(word) && error.contains("serve on"), "{mode}: {error}");
            assert_eq!(Connection::tcp(port).get("/pid").status, 200);
            assert_eq!(router.slots(), before, "{mode}");
        }
        directory.write("mode", "serve");
        reload(&router);
        assert!(router.slots().values().all(|pid| !before.values().any(|old| old == pid)));
    }

    fn reloads_queue_and_several_become_one(engine) {
        let directory = TempDir::new();
        let mode = directory.write("mode", "serve");
        let router = Router::steady(engine).env("MODE_FILE", mode.display()).start();
        directory.write("mode", "late 300");
        router.signal(Signal::SIGHUP);
        router.event("reload begins");
        for n in 1..4 {
            router.signal(Signal::SIGHUP);
            router.event_number("reload queued", n);
        }
        router.event_number("reload done", 2);
        router.nobody_drains();
        assert_eq!(router.events("reload begins"), 2);
    }

    fn workers_come_and_go_under_load(engine) {
        let router = Router::steady(engine)
            .option("--drain-timeout", "2s")
            .option("--disconnect-over", "1s")
            .start();
        let load = Load::start(&router.url(), &json!({ "clients": 24 }));
        router.signal(Signal::SIGTTIN);
        router.ready(3);
        router.signal(Signal::SIGTTOU);
        router.event("worker draining");
        router.nobody_drains();
        let summary = load.stop();
        summary.nothing_failed();
        assert_eq!(router.slots().into_keys().collect::<Vec<_>>(), [0, 1]);
        // One is the fewest there are.
        router.signal(Signal::SIGTTOU);
        router.event_number("worker draining", 2);
        router.nobody_drains();
        router.signal(Signal::SIGTTOU);
        router.lives();
    }

    fn an_idle_connection_of_a_draining_worker_is_answered_by_another(engine) {
        let router = Router::steady(engine).start();
        let mut connection = router.connect();
        let before = connection.get("/pid").pid();
        reload(&router);
        router.nobody_drains();
        let after = connection.get("/pid").pid();
        assert_ne!(before, after);
        assert!(router.pids().contains(&after));
    }

    fn a_worker_that_hangs_is_replaced_and_the_log_says_why(engine) {
        let router = Router::steady(engine).option("--hang-timeout", "2s").start();
        let mut connection = router.connect();
        connection.send(b"GET /hang HTTP/1.1\r\nHost: x\r\n\r\n");
        let line = router.event("recycling the worker");
        assert!(line.string("why").unwrap().contains("event loop"), "{}", line.text);
        router.event_number("worker ready", 3);
        router.lives();
    }

    fn ten_workers_that_will_not_end_are_ended_together(engine) {
        let mut router = Router::steady(engine)
            .workers(10)
            .env("IGNORE_SIGINT", 1)
            .option("--kill-timeout", 1600)
            .start_early();
        until("ten workers are ready", Duration::from_secs(60), || {
            (router.slots().len() == 10).then_some(())
        });
        let (status, took) = router.stop();
        assert!(status.success(), "{status}");
        // kill_timeout and a second, and what a busy machine takes to end ten processes.
        assert!(took < Duration::from_millis(1600 + 1000 + 1500), "{took:?}");
    }
}

#[test]
fn those_that_are_left_are_disconnected_at_a_pace() {
    const CLIENTS: usize = 2000;
    let engine = Engine::Uring;
    if !engine.wanted() {
        return eprintln!("skipped: ROUTER_TEST_ENGINE asks for the other engine");
    }
    let router = Router::steady(engine)
        .option("--drain-timeout", "11s")
        .option("--disconnect-over", "10s")
        .start();
    let (load, _) = Load::run("pace", &router.url(), &json!({ "clients": CLIENTS }));
    reload(&router);
    router.nobody_drains();
    let summary = load.stop();
    assert_eq!(summary.count("failures"), 0, "{}", summary.0["why"]);
    let arrivals = summary.0["arrivals"].as_array().unwrap();
    let at: Vec<u64> = arrivals.iter().map(|arrival| arrival[0].as_u64().unwrap()).collect();
    assert_eq!(at.len(), CLIENTS, "each comes back once");
    let (first, last) = (*at.iter().min().unwrap(), *at.iter().max().unwrap());
    assert!((8000..12_000).contains(&(last - first)), "over {} ms", last - first);
    let mut seconds = vec![0_usize; 13];
    at.iter().for_each(|at| seconds[((at - first) / 1000) as usize] += 1);
    let most = seconds.iter().max().unwrap();
    assert!(*most < 2 * CLIENTS / 10, "{seconds:?}");
}
