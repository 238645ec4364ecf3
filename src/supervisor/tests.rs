//! The shell with real processes. Each test runs in a process of its own: it is sent signals,
//! and it reaps every child there is.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::LocalSet;
use tokio::time::{Instant, timeout};

use super::ids::Ids;
use super::*;
use crate::config::{App, Config};
use crate::sys::process;

/// Workers that are shells: `script` is what each of them runs.
fn shell(script: &str) -> Config {
    Config::fixture(App {
        interpreter: "sh".into(),
        node_args: vec!["-c".into(), script.into()],
        cwd: "/".into(),
        ..App::fixture()
    })
}

/// Notes what it is asked; says that a worker is ready when it writes a line on its channel.
struct Notebook {
    said: Vec<String>,
    stood: Vec<Standing>,
    events: UnboundedSender<Event>,
    channels: Vec<OwnedFd>,
    /// Sent to ourselves when a worker is ready.
    signal: Option<Signal>,
    listener: Result<(), String>,
    /// The supervisor is frozen as soon as a worker has ended.
    freezes: bool,
}

impl DataPlane for Notebook {
    fn bequeath(&mut self, _: Estate, _: Ledger) {}

    fn attach(&mut self, worker: WorkerId, channel: OwnedFd, _: Option<LanePair>) {
        self.said.push(format!("attach {worker}"));
        let reader = UnixStream::from(channel.try_clone().expect("an fd is left"));
        let mut reader = tokio::net::UnixStream::from_std(reader).expect("it is non-blocking");
        self.channels.push(channel);
        self.events.send(Event::Online(worker)).expect("it listens");
        let events = self.events.clone();
        tokio::spawn(async move {
            if reader.read(&mut [0; 8]).await.is_ok_and(|read| read > 0) {
                events.send(Event::Ready(worker)).ok();
            }
        });
    }

    fn set_ready(&mut self, worker: WorkerId, ready: bool) {
        self.said.push(format!("ready {worker} {ready}"));
        if let (true, Some(signal)) = (ready, self.signal) {
            process::kill(Pid::this(), signal).expect("to ourselves");
        }
    }

    fn drain(&mut self, worker: WorkerId, _: Duration, _: Duration) {
        self.said.push(format!("drain {worker}"));
    }

    fn sessions(&self, _: WorkerId) -> u32 {
        0
    }

    fn says_when_drained(&self, _: WorkerId) -> bool {
        false
    }

    fn silence(&self, _: WorkerId) -> Option<Duration> {
        None
    }

    fn places(&self, _: WorkerId) -> Vec<String> {
        vec![]
    }

    fn detach(&mut self, worker: WorkerId) {
        self.said.push(format!("detach {worker}"));
        if std::mem::take(&mut self.freezes) {
            self.events.send(Event::Freeze).expect("it listens");
        }
    }

    fn shutdown_message(&mut self, worker: WorkerId) {
        self.said.push(format!("shutdown {worker}"));
        self.channels.clear();
    }

    fn open_default_listener(&mut self) -> Result<(), String> {
        self.said.push("listen".to_owned());
        self.listener.clone()
    }

    fn stop_accepting(&mut self) {
        self.said.push("stop".to_owned());
    }

    fn stands(&mut self, standing: Standing) {
        self.stood.push(standing);
    }
}

fn notebook(
    events: UnboundedSender<Event>,
    signal: Option<Signal>,
    listener: Result<(), String>,
) -> Notebook {
    Notebook {
        said: vec![],
        stood: vec![],
        events,
        channels: vec![],
        signal,
        listener,
        freezes: false,
    }
}

/// No orders.
fn nobody() -> UnboundedReceiver<Order> {
    unbounded_channel().1
}

/// Runs the supervisor to its end; returns how it ended, what it asked, and how long it took.
fn supervise(
    config: &Config,
    signal: Option<Signal>,
    listener: Result<(), String>,
) -> (Outcome, Vec<String>, Duration) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    LocalSet::new().block_on(&runtime.expect("a runtime"), async {
        let (events, received) = unbounded_channel();
        let mut plane = notebook(events, signal, listener);
        let began = Instant::now();
        let run = timeout(
            Duration::from_secs(20),
            run(config, None, &mut plane, received, nobody(), Origin::Fresh, Ids::slots()),
        )
        .await;
        let Ended::Over(outcome) = run.expect("it ends in time").expect("signals can be watched")
        else {
            panic!("nobody froze it");
        };
        (outcome, plane.said, began.elapsed())
    })
}

