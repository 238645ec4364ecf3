//! A disk on which nothing can be written, and what was saved.
//!
//! What is written goes beside its place first: a directory there is as bad as a full disk.

use crate::harness::process::{alive, signal};
use crate::harness::{Home, SOON, until};
use nix::sys::signal::Signal;
use std::fs;
use std::path::PathBuf;

fn idle(home: &Home, name: &str, workers: u16) {
    home.here.write("idle.js", "setInterval(() => {}, 1e6)");
    home.router(&format!("start idle.js -w {workers} --name {name}")).well();
}

/// Nothing can be put in this place any more.
fn block(path: PathBuf) -> PathBuf {
    let mut beside = path.into_os_string();
    beside.push(".new");
    fs::create_dir(&beside).unwrap();
    beside.into()
}

#[test]
fn an_app_whose_state_cannot_be_written_down_is_ended_all_the_same() {
    let home = Home::new();
    idle(&home, "two", 1);
    let record = home.app("two").join("record.json");
    let blocked = block(record.clone());
    let router = home.app_router("two").unwrap();
    home.router("scale two 2").fails(&["[two](0) not scaled: cannot write to"]);
    assert_eq!(home.rows(), ["two 0 online"]);
    home.router("start idle.js -w 2 --name two --force").fails(&["[two](0) not started"]);
    assert_eq!((home.rows(), home.app_router("two")), (vec!["two 0 online".into()], Some(router)));
    let stopped = home.router("stop two").well().out;
    assert!(stopped.contains("[two](0) stopped\n[two](0) it is not written down"), "{stopped}");
    assert!(!alive(router) && home.rows() == ["two 0 stopped"]);
    fs::remove_dir(&blocked).unwrap();
    let started = home.router("start two").well().out;
    assert!(!started.contains("not written down"), "{started}");

    block(record);
    let router = home.app_router("two").unwrap();
    home.router("delete two").well();
    assert!(!alive(router) && home.rows().is_empty());
    // One that was never there is not in the list for having been asked for.
    home.router("start idle.js -w 1 --name two").fails(&["[two](", "not started: cannot write to"]);
    assert!(home.rows().is_empty());

    idle(&home, "last", 1);
    block(home.app("last").join("record.json"));
    let (router, workers) = (home.app_router("last").unwrap(), home.pids("last"));
    let killed = home.router("kill").well().out;
    assert!(killed.contains("[last](0) ended\n"), "{killed}");
    assert!(!alive(router) && !workers.iter().any(|worker| alive(*worker)));
}

#[test]
fn what_was_saved_is_there_until_something_else_is() {
    let home = Home::new();
    idle(&home, "one", 1);
    home.router("save").well();
    let dump = home.path().join("dump.json");
    let before = fs::read(&dump).unwrap();
    idle(&home, "two", 1);
    let blocked = block(dump.clone());
    home.router("save").fails(&["cannot write", "dump.json"]);
    assert_eq!(fs::read(&dump).unwrap(), before);
    fs::remove_dir(blocked).unwrap();
    home.router("save").well();
    assert_eq!(fs::read(home.path().join("dump.json.bak")).unwrap(), before);
    // Cut off, as by a host that went down.
    fs::write(&dump, "[{").unwrap();
    home.router("kill").well();
    home.router("resurrect").well();
    assert_eq!(home.rows(), ["one 0 online"]);
    home.router("delete all").well();
    home.router("cleardump").well();
    home.router("resurrect").fails(&["nothing was saved"]);
}

#[test]
fn apps_whose_daemon_has_died_are_not_out_of_reach() {
    let home = Home::new();
    idle(&home, "chat", 1);
    let router = home.app_router("chat").unwrap();
    let die = || {
        let daemon = home.daemon().unwrap();
        signal(daemon, Signal::SIGKILL);
        until("its end", SOON, || (!alive(daemon)).then_some(()));
    };
    die();
    assert!(home.router("ls").well().out.contains("chat"));
    die();
    assert_eq!(home.rows(), ["chat 0 online"]);
    die();
    home.router("restart chat").well();
    assert_eq!(home.app_router("chat"), Some(router));
    die();
    home.router("kill").well();
    assert!(!alive(router));
    // Nothing is left, so that nobody is started to keep it.
    assert!(home.router("kill").well().out.contains("no daemon runs"));
    assert!(home.rows().is_empty() && !home.path().join("daemon.sock").exists());
}
