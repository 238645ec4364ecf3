//! A home of the daemon under test: commands given to it, and everything in it ended with the test.

use super::process::{alive, signal};
use super::{Place, SOON, TempDir, binary, node, until};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

/// What a command came to.
#[derive(Debug)]
pub struct Said {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Said {
    /// It was done.
    #[track_caller]
    pub fn well(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:?}");
        self
    }

    /// It was not, and says these words.
    #[track_caller]
    pub fn fails(self, words: &[&str]) -> Self {
        assert_ne!(self.code, Some(0), "{self:?}");
        let text = format!("{}{}", self.out, self.err);
        for word in words {
            assert!(text.contains(word), "{word:?} is not in:\n{text}");
        }
        self
    }
}

/// See the module's text.
pub struct Home {
    /// The daemon's.
    directory: TempDir,
    /// Where commands are given.
    pub here: TempDir,
    /// Processes that were seen.
    seen: Mutex<BTreeSet<u32>>,
    _place: Place,
}

impl Home {
    pub fn new() -> Self {
        let place = Place::take();
        node::packages();
        Self {
            directory: TempDir::new(),
            here: TempDir::new(),
            seen: Mutex::default(),
            _place: place,
        }
    }

    /// The daemon's directory.
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("r")
    }

    /// A command to be, in this home and in the directory of the test.
    pub fn command(&self) -> Command {
        let mut command = Command::new(binary());
        for (name, _) in std::env::vars() {
            if name.starts_with("ROUTER_") || name == "PORT" || name == "PM2_PORT" {
                command.env_remove(name);
            }
        }
        if let Some(node) = node::interpreter() {
            command.env("ROUTER_INTERPRETER", node);
        }
        command.env("ROUTER_HOME", self.path()).current_dir(self.here.path()).stdin(Stdio::null());
        command
    }

    /// Gives a command, one word after another.
    #[track_caller]
    pub fn router(&self, line: &str) -> Said {
        self.give(self.command().args(line.split_whitespace()))
    }

    #[track_caller]
    pub fn give(&self, command: &mut Command) -> Said {
        let output = command.output().expect("the router is there");
        let said = Said {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        };
        self.note();
        said
    }

    /// The list, as `jlist` prints it.
    #[track_caller]
    pub fn list(&self) -> Vec<Value> {
        let said = self.router("jlist").well();
        serde_json::from_str(&said.out).unwrap_or_else(|e| panic!("{e}: {said:?}"))
    }

    /// Name, number and status of every worker, as in `chat 0 online`.
    #[track_caller]
    pub fn rows(&self) -> Vec<String> {
        let row = |row: &Value| {
            let status = row["pm2_env"]["status"].as_str().unwrap();
            format!("{} {} {status}", row["name"].as_str().unwrap(), row["pm_id"])
        };
        self.list().iter().map(row).collect()
    }

    /// Waits for these rows.
    #[track_caller]
    pub fn shows(&self, rows: &[&str]) {
        until(&format!("{rows:?}"), SOON, || (self.rows() == rows).then_some(()));
    }

    /// The workers' processes, by number.
    #[track_caller]
    pub fn pids(&self, name: &str) -> Vec<u32> {
        let list = self.list();
        let rows = list.iter().filter(|row| row["name"] == name && row["pid"] != 0);
        rows.map(|row| row["pid"].as_u64().unwrap() as u32).collect()
    }

    /// The daemon's process.
    pub fn daemon(&self) -> Option<u32> {
        pid_in(&self.path().join("daemon.lock"))
    }

    /// What the daemon says that it is doing, as in `chat is being restarted`.
    pub fn doing(&self) -> Vec<String> {
        let Ok(mut daemon) = UnixStream::connect(self.path().join("daemon.sock")) else {
            return vec![];
        };
        daemon.write_all(b"{\"router\":1,\"version\":\"\",\"order\":{\"do\":\"ping\"}}\n").unwrap();
        let mut answer = String::new();
        daemon.read_to_string(&mut answer).unwrap();
        let answer: Value = serde_json::from_str(&answer).unwrap();
        serde_json::from_value(answer["done"]["doing"].clone()).unwrap()
    }

    /// The process of an app's router.
    pub fn app_router(&self, name: &str) -> Option<u32> {
        pid_in(&self.app(name).join("lock"))
    }

    /// An app's runtime directory.
    pub fn app(&self, name: &str) -> PathBuf {
        self.path().join("apps").join(name)
    }

    /// Remembers who is there, to end him whatever happens.
    fn note(&self) {
        let mut seen = self.seen.lock().unwrap();
        seen.extend(self.daemon());
        let apps = fs::read_dir(self.path().join("apps")).into_iter().flatten().flatten();
        for app in apps.map(|app| app.path()) {
            seen.extend(pid_in(&app.join("lock")));
            let roll = fs::read_to_string(app.join("roll")).unwrap_or_default();
            let roll: Value = serde_json::from_str(&roll).unwrap_or_default();
            let left = roll["estate"]["left"].as_array().cloned().unwrap_or_default();
            seen.extend(left.iter().filter_map(|left| left["pid"].as_u64()).map(|pid| pid as u32));
        }
    }
}

fn pid_in(path: &Path) -> Option<u32> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

impl Drop for Home {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for log in
                [self.path().join("daemon.log")].into_iter().chain(files(&self.path().join("logs")))
            {
                let text = fs::read_to_string(&log).unwrap_or_default();
                eprintln!("--- {} ---\n{text}---", log.display());
            }
        }
        self.note();
        let _said = self.command().arg("kill").output();
        for pid in std::mem::take(&mut *self.seen.lock().unwrap()) {
            // Guards against an id that another process has by now.
            let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command);
            let home = self.path().display().to_string();
            if alive(pid) && (command.contains(&home) || command.contains("tests/node/apps/")) {
                signal(pid, Signal::SIGKILL);
            }
        }
    }
}

fn files(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}
