//! A shard's channels: what workers say, what they get, and what happens when they fall silent.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::channel::{Channel, MAX_SERVERS, Write};
use super::connection::State;
use super::core::{Action, Shard, Timer};
use super::handoff::Delivery;
use super::listener::Kind;
use super::ring::{Answer, Mail, Packet};
use super::{ChannelId, ConnectionId, End, Report, STALL_WAIT};
use crate::ipc::Serialization;
use crate::ipc::message::{self, Message, PacketKind};
use crate::ipc::reply;
use crate::metrics::Counter;
use crate::route::WorkerId;
use crate::route::roster::Standing;

/// How long a hand-off without a session counts as load in the hope that it becomes one.
const HOPE: Duration = Duration::from_secs(2);
/// How long a channel is left alone whose kernel is out of room for descriptors in flight.
const DESCRIPTORS_WAIT: Duration = Duration::from_millis(10);
/// errno for a worker with too many servers, as `listen()` would give it.
const EMFILE: i32 = -24;

impl Shard {
    /// A worker has been started; the engine keeps its channel under `id`.
    pub fn attached(
        &mut self,
        id: ChannelId,
        worker: WorkerId,
        serialization: Serialization,
        whole_headers: bool,
        now: Instant,
    ) {
        if id >= self.channels.len() {
            self.channels.resize_with(id + 1, || None);
        }
        let bound = self.shared.settings.out_queue;
        self.channels[id] = Some(Channel::new(worker, serialization, whole_headers, bound, now));
        self.by_slot.insert(worker.slot, id);
        if !self.is_held() {
            self.actions.push(Action::Read { channel: id, on: true });
        }
    }

    /// Bytes have come on a channel, and so many sockets with them (the engine closes those).
    pub fn received(&mut self, id: ChannelId, bytes: &[u8], sockets: usize, now: Instant) {
        let Some(channel) = self.channels.get_mut(id).and_then(Option::as_mut) else { return };
        let counters = &self.shared.counters[self.index];
        counters.add(Counter::SocketsFromWorkers, sockets as u64);
        let mut frames = Vec::new();
        let fed = channel.deframer.feed(bytes, &mut |frame| frames.push(frame));
        for frame in frames {
            self.frame_arrived(id, frame, now);
        }
        if let Err(error) = fed {
            self.count(Counter::Malformed);
            self.end_channel(id, End::Malformed(error.to_string()), now);
        }
    }

    /// The channel's other end is closed, or reading it failed.
    pub fn channel_ended(&mut self, id: ChannelId, now: Instant) {
        self.end_channel(id, End::Closed, now);
    }

    /// A hand-off was written, or not.
    pub fn handed(
        &mut self,
        id: ChannelId,
        connection: ConnectionId,
        length: usize,
        result: std::io::Result<()>,
        now: Instant,
    ) {
        let Err(error) = result else {
            if let Some(channel) = self.channel(id) {
                channel.progress = now;
            }
            return;
        };
        let Some(channel) = self.channels.get_mut(id).and_then(Option::as_mut) else { return };
        channel.handoffs.unsent(connection, length);
        channel.waiting.push_front(connection);
        let worker = channel.worker;
        match error.kind() {
            std::io::ErrorKind::WouldBlock => {
                channel.full = true;
                self.actions.push(Action::AwaitRoom(id));
            }
            std::io::ErrorKind::BrokenPipe | std::io::ErrorKind::ConnectionReset => {
                self.end_channel(id, End::Closed, now);
            }
            std::io::ErrorKind::InvalidData => {
                self.end_channel(id, End::Malformed(error.to_string()), now);
            }
            _ => {
                // ETOOMANYREFS, ENOMEM: the kernel holds too many descriptors in flight.
                channel.full = true;
                self.set_timer(now + DESCRIPTORS_WAIT, Timer::Room(id, worker));
            }
        }
    }

    /// A plain write has ended.
    pub fn wrote(&mut self, id: ChannelId, result: std::io::Result<usize>, now: Instant) {
        let Some(channel) = self.channels.get_mut(id).and_then(Option::as_mut) else { return };
        match result {
            Ok(bytes) => {
                channel.wrote(bytes, now);
                self.check_room(id);
                self.dirty.push(id);
            }
            Err(error) => {
                channel.wrote(0, now);
                match error.kind() {
                    std::io::ErrorKind::WouldBlock => {
                        channel.full = true;
                        self.actions.push(Action::AwaitRoom(id));
                    }
                    std::io::ErrorKind::Interrupted => self.dirty.push(id),
                    _ => self.end_channel(id, End::Closed, now),
                }
            }
        }
    }

