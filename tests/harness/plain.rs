//! An application under plain `node`, with no router near it: what a test of the router's
//! promise "the same" is measured by.

use super::log::Log;
use super::process::signal;
use super::{Connection, Place, SOON, node, until};
use nix::sys::signal::Signal;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A running application. Dropping it ends it, and a failing test shows its output.
pub struct PlainNode {
    child: Child,
    log: Log,
    _place: Place,
}

impl PlainNode {
    /// `node app.js` with these variables, awaited until it listens on all these ports.
    #[track_caller]
    pub fn start(
        interpreter: Option<&Path>,
        app: &Path,
        environment: &[(&str, impl ToString)],
        ports: &[u16],
    ) -> Self {
        let place = Place::take();
        node::packages();
        let mut command = Command::new(interpreter.unwrap_or_else(|| Path::new("node")));
        for (name, _) in std::env::vars() {
            if name.starts_with("ROUTER_") {
                command.env_remove(name);
            }
        }
        command.arg(app).envs(environment.iter().map(|(k, v)| (k, v.to_string())));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("node starts");
        let log = Log::default();
        log.follow(child.stdout.take().unwrap());
        log.follow(child.stderr.take().unwrap());
        let mut plain = Self { child, log, _place: place };
        for port in ports {
            until("the application listens", SOON, || {
                let ended = plain.child.try_wait().unwrap();
                assert!(ended.is_none(), "the application ended: {ended:?}");
                Connection::connects(*port).then_some(())
            });
        }
        plain
    }
}

impl Drop for PlainNode {
    fn drop(&mut self) {
        end(&mut self.child);
        if std::thread::panicking() {
            eprintln!("--- the application's output ---\n{}---", self.log.text());
        }
    }
}

/// SIGTERM, and SIGKILL for what does not go by it.
pub fn end(child: &mut Child) {
    let deadline = Instant::now() + Duration::from_secs(5);
    if matches!(child.try_wait(), Ok(None)) {
        signal(child.id(), Signal::SIGTERM);
    }
    while matches!(child.try_wait(), Ok(None)) {
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
