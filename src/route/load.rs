//! How much one worker has to do: its sessions, the hand-offs that may become sessions, and how
//! soon it answers.
//!
//! A hand-off counts the moment it is decided, not when the worker speaks of it, so that many at
//! once are spread; it is then a *hope*: a session settles it, or [`HOPE`] passes. Hopes are
//! numbered as they are issued and settled oldest first, so both need one counter, and whichever of
//! two shards and a worker comes first, none is settled twice.
//!
//! The pace is what the preload reports (event-loop utilisation and delay) and what the shards see
//! (sockets that lie unread in the worker's lane). Peaks count at once and fade by half a second
//! (peak-sensitive, as Finagle's "peak EWMA").

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How long a hand-off counts as load in the hope that it becomes a session.
pub const HOPE: Duration = Duration::from_secs(2);
/// How long a fresh worker gets less than its share; its code is cold and its caches are empty.
pub const SLOW_START: Duration = Duration::from_secs(10);
/// In how many milliseconds a reported delay loses half of its weight.
const HALF_LIFE_MS: u64 = 500;
/// Of a thousand: an event loop that does nothing but work.
const BUSY: u64 = 1000;

/// What the preload reports a few times a second, if anything has moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Event-loop utilisation since the last report, of a thousand.
    pub utilisation: u32,
    /// How late a timer was, in milliseconds.
    pub delay_ms: u32,
    /// Sessions opened since the last report.
    pub opened: u32,
    /// Sessions closed since the last report.
    pub closed: u32,
}

/// A load as it crosses an upgrade.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Frozen {
    sessions: u32,
    pub(super) hopes: u32,
    utilisation: u32,
    delay_ms: u32,
    delay_at: u64,
    ready_since: u64,
    #[serde(default)]
    taken: u64,
}

/// The number of a hope: see [`Load::hope`].
pub(super) type Ticket = u64;

/// One slot's load. Times are milliseconds of the shards' common clock; 0 is "never".
#[derive(Debug, Default)]
pub(super) struct Load {
    /// Generation << 32 | sessions and hopes.
    count: AtomicU64,
    issued: AtomicU64,
    settled: AtomicU64,
    utilisation: AtomicU32,
    delay_ms: AtomicU32,
    delay_at: AtomicU64,
    /// Since when sockets lie unread in the lane.
    unread_since: AtomicU64,
    ready_since: AtomicU64,
    /// Connections it has taken.
    taken: AtomicU64,
    /// Bytes that wait for it on its channel.
    queued: AtomicU64,
}

impl Load {
    /// A new process begins with nothing; late counts of its predecessor are nobody's.
    pub(super) fn begin(&self, generation: u32) {
        self.count.store(u64::from(generation) << 32, Ordering::Relaxed);
        self.settled.store(self.issued.load(Ordering::Relaxed), Ordering::Relaxed);
        self.utilisation.store(0, Ordering::Relaxed);
        self.delay_ms.store(0, Ordering::Relaxed);
        self.unread_since.store(0, Ordering::Relaxed);
        self.ready_since.store(0, Ordering::Relaxed);
        self.taken.store(0, Ordering::Relaxed);
        self.queued.store(0, Ordering::Relaxed);
    }

    /// The load of the worker of this generation, for another process.
    pub(super) fn freeze(&self, generation: u32) -> Frozen {
        let hopes = u32::try_from(self.hopes()).unwrap_or(u32::MAX);
        Frozen {
            sessions: self.count(generation).saturating_sub(hopes),
            hopes,
            utilisation: self.utilisation.load(Ordering::Relaxed),
            delay_ms: self.delay_ms.load(Ordering::Relaxed),
            delay_at: self.delay_at.load(Ordering::Relaxed),
            ready_since: self.ready_since.load(Ordering::Relaxed),
            taken: self.taken(),
        }
    }

    /// Takes over what another process has frozen; its hopes begin anew, by the caller.
    pub(super) fn thaw(&self, generation: u32, frozen: &Frozen) {
        self.begin(generation);
        self.opened(generation, frozen.sessions);
        self.utilisation.store(frozen.utilisation, Ordering::Relaxed);
        self.delay_ms.store(frozen.delay_ms, Ordering::Relaxed);
        self.delay_at.store(frozen.delay_at, Ordering::Relaxed);
        self.ready_since.store(frozen.ready_since, Ordering::Relaxed);
        self.taken.store(frozen.taken, Ordering::Relaxed);
    }

    /// Event-loop utilisation, of a thousand, and delay in milliseconds, as of now.
    pub(super) fn pace(&self, now: u64) -> (u32, u32) {
        let delay = u32::try_from(self.delay(now)).unwrap_or(u32::MAX);
        (self.utilisation.load(Ordering::Relaxed), delay)
    }

    /// It has taken a connection.
    pub(super) fn took(&self) {
        self.taken.fetch_add(1, Ordering::Relaxed);
    }

