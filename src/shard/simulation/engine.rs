//! The engines, played: what an action does, and when it completes.
//!
//! As on io_uring, an operation's effect comes in the order in which it was submitted, its
//! completion later, and an id is used again only when no completion can name it.

use std::collections::{HashSet, VecDeque};
use std::io::{Error, ErrorKind};
use std::os::fd::AsRawFd;

use slab::Slab;

use super::worker::Segment;
use super::world::{World, descriptor};
use crate::route::roster::Standing;
use crate::route::self_routing::named;
use crate::shard::connection::State;
use crate::shard::core::Action;
use crate::shard::ring::Mail;

/// Sockets that fit a lane here; the kernel has room for hundreds.
const LANE_ROOM: usize = 8;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Op {
    Peek,
    More(usize),
    Linger,
}

pub(super) struct Held {
    pub(super) client: usize,
    pub(super) op: Option<Op>,
    pub(super) beyond: bool,
    pub(super) refused: bool,
    pub(super) closing: bool,
}

pub(super) struct Line {
    pub(super) worker: usize,
    pub(super) read: bool,
    pub(super) ops: usize,
    pub(super) room: bool,
    pub(super) closing: bool,
}

/// A shard's share of a worker's lane.
pub(super) struct Lane {
    pub(super) worker: usize,
    pub(super) ops: usize,
    pub(super) room: bool,
    pub(super) closing: bool,
}

pub(super) enum Done {
    Hand { channel: usize, connection: usize, length: usize, result: std::io::Result<()> },
    Wrote { channel: usize, result: std::io::Result<usize> },
    Lane { lane: usize, connection: usize, result: std::io::Result<()> },
}

#[derive(Default)]
pub(super) struct Engine {
    pub(super) clients: Slab<Held>,
    pub(super) lines: Slab<Line>,
    pub(super) lanes: Slab<Lane>,
    pub(super) done: VecDeque<Done>,
    pub(super) listening: HashSet<u32>,
    pub(super) paused: bool,
}

impl World {
    /// Completions: of sends in their order, of the rest in any.
    pub(super) fn complete(&mut self, index: usize) {
        let now = self.now;
        while self.complete_a_send(index) {
            if !self.draining && self.chance.one_in(5) {
                break;
            }
        }
        if !self.engines[index].done.is_empty() {
            // Completions come in the order of their causes: an acknowledgement is never seen
            // before the hand-off it answers.
            return;
        }
        let ids: Vec<usize> = self.engines[index].clients.iter().map(|(id, _)| id).collect();
        for id in ids {
            if self.draining || !self.chance.one_in(3) {
                self.client_completes(index, id);
            }
        }
        let ids: Vec<usize> = self.engines[index].lanes.iter().map(|(id, _)| id).collect();
        for id in ids {
            let lane = &mut self.engines[index].lanes[id];
            let worker = &self.workers[lane.worker];
            let has_room = worker.lane_ended || worker.lane.len() * 4 < LANE_ROOM;
            if lane.room && has_room && self.chance.one_in(2) {
                lane.room = false;
                if self.lane_op_ended(index, id) {
                    self.shards[index].lane_has_room(id, now);
                }
            }
        }
        let ids: Vec<usize> = self.engines[index].lines.iter().map(|(id, _)| id).collect();
        for id in ids {
            if self.draining || !self.chance.one_in(3) {
                self.line_completes(index, id);
            }
        }
    }

    /// The oldest send under way. `false`: there is none.
    pub(super) fn complete_a_send(&mut self, index: usize) -> bool {
        let now = self.now;
        match self.engines[index].done.pop_front() {
            Some(Done::Hand { channel, connection, length, result }) => {
                if self.line_op_ended(index, channel) {
                    self.shards[index].handed(channel, connection, length, result, now);
                }
            }
            Some(Done::Wrote { channel, result }) => {
                if self.line_op_ended(index, channel) {
                    self.shards[index].wrote(channel, result, now);
                }
            }
            Some(Done::Lane { lane, connection, result }) => {
                self.lane_op_ended(index, lane);
                self.shards[index].sent_on_lane(connection, result, now);
            }
            None => return false,
        }
        true
    }

