//! Orders that meet: an app that is ended while something else is done with it, and routers that do
//! not answer.

use crate::harness::http::free_port;
use crate::harness::process::{alive, signal};
use crate::harness::{Connection, Home, SOON, until};
use nix::sys::signal::Signal;
use std::process::{Child, Stdio};

/// Ends only when it is killed.
const STUBBORN: &str = "process.on('SIGINT', () => {}); process.on('SIGTERM', () => {});
require('http').createServer((q, s) => s.end('here')).listen(process.env.PORT, '127.0.0.1');
";

/// An app of this script, with one worker, that may take its time to end.
fn stubborn(home: &Home, name: &str) -> u16 {
    let port = free_port();
    home.here.write("stubborn.js", STUBBORN);
    let text = format!(
        "module.exports = [{{ name: '{name}', script: 'stubborn.js', instances: 1,
            kill_timeout: 3000, env: {{ PORT: {port} }} }}]"
    );
    home.here.write("stubborn.config.js", &text);
    home.router("start stubborn.config.js").well();
    port
}

fn idle(home: &Home, name: &str) {
    home.here.write("idle.js", "setInterval(() => {}, 1e6)");
    home.router(&format!("start idle.js -w 1 --name {name}")).well();
}

/// A command that goes on beside the test.
fn beside(home: &Home, line: &str) -> Child {
    let mut command = home.command();
    command.args(line.split_whitespace()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// Waits until the daemon is doing this.
fn does(home: &Home, what: &str) {
    until(what, SOON, || home.doing().iter().any(|doing| doing == what).then_some(()));
}

fn answers(port: u16) -> bool {
    Connection::connects(port)
}

#[test]
fn what_is_deleted_is_not_revived_by_an_order_that_has_waited() {
    let home = Home::new();
    let port = stubborn(&home, "slow");
    let first = home.app_router("slow").unwrap();
    let delete = beside(&home, "delete slow");
    does(&home, "slow is being deleted");
    let restart = beside(&home, "restart slow");
    let start = beside(&home, "start stubborn.config.js");
    assert!(delete.wait_with_output().unwrap().status.success());
    let restarted = restart.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&restarted.stdout);
    assert!(told.contains("not restarted: it was") && !restarted.status.success(), "{told}");
    // This one means whatever has the name, and it is in the list.
    assert!(start.wait_with_output().unwrap().status.success());
    assert_eq!(home.rows().len(), 1, "{:?}", home.rows());
    assert!(answers(port) && !alive(first));
    let second = home.app_router("slow").unwrap();
    home.router("delete slow").well();
    assert!(!answers(port) && !alive(second));
    home.router("start stubborn.config.js").well();
    home.router("kill").well();
    assert!(!answers(port));
}

/// One that nobody watches has the app's directory: its answers are not the app's.
#[test]
fn only_the_router_that_is_watched_is_asked() {
    let home = Home::new();
    idle(&home, "one");
    home.router("delete one").well();
    let script = home.here.path().join("idle.js");
    let mut stranger = home.command();
    stranger.arg("-w1").arg("--runtime-dir").arg(home.app("one")).arg(script);
    let mut stranger = stranger.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let control = home.app("one").join("control");
    until("its socket", SOON, || control.exists().then_some(()));
    home.router("start idle.js -w 1 --name one").fails(&["[one](", "not started", "one"]);
    signal(stranger.id(), Signal::SIGTERM);
    stranger.wait().unwrap();
    home.router("start one").well();
}

#[test]
fn an_app_whose_router_hangs_is_stopped_and_deleted_all_the_same() {
    let home = Home::new();
    idle(&home, "st");
    idle(&home, "other");
    let (router, workers) = (home.app_router("st").unwrap(), home.pids("st"));
    signal(router, Signal::SIGSTOP);
    let restart = beside(&home, "restart st");
    does(&home, "st is being restarted");
    home.router("restart other").well();
    home.router("stop st").well();
    assert!(!alive(router) && !workers.iter().any(|worker| alive(*worker)));
    let restarted = restart.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&restarted.stdout);
    assert!(told.contains("not restarted: it was overtaken"), "{told}");
    assert!(home.rows().contains(&"st 0 stopped".to_owned()), "{:?}", home.rows());

    home.router("start st").well();
    let router = home.app_router("st").unwrap();
    signal(router, Signal::SIGSTOP);
    home.router("restart st").fails(&["no sign of life", &format!("process {router}"), "stop st"]);
    home.router("delete st").well();
    assert!(!alive(router));

    let router = home.app_router("other").unwrap();
    signal(router, Signal::SIGSTOP);
    home.router("kill").well();
    assert!(!alive(router));
}

#[test]
fn a_start_under_way_is_not_waited_for_by_who_ends_the_app() {
    let home = Home::new();
    home.here.write("never.js", "setInterval(() => {}, 1e6)");
    // Ten minutes of patience, of which this test has none.
    let start = beside(&home, "start never.js -w 1 --wait-ready --listen-timeout 600s");
    does(&home, "never is being started");
    let mut stop = beside(&home, "stop never");
    let stopped = until("its end", SOON, || stop.try_wait().unwrap());
    assert!(stopped.success());
    assert!(!start.wait_with_output().unwrap().status.success());
    assert_eq!(home.rows(), ["never 0 stopped"]);
}

#[test]
fn a_daemon_that_hangs_is_told_of_and_not_waited_for_without_end() {
    let home = Home::new();
    home.router("ping").well();
    let daemon = home.daemon().unwrap();
    signal(daemon, Signal::SIGSTOP);
    let named = format!("process {daemon}");
    home.router("ls").fails(&[&named, "waiting for the daemon", "no sign of life", "kill -CONT"]);
    signal(daemon, Signal::SIGCONT);
    home.router("ls").well();
}
