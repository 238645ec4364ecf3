//! Which worker gets a connection: the roster of workers, the session table, the balance.
//!
//! Pure but for atomics: everything here is shared between the shards and read on every request.

pub mod balance;
pub mod load;
pub mod roster;
pub mod self_routing;
pub mod session_table;

use std::fmt;

use ahash::RandomState;

/// Slots at most: `--workers`, and what scaling reaches.
pub const MAX_SLOTS: usize = 1024;
/// Seats at most: see [`WorkerId::seat`].
pub const MAX_SEATS: usize = MAX_SLOTS * 2;

/// One worker process: the slot it fills and how many processes filled that slot before it.
///
/// A draining worker and its successor share a slot and differ in generation, so a
/// `WorkerId` never names two processes in one run of the router.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub struct WorkerId {
    /// 0-based; also what the worker sees as `NODE_APP_INSTANCE`.
    pub slot: u16,
    /// 1 for the first process in this slot.
    pub generation: u32,
}

impl WorkerId {
    /// Where tables by worker keep it, below [`MAX_SEATS`].
    ///
    /// A slot has two seats, since a worker and its successor live side by side while the one
    /// drains. Which of the two is the generation's lowest bit: the supervisor sees to it that
    /// the living of one slot differ in it.
    #[must_use]
    pub fn seat(self) -> usize {
        usize::from(self.slot) * 2 + usize::from(self.generation & 1 == 1)
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.slot, self.generation)
    }
}

/// The hash of a session id, the same in every shard and after every restart of this binary.
///
/// The seeds are digits of pi: fixed, and nobody's choice.
#[must_use]
pub fn hash(sid: &[u8]) -> u64 {
    seeded().hash_one(sid)
}

fn seeded() -> RandomState {
    RandomState::with_seeds(
        0x243f_6a88_85a3_08d3,
        0x1319_8a2e_0370_7344,
        0xa409_3822_299f_31d0,
        0x082e_fa98_ec4e_6c89,
    )
}
