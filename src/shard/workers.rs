//! A shard's channels: what workers say, what they get, and what happens when they fall silent.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::channel::{Channel, MAX_SERVERS, MAX_WARNINGS, Write};
use super::connection::State;
use super::core::{Action, Shard, Timer};
use super::handoff::Delivery;
use super::lane::peer_text;
use super::listener::Kind;
use super::ring::{Answer, Mail, Packet, Party};
use super::{ChannelId, ConnectionId, DESCRIPTORS_WAIT, End, Report, STALL_WAIT};
use crate::ipc::Serialization;
use crate::ipc::frame::{Deframer, MAX_FRAME};
use crate::ipc::message::{self, Message, PacketKind, Returned, Serving, Speaks, Word};
use crate::ipc::reply;
use crate::metrics::Counter;
use crate::metrics::latency::Way;
use crate::route::WorkerId;
use crate::route::roster::Standing;

/// Sockets of one worker's that may wait for their message; Node sends one at a time.
const MAX_ARRIVED: usize = 64;
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
        self.by_worker.insert(worker, id);
        if !self.is_held() {
            self.actions.push(Action::Read { channel: id, on: true });
        }
    }

    /// A worker's channel has crossed an upgrade; the engine keeps it under `id`.
    pub(super) fn channel_thawed(&mut self, id: ChannelId, channel: Channel) {
        if id >= self.channels.len() {
            self.channels.resize_with(id + 1, || None);
        }
        for connection in channel.handoffs.names().chain(channel.waiting.iter().copied()) {
            if let Some(connection) = self.connections.get_mut(connection) {
                connection.state = State::HandingOff(id);
            }
        }
        self.by_worker.insert(channel.worker, id);
        self.channels[id] = Some(channel);
        self.check_congestion(id);
        self.dirty.push(id);
        if !self.is_held() {
            self.actions.push(Action::Read { channel: id, on: true });
        }
    }

    /// A socket has come on a channel, which the engine keeps under `socket`; the message that
    /// explains it comes with the bytes.
    pub fn socket_arrived(&mut self, id: ChannelId, socket: ConnectionId) {
        self.admit(socket, 0);
        match self.channel(id) {
            Some(channel) if channel.arrived.len() < MAX_ARRIVED => {
                channel.arrived.push_back(socket);
                self.connections[socket].state = State::Arrived;
            }
            _ => {
                self.count(Counter::SocketsFromWorkers);
                self.close(socket);
            }
        }
    }

    /// Bytes have come on a channel.
    pub fn received(&mut self, id: ChannelId, bytes: &[u8], now: Instant) {
        let Some(channel) = self.channels.get_mut(id).and_then(Option::as_mut) else { return };
        self.shared.roster.heard(channel.worker, self.shared.millis(now));
        let mut frames = std::mem::take(&mut self.frames);
        let fed = channel.deframer.feed(bytes, &mut |frame| frames.push(frame));
        for frame in frames.drain(..) {
            self.frame_arrived(id, frame, now);
        }
        self.frames = frames;
        if let Err(error) = fed {
            self.count(Counter::Malformed);
            self.end_channel(id, End::Malformed(error.to_string()), now);
        }
    }

    /// What a worker wrote before it came back. Its packets are relayed; the rest spoke of a router
    /// that is no more, and is told anew.
    pub(super) fn unread(&mut self, worker: WorkerId, bytes: &[u8], now: Instant) {
        let Some(&id) = self.by_worker.get(&worker) else { return };
        let Some(serialization) = self.channel(id).map(|channel| channel.serialization) else {
            return;
        };
        let mut frames = Vec::new();
        let mut deframer = Deframer::new(serialization, MAX_FRAME);
        let fed = deframer.feed(bytes, &mut |frame| frames.push(frame));
        if fed.is_err() || deframer.buffered() > 0 {
            // The dead router may have had the first half of a frame, and the worker the last.
            tracing::debug!(%worker, "not all that it has written was whole");
        }
        for frame in frames {
            if let Message::Packet(packet) = message::read(serialization, &frame) {
                self.relay(id, frame, &packet, now);
            }
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
        let id = self.by_worker.get(&worker).copied();
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
            Answer::Listening { listener, name, ticket_keys } => {
                let port = name.as_ref().map(|name| name.port);
                let own = (listener.kind() == Kind::App).then_some(listener);
                let key = channel.add_server(&request, own, port);
                let keys = ticket_keys.as_deref();
                reply::listen_reply(serialization, ack, sequence, &key, name.as_ref(), keys)
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
                    self.queue_hand_off(id, connection, now);
                }
                return;
            }
        };
        channel.push(frame, now);
        self.dirty.push(id);
    }

    /// The worker's process is gone, and with it whatever its channel still held.
    pub(super) fn detach(&mut self, worker: WorkerId, now: Instant) {
        let id = self.by_worker.get(&worker).copied();
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
        let Some(&id) = self.by_worker.get(&worker) else { return };
        if let Some(channel) = self.channel_of(id, worker) {
            let frame = reply::shutdown(channel.serialization);
            channel.push(frame, now);
            self.dirty.push(id);
        }
    }

    pub(super) fn write_drain(
        &mut self,
        worker: WorkerId,
        within: Duration,
        over: Duration,
        now: Instant,
    ) {
        let Some(&id) = self.by_worker.get(&worker) else { return };
        if let Some(channel) = self.channel_of(id, worker).filter(|channel| channel.told.preload) {
            let frame = reply::drain(channel.serialization, within, over);
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

    pub(super) fn queue_hand_off(&mut self, id: ChannelId, connection: ConnectionId, now: Instant) {
        let entry = &mut self.connections[connection];
        let Some(channel) = self.channels.get_mut(id).and_then(Option::as_mut) else { return };
        entry.carried_as = 0;
        if let Some(bytes) = &entry.carried {
            // The socket may come before them: the preload waits for both.
            entry.carried_as = channel.carried();
            let frame = reply::carried_bytes(channel.serialization, entry.carried_as, bytes);
            channel.push(frame, now);
        }
        channel.waiting.push_back(connection);
        self.dirty.push(id);
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
        if self.dirty.is_empty() {
            return;
        }
        // What is queued meanwhile is the next turn's.
        let next = std::mem::take(&mut self.pumped);
        let mut dirty = std::mem::replace(&mut self.dirty, next);
        for id in dirty.drain(..) {
            self.pump_hand_offs(id, now);
            let Some(channel) = self.channel(id) else { continue };
            let write = channel.next_write();
            let (worker, queued) = (channel.worker, channel.queued_bytes());
            self.shared.roster.queued(worker, queued);
            if let Write::Frames { frames, offset } = write {
                self.actions.push(Action::Write { channel: id, frames, offset });
            }
        }
        self.pumped = dirty;
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
                (None, server) if entry.carried_as != 0 || entry.peer.is_some() => {
                    let number = server.map_or(0, |server| server.number);
                    let peer = entry.peer.map_or_else(String::new, peer_text);
                    let id = entry.carried_as;
                    let frame = reply::explained_connection(serialization, id, number, &peer);
                    (frame, Delivery::Sticky)
                }
                (None, Some(server)) => {
                    let key = server.key.clone();
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
                self.hand_off_acked(id, done, worker, now);
            }
            Message::HandleNack => {
                if let Some((connection, _)) = channel.handoffs.nacked() {
                    self.redispatch(connection, worker, now);
                }
                self.dirty.push(id);
            }
            Message::Handle { returned, .. } => {
                let socket = channel.arrived.pop_front();
                self.answer(id, reply::handle_ack(serialization), now);
                if let Some(socket) = socket {
                    self.socket_explained(socket, worker, returned, now);
                }
            }
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
                    listener.join(worker, server.number);
                }
                self.join_pools();
                let Some(channel) = self.channel(id) else { return };
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
                self.join_pools();
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
                if self.shared.sessions.remove(&sid, worker) && !channel.told.preload {
                    self.shared.roster.closed(worker, 1);
                }
            }
            Message::Ready => {
                if !std::mem::replace(&mut channel.told.ready, true) {
                    self.report(Report::Ready(worker));
                }
            }
            Message::Packet(packet) => self.relay(id, frame, &packet, now),
            Message::Preload(word) => self.preload_says(id, word, now),
            Message::Other => {}
        }
    }

    /// Sockets on a lane for which there was no descriptor, in the worker or here.
    pub(super) fn lost(&self, worker: WorkerId, sockets: u64) {
        let counters = &self.shared.counters[self.index];
        counters.add(Counter::Lost, sockets);
        tracing::error!(%worker, sockets, "out of descriptors: clients were cut off");
    }

    fn preload_says(&mut self, id: ChannelId, word: Word, now: Instant) {
        let Some(channel) = self.channels.get_mut(id).and_then(Option::as_mut) else { return };
        let worker = channel.worker;
        match word {
            Word::Hello { lane } => {
                if std::mem::replace(&mut channel.told.preload, true) {
                    return;
                }
                let lane = lane && self.shared.settings.lanes;
                self.shared.roster.note_preload(worker);
                if lane {
                    self.shared.roster.open_lane(worker);
                }
                self.report(Report::Preloaded { worker, lane });
            }
            Word::Server { number, speaks } => self.server_speaks(id, number, speaks),
            Word::Load(report) => {
                self.shared.roster.reported(worker, report, self.shared.millis(now));
                self.worker_turns(worker);
            }
            Word::Serving(serving) => self.serves_still(id, &serving),
            Word::Attached => self.report(Report::Attached(worker)),
            // That it was said is all: see `received`.
            Word::Beat => {}
            Word::Drained => {
                if !std::mem::replace(&mut channel.told.drained, true) {
                    self.report(Report::Drained(worker));
                }
            }
            Word::Full => self.worker_is_full(worker, true, now),
            Word::Room => self.worker_is_full(worker, false, now),
            Word::Lost(sockets) => self.lost(worker, sockets),
            Word::Warn(text) => {
                channel.told.warnings += 1;
                if channel.told.warnings <= MAX_WARNINGS {
                    self.report(Report::Warning(worker, text));
                }
            }
            // Without a socket it is nothing.
            Word::Return(_) => {}
        }
    }

    /// A preload has said what a server of its speaks.
    fn server_speaks(&mut self, id: ChannelId, number: u32, speaks: Speaks) {
        let Some(server) = self.channel(id).and_then(|channel| channel.server(number)) else {
            return;
        };
        match server.listener.clone() {
            Some(listener) => {
                let before = listener.may_speak_first();
                listener.set_speaks(speaks);
                if !before && listener.may_speak_first() {
                    self.report(Report::SpeaksFirst(listener));
                }
            }
            // `--listen` has said where: what the first server speaks is spoken there.
            None if speaks != Speaks::Other => {
                let pools = self.listeners.values().filter(|l| l.kind() == Kind::Pool);
                pools.for_each(|listener| listener.set_speaks(speaks));
            }
            None => {}
        }
    }

    /// A worker that an earlier router has left has a server that listens.
    fn serves_still(&mut self, id: ChannelId, serving: &Serving) {
        let Some(channel) = self.channels.get_mut(id).and_then(Option::as_mut) else { return };
        let worker = channel.worker;
        let listeners = &self.listeners;
        if !channel.add_former_server(serving, |id| listeners.get(&id).cloned()) {
            return;
        }
        channel.told.listening = true;
        let added = channel.servers.last().map(|server| (server.number, server.listener.clone()));
        let Some((number, listener)) = added else { return };
        if let Some(listener) = listener {
            listener.join(worker, number);
            self.report(Report::Serves(worker, listener.id()));
        }
        self.server_speaks(id, number, serving.speaks);
        self.join_pools();
    }

    /// The message that explains a socket of a worker's has come.
    fn socket_explained(
        &mut self,
        socket: ConnectionId,
        worker: WorkerId,
        returned: Option<Returned>,
        now: Instant,
    ) {
        let listener = returned.as_ref().and_then(|returned| self.origin(worker, returned.number));
        self.forget(socket);
        match (returned, listener) {
            (Some(returned), Some(listener)) => {
                self.returned(socket, listener, worker, returned, now);
            }
            (Some(_), None) => {
                // The place where it arrived is closed, and nobody will serve it.
                self.admit(socket, 0);
                self.refuse_unavailable(socket);
            }
            (None, _) => {
                self.count(Counter::SocketsFromWorkers);
                self.admit(socket, 0);
                self.close(socket);
            }
        }
    }

    /// Tells the pool's listeners which server of each worker takes their connections: the numbers
    /// go beside the sockets on the lanes.
    pub(super) fn join_pools(&self) {
        let pools = || self.listeners.values().filter(|l| l.kind() == Kind::Pool);
        for channel in self.channels.iter().flatten() {
            for pool in pools() {
                match channel.server_for(pool) {
                    Some(server) => pool.join(channel.worker, server.number),
                    None => pool.leave(channel.worker),
                }
            }
        }
    }

    /// The worker has the socket. A server may still say no to it.
    fn hand_off_acked(
        &mut self,
        id: ChannelId,
        done: Option<(ConnectionId, Delivery)>,
        worker: WorkerId,
        now: Instant,
    ) {
        match done {
            Some((connection, Delivery::Sticky)) => self.taken(connection, worker, Way::Ipc, now),
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
            self.taken(connection, worker, Way::Ipc, now);
        } else {
            self.redispatch(connection, worker, now);
        }
    }

    /// A session is announced: one of the hand-offs that might have become one has. With a preload
    /// that counts sessions itself, only the name is news.
    fn session_opened(&mut self, id: ChannelId, sid: &[u8]) {
        let Some(channel) = self.channel(id) else { return };
        let (worker, counted) = (channel.worker, channel.told.preload);
        let roster = &self.shared.roster;
        match self.shared.sessions.insert(sid, worker) {
            Ok(before) => {
                self.announced = true;
                if before == Some(worker) || counted {
                    return;
                }
                if let Some(other) = before {
                    roster.closed(other, 1);
                }
                roster.opened(worker, 1);
            }
            Err(refused) => {
                if !counted {
                    // It ends a hope all the same; the worker's load is not followed any further.
                    roster.hope_fails(worker);
                }
                self.count(Counter::SessionsRefused);
                tracing::debug!(%worker, %refused, "session not kept");
            }
        }
    }

    /// Sends an adapter's packet on, verbatim.
    fn relay(&mut self, id: ChannelId, frame: Bytes, packet: &message::Packet, now: Instant) {
        self.count(Counter::PacketsIn);
        self.count_more(Counter::BytesIn, frame.len());
        let Some(channel) = self.channels.get_mut(id).and_then(Option::as_mut) else { return };
        let (worker, serialization) = (channel.worker, channel.serialization);
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
        let packet = Packet { frame, from: Party::Worker(worker), to, learn, forget };
        self.publish(&packet, worker, serialization, now);
    }

    /// To the workers here, to the other shards, and to other hosts.
    fn publish(
        &mut self,
        packet: &Packet,
        from: WorkerId,
        serialization: Serialization,
        now: Instant,
    ) {
        self.packet_arrived(packet, now);
        self.post_packet(packet);
        self.post_to_bus(packet, from, serialization);
    }

    /// Queues a packet for those of this shard's workers that it is for.
    fn distribute(&mut self, packet: &Packet, now: Instant) {
        for id in 0..self.channels.len() {
            let Some(channel) = self.channels[id].as_mut() else { continue };
            let party = Party::Worker(channel.worker);
            let wanted = packet.to.is_none_or(|to| to == party);
            if party == packet.from || !wanted {
                continue;
            }
            channel.push(packet.frame.clone(), now);
            self.check_congestion(id);
            self.count(Counter::PacketsOut);
            self.count_more(Counter::BytesOut, packet.frame.len());
            self.dirty.push(id);
        }
    }

    /// A queue may have grown over its bound: then nobody reads from workers until it has shrunk.
    fn check_congestion(&mut self, id: ChannelId) {
        let Some(channel) = self.channel(id).filter(|c| c.is_over() && !c.congested) else {
            return;
        };
        channel.congested = true;
        let (worker, until) = (channel.worker, channel.progress + STALL_WAIT);
        self.shared.congested.fetch_add(1, Ordering::AcqRel);
        self.set_timer(until, Timer::Stall(id, worker));
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
        if self.by_worker.get(&worker) == Some(&id) {
            self.by_worker.remove(&worker);
        }
        self.shared.roster.queued(worker, 0);
        self.shared.roster.set_gone(worker);
        for server in &channel.servers {
            if let Some(listener) = &server.listener {
                listener.leave(worker);
            }
        }
        self.actions.push(Action::CloseChannel(id));
        for socket in std::mem::take(&mut channel.arrived) {
            self.count(Counter::SocketsFromWorkers);
            self.close(socket);
        }
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
        for connection in std::mem::take(&mut channel.waiting) {
            self.redispatch(connection, worker, now);
        }
        let serialization = channel.serialization;
        for (uid, nsp) in channel.adapters.drain() {
            let frame = reply::adapter_close(serialization, &uid, &nsp);
            let from = Party::Worker(worker);
            let packet = Packet { frame, from, to: None, learn: None, forget: Some(uid) };
            self.publish(&packet, worker, serialization, now);
        }
        self.owners.forget_worker(worker);
        self.end_lane(channel, now);
        self.start_sweep(now);
        self.report(Report::ChannelEnded(worker, end));
    }

    fn channel(&mut self, id: ChannelId) -> Option<&mut Channel> {
        self.channels.get_mut(id).and_then(Option::as_mut)
    }
}
