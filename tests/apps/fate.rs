//! Processes that die: the daemon, the router of an app, the app itself.

use crate::harness::http::free_port;
use crate::harness::load::Load;
use crate::harness::process::{alive, signal};
use crate::harness::{Connection, Home, SOON, fixture, until};
use nix::sys::signal::Signal;
use serde_json::json;

/// Two workers on a port of their own.
fn steady(home: &Home, name: &str) -> u16 {
    let port = free_port();
    let mut command = home.command();
    command.arg("start").arg(fixture("steady")).args(["-w", "2", "--name", name]);
    home.give(command.env("PORT", port.to_string())).well();
    port
}

#[test]
fn two_apps_do_not_share_a_fate_or_a_client() {
    let home = Home::new();
    let (one, other) = (steady(&home, "one"), steady(&home, "other"));
    assert_eq!(home.rows(), ["one 0 online", "one 1 online", "other 2 online", "other 3 online"]);
    for (port, name) in [(one, "one"), (other, "other")] {
        let pids = home.pids(name);
        for _ in 0..20 {
            assert!(pids.contains(&Connection::tcp(port).get("/pid").pid()), "{name}");
        }
    }
    let load = Load::start(&format!("http://127.0.0.1:{other}"), &json!({ "clients": 4 }));
    let router = home.app_router("other");
    signal(home.app_router("one").unwrap(), Signal::SIGKILL);
    home.router("restart one");
    home.router("delete one").well();
    assert_eq!(home.app_router("other"), router);
    load.stop().nothing_failed().nobody_left();
}

#[test]
fn a_router_that_dies_is_started_again_and_its_clients_stay() {
    let home = Home::new();
    let port = steady(&home, "chat");
    let (router, workers) = (home.app_router("chat"), home.pids("chat"));
    let load = Load::start(&format!("http://127.0.0.1:{port}"), &json!({ "clients": 4 }));
    signal(router.unwrap(), Signal::SIGKILL);
    let another = |pid: &Option<u32>| pid.is_some() && *pid != router;
    until("another router", SOON, || Some(home.app_router("chat")).filter(another));
    home.shows(&["chat 0 online", "chat 1 online"]);
    assert_eq!(home.pids("chat"), workers, "the same processes");
    // Requests meet a closed port for a moment; connections that are there stay.
    assert_eq!(load.stop().ended("websocket"), 0);
    assert!(home.router("describe chat").well().out.contains("router restarts"));
}

#[test]
fn the_next_daemon_finds_what_the_last_one_kept() {
    let home = Home::new();
    let port = steady(&home, "chat");
    home.here.write("idle.js", "setInterval(() => {}, 1e6)");
    home.router("start idle.js -w 1 --name idle").well();
    home.router("stop idle").well();
    let (workers, router) = (home.pids("chat"), home.app_router("chat"));
    let daemon = home.daemon().unwrap();
    let load = Load::start(&format!("http://127.0.0.1:{port}"), &json!({ "clients": 4 }));
    signal(daemon, Signal::SIGKILL);
    until("its end", SOON, || (!alive(daemon)).then_some(()));
    assert!(home.router("ping").well().out.starts_with("pong"));
    assert_ne!(home.daemon(), Some(daemon));
    assert_eq!(home.rows(), ["chat 0 online", "chat 1 online", "idle 2 stopped"]);
    assert_eq!((home.pids("chat"), home.app_router("chat")), (workers, router));
    load.stop().nothing_failed().nobody_left();
    // It is not this daemon's child, and is ended all the same.
    home.router("stop chat").well();
    assert!(!alive(router.unwrap()));
    assert_eq!(home.rows(), ["chat 0 stopped", "chat 1 stopped", "idle 2 stopped"]);
}

#[test]
fn an_app_that_cannot_run_is_errored_and_says_why() {
    let home = Home::new();
    home.here.write("broken.js", "throw new Error('this version is broken')");
    let line = "start broken.js -w 1 --max-restarts 0";
    home.router(line).fails(&["[broken](0) not started", "this version is broken"]);
    home.shows(&["broken 0 errored"]);
    let described = home.router("describe broken").well().out;
    assert!(described.contains("this version is broken"), "{described}");
    home.here.write("broken.js", "setInterval(() => {}, 1e6)");
    home.router("restart broken").well();
    assert_eq!(home.rows(), ["broken 0 online"]);

    let port = free_port();
    let line = format!("start broken.js -w 1 --name first -l 127.0.0.1:{port}");
    home.router(&line).well();
    let line = format!("start broken.js -w 1 --name second -l 127.0.0.1:{port}");
    home.router(&line).fails(&["[second](2) not started", &port.to_string()]);
    home.here.write("once.js", "process.exit(0)");
    home.router("start once.js -w 1 --no-autorestart").well();
    home.shows(&["broken 0 online", "first 1 online", "second 2 errored", "once 3 stopped"]);
}
