//! What is counted: one table of names, and one set of counters per shard.
//!
//! A counter is bumped by its own shard only (relaxed, its own cache lines) and read by anybody;
//! a total is the sum over the shards. What is measured besides is in `snapshot.rs`, and how both look
//! to a monitoring system in `exposition.rs`.

pub mod exposition;
pub mod latency;
pub mod snapshot;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use self::latency::{Latency, Recorded, Way};

macro_rules! reason {
    () => {
        None
    };
    ($reason:literal) => {
        Some($reason)
    };
}

macro_rules! counters {
    ($($(#[doc = $help:literal])+ $name:ident => $label:literal, $family:literal $(($reason:literal))?;)+) => {
        /// Everything that is counted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Counter { $($(#[doc = $help])+ $name,)+ }

        impl Counter {
            /// All counters, in the order they are printed.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// The name that logs and metrics print.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $label,)+ }
            }

            /// What it is of: a metric, and a reason where that has several.
            #[must_use]
            pub const fn metric(self) -> (&'static str, Option<&'static str>) {
                match self { $(Self::$name => ($family, reason!($($reason)?)),)+ }
            }
        }
    };
}

counters! {
    /// Connections accepted.
    Accepted => "accepted", "connections_accepted";
    /// Sockets that a worker took whom the balance had picked: they name no session.
    HandedOffBalanced => "handed_off_balanced", "connections_handed_off" ("balance");
    /// Sockets that a worker took because their session's id names it.
    HandedOffNamed => "handed_off_named", "connections_handed_off" ("named");
    /// Sockets that a worker took because it had announced their session.
    HandedOffAnnounced => "handed_off_announced", "connections_handed_off" ("announced");
    /// Sockets that a worker took by the hash of a session id that nobody knew.
    HandedOffUnknown => "handed_off_unknown", "connections_handed_off" ("unknown");
    /// Sockets that a worker took by the hash of their client's address.
    HandedOffAddress => "handed_off_address", "connections_handed_off" ("address");
    /// Sockets given to another worker, because the first refused, died or went away.
    Redispatched => "redispatched", "connections_redispatched";
    /// Connections that waited for the announcement of their session.
    ParkedForSession => "parked_for_session", "connections_parked" ("session");
    /// Connections that waited for a worker to be ready.
    ParkedForWorker => "parked_for_worker", "connections_parked" ("worker");
    /// Requests whose session nobody knew, routed by the hash of its id.
    UnknownSession => "unknown_session", "sessions_unknown";
    /// Clients that went away before they had said what they want.
    Abandoned => "abandoned", "connections_abandoned";
    /// Refused: the bytes are not HTTP (400).
    RefusedNotHttp => "refused_not_http", "connections_refused" ("not_http");
    /// Refused: HTTP/2 without TLS (400).
    RefusedHttp2 => "refused_http2", "connections_refused" ("http2");
    /// Refused: a TLS handshake on a plain port (400).
    RefusedTls => "refused_tls", "connections_refused" ("tls");
    /// Refused: request line too long (414).
    RefusedTooLong => "refused_too_long", "connections_refused" ("too_long");
    /// Refused: the request line was not complete in time (408).
    RefusedTimeout => "refused_timeout", "connections_refused" ("timeout");
    /// Refused: no worker was ready in time (503).
    RefusedNoWorker => "refused_no_worker", "connections_refused" ("no_worker");
    /// Times that accepting paused, out of descriptors or at the bound on waiting connections.
    AcceptPaused => "accept_paused", "accept_pauses";
    /// Adapter packets received from workers.
    PacketsIn => "packets_in", "packets_received";
    /// Adapter packets queued for workers.
    PacketsOut => "packets_out", "packets_queued";
    /// Bytes of the adapter packets received.
    BytesIn => "bytes_in", "packets_received_bytes";
    /// Bytes of the adapter packets queued, once for each worker that gets them.
    BytesOut => "bytes_out", "packets_queued_bytes";
    /// Times that reading from workers was held back because a worker or a ring was full.
    HeldBack => "held_back", "relay_pauses";
    /// Workers cut off for frames that are not frames.
    Malformed => "malformed", "workers_cut_off" ("malformed");
    /// Workers cut off because they took nothing from a full queue.
    Stalled => "stalled", "workers_cut_off" ("stalled");
    /// Session announcements that could not be kept (id too long, table full).
    SessionsRefused => "sessions_refused", "sessions_refused";
    /// Sockets that workers sent to the router without a word of the preload's, and were closed.
    SocketsFromWorkers => "sockets_from_workers", "sockets_from_workers";
    /// Connections that a worker gave back, because their next request is another worker's.
    Returned => "returned", "connections_returned";
    /// Sockets on a lane that nobody had a descriptor for: their clients were cut off.
    Lost => "lost", "connections_lost";
    /// Closed: the header of the PROXY protocol is missing or malformed.
    ClosedNoProxy => "closed_no_proxy", "connections_refused" ("no_proxy_header");
    /// Closed: the PROXY protocol spoken by somebody who is not trusted.
    ClosedUntrusted => "closed_untrusted", "connections_refused" ("untrusted_proxy");
    /// Packets of this host's that Redis has taken.
    BusSent => "bus_sent", "bus_packets_sent";
    /// Packets of other hosts passed on to workers.
    BusReceived => "bus_received", "bus_packets_received";
    /// Packets that stayed on this host: the bus's thread was busy and its ring full.
    BusRingFull => "bus_ring_full", "bus_packets_dropped" ("busy");
    /// Packets that stayed on this host: Redis was away or slow, and the backlog full.
    BusBacklogFull => "bus_backlog_full", "bus_packets_dropped" ("backlog");
    /// Packets that stayed on this host: neither JSON nor MessagePack has a form for what they hold.
    BusUntranslatable => "bus_untranslatable", "bus_packets_dropped" ("untranslatable");
    /// Packets of which Redis did not say whether it took them, and that are not sent again.
    BusUnsure => "bus_unsure", "bus_packets_dropped" ("unsure");
    /// What came from Redis and is no packet, or one that would hurt a worker.
    BusSkipped => "bus_skipped", "bus_packets_skipped";
    /// Entries of the stream that were trimmed before this host had read them.
    BusMissed => "bus_missed", "bus_packets_missed";
    /// Connections to Redis that were made.
    BusConnected => "bus_connected", "bus_connections";
}

/// What the metrics mean that counters are of.
pub const FAMILIES: &[(&str, &str)] = &[
    ("accept_pauses", "Times that accepting paused, out of descriptors or at a bound"),
    ("bus_connections", "Connections to Redis that were made, after losses too"),
    ("bus_packets_dropped", "Packets that stayed on this host, by why"),
    (
        "bus_packets_missed",
        "Entries of the stream that were trimmed before this host had read them",
    ),
    ("bus_packets_received", "Packets of other hosts passed on to workers"),
    ("bus_packets_sent", "Packets of this host's that Redis has taken"),
    ("bus_packets_skipped", "What came from Redis and is no packet"),
    ("connections_abandoned", "Clients that went away before they had said what they want"),
    ("connections_accepted", "Connections accepted"),
    ("connections_handed_off", "Connections that a worker took, by how it was chosen"),
    ("connections_lost", "Connections cut off for want of a descriptor in a worker and here"),
    ("connections_parked", "Connections that waited, by what for"),
    ("connections_redispatched", "Connections given to another worker than the first"),
    ("connections_refused", "Connections refused, by why"),
    ("connections_returned", "Connections that a worker gave back for another's request"),
    ("packets_queued", "Adapter packets queued for workers"),
    ("packets_queued_bytes", "Bytes of the adapter packets queued for workers"),
    ("packets_received", "Adapter packets received from workers"),
    ("packets_received_bytes", "Bytes of the adapter packets received from workers"),
    ("relay_pauses", "Times that reading from workers was held back by a full queue"),
    ("sessions_refused", "Announced sessions that could not be kept"),
    ("sessions_unknown", "Requests routed by the hash of a session id that nobody knew"),
    ("sockets_from_workers", "Sockets that workers sent without a word, and were closed"),
    ("workers_cut_off", "Workers cut off, by why"),
];

/// The counters of one shard, on cache lines of their own.
#[derive(Debug)]
#[repr(align(128))]
pub struct Counters {
    counts: [AtomicU64; Counter::ALL.len()],
    /// By [`Way`].
    latency: [Latency; Way::ALL.len()],
}

impl Counters {
    /// All at zero.
    #[must_use]
    pub fn new() -> Self {
        Self {
            counts: std::array::from_fn(|_| AtomicU64::new(0)),
            latency: Way::ALL.map(|_| Latency::new()),
        }
    }

    /// How long it takes to hand a socket off in this way.
    #[must_use]
    pub fn latency(&self, way: Way) -> &Latency {
        let [lane, ipc] = &self.latency;
        match way {
            Way::Lane => lane,
            Way::Ipc => ipc,
        }
    }

    /// Counts a connection that a worker took, for this reason, so long after it was accepted.
    pub fn handed_off(&self, reason: Counter, way: Way, latency: Duration) {
        self.bump(reason);
        self.latency(way).record(latency);
    }

    /// Counts one more.
    pub fn bump(&self, counter: Counter) {
        self.add(counter, 1);
    }

    /// Counts `n` more.
    pub fn add(&self, counter: Counter, n: u64) {
        if let Some(cell) = self.counts.get(counter as usize) {
            cell.fetch_add(n, Ordering::Relaxed);
        }
    }

    /// The count so far.
    #[must_use]
    pub fn read(&self, counter: Counter) -> u64 {
        self.counts.get(counter as usize).map_or(0, |cell| cell.load(Ordering::Relaxed))
    }
}

/// The sums over these shards.
pub fn totals(shards: &[Counters]) -> impl Iterator<Item = (Counter, u64)> {
    let total = |counter| shards.iter().map(|counters| counters.read(counter)).sum();
    Counter::ALL.iter().map(move |counter| (*counter, total(*counter)))
}

/// The latencies of this way over these shards.
#[must_use]
pub fn latencies(shards: &[Counters], way: Way) -> Recorded {
    Recorded::of(shards.iter().map(|counters| counters.latency(way)))
}

/// What a shard has in hand at the end of its turn: written by it, read by anybody.
#[derive(Debug, Default)]
pub struct Gauges {
    /// Connections.
    pub held: AtomicU64,
    /// Those of them that wait for a worker.
    pub awaiting_worker: AtomicU64,
}

/// Sums over shards, printed as `name=count` for all that are not zero.
#[derive(Debug)]
pub struct Totals<'a>(pub &'a [Counters]);

