//! The uring engine: owns a shard's descriptors and carries its actions out on an io_uring.
//!
//! Everything is batched: the actions of one turn are queued and submitted with the wait for the
//! next. Descriptors are shared with the operations that use them, so closing one here while the
//! kernel still has an operation on it is safe: the operation is cancelled and the last share
//! closes. An id goes back to its table only when no completion can name it any more.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use slab::Slab;

use super::core::{Action, Shard};
use super::engine::{Keeper, clock, read_back};
use super::frozen::{Portion, thaw};
use super::listener::ListenerId;
use super::rest::Resting;
use super::ring::Mail;
use super::{ChannelId, ConnectionId, LaneId};
use crate::sys::socket::{self, Lingering};
use crate::sys::uring::{Done, OpId, Outcome, Received, Ring};

/// Bytes of the first look at a head: nearly every request line is shorter.
const SMALL_PEEK: usize = 2 << 10;
/// Bytes of a later look: longer than the longest request line.
const LARGE_PEEK: usize = 16 << 10;
/// How long to wait for an operation's end before all are cancelled once more.
const REST_TURN: Duration = Duration::from_millis(10);
/// Small buffers kept for the next connections.
const SPARE_BUFFERS: usize = 1024;

/// What a completion is about.
#[derive(Clone, Copy, Debug)]
enum Token {
    Accept(usize),
    Peek(ConnectionId),
    More(ConnectionId),
    Linger(ConnectionId),
    Hand { channel: ChannelId, connection: ConnectionId, length: usize },
    Write(ChannelId),
    Receive(ChannelId),
    Room(ChannelId),
    Lane { lane: LaneId, connection: ConnectionId },
    LaneRoom(LaneId),
    Wake,
}

struct Client {
    socket: Rc<OwnedFd>,
    /// A peek or poll in flight.
    op: Option<OpId>,
    /// SO_RCVLOWAT is not 1.
    low_water: bool,
    large: bool,
    /// It has been refused: all that counts is its end.
    refused: bool,
    closing: bool,
}

struct Worker {
    socket: Rc<OwnedFd>,
    /// The multishot receive.
    receive: Option<OpId>,
    /// Whether it shall be read.
    read: bool,
    /// A poll for room is in flight.
    awaits_room: bool,
    /// Operations in flight, all kinds.
    ops: usize,
    closing: bool,
}

struct Lane {
    ours: Rc<OwnedFd>,
    /// A share of the worker's end.
    theirs: Rc<OwnedFd>,
    /// Operations in flight, all kinds.
    ops: usize,
    closing: bool,
}

/// One of a listener's sockets: there are several after an upgrade to fewer threads.
struct Acceptor {
    listener: ListenerId,
    socket: Rc<OwnedFd>,
    op: Option<OpId>,
    /// It goes when the last completion has come.
    closing: bool,
}

struct Engine {
    shard: Shard,
    ring: Ring<Token>,
    clients: Slab<Client>,
    workers: Slab<Worker>,
    lanes: Slab<Lane>,
    acceptors: Slab<Acceptor>,
    accepting: bool,
    spare: Vec<Box<[u8]>>,
    wake: Rc<OwnedFd>,
    exit: bool,
    /// Nothing new is begun: what is in flight ends, and the shard rests.
    resting: bool,
}

/// Runs a shard until it is told to exit, or to rest.
///
/// # Errors
/// The ring cannot be set up, or the kernel fails it.
pub fn run(shard: Shard, portion: Portion) -> io::Result<Option<Resting>> {
    let wake = shard.shared().mailboxes[shard.index()].wake().as_fd().try_clone_to_owned()?;
    let mut engine = Engine {
        shard,
        ring: Ring::new()?,
        clients: Slab::new(),
        workers: Slab::new(),
        lanes: Slab::new(),
        acceptors: Slab::new(),
        accepting: true,
        spare: Vec::new(),
        wake: Rc::new(wake),
        exit: false,
        resting: false,
    };
    thaw(&mut engine, portion, clock());
    engine.await_wake();
    engine.drive()?;
    if engine.resting { engine.rest().map(Some) } else { Ok(None) }
}

impl Keeper for Engine {
    fn shard(&mut self) -> &mut Shard {
        &mut self.shard
    }

