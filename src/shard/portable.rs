//! The portable engine: owns a shard's descriptors and carries its actions out with plain system
//! calls, on monoio's epoll driver. For every place where io_uring is forbidden.
//!
//! One task waits for each thing that can become ready, does the call, and ends the shard's turn;
//! a task holds the engine only between two waits. A connection whose request is there when it is
//! accepted (the usual case, thanks to `TCP_DEFER_ACCEPT`) never meets epoll at all.
//!
//! A waiting task holds a share of its descriptor, so whoever is done with one interrupts the task
//! (`Interrupt`): a socket handed to a worker must not stay open here for the life of its
//! connection.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use monoio::time::TimeDriver;
use monoio::{LegacyDriver, RuntimeBuilder};
use slab::Slab;

use super::core::{Action, Shard};
use super::engine::{Keeper, clock, read_back};
use super::frozen::{Portion, thaw};
use super::listener::ListenerId;
use super::rest::Resting;
use super::ring::Mail;
use super::{ChannelId, ConnectionId, LaneId};
use crate::sys::scm;
use crate::sys::socket::{self, Lingering};
use crate::sys::watched::Watched;

/// Bytes of a look at a head: longer than the longest request line.
const PEEK: usize = 16 << 10;
/// Bytes of one read from a channel.
const READ: usize = 64 << 10;
/// How long to wait for interrupted tasks before looking again whether they have ended.
const REST_TURN: Duration = Duration::from_millis(1);
/// Connections accepted, or reads made, before others get their turn.
const BATCH: usize = 64;

/// A client's socket, watched only if it had to be waited for.
enum Socket {
    Plain(OwnedFd),
    Watched(Rc<Watched>),
}

impl Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Plain(socket) => socket.as_fd(),
            Self::Watched(socket) => socket.as_fd(),
        }
    }

    /// The descriptor, for somebody else. What monoio watches gives a share: its own goes with it.
    fn into_owned(self) -> io::Result<OwnedFd> {
        match self {
            Self::Plain(socket) => Ok(socket),
            Self::Watched(socket) => socket.as_fd().try_clone_to_owned(),
        }
    }
}