/// Freezes the supervisor as soon as a worker has ended, takes what it knows through the bytes that
/// an upgrade writes, and lets another go on until a worker is ready and the signal comes.
fn supervise_across_an_upgrade(config: &Config, signal: Signal) -> (Outcome, Vec<String>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    LocalSet::new().block_on(&runtime.expect("a runtime"), async {
        let (events, received) = unbounded_channel();
        let mut plane = Notebook { freezes: true, ..notebook(events, Some(signal), Ok(())) };
        let before =
            run(config, None, &mut plane, received, nobody(), Origin::Fresh, Ids::slots()).await;
        let Ended::Frozen(frozen) = before.expect("signals can be watched") else {
            panic!("it was frozen");
        };
        let bytes = serde_json::to_vec(&frozen).expect("plain data");
        let frozen = serde_json::from_slice(&bytes).expect("as written");
        let (events, received) = unbounded_channel();
        plane.events = events;
        let after =
            run(config, None, &mut plane, received, nobody(), Origin::Frozen(frozen), Ids::slots());
        let after = timeout(Duration::from_secs(20), after).await.expect("it ends in time");
        let Ended::Over(outcome) = after.expect("signals can be watched") else {
            panic!("nobody froze it again");
        };
        (outcome, plane.said)
    })
}

