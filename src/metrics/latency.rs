//! How long connections are in the router's hands: from accept until a worker has the socket.
//!
//! A fixed list of bounds, and a counter for each: nothing is locked, nothing is allocated, and a
//! record costs a short search and two additions on cache lines that only its own shard writes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Upper bounds of the buckets, in microseconds; what is above the last has a bucket, too.
pub const BOUNDS_US: [u64; 18] = [
    25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 5_000_000, 10_000_000,
];

/// The bucket of what is above all bounds, and how many there are with it.
const ABOVE: usize = BOUNDS_US.len();

/// When a socket is the worker's, which the two ways of handing it off know at different moments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The kernel has taken it for the worker's lane.
    Lane,
    /// The worker has said that it has it.
    Ipc,
}

impl Way {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Lane, Self::Ipc];

    /// As `--handoff` calls it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lane => "lane",
            Self::Ipc => "ipc",
        }
    }
}

/// The latencies of one shard and one way.
#[derive(Debug)]
pub struct Latency {
    counts: [AtomicU64; ABOVE + 1],
    /// Nanoseconds; they are enough for 500 years.
    sum: AtomicU64,
}

impl Latency {
    /// None recorded.
    #[must_use]
    pub fn new() -> Self {
        Self { counts: std::array::from_fn(|_| AtomicU64::new(0)), sum: AtomicU64::new(0) }
    }

    /// Counts one.
    pub fn record(&self, latency: Duration) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_US.partition_point(|bound| bound * 1000 < nanos);
        if let Some(count) = self.counts.get(bucket) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.sum.fetch_add(nanos, Ordering::Relaxed);
    }

    /// Adds what another process has recorded. Other bounds than these cannot be added to.
    pub fn add(&self, recorded: &Recorded) {
        if recorded.bounds != Recorded::bounds() {
            return;
        }
        for (count, more) in self.counts.iter().zip(&recorded.counts) {
            count.fetch_add(*more, Ordering::Relaxed);
        }
        let nanos = Duration::try_from_secs_f64(recorded.sum).unwrap_or_default().as_nanos();
        self.sum.fetch_add(u64::try_from(nanos).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// What has been recorded by several shards.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Recorded {
    /// Upper bounds of the buckets but the last, in seconds.
    pub bounds: Vec<f64>,
    /// Latencies in each bucket, not in those below it.
    pub counts: Vec<u64>,
    /// Of all latencies, in seconds.
    pub sum: f64,
}

impl Recorded {
    /// The sums over these.
    pub fn of<'a>(shards: impl IntoIterator<Item = &'a Latency>) -> Self {
        let mut counts = vec![0; ABOVE + 1];
        let mut nanos = 0_u64;
        for latency in shards {
            for (sum, count) in counts.iter_mut().zip(&latency.counts) {
                *sum += count.load(Ordering::Relaxed);
            }
            nanos = nanos.saturating_add(latency.sum.load(Ordering::Relaxed));
        }
        Self { bounds: Self::bounds(), counts, sum: Duration::from_nanos(nanos).as_secs_f64() }
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    fn bounds() -> Vec<f64> {
        BOUNDS_US.iter().map(|bound| Duration::from_micros(*bound).as_secs_f64()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_latency_is_in_the_first_bucket_that_holds_it() {
        let latency = Latency::new();
        for nanos in [0, 25_000, 25_001, 10_000_000_000, 10_000_000_001] {
            latency.record(Duration::from_nanos(nanos));
        }
        let recorded = Recorded::of([&latency]);
        let (first, rest) = recorded.counts.split_at(2);
        assert_eq!(first, [2, 1]);
        assert_eq!(rest[ABOVE - 3..], [1, 1]);
        assert_eq!(recorded.count(), 5);
        assert_eq!(recorded.bounds.len() + 1, recorded.counts.len());
    }

    #[test]
    fn it_goes_on_after_an_upgrade_if_the_bounds_are_the_same() {
        let before = Latency::new();
        before.record(Duration::from_millis(3));
        let recorded = Recorded::of([&before]);
        let after = Latency::new();
        after.record(Duration::from_secs(60));
        after.add(&recorded);
        let both = Recorded::of([&after]);
        assert_eq!((both.count(), both.sum.round()), (2, 60.0));
        after.add(&Recorded { bounds: vec![1.0], ..recorded });
        assert_eq!(Recorded::of([&after]), both);
    }
}
