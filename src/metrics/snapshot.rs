//! How a router stands at one moment: what `/status` says as JSON, and `/metrics` in its own way.

use std::collections::BTreeMap;

use serde::Serialize;

/// See the module's text. Times are in seconds, sizes in bytes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Snapshot {
    /// The router's version.
    pub version: &'static str,
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
    /// They are being replaced, because somebody has asked for a reload.
    pub reloading: bool,
    /// Sessions that are known by announcement; those whose ids name their worker are not.
    pub announced_sessions: usize,
    /// By slot and generation.
    pub workers: Vec<Worker>,
    /// Lines that the workers' log files were too slow for.
    pub log_lines_dropped: u64,
    /// Writes to the workers' log files that failed.
    pub log_writes_failed: u64,
    /// Sums over the shards, by [`super::Counter::name`].
    pub totals: BTreeMap<&'static str, u64>,
}

/// What the kernel knows of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Process {
    /// Its id.
    pub pid: i32,
    /// For how long it has run.
    pub uptime: f64,
    /// Time on a core, its own and the kernel's for it.
    pub cpu: f64,
    /// Resident memory.
    pub memory: u64,
}

/// One worker.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Worker {
    /// Its slot.
    pub slot: u16,
    /// Which of the slot's processes.
    pub generation: u32,
    /// `starting`, `ready`, `draining` or `stopping`.
    pub state: &'static str,
    /// Its process.
    #[serde(flatten)]
    pub process: Process,
    /// Sessions it has, and hand-offs that may become some.
    pub sessions: u32,
    /// How much of its time the event loop worked, 0 to 1; none without the preload.
    pub event_loop_utilisation: Option<f64>,
    /// How late timers are; none without the preload.
    pub event_loop_delay: Option<f64>,
}

/// The states a worker can be reported in, all of them.
pub const STATES: [&str; 4] = ["starting", "ready", "draining", "stopping"];

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
