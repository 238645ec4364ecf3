//! `@socket.io/pm2`, which router takes the place of, beside it.

use super::http::free_port;
use super::{TempDir, node, repository};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Its daemon and all that it keeps. Dropping it ends them.
pub struct Pm2 {
    home: TempDir,
    port: u16,
    /// Where commands are given, and `PORT` in their environment.
    here: PathBuf,
    app_port: u16,
}

impl Pm2 {
    pub fn new(here: &Path, app_port: u16) -> Self {
        node::packages();
        Self { home: TempDir::new(), port: free_port(), here: here.to_owned(), app_port }
    }

    pub fn logs(&self) -> PathBuf {
        self.home.path().join("logs")
    }

    /// Gives a command, and returns what it prints.
    #[track_caller]
    pub fn give(&self, line: &str) -> String {
        let output = self.command(line).output().expect("node runs it");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "pm2 {line}: {said}");
        said
    }

    /// What it keeps, as `jlist` prints it.
    #[track_caller]
    pub fn list(&self) -> Vec<Value> {
        let said = self.give("jlist");
        // It may speak of other things before.
        let json = said.lines().rfind(|line| line.starts_with('[')).unwrap_or_default();
        serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}: {said}"))
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(node::command());
        command
            .arg(repository().join("tests/node/node_modules/@socket.io/pm2/bin/pm2"))
            .args(line.split_whitespace())
            .env("PM2_HOME", self.home.path())
            .env("PM2_PORT", self.port.to_string())
            .env("PORT", self.app_port.to_string())
            .current_dir(&self.here)
            .stdin(Stdio::null())
            .stderr(Stdio::null());
        command
    }
}

impl Drop for Pm2 {
    fn drop(&mut self) {
        let _said = self.command("kill").output();
    }
}