    fn client_completes(&mut self, index: usize, id: usize) {
        let held = &mut self.engines[index].clients[id];
        let Some(op) = held.op else { return };
        let client = &self.clients[held.client];
        let due = match op {
            Op::Peek => client.arrived > 0 || client.finished,
            Op::More(beyond) => client.arrived > beyond || client.finished,
            Op::Linger => client.finished,
        };
        if !due && !held.closing && !held.refused {
            return;
        }
        held.op = None;
        if held.closing {
            self.engines[index].clients.remove(id);
        } else if held.refused {
            if client.finished {
                self.shards[index].lingered(id);
            } else {
                held.op = Some(Op::Linger);
            }
        } else if let Op::More(_) = op {
            held.op = Some(Op::Peek);
        } else {
            let finished = held.beyond && client.finished;
            if !self.draining && self.chance.one_in(60) {
                let client = held.client;
                self.clients[client].finished = true;
                return self.shards[index].peek_failed(id);
            }
            let at = held.client;
            // A head that was late has been routed without its line.
            let in_time =
                matches!(self.shards[index].connections[id].state, State::ExpectHead { .. });
            if let Some(sid) = client.sid.as_ref().filter(|_| in_time) {
                let roster = &self.shared.roster;
                let owner = match named(sid.as_bytes()) {
                    Some(named) => roster.find(named).map(|(worker, _)| worker),
                    None => self.shared.sessions.get(sid.as_bytes()),
                };
                self.clients[at].owner = owner
                    .filter(|_| client.arrived == client.script.len())
                    .filter(|owner| self.shared.roster.standing(*owner) != Standing::Gone)
                    .filter(|owner| {
                        let app = self.app.as_ref();
                        !client.on_app || app.is_some_and(|app| app.is_served_by(*owner))
                    });
            }
            let client = &self.clients[at];
            let bytes = &client.script[..client.arrived];
            self.shards[index].peeked(id, bytes, finished, self.now);
        }
    }

    fn line_completes(&mut self, index: usize, id: usize) {
        let Some(line) = self.engines[index].lines.get_mut(id) else { return };
        let worker = &mut self.workers[line.worker];
        if line.closing {
            if line.ops == 0 || (line.ops == 1 && line.room) {
                self.engines[index].lines.remove(id);
            }
            return;
        }
        if line.room && (worker.queued * 2 < worker.room || !worker.alive) {
            line.room = false;
            line.ops -= 1;
            self.shards[index].writable(id);
        }
        let line = &self.engines[index].lines[id];
        if !line.read {
            return;
        }
        if worker.outbound.is_empty() {
            if !worker.alive {
                self.shards[index].channel_ended(id, self.now);
            }
            return;
        }
        let most = 1 + self.chance.below(4000);
        let count = most.min(worker.outbound.len());
        let bytes: Vec<u8> = worker.outbound.drain(..count).collect();
        for client in std::mem::take(&mut worker.given_back) {
            let socket = hold(&mut self.engines[index], client);
            self.clients[client].open += 1;
            self.clients[client].on_lane = false;
            self.clients[client].came_back = true;
            self.again += 1;
            self.shards[index].socket_arrived(id, socket);
        }
        self.shards[index].received(id, &bytes, self.now);
    }

    fn lane_op_ended(&mut self, index: usize, id: usize) -> bool {
        let lane = &mut self.engines[index].lanes[id];
        lane.ops -= 1;
        if lane.closing && lane.ops == 0 {
            self.engines[index].lanes.remove(id);
            return false;
        }
        !lane.closing
    }

    /// sendmsg on a worker's lane.
    fn send_on_lane(&mut self, at: usize, message: &[u8], client: usize) -> std::io::Result<()> {
        let worker = &mut self.workers[at];
        if worker.lane_ended {
            return Err(ErrorKind::BrokenPipe.into());
        }
        if !self.draining && self.chance.one_in(30) {
            return Err(Error::other("too many references"));
        }
        if worker.lane.len() >= LANE_ROOM {
            return Err(ErrorKind::WouldBlock.into());
        }
        worker.lane.push_back((message.to_vec(), client));
        self.clients[client].on_lane = true;
        Ok(())
    }

    fn line_op_ended(&mut self, index: usize, id: usize) -> bool {
        let line = &mut self.engines[index].lines[id];
        line.ops -= 1;
        !line.closing
    }

