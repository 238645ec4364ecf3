//! The roster: which worker has each seat, whether it takes sockets, and how loaded it is.
//!
//! Shared by all shards and read on every request, so each seat is one atomic word on its own
//! cache line; the supervisor writes states, the shards count load. Counts carry the generation:
//! one that is late for a dead worker is dropped, never booked on the next in its seat.

use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam::utils::CachePadded;
use serde::{Deserialize, Serialize};

use super::load::{self, Load, LoadReport, Ticket};
use super::self_routing::Named;
use super::{MAX_SEATS, WorkerId};

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

/// One seat.
#[derive(Debug, Default)]
struct Seat {
    /// Generation << 2 | standing.
    standing: AtomicU64,
    /// Generation << 3 | has a preload << 2 | full << 1 | has a lane.
    lane: AtomicU64,
    /// When something came on its channel last, in milliseconds of the shards' clock.
    heard: AtomicU64,
    /// The generation of a worker that has served through an earlier router and is to come back.
    awaited: AtomicU64,
    load: Load,
}

const HAS_LANE: u64 = 1;
const FULL: u64 = 2;
const HAS_PRELOAD: u64 = 4;
const BITS: u64 = HAS_LANE | FULL | HAS_PRELOAD;

/// A hand-off that may become a session: see [`Roster::hope`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hope {
    /// Where.
    pub worker: WorkerId,
    ticket: Ticket,
}

/// One worker as it crosses an upgrade.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Frozen {
    worker: WorkerId,
    standing: u64,
    lane: u64,
    load: load::Frozen,
}

/// All seats of one pool of workers.
#[derive(Debug)]
pub struct Roster {
    seats: Box<[CachePadded<Seat>]>,
    /// Seats from here on have never been taken: nobody need look.
    end: CachePadded<AtomicUsize>,
    /// Where round-robin goes on, and where ties are broken from.
    turn: CachePadded<AtomicU32>,
}

impl Roster {
    /// A roster of empty seats.
    #[must_use]
    pub fn new() -> Self {
        Self {
            seats: (0..MAX_SEATS).map(|_| CachePadded::default()).collect(),
            end: CachePadded::default(),
            turn: CachePadded::default(),
        }
    }

    /// The workers there are, for another process.
    #[must_use]
    pub fn freeze(&self) -> Vec<Frozen> {
        let seats = 0..self.end.load(Ordering::Acquire);
        let workers = seats.filter_map(|seat| self.at(seat));
        let frozen = workers.map(|(worker, standing)| Frozen {
            worker,
            standing: standing.bits(),
            lane: self.lane_bits(worker),
            load: self.of(worker).map(|load| load.freeze(worker.generation)).unwrap_or_default(),
        });
        frozen.collect()
    }

    /// Takes over the workers that another process has frozen. Gives, of each, the last of its
    /// hopes, which have all begun anew.
    #[must_use]
    pub fn thaw(&self, frozen: &[Frozen]) -> Vec<Hope> {
        let mut hopes = Vec::new();
        for Frozen { worker, standing, lane, load } in frozen {
            self.set(*worker, Standing::of(*standing));
            self.change_lane(*worker, |_| *lane & BITS);
            if let Some(mine) = self.of(*worker) {
                mine.thaw(worker.generation, load);
            }
            hopes.extend((0..load.hopes).map(|_| self.hope(*worker)).last());
        }
        hopes
    }