    /// The channel takes bytes again.
    pub fn writable(&mut self, id: ChannelId) {
        if let Some(channel) = self.channel(id) {
            channel.full = false;
            self.dirty.push(id);
        }
    }

    /// The control thread has answered a worker's request to listen. `grant` is the engine's id
    /// for the socket, when the answer is one.
    pub fn listen_answered(
        &mut self,
        worker: WorkerId,
        ack: i64,
        answer: Answer,
        grant: Option<ConnectionId>,
        now: Instant,
    ) {
        let id = self.by_slot.get(&worker.slot).copied();
        let asked = id.and_then(|id| {
            let channel = self.channels.get_mut(id)?.as_mut().filter(|c| c.worker == worker)?;
            let index = channel.asked.iter().position(|request| request.seq == ack)?;
            let request = channel.asked.remove(index);
            Some((id, channel, request))
        });
        let Some((id, channel, request)) = asked else {
            // The worker that asked is gone.
            if let Some(connection) = grant {
                self.admit_grant(connection, Bytes::new());
                self.close(connection);
            }
            return;
        };
        let (serialization, sequence) = (channel.serialization, channel.sequence());
        let frame = match answer {
            Answer::Listening { listener, name } => {
                let port = name.as_ref().map(|name| name.port);
                let own = (listener.kind() == Kind::App).then_some(listener);
                let key = channel.add_server(&request, own, port);
                reply::listen_reply(serialization, ack, sequence, &key, name.as_ref())
            }
            Answer::Refused(errno) => reply::listen_error(serialization, ack, sequence, "", errno),
            Answer::Socket(_) | Answer::Granted => {
                let key = channel.add_server(&request, None, None);
                let frame = reply::shared_handle_reply(serialization, ack, sequence, &key);
                // A server of the worker's own takes no connections from us.
                channel.remove_server(&key);
                if let Some(connection) = grant {
                    self.admit_grant(connection, frame);
                    self.connections[connection].state = State::HandingOff(id);
                    self.queue_hand_off(id, connection);
                }
                return;
            }
        };
        channel.push(frame, now);
        self.dirty.push(id);
    }

    /// The worker's process is gone, and with it whatever its channel still held.
    pub(super) fn detach(&mut self, worker: WorkerId, now: Instant) {
        let id = self.by_slot.get(&worker.slot).copied();
        if let Some(id) = id.filter(|id| self.channel_of(*id, worker).is_some()) {
            self.end_channel(id, End::Closed, now);
        }
        let (of_worker, others) =
            std::mem::take(&mut self.in_doubt).into_iter().partition(|(owner, _)| *owner == worker);
        self.in_doubt = others;
        let of_worker: Vec<(WorkerId, ConnectionId)> = of_worker;
        for (_, connection) in of_worker {
            self.redispatch(connection, worker, now);
        }
        self.start_sweep(now);
    }

    pub(super) fn write_shutdown(&mut self, worker: WorkerId, now: Instant) {
        let Some(&id) = self.by_slot.get(&worker.slot) else { return };
        if let Some(channel) = self.channel_of(id, worker) {
            let frame = reply::shutdown(channel.serialization);
            channel.push(frame, now);
            self.dirty.push(id);
        }
    }

    /// A packet from another shard's worker.
    pub(super) fn packet_arrived(&mut self, packet: &Packet, now: Instant) {
        if let Some(uid) = packet.learn {
            self.owners.learn(uid, packet.from);
        }
        if let Some(uid) = &packet.forget {
            self.owners.forget(uid);
        }
        self.distribute(packet, now);
    }

    pub(super) fn queue_hand_off(&mut self, id: ChannelId, connection: ConnectionId) {
        if let Some(channel) = self.channel(id) {
            channel.waiting.push_back(connection);
            self.dirty.push(id);
        }
    }

    /// The channel under `id`, if it is still this worker's.
    pub(super) fn channel_of(&mut self, id: ChannelId, worker: WorkerId) -> Option<&mut Channel> {
        self.channel(id).filter(|channel| channel.worker == worker)
    }

    /// Announcements of this turn may be what connections here and elsewhere wait for.
    pub(super) fn sessions_announced(&mut self, now: Instant) {
        for shard in 0..self.shared.mailboxes.len() {
            let waits = self.shared.awaiting_sessions[shard].load(Ordering::SeqCst) > 0;
            if waits && shard != self.index {
                self.post(shard, Mail::SessionsAnnounced);
            }
        }
        if !self.awaiting_session.is_empty() {
            self.recheck_sessions(now);
        }
    }