    fn keep_client(&mut self, socket: OwnedFd) -> ConnectionId {
        self.clients.insert(Client {
            socket: Rc::new(socket),
            op: None,
            low_water: false,
            large: false,
            refused: false,
            closing: false,
        })
    }

    fn keep_channel(&mut self, channel: OwnedFd) -> io::Result<ChannelId> {
        Ok(self.workers.insert(Worker {
            socket: Rc::new(channel),
            receive: None,
            read: false,
            awaits_room: false,
            ops: 0,
            closing: false,
        }))
    }

    fn keep_lane(&mut self, ours: OwnedFd, theirs: OwnedFd) -> io::Result<LaneId> {
        let (ours, theirs) = (Rc::new(ours), Rc::new(theirs));
        Ok(self.lanes.insert(Lane { ours, theirs, ops: 0, closing: false }))
    }
}

impl Engine {
    fn drive(&mut self) -> io::Result<()> {
        let mut done = Vec::new();
        let mut actions = Vec::new();
        self.act(&mut actions, clock());
        while !self.exit && !self.resting {
            let now = clock();
            let timeout = self.shard.next_deadline().map(|at| at.saturating_duration_since(now));
            self.ring.wait(timeout, &mut done)?;
            let now = clock();
            for finished in done.drain(..) {
                self.finished(finished, now);
            }
            self.shard.tick(now);
            self.act(&mut actions, now);
        }
        Ok(())
    }

    /// Ends the turn: actions may cause events (a refusal, a transfer), and those more actions.
    fn act(&mut self, actions: &mut Vec<Action>, now: Instant) {
        loop {
            self.shard.end_turn(now);
            self.shard.take_actions(actions);
            if actions.is_empty() {
                return;
            }
            for action in actions.drain(..) {
                self.carry_out(action, now);
            }
        }
    }

    fn finished(&mut self, done: Done<Token>, now: Instant) {
        match (done.tag, done.outcome) {
            (Token::Accept(index), Outcome::Accepted { socket, armed }) => {
                self.accepted(index, socket, armed, now);
            }
            (Token::Peek(id), Outcome::Peeked { result, buffer }) => {
                self.peeked(id, result, buffer, now);
            }
            (Token::More(id), _) => {
                if self.client_op_ended(id) && !self.resting {
                    self.peek(id);
                }
            }
            // What woke it is looked at by `linger`, as after every operation of a refused client.
            (Token::Linger(id), _) => _ = self.client_op_ended(id),
            (Token::Hand { channel, connection, length }, Outcome::Handed(result)) => {
                if self.worker_op_ended(channel) {
                    let result = self.uncancelled(result);
                    self.shard.handed(channel, connection, length, result, now);
                }
            }
            (Token::Write(channel), Outcome::Sent { result, .. }) => {
                if self.worker_op_ended(channel) {
                    let result = self.uncancelled(result);
                    self.shard.wrote(channel, result, now);
                }
            }
            (Token::Receive(channel), Outcome::Received { result, armed }) => {
                self.received(channel, result, armed, now);
            }
            (Token::Room(channel), _) => {
                if self.worker_op_ended(channel) {
                    self.workers[channel].awaits_room = false;
                    self.shard.writable(channel);
                }
            }
            (Token::Lane { lane, connection }, Outcome::Handed(result)) => {
                self.lane_op_ended(lane);
                let result = self.uncancelled(result);
                self.shard.sent_on_lane(connection, result, now);
            }
            (Token::LaneRoom(lane), _) => {
                if self.lane_op_ended(lane) {
                    self.shard.lane_has_room(lane, now);
                }
            }
            (Token::Wake, _) => {
                self.read_mail(now);
                if !self.resting {
                    self.await_wake();
                }
            }
            (token, outcome) => debug_assert!(false, "{outcome:?} for {token:?}"),
        }
    }

