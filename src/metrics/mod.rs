//! What is counted: one table of names, and one set of counters per shard.
//!
//! A counter is bumped by its own shard only (relaxed, its own cache lines) and read by anybody;
//! a total is the sum over the shards.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[doc = $help:literal])+ $name:ident => $label:literal,)+) => {
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
        }
    };
}

counters! {
    /// Connections accepted.
    Accepted => "accepted",
    /// Sockets that a worker took.
    HandedOff => "handed_off",
    /// Sockets given to another worker, because the first refused, died or went away.
    Redispatched => "redispatched",
    /// Connections that waited for the announcement of their session.
    ParkedForSession => "parked_for_session",
    /// Connections that waited for a worker to be ready.
    ParkedForWorker => "parked_for_worker",
    /// Requests whose session nobody knew, routed by the hash of its id.
    UnknownSession => "unknown_session",
    /// Clients that went away before they had said what they want.
    Abandoned => "abandoned",
    /// Refused: the bytes are not HTTP (400).
    RefusedNotHttp => "refused_not_http",
    /// Refused: HTTP/2 without TLS (400).
    RefusedHttp2 => "refused_http2",
    /// Refused: a TLS handshake on a plain port (400).
    RefusedTls => "refused_tls",
    /// Refused: request line too long (414).
    RefusedTooLong => "refused_too_long",
    /// Refused: the request line was not complete in time (408).
    RefusedTimeout => "refused_timeout",
    /// Refused: no worker was ready in time (503).
    RefusedNoWorker => "refused_no_worker",
    /// Times that accepting paused, out of descriptors or at the bound on waiting connections.
    AcceptPaused => "accept_paused",
    /// Adapter packets received from workers.
    PacketsIn => "packets_in",
    /// Adapter packets queued for workers.
    PacketsOut => "packets_out",
    /// Times that reading from workers was held back because a worker or a ring was full.
    HeldBack => "held_back",
    /// Workers cut off for frames that are not frames.
    Malformed => "malformed",
    /// Workers cut off because they took nothing from a full queue.
    Stalled => "stalled",
    /// Session announcements that could not be kept (id too long, table full).
    SessionsRefused => "sessions_refused",
    /// Sockets that workers sent to the router without a word of the preload's, and were closed.
    SocketsFromWorkers => "sockets_from_workers",
    /// Connections that a worker gave back, because their next request is another worker's.
    Returned => "returned",
    /// Sockets on a lane that nobody had a descriptor for: their clients were cut off.
    Lost => "lost",
    /// Closed: the header of the PROXY protocol is missing or malformed.
    ClosedNoProxy => "closed_no_proxy",
    /// Closed: the PROXY protocol spoken by somebody who is not trusted.
    ClosedUntrusted => "closed_untrusted",
}

/// The counters of one shard.
#[derive(Debug)]
pub struct Counters([AtomicU64; Counter::ALL.len()]);

impl Counters {
    /// All at zero.
    #[must_use]
    pub fn new() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }

    /// Counts one more.
    pub fn bump(&self, counter: Counter) {
        self.add(counter, 1);
    }

    /// Counts `n` more.
    pub fn add(&self, counter: Counter, n: u64) {
        if let Some(cell) = self.0.get(counter as usize) {
            cell.fetch_add(n, Ordering::Relaxed);
        }
    }

    /// The count so far.
    #[must_use]
    pub fn read(&self, counter: Counter) -> u64 {
        self.0.get(counter as usize).map_or(0, |cell| cell.load(Ordering::Relaxed))
    }
}

/// Sums over shards, printed as `name=count` for all that are not zero.
#[derive(Debug)]
pub struct Totals<'a>(pub Vec<&'a Counters>);

impl fmt::Display for Totals<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut space = "";
        for counter in Counter::ALL {
            let total: u64 = self.0.iter().map(|counters| counters.read(*counter)).sum();
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
        let text = Totals(vec![&a, &b]).to_string();
        assert_eq!(text, "accepted=3 refused_tls=1");
    }

    #[test]
    fn no_two_counters_share_a_name() {
        let mut names: Vec<_> = Counter::ALL.iter().map(|counter| counter.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Counter::ALL.len());
    }
}