    /// Connections it has taken.
    pub(super) fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// So many bytes wait for it on its channel. Most of the time that is no news, and then the
    /// other shards keep what they have cached.
    pub(super) fn queue(&self, bytes: u64) {
        if self.queued() != bytes {
            self.queued.store(bytes, Ordering::Relaxed);
        }
    }

    /// Bytes that wait for it on its channel.
    pub(super) fn queued(&self) -> u64 {
        self.queued.load(Ordering::Relaxed)
    }

    /// Whether the counts are of this generation.
    pub(super) fn is_of(&self, generation: u32) -> bool {
        self.count.load(Ordering::Relaxed) >> 32 == u64::from(generation)
    }

    /// Sessions and hopes of the worker of this generation.
    pub(super) fn count(&self, generation: u32) -> u32 {
        let word = self.count.load(Ordering::Relaxed);
        if word >> 32 == u64::from(generation) { low(word) } else { 0 }
    }

    /// A hand-off without a session is decided.
    pub(super) fn hope(&self, generation: u32) -> Ticket {
        self.change(generation, |count| count.saturating_add(1));
        self.issued.fetch_add(1, Ordering::Relaxed)
    }

    /// Hopes that are open.
    pub(super) fn hopes(&self) -> u64 {
        let settled = self.settled.load(Ordering::Relaxed);
        self.issued.load(Ordering::Relaxed).saturating_sub(settled)
    }

    /// So many sessions have opened: each settles a hope, and is counted already, or counts.
    pub(super) fn opened(&self, generation: u32, sessions: u32) {
        let hoped = self.settle(u64::from(sessions));
        let surprising = sessions - hoped;
        self.change(generation, |count| count.saturating_add(surprising));
    }

    /// So many sessions have closed.
    pub(super) fn closed(&self, generation: u32, sessions: u32) {
        self.change(generation, |count| count.saturating_sub(sessions));
    }

    /// A hand-off has failed, or was one of a session that was counted already.
    pub(super) fn hope_fails(&self, generation: u32) {
        let settled = self.settle(1);
        self.closed(generation, settled);
    }

    /// This hope, and those before it, have had their time.
    pub(super) fn hope_ends(&self, generation: u32, ticket: Ticket) {
        if !self.is_of(generation) {
            return;
        }
        let before = self.settled.fetch_max(ticket + 1, Ordering::Relaxed);
        let ended = (ticket + 1).saturating_sub(before);
        self.closed(generation, u32::try_from(ended).unwrap_or(u32::MAX));
    }

    /// Settles up to so many hopes; gives how many.
    fn settle(&self, most: u64) -> u32 {
        let issued = self.issued.load(Ordering::Relaxed);
        let before = self.settled.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |settled| {
            let open = issued.saturating_sub(settled);
            (open > 0).then(|| settled + open.min(most))
        });
        let done = before.map_or(0, |settled| issued.saturating_sub(settled).min(most));
        u32::try_from(done).unwrap_or(u32::MAX)
    }

    fn change(&self, generation: u32, change: impl Fn(u32) -> u32) {
        // An error means another generation: the count is nobody's any more.
        let _late = self.count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
            let mine = word >> 32 == u64::from(generation);
            mine.then(|| word >> 32 << 32 | u64::from(change(low(word))))
        });
    }

    /// The worker takes sessions from now on.
    pub(super) fn ready(&self, now: u64) {
        // An error means that it has been ready for longer.
        let since = &self.ready_since;
        let _first = since.compare_exchange(0, now.max(1), Ordering::Relaxed, Ordering::Relaxed);
    }

    /// The preload has reported.
    pub(super) fn reported(&self, report: LoadReport, now: u64) {
        self.utilisation.store(report.utilisation, Ordering::Relaxed);
        self.delayed(u64::from(report.delay_ms), now);
    }

    /// It was seen to answer this late.
    pub(super) fn delayed(&self, delay_ms: u64, now: u64) {
        // A smaller one leaves the peak to fade from when it was, however often it comes.
        if delay_ms >= self.delay(now) {
            self.delay_ms.store(u32::try_from(delay_ms).unwrap_or(u32::MAX), Ordering::Relaxed);
            self.delay_at.store(now, Ordering::Relaxed);
        }
    }

    /// Sockets lie unread in the worker's lane since then; 0: none do.
    pub(super) fn unread(&self, since: u64) {
        self.unread_since.store(since, Ordering::Relaxed);
    }

    /// The reported delay as of now: half after each half-life.
    fn delay(&self, now: u64) -> u64 {
        let age = now.saturating_sub(self.delay_at.load(Ordering::Relaxed));
        let halvings = u32::try_from(age / HALF_LIFE_MS).unwrap_or(u32::MAX);
        u64::from(self.delay_ms.load(Ordering::Relaxed)).checked_shr(halvings).unwrap_or(0)
    }

    /// How long a new session would have to wait here, as a number to compare: the delay there is,
    /// times what is already on its way, times how little of the loop is free; more for a fresh
    /// worker.
    pub(super) fn cost(&self, now: u64) -> u64 {
        let unread = match self.unread_since.load(Ordering::Relaxed) {
            0 => 0,
            since => now.saturating_sub(since),
        };
        let delay = unread.max(self.delay(now)) + 1;
        let waiting = self.hopes() + 1;
        let busy = u64::from(self.utilisation.load(Ordering::Relaxed)).min(BUSY);
        let age = now.saturating_sub(self.ready_since.load(Ordering::Relaxed)).max(1);
        let full = u64::try_from(SLOW_START.as_millis()).unwrap_or(u64::MAX);
        let cold = if age < full { full * 16 / age } else { 16 };
        let scale = (BUSY * 16) / (BUSY + 1 - busy);
        delay.saturating_mul(waiting).saturating_mul(scale).saturating_mul(cold)
    }
}