impl fmt::Display for Totals<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut space = "";
        for (counter, total) in totals(self.0) {
            if total > 0 {
                write!(f, "{space}{}={total}", counter.name())?;
                space = " ";
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_sums_and_zeroes_are_not_printed() {
        let (a, b) = (Counters::new(), Counters::new());
        a.bump(Counter::Accepted);
        b.add(Counter::Accepted, 2);
        b.bump(Counter::RefusedTls);
        let text = Totals(&[a, b]).to_string();
        assert_eq!(text, "accepted=3 refused_tls=1");
    }

    #[test]
    fn every_counter_is_of_a_metric_that_is_explained() {
        for counter in Counter::ALL {
            let (family, _) = counter.metric();
            assert!(FAMILIES.iter().any(|(name, _)| *name == family), "{family}");
        }
        for (name, _) in FAMILIES {
            let mut reasons: Vec<_> = Counter::ALL
                .iter()
                .filter(|counter| counter.metric().0 == *name)
                .map(|counter| counter.metric().1)
                .collect();
            let all = reasons.len();
            assert!(all == 1 || reasons.iter().all(Option::is_some), "{name}");
            reasons.sort_unstable();
            reasons.dedup();
            assert!(all > 0 && reasons.len() == all, "{name}");
        }
    }

    #[test]
    fn no_two_counters_share_a_name() {
        let mut names: Vec<_> = Counter::ALL.iter().map(|counter| counter.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Counter::ALL.len());
    }
}