    fn carry_out(&mut self, action: Action, now: Instant) {
        match action {
            wait if self.resting && wait.waits() => {}
            Action::Peek(id) => self.peek(id),
            Action::PeekBeyond { connection, beyond } => self.peek_beyond(connection, beyond),
            Action::HandOff { channel, connection, frame } => {
                self.hand_off(channel, connection, frame);
            }
            Action::Write { channel, frames, offset } => {
                if let Some(worker) = self.workers.get_mut(channel) {
                    worker.ops += 1;
                    self.ring.send(Token::Write(channel), &worker.socket, frames, offset);
                }
            }
            Action::AwaitRoom(channel) => {
                let Some(worker) = self.workers.get_mut(channel) else { return };
                if !worker.awaits_room {
                    worker.awaits_room = true;
                    worker.ops += 1;
                    self.ring.poll_out(Token::Room(channel), &worker.socket);
                }
            }
            Action::SendOnLane { lane, connection, message } => {
                self.send_on_lane(lane, connection, message);
            }
            Action::AwaitLaneRoom(id) => {
                if let Some(lane) = self.lanes.get_mut(id) {
                    lane.ops += 1;
                    self.ring.poll_out(Token::LaneRoom(id), &lane.ours);
                }
            }
            Action::LookAtLane(id) => {
                let Some(lane) = self.lanes.get(id) else { return };
                let unread = socket::unread(lane.theirs.as_fd()).unwrap_or(0);
                self.shard.lane_looked_at(id, unread, now);
            }
            Action::ReadBack { lane, worker, end } => {
                let Some(lane) = self.lanes.get(lane) else { return };
                let (ours, theirs) = (Rc::clone(&lane.ours), Rc::clone(&lane.theirs));
                read_back(self, [ours.as_fd(), theirs.as_fd()], worker, end, now);
            }
            Action::CloseLane(id) => {
                if let Some(lane) = self.lanes.get_mut(id) {
                    lane.closing = true;
                    lane.ops += 1;
                    self.lane_op_ended(id);
                }
            }
            Action::AskAddress(id) => {
                let Some(client) = self.clients.get(id) else { return };
                let address = socket::peer_address(client.socket.as_fd());
                self.shard.address_is(id, address, now);
            }
            Action::Skip { connection, length } => {
                self.reset_low_water(connection);
                let Some(client) = self.clients.get(connection) else { return };
                match socket::skip(client.socket.as_fd(), length) {
                    Ok(()) => self.shard.skipped(connection, now),
                    Err(_) => self.shard.peek_failed(connection),
                }
            }
            Action::AcceptSilent(listener) => {
                for (_, acceptor) in self.acceptors.iter().filter(|(_, a)| a.listener == listener) {
                    if let Err(error) = socket::accept_silent(acceptor.socket.as_fd()) {
                        tracing::debug!(%error, "silent clients are accepted late");
                    }
                }
            }
            Action::Read { channel, on } => self.set_reading(channel, on),
            Action::CloseChannel(channel) => self.close_channel(channel),
            Action::Close(id) => self.close(id),
            Action::Refuse { connection, response } => {
                let Some(client) = self.clients.get_mut(connection) else { return };
                client.refused = true;
                // A look at the head may still be under way: the deadline has come first.
                if let Some(op) = client.op {
                    self.ring.cancel(op);
                }
                match socket::refuse(client.socket.as_fd(), response) {
                    Lingering::Over => self.shard.lingered(connection),
                    Lingering::Open => {
                        self.shard.refused(connection, now);
                        self.await_end(connection);
                    }
                }
            }
            Action::Linger(id) => {
                let Some(client) = self.clients.get_mut(id) else { return };
                client.refused = true;
                self.linger(id);
            }
            Action::Transfer { connection, shard, transit } => {
                if let Some(socket) = self.take_socket(connection) {
                    self.shard.post(shard, Mail::Connection { socket, transit });
                }
            }
            Action::Listen { listener, socket } => {
                let acceptor =
                    Acceptor { listener, socket: Rc::new(socket), op: None, closing: false };
                let index = self.acceptors.insert(acceptor);
                self.accept_on(index);
            }
            Action::Unlisten(listener) => self.close_acceptors(|other| other == listener),
            Action::Accept(on) => {
                self.accepting = on;
                let all: Vec<usize> = self.acceptors.iter().map(|(index, _)| index).collect();
                for index in all {
                    if on {
                        self.accept_on(index);
                    } else if let Some(op) = self.acceptors[index].op {
                        self.ring.cancel(op);
                    }
                }
            }
            Action::StopAccepting => self.close_acceptors(|_| true),
            Action::Rest => self.resting = true,
            Action::Exit => self.exit = true,
        }
    }