/// Runs one ignored test of this file in a process of its own.
fn alone(name: &str) {
    let test = format!("supervisor::tests::{name}");
    let output = Command::new(std::env::current_exe().expect("we run"))
        .args(["--exact", &test, "--ignored", "--nocapture", "--test-threads", "1"])
        .output()
        .expect("the test starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("1 passed"), "no such test: {text}");
}

macro_rules! alone {
    ($($(#[$meta:meta])* fn $name:ident() $body:block)*) => {
        mod inner {
            use super::*;
            $(#[test] #[ignore = "run in a process of its own"] fn $name() $body)*
        }
        $($(#[$meta])* #[test] fn $name() { alone(concat!("inner::", stringify!($name))); })*
    };
}

alone! {
    fn a_crash_loop_is_given_up_with_the_workers_last_words() {
        let mut config = shell("echo hello; echo cannot find module >&2; exit 7");
        config.app.max_restarts = 2;
        let (outcome, said, _) = supervise(&config, None, Ok(()));
        let Outcome::Failed(text) = outcome else { panic!("it failed") };
        for part in ["1 of 1 failed", "/srv/app.js", "exited with code 7", "\n    cannot find module"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert_eq!(said.iter().filter(|what| what.starts_with("attach")).count(), 3, "{said:?}");
        assert_eq!(said.iter().filter(|what| what.starts_with("detach")).count(), 3, "{said:?}");
    }

    fn a_signal_stops_the_workers_politely() {
        let mut config = shell("trap 'exit 0' INT; echo >&3; while :; do read x <&3; done");
        config.app.workers = 1;
        let (outcome, said, took) = supervise(&config, Some(Signal::SIGTERM), Ok(()));
        assert_eq!(outcome, Outcome::Stopped);
        let asked = ["attach 0#1", "listen", "ready 0#1 true", "stop", "ready 0#1 false"];
        assert_eq!(said[..5], asked);
        assert_eq!(said.last().map(String::as_str), Some("detach 0#1"));
        assert!(took < Duration::from_secs(10), "{took:?}");
    }

    fn a_stubborn_worker_is_killed() {
        let mut config = shell("trap '' INT TERM; echo >&3; while :; do read x <&3; done");
        config.app.kill_timeout = Duration::from_millis(200);
        let (outcome, said, took) = supervise(&config, Some(Signal::SIGINT), Ok(()));
        assert_eq!((outcome, said.last().map(String::as_str)), (Outcome::Stopped, Some("detach 0#1")));
        assert!(took >= Duration::from_millis(200), "{took:?}");
    }

    fn a_shutdown_message_replaces_the_signal() {
        // Ends when its channel does, which the notebook closes on the message.
        let mut config = shell("trap '' INT; echo >&3; read x <&3; exit 0");
        config.app.shutdown_with_message = true;
        let (outcome, said, _) = supervise(&config, Some(Signal::SIGTERM), Ok(()));
        assert_eq!(outcome, Outcome::Stopped);
        assert!(said.contains(&"shutdown 0#1".to_owned()), "{said:?}");
    }

    fn a_listener_that_cannot_be_opened_ends_the_router() {
        let config = shell("echo >&3; read x <&3");
        let (outcome, said, _) = supervise(&config, None, Err("port 8080 is taken".into()));
        assert_eq!(outcome, Outcome::Failed("port 8080 is taken".into()));
        assert_eq!(said.last().map(String::as_str), Some("detach 0#1"));
    }

    fn workers_that_are_done_end_the_router_well() {
        let mut config = shell("exit 0");
        config.app.workers = 3;
        config.app.stop_exit_codes = vec![0];
        let (outcome, said, _) = supervise(&config, None, Ok(()));
        assert_eq!(outcome, Outcome::Stopped);
        assert_eq!(said.iter().filter(|what| what.starts_with("detach")).count(), 3);
    }

    fn an_interpreter_that_is_gone_is_a_failure_with_its_name() {
        let mut config = shell("");
        config.app.interpreter = "no-such-interpreter".into();
        config.app.max_restarts = 1;
        let (outcome, _, _) = supervise(&config, None, Ok(()));
        let Outcome::Failed(text) = outcome else { panic!("it failed") };
        assert!(text.contains("no-such-interpreter could not be started"), "{text}");
    }

    fn the_exit_is_told_even_if_a_grandchild_holds_the_output() {
        let mut config = shell("sleep 5 & exit 1");
        config.app.autorestart = false;
        let (outcome, _, took) = supervise(&config, None, Ok(()));
        assert!(matches!(outcome, Outcome::Failed(_)));
        assert!(took < Duration::from_secs(4), "{took:?}");
    }

    fn an_upgrade_does_not_forget_a_worker_that_has_just_ended() {
        // The first life's output stays open, so its exit waits for its last words at the freeze.
        let config = shell(
            "if [ $NODE_UNIQUE_ID = 1 ]; then sleep 2 & exit 1; fi
            trap 'exit 0' INT; echo >&3; while :; do read x <&3; done",
        );
        let (outcome, said) = supervise_across_an_upgrade(&config, Signal::SIGTERM);
        assert_eq!(outcome, Outcome::Stopped);
        let lives = ["attach 0#1", "detach 0#1", "attach 0#2"];
        assert_eq!(said[..3], lives, "{said:?}");
    }

    fn a_worker_killed_by_a_realtime_signal_is_seen_to_end() {
        let mut config = shell("kill -34 $$");
        config.app.autorestart = false;
        let (outcome, said, _) = supervise(&config, None, Ok(()));
        let Outcome::Failed(text) = outcome else { panic!("it failed: {said:?}") };
        assert!(text.contains("signal 34"), "{text}");
    }

    fn a_node_worker_is_a_cluster_worker() {
        let script = std::env::temp_dir().join(format!("router-worker-{}.js", std::process::id()));
        let text = "const { isWorker, worker } = require('node:cluster');
            const { connected, argv, env, execArgv } = process;
            const seen = [isWorker, worker?.id, connected, argv[2], env.NODE_APP_INSTANCE, execArgv[0]];
            console.error(JSON.stringify(seen));
            process.exit(5);";
        std::fs::write(&script, text).expect("ours");
        let mut config = shell("");
        config.app = App {
            script: script.clone(),
            interpreter: "node".into(),
            node_args: vec!["--no-warnings".into()],
            args: vec!["argument".into()],
            autorestart: false,
            ..config.app
        };
        let (outcome, _, _) = supervise(&config, None, Ok(()));
        std::fs::remove_file(&script).ok();
        let Outcome::Failed(text) = outcome else { panic!("it exits with code 5") };
        assert!(text.contains(r#"[true,1,true,"argument","0","--no-warnings"]"#), "{text}");
    }
}