    /// Hand-offs that were counted as coming sessions and have not become any.
    pub(super) fn hopes_end(&mut self, id: ChannelId, worker: WorkerId, now: Instant) {
        let Some(channel) = self.channel_of(id, worker) else { return };
        let mut ended = 0;
        while channel.hopeful.front().is_some_and(|until| *until <= now) {
            channel.hopeful.pop_front();
            ended += 1;
        }
        let next = channel.hopeful.front().copied();
        channel.hope_timer = next.is_some();
        self.expect_less(ended);
        for _ in 0..ended {
            self.shared.roster.drop_load(worker);
        }
        if let Some(until) = next {
            self.set_timer(until, Timer::Hope(id, worker));
        }
    }

    /// A congested worker that has taken nothing for [`STALL_WAIT`] holds everybody back no longer.
    pub(super) fn check_stall(&mut self, id: ChannelId, worker: WorkerId, now: Instant) {
        let Some(channel) = self.channel_of(id, worker).filter(|c| c.congested) else { return };
        let until = channel.progress + STALL_WAIT;
        if now < until {
            return self.set_timer(until, Timer::Stall(id, worker));
        }
        self.count(Counter::Stalled);
        self.end_channel(id, End::Stalled, now);
    }

    /// Writes what the turn has queued: sockets first, then frames.
    pub(super) fn pump_dirty(&mut self, now: Instant) {
        for id in std::mem::take(&mut self.dirty) {
            self.pump_hand_offs(id, now);
            let Some(channel) = self.channel(id) else { continue };
            if let Write::Frames { frames, offset } = channel.next_write() {
                self.actions.push(Action::Write { channel: id, frames, offset });
            }
        }
    }

    fn pump_hand_offs(&mut self, id: ChannelId, now: Instant) {
        loop {
            let Some(channel) = self.channels.get_mut(id).and_then(Option::as_mut) else { return };
            if channel.full || !channel.is_between_frames() {
                return;
            }
            let Some(&connection) = channel.waiting.front() else { return };
            let entry = &mut self.connections[connection];
            let listener = self.listeners.get(&entry.listener);
            let server = listener.and_then(|listener| channel.server_for(listener));
            let serialization = channel.serialization;
            let (frame, delivery) = match (&entry.grant, server) {
                (Some(frame), _) => (frame.clone(), Delivery::Grant),
                (None, None) if entry.kind == Kind::App => {
                    // The server was closed while the connection waited for room.
                    channel.waiting.pop_front();
                    let worker = channel.worker;
                    self.redispatch(connection, worker, now);
                    continue;
                }
                (None, Some(key)) => {
                    let key = key.to_owned();
                    let sequence = channel.sequence();
                    let frame = reply::new_connection(serialization, &key, sequence);
                    (frame, Delivery::Server(sequence))
                }
                (None, None) => (reply::sticky_connection(serialization), Delivery::Sticky),
            };
            if !channel.handoffs.may_send(frame.len()) {
                return;
            }
            channel.waiting.pop_front();
            channel.handoffs.sent(connection, delivery, frame.len());
            if entry.counted.is_some() {
                // The count is the channel's from here on: an announcement or time ends it.
                channel.hopeful.push_back(now + HOPE);
                if !std::mem::replace(&mut channel.hope_timer, true) {
                    let worker = channel.worker;
                    self.set_timer(now + HOPE, Timer::Hope(id, worker));
                }
                self.connections[connection].counted = None;
                self.shared.hopeful[self.index].fetch_add(1, Ordering::Relaxed);
            }
            self.actions.push(Action::HandOff { channel: id, connection, frame });
        }
    }

