//! Shards at rest: nobody drives them, and their descriptors are kept until they are frozen.
//!
//! An engine that is told to rest ends what it has in flight and gives its shard away. What other
//! threads had posted by then is still dealt with here, all shards in one thread: everything that
//! waits for nothing is done, so that a frozen shard has no mail and no half-finished step.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use super::core::{Action, Shard};
use super::engine::{Keeper, read_back};
use super::ring::Mail;
use super::{ChannelId, ConnectionId, LaneId};
use crate::sys::scm;
use crate::sys::socket::{self, Lingering};

/// One shard and its descriptors.
#[derive(Debug)]
pub struct Resting {
    pub(super) shard: Shard,
    pub(super) clients: BTreeMap<ConnectionId, OwnedFd>,
    pub(super) channels: BTreeMap<ChannelId, OwnedFd>,
    pub(super) lanes: BTreeMap<LaneId, Lane>,
}

/// The two ends of a lane.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) ours: OwnedFd,
    pub(super) theirs: OwnedFd,
}

impl Resting {
    /// A shard whose engine has let go of it.
    pub(super) fn new(shard: Shard) -> Self {
        Self { shard, clients: BTreeMap::new(), channels: BTreeMap::new(), lanes: BTreeMap::new() }
    }

    /// The shard knows this client by `id`.
    pub(super) fn keep_client_as(&mut self, id: ConnectionId, socket: OwnedFd) {
        self.clients.insert(id, socket);
    }

    /// The shard knows this channel by `id`.
    pub(super) fn keep_channel_as(&mut self, id: ChannelId, channel: OwnedFd) {
        self.channels.insert(id, channel);
    }

    /// The shard knows this lane by `id`.
    pub(super) fn keep_lane_as(&mut self, id: LaneId, ours: OwnedFd, theirs: OwnedFd) {
        self.lanes.insert(id, Lane { ours, theirs });
    }

    fn carry_out(&mut self, action: Action, now: Instant) {
        match action {
            Action::SendOnLane { lane, connection, message } => {
                let (Some(lane), Some(socket)) =
                    (self.lanes.get(&lane), self.clients.get(&connection))
                else {
                    return;
                };
                let result = scm::send_socket(lane.ours.as_fd(), &message, socket.as_fd());
                self.shard.sent_on_lane(connection, result, now);
            }
            Action::ReadBack { lane, worker, end } => {
                let Some(lane) = self.lanes.get(&lane) else { return };
                // Shares: what is read back is kept here, too.
                let ends = (lane.ours.try_clone(), lane.theirs.try_clone());
                match ends {
                    (Ok(ours), Ok(theirs)) => {
                        read_back(self, [ours.as_fd(), theirs.as_fd()], worker, end, now);
                    }
                    (Err(error), _) | (_, Err(error)) => {
                        tracing::error!(%worker, %error, "lane not read back");
                    }
                }
            }
            Action::AskAddress(id) => {
                let Some(socket) = self.clients.get(&id) else { return };
                let address = socket::peer_address(socket.as_fd());
                self.shard.address_is(id, address, now);
            }
            Action::Skip { connection, length } => {
                let Some(socket) = self.clients.get(&connection) else { return };
                match socket::skip(socket.as_fd(), length) {
                    Ok(()) => self.shard.skipped(connection, now),
                    Err(_) => self.shard.peek_failed(connection),
                }
            }
            Action::Refuse { connection, response } => {
                let Some(socket) = self.clients.get(&connection) else { return };
                match socket::refuse(socket.as_fd(), response) {
                    Lingering::Over => self.shard.lingered(connection),
                    Lingering::Open => self.shard.refused(connection, now),
                }
            }
            Action::Transfer { connection, shard, transit } => {
                if let Some(socket) = self.clients.remove(&connection) {
                    self.shard.post(shard, Mail::Connection { socket, transit });
                }
            }
            Action::Close(id) => _ = self.clients.remove(&id),
            Action::CloseChannel(id) => {
                if let Some(channel) = self.channels.remove(&id) {
                    socket::end(channel.as_fd());
                }
            }
            Action::CloseLane(id) => _ = self.lanes.remove(&id),
            // Begun anew by whoever thaws the shard; or never asked for without `end_turn`.
            Action::Peek(_)
            | Action::PeekBeyond { .. }
            | Action::HandOff { .. }
            | Action::Write { .. }
            | Action::AwaitRoom(_)
            | Action::AwaitLaneRoom(_)
            | Action::Linger(_)
            | Action::LookAtLane(_)
            | Action::Read { .. }
            | Action::Accept(_) => {}
            // The places are frozen where they are kept, on the control thread.
            Action::Listen { .. }
            | Action::Unlisten(_)
            | Action::AcceptSilent(_)
            | Action::StopAccepting
            | Action::Rest
            | Action::Exit => {}
        }
    }

    /// Deals with the mail there is, and with what follows from it. `false`: there was nothing.
    fn settle(&mut self, now: Instant) -> bool {
        let posted = self.shard.flush_outbox(now);
        let mut moved = self.read_mail(now) || posted;
        let mut actions = Vec::new();
        loop {
            self.shard.take_actions(&mut actions);
            if actions.is_empty() {
                return moved;
            }
            moved = true;
            for action in actions.drain(..) {
                self.carry_out(action, now);
            }
        }
    }
}

impl Keeper for Resting {
    fn shard(&mut self) -> &mut Shard {
        &mut self.shard
    }

    fn keep_client(&mut self, socket: OwnedFd) -> ConnectionId {
        keep(&mut self.clients, socket)
    }

    fn keep_channel(&mut self, channel: OwnedFd) -> io::Result<ChannelId> {
        Ok(keep(&mut self.channels, channel))
    }

    fn keep_lane(&mut self, ours: OwnedFd, theirs: OwnedFd) -> io::Result<LaneId> {
        Ok(keep(&mut self.lanes, Lane { ours, theirs }))
    }
}

fn keep<T>(table: &mut BTreeMap<usize, T>, kept: T) -> usize {
    let id = table.last_key_value().map_or(0, |(last, _)| last + 1);
    table.insert(id, kept);
    id
}

/// Deals with all mail between the shards, until there is none.
pub(super) fn settle(shards: &mut [Resting], now: Instant) {
    loop {
        let mut moved = false;
        for shard in &mut *shards {
            moved |= shard.settle(now);
        }
        if !moved {
            return;
        }
    }
}
