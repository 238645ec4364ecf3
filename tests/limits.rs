//! What ends, replaces and restarts workers by itself: memory, time, changed files; and what of
//! theirs may not stay behind.

use crate::both_engines;
use crate::harness::load::Load;
use crate::harness::process::{alive, signal};
use crate::harness::{Router, SOON, TempDir, fixture, until};
use nix::sys::signal::Signal;
use serde_json::json;
use std::time::Duration;

/// A child of a worker's: of its process group, or in a session of its own.
fn child(router: &Router, detached: bool) -> u32 {
    router.get(&format!("/child?detached={}", u8::from(detached))).text().parse().unwrap()
}

/// Neither running nor waiting to be reaped.
fn gone(pid: u32) {
    until("the child is gone", SOON, || (!alive(pid)).then_some(()));
}

both_engines! {
    fn a_leaking_worker_is_replaced_again_and_again_and_nobody_notices(engine) {
        let router = Router::steady(engine)
            .env("LEAK_SLOT", 1)
            .env("LEAK_BYTES", 2_000_000)
            .option("--max-memory-restart", "150M")
            .option("--drain-timeout", "3s")
            .option("--disconnect-over", "2s")
            .start();
        let stays = router.slots()[&0];
        let load = Load::start(&router.url(), &json!({ "clients": 24, "plain": 20 }));
        for n in 1..=3 {
            let line = router.event_number_within("recycling the worker", n, Duration::from_secs(60));
            assert!(line.string("why").unwrap().contains("150 MiB"), "{}", line.text);
        }
        load.stop().nothing_failed();
        assert_eq!(router.slots()[&0], stays);
    }

    fn a_changed_file_restarts_and_an_ignored_one_does_not(engine) {
        let directory = TempDir::new();
        let app = format!("require({:?});\n", fixture("steady").to_str().unwrap());
        let script = directory.write("app.js", &app);
        let router = Router::on(engine)
            .path(&script)
            .directory(directory.path())
            .env("PORT", 0)
            .arg("--watch")
            .option("--ignore-watch", "*.log")
            .start();
        let before = router.pids();
        directory.write("out.log", "x");
        directory.write("node_modules/x.js", "x");
        directory.write("other.js", "x");
        let line = router.event("restarting the workers");
        assert!(line.string("why").unwrap().contains("other.js"), "{}", line.text);
        router.event_number("worker ready", 4);
        assert!(router.pids().iter().all(|pid| !before.contains(pid)));
        assert_eq!(router.events("restarting the workers"), 1);
    }

    fn a_time_that_comes_reloads(engine) {
        let router = Router::steady(engine).option("--cron-restart", "*/3 * * * * *").start();
        router.event("reload done");
        router.lives();
    }

    fn a_workers_children_end_with_it(engine) {
        let mut router = Router::steady(engine).workers(1).start();
        let children = [child(&router, false), child(&router, true)];
        router.signal(Signal::SIGHUP);
        router.event("reload done");
        router.nobody_drains();
        children.into_iter().for_each(gone);
        let children = [child(&router, false), child(&router, true)];
        router.stop();
        children.into_iter().for_each(gone);
    }

    fn without_treekill_they_stay(engine) {
        let mut router = Router::steady(engine).workers(1).arg("--no-treekill").start();
        let children = [child(&router, false), child(&router, true)];
        router.stop();
        assert!(children.iter().all(|pid| alive(*pid)));
        children.into_iter().for_each(|pid| signal(pid, Signal::SIGKILL));
    }

    fn a_variable_counts_up_with_the_slots(engine) {
        let router = Router::steady(engine).option("--increment-var", "METRICS_PORT").start();
        let seen = || router.get("/environment?name=METRICS_PORT").text();
        let mut values: Vec<String> = (0..20).map(|_| seen()).collect();
        values.sort();
        values.dedup();
        assert_eq!(values, ["0", "1"]);
    }
}
