//! Clients that go on until they are told to stop: the steady load of tests/node/clients/load.js and
//! its like, started, asked, stopped, and what they saw.

use super::{SOON, repository};
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// The client itself waits ten seconds for what is due before it gives its summary.
const LAST_WORDS: Duration = Duration::from_secs(45);

/// Clients that come, stay, poll, echo and go until they are told to stop.
pub struct Load {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
}

/// What the clients have seen so far.
#[derive(Debug)]
pub struct Summary(pub Value);

impl Load {
    /// Returns when every client that stays has had its first answer.
    #[track_caller]
    pub fn start(url: &str, options: &Value) -> Self {
        Self::run("load", url, options).0
    }

    /// The same with another script that speaks like it; gives its first line, too.
    #[track_caller]
    pub fn run(script: &str, url: &str, options: &Value) -> (Self, Value) {
        let mut child = Command::new("node")
            .arg(repository().join("tests/node/clients").join(format!("{script}.js")))
            .args([url, &options.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("node is on PATH");
        let (sender, lines) = channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let stdin = child.stdin.take().unwrap();
        let load = Self { child, stdin, lines };
        let up = load.line(SOON);
        assert_eq!(up["up"], true, "{up}");
        (load, up)
    }

    #[track_caller]
    fn line(&self, limit: Duration) -> Value {
        let line = self.lines.recv_timeout(limit);
        let line = line.unwrap_or_else(|e| panic!("the load client says nothing: {e}"));
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{line:?}: {e}"))
    }

    /// Has so many broadcasts sent, with `"broadcasts": "asked"`.
    pub fn say(&mut self, broadcasts: u32) {
        writeln!(self.stdin, "say {broadcasts}").unwrap();
    }

    /// What the clients have seen so far.
    #[track_caller]
    pub fn report(&mut self) -> Summary {
        self.stdin.write_all(b"report\n").unwrap();
        Summary(self.line(SOON))
    }

    /// Ends it; what was due has come by then, or is counted.
    #[track_caller]
    pub fn stop(mut self) -> Summary {
        self.stdin.write_all(b"stop\n").unwrap();
        Summary(self.line(LAST_WORDS))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Summary {
    /// One of its counts, by the name the client gives it.
    #[track_caller]
    pub fn count(&self, name: &str) -> u64 {
        self.0[name].as_u64().unwrap_or_else(|| panic!("no {name} in {}", self.0))
    }

    /// The connections the clients made: what the router should have handed over.
    pub fn connections(&self) -> u64 {
        self.count("connections")
    }

    /// How many clients of a kind were disconnected without wishing to be.
    #[track_caller]
    pub fn ended(&self, kind: &str) -> u64 {
        self.0["ended"][kind].as_u64().unwrap_or_else(|| panic!("no {kind} in {}", self.0))
    }

    fn first(&self, list: &str) -> String {
        let listed = self.0[list].as_array().unwrap();
        listed.iter().take(12).fold(String::new(), |all, one| format!("{all}\n  {one}"))
    }

    /// Every request was answered with what was asked for, every echo came back in its turn, every
    /// broadcast came; and there were some of each, or this would say nothing.
    #[track_caller]
    pub fn nothing_failed(&self) -> &Self {
        assert_eq!(self.count("failures"), 0, "failed requests:{}", self.first("failed"));
        for mishap in ["lost", "disorder", "missed"] {
            assert_eq!(self.count(mishap), 0, "{mishap}: {}", self.0);
        }
        for activity in ["echoes", "sessions"] {
            assert!(self.count(activity) > 0, "no {activity}: {}", self.0);
        }
        self
    }

    /// And nobody was disconnected.
    #[track_caller]
    pub fn nobody_left(&self) -> &Self {
        for kind in ["websocket", "polling", "session"] {
            assert_eq!(self.ended(kind), 0, "{kind} clients:{}", self.first("disconnects"));
        }
        self
    }
}