    // Accepting.

    fn accept_on(&mut self, index: usize) {
        let Some(acceptor) = self.acceptors.get_mut(index) else { return };
        if self.accepting && !acceptor.closing && acceptor.op.is_none() {
            acceptor.op = Some(self.ring.accept(Token::Accept(index), &acceptor.socket));
        }
    }

    fn accepted(&mut self, index: usize, socket: io::Result<OwnedFd>, armed: bool, now: Instant) {
        let Some(acceptor) = self.acceptors.get_mut(index) else { return };
        let Acceptor { listener, closing, .. } = *acceptor;
        if !armed {
            acceptor.op = None;
        }
        match socket {
            Ok(socket) if !closing => {
                let id = self.keep_client(socket);
                self.shard.accepted(id, listener, now);
            }
            Err(error) if !closing && is_exhaustion(&error) => {
                return self.shard.accept_failed(now);
            }
            // Cancelled by us, or a connection that was gone before it was accepted.
            _ => {}
        }
        if !armed && closing {
            let acceptor = self.acceptors.remove(index);
            self.ring.close(acceptor.socket);
        } else if !armed && !self.resting {
            self.accept_on(index);
        }
    }

    fn close_acceptors(&mut self, wanted: impl Fn(ListenerId) -> bool) {
        let closed = self.acceptors.iter().filter(|(_, acceptor)| wanted(acceptor.listener));
        let closed: Vec<usize> = closed.map(|(index, _)| index).collect();
        for index in closed {
            self.acceptors[index].closing = true;
            match self.acceptors[index].op {
                Some(op) => self.ring.cancel(op),
                None => {
                    let acceptor = self.acceptors.remove(index);
                    self.ring.close(acceptor.socket);
                }
            }
        }
    }

    // Clients.

    fn peek(&mut self, id: ConnectionId) {
        let Some(client) = self.clients.get_mut(id) else { return };
        let buffer = if client.large {
            vec![0; LARGE_PEEK].into_boxed_slice()
        } else {
            self.spare.pop().unwrap_or_else(|| vec![0; SMALL_PEEK].into_boxed_slice())
        };
        client.op = Some(self.ring.peek(Token::Peek(id), &client.socket, buffer));
    }

    fn peek_beyond(&mut self, id: ConnectionId, beyond: usize) {
        let Some(client) = self.clients.get_mut(id) else { return };
        client.large |= beyond >= SMALL_PEEK;
        // Where it cannot be set, the poll returns at once and the shard waits between looks.
        client.low_water |= socket::set_low_water(client.socket.as_fd(), beyond + 1).is_ok();
        client.op = Some(self.ring.poll_in(Token::More(id), &client.socket));
    }

    fn peeked(
        &mut self,
        id: ConnectionId,
        result: io::Result<usize>,
        buffer: Box<[u8]>,
        now: Instant,
    ) {
        if self.client_op_ended(id) {
            match result {
                Ok(length) => {
                    let bytes = buffer.get(..length).unwrap_or_default();
                    let client = &self.clients[id];
                    // Only a client that has been waited for can be at its end here.
                    let finished =
                        client.low_water && socket::peer_has_finished(client.socket.as_fd());
                    self.shard.peeked(id, bytes, finished, now);
                }
                // Whoever thaws the shard looks again.
                Err(_) if self.resting => {}
                Err(_) => self.shard.peek_failed(id),
            }
        }
        if buffer.len() == SMALL_PEEK && self.spare.len() < SPARE_BUFFERS {
            self.spare.push(buffer);
        }
    }

    fn await_end(&mut self, id: ConnectionId) {
        if self.resting {
            return;
        }
        let Some(client) = self.clients.get_mut(id) else { return };
        if client.low_water {
            client.low_water = socket::set_low_water(client.socket.as_fd(), 1).is_err();
        }
        if client.op.is_none() {
            client.op = Some(self.ring.poll_in(Token::Linger(id), &client.socket));
        }
    }