fn low(word: u64) -> u32 {
    u32::try_from(word & u64::from(u32::MAX)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load() -> Load {
        let load = Load::default();
        load.begin(1);
        load
    }

    #[test]
    fn a_hope_becomes_a_session_and_is_counted_once() {
        let load = load();
        load.hope(1);
        load.hope(1);
        assert_eq!((load.count(1), load.hopes()), (2, 2));
        load.opened(1, 1);
        assert_eq!((load.count(1), load.hopes()), (2, 1));
        load.opened(1, 3);
        assert_eq!((load.count(1), load.hopes()), (4, 0), "two were not hoped for");
        load.closed(1, 4);
        assert_eq!(load.count(1), 0);
    }

    #[test]
    fn hopes_end_once_whoever_is_first() {
        let load = load();
        let tickets = [load.hope(1), load.hope(1), load.hope(1)];
        load.opened(1, 1);
        load.hope_ends(1, tickets[0]);
        assert_eq!((load.count(1), load.hopes()), (3, 2), "the first became a session");
        load.hope_ends(1, tickets[2]);
        assert_eq!((load.count(1), load.hopes()), (1, 0));
        load.hope_ends(1, tickets[1]);
        assert_eq!(load.count(1), 1);
        load.hope(1);
        load.hope_fails(1);
        assert_eq!((load.count(1), load.hopes()), (1, 0));
        load.hope_fails(1);
        assert_eq!(load.count(1), 1, "there was no hope left to fail");
    }

    #[test]
    fn a_successor_begins_with_nothing() {
        let load = load();
        let ticket = load.hope(1);
        load.begin(2);
        load.hope_ends(1, ticket);
        load.opened(1, 1);
        load.closed(1, 1);
        assert_eq!((load.count(2), load.hopes()), (0, 0));
        load.hope(2);
        load.hope_ends(1, ticket);
        assert_eq!((load.count(2), load.hopes()), (1, 1));
    }

    #[test]
    fn a_peak_counts_at_once_and_fades() {
        let load = load();
        load.ready(1);
        let now = 60_000;
        let calm = load.cost(now);
        load.reported(LoadReport { delay_ms: 200, ..LoadReport::default() }, now);
        let peak = load.cost(now);
        assert!(peak > 100 * calm);
        load.reported(LoadReport::default(), now + 10);
        assert_eq!(load.cost(now + 20), peak, "one calm report does not undo it");
        assert!(load.cost(now + 1100) < peak / 2);
        for after in (10..2000).step_by(10) {
            load.reported(LoadReport::default(), now + after);
        }
        assert!(load.cost(now + 2000) < peak / 8, "calm reports do not keep it up");
        assert_eq!(load.pace(now + 1100), (0, 50));
        assert_eq!(load.cost(now + 60_000), calm);
    }

    #[test]
    fn a_delay_that_was_seen_counts_as_one_that_was_reported() {
        let load = load();
        load.ready(1);
        let now = 60_000;
        let calm = load.cost(now);
        load.delayed(125, now);
        assert!(load.cost(now) > 100 * calm);
        load.unread(0);
        assert!(load.cost(now + 1000) > 20 * calm, "an empty lane does not undo it");
    }

    #[test]
    fn cost_grows_with_what_waits_and_with_utilisation_and_a_fresh_worker_costs_more() {
        let load = load();
        load.ready(1000);
        let now = 60_000;
        let idle = load.cost(now);
        load.reported(LoadReport { utilisation: 900, ..LoadReport::default() }, now);
        let busy = load.cost(now);
        assert!(busy > 8 * idle);
        load.hope(1);
        assert_eq!(load.cost(now), 2 * busy);
        load.unread(now - 50);
        assert_eq!(load.cost(now), 2 * 51 * busy);
        load.unread(0);
        load.hope_fails(1);
        assert!(load.cost(2000) >= 9 * load.cost(now), "one second old");
    }
}
