//! The accounting of hand-offs on one worker's channel: which sockets are on their way, which the
//! worker has, and when another may be sent.
//!
//! Node keeps one received descriptor at a time: when the frame of a hand-off is split between two
//! 64 KiB reads, the descriptor of the next one can overwrite it, and two clients swap places. So
//! everything written after the end of the last acknowledged hand-off, plain frames included, may
//! not exceed one read; or there is no hand-off in flight at all. Acknowledgements carry no name:
//! the first answers the first.
//!
//! Invariant: `acked <= end of the first in flight <= ... <= end of the last <= written`.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// Bytes Node reads from its channel at once.
pub const READ_SIZE: u64 = 64 << 10;

/// How a socket reaches the application inside the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Delivery {
    /// As `sticky:connection`. Once acknowledged, the worker has it.
    Sticky,
    /// As cluster's `newconn`, by sequence number. Acknowledged, the worker still has to accept.
    Server(i64),
    /// A socket of the worker's own. Nobody else's concern if it gets lost with the worker.
    Grant,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct InFlight<C> {
    connection: C,
    delivery: Delivery,
    /// Bytes written to the channel up to the end of this hand-off's frame.
    end: u64,
}

/// What is on its way to one worker. `C` names a connection.
#[derive(Debug, Serialize, Deserialize)]
pub struct HandOffs<C> {
    written: u64,
    acked: u64,
    in_flight: VecDeque<InFlight<C>>,
    /// Acknowledged, not yet accepted by the server; by cluster sequence number.
    unaccepted: VecDeque<(i64, C)>,
}

impl<C: Copy + PartialEq> HandOffs<C> {
    /// Nothing written yet.
    #[must_use]
    pub fn new() -> Self {
        Self { written: 0, acked: 0, in_flight: VecDeque::new(), unaccepted: VecDeque::new() }
    }

    /// Whether a hand-off with a frame of `length` bytes may be written now.
    #[must_use]
    pub fn may_send(&self, length: usize) -> bool {
        self.in_flight.is_empty() || self.written - self.acked + length as u64 <= READ_SIZE
    }

    /// A hand-off is being written.
    pub fn sent(&mut self, connection: C, delivery: Delivery, length: usize) {
        self.written += length as u64;
        self.in_flight.push_back(InFlight { connection, delivery, end: self.written });
    }

    /// That hand-off was not written after all; those behind it moved up.
    pub fn unsent(&mut self, connection: C, length: usize) {
        let Some(index) = self.in_flight.iter().position(|h| h.connection == connection) else {
            return;
        };
        self.in_flight.remove(index);
        for behind in self.in_flight.range_mut(index..) {
            behind.end -= length as u64;
        }
        self.written -= length as u64;
    }

    /// So many bytes of plain frames were written.
    pub fn wrote(&mut self, bytes: usize) {
        self.written += bytes as u64;
    }

    /// The worker has taken the first socket in flight, and which one that is.
    ///
    /// `None`: it acknowledges what was never sent.
    pub fn acked(&mut self) -> Option<(C, Delivery)> {
        let first = self.in_flight.pop_front()?;
        self.acked = first.end;
        if let Delivery::Server(sequence) = first.delivery {
            self.unaccepted.push_back((sequence, first.connection));
        }
        Some((first.connection, first.delivery))
    }

    /// The worker could not take the first socket in flight.
    pub fn nacked(&mut self) -> Option<(C, Delivery)> {
        let first = self.in_flight.pop_front()?;
        self.acked = first.end;
        Some((first.connection, first.delivery))
    }

    /// The server in the worker has answered for the `newconn` of this sequence number.
    pub fn answered(&mut self, sequence: i64) -> Option<C> {
        let index = self.unaccepted.iter().position(|(number, _)| *number == sequence)?;
        self.unaccepted.remove(index).map(|(_, connection)| connection)
    }

