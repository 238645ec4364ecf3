//! What can be asked of the router of one app over the control socket in its runtime directory.

use serde::{Deserialize, Serialize};

use super::protocol::Lasting;

/// One order; the answer is null when it is done, unless it says otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Order {
    /// How it stands; the answer is a [`crate::metrics::snapshot::Snapshot`].
    Status,
    /// Nothing: answered as soon as all that was wished for is done, or will not be.
    Settle,
    /// New workers for all old ones, without a gap.
    Reload,
    /// Workers end and are started again: these slots, or all.
    Restart {
        /// Which.
        slots: Option<Vec<u16>>,
    },
    /// These workers end, and their slots stay empty.
    Stop {
        /// Which.
        slots: Vec<u16>,
    },
    /// These slots are filled, if they are not.
    Start {
        /// Which.
        slots: Vec<u16>,
    },
    /// So many workers.
    Scale {
        /// How many.
        to: u16,
    },
    /// A signal for workers: of these slots, or all.
    Signal {
        /// As in kill(2).
        signal: i32,
        /// Whose.
        slots: Option<Vec<u16>>,
    },
    /// Forgets how often workers were started again: these slots, or all.
    Reset {
        /// Which.
        slots: Option<Vec<u16>>,
    },
    /// The program and the settings that are there now go on in this process's place. The connection
    /// ends when they do; an answer is why they do not.
    Upgrade,
    /// What the router's log says from now on.
    LogLevel {
        /// As in `RUST_LOG`: a level, or one for each target.
        filter: String,
    },
}

impl Lasting for Order {
    fn lasts(&self) -> bool {
        matches!(self, Self::Upgrade)
    }
}
