//! What the table of a worker's life takes in and gives out: inputs, actions, and what is said of it.

use std::fmt;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use crate::route::WorkerId;

/// What happens to a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Input {
    /// The operator wants it to run.
    Start,
    /// It is attached to this router.
    Attached,
    /// Node is up in it.
    Online,
    /// Its adapter's first heartbeat.
    Heartbeat,
    /// It said 'ready'.
    Ready,
    /// It asked to listen.
    Listens,
    /// It listens.
    Listening,
    /// These places of the worker it shall succeed it does not serve.
    Compared(Vec<String>),
    /// The worker it was to succeed is gone: it takes its place as it is.
    Alone,
    /// No new sessions: it ends when those it has are done.
    Drain,
    /// It has no sessions left.
    Drained,
    /// Its channel is closed, the process lives.
    Closed,
    /// Its channel is of no more use: broken or stalled.
    Broken(String),
    /// It has said nothing for so long.
    Hung(Duration),
    /// Its process has ended.
    Exited(Exit),
    /// The operator wants it to end.
    Stop,
    /// The operator wants it to end now.
    Kill,
    /// Time has passed.
    Tick,
}

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Exit {
    /// By itself.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// It was never started; the reason.
    Unstarted(String),
    /// It was another router's child, so that nobody could ask.
    Unknown,
}

/// Why a worker was given up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Trouble {
    /// It ended before it was ready.
    Exited(Exit),
    /// It was not ready after this long.
    NotReady(Duration),
    /// It does not serve these places of the worker it was to succeed.
    Missing(Vec<String>),
    /// It said nothing for so long.
    Hung(Duration),
    /// Its channel was of no more use.
    Broken(String),
    /// The router that left it behind is gone too long.
    NeverAttached,
}

/// What is to be done. A worker is named by its id: the slot's own number may have moved on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Start a process for this id.
    Spawn(WorkerId),
    /// It may (not) be given sockets.
    SetReady(WorkerId, bool),
    /// It gets no new sessions, and shall say when it has none left.
    Drain(WorkerId),
    /// It is ready to succeed the other: find out which places of the other's it does not serve.
    Compare {
        /// On trial.
        successor: WorkerId,
        /// Still there.
        present: WorkerId,
    },
    /// Ask it to end: the kill signal, or the message.
    Terminate(WorkerId),
    /// Ask it to end by the kill signal: it has no channel for a message.
    Signal(WorkerId),
    /// SIGKILL.
    Kill(WorkerId),
    /// Nothing listens and nobody will.
    OpenDefaultListener,
    /// Tell the operator of a worker.
    Say(WorkerId, Note),
    /// Tell the operator of them all.
    Tell(super::fleet::News),
}

/// What the operator is told of a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Note {
    /// It is ready, this long after its start.
    Ready(Duration),
    /// No sign of readiness in time: taken as ready.
    TakenAsReady,
    /// No 'ready' in time: still waiting for it.
    StillWaiting,
    /// It gets no new sessions, and this long for those it has.
    Draining(Duration),
    /// It has no sessions left.
    Drained,
    /// Its time to drain is over.
    DrainOver,
    /// It closed its channel.
    Left,
    /// It is killed for this reason.
    Broken(String),
    /// It is killed, having said nothing for so long.
    Hung(Duration),
    /// It did not end when asked to: killed.
    Overdue,
    /// It ended after this long and is started again after a delay.
    Restart(Exit, Duration, Duration),
    /// It ended after this long and stays down.
    Ended(Exit, Duration),
    /// It ended this many times in a row before `min_uptime`: given up.
    Errored(Exit, u32),
    /// It was an earlier router's, and is this one's.
    Adopted,
    /// It was an earlier router's and is not there any more, or never came.
    OrphanLost(Option<Exit>),
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exited with code {code}"),
            Self::Signal(number) => match Signal::try_from(*number) {
                Ok(signal) => write!(f, "was ended by {signal}"),
                Err(_) => write!(f, "was ended by signal {number}"),
            },
            Self::Unstarted(reason) => f.write_str(reason),
            Self::Unknown => {
                f.write_str("ended, and only the router that had started it could ask how")
            }
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(exit) => write!(f, "{exit} before it was ready"),
            Self::NotReady(waited) => write!(f, "was not ready after {:?}", rounded(*waited)),
            Self::Missing(places) => {
                write!(f, "does not listen on {}, as the old one does", places.join(" and "))
            }
            Self::Hung(silent) => write!(f, "hung: nothing for {:?}", rounded(*silent)),
            Self::Broken(why) => write!(f, "was killed: {why}"),
            Self::NeverAttached => f.write_str("did not attach"),
        }
    }
}

/// Nobody reads more than milliseconds.
pub(super) fn rounded(duration: Duration) -> Duration {
    Duration::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}
