//! The workers' processes: started, watched, started again, ended.
//!
//! It runs on the control thread and knows no shard: the data plane tells it what it sees of the
//! workers ([`Event`]) and is told what to do about them ([`DataPlane`]). What to do is decided
//! in `table.rs` and `fleet.rs`, which are pure; `shell.rs` around them has the clock, the
//! signals and the processes.

#[cfg(test)]
mod arrows;
mod estate;
mod fleet;
mod frozen;
pub mod ids;
mod launch;
mod ledger;
mod lines;
mod log_file;
pub mod logs;
mod orders;
pub mod output;
mod pid_file;
mod preload;
mod reader;
mod shell;
#[cfg(test)]
mod simulation;
mod slot;
mod table;
mod vocabulary;
mod wishes;

use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::time::Duration;

use nix::sys::signal::Signal;

pub use self::estate::{Estate, Left};
pub use self::frozen::Frozen;
pub use self::ledger::{Ledger, Record, Vacancy};
pub use self::orders::Order;
pub use self::preload::{Attach, Part};
pub use self::shell::run;
use serde::{Deserialize, Serialize};

use crate::route::WorkerId;

/// What the data plane tells the supervisor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Node is up in the worker; its script has not run yet.
    Online(WorkerId),
    /// The first heartbeat of the worker's cluster adapter.
    Heartbeat(WorkerId),
    /// The worker said 'ready'.
    Ready(WorkerId),
    /// The worker asked to listen.
    Listens(WorkerId),
    /// The worker listens.
    Listening(WorkerId),
    /// Nothing more will happen: the workers' lives are to cross an upgrade.
    Freeze,
    /// A worker that an earlier router has left is this one's: it has said all there is to say.
    Attached(WorkerId),
    /// The worker has no sessions left, and is draining.
    Drained(WorkerId),
    /// The worker's channel is gone.
    ChannelEnded {
        /// Whose.
        worker: WorkerId,
        /// How.
        why: ChannelEnd,
    },
}

/// How far a worker's process is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// It has not shown that it is ready.
    Starting,
    /// It takes new sessions.
    Ready,
    /// It keeps those it has.
    Draining,
    /// It is to end.
    Stopping,
}

/// How a channel ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChannelEnd {
    /// The worker closed it, or ended.
    Closed,
    /// It carried what is no frame; the reason.
    Malformed(String),
    /// The worker stopped reading it.
    Stalled,
}

/// The two ends of a worker's lane.
#[derive(Debug)]
pub struct LanePair {
    /// Ours.
    pub ours: OwnedFd,
    /// A share of the worker's, to read back what it has not read.
    pub theirs: OwnedFd,
}

/// What the supervisor asks of the data plane.
pub trait DataPlane {
    /// A new process; it is not ready yet.
    fn attach(&mut self, worker: WorkerId, channel: OwnedFd, lane: Option<LanePair>);
    /// It may be given sockets, or gets no more new ones.
    fn set_ready(&mut self, worker: WorkerId, ready: bool);
    /// It gets no new sessions, and shall say when it has none left; those that are left then are
    /// disconnected in the last part of the time it has.
    fn drain(&mut self, worker: WorkerId, within: Duration, over: Duration);
    /// Sessions it has, and hand-offs that may become some.
    fn sessions(&self, worker: WorkerId) -> u32;
    /// Whether its preload is there, which says by itself when it has drained.
    fn says_when_drained(&self, worker: WorkerId) -> bool;
    /// For how long it has said nothing; `None`: it need not say anything.
    fn silence(&self, worker: WorkerId) -> Option<Duration>;
    /// Where it takes connections.
    fn places(&self, worker: WorkerId) -> Vec<String>;
    /// The process is gone, ready or not.
    fn detach(&mut self, worker: WorkerId);
    /// Write 'shutdown' on its channel.
    fn shutdown_message(&mut self, worker: WorkerId);
    /// The first worker is ready and never asked to listen. An error ends the router.
    fn open_default_listener(&mut self) -> Result<(), String>;
    /// The router is to end: no more clients.
    fn stop_accepting(&mut self);
    /// What would be left if the router died now, and what there is to be told of the slots besides;
    /// said after every turn.
    fn bequeath(&mut self, estate: Estate, ledger: Ledger);
    /// The workers as a whole stand differently from before.
    fn stands(&mut self, standing: Standing);
}

/// How the workers as a whole stand, for whoever watches the router from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// So many are ready.
    pub ready: usize,
    /// So many more only keep the sessions they have.
    pub draining: usize,
    /// So many shall be.
    pub wanted: usize,
    /// They are being replaced, because somebody has asked for a reload.
    pub reloading: bool,
}

/// What supervision begins with.
#[derive(Debug)]
pub enum Origin {
    /// Nothing: every worker is started.
    Fresh,
    /// The workers of a router that has died: they come back by themselves until this time is over.
    Left(Estate, Duration),
    /// Everything that another supervisor has had in hand.
    Frozen(Box<Frozen>),
}

/// What is wished of the workers besides what they do by themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// New workers for all old ones, without a gap.
    Reload {
        /// Why, when nobody has asked.
        why: Option<String>,
    },
    /// A new worker for this one, without a gap.
    Recycle {
        /// Which.
        worker: WorkerId,
        /// Why.
        why: String,
    },
    /// All workers end and are started again.
    Restart {
        /// Why.
        why: String,
    },
    /// So many workers more, or less.
    Scale(isize),
    /// So many workers, 1 to [`crate::route::MAX_SLOTS`].
    ScaleTo(usize),
    /// These workers end and are started again.
    RestartSlots(Vec<u16>),
    /// These workers end, and their slots stay empty.
    Halt(Vec<u16>),
    /// These slots are filled, if they are not.
    Resume(Vec<u16>),
    /// Nobody counts how often the workers of these slots, or of all, were started again before now.
    Reset(Option<Vec<u16>>),
    /// A signal for the processes of these slots, or of all.
    Signal(Signal, Option<Vec<u16>>),
}

/// Why supervision has ended here.
#[derive(Debug)]
pub enum Ended {
    /// There is nothing more to supervise.
    Over(Outcome),
    /// It goes on elsewhere: see [`Event::Freeze`].
    Frozen(Box<Frozen>),
}

/// How supervision ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As the operator wished, or because the workers were done.
    Stopped,
    /// It could not go on; a paragraph for the operator.
    Failed(String),
}

impl Outcome {
    /// 0 or 1.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Stopped => ExitCode::SUCCESS,
            Self::Failed(_) => ExitCode::FAILURE,
        }
    }
}

#[cfg(test)]
mod tests;