    fn frame_arrived(&mut self, id: ChannelId, frame: Bytes, now: Instant) {
        let Some(channel) = self.channels.get_mut(id).and_then(Option::as_mut) else { return };
        let worker = channel.worker;
        let serialization = channel.serialization;
        match message::read(serialization, &frame) {
            Message::HandleAck => {
                let done = channel.handoffs.acked();
                self.hand_off_acked(id, done);
            }
            Message::HandleNack => {
                if let Some((connection, _)) = channel.handoffs.nacked() {
                    self.redispatch(connection, worker, now);
                }
                self.dirty.push(id);
            }
            Message::Handle { .. } => self.answer(id, reply::handle_ack(serialization), now),
            Message::SocketNotifyClose { key } => {
                self.answer(id, reply::socket_all_closed(serialization, &key), now);
            }
            Message::SocketGetCount { key } => {
                self.answer(id, reply::socket_count(serialization, &key, 0), now);
            }
            Message::Online => {
                if !std::mem::replace(&mut channel.told.online, true) {
                    self.report(Report::Online(worker));
                }
            }
            Message::QueryServer(request) => {
                if channel.servers.len() + channel.asked.len() < MAX_SERVERS {
                    channel.asked.push(request.clone());
                    self.report(Report::Listen(worker, request));
                } else {
                    let sequence = channel.sequence();
                    let frame =
                        reply::listen_error(serialization, request.seq, sequence, "", EMFILE);
                    self.answer(id, frame, now);
                }
            }
            Message::Listening(listening) => {
                let Some(server) = channel.server_listening(&listening) else { return };
                if let Some(listener) = &server.listener {
                    listener.join(worker);
                }
                if !std::mem::replace(&mut channel.told.listening, true) {
                    self.report(Report::Listening(worker));
                }
            }
            Message::Accepted { ack, accepted } => {
                let answered = channel.handoffs.answered(ack);
                self.server_answered(answered, accepted, worker, now);
            }
            Message::Close { key } => {
                let server = channel.remove_server(&key);
                let listener = server.and_then(|server| server.listener);
                if let Some(listener) = listener.filter(|l| !channel.serves(l)) {
                    listener.leave(worker);
                    self.report(Report::ServerClosed(worker, listener.id()));
                }
            }
            Message::ExitedAfterDisconnect { seq } => {
                let sequence = channel.sequence();
                self.answer(id, reply::cluster_ack(serialization, seq, sequence), now);
                if self.shared.roster.standing(worker) == Standing::Ready {
                    self.shared.roster.set(worker, Standing::Draining);
                }
            }
            Message::StickyConnection { sid } => self.session_opened(id, &sid),
            Message::StickyDisconnection { sid } => {
                if self.shared.sessions.remove(&sid, worker) {
                    self.shared.roster.drop_load(worker);
                }
            }
            Message::Ready => {
                if !std::mem::replace(&mut channel.told.ready, true) {
                    self.report(Report::Ready(worker));
                }
            }
            Message::Packet(packet) => self.relay(id, frame, &packet, now),
            Message::Other => {}
        }
    }

    /// The worker has the socket. A server may still say no to it.
    fn hand_off_acked(&mut self, id: ChannelId, done: Option<(ConnectionId, Delivery)>) {
        match done {
            Some((connection, Delivery::Sticky)) => {
                self.count(Counter::HandedOff);
                self.close(connection);
            }
            Some((connection, Delivery::Grant)) => self.close(connection),
            Some((_, Delivery::Server(_))) | None => {}
        }
        if self.channel(id).is_some_and(|channel| !channel.waiting.is_empty()) {
            self.dirty.push(id);
        }
    }

    fn server_answered(
        &mut self,
        connection: Option<ConnectionId>,
        accepted: bool,
        worker: WorkerId,
        now: Instant,
    ) {
        let Some(connection) = connection else { return };
        if accepted {
            self.count(Counter::HandedOff);
            self.close(connection);
        } else {
            self.redispatch(connection, worker, now);
        }
    }

    /// A session is announced: one of the hand-offs that might have become one has.
    fn session_opened(&mut self, id: ChannelId, sid: &[u8]) {
        let Some(channel) = self.channel(id) else { return };
        let worker = channel.worker;
        let hoped_for = channel.hopeful.pop_front().is_some();
        self.expect_less(u32::from(hoped_for));
        let counts = match self.shared.sessions.insert(sid, worker) {
            Ok(before) => {
                self.announced = true;
                if let Some(other) = before.filter(|before| *before != worker) {
                    self.shared.roster.drop_load(other);
                }
                before != Some(worker)
            }
            Err(refused) => {
                self.count(Counter::SessionsRefused);
                tracing::debug!(%worker, %refused, "session not kept");
                false
            }
        };
        // What was hoped for is counted already.
        match (counts, hoped_for) {
            (true, false) => self.shared.roster.add_load(worker),
            (false, true) => self.shared.roster.drop_load(worker),
            _ => {}
        }
    }