    /// A refused client has sent more, or ended.
    fn linger(&mut self, id: ConnectionId) {
        match socket::discard(self.clients[id].socket.as_fd()) {
            Lingering::Over => self.shard.lingered(id),
            Lingering::Open => self.await_end(id),
        }
    }

    /// The operation of a client has completed. `false`: the client is being closed, and goes, or
    /// it has been refused, and its end is awaited.
    fn client_op_ended(&mut self, id: ConnectionId) -> bool {
        let Some(client) = self.clients.get_mut(id) else { return false };
        client.op = None;
        if client.closing {
            let client = self.clients.remove(id);
            self.ring.close(client.socket);
            return false;
        }
        if client.refused {
            if !self.resting {
                self.linger(id);
            }
            return false;
        }
        true
    }

    fn close(&mut self, id: ConnectionId) {
        let Some(client) = self.clients.get_mut(id) else { return };
        if let Some(op) = client.op {
            client.closing = true;
            self.ring.cancel(op);
        } else {
            let client = self.clients.remove(id);
            self.ring.close(client.socket);
        }
    }

    /// Takes the socket of a client. One with an operation in flight (a look at a head that is
    /// late) leaves its entry behind until that has completed.
    fn take_socket(&mut self, id: ConnectionId) -> Option<OwnedFd> {
        self.reset_low_water(id);
        let client = self.clients.get_mut(id)?;
        if let Some(op) = client.op {
            client.closing = true;
            self.ring.cancel(op);
            return client.socket.try_clone().ok();
        }
        let client = self.clients.try_remove(id)?;
        match Rc::try_unwrap(client.socket) {
            Ok(socket) => Some(socket),
            // A hand-off to a worker that is gone has not completed yet.
            Err(shared) => shared.try_clone().ok(),
        }
    }

    fn reset_low_water(&mut self, id: ConnectionId) {
        let Some(client) = self.clients.get_mut(id).filter(|client| client.low_water) else {
            return;
        };
        client.low_water = socket::set_low_water(client.socket.as_fd(), 1).is_err();
    }

    // Workers.

    fn hand_off(&mut self, channel: ChannelId, connection: ConnectionId, frame: Bytes) {
        self.reset_low_water(connection);
        let (Some(worker), Some(client)) =
            (self.workers.get_mut(channel), self.clients.get(connection))
        else {
            return;
        };
        worker.ops += 1;
        let token = Token::Hand { channel, connection, length: frame.len() };
        self.ring.hand_off(token, &worker.socket, frame, &client.socket);
    }

    fn send_on_lane(&mut self, id: LaneId, connection: ConnectionId, message: Bytes) {
        self.reset_low_water(connection);
        let (Some(lane), Some(client)) = (self.lanes.get_mut(id), self.clients.get(connection))
        else {
            return;
        };
        lane.ops += 1;
        let token = Token::Lane { lane: id, connection };
        self.ring.hand_off(token, &lane.ours, message, &client.socket);
    }

    /// An operation on a lane has completed. `false`: it is being closed.
    fn lane_op_ended(&mut self, id: LaneId) -> bool {
        let Some(lane) = self.lanes.get_mut(id) else { return false };
        lane.ops -= 1;
        if lane.closing && lane.ops == 0 {
            let lane = self.lanes.remove(id);
            self.ring.close(lane.ours);
            return false;
        }
        !lane.closing
    }

    fn set_reading(&mut self, channel: ChannelId, on: bool) {
        let Some(worker) = self.workers.get_mut(channel).filter(|w| !w.closing) else { return };
        worker.read = on;
        match (on, worker.receive) {
            (true, None) => self.receive(channel),
            (false, Some(op)) => self.ring.cancel(op),
            _ => {}
        }
    }

    fn receive(&mut self, channel: ChannelId) {
        let worker = &mut self.workers[channel];
        worker.ops += 1;
        worker.receive = Some(self.ring.receive(Token::Receive(channel), &worker.socket));
    }

