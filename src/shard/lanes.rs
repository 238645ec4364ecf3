//! A shard's lanes: sockets sent, read back, and waited for.
//!
//! See `lane.rs` for what a lane is. Any shard sends; the shard that owns the worker's channel
//! closes the lane and reads back what is left in it. Ending it comes first (the kernel then
//! refuses whatever another shard still sends, which that shard sends elsewhere), so nothing is
//! left behind.

use std::time::{Duration, Instant};

use super::channel::Channel;
use super::connection::State;
use super::core::{Action, Shard, Timer};
use super::lane::{Lane, Message};
use super::listener::{Kind, ListenerId};
use super::ring::Mail;
use super::{ConnectionId, DESCRIPTORS_WAIT, LaneId};
use crate::metrics::Counter;
use crate::metrics::latency::Way;
use crate::route::WorkerId;
use crate::route::balance::Balance;

/// How often a lane is looked at in which there may be something unread.
const LOOK: Duration = Duration::from_millis(25);
/// How long sockets may lie unread before they go elsewhere, if the balance is by lag.
const PATIENCE: Duration = Duration::from_millis(100);
/// How often the lane of a worker without descriptors is read back.
const FULL_WAIT: Duration = Duration::from_millis(100);

impl Shard {
    /// The engine keeps the descriptors of a worker's lane under `id`.
    pub fn lane_opened(&mut self, id: LaneId, worker: WorkerId) {
        if id >= self.lanes.len() {
            self.lanes.resize_with(id + 1, || None);
        }
        self.lanes[id] = Some(Lane::new(worker));
        self.lane_of.insert(worker, id);
    }

    /// The lane to this worker, if sockets go by it.
    pub(super) fn open_lane(&self, worker: WorkerId) -> Option<LaneId> {
        let open = self.shared.roster.has_lane(worker);
        self.lane_of.get(&worker).copied().filter(|_| open)
    }

    /// Sends a connection on a lane, or has it wait for room there.
    pub(super) fn send_on_lane(&mut self, id: LaneId, connection: ConnectionId, now: Instant) {
        let Some(lane) = self.lanes.get_mut(id).and_then(Option::as_mut) else { return };
        let worker = lane.worker;
        let entry = &mut self.connections[connection];
        entry.state = State::OnLane(worker);
        if lane.full {
            lane.waiting.push_back(connection);
            return;
        }
        let listener = self.listeners.get(&entry.listener);
        let server = listener.and_then(|listener| listener.server_of(worker));
        if server.is_none() && entry.kind == Kind::App {
            // The server was closed in this moment.
            return self.redispatch(connection, worker, now);
        }
        let message = Message { server: server.unwrap_or(0), peer: entry.peer };
        self.actions.push(Action::SendOnLane { lane: id, connection, message: message.encode() });
    }

    /// The kernel has taken the socket, or not.
    pub fn sent_on_lane(
        &mut self,
        connection: ConnectionId,
        result: std::io::Result<()>,
        now: Instant,
    ) {
        let Some(entry) = self.connections.get(connection) else { return };
        let State::OnLane(worker) = entry.state else { return };
        let session = entry.sid.is_some();
        let Err(error) = result else {
            // From here on the worker has it, or it is read back: see `read_back`.
            self.taken(connection, worker, Way::Lane, now);
            return self.watch_lane(worker, now);
        };
        let lane = self.lane_of.get(&worker).copied();
        let open = lane.and_then(|id| Some((id, self.lanes.get_mut(id)?.as_mut()?)));
        let ended = matches!(
            error.kind(),
            std::io::ErrorKind::BrokenPipe | std::io::ErrorKind::ConnectionReset
        );
        let Some((id, lane)) = open.filter(|_| !ended) else {
            return self.redispatch(connection, worker, now);
        };
        if !lane.full {
            lane.full = true;
            if error.kind() == std::io::ErrorKind::WouldBlock {
                self.actions.push(Action::AwaitLaneRoom(id));
            } else {
                // ETOOMANYREFS, ENOMEM: the kernel holds too many descriptors in flight.
                self.set_timer(now + DESCRIPTORS_WAIT, Timer::LaneRoom(worker));
            }
        }
        if !session && self.has_another(connection, worker, now) {
            self.redispatch(connection, worker, now);
        } else if let Some(lane) = self.lanes.get_mut(id).and_then(Option::as_mut) {
            lane.waiting.push_back(connection);
        }
    }

    /// The lane takes sockets again.
    pub fn lane_has_room(&mut self, id: LaneId, now: Instant) {
        let Some(lane) = self.lanes.get_mut(id).and_then(Option::as_mut) else { return };
        lane.full = false;
        for connection in std::mem::take(&mut lane.waiting) {
            self.send_on_lane(id, connection, now);
        }
    }

    pub(super) fn lane_may_have_room(&mut self, worker: WorkerId, now: Instant) {
        if let Some(id) = self.lane_of.get(&worker).copied() {
            self.lane_has_room(id, now);
        }
    }

    /// The worker gets no more sockets: what waits goes elsewhere, and so does what it has not
    /// read. Called where its channel was.
    pub(super) fn end_lane(&mut self, channel: Channel, now: Instant) {
        let worker = channel.worker;
        if let Some(id) = self.lane_of.get(&worker).copied() {
            self.ended.push(channel);
            self.actions.push(Action::ReadBack { lane: id, worker, end: true });
        }
        for shard in 0..self.shared.mailboxes.len() {
            if shard != self.index {
                self.post(shard, Mail::LaneClosed(worker));
            }
        }
        self.lane_closed(worker, now);
    }

