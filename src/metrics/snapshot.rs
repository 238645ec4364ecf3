//! How a router stands at one moment: what `/status` says as JSON, and `/metrics` in its own way.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::latency::Recorded;

/// See the module's text. Times are in seconds, sizes in bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The router's version.
    pub version: String,
    /// Its process.
    pub process: Process,
    /// How the data plane talks to the kernel.
    pub engine: String,
    /// Threads of the data plane.
    pub shards: usize,
    /// What the app is called.
    pub app: String,
    /// So many workers shall be ready.
    pub wanted: usize,
    /// Where clients are accepted, in the words of `--listen`.
    #[serde(default)]
    pub listening: Vec<String>,
    /// Why the port of an app that asks for none is not open, if it should be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unopened: Option<String>,
    /// They are being replaced, because somebody has asked for a reload.
    pub reloading: bool,
    /// How reloads have ended.
    pub reloads: Reloads,
    /// Sessions that are known by announcement; those whose ids name their worker are not.
    pub announced_sessions: usize,
    /// By slot and generation; an empty slot that is wanted has a line, too.
    pub workers: Vec<Worker>,
    /// What each shard has in hand, by number.
    pub queues: Vec<Queues>,
    /// The bus to other hosts, where there is one.
    #[serde(default)]
    pub bus: Option<Bus>,
    /// How long connections that a worker took were in the router's hands, by [`super::latency::Way::name`].
    pub latency: BTreeMap<String, Recorded>,
    /// Lines that the workers' log files were too slow for.
    pub log_lines_dropped: u64,
    /// Writes to the workers' log files that failed.
    pub log_writes_failed: u64,
    /// Sums over the shards, by [`super::Counter::name`]; and `handed_off`, the sum of those by reason.
    pub totals: BTreeMap<String, u64>,
}

/// How the bus stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bus {
    /// Where it is, without who asks.
    pub redis: String,
    /// The stream.
    pub stream: String,
    /// What this host is called on it.
    pub host: String,
    /// Whether Redis is there.
    pub connected: bool,
    /// Why it is not.
    pub trouble: Option<String>,
    /// Packets that wait for it.
    pub backlog: u64,
    /// Bytes of them.
    pub backlog_bytes: u64,
    /// Adapters of the workers here: one for each namespace of each.
    pub nodes: usize,
    /// The other hosts that run router.
    pub hosts: Vec<BusHost>,
    /// Adapters of hosts that do not.
    pub plain: usize,
}

/// Another host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BusHost {
    /// What it calls itself.
    pub name: String,
    /// Its adapters.
    pub nodes: usize,
}

/// What one shard has in hand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queues {
    /// Connections.
    pub held: u64,
    /// Those of them that wait for the announcement of their session.
    pub awaiting_session: u64,
    /// Those of them that wait for a worker.
    pub awaiting_worker: u64,
    /// Pieces of mail that other threads have for it.
    pub ring_mail: u64,
    /// Bytes of the packets among them.
    pub ring_bytes: u64,
}

/// What the kernel knows of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Process {
    /// Its id; 0: there is none.
    pub pid: i32,
    /// For how long it has run.
    pub uptime: f64,
    /// Time on a core, its own and the kernel's for it.
    pub cpu: f64,
    /// Resident memory.
    pub memory: u64,
}

/// One worker.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Worker {
    /// Its slot.
    pub slot: u16,
    /// Which of the slot's processes; of an empty slot, the last.
    pub generation: u32,
    /// One of [`STATES`].
    pub state: String,
    /// Its process.
    #[serde(flatten)]
    pub process: Process,
    /// Sessions it has, and hand-offs that may become some.
    pub sessions: u32,
    /// Connections it has taken.
    pub handed_off: u64,
    /// Bytes that wait for it on its channel, and what their frames cost besides.
    pub queue: u64,
    /// How much of its time the event loop worked, 0 to 1; none without the preload.
    pub event_loop_utilisation: Option<f64>,
    /// How late timers are; none without the preload.
    pub event_loop_delay: Option<f64>,
    /// Processes that were started in its slot after the first, since the router started.
    pub restarts: u32,
}

/// The states a worker can be reported in, all of them. In the last three no process lives in the
/// slot: one will be started, it was given up, or none will be started.
pub const STATES: [&str; 7] =
    ["starting", "ready", "draining", "stopping", "waiting", "errored", "stopped"];

/// How reloads that were asked for have ended, since the router started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloads {
    /// Every worker that was to be replaced is.
    pub done: u64,
    /// A successor did not prove as good; the old workers serve on.
    pub failed: u64,
}

impl Snapshot {
    /// So many workers are in this state.
    #[must_use]
    pub fn count(&self, state: &str) -> usize {
        self.workers.iter().filter(|worker| worker.state == state).count()
    }

    /// Whether clients can be served: what `/readyz` says.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.count("ready") > 0
    }
}