    fn received(
        &mut self,
        channel: ChannelId,
        result: io::Result<Option<Received>>,
        armed: bool,
        now: Instant,
    ) {
        let live = armed || {
            if let Some(worker) = self.workers.get_mut(channel) {
                worker.receive = None;
            }
            self.worker_op_ended(channel)
        };
        let live = live && self.workers.get(channel).is_some_and(|worker| !worker.closing);
        match result {
            Ok(Some(received)) => {
                let mut received = received;
                for socket in received.sockets.drain(..).filter(|_| live) {
                    let id = self.keep_client(socket);
                    self.shard.socket_arrived(channel, id);
                }
                if live {
                    self.shard.received(channel, self.ring.bytes(&received), now);
                }
                self.ring.recycle(&received);
            }
            Ok(None) if live => return self.shard.channel_ended(channel, now),
            // Out of buffers, cancelled to hold the sender back, or interrupted: see below.
            Err(error) if live && !is_pause(&error) => {
                return self.shard.channel_ended(channel, now);
            }
            _ => {}
        }
        let again = self
            .workers
            .get(channel)
            .is_some_and(|worker| !worker.closing && worker.read && worker.receive.is_none());
        if again && !self.resting {
            self.receive(channel);
        }
    }

    /// An operation on a channel has completed. `false`: it is being closed.
    fn worker_op_ended(&mut self, channel: ChannelId) -> bool {
        let Some(worker) = self.workers.get_mut(channel) else { return false };
        worker.ops -= 1;
        if worker.closing {
            if worker.ops == 0 {
                let worker = self.workers.remove(channel);
                self.ring.close(worker.socket);
            }
            return false;
        }
        true
    }

    /// Ends the channel for the worker too; the id goes when the last completion has come.
    fn close_channel(&mut self, channel: ChannelId) {
        let Some(worker) = self.workers.get_mut(channel) else { return };
        worker.closing = true;
        socket::end(worker.socket.as_fd());
        if let Some(op) = worker.receive {
            self.ring.cancel(op);
        }
        if worker.ops == 0 {
            let worker = self.workers.remove(channel);
            self.ring.close(worker.socket);
        }
    }

    fn await_wake(&mut self) {
        self.ring.poll_in(Token::Wake, &self.wake);
    }

    // Coming to rest.

    /// Ends everything that is in flight; what that brings is still dealt with. Then gives away
    /// the shard and its descriptors.
    fn rest(mut self) -> io::Result<Resting> {
        let (mut done, mut actions) = (Vec::new(), Vec::new());
        while !self.ring.is_idle() {
            self.ring.cancel_all()?;
            self.ring.wait(Some(REST_TURN), &mut done)?;
            let now = clock();
            for finished in done.drain(..) {
                self.finished(finished, now);
            }
            self.act(&mut actions, now);
        }
        // Nothing is in flight: what shared the descriptors with an operation is gone.
        let owned = |socket: Rc<OwnedFd>| match Rc::try_unwrap(socket) {
            Ok(socket) => Ok(socket),
            Err(shared) => shared.try_clone(),
        };
        let mut resting = Resting::new(self.shard);
        for (id, client) in self.clients {
            if client.low_water {
                socket::set_low_water(client.socket.as_fd(), 1)?;
            }
            resting.keep_client_as(id, owned(client.socket)?);
        }
        for (id, worker) in self.workers {
            resting.keep_channel_as(id, owned(worker.socket)?);
        }
        for (id, lane) in self.lanes {
            resting.keep_lane_as(id, owned(lane.ours)?, owned(lane.theirs)?);
        }
        Ok(resting)
    }

    /// What was only cancelled to come to rest was not sent, and goes later.
    fn uncancelled<T>(&self, result: io::Result<T>) -> io::Result<T> {
        match result {
            Err(error) if self.resting && is_pause(&error) => Err(io::ErrorKind::WouldBlock.into()),
            result => result,
        }
    }
}

/// The process or the host is out of something that accepting needs.
fn is_exhaustion(error: &io::Error) -> bool {
    use nix::errno::Errno;
    [Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM, Errno::ENOBUFS]
        .iter()
        .any(|errno| error.raw_os_error() == Some(*errno as i32))
}

/// A receive has ended but the channel has not.
fn is_pause(error: &io::Error) -> bool {
    use nix::errno::Errno;
    [Errno::ENOBUFS, Errno::ECANCELED, Errno::EINTR, Errno::EAGAIN, Errno::ENOMEM]
        .iter()
        .any(|errno| error.raw_os_error() == Some(*errno as i32))
}