    /// Number of slots up to the last that was ever filled.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.end.load(Ordering::Relaxed).div_ceil(2)
    }

    /// Sets what may be done with `worker`. A new generation starts with no load.
    pub fn set(&self, worker: WorkerId, standing: Standing) {
        let Some(seat) = self.seats.get(worker.seat()) else { return };
        self.end.fetch_max(worker.seat() + 1, Ordering::AcqRel);
        if !seat.load.is_of(worker.generation) {
            seat.load.begin(worker.generation);
            seat.heard.store(0, Ordering::Relaxed);
            seat.lane.store(u64::from(worker.generation) << 3, Ordering::Relaxed);
        }
        let word = u64::from(worker.generation) << 2 | standing.bits();
        seat.standing.store(word, Ordering::Release);
    }

    /// `worker` has sessions from an earlier router, and will come back with them.
    pub fn await_return(&self, worker: WorkerId) {
        self.set(worker, Standing::Starting);
        if let Some(seat) = self.seats.get(worker.seat()) {
            seat.awaited.store(worker.generation.into(), Ordering::Release);
        }
    }

    /// Whether `worker` is yet to come back: see [`Self::await_return`].
    #[must_use]
    pub fn is_awaited(&self, worker: WorkerId) -> bool {
        let seat = self.seats.get(worker.seat());
        let awaited = seat.map_or(0, |seat| seat.awaited.load(Ordering::Acquire));
        awaited == u64::from(worker.generation) && self.standing(worker) == Standing::Starting
    }

    /// Whether any worker is yet to come back.
    #[must_use]
    pub fn awaits(&self) -> bool {
        let end = self.end.load(Ordering::Acquire);
        (0..end).filter_map(|seat| self.at(seat)).any(|(worker, _)| self.is_awaited(worker))
    }

    /// Takes `worker` as ready, at this time of the shards' clock in milliseconds.
    pub fn set_ready(&self, worker: WorkerId, now: u64) {
        self.set(worker, Standing::Ready);
        if let Some(load) = self.of(worker) {
            load.ready(now);
        }
    }

    /// `worker` is gone. Another that has its seat already stays.
    pub fn set_gone(&self, worker: WorkerId) {
        let Some(seat) = self.seats.get(worker.seat()) else { return };
        let generation = u64::from(worker.generation);
        // An error means that the seat is somebody else's.
        let _successor = seat.standing.fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| {
            (word >> 2 == generation).then_some(generation << 2 | Standing::Gone.bits())
        });
    }

    /// What may be done with `worker`; `Gone` for every generation that has no seat.
    #[must_use]
    pub fn standing(&self, worker: WorkerId) -> Standing {
        match self.at(worker.seat()) {
            Some((present, standing)) if present == worker => standing,
            _ => Standing::Gone,
        }
    }

    /// The worker that has this seat now.
    #[must_use]
    pub fn at(&self, seat: usize) -> Option<(WorkerId, Standing)> {
        let word = self.seats.get(seat)?.standing.load(Ordering::Acquire);
        let standing = Standing::of(word);
        if standing == Standing::Gone {
            return None;
        }
        let slot = u16::try_from(seat / 2).ok()?;
        let generation = u32::try_from(word >> 2).ok()?;
        Some((WorkerId { slot, generation }, standing))
    }

    /// The workers that take new sessions, by slot.
    pub fn ready(&self) -> impl Iterator<Item = WorkerId> {
        let seats = 0..self.end.load(Ordering::Acquire);
        seats.filter_map(|seat| match self.at(seat) {
            Some((worker, Standing::Ready)) => Some(worker),
            _ => None,
        })
    }

    /// The worker that a self-routing session id names, if it is there.
    #[must_use]
    pub fn find(&self, named: Named) -> Option<(WorkerId, Standing)> {
        self.at(named.seat()).filter(|(worker, _)| named.is(*worker))
    }

    /// Sockets go to `worker` by its lane from now on.
    pub fn open_lane(&self, worker: WorkerId) {
        self.change_lane(worker, |bits| bits | HAS_LANE);
    }

    /// Whether sockets go to `worker` by its lane.
    #[must_use]
    pub fn has_lane(&self, worker: WorkerId) -> bool {
        self.lane_bits(worker) & HAS_LANE != 0
    }

    /// `worker` has the router's preload.
    pub fn note_preload(&self, worker: WorkerId) {
        self.change_lane(worker, |bits| bits | HAS_PRELOAD);
    }

    /// Whether `worker` has the router's preload.
    #[must_use]
    pub fn has_preload(&self, worker: WorkerId) -> bool {
        self.lane_bits(worker) & HAS_PRELOAD != 0
    }

    /// `worker` has said something, at this time of the shards' clock in milliseconds.
    pub fn heard(&self, worker: WorkerId, now: u64) {
        if let Some(seat) = self.seats.get(worker.seat()) {
            seat.heard.store(now, Ordering::Relaxed);
        }
    }

    /// When `worker` has said something last, if it has a preload, which does so at least every now
    /// and then.
    #[must_use]
    pub fn last_heard(&self, worker: WorkerId) -> Option<u64> {
        let heard = self.seats.get(worker.seat())?.heard.load(Ordering::Relaxed);
        (heard > 0 && self.has_preload(worker)).then_some(heard)
    }

    /// `worker` is (not) out of descriptors: it gets no sockets while it is.
    pub fn set_full(&self, worker: WorkerId, full: bool) {
        self.change_lane(worker, |bits| if full { bits | FULL } else { bits & !FULL });
    }

    /// Whether `worker` is out of descriptors.
    #[must_use]
    pub fn is_full(&self, worker: WorkerId) -> bool {
        self.lane_bits(worker) & FULL != 0
    }

    fn lane_bits(&self, worker: WorkerId) -> u64 {
        let Some(seat) = self.seats.get(worker.seat()) else { return 0 };
        let word = seat.lane.load(Ordering::Acquire);
        if word >> 3 == u64::from(worker.generation) { word & BITS } else { 0 }
    }

    fn change_lane(&self, worker: WorkerId, change: impl Fn(u64) -> u64) {
        let Some(seat) = self.seats.get(worker.seat()) else { return };
        // An error means another generation.
        let _late = seat.lane.fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| {
            let mine = word >> 3 == u64::from(worker.generation);
            mine.then(|| word >> 3 << 3 | change(word & BITS))
        });
    }

    /// Sessions of `worker`, and hand-offs that may become sessions.
    #[must_use]
    pub fn load(&self, worker: WorkerId) -> u32 {
        self.of(worker).map_or(0, |load| load.count(worker.generation))
    }

    /// Counts a hand-off to `worker` that may become a session.
    pub fn hope(&self, worker: WorkerId) -> Hope {
        let ticket = self.of(worker).map_or(0, |load| load.hope(worker.generation));
        Hope { worker, ticket }
    }

    /// The hand-off has failed.
    pub fn hope_fails(&self, worker: WorkerId) {
        if let Some(load) = self.of(worker) {
            load.hope_fails(worker.generation);
        }
    }

    /// The hand-off, and those before it, have had their time.
    pub fn hope_ends(&self, hope: Hope) {
        if let Some(load) = self.of(hope.worker) {
            load.hope_ends(hope.worker.generation, hope.ticket);
        }
    }

    /// Whether there are hand-offs anywhere that may yet become sessions.
    #[must_use]
    pub fn expects_sessions(&self) -> bool {
        let end = self.end.load(Ordering::Acquire);
        self.seats.iter().take(end).any(|seat| seat.load.hopes() > 0)
    }

    /// Sessions of `worker` have opened.
    pub fn opened(&self, worker: WorkerId, sessions: u32) {
        if let Some(load) = self.of(worker) {
            load.opened(worker.generation, sessions);
        }
    }

    /// Sessions of `worker` have closed.
    pub fn closed(&self, worker: WorkerId, sessions: u32) {
        if let Some(load) = self.of(worker) {
            load.closed(worker.generation, sessions);
        }
    }

    /// The preload of `worker` has reported, at this time of the shards' clock in milliseconds.
    pub fn reported(&self, worker: WorkerId, report: LoadReport, now: u64) {
        if let Some(load) = self.of(worker) {
            load.opened(worker.generation, report.opened);
            load.closed(worker.generation, report.closed);
            load.reported(report, now);
        }
    }

    /// What the preload of `worker` has reported last: event-loop utilisation, of a thousand, and
    /// delay in milliseconds, faded until this time of the shards' clock in milliseconds.
    #[must_use]
    pub fn pace(&self, worker: WorkerId, now: u64) -> (u32, u32) {
        self.of(worker).map_or((0, 0), |load| load.pace(now))
    }

    /// `worker` has taken a connection.
    pub fn took(&self, worker: WorkerId) {
        if let Some(load) = self.of(worker) {
            load.took();
        }
    }

    /// Connections that `worker` has taken.
    #[must_use]
    pub fn taken(&self, worker: WorkerId) -> u64 {
        self.of(worker).map_or(0, Load::taken)
    }

    /// So many bytes wait for `worker` on its channel.
    pub fn queued(&self, worker: WorkerId, bytes: usize) {
        if let Some(load) = self.of(worker) {
            load.queue(bytes as u64);
        }
    }

    /// Bytes that wait for `worker` on its channel.
    #[must_use]
    pub fn queue(&self, worker: WorkerId) -> u64 {
        self.of(worker).map_or(0, Load::queued)
    }

    /// Sockets of `worker` have been taken back from it after so long, at this time of the shards'
    /// clock in milliseconds.
    pub fn delayed(&self, worker: WorkerId, delay: Duration, now: u64) {
        if let Some(load) = self.of(worker) {
            load.delayed(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX), now);
        }
    }

    /// Sockets have lain unread in the lane of `worker` since then; 0: none do.
    pub fn unread(&self, worker: WorkerId, since: u64) {
        if let Some(load) = self.of(worker) {
            load.unread(since);
        }
    }

    /// What a new session would cost at `worker`: see `load.rs`.
    #[must_use]
    pub fn cost(&self, worker: WorkerId, now: u64) -> u64 {
        self.of(worker).map_or(u64::MAX, |load| load.cost(now))
    }

    /// The load of `worker`, if its seat is still its own.
    fn of(&self, worker: WorkerId) -> Option<&Load> {
        let load = &self.seats.get(worker.seat())?.load;
        load.is_of(worker.generation).then_some(load)
    }

    /// The next turn of a rotation over all shards.
    pub(super) fn next_turn(&self) -> usize {
        self.turn.fetch_add(1, Ordering::Relaxed) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(slot: u16, generation: u32) -> WorkerId {
        WorkerId { slot, generation }
    }

    #[test]
    fn a_worker_and_its_successor_live_side_by_side() {
        let roster = Roster::new();
        assert_eq!(roster.standing(worker(0, 1)), Standing::Gone);
        roster.set(worker(0, 1), Standing::Ready);
        assert_eq!(roster.standing(worker(0, 2)), Standing::Gone);
        roster.set(worker(0, 2), Standing::Starting);
        assert_eq!(roster.ready().collect::<Vec<_>>(), [worker(0, 1)]);
        roster.set(worker(0, 2), Standing::Ready);
        roster.set(worker(0, 1), Standing::Draining);
        roster.set(worker(1, 7), Standing::Draining);
        assert_eq!(roster.ready().collect::<Vec<_>>(), [worker(0, 2)]);
        assert_eq!(roster.standing(worker(0, 1)), Standing::Draining);
        assert_eq!(roster.at(worker(1, 7).seat()), Some((worker(1, 7), Standing::Draining)));
        assert_eq!((roster.at(MAX_SEATS), roster.slots()), (None, 2));
    }

    #[test]
    fn a_seat_knows_only_the_generation_that_has_it() {
        let roster = Roster::new();
        roster.set(worker(0, 1), Standing::Ready);
        roster.set(worker(0, 3), Standing::Starting);
        assert_eq!(roster.standing(worker(0, 1)), Standing::Gone);
        roster.set_gone(worker(0, 1));
        assert_eq!(roster.standing(worker(0, 3)), Standing::Starting);
        roster.set_gone(worker(0, 3));
        assert_eq!(roster.standing(worker(0, 3)), Standing::Gone);
    }

    #[test]
    fn late_counts_do_not_reach_the_next_in_the_seat() {
        let roster = Roster::new();
        roster.set(worker(0, 1), Standing::Ready);
        roster.opened(worker(0, 1), 2);
        assert_eq!(roster.load(worker(0, 1)), 2);
        roster.set(worker(0, 3), Standing::Starting);
        roster.opened(worker(0, 1), 1);
        roster.closed(worker(0, 1), 1);
        assert_eq!(roster.load(worker(0, 3)), 0);
        roster.closed(worker(0, 3), 1);
        assert_eq!(roster.load(worker(0, 3)), 0);
    }

    #[test]
    fn a_lane_is_its_workers_alone() {
        let roster = Roster::new();
        roster.set(worker(0, 1), Standing::Ready);
        roster.open_lane(worker(0, 1));
        roster.set_full(worker(0, 1), true);
        assert!(roster.has_lane(worker(0, 1)) && roster.is_full(worker(0, 1)));
        roster.set(worker(0, 2), Standing::Starting);
        roster.set(worker(0, 3), Standing::Starting);
        roster.open_lane(worker(0, 1));
        assert!(!roster.has_lane(worker(0, 1)) && !roster.has_lane(worker(0, 3)));
        assert!(!roster.is_full(worker(0, 2)));
    }
}