    pub(super) fn carry_out(&mut self, index: usize, action: Action) {
        let engine = &mut self.engines[index];
        match action {
            Action::Peek(id) => {
                let op = engine.clients[id].op.replace(Op::Peek);
                assert!(op.is_none(), "two looks at one client");
            }
            Action::PeekBeyond { connection, beyond } => {
                engine.clients[connection].beyond = true;
                let op = engine.clients[connection].op.replace(Op::More(beyond));
                assert!(op.is_none(), "two looks at one client");
            }
            Action::HandOff { channel, connection, frame } => {
                let line = &mut engine.lines[channel];
                line.ops += 1;
                let (worker, client) = (line.worker, engine.clients[connection].client);
                let length = frame.len();
                let result = self.send(worker, frame.to_vec(), Some(client)).map(|_| ());
                let done = Done::Hand { channel, connection, length, result };
                self.engines[index].done.push_back(done);
            }
            Action::Write { channel, frames, offset } => {
                let line = &mut engine.lines[channel];
                line.ops += 1;
                let worker = line.worker;
                let bytes = frames.concat().split_off(offset);
                let result = self.send(worker, bytes, None);
                self.engines[index].done.push_back(Done::Wrote { channel, result });
            }
            Action::AwaitRoom(channel) => {
                let line = &mut engine.lines[channel];
                if !line.room {
                    line.room = true;
                    line.ops += 1;
                }
            }
            Action::SendOnLane { lane, connection, message } => {
                engine.lanes[lane].ops += 1;
                let (worker, client) =
                    (engine.lanes[lane].worker, engine.clients[connection].client);
                let result = self.send_on_lane(worker, &message, client);
                self.engines[index].done.push_back(Done::Lane { lane, connection, result });
            }
            Action::AwaitLaneRoom(lane) => {
                let lane = &mut engine.lanes[lane];
                assert!(!lane.room, "two waits for room on one lane");
                lane.room = true;
                lane.ops += 1;
            }
            Action::LookAtLane(id) => {
                let unread = self.workers[engine.lanes[id].worker].lane.len();
                self.shards[index].lane_looked_at(id, unread, self.now);
            }
            Action::ReadBack { lane, worker, end } => {
                let at = engine.lanes[lane].worker;
                self.workers[at].lane_ended |= end;
                for (message, client) in std::mem::take(&mut self.workers[at].lane) {
                    self.clients[client].on_lane = false;
                    self.clients[client].open += 1;
                    self.clients[client].came_back = true;
                    self.again += 1;
                    let id = hold(&mut self.engines[index], client);
                    self.shards[index].read_back(id, worker, &message, self.now);
                }
                if end {
                    self.shards[index].lane_is_empty(worker);
                }
            }
            Action::CloseLane(lane) => {
                engine.lanes[lane].closing = true;
                engine.lanes[lane].ops += 1;
                self.lane_op_ended(index, lane);
            }
            Action::AskAddress(id) => {
                let client = engine.clients[id].client;
                let octet = u8::try_from(client % 250).expect("small");
                let address = (!client.is_multiple_of(7)).then(|| ([10, 0, 0, octet], 1).into());
                self.shards[index].address_is(id, address, self.now);
            }
            Action::Skip { .. } => panic!("the PROXY protocol is not spoken"),
            Action::AcceptSilent(_) => {}
            Action::Read { channel, on } => engine.lines[channel].read = on,
            Action::CloseChannel(channel) => {
                let line = &mut engine.lines[channel];
                line.closing = true;
                line.read = false;
                let worker = line.worker;
                self.workers[worker].cut = true;
                self.kill(worker);
            }
            Action::Close(id) => {
                let held = &mut engine.clients[id];
                let client = held.client;
                if held.op.is_some() {
                    held.closing = true;
                } else {
                    engine.clients.remove(id);
                }
                self.closed(client);
            }
            Action::Refuse { connection, response } => {
                let held = &mut engine.clients[connection];
                held.refused = true;
                let client = held.client;
                if held.op.is_none() {
                    held.op = Some(Op::Linger);
                }
                self.refused(client, response);
                self.shards[index].refused(connection, self.now);
            }
            Action::Transfer { connection, shard, transit } => {
                let held = &mut engine.clients[connection];
                let client = held.client;
                // A look at the head of an application's client may be under way.
                if held.op.is_some() {
                    held.closing = true;
                } else {
                    engine.clients.remove(connection);
                }
                let socket = descriptor();
                self.posted.insert(socket.as_raw_fd(), client);
                self.shards[index].post(shard, Mail::Connection { socket, transit });
            }
            Action::Listen { listener, .. } => _ = engine.listening.insert(listener),
            Action::Unlisten(listener) => _ = engine.listening.remove(&listener),
            Action::Accept(on) => engine.paused = !on,
            Action::StopAccepting => engine.listening.clear(),
            Action::Linger(id) => {
                let held = &mut engine.clients[id];
                held.refused = true;
                held.op = Some(Op::Linger);
            }
            Action::Rest | Action::Exit => {}
        }
    }

    /// sendmsg on a worker's channel.
    fn send(
        &mut self,
        index: usize,
        mut bytes: Vec<u8>,
        socket: Option<usize>,
    ) -> std::io::Result<usize> {
        let faulty = !self.draining;
        let worker = &mut self.workers[index];
        if !worker.alive {
            return Err(ErrorKind::BrokenPipe.into());
        }
        if faulty && self.chance.one_in(40) {
            return Err(ErrorKind::WouldBlock.into());
        }
        if faulty && socket.is_some() && self.chance.one_in(30) {
            return Err(Error::other("too many references"));
        }
        let room = worker.room.saturating_sub(worker.queued);
        if room == 0 || (socket.is_some() && room < bytes.len()) {
            return Err(ErrorKind::WouldBlock.into());
        }
        if socket.is_none() {
            let cut = if self.chance.one_in(3) { 1 + self.chance.below(bytes.len()) } else { room };
            bytes.truncate(room.min(cut));
        }
        worker.handles.extend(socket);
        worker.queued += bytes.len();
        let length = bytes.len();
        worker.inbound.push_back(Segment { bytes, socket });
        Ok(length)
    }
}

pub(super) fn hold(engine: &mut Engine, client: usize) -> usize {
    engine.clients.insert(Held { client, op: None, beyond: false, refused: false, closing: false })
}
