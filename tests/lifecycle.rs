//! Workers come up, are restarted, give up and go; so does the router.

use crate::both_engines;
use crate::harness::process::{alive, signal};
use crate::harness::{Engine, Router, SOON, TempDir, client, fixture, node, repository, until};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

both_engines! {
    fn a_crash_loop_ends_the_router_with_an_error(engine) {
        let (status, text) = Router::on(engine)
            .app("crash")
            .option("--max-restarts", 2)
            .option("--min-uptime", 5000)
            .fails();
        assert!(status.code().is_some_and(|c| c != 0), "{status}");
        assert!(given_up(&text), "it says how the workers ended:\n{text}");
        assert!(text.contains("boom at boot"), "the workers' own words are there:\n{text}");
        // What the workers said themselves, without the last words that the router repeats.
        let said = text.lines().filter(|line| line.contains("\"stream\""));
        let tries = said.filter(|line| line.contains("about to crash")).count();
        assert!((2..=8).contains(&tries), "{tries} starts of 2 workers");
    }

    fn one_crashing_slot_does_not_disturb_the_others(engine) {
        let router = Router::on(engine)
            .workers(3)
            .env("CRASH_SLOT", 1)
            .option("--max-restarts", 2)
            .option("--min-uptime", 5000)
            .start_early();
        router.log.find(SOON, |lines| {
            lines.iter().any(|l| given_up(&l.text)).then_some(())
        }).expect("the slot is given up");
        let slots: Vec<u64> = router.ready(2).into_keys().collect();
        assert_eq!(slots, [0, 2]);
        client("everything", &router.url(), &json!({ "workers": 2 }));
    }

    fn a_restart_waits_longer_each_time(engine) {
        let began = Instant::now();
        let (_, text) = Router::on(engine)
            .workers(1)
            .app("crash")
            .option("--max-restarts", 4)
            .option("--min-uptime", 5000)
            .option("--exp-backoff-restart-delay", 200)
            .fails();
        // 200 + 300 + 450 ms and more.
        assert!(began.elapsed() > Duration::from_millis(900), "{:?}\n{text}", began.elapsed());
    }

    fn a_killed_worker_is_replaced_and_the_cluster_works(engine) {
        let router = Router::on(engine).start();
        for victim in router.pids() {
            signal(victim, Signal::SIGKILL);
            router.replaced(victim);
        }
        router.ready(2);
        client("everything", &router.url(), &json!({}));
    }

    fn a_worker_that_exits_by_itself_is_replaced(engine) {
        let router = Router::on(engine).start();
        let victim = router.pids()[0];
        while router.pids().contains(&victim) {
            let _ = router.connect().try_get("/exit?code=0");
        }
        router.ready(2);
        assert!(!alive(victim));
    }

    fn as_process_1_it_collects_orphans(engine) {
        let router = Router::on(engine).workers(1).app("orphan").in_a_pid_namespace().spawn();
        router.output("its orphan's end", |l| l.contains("is collected").then_some(()));
    }

    fn as_process_1_it_stops_when_told(engine) {
        let mut router = Router::on(engine).workers(1).app("orphan").in_a_pid_namespace().spawn();
        router.event("worker started");
        router.signal(Signal::SIGTERM);
        assert!(router.wait(SOON).success());
        router.event("router stops");
    }

    fn sigterm_ends_router_and_workers_quickly(engine) {
        let mut router = Router::on(engine).start();
        let (status, took) = router.stop();
        assert!(status.success(), "{status}");
        assert!(took < Duration::from_millis(1500), "{took:?}");
    }

    fn sigint_does_the_same(engine) {
        let mut router = Router::on(engine).start();
        router.signal(Signal::SIGINT);
        assert!(router.wait(SOON).success());
        until("the workers go", SOON, || {
            (!router.all_pids().into_iter().any(alive)).then_some(())
        });
    }

    fn workers_that_ignore_the_signal_are_killed_all_at_once(engine) {
        let mut router = Router::on(engine)
            .workers(10)
            .env("IGNORE_SIGINT", 1)
            .option("--kill-timeout", 1000)
            .start();
        let (_, took) = router.stop();
        assert!(took < Duration::from_millis(2000), "{took:?} with a kill timeout of 1 s");
        router.output("its defiance", |l| l.contains("SIGINT ignored").then_some(()));
    }

    fn a_second_signal_is_immediate(engine) {
        let mut router =
            Router::on(engine).env("IGNORE_SIGINT", 1).option("--kill-timeout", 8000).start();
        router.signal(Signal::SIGTERM);
        router.output("its defiance", |l| l.contains("SIGINT ignored").then_some(()));
        let (_, took) = router.stop();
        assert!(took < Duration::from_millis(1000), "{took:?}");
    }

    fn a_stopping_router_refuses_new_connections(engine) {
        let router =
            Router::on(engine).env("IGNORE_SIGINT", 1).option("--kill-timeout", 3000).start();
        let port = router.port();
        router.signal(Signal::SIGTERM);
        router.output("its defiance", |l| l.contains("SIGINT ignored").then_some(()));
        until("refused", Duration::from_secs(2), || {
            (!crate::harness::Connection::connects(port)).then_some(())
        });
    }

    fn a_worker_has_the_descriptors_of_a_plain_node_worker_and_no_other(engine) {
        // A plain one also inherits what its parents happened to leave open.
        let plain = kinds(plain_node_fds());
        for handoff in ["lane", "ipc"] {
            let router = Router::on(engine).workers(1).option("--handoff", handoff).start();
            router.lives();
            let mut allowed = plain.clone();
            allowed.extend((handoff == "lane").then(|| "socket".to_owned()));
            for kind in kinds(router.get("/fds").body) {
                let at = allowed.iter().position(|p| *p == kind);
                allowed.remove(at.unwrap_or_else(|| panic!("a {kind} too many, {handoff}")));
            }
        }
    }

    fn a_worker_that_crashed_took_nothing_of_its_successor(engine) {
        let router = Router::on(engine).workers(1).start();
        let first = kinds(router.get("/fds").body);
        let victim = router.pids()[0];
        signal(victim, Signal::SIGKILL);
        router.replaced(victim);
        assert_eq!(kinds(router.get("/fds").body), first);
    }

    fn output_lines_carry_app_and_slot(engine) {
        let router = Router::on(engine).start();
        for slot in 0..2 {
            let line = router.log.find(SOON, |lines| {
                let wanted = |l: &&crate::harness::log::Line| {
                    l.worker_output() == Some("worker is up") && l.number("slot") == Some(slot)
                };
                lines.iter().find(wanted).cloned()
            });
            let line = line.unwrap_or_else(|| panic!("no line of slot {slot}"));
            assert_eq!(line.string("app"), Some("sticky"));
            assert_eq!(line.string("stream"), Some("stdout"));
        }
    }

    fn pretty_output_lines_carry_app_and_slot(engine) {
        let router = Router::on(engine).pretty().spawn();
        for slot in ["0", "1"] {
            let found = router.log.find(SOON, |lines| {
                let line = lines.iter().find(|l| {
                    let before = l.text.split("worker is up").next().unwrap_or("");
                    l.text.contains("worker is up") && before.contains("sticky") && before.contains(slot)
                });
                line.map(|_| ())
            });
            found.unwrap_or_else(|| panic!("no line of slot {slot}"));
        }
    }

    fn each_worker_knows_its_slot(engine) {
        let dir = TempDir::new();
        let app = dir.write(
            "app.js",
            "require('http').createServer((q, s) => s.end()).listen(0, '127.0.0.1');\n\
             console.log('slot ' + process.env.NODE_APP_INSTANCE + ' args ' + process.argv.slice(2));\n",
        );
        let router = Router::on(engine).path(&app).no_listen().app_args(&["--its", "own"]).start();
        for slot in 0..2 {
            let line = format!("slot {slot} args --its,own");
            router.output(&line, |l| (l == line).then_some(()));
        }
    }
}