/// Ends one task's wait from outside.
#[derive(Default)]
struct Interrupt {
    fired: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Interrupt {
    fn fire(&self) {
        self.fired.set(true);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// `true` when `ready` came first, whether it succeeded or not: a failed wait shows at the
    /// next system call, too. `false` when interrupted.
    async fn or(&self, ready: impl Future<Output = io::Result<()>>) -> bool {
        let mut ready = pin!(ready);
        std::future::poll_fn(|context| {
            if self.fired.get() {
                return Poll::Ready(false);
            }
            if ready.as_mut().poll(context).is_ready() {
                return Poll::Ready(true);
            }
            self.waker.replace(Some(context.waker().clone()));
            Poll::Pending
        })
        .await
    }
}

struct Client {
    socket: Option<Socket>,
    low_water: bool,
    refused: bool,
    /// The task that waits for it.
    awaited: Option<Rc<Interrupt>>,
}

struct Worker {
    socket: Rc<Watched>,
    /// The task that reads it.
    reader: Option<Rc<Interrupt>>,
    /// The task that waits for room.
    room: Option<Rc<Interrupt>>,
}

struct Lane {
    ours: Rc<Watched>,
    /// A share of the worker's end.
    theirs: Rc<OwnedFd>,
    /// The task that waits for room.
    room: Option<Rc<Interrupt>>,
}

/// One of a listener's sockets: there are several after an upgrade to fewer threads.
struct Acceptor {
    listener: ListenerId,
    socket: Rc<Watched>,
    /// The task that accepts on it.
    task: Option<Rc<Interrupt>>,
}

struct Engine {
    shard: Shard,
    clients: Slab<Client>,
    workers: Slab<Worker>,
    lanes: Slab<Lane>,
    acceptors: Slab<Acceptor>,
    accepting: bool,
    buffer: Box<[u8]>,
    /// When the main task will look at the timers.
    armed: Option<Instant>,
    exit: bool,
    /// Nothing is waited for any more: the shard rests.
    resting: bool,
    me: std::rc::Weak<RefCell<Self>>,
}

type Shared = Rc<RefCell<Engine>>;

/// Runs a shard until it is told to exit, or to rest.
///
/// # Errors
/// epoll cannot be set up or fails.
pub fn run(shard: Shard, portion: Portion) -> io::Result<Option<Resting>> {
    let mut runtime = RuntimeBuilder::<TimeDriver<LegacyDriver>>::new().build()?;
    runtime.block_on(async {
        let shared = Arc::clone(shard.shared());
        let mailbox = &shared.mailboxes[shard.index()];
        let wake = Watched::new(mailbox.wake().as_fd().try_clone_to_owned()?)?;
        let engine = Rc::new_cyclic(|me| {
            RefCell::new(Engine {
                shard,
                clients: Slab::new(),
                workers: Slab::new(),
                lanes: Slab::new(),
                acceptors: Slab::new(),
                accepting: true,
                buffer: vec![0; READ.max(PEEK)].into_boxed_slice(),
                armed: None,
                exit: false,
                resting: false,
                me: std::rc::Weak::clone(me),
            })
        });
        {
            let mut engine = engine.borrow_mut();
            let now = clock();
            thaw(&mut *engine, portion, now);
            engine.end_turn(now);
        }
        serve(&engine, &wake).await?;
        let rests = engine.borrow().resting;
        if rests { rest(engine).await } else { Ok(None) }
    })
}

/// The main task: mail and timers.
async fn serve(engine: &Shared, wake: &Watched) -> io::Result<()> {
    loop {
        let deadline = {
            let mut engine = engine.borrow_mut();
            engine.armed = engine.shard.next_deadline();
            engine.armed
        };
        match deadline {
            None => wake.readable().await?,
            Some(at) => {
                let patience = at.saturating_duration_since(clock());
                // Late is as good as woken: both look at the mail and the timers.
                let _woken = monoio::time::timeout(patience, wake.readable()).await;
            }
        }
        let mut engine = engine.borrow_mut();
        let now = clock();
        engine.read_mail(now);
        engine.shard.tick(now);
        engine.end_turn(now);
        if engine.exit || engine.resting {
            return Ok(());
        }
    }
}

/// Ends every wait, and gives the shard and its descriptors away.
async fn rest(engine: Shared) -> io::Result<Option<Resting>> {
    engine.borrow_mut().interrupt_all();
    // An interrupted task lets go of the engine when it runs next.
    let mut engine = engine;
    let engine = loop {
        match Rc::try_unwrap(engine) {
            Ok(engine) => break engine.into_inner(),
            Err(shared) => engine = shared,
        }
        // The runtime polls nothing else while this future only wakes itself.
        monoio::time::sleep(REST_TURN).await;
    };
    let mut resting = Resting::new(engine.shard);
    for (id, client) in engine.clients {
        let Some(socket) = client.socket else { continue };
        if client.low_water {
            socket::set_low_water(socket.as_fd(), 1)?;
        }
        resting.keep_client_as(id, socket.into_owned()?);
    }
    for (id, worker) in engine.workers {
        resting.keep_channel_as(id, worker.socket.as_fd().try_clone_to_owned()?);
    }
    for (id, lane) in engine.lanes {
        let ours = lane.ours.as_fd().try_clone_to_owned()?;
        resting.keep_lane_as(id, ours, lane.theirs.as_fd().try_clone_to_owned()?);
    }
    Ok(Some(resting))
}

/// Accepts on one socket of a listener until interrupted.
async fn accept_on(
    engine: Shared,
    listener: ListenerId,
    socket: Rc<Watched>,
    interrupt: Rc<Interrupt>,
) {
    while interrupt.or(socket.readable()).await {
        engine.borrow_mut().accept_batch(listener, socket.as_fd());
    }
}

/// Waits until a client has sent something (more), or ended.
async fn await_client(
    engine: Shared,
    id: ConnectionId,
    socket: Rc<Watched>,
    interrupt: Rc<Interrupt>,
) {
    let ready = interrupt.or(socket.readable()).await;
    drop(socket);
    if !ready {
        return;
    }
    let mut engine = engine.borrow_mut();
    let Some(client) = engine.clients.get_mut(id) else { return };
    client.awaited = None;
    let refused = client.refused;
    let now = clock();
    if refused {
        engine.linger(id)
    } else {
        engine.peek(id)
    }
    engine.end_turn(now);
}

/// Reads one worker's channel until interrupted.
async fn read_channel(
    engine: Shared,
    id: ChannelId,
    socket: Rc<Watched>,
    interrupt: Rc<Interrupt>,
) {
    while interrupt.or(socket.readable()).await {
        engine.borrow_mut().read_batch(id, socket.as_fd(), &interrupt);
    }
}

/// Waits until a channel takes bytes again.
async fn await_room(engine: Shared, id: ChannelId, socket: Rc<Watched>, interrupt: Rc<Interrupt>) {
    if interrupt.or(socket.writable()).await {
        let mut engine = engine.borrow_mut();
        if let Some(worker) = engine.workers.get_mut(id) {
            worker.room = None;
            engine.shard.writable(id);
            engine.end_turn(clock());
        }
    }
}

/// Waits until a lane takes sockets again.
async fn await_lane_room(
    engine: Shared,
    id: LaneId,
    socket: Rc<Watched>,
    interrupt: Rc<Interrupt>,
) {
    if interrupt.or(socket.writable()).await {
        let mut engine = engine.borrow_mut();
        if let Some(lane) = engine.lanes.get_mut(id) {
            lane.room = None;
            let now = clock();
            engine.shard.lane_has_room(id, now);
            engine.end_turn(now);
        }
    }
}

impl Keeper for Engine {
    fn shard(&mut self) -> &mut Shard {
        &mut self.shard
    }

    fn keep_client(&mut self, socket: OwnedFd) -> ConnectionId {
        self.clients.insert(Client {
            socket: Some(Socket::Plain(socket)),
            low_water: false,
            refused: false,
            awaited: None,
        })
    }

    fn keep_channel(&mut self, channel: OwnedFd) -> io::Result<ChannelId> {
        let socket = Rc::new(Watched::new(channel)?);
        Ok(self.workers.insert(Worker { socket, reader: None, room: None }))
    }

    fn keep_lane(&mut self, ours: OwnedFd, theirs: OwnedFd) -> io::Result<LaneId> {
        let (ours, theirs) = (Rc::new(Watched::new(ours)?), Rc::new(theirs));
        Ok(self.lanes.insert(Lane { ours, theirs, room: None }))
    }
}

impl Engine {
    /// Ends the turn: actions may cause events, and those more actions.
    fn end_turn(&mut self, now: Instant) {
        let mut actions = Vec::new();
        loop {
            self.shard.end_turn(now);
            self.shard.take_actions(&mut actions);
            if actions.is_empty() {
                break;
            }
            for action in actions.drain(..) {
                self.carry_out(action, now);
            }
        }
        let deadline = self.shard.next_deadline();
        let sooner = match (deadline, self.armed) {
            (Some(deadline), Some(armed)) => deadline < armed,
            (Some(_), None) => true,
            (None, _) => false,
        };
        if sooner {
            self.armed = deadline;
            let shared = Arc::clone(self.shard.shared());
            shared.mailboxes[self.shard.index()].wake().wake();
        }
    }

    fn carry_out(&mut self, action: Action, now: Instant) {
        match action {
            wait if self.resting && wait.waits() => {}
            Action::Peek(id) => self.peek(id),
            Action::PeekBeyond { connection, beyond } => {
                if let Some((client, socket)) = self.socket(connection) {
                    // Where it cannot be set, the wait ends at once and the shard waits
                    // between looks.
                    let set = socket::set_low_water(socket, beyond + 1).is_ok();
                    self.clients[client].low_water |= set;
                    self.await_client(connection);
                }
            }
            Action::HandOff { channel, connection, frame } => {
                self.hand_off(channel, connection, &frame, now);
            }
            Action::Write { channel, frames, offset } => {
                if let Some(worker) = self.workers.get(channel) {
                    let result = scm::send_frames(worker.socket.as_fd(), &frames, offset);
                    self.shard.wrote(channel, result, now);
                }
            }
            Action::AwaitRoom(channel) => {
                let Some(me) = self.me.upgrade() else { return };
                let Some(worker) = self.workers.get_mut(channel) else { return };
                if worker.room.is_none() {
                    let interrupt = Rc::<Interrupt>::default();
                    let socket = Rc::clone(&worker.socket);
                    worker.room = Some(Rc::clone(&interrupt));
                    monoio::spawn(await_room(me, channel, socket, interrupt));
                }
            }
            Action::SendOnLane { lane, connection, message } => {
                self.reset_low_water(connection);
                let Some((_, socket)) = self.socket(connection) else { return };
                let Some(lane) = self.lanes.get(lane) else { return };
                let result = scm::send_socket(lane.ours.as_fd(), &message, socket);
                // The turn's clock is that of its accept, and would say that it took no time.
                self.shard.sent_on_lane(connection, result, clock());
            }
            Action::AwaitLaneRoom(id) => {
                let Some(me) = self.me.upgrade() else { return };
                let Some(lane) = self.lanes.get_mut(id) else { return };
                if lane.room.is_none() {
                    let interrupt = Rc::<Interrupt>::default();
                    let socket = Rc::clone(&lane.ours);
                    lane.room = Some(Rc::clone(&interrupt));
                    monoio::spawn(await_lane_room(me, id, socket, interrupt));
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
                if let Some(room) = self.lanes.try_remove(id).and_then(|lane| lane.room) {
                    room.fire();
                }
            }
            Action::AskAddress(id) => {
                let Some((_, socket)) = self.socket(id) else { return };
                let address = socket::peer_address(socket);
                self.shard.address_is(id, address, now);
            }
            Action::Skip { connection, length } => {
                self.reset_low_water(connection);
                let Some((_, socket)) = self.socket(connection) else { return };
                match socket::skip(socket, length) {
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
            Action::CloseChannel(channel) => {
                if let Some(worker) = self.workers.try_remove(channel) {
                    socket::end(worker.socket.as_fd());
                    for task in worker.reader.iter().chain(&worker.room) {
                        task.fire();
                    }
                }
            }
            Action::Close(id) => self.close(id),
            Action::Refuse { connection, response } => {
                let Some((client, socket)) = self.socket(connection) else { return };
                let lingering = socket::refuse(socket, response);
                self.clients[client].refused = true;
                match lingering {
                    Lingering::Over => self.shard.lingered(connection),
                    Lingering::Open => {
                        self.shard.refused(connection, now);
                        self.reset_low_water(connection);
                        self.await_client(connection);
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
            Action::Listen { listener, socket } => match Watched::new(socket) {
                Ok(socket) => {
                    let acceptor = Acceptor { listener, socket: Rc::new(socket), task: None };
                    let index = self.acceptors.insert(acceptor);
                    self.start_accepting(index);
                }
                Err(error) => tracing::error!(%error, "epoll does not take a listener"),
            },
            Action::Unlisten(listener) => self.close_acceptors(|other| other == listener),
            Action::Accept(on) => {
                self.accepting = on;
                if !on {
                    return self.pause_accepting();
                }
                let all: Vec<usize> = self.acceptors.iter().map(|(index, _)| index).collect();
                for index in all {
                    self.start_accepting(index);
                }
            }
            Action::StopAccepting => self.close_acceptors(|_| true),
            Action::Rest => self.resting = true,
            Action::Exit => self.exit = true,
        }
    }

    // Accepting.

    fn start_accepting(&mut self, index: usize) {
        let Some(me) = self.me.upgrade() else { return };
        let Some(acceptor) = self.acceptors.get_mut(index) else { return };
        if self.accepting && acceptor.task.is_none() {
            let interrupt = Rc::<Interrupt>::default();
            acceptor.task = Some(Rc::clone(&interrupt));
            let socket = Rc::clone(&acceptor.socket);
            monoio::spawn(accept_on(me, acceptor.listener, socket, interrupt));
        }
    }

    fn pause_accepting(&mut self) {
        for (_, acceptor) in &mut self.acceptors {
            if let Some(task) = acceptor.task.take() {
                task.fire();
            }
        }
    }

    fn interrupt_all(&mut self) {
        self.pause_accepting();
        let waits = self.clients.iter().filter_map(|(_, client)| client.awaited.as_ref());
        let workers = self.workers.iter();
        let reads = workers.flat_map(|(_, worker)| worker.reader.iter().chain(&worker.room));
        let rooms = self.lanes.iter().filter_map(|(_, lane)| lane.room.as_ref());
        waits.chain(reads).chain(rooms).for_each(|task| task.fire());
    }

    fn accept_batch(&mut self, listener: ListenerId, socket: BorrowedFd<'_>) {
        let now = clock();
        for _ in 0..BATCH {
            match socket::accept(socket) {
                Ok(client) => {
                    let id = self.keep_client(client);
                    self.shard.accepted(id, listener, now);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // Gone before it was accepted.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    self.shard.accept_failed(now);
                    break;
                }
            }
        }
        self.end_turn(now);
    }

    fn close_acceptors(&mut self, wanted: impl Fn(ListenerId) -> bool) {
        self.acceptors.retain(|_, acceptor| {
            let closes = wanted(acceptor.listener);
            if let Some(task) = acceptor.task.as_ref().filter(|_| closes) {
                task.fire();
            }
            !closes
        });
    }

    // Clients.

    fn socket(&self, id: ConnectionId) -> Option<(ConnectionId, BorrowedFd<'_>)> {
        let socket = self.clients.get(id)?.socket.as_ref()?;
        Some((id, socket.as_fd()))
    }

    fn peek(&mut self, id: ConnectionId) {
        let Some(client) = self.clients.get(id) else { return };
        let Some(socket) = &client.socket else { return };
        match socket::peek(socket.as_fd(), &mut self.buffer[..PEEK]) {
            Ok(length) => {
                // Only a client that has been waited for can be at its end here.
                let finished = client.low_water && socket::peer_has_finished(socket.as_fd());
                self.shard.peeked(id, &self.buffer[..length], finished, clock());
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.await_client(id),
            Err(_) => self.shard.peek_failed(id),
        }
    }

    fn await_client(&mut self, id: ConnectionId) {
        if self.resting {
            return;
        }
        let Some(me) = self.me.upgrade() else { return };
        let Some(client) = self.clients.get_mut(id).filter(|client| client.awaited.is_none())
        else {
            return;
        };
        let socket = match client.socket.take() {
            Some(Socket::Plain(socket)) => match Watched::new(socket) {
                Ok(socket) => Rc::new(socket),
                Err(_) => return self.shard.peek_failed(id),
            },
            Some(Socket::Watched(socket)) => socket,
            None => return,
        };
        let interrupt = Rc::<Interrupt>::default();
        client.socket = Some(Socket::Watched(Rc::clone(&socket)));
        client.awaited = Some(Rc::clone(&interrupt));
        monoio::spawn(await_client(me, id, socket, interrupt));
    }

    fn linger(&mut self, id: ConnectionId) {
        let Some((_, socket)) = self.socket(id) else { return };
        match socket::discard(socket) {
            Lingering::Over => self.shard.lingered(id),
            Lingering::Open => self.await_client(id),
        }
    }

    fn close(&mut self, id: ConnectionId) {
        if let Some(task) = self.clients.try_remove(id).and_then(|client| client.awaited) {
            task.fire();
        }
    }

    /// Takes the socket of a client.
    fn take_socket(&mut self, id: ConnectionId) -> Option<OwnedFd> {
        self.reset_low_water(id);
        let client = self.clients.try_remove(id)?;
        if let Some(task) = client.awaited {
            task.fire();
        }
        client.socket?.into_owned().ok()
    }

    fn reset_low_water(&mut self, id: ConnectionId) {
        let Some(client) = self.clients.get_mut(id).filter(|client| client.low_water) else {
            return;
        };
        if let Some(socket) = &client.socket {
            client.low_water = socket::set_low_water(socket.as_fd(), 1).is_err();
        }
    }

    // Workers.

    fn hand_off(
        &mut self,
        channel: ChannelId,
        connection: ConnectionId,
        frame: &Bytes,
        now: Instant,
    ) {
        self.reset_low_water(connection);
        let Some((_, socket)) = self.socket(connection) else { return };
        let Some(worker) = self.workers.get(channel) else { return };
        let result = scm::send_socket(worker.socket.as_fd(), frame, socket);
        self.shard.handed(channel, connection, frame.len(), result, now);
    }

    fn set_reading(&mut self, channel: ChannelId, on: bool) {
        let Some(me) = self.me.upgrade() else { return };
        let Some(worker) = self.workers.get_mut(channel) else { return };
        if !on {
            if let Some(task) = worker.reader.take() {
                task.fire();
            }
        } else if worker.reader.is_none() {
            let interrupt = Rc::<Interrupt>::default();
            worker.reader = Some(Rc::clone(&interrupt));
            let socket = Rc::clone(&worker.socket);
            monoio::spawn(read_channel(me, channel, socket, interrupt));
        }
    }

    /// Reads until nothing is left, the batch is over, or what was read has ended the task.
    fn read_batch(&mut self, id: ChannelId, socket: BorrowedFd<'_>, task: &Interrupt) {
        let now = clock();
        for _ in 0..BATCH {
            match scm::receive(socket, &mut self.buffer[..READ]) {
                Ok((0, _)) => self.shard.channel_ended(id, now),
                Ok((length, sockets)) => {
                    for socket in sockets {
                        let socket = self.keep_client(socket);
                        self.shard.socket_arrived(id, socket);
                    }
                    self.shard.received(id, &self.buffer[..length], now);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => self.shard.channel_ended(id, now),
            }
            self.end_turn(now);
            if task.fired.get() {
                return;
            }
        }
        self.end_turn(now);
    }
}
