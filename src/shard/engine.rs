//! What the two engines have in common: their clock, and the mail that brings descriptors.
//!
//! An engine keeps descriptors and gives out the ids by which the shard knows them; so mail that
//! carries one is opened here, and the rest goes on to the shard.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use super::core::Shard;
use super::ring::{Answer, Mail};
use super::{ChannelId, ConnectionId, LaneId};
use crate::route::WorkerId;
use crate::sys::{scm, socket};

/// Bytes of the longest message on a lane: a number and an address.
const LANE_MESSAGE: usize = 128;

/// Keeps a shard's descriptors.
pub(super) trait Keeper {
    /// The shard it keeps them for.
    fn shard(&mut self) -> &mut Shard;

    /// Keeps a client's socket.
    fn keep_client(&mut self, socket: OwnedFd) -> ConnectionId;

    /// Keeps a worker's channel.
    fn keep_channel(&mut self, channel: OwnedFd) -> io::Result<ChannelId>;

    /// Keeps the two ends of a worker's lane.
    fn keep_lane(&mut self, ours: OwnedFd, theirs: OwnedFd) -> io::Result<LaneId>;

    /// Takes everything from the mailbox. `false`: there was nothing.
    fn read_mail(&mut self, now: Instant) -> bool {
        let index = self.shard().index();
        let shared = Arc::clone(self.shard().shared());
        let mailbox = &shared.mailboxes[index];
        mailbox.looking();
        let mut any = false;
        while let Some(mail) = mailbox.take() {
            any = true;
            self.open(mail, now);
        }
        any
    }

    /// One piece of mail.
    fn open(&mut self, mail: Mail, now: Instant) {
        match mail {
            Mail::Connection { socket, transit } => {
                let id = self.keep_client(socket);
                self.shard().connection_arrived(id, *transit, now);
            }
            Mail::Kept { socket, listener } => {
                let id = self.keep_client(socket);
                self.shard().kept(id, &listener, now);
            }
            Mail::Attach { worker, channel, serialization, whole_headers } => {
                match self.keep_channel(channel) {
                    Ok(id) => self.shard().attached(id, worker, serialization, whole_headers, now),
                    // Its end is closed, which the worker takes for the router's end.
                    Err(error) => tracing::error!(%worker, %error, "channel not taken"),
                }
            }
            Mail::Lane { worker, ours, theirs } => match self.keep_lane(ours, theirs) {
                Ok(id) => self.shard().lane_opened(id, worker),
                // Its sockets go by the shards that have the lane, or by its channel.
                Err(error) => tracing::error!(%worker, %error, "lane not taken"),
            },
            Mail::ListenReply { worker, ack, answer } => {
                let (answer, grant) = match answer {
                    Answer::Socket(socket) => (Answer::Granted, Some(self.keep_client(socket))),
                    answer => (answer, None),
                };
                self.shard().listen_answered(worker, ack, answer, grant, now);
            }
            mail => self.shard().mail(mail, now),
        }
    }
}

/// Takes back what a worker has not read in its lane (`ours`, `theirs`), a socket at a time. With
/// `end`, nothing more can be sent on it before it is emptied.
pub(super) fn read_back(
    keeper: &mut impl Keeper,
    [ours, theirs]: [BorrowedFd<'_>; 2],
    worker: WorkerId,
    end: bool,
    now: Instant,
) {
    if end {
        socket::end_sending(ours);
    }
    empty(keeper, theirs, worker, now);
    if end {
        keeper.shard().lane_is_empty(worker);
    }
}

fn empty(keeper: &mut impl Keeper, lane: BorrowedFd<'_>, worker: WorkerId, now: Instant) {
    let mut message = [0; LANE_MESSAGE];
    loop {
        match scm::receive(lane, &mut message) {
            Ok((0, _)) => return,
            Ok((length, sockets)) => {
                if sockets.is_empty() {
                    // The router itself has no descriptor left: the kernel has closed the socket.
                    keeper.shard().lost(worker, 1);
                }
                for socket in sockets {
                    let id = keeper.keep_client(socket);
                    keeper.shard().read_back(id, worker, &message[..length], now);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(error) => return tracing::error!(%worker, %error, "lane not read back"),
        }
    }
}

/// The loop's clock.
#[expect(clippy::disallowed_methods, reason = "an engine reads it once before and after a wait")]
pub(super) fn clock() -> Instant {
    Instant::now()
}
