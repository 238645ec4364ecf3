//! What a router would leave behind if it died now: its living workers, and what it knows of them.
//!
//! It is written down whenever it changes, and read by the next router, whose children these
//! processes are not. Nothing in it is taken on trust: a pid counts only with its start time.

use std::io;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::Stage;
use super::table::Habits;
use crate::route::WorkerId;
use crate::sys::process;

/// See the module's text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Estate {
    /// The last `NODE_UNIQUE_ID` given.
    pub(super) unique: u32,
    pub(super) habits: Habits,
    pub(super) left: Vec<Left>,
}

/// One living worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// Which.
    pub worker: WorkerId,
    /// Its process.
    pub pid: i32,
    /// When that has started, in clock ticks since boot.
    pub started: u64,
    /// How far it is.
    pub stage: Stage,
    /// Its number, which its log files are called by; `None` in what an older router has left: its
    /// slot.
    #[serde(default)]
    pub number: Option<u32>,
}

impl Left {
    /// Whether clients may ask for it.
    #[must_use]
    pub fn has_sessions(&self) -> bool {
        matches!(self.stage, Stage::Ready | Stage::Draining)
    }

    /// Its number in its log files.
    pub(super) fn number(&self) -> u32 {
        self.number.unwrap_or_else(|| self.worker.slot.into())
    }

    /// Whether the very process still lives.
    fn lives(&self) -> bool {
        process::started(Pid::from_raw(self.pid)).is_ok_and(|started| started == self.started)
    }
}

impl Estate {
    /// Forgets those that have ended.
    pub fn verify(&mut self) {
        self.left.retain(Left::lives);
    }

    /// Ends them at once, with all that they have started.
    ///
    /// # Errors
    /// As kill(2), for the first that could not be ended.
    pub fn kill(&self) -> io::Result<()> {
        let killed = self.left.iter().filter(|left| left.lives()).map(|left| {
            match process::kill_tree(Pid::from_raw(left.pid), Signal::SIGKILL) {
                // It has ended meanwhile.
                Err(error) if error.raw_os_error() == Some(Errno::ESRCH as i32) => Ok(()),
                killed => killed,
            }
        });
        // All of them, whatever comes of the first.
        killed.fold(Ok(()), io::Result::and)
    }

    /// The workers there are.
    #[must_use]
    pub fn into_left(self) -> Vec<Left> {
        self.left
    }

    /// The same, to look at.
    #[must_use]
    pub fn left(&self) -> &[Left] {
        &self.left
    }
}
