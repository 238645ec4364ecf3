//! The workers' lives as they cross an upgrade: what is known of each process, and its output pipes.

use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

use super::estate::Left;
use super::fleet::Books;
use super::reader::Rest;
use super::table::Moment;
use super::vocabulary::Exit;
use crate::route::WorkerId;

/// Everything the supervisor has in hand. Its pipes are descriptors, which cross beside it: see
/// [`Frozen::stow`].
#[derive(Debug, Serialize, Deserialize)]
pub struct Frozen {
    /// The supervisor's clock: the next goes on from here.
    pub(super) now: Moment,
    pub(super) books: Books,
    pub(super) processes: Vec<Process>,
    /// Workers that have ended, which the books do not know yet.
    pub(super) untold: Vec<(WorkerId, Exit)>,
    /// The last `NODE_UNIQUE_ID` given.
    pub(super) unique: u32,
    /// Why the router ends, when not by the operator's wish.
    pub(super) fatal: Option<String>,
    /// How many workers the settings asked for.
    pub(super) configured: u16,
    /// Lines that log files have lost, and writes that failed.
    #[serde(default)]
    pub(super) log_failures: (u64, u64),
}

/// A process that has not been reaped.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Process {
    pub(super) worker: WorkerId,
    pub(super) pid: i32,
    /// When it has started: see [`super::estate::Left`].
    pub(super) started: u64,
    /// It is not our child.
    pub(super) orphan: bool,
    pub(super) rest: Rest,
    /// See [`super::estate::Left`].
    #[serde(default)]
    pub(super) number: Option<u32>,
    /// Where its pipes lie among the descriptors that cross.
    places: [u32; 2],
    #[serde(skip)]
    pipes: Option<[OwnedFd; 2]>,
}

impl Process {
    /// Without `output` nobody reads what it prints.
    pub(super) fn new(left: &Left, orphan: bool, output: Option<([OwnedFd; 2], Rest)>) -> Self {
        let (pipes, rest) = output.unzip();
        let rest = rest.unwrap_or_default();
        let Left { worker, pid, started, number, .. } = *left;
        Self { worker, pid, started, orphan, rest, number, places: [u32::MAX; 2], pipes }
    }

    /// Its pipes, if they have crossed.
    pub(super) fn take_pipes(&mut self) -> Option<[OwnedFd; 2]> {
        self.pipes.take()
    }
}

impl Frozen {
    /// Puts the pipes among the descriptors that cross; `add` gives the place of each.
    pub fn stow(&mut self, mut add: impl FnMut(OwnedFd) -> u32) {
        for process in &mut self.processes {
            if let Some(pipes) = process.pipes.take() {
                process.places = pipes.map(&mut add);
            }
        }
    }

    /// Takes the pipes from among the descriptors that have crossed.
    pub fn unstow(&mut self, mut take: impl FnMut(u32) -> Option<OwnedFd>) {
        for process in &mut self.processes {
            let [out, err] = process.places.map(&mut take);
            process.pipes = out.zip(err).map(|(out, err)| [out, err]);
        }
    }

    /// Whether the operator wants it to end.
    #[must_use]
    pub fn stopping(&self) -> bool {
        self.books.stopping()
    }

    /// How many workers live.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.processes.len()
    }
}