    /// Sends an adapter's packet on, verbatim.
    fn relay(&mut self, id: ChannelId, frame: Bytes, packet: &message::Packet, now: Instant) {
        self.count(Counter::PacketsIn);
        let Some(channel) = self.channels.get_mut(id).and_then(Option::as_mut) else { return };
        let worker = channel.worker;
        let mut learn = None;
        if let (Some(uid), Some(nsp)) = (packet.uid, &packet.nsp) {
            let announces =
                matches!(packet.kind, PacketKind::InitialHeartbeat | PacketKind::Heartbeat);
            if announces && channel.adapters.learn(uid, nsp) {
                learn = Some(uid);
            }
        }
        let mut forget = None;
        if packet.kind == PacketKind::AdapterClose {
            forget = packet.uid;
            if let Some(uid) = &forget {
                channel.adapters.forget(uid);
            }
        }
        let first = packet.kind == PacketKind::InitialHeartbeat
            && !std::mem::replace(&mut channel.told.heartbeat, true);
        let to = packet.requester.and_then(|uid| self.owners.of(&uid));
        if first {
            self.report(Report::Heartbeat(worker));
        }
        self.publish(&Packet { frame, from: worker, to, learn, forget }, now);
    }

    /// To the workers here and to the other shards.
    fn publish(&mut self, packet: &Packet, now: Instant) {
        self.packet_arrived(packet, now);
        self.post_packet(packet);
    }

    /// Queues a packet for those of this shard's workers that it is for.
    fn distribute(&mut self, packet: &Packet, now: Instant) {
        for id in 0..self.channels.len() {
            let Some(channel) = self.channels[id].as_mut() else { continue };
            let wanted = packet.to.is_none_or(|to| to == channel.worker);
            if channel.worker == packet.from || !wanted {
                continue;
            }
            channel.push(packet.frame.clone(), now);
            if channel.is_over() && !channel.congested {
                channel.congested = true;
                let worker = channel.worker;
                let until = channel.progress + STALL_WAIT;
                self.shared.congested.fetch_add(1, Ordering::AcqRel);
                self.set_timer(until, Timer::Stall(id, worker));
            }
            self.count(Counter::PacketsOut);
            self.dirty.push(id);
        }
    }

    /// A queue that was over its bound may have room again.
    fn check_room(&mut self, id: ChannelId) {
        let Some(channel) = self.channel(id) else { return };
        if channel.congested && channel.has_room() {
            channel.congested = false;
            self.congestion_ends();
        }
    }

    fn congestion_ends(&mut self) {
        if self.shared.congested.fetch_sub(1, Ordering::AcqRel) == 1 {
            for shard in 0..self.shared.mailboxes.len() {
                if shard != self.index {
                    self.post(shard, Mail::FlowResumes);
                }
            }
        }
    }

    fn answer(&mut self, id: ChannelId, frame: Bytes, now: Instant) {
        if let Some(channel) = self.channel(id) {
            channel.push(frame, now);
            self.dirty.push(id);
        }
    }

    /// The worker is gone for us: its sockets go elsewhere, its adapters are declared dead.
    fn end_channel(&mut self, id: ChannelId, end: End, now: Instant) {
        let Some(mut channel) = self.channels.get_mut(id).and_then(Option::take) else { return };
        let worker = channel.worker;
        if self.by_slot.get(&worker.slot) == Some(&id) {
            self.by_slot.remove(&worker.slot);
        }
        self.shared.roster.set_gone(worker);
        for server in &channel.servers {
            if let Some(listener) = &server.listener {
                listener.leave(worker);
            }
        }
        self.actions.push(Action::CloseChannel(id));
        self.expect_less(u32::try_from(channel.hopeful.len()).unwrap_or(u32::MAX));
        if channel.congested {
            self.congestion_ends();
        }
        for connection in channel.handoffs.abandon() {
            if end == End::Closed {
                self.redispatch(connection, worker, now);
            } else {
                // The process lives and may still read what was sent: two workers must not have
                // one client, so this waits until it is gone, which is on its way.
                self.in_doubt.push((worker, connection));
            }
        }
        for connection in channel.waiting {
            self.redispatch(connection, worker, now);
        }
        for (uid, nsp) in channel.adapters.drain() {
            let frame = reply::adapter_close(channel.serialization, &uid, &nsp);
            let packet = Packet { frame, from: worker, to: None, learn: None, forget: Some(uid) };
            self.publish(&packet, now);
        }
        self.owners.forget_worker(worker);
        self.start_sweep(now);
        self.report(Report::ChannelEnded(worker, end));
    }

    /// So many hand-offs have become sessions, or will not.
    fn expect_less(&self, count: u32) {
        self.shared.hopeful[self.index].fetch_sub(count, Ordering::Relaxed);
    }

    fn channel(&mut self, id: ChannelId) -> Option<&mut Channel> {
        self.channels.get_mut(id).and_then(Option::as_mut)
    }
}
