//! The data plane: one pinned thread per shard, each with its own engine and listeners.
//!
//! One connection's way: `core` is told of an accepted socket, asks to peek, reads the request
//! line (`http`), picks the worker (`route`), and asks the engine to hand the socket off on the
//! worker's `channel` when the accounting in `handoff` allows. One packet's way: the engine gives
//! `core` the bytes of a channel, `channel` cuts frames, `ipc` says what they are, `relay` who gets
//! them; frames for other shards cross by `ring`.
//!
//! | file | noun |
//! |---|---|
//! | `core` | one shard: its tables, timers and mail; events in, actions out |
//! | `clients` | its connections: head, route, park, refuse |
//! | `who` | who a client is: the PROXY protocol, a hash of its address |
//! | `lanes` | its lanes: send, read back, look |
//! | `workers` | its channels: messages, hand-offs, relay, back-pressure |
//! | `connection`, `channel`, `lane`, `handoff`, `hopes`, `relay`, `listener`, `ring` | the parts |
//! | `uring`, `portable` | the two engines: they own the descriptors and carry the actions out |
//! | `engine` | what the two have in common |
//! | `rest`, `frozen` | a shard that nobody drives, and what of it crosses an upgrade |
//!
//! The core never blocks and makes no system call; the engines decide nothing.

pub mod channel;
mod clients;
pub mod connection;
pub mod core;
mod engine;
pub mod frozen;
pub mod handoff;
pub mod hopes;
pub mod lane;
mod lanes;
pub mod listener;
pub mod portable;
pub mod relay;
pub mod rest;
pub mod ring;
#[cfg(test)]
mod simulation;
pub mod uring;
mod who;
mod workers;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::time::{Duration, Instant};

use crossbeam::utils::CachePadded;

use crate::ipc::message::QueryServer;
use crate::metrics::{Counters, Gauges};
use crate::route::WorkerId;
use crate::route::balance::Balance;
use crate::route::roster::Roster;
use crate::route::session_table::SessionTable;
pub use frozen::{Descriptors, Frozen, Portion, freeze};
pub use rest::Resting;
use ring::{Mailbox, Outgoing};

/// Index of a connection in its shard's tables; the engine gives it out.
pub type ConnectionId = usize;
/// Index of a channel in its shard's tables; the engine gives it out.
pub type ChannelId = usize;

/// Index of a lane in its shard's tables; the engine gives it out.
pub type LaneId = usize;

/// Connections that one shard holds at once; at the bound it stops accepting until some have gone.
pub const MAX_CONNECTIONS: usize = 32_768;
/// Connections that may wait for their session's announcement at once; more go by hash at once.
pub const MAX_PARKED_SESSIONS: usize = 4096;
/// Connections that may wait for a worker at once; more are refused at once.
pub const MAX_PARKED_WORKERS: usize = 8192;
/// How long a connection waits for the announcement of its session.
pub const SESSION_WAIT: Duration = Duration::from_millis(50);
/// How long it waits at most while workers still have first requests that may become sessions: a
/// worker that the kernel puts aside between its answer and its announcement comes back, on a busy
/// machine, later than 50 ms.
pub const SESSION_WAIT_BUSY: Duration = Duration::from_millis(500);
/// How long a connection waits for a worker.
pub const WORKER_WAIT: Duration = Duration::from_secs(5);
/// Bytes that may be queued for one worker, the rest of its senders' turn apart.
pub const MAX_OUT_QUEUE: usize = 64 << 20;
/// How long a worker with a full queue may take nothing before it is cut off.
pub const STALL_WAIT: Duration = Duration::from_secs(2);

/// How long a channel or lane is left alone whose kernel is out of room for descriptors in flight.
const DESCRIPTORS_WAIT: Duration = Duration::from_millis(10);

/// How the shards shall behave.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// For requests with no session.
    pub balance: Balance,
    /// How long a client may take for its request line.
    pub head_timeout: Duration,
    /// Bytes that may be queued for one worker: [`MAX_OUT_QUEUE`], less where a test says so.
    pub out_queue: usize,
    /// Sockets go by lanes where a preload reads them.
    pub lanes: bool,
    /// Session ids may name their worker.
    pub self_routing: bool,
    /// A connection whose session cannot be read goes by its client's address.
    pub by_address: bool,
}

/// Whether the header of the PROXY protocol is believed from this address (`None`: a Unix socket).
pub type Trusts = Box<dyn Fn(Option<IpAddr>) -> bool + Send + Sync>;

