//! Every operation of the hot path, once: its name, its work, and how often it asks the allocator.
//!
//! Three judges go through one list, so that no operation has a time and no proof, or the reverse:
//!
//! | judge | what it says |
//! |---|---|
//! | `benches/hot.rs` | nanoseconds (criterion) |
//! | `benches/instructions.rs` | instructions and cache misses, under callgrind |
//! | `tests/allocations.rs` | that an operation allocates exactly as often as it says here |

mod frames;
mod packets;
mod request;
mod ring;
pub(crate) mod sessions;
mod shard;
mod table;
mod workers;

/// What an operation is besides its work.
#[allow(dead_code, reason = "each judge reads what concerns it")]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    /// Packets, frames or bytes in one call.
    pub(crate) elements: u64,
    /// How often one call allocates, once whatever keeps its room has grown.
    pub(crate) allocations: u64,
}

/// One element, nothing allocated.
pub(crate) const FREE: Terms = Terms { elements: 1, allocations: 0 };

impl Terms {
    const fn of(elements: u64) -> Self {
        Self { elements, allocations: 0 }
    }

    const fn allocating(self, allocations: u64) -> Self {
        Self { allocations, ..self }
    }
}

/// Who goes through the list.
pub(crate) trait Judge {
    /// Sizes in which to keep tables: what runs as a test keeps them small.
    fn sizes(&self) -> &'static [u64];

    /// One operation: `name` is `group/what`.
    fn judge<R>(&mut self, name: &str, terms: Terms, work: impl FnMut() -> R);
}

/// All of them.
pub(crate) fn all(judge: &mut impl Judge) {
    request::all(judge);
    workers::all(judge);
    table::all(judge);
    frames::all(judge);
    ring::all(judge);
    shard::all(judge);
}