/// PM2 calls it errored.
fn given_up(text: &str) -> bool {
    text.contains("errored")
}

/// What each descriptor above the standard three is, without its number: `socket`, `pipe`, ...
fn kinds(json: Vec<u8>) -> Vec<String> {
    let all: Value = serde_json::from_slice(&json).unwrap();
    let mut kinds: Vec<String> = all
        .as_object()
        .unwrap()
        .iter()
        .filter(|(fd, _)| fd.parse::<u32>().unwrap() > 2)
        .map(|(_, target)| {
            let target = target.as_str().unwrap();
            target.split_once(":[").map_or(target, |(kind, _)| kind).to_owned()
        })
        .collect();
    kinds.sort();
    kinds
}

/// The same worker under Node's own primary, asked the same.
fn plain_node_fds() -> Vec<u8> {
    let mut primary = Command::new(node::command())
        .arg(repository().join("tests/node/primary.js"))
        .arg(fixture("sticky"))
        .arg("1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(primary.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut port = None;
    let mut up = false;
    while port.is_none() || !up {
        let line = lines.next().expect("the primary starts");
        port = port.or_else(|| line.parse::<u16>().ok());
        up = up || line == "worker is up";
    }
    let answer =
        until("an answer", SOON, || crate::harness::Connection::tcp(port?).try_get("/fds").ok());
    // The worker ends with its channel.
    let _ = primary.kill();
    let _ = primary.wait();
    answer.body
}

#[test]
fn the_test_workers_run_on_the_node_that_was_asked_for() {
    let output = Command::new(node::command()).arg("--version").output().unwrap();
    let version = String::from_utf8_lossy(&output.stdout).into_owned();
    let wanted = std::env::var("ROUTER_TEST_NODE").unwrap_or_default();
    assert!(version.starts_with(&format!("v{wanted}")), "{version}");
    let engine = if Engine::Uring.wanted() { Engine::Uring } else { Engine::Portable };
    let dir = TempDir::new();
    let app = dir.write(
        "app.js",
        "require('http').createServer((q, s) => s.end()).listen(0, '127.0.0.1');\n\
         console.log(process.version);\n",
    );
    let router = Router::on(engine).path(&app).no_listen().workers(1).start();
    router.output(&version, |l| (l == version.trim()).then_some(()));
}
