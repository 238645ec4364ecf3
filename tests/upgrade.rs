//! The router's own upgrade: another program in the same process, and nobody notices.

use crate::both_engines;
use crate::harness::load::Load;
use crate::harness::process::{fds, resident, state};
use crate::harness::{Router, SOON, TempDir, binary, fixture, until};
use nix::sys::signal::Signal;
use serde_json::json;
use std::time::Duration;

/// Upgrades of one story.
const UPGRADES: usize = 20;
/// How much more memory the router may have after them, in bytes.
const MOST_GROWTH: u64 = 4 << 20;

fn upgrade(router: &Router) {
    let done = router.events("upgraded");
    router.signal(Signal::SIGUSR2);
    router.event_number("upgraded", done + 1);
}

both_engines! {
    fn twenty_upgrades_under_load_and_nobody_notices(engine) {
        let mut router = Router::steady(engine).option("--threads", 2).start();
        let workers = router.slots();
        let load = Load::start(&router.url(), &json!({ "clients": 64, "broadcasts": 200 }));
        let (mut descriptors, mut memory) = (0, 0);
        for turn in 0..UPGRADES {
            upgrade(&router);
            if turn == 2 {
                // Both shards answer: their engines are up.
                (0..16).for_each(|_| router.lives());
                descriptors = fds(router.pid()).len();
                memory = resident(router.pid());
            }
        }
        let summary = load.stop();
        summary.nothing_failed().nobody_left();
        assert_eq!(router.slots(), workers, "the workers are the same");
        router.lives();
        until("no descriptor was kept", Duration::from_secs(5), || {
            (fds(router.pid()).len() <= descriptors).then_some(())
        });
        let grown = resident(router.pid()).saturating_sub(memory);
        assert!(grown < MOST_GROWTH, "{grown} bytes more than after the third");
        router.stop();
        let totals = router.event("router stops").string("totals").unwrap().to_owned();
        let accepted = totals.split(' ').find_map(|count| count.strip_prefix("accepted="));
        let accepted: u64 = accepted.unwrap().parse().unwrap();
        assert!(accepted >= summary.connections(), "{totals}: {}", summary.0);
    }

    fn a_program_that_cannot_take_over_leaves_the_old_one(engine) {
        let directory = TempDir::new();
        let program = directory.path().join("router");
        std::fs::copy(binary(), &program).unwrap();
        let router = Router::steady(engine).binary(&program).start();
        let workers = router.slots();
        // The last two fail when everything is at rest: the old one goes on from there.
        for (bad, word) in [
            ("#!/bin/sh\necho no such thing >&2\nexit 1\n", "no such thing"),
            ("text", "started"),
            ("#!/bin/sh\necho ready\nread go\necho not mine >&2\nexit 1\n", "not mine"),
            ("#!/bin/sh\necho ready\nread go\nrm \"$0\"\necho taken\n", "exec"),
        ] {
            // The last has removed itself.
            let _ = std::fs::remove_file(&program);
            directory.write_script("router", bad);
            let failed = router.events("upgrade failed");
            router.signal(Signal::SIGUSR2);
            let line = router.event_number("upgrade failed", failed + 1);
            assert!(line.string("error").unwrap().contains(word), "{}", line.text);
            router.lives();
            assert_eq!(router.slots(), workers);
        }
        assert_eq!(router.events("upgraded"), 0);
        // Mended, it is taken.
        std::fs::copy(binary(), &program).unwrap();
        upgrade(&router);
        router.lives();
    }

    fn a_trial_that_will_not_end_is_ended(engine) {
        let directory = TempDir::new();
        let program = directory.path().join("router");
        let told = directory.path().join("pid");
        std::fs::copy(binary(), &program).unwrap();
        let router = Router::steady(engine).binary(&program).start();
        // Each is given up at another point; the last is taken, but is no longer there to be run.
        for words in ["echo no", "echo ready\nread go\necho no", "echo ready\nread go\nrm \"$0\"\necho taken"] {
            let _ = std::fs::remove_file(&program);
            let pid = told.display();
            directory.write_script("router", &format!("#!/bin/sh\necho $$ > {pid}\n{words}\nexec sleep 600\n"));
            let failed = router.events("upgrade failed");
            router.signal(Signal::SIGUSR2);
            router.event_number("upgrade failed", failed + 1);
            let pid: u32 = std::fs::read_to_string(&told).unwrap().trim().parse().unwrap();
            until("the trial is gone, and reaped", SOON, || state(pid).is_none().then_some(()));
            router.lives();
        }
    }

    fn half_a_request_line_is_finished_after_the_upgrade(engine) {
        let router = Router::steady(engine).start();
        let mut connection = router.connect();
        connection.send(b"GET /pi");
        upgrade(&router);
        connection.send(b"d HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_eq!(connection.response().status, 200);
    }

    fn what_was_changed_in_the_settings_takes_effect(engine) {
        let directory = TempDir::new();
        let file = |instances: u8| {
            let script = fixture("steady");
            let script = script.to_str().unwrap();
            format!(r#"{{ "apps": [{{ "script": {script:?}, "instances": {instances}, "env": {{ "PORT": 0 }} }}] }}"#)
        };
        let path = directory.write("ecosystem.config.json", &file(2));
        let router = Router::on(engine).path(&path).workers(0).start_early();
        let before = router.ready(2);
        directory.write("ecosystem.config.json", &file(3));
        upgrade(&router);
        let after = router.ready(3);
        assert!(before.iter().all(|(slot, pid)| after[slot] == *pid), "{before:?} {after:?}");
    }
}