    /// The worker's lane has been closed.
    pub(super) fn lane_closed(&mut self, worker: WorkerId, now: Instant) {
        let Some(id) = self.lane_of.remove(&worker) else { return };
        let Some(lane) = self.lanes.get_mut(id).and_then(Option::take) else { return };
        self.actions.push(Action::CloseLane(id));
        for connection in lane.waiting {
            self.redispatch(connection, worker, now);
        }
    }

    /// The worker is (not) out of descriptors. While it is, its lane is read back.
    pub(super) fn worker_is_full(&mut self, worker: WorkerId, full: bool, now: Instant) {
        self.shared.roster.set_full(worker, full);
        if full {
            self.empty_lane(worker, now);
        }
    }

    /// Another shard's socket may have come after the first time.
    pub(super) fn empty_lane(&mut self, worker: WorkerId, now: Instant) {
        let Some(id) = self.lane_of.get(&worker).copied() else { return };
        if self.shared.roster.is_full(worker) {
            self.read_lane_back(id, worker);
            self.set_timer(now + FULL_WAIT, Timer::Full(worker));
        }
    }

    fn read_lane_back(&mut self, id: LaneId, worker: WorkerId) {
        self.actions.push(Action::ReadBack { lane: id, worker, end: false });
    }

    /// Where a connection for this server of the worker's had arrived; `None`: the place is closed.
    pub(super) fn origin(&self, worker: WorkerId, number: u32) -> Option<ListenerId> {
        let present = self.channels.iter().flatten();
        let channel = present.chain(&self.ended).find(|channel| channel.worker == worker)?;
        let pools = self.listeners.values().filter(|listener| listener.kind() == Kind::Pool);
        let origin = channel.origin(number, pools.map(|listener| listener.id()).min())?;
        self.listeners.contains_key(&origin).then_some(origin)
    }

    /// A socket that lay unread in a worker's lane is ours again, under `id`.
    pub fn read_back(&mut self, id: ConnectionId, worker: WorkerId, message: &[u8], now: Instant) {
        let message = Message::decode(message);
        let origin = message.and_then(|message| self.origin(worker, message.server));
        self.count(Counter::Redispatched);
        self.admit(id, origin.unwrap_or(0));
        let connection = &mut self.connections[id];
        connection.since = Some(now);
        connection.peer = message.and_then(|message| message.peer);
        match origin {
            Some(_) => self.expect_head(id, now),
            // The place where it arrived is closed, and nobody will serve it.
            None => self.refuse_unavailable(id),
        }
    }

    /// Nothing more will be read back from this worker's lane.
    pub fn lane_is_empty(&mut self, worker: WorkerId) {
        self.ended.retain(|channel| channel.worker != worker);
    }

    /// Looks at the lane in a while, if that decides anything.
    fn watch_lane(&mut self, worker: WorkerId, now: Instant) {
        if self.shared.settings.balance != Balance::LeastLag {
            return;
        }
        let Some(lane) = self.lane_to(worker) else { return };
        if !std::mem::replace(&mut lane.watched, true) {
            self.set_timer(now + LOOK, Timer::Look(worker));
        }
    }

    pub(super) fn look_at_lane(&mut self, worker: WorkerId) {
        if let Some(id) = self.lane_of.get(&worker).copied() {
            self.actions.push(Action::LookAtLane(id));
        }
    }

    /// So many sockets lie unread in the lane.
    pub fn lane_looked_at(&mut self, id: LaneId, unread: usize, now: Instant) {
        let Some(lane) = self.lanes.get_mut(id).and_then(Option::as_mut) else { return };
        let worker = lane.worker;
        if unread == 0 {
            lane.unread_since = None;
            lane.watched = false;
            lane.relieved = None;
            return self.shared.roster.unread(worker, 0);
        }
        let since = *lane.unread_since.get_or_insert_with(|| now.checked_sub(LOOK).unwrap_or(now));
        let late = now >= lane.relieved.unwrap_or(since) + PATIENCE;
        if late {
            // Not at every look: what has a session of its own comes back to it.
            lane.relieved = Some(now);
        }
        self.shared.roster.unread(worker, self.shared.millis(since));
        self.set_timer(now + LOOK, Timer::Look(worker));
        if !late {
            return;
        }
        let owner = self.shared.owner(worker.slot);
        if owner == self.index {
            self.relieve(worker, since, now);
        } else {
            // Where its connections had arrived is known where its channel is.
            self.post(owner, Mail::LaneLate(worker, since));
        }
    }

    /// Reads back what has lain in a lane since then, if others will answer it sooner.
    pub(super) fn relieve(&mut self, worker: WorkerId, since: Instant, now: Instant) {
        let Some(id) = self.lane_of.get(&worker).copied() else { return };
        if self.others_answer(worker, now) {
            // Its lane is empty then, and it is as slow as before.
            let (delay, millis) = (now.saturating_duration_since(since), self.shared.millis(now));
            self.shared.roster.delayed(worker, delay, millis);
            self.read_lane_back(id, worker);
        }
    }

    /// The worker has spoken: it is not the one that has slept since then.
    pub(super) fn worker_turns(&mut self, worker: WorkerId) {
        if let Some(lane) = self.lane_to(worker) {
            lane.unread_since = None;
            lane.relieved = None;
        }
    }

    /// Whether another ready worker will answer sooner, by half at least.
    fn others_answer(&self, worker: WorkerId, now: Instant) -> bool {
        let (roster, millis) = (&self.shared.roster, self.shared.millis(now));
        let mine = roster.cost(worker, millis);
        let mut others = roster.ready().filter(|other| *other != worker);
        others.any(|other| roster.cost(other, millis) < mine / 2)
    }

    fn lane_to(&mut self, worker: WorkerId) -> Option<&mut Lane> {
        let id = *self.lane_of.get(&worker)?;
        self.lanes.get_mut(id)?.as_mut()
    }
}