/// What the shards and the control thread share.
pub struct Shared {
    /// Who is ready, and how loaded.
    pub roster: Roster,
    /// Who announced which session.
    pub sessions: SessionTable,
    /// One for each shard.
    pub mailboxes: Vec<Mailbox>,
    /// For other hosts; `None`: there are none.
    pub bus: Option<Mailbox<Outgoing>>,
    /// One for each shard.
    pub counters: Vec<Counters>,
    /// What each shard has in hand.
    pub gauges: Vec<CachePadded<Gauges>>,
    /// Connections of each shard that wait for an announcement.
    pub awaiting_sessions: Vec<CachePadded<AtomicU32>>,
    /// What each shard has answered of [`ring::Mail::Beat`].
    pub beats: Vec<CachePadded<AtomicU64>>,
    /// Whose PROXY protocol is believed; `None`: it is not spoken.
    pub trusts: Option<Trusts>,
    /// Where the clock of [`Self::millis`] starts.
    epoch: Instant,
    /// Workers whose queue is over its bound: while there is one, nobody reads from workers.
    pub congested: AtomicU32,
    /// How to behave.
    pub settings: Settings,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Shared {
    /// The state of a router with the given mailboxes, and one for other hosts.
    #[must_use]
    pub fn new(
        mailboxes: Vec<Mailbox>,
        bus: Option<Mailbox<Outgoing>>,
        settings: Settings,
        trusts: Option<Trusts>,
        epoch: Instant,
    ) -> Arc<Self> {
        let shards = mailboxes.len();
        Arc::new(Self {
            roster: Roster::new(),
            sessions: SessionTable::new(),
            mailboxes,
            bus,
            counters: (0..shards).map(|_| Counters::new()).collect(),
            gauges: (0..shards).map(|_| CachePadded::default()).collect(),
            awaiting_sessions: (0..shards).map(|_| CachePadded::default()).collect(),
            beats: (0..shards).map(|_| CachePadded::default()).collect(),
            trusts,
            epoch,
            congested: AtomicU32::new(0),
            settings,
        })
    }

    /// The shards' common clock, in milliseconds; never 0.
    #[must_use]
    pub fn millis(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.epoch).as_millis()).unwrap_or(u64::MAX) + 1
    }

    /// The shard that owns the channel of the worker in `slot`.
    #[must_use]
    pub fn owner(&self, slot: u16) -> usize {
        usize::from(slot) % self.mailboxes.len().max(1)
    }
}

/// What a shard tells the control thread. Each worker causes a bounded number of these: first
/// times, at most [`channel::MAX_SERVERS`] open requests to listen and [`channel::MAX_WARNINGS`]
/// warnings, and one end.
#[derive(Debug)]
pub enum Report {
    /// The process runs.
    Online(WorkerId),
    /// It has a cluster adapter.
    Heartbeat(WorkerId),
    /// It said `'ready'`.
    Ready(WorkerId),
    /// It asks to listen; answer with [`ring::Mail::ListenReply`].
    Listen(WorkerId, QueryServer),
    /// A server of its listens.
    Listening(WorkerId),
    /// The shard has come to rest: nothing more is reported by it.
    Rested,
    /// A worker that an earlier router has left serves this listener.
    Serves(WorkerId, listener::ListenerId),
    /// It has said all it had to say.
    Attached(WorkerId),
    /// It closed its server on this listener.
    ServerClosed(WorkerId, listener::ListenerId),
    /// Its preload is there, and sockets go by the lane, or not.
    Preloaded {
        /// The worker.
        worker: WorkerId,
        /// Whether sockets go by its lane.
        lane: bool,
    },
    /// Clients of this listener may wait to be spoken to.
    SpeaksFirst(Arc<listener::Listener>),
    /// Its preload has something to say to the operator.
    Warning(WorkerId, String),
    /// It was to drain, and has nothing left.
    Drained(WorkerId),
    /// Its channel is gone.
    ChannelEnded(WorkerId, End),
}

/// Why a channel is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The worker closed it or died.
    Closed,
    /// What came on it is no frame.
    Malformed(String),
    /// Its queue was full and it took nothing for [`STALL_WAIT`].
    Stalled,
}

/// Where a shard's reports go.
pub type Reports = Box<dyn Fn(Report) + Send>;

/// What an engine is made of. Chosen once for all shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// io_uring.
    Uring,
    /// monoio on epoll.
    Portable,
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Uring => "uring",
            Self::Portable => "portable",
        })
    }
}

/// Runs shard `index` on the calling thread, from what it has to thaw, until it is told to exit or
/// to rest: then what it had in hand is given back.
///
/// # Errors
/// The engine could not be set up, or the kernel failed it in a way that leaves its state unknown.
pub fn run(
    engine: Engine,
    index: usize,
    shared: Arc<Shared>,
    reports: Reports,
    seed: u64,
    portion: Portion,
) -> std::io::Result<Option<Resting>> {
    let shard = core::Shard::new(index, shared, reports, seed);
    let rested = match engine {
        Engine::Uring => uring::run(shard, portion),
        Engine::Portable => portable::run(shard, portion),
    }?;
    if let Some(resting) = &rested {
        resting.shard.report(Report::Rested);
    }
    Ok(rested)
}
