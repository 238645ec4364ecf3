//! What this host has to say and Redis has not taken: in order, bounded, and once.
//!
//! ```text
//!   push ─► waiting ─► take ─► flying ─► landed
//!              ▲                 │ the connection broke, perhaps before the answer
//!              └──── settle ◄────┘ what Redis has of it is known from the stream
//! ```
//!
//! Whether Redis took an entry whose answer was lost nobody can say but the stream itself: so every
//! entry carries a number, and what comes back with it was taken. It goes again under the same one, by
//! which others know what a Redis that is gone had told them already ([`super::repeats`]). What was published on a channel
//! leaves no trace; it is not sent again, since a request that is asked twice is answered twice.

use std::collections::VecDeque;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::ipc::Serialization;
use crate::route::WorkerId;
use crate::shard::ring::Outgoing;

/// Packets that wait for Redis; further ones stay on this host.
pub const MAX_PACKETS: usize = 100_000;
/// Bytes of them.
pub const MAX_BYTES: usize = 256 << 20;

/// A packet that waits.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Held {
    /// The frame, as its sender wrote it.
    pub frame: Bytes,
    /// How.
    pub serialization: Serialization,
    /// Who sent it.
    pub from: WorkerId,
    /// The number of the entry that it was made before: it is the same entry when it goes again.
    #[serde(default)]
    pub number: Option<u64>,
}

impl From<Outgoing> for Held {
    fn from(outgoing: Outgoing) -> Self {
        let Outgoing { frame, serialization, from } = outgoing;
        Self { frame, serialization, from, number: None }
    }
}

/// A packet that is on its way.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Flying {
    held: Held,
    /// Its number, if it is an entry.
    number: Option<u64>,
}

/// See the module's text.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Backlog {
    waiting: VecDeque<Held>,
    flying: VecDeque<Flying>,
    bytes: usize,
}

/// What became of what was on its way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// Redis has them.
    pub landed: u64,
    /// Nobody knows, and they are not sent again.
    pub unsure: u64,
}

impl Backlog {
    /// Keeps a packet. `false`: there is no room.
    pub fn push(&mut self, held: Held) -> bool {
        let bytes = self.bytes.saturating_add(held.frame.len());
        if self.len() >= MAX_PACKETS || (bytes > MAX_BYTES && self.bytes > 0) {
            return false;
        }
        self.bytes = bytes;
        self.waiting.push_back(held);
        true
    }

    /// Packets in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len().saturating_add(self.flying.len())
    }

    /// Whether some are on their way.
    #[must_use]
    pub fn flies(&self) -> bool {
        !self.flying.is_empty()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of them.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// The oldest that waits.
    pub fn take(&mut self) -> Option<Held> {
        let held = self.waiting.pop_front()?;
        self.bytes = self.bytes.saturating_sub(held.frame.len());
        Some(held)
    }

    /// It is on its way, as an entry of this number or on a channel.
    pub fn fly(&mut self, held: Held, number: Option<u64>) {
        self.bytes = self.bytes.saturating_add(held.frame.len());
        self.flying.push_back(Flying { held, number });
    }

    /// Redis has answered for all that was on its way.
    pub fn landed(&mut self) {
        for flying in self.flying.drain(..) {
            self.bytes = self.bytes.saturating_sub(flying.held.frame.len());
        }
    }

    /// The connection broke, and the stream has been read to its end since: Redis has all entries
    /// up to the number `echoed`. `gap`: entries were trimmed unread, so that it may have had more.
    pub fn settle(&mut self, echoed: u64, gap: bool) -> Settled {
        let mut settled = Settled::default();
        for flying in std::mem::take(&mut self.flying).into_iter().rev() {
            match flying.number {
                Some(number) if number > echoed && !gap => {
                    let number = Some(number);
                    self.waiting.push_front(Held { number, ..flying.held });
                    continue;
                }
                Some(number) if number <= echoed => settled.landed += 1,
                _ => settled.unsure += 1,
            }
            self.bytes = self.bytes.saturating_sub(flying.held.frame.len());
        }
        settled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(n: usize) -> Held {
        Held {
            frame: Bytes::from(vec![0; n]),
            serialization: Serialization::Json,
            from: WorkerId { slot: 0, generation: 1 },
            number: None,
        }
    }

    fn waiting(backlog: &mut Backlog) -> Vec<usize> {
        std::iter::from_fn(|| backlog.take()).map(|held| held.frame.len()).collect()
    }

    /// Five on their way: entries 1 to 4, and one on a channel in their midst; two more wait.
    fn broken() -> Backlog {
        let mut backlog = Backlog::default();
        for (n, number) in [(1, Some(1)), (2, Some(2)), (3, None), (4, Some(3)), (5, Some(4))] {
            assert!(backlog.push(held(n)));
            let taken = backlog.take().expect("just pushed");
            backlog.fly(taken, number);
        }
        assert!(backlog.push(held(6)) && backlog.push(held(7)));
        assert_eq!((backlog.len(), backlog.bytes()), (7, 28));
        backlog
    }

    #[test]
    fn what_came_back_was_taken_and_the_rest_goes_again_in_order() {
        let mut backlog = broken();
        assert_eq!(backlog.settle(2, false), Settled { landed: 2, unsure: 1 });
        assert_eq!(backlog.bytes(), 4 + 5 + 6 + 7);
        let numbers: Vec<_> = backlog.waiting.iter().map(|held| held.number).collect();
        assert_eq!(numbers, [Some(3), Some(4), None, None]);
        assert_eq!(waiting(&mut backlog), [4, 5, 6, 7]);
        assert_eq!((backlog.len(), backlog.bytes()), (0, 0));
    }

    #[test]
    fn what_may_have_been_trimmed_unread_is_not_sent_twice() {
        let mut backlog = broken();
        assert_eq!(backlog.settle(2, true), Settled { landed: 2, unsure: 3 });
        assert_eq!(waiting(&mut backlog), [6, 7]);
    }

    #[test]
    fn both_bounds_hold_and_one_large_packet_passes() {
        let mut backlog = Backlog::default();
        assert!(backlog.push(held(MAX_BYTES + 1)));
        assert!(!backlog.push(held(1)));
        backlog.take();
        for _ in 0..MAX_PACKETS {
            assert!(backlog.push(held(0)));
        }
        assert!(!backlog.push(held(0)));
        let taken = backlog.take().expect("many");
        backlog.fly(taken, Some(1));
        assert!(!backlog.push(held(0)));
        backlog.landed();
        assert!(backlog.push(held(0)));
    }
}
