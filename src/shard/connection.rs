//! One client's connection while the router has it.
//!
//! ```text
//!            accepted ─────► ExpectAddress ─► ExpectProxy   (only with the PROXY protocol)
//!               │                                 │
//!               ▼◄────────────────────────────────┘
//!               │            no line, no end            head deadline, not HTTP, too long
//!         ExpectHead ◄──────────┐ ──────────────────────────────────────────┐
//!               │ request line  └ peek again                                │
//!               ▼                                                           ▼
//!            (route) ──────────► AwaitSession ── announced, 50 ms ──┐   Lingering ──► closed
//!               │  │                                                │       ▲
//!               │  └───────────► AwaitWorker ─── ready, retry ──────┤       │
//!               ▼                     └──────── 5 s ────────────────┼───────┘
//!      OnLane, HandingOff ◄─────────────────────────────────────────┘
//!               │  ▲ refused, worker gone: (route) again
//!               ▼
//!        the worker has it: closed here
//! ```
//!
//! Where the client's address decides, the way from `ExpectHead` to the route leads over
//! `ExpectAddress` too.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::ChannelId;
use super::listener::{Kind, Listener, ListenerId};
use crate::metrics::Counter;
use crate::route::WorkerId;
use crate::route::session_table::Sid;

/// Workers one connection remembers as having refused it.
pub const MAX_REFUSALS: usize = 8;

/// What is awaited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nobody: the table's entry is unused.
    Free,
    /// The request line, of which so many bytes have been seen.
    ExpectHead {
        /// Bytes peeked last time.
        seen: usize,
    },
    /// The announcement of its session.
    AwaitSession,
    /// A worker that can take it.
    AwaitWorker,
    /// Who its client is: the engine asks the kernel.
    ExpectAddress {
        /// To know whether to believe its PROXY header, or which worker its address gets.
        proxy: bool,
    },
    /// The header of the PROXY protocol.
    ExpectProxy {
        /// Bytes peeked last time.
        seen: usize,
    },
    /// The message that explains it: a worker has sent it.
    Arrived,
    /// The worker's acknowledgement (or room on its channel before that).
    HandingOff(ChannelId),
    /// That the kernel has taken it for the worker's lane (or room on that before).
    OnLane(WorkerId),
    /// The client's end, after a refusal.
    Lingering,
}

impl State {
    /// Whether the client has to say something first, and has a deadline for it.
    #[must_use]
    pub fn is_early(self) -> bool {
        matches!(
            self,
            Self::ExpectHead { .. }
                | Self::ExpectProxy { .. }
                | Self::ExpectAddress { proxy: true }
        )
    }
}

/// How a connection's worker was chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Choice {
    /// By the balance: it names no session.
    #[default]
    Balance,
    /// Its session's id names the worker.
    Named,
    /// The worker has announced the session.
    Announced,
    /// By the hash of a session id that nobody knows.
    Unknown,
    /// By the hash of the client's address.
    Address,
}

impl Choice {
    /// What counts those of it that a worker took.
    #[must_use]
    pub const fn counter(self) -> Counter {
        match self {
            Self::Balance => Counter::HandedOffBalanced,
            Self::Named => Counter::HandedOffNamed,
            Self::Announced => Counter::HandedOffAnnounced,
            Self::Unknown => Counter::HandedOffUnknown,
            Self::Address => Counter::HandedOffAddress,
        }
    }
}

/// What the shard knows of a connection; the socket itself is the engine's.
#[derive(Debug)]
pub struct Connection {
    /// Where it is on its way.
    pub state: State,
    /// Tells this user of the table's entry from earlier ones: late timers name it.
    pub serial: u32,
    /// Where it arrived.
    pub listener: ListenerId,
    /// Since when it has been in the router's hands; `None`: it is no client's, or not known yet.
    pub since: Option<Instant>,
    /// How its worker was chosen last.
    pub choice: Choice,
    /// What that place speaks; known here even when it is closed meanwhile.
    pub kind: Kind,
    /// Its session, when its request names one.
    pub sid: Option<Sid>,
    /// Counted as load on this worker until announced or handed elsewhere.
    pub counted: Option<WorkerId>,
    /// Has waited for its session once; the next miss goes by hash.
    pub waited: bool,
    /// When it began to.
    pub waits_since: Option<Instant>,
    /// Set when it first found no worker.
    pub give_up: Option<Instant>,
    /// Times peeked without news, or refused by workers: how long to wait before the next try.
    pub tries: u32,
    /// Workers that refused it.
    pub refused_by: Vec<WorkerId>,
    /// A worker had no room for it: it goes by the channels, where a refusal comes with its name,
    /// so that its patience has an end.
    pub unwanted: bool,
    /// A worker that drains has given it back between two requests: the next one may never come.
    pub idle: bool,
    /// A socket for the worker itself (UDP), with the frame that explains it.
    pub grant: Option<bytes::Bytes>,
    /// Whom the worker shall take for the peer, as the PROXY protocol said.
    pub peer: Option<SocketAddr>,
    /// The hash of the client's address, for a connection whose session cannot be read.
    pub address: Option<u64>,
    /// What another worker has read of it and this one shall read again.
    pub carried: Option<bytes::Bytes>,
    /// The name of those bytes on the channel it is handed off on; 0: there are none.
    pub carried_as: i64,
}

impl Connection {
    /// An unused entry.
    #[must_use]
    pub fn free() -> Self {
        Self {
            state: State::Free,
            serial: 0,
            listener: 0,
            since: None,
            choice: Choice::Balance,
            kind: Kind::Pool,
            sid: None,
            counted: None,
            waited: false,
            waits_since: None,
            give_up: None,
            tries: 0,
            refused_by: Vec::new(),
            unwanted: false,
            idle: false,
            grant: None,
            peer: None,
            address: None,
            carried: None,
            carried_as: 0,
        }
    }

    /// Takes an unused entry for a new connection.
    pub fn open(&mut self, listener: ListenerId, kind: Kind) {
        let (serial, state) = (self.serial.wrapping_add(1), State::ExpectHead { seen: 0 });
        *self = Self { state, serial, listener, kind, ..Self::free() };
    }

    /// Gives the entry back.
    pub fn close(&mut self) {
        *self = Self { serial: self.serial, ..Self::free() };
    }

    /// Notes that `worker` refused it.
    pub fn refused(&mut self, worker: WorkerId) {
        if self.refused_by.len() >= MAX_REFUSALS {
            self.refused_by.remove(0);
        }
        self.refused_by.push(worker);
    }
}

/// What goes with a connection to another shard.
#[derive(Debug)]
pub struct Transit {
    /// Where it arrived.
    pub listener: Arc<Listener>,
    /// As [`Connection::since`].
    pub since: Option<Instant>,
    /// As [`Connection::choice`].
    pub choice: Choice,
    /// Its session.
    pub sid: Option<Sid>,
    /// Who shall get it.
    pub worker: WorkerId,
    /// Whether it is counted as load there.
    pub counted: bool,
    /// When it gives up.
    pub give_up: Option<Instant>,
    /// Times refused.
    pub tries: u32,
    /// Who refused it.
    pub refused_by: Vec<WorkerId>,
    /// As [`Connection::unwanted`].
    pub unwanted: bool,
    /// As [`Connection::peer`].
    pub peer: Option<SocketAddr>,
    /// As [`Connection::address`].
    pub address: Option<u64>,
    /// As [`Connection::carried`].
    pub carried: Option<bytes::Bytes>,
}
