//! Which worker gets a connection: the roster of workers, the session table, the balance.
//!
//! Pure but for atomics: everything here is shared between the shards and read on every request.

use std::fmt;

/// One worker process: the slot it fills and how many processes filled that slot before it.
///
/// A draining worker and its successor share a slot and differ in generation, so a
/// `WorkerId` never names two processes in one run of the router.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerId {
    /// 0-based; also what the worker sees as `NODE_APP_INSTANCE`.
    pub slot: u16,
    /// 1 for the first process in this slot.
    pub generation: u32,
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.slot, self.generation)
    }
}
