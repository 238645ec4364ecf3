//! The roster: which worker fills each slot, whether it takes sockets, and how loaded it is.
//!
//! Shared by all shards and read on every request, so each slot is one atomic word on its own
//! cache line; the supervisor writes states, the shards count load. Counts carry the generation:
//! one that is late for a dead worker is dropped, never booked on its successor.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crossbeam::utils::CachePadded;

use super::WorkerId;

/// Slots a roster can have: `--workers` at most.
pub const MAX_SLOTS: usize = 1024;

/// What the data plane may do with a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nobody there: its sessions are gone.
    Gone,
    /// Alive, but gets no sockets yet.
    Starting,
    /// Gets new sessions and its own.
    Ready,
    /// Gets only its own.
    Draining,
}

impl Standing {
    const fn bits(self) -> u64 {
        match self {
            Self::Gone => 0,
            Self::Starting => 1,
            Self::Ready => 2,
            Self::Draining => 3,
        }
    }

    const fn of(word: u64) -> Self {
        match word & 3 {
            1 => Self::Starting,
            2 => Self::Ready,
            3 => Self::Draining,
            _ => Self::Gone,
        }
    }
}

/// One slot: `standing` is generation << 2 | standing, `load` is generation << 32 | count.
#[derive(Debug, Default)]
struct Slot {
    standing: AtomicU64,
    load: AtomicU64,
}

/// All slots of one pool of workers.
#[derive(Debug)]
pub struct Roster {
    slots: Box<[CachePadded<Slot>]>,
    /// Where round-robin goes on, and where ties are broken from.
    turn: CachePadded<AtomicU32>,
}

impl Roster {
    /// A roster of `slots` empty slots, at most [`MAX_SLOTS`].
    #[must_use]
    pub fn new(slots: u16) -> Self {
        let count = usize::from(slots).min(MAX_SLOTS);
        Self {
            slots: (0..count).map(|_| CachePadded::default()).collect(),
            turn: CachePadded::default(),
        }
    }

    /// Number of slots, filled or not.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there is no slot at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Sets what may be done with `worker`. A new generation starts with no load.
    pub fn set(&self, worker: WorkerId, standing: Standing) {
        let Some(slot) = self.slots.get(usize::from(worker.slot)) else { return };
        let generation = u64::from(worker.generation);
        if slot.load.load(Ordering::Relaxed) >> 32 != generation {
            slot.load.store(generation << 32, Ordering::Relaxed);
        }
        slot.standing.store(generation << 2 | standing.bits(), Ordering::Release);
    }

    /// `worker` is gone. A successor that is there already stays.
    pub fn set_gone(&self, worker: WorkerId) {
        let Some(slot) = self.slots.get(usize::from(worker.slot)) else { return };
        let generation = u64::from(worker.generation);
        // An error means that the slot is somebody else's.
        let _successor = slot.standing.fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| {
            (word >> 2 == generation).then_some(generation << 2 | Standing::Gone.bits())
        });
    }

    /// What may be done with `worker`; `Gone` for every generation but the present one.
    #[must_use]
    pub fn standing(&self, worker: WorkerId) -> Standing {
        match self.present(worker.slot) {
            Some((present, standing)) if present == worker => standing,
            _ => Standing::Gone,
        }
    }

    /// The worker that fills `slot` now.
    #[must_use]
    pub fn present(&self, slot: u16) -> Option<(WorkerId, Standing)> {
        let word = self.slots.get(usize::from(slot))?.standing.load(Ordering::Acquire);
        let generation = u32::try_from(word >> 2).unwrap_or(0);
        let standing = Standing::of(word);
        (standing != Standing::Gone).then_some((WorkerId { slot, generation }, standing))
    }

    /// The workers that take new sessions, by slot.
    pub fn ready(&self) -> impl Iterator<Item = WorkerId> {
        let slots = 0..u16::try_from(self.slots.len()).unwrap_or(u16::MAX);
        slots.filter_map(|slot| match self.present(slot) {
            Some((worker, Standing::Ready)) => Some(worker),
            _ => None,
        })
    }

    /// Sessions of `worker`, and hand-offs that may become sessions.
    #[must_use]
    pub fn load(&self, worker: WorkerId) -> u32 {
        let Some(slot) = self.slots.get(usize::from(worker.slot)) else { return 0 };
        let word = slot.load.load(Ordering::Relaxed);
        if word >> 32 == u64::from(worker.generation) { low(word) } else { 0 }
    }

    /// Counts one more session or hand-off for `worker`.
    pub fn add_load(&self, worker: WorkerId) {
        self.change_load(worker, |count| count.saturating_add(1));
    }

    /// Counts one less.
    pub fn drop_load(&self, worker: WorkerId) {
        self.change_load(worker, |count| count.saturating_sub(1));
    }

    fn change_load(&self, worker: WorkerId, change: impl Fn(u32) -> u32) {
        let Some(slot) = self.slots.get(usize::from(worker.slot)) else { return };
        // An error means another generation: the count is nobody's any more.
        let _late = slot.load.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
            let mine = word >> 32 == u64::from(worker.generation);
            mine.then(|| word >> 32 << 32 | u64::from(change(low(word))))
        });
    }

    /// The next turn of a rotation over all shards.
    pub(super) fn next_turn(&self) -> usize {
        self.turn.fetch_add(1, Ordering::Relaxed) as usize
    }
}

fn low(word: u64) -> u32 {
    u32::try_from(word & u64::from(u32::MAX)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(slot: u16, generation: u32) -> WorkerId {
        WorkerId { slot, generation }
    }

    #[test]
    fn a_slot_knows_only_its_present_generation() {
        let roster = Roster::new(2);
        assert_eq!(roster.standing(worker(0, 1)), Standing::Gone);
        roster.set(worker(0, 1), Standing::Ready);
        assert_eq!(roster.standing(worker(0, 1)), Standing::Ready);
        assert_eq!(roster.standing(worker(0, 2)), Standing::Gone);
        roster.set(worker(0, 2), Standing::Starting);
        assert_eq!(roster.standing(worker(0, 1)), Standing::Gone);
        assert_eq!(roster.ready().count(), 0);
        roster.set(worker(0, 2), Standing::Ready);
        roster.set(worker(1, 7), Standing::Draining);
        assert_eq!(roster.ready().collect::<Vec<_>>(), [worker(0, 2)]);
        assert_eq!(roster.present(1), Some((worker(1, 7), Standing::Draining)));
        assert_eq!(roster.present(9), None);
    }

    #[test]
    fn late_counts_do_not_reach_the_successor() {
        let roster = Roster::new(1);
        roster.set(worker(0, 1), Standing::Ready);
        roster.add_load(worker(0, 1));
        roster.add_load(worker(0, 1));
        assert_eq!(roster.load(worker(0, 1)), 2);
        roster.set(worker(0, 2), Standing::Starting);
        roster.add_load(worker(0, 1));
        roster.drop_load(worker(0, 1));
        assert_eq!(roster.load(worker(0, 2)), 0);
        roster.drop_load(worker(0, 2));
        assert_eq!(roster.load(worker(0, 2)), 0);
    }
}
