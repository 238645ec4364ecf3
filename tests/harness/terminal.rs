//! A terminal with somebody at it: what is drawn is read, and keys are pressed. It is tmux's.

use super::debian::{Installed, Package};
use super::{Home, SOON, TempDir, binary, until};
use std::process::Command;

const TMUX: Package = Package {
    program: "tmux",
    packages: &["tmux", "libevent-core-2.1-7", "libutempter0", "libtinfo6"],
    trial: &["-V"],
};

/// Says how the command has ended, and stays. Not tmux's own word of it, which it sometimes does not
/// get while the machine is busy: it then leaves the dead process unwaited for.
const SHELL: &str = "\"$0\" \"$@\"; echo \"ended with $?.\"; read line";

/// See the module's text. Dropping it ends it.
pub struct Terminal {
    tmux: Installed,
    directory: TempDir,
}

impl Terminal {
    /// With a command of this home in it.
    #[track_caller]
    pub fn open(home: &Home, words: &[&str], (width, height): (u16, u16)) -> Self {
        let terminal = Self { tmux: TMUX.installed(), directory: TempDir::new() };
        terminal.directory.write("tmux.conf", "set -g status off\n");
        let mut command = terminal.tmux();
        for (name, value) in home.command().get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let (width, height) = (width.to_string(), height.to_string());
        command.args(["new-session", "-d", "-x", &width, "-y", &height]);
        command.args(["sh", "-c", SHELL]).arg(binary()).args(words);
        run(&mut command);
        terminal
    }

    /// What is drawn.
    #[track_caller]
    pub fn picture(&self) -> String {
        run(self.tmux().args(["capture-pane", "-p"]))
    }

    /// Waits until all of these words are drawn.
    #[track_caller]
    pub fn shows(&self, words: &[&str]) -> String {
        let mut last = String::new();
        let shown = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            until(&format!("{words:?}"), SOON, || {
                last = self.picture();
                words.iter().all(|words| last.contains(words)).then_some(())
            });
        }));
        if let Err(late) = shown {
            eprintln!("--- drawn ---\n{last}---");
            std::panic::resume_unwind(late);
        }
        last
    }

    /// Presses keys, by tmux's names of them.
    #[track_caller]
    pub fn press(&self, keys: &[&str]) {
        run(self.tmux().arg("send-keys").args(keys));
    }

    #[track_caller]
    pub fn resize(&self, (width, height): (u16, u16)) {
        let (width, height) = (width.to_string(), height.to_string());
        run(self.tmux().args(["resize-window", "-x", &width, "-y", &height]));
    }

    /// Waits until the command has ended with this status; the screen is given back.
    #[track_caller]
    pub fn ended_with(&self, status: i32) {
        let drawn = self.shows(&[&format!("ended with {status}.")]);
        let alternate = run(self.tmux().args(["display-message", "-p", "#{alternate_on}"]));
        assert_eq!(alternate.trim(), "0", "{drawn}");
    }

    fn tmux(&self) -> Command {
        let mut command = self.tmux.command();
        command.env("LC_ALL", "C.UTF-8").env_remove("TMUX").args(["-u", "-f"]);
        command.arg(self.directory.path().join("tmux.conf"));
        command.arg("-S").arg(self.directory.path().join("socket"));
        command
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ended_already = self.tmux().arg("kill-server").output();
    }
}

#[track_caller]
fn run(command: &mut Command) -> String {
    let output = command.output().expect("tmux is there");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