    /// Sockets written and not acknowledged.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Those written and not yet the worker's.
    pub fn names(&self) -> impl Iterator<Item = C> {
        let unaccepted = self.unaccepted.iter().map(|(_, connection)| *connection);
        unaccepted.chain(self.in_flight.iter().map(|handoff| handoff.connection))
    }

    /// The same hand-offs under other names. One without a name would leave the acknowledgements
    /// one short, so there must be none: it is a defect, and told as one in debug builds.
    #[must_use]
    pub fn renamed<D>(self, name: impl Fn(C) -> Option<D>) -> HandOffs<D> {
        let named = |connection| {
            let name = name(connection);
            debug_assert!(name.is_some(), "a hand-off of nobody's");
            name
        };
        let in_flight =
            self.in_flight.into_iter().filter_map(|InFlight { connection, delivery, end }| {
                Some(InFlight { connection: named(connection)?, delivery, end })
            });
        let unaccepted = self.unaccepted.into_iter();
        let unaccepted = unaccepted.filter_map(|(number, of)| Some((number, named(of)?)));
        HandOffs {
            written: self.written,
            acked: self.acked,
            in_flight: in_flight.collect(),
            unaccepted: unaccepted.collect(),
        }
    }

    /// The worker is gone: everything it had not taken, oldest first.
    pub fn abandon(&mut self) -> Vec<C> {
        let unaccepted = self.unaccepted.drain(..).map(|(_, connection)| connection);
        let mut lost: Vec<C> = unaccepted.collect();
        lost.extend(self.in_flight.drain(..).map(|h| h.connection));
        lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: usize = 86;

    #[test]
    fn no_frame_can_be_split_while_another_is_in_flight() {
        let mut handoffs = HandOffs::new();
        let mut sent = 0_u32;
        while handoffs.may_send(FRAME) {
            handoffs.sent(sent, Delivery::Sticky, FRAME);
            sent += 1;
        }
        assert_eq!(sent, 762);
        assert_eq!(handoffs.acked(), Some((0, Delivery::Sticky)));
        assert!(handoffs.may_send(FRAME));
    }

    #[test]
    fn plain_bytes_count_and_an_empty_channel_takes_one_whatever_was_written() {
        let mut handoffs = HandOffs::new();
        handoffs.wrote(1 << 20);
        assert!(handoffs.may_send(FRAME));
        handoffs.sent('a', Delivery::Sticky, FRAME);
        assert!(!handoffs.may_send(FRAME), "a megabyte lies before the one in flight");
        assert_eq!(handoffs.acked(), Some(('a', Delivery::Sticky)));
        handoffs.sent('b', Delivery::Sticky, FRAME);
        handoffs.wrote(65_536 - 2 * FRAME);
        assert!(handoffs.may_send(FRAME));
        handoffs.wrote(1);
        assert!(!handoffs.may_send(FRAME));
    }

    #[test]
    fn what_was_not_written_is_not_counted() {
        let mut handoffs = HandOffs::new();
        for name in ['a', 'b', 'c'] {
            handoffs.sent(name, Delivery::Sticky, FRAME);
        }
        handoffs.unsent('b', FRAME);
        assert_eq!(handoffs.acked(), Some(('a', Delivery::Sticky)));
        assert_eq!(handoffs.acked(), Some(('c', Delivery::Sticky)));
        assert_eq!(handoffs.acked(), None);
        assert_eq!(handoffs.written, handoffs.acked);
    }

    #[test]
    fn a_server_has_a_socket_only_when_it_has_accepted() {
        let mut handoffs = HandOffs::new();
        handoffs.sent('a', Delivery::Server(7), FRAME);
        handoffs.sent('b', Delivery::Server(8), FRAME);
        handoffs.sent('c', Delivery::Sticky, FRAME);
        assert_eq!(handoffs.acked(), Some(('a', Delivery::Server(7))));
        assert_eq!(handoffs.nacked(), Some(('b', Delivery::Server(8))));
        assert_eq!(handoffs.answered(8), None);
        assert_eq!(handoffs.abandon(), ['a', 'c']);
        assert_eq!(handoffs.answered(7), None);
    }
}
