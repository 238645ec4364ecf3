//! One worker's channel: frames in, frames and sockets out, and the servers the worker has opened.
//!
//! Pure: what to write comes out of [`Channel::next_write`], what became of it goes back in. One
//! plain write is under way at a time, since it may end inside a frame; hand-offs are messages of
//! their own and go between plain writes only.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::handoff::HandOffs;
use super::listener::{Listener, ListenerId};
use super::relay::Adapters;
use super::{ConnectionId, frozen};
use crate::ipc::Serialization;
use crate::ipc::frame::{Deframer, MAX_FRAME};
use crate::ipc::message::{AddressType, Listening, QueryServer, Serving};
use crate::route::WorkerId;

/// Frames in one write; the kernel takes up to 1,024 pieces.
const WRITE_FRAMES: usize = 256;
/// Bytes after which a write is long enough: about a channel's socket buffer.
const WRITE_BYTES: usize = 256 << 10;
/// What a queued frame costs besides its bytes, so that a queue of tiny ones is bounded too.
const FRAME_OVERHEAD: usize = 96;
/// Servers one worker can have open through the router.
pub const MAX_SERVERS: usize = 256;

/// Closed servers that are remembered: sockets on their way to them come back.
const CLOSED_SERVERS: usize = 64;
/// Warnings of one worker's preload that are passed on.
pub const MAX_WARNINGS: u32 = 32;

/// A server inside the worker that listens through the router.
#[derive(Debug)]
pub struct Server {
    /// Names it towards the worker; unique for the worker's lifetime.
    pub key: String,
    /// What the key ends in: names it towards the preload.
    pub number: u32,
    /// Where its connections arrive; `None`: at the pool's listeners.
    pub listener: Option<Arc<Listener>>,
    /// Has said that it listens.
    pub listening: bool,
    index: i64,
    address_type: AddressType,
    address: Option<String>,
    /// As asked for and as given: they differ when it asked for port 0.
    ports: [i64; 2],
}

/// What to write next.
#[derive(Debug)]
pub enum Write {
    /// Frames, from `offset` bytes into the first.
    Frames {
        /// What to write.
        frames: Vec<Bytes>,
        /// Bytes of the first that have gone already.
        offset: usize,
    },
    /// The queue is empty, or a write is under way.
    Nothing,
}

/// The state of one channel.
#[derive(Debug)]
pub struct Channel {
    /// Whose it is.
    pub worker: WorkerId,
    /// How frames are written on it.
    pub serialization: Serialization,
    /// Cuts what comes in.
    pub deframer: Deframer,
    /// Sockets on their way.
    pub handoffs: HandOffs<ConnectionId>,
    /// Sockets that wait for room.
    pub waiting: VecDeque<ConnectionId>,
    /// The kernel's buffer is full: wait until it is not.
    pub full: bool,
    /// When the worker last took anything.
    pub progress: Instant,
    /// This worker's queue is over its bound, and counted among those that are.
    pub congested: bool,
    /// Sockets the worker has sent whose message has not come yet.
    pub arrived: VecDeque<ConnectionId>,
    /// What it announced as a cluster adapter.
    pub adapters: Adapters,
    /// Its servers.
    pub servers: Vec<Server>,
    /// The last ones it has closed: numbers, and where their connections arrived.
    closed: VecDeque<(u32, Option<ListenerId>)>,
    /// Requests to listen that the control thread has not answered.
    pub asked: Vec<QueryServer>,
    /// What it has reported once and need not report again.
    pub told: Told,
    whole_headers: bool,
    queue: VecDeque<Bytes>,
    queued_bytes: usize,
    /// Its bound.
    out_queue: usize,
    /// Bytes of the queue's first frame that have gone.
    offset: usize,
    /// A plain write is under way.
    writing: bool,
    next_sequence: i64,
    next_key: u32,
    next_carried: i64,
}

/// First times that matter to the supervisor.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "six independent first times")]
pub struct Told {
    /// The process runs.
    pub online: bool,
    /// It has a cluster adapter.
    pub heartbeat: bool,
    /// It said `'ready'`.
    pub ready: bool,
    /// A server of its listens.
    pub listening: bool,
    /// Its preload is there.
    pub preload: bool,
    /// It has nothing left.
    pub drained: bool,
    /// Warnings passed on.
    pub warnings: u32,
}

impl Channel {
    /// The channel of a worker that has just been started.
    #[must_use]
    pub fn new(
        worker: WorkerId,
        serialization: Serialization,
        whole_headers: bool,
        out_queue: usize,
        now: Instant,
    ) -> Self {
        Self {
            worker,
            serialization,
            deframer: Deframer::new(serialization, MAX_FRAME),
            handoffs: HandOffs::new(),
            waiting: VecDeque::new(),
            full: false,
            progress: now,
            congested: false,
            arrived: VecDeque::new(),
            adapters: Adapters::default(),
            servers: Vec::new(),
            closed: VecDeque::new(),
            asked: Vec::new(),
            told: Told::default(),
            whole_headers,
            queue: VecDeque::new(),
            queued_bytes: 0,
            out_queue,
            offset: 0,
            writing: false,
            next_sequence: 0,
            next_key: 0,
            next_carried: 0,
        }
    }

    /// The channel as it crosses an upgrade, and its hand-offs, whose names the caller knows. What
    /// is being written must have ended.
    pub(super) fn freeze(self) -> (frozen::Channel, HandOffs<ConnectionId>) {
        let server = |server: Server| frozen::Server {
            key: server.key,
            number: server.number,
            listener: server.listener.map(|listener| listener.id()),
            listening: server.listening,
            index: server.index,
            address_type: server.address_type,
            address: server.address,
            ports: server.ports,
        };
        let mut adapters = self.adapters;
        let frozen = frozen::Channel {
            worker: self.worker,
            serialization: self.serialization,
            whole_headers: self.whole_headers,
            partial: self.deframer.into_partial(),
            adapters: adapters.drain().collect(),
            servers: self.servers.into_iter().map(server).collect(),
            closed: self.closed.into(),
            asked: self.asked,
            told: self.told,
            queue: self.queue.into(),
            offset: self.offset,
            next_sequence: self.next_sequence,
            next_key: self.next_key,
            next_carried: self.next_carried,
            socket: frozen::Place::MAX,
            handoffs: HandOffs::new(),
            waiting: Vec::new(),
            arrived: Vec::new(),
        };
        (frozen, self.handoffs)
    }

    /// The channel that an earlier process has frozen, without its sockets.
    pub(super) fn thaw(
        frozen: frozen::Channel,
        listener: impl Fn(ListenerId) -> Option<Arc<Listener>>,
        out_queue: usize,
        now: Instant,
    ) -> Self {
        let frozen::Channel { worker, serialization, whole_headers, .. } = frozen;
        let mut channel = Self::new(worker, serialization, whole_headers, out_queue, now);
        let mut whole = 0_usize;
        let fed = channel.deframer.feed(&frozen.partial, &mut |_| whole += 1);
        debug_assert!(fed.is_ok() && whole == 0, "less than a frame, and it was read before");
        for (uid, nsp) in frozen.adapters {
            channel.adapters.learn(uid, &nsp);
        }
        let servers = frozen.servers.into_iter().map(|server| Server {
            key: server.key,
            number: server.number,
            listener: server.listener.and_then(&listener),
            listening: server.listening,
            index: server.index,
            address_type: server.address_type,
            address: server.address,
            ports: server.ports,
        });
        channel.servers = servers.collect();
        channel.closed = frozen.closed.into();
        channel.asked = frozen.asked;
        channel.told = frozen.told;
        for frame in frozen.queue {
            channel.push(frame, now);
        }
        channel.offset = frozen.offset;
        channel.next_sequence = frozen.next_sequence;
        channel.next_key = frozen.next_key;
        channel.next_carried = frozen.next_carried;
        channel
    }

    /// The next sequence number of the cluster messages we send.
    pub fn sequence(&mut self) -> i64 {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        sequence
    }

    /// The next name for bytes that are carried to the worker; never 0.
    pub fn carried(&mut self) -> i64 {
        self.next_carried += 1;
        self.next_carried
    }

    /// Queues a frame. The bound is looked at by [`Self::is_over`]: a frame that has come this far
    /// is never dropped, its sender is held back instead.
    pub fn push(&mut self, frame: Bytes, now: Instant) {
        if self.queue.is_empty() {
            self.progress = now;
        }
        self.queued_bytes += frame.len() + FRAME_OVERHEAD;
        self.queue.push_back(frame);
    }

    /// Whether the queue is past its bound.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.queued_bytes > self.out_queue
    }

    /// Bytes queued, and what their frames cost besides.
    pub(super) fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// Whether there is room again, with some to spare so that flow does not flutter.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.queued_bytes < self.out_queue / 2
    }

    /// Whether a hand-off may go now as far as plain writes are concerned.
    #[must_use]
    pub fn is_between_frames(&self) -> bool {
        !self.writing && self.offset == 0
    }

    /// Takes the next plain write. It counts as under way until [`Self::wrote`].
    pub fn next_write(&mut self) -> Write {
        if self.writing || self.full || self.queue.is_empty() {
            return Write::Nothing;
        }
        // A Node that cannot read a length in two pieces gets one frame per message, so that a
        // cut falls inside a frame, never inside the next one's length.
        let most = if self.whole_headers { 1 } else { WRITE_FRAMES };
        let mut bytes = 0;
        // Room for all at once, so that a list of many is allocated once.
        let mut frames = Vec::with_capacity(self.queue.len().min(most));
        for frame in self.queue.iter().take(most) {
            frames.push(frame.clone());
            bytes += frame.len();
            if bytes >= WRITE_BYTES {
                break;
            }
        }
        self.writing = true;
        Write::Frames { frames, offset: self.offset }
    }

    /// The write under way has ended after so many bytes.
    pub fn wrote(&mut self, bytes: usize, now: Instant) {
        self.writing = false;
        if bytes == 0 {
            return;
        }
        self.progress = now;
        self.handoffs.wrote(bytes);
        self.offset += bytes;
        while let Some(first) = self.queue.front() {
            let length = first.len();
            if self.offset < length {
                break;
            }
            self.offset -= length;
            self.queued_bytes -= length + FRAME_OVERHEAD;
            self.queue.pop_front();
        }
    }

    /// Adds a server for a request that was granted. Gives its key.
    pub fn add_server(
        &mut self,
        request: &QueryServer,
        listener: Option<Arc<Listener>>,
        port: Option<u16>,
    ) -> String {
        self.next_key += 1;
        let id = listener.as_ref().map_or(0, |listener| listener.id());
        let key = format!("{id}:{}", self.next_key);
        self.servers.push(Server {
            key: key.clone(),
            number: self.next_key,
            listener,
            listening: false,
            index: request.index,
            address_type: request.address_type,
            address: request.address.clone(),
            ports: [request.port, port.map_or(request.port, i64::from)],
        });
        key
    }

    /// Adds a server that has listened through an earlier router, under the name that the worker
    /// knows. `false`: it has one of that name, or it is none of a router's.
    pub fn add_former_server(
        &mut self,
        serving: &Serving,
        listener: impl Fn(ListenerId) -> Option<Arc<Listener>>,
    ) -> bool {
        let numbers = serving.key.split_once(':');
        let numbers = numbers.and_then(|(id, number)| id.parse().ok().zip(number.parse().ok()));
        let Some((id, number)): Option<(ListenerId, u32)> = numbers else { return false };
        if number == 0 || self.servers.len() >= MAX_SERVERS || self.server(number).is_some() {
            return false;
        }
        let listener = listener(id);
        if id != 0 && listener.is_none() {
            // It could not be listened on again.
            return false;
        }
        self.next_key = self.next_key.max(number);
        self.servers.push(Server {
            key: serving.key.clone(),
            number,
            listener,
            listening: true,
            index: serving.index,
            address_type: serving.address_type,
            address: serving.address.clone(),
            ports: [serving.port, serving.bound.unwrap_or(serving.port)],
        });
        true
    }

    /// A server says that it listens: which one.
    pub fn server_listening(&mut self, listening: &Listening) -> Option<&Server> {
        let server = self.servers.iter_mut().find(|server| {
            !server.listening
                && server.index == listening.index
                && server.address_type == listening.address_type
                && server.address == listening.address
                && server.ports.contains(&listening.port)
        })?;
        server.listening = true;
        Some(server)
    }

    /// The server of this key is closed.
    pub fn remove_server(&mut self, key: &str) -> Option<Server> {
        let index = self.servers.iter().position(|server| server.key == key)?;
        let server = self.servers.remove(index);
        if self.closed.len() >= CLOSED_SERVERS {
            self.closed.pop_front();
        }
        self.closed.push_back((server.number, server.listener.as_ref().map(|own| own.id())));
        Some(server)
    }

    /// Whether a server of the worker's listens there.
    #[must_use]
    pub fn serves(&self, listener: &Listener) -> bool {
        self.servers.iter().any(|server| {
            let own = server.listener.as_ref();
            server.listening && own.is_some_and(|own| own.id() == listener.id())
        })
    }

    /// Where connections for the server of this number arrived, be it closed by now: at `pool`,
    /// unless it has a place of its own.
    #[must_use]
    pub fn origin(&self, number: u32, pool: Option<ListenerId>) -> Option<ListenerId> {
        if number == 0 {
            return pool;
        }
        let open = self.server(number).map(|server| server.listener.as_ref().map(|own| own.id()));
        let closed = || self.closed.iter().find(|(closed, _)| *closed == number).map(|(_, id)| *id);
        open.or_else(closed)?.or(pool)
    }

    /// The server of this number.
    #[must_use]
    pub fn server(&self, number: u32) -> Option<&Server> {
        self.servers.iter().find(|server| server.number == number)
    }

    /// The server that takes connections of `listener`: its own, or for the pool's the first that
    /// listens. `None`: the worker takes sticky connections.
    #[must_use]
    pub fn server_for(&self, listener: &Listener) -> Option<&Server> {
        let listening = || self.servers.iter().filter(|server| server.listening);
        let own = listening()
            .find(|server| server.listener.as_ref().is_some_and(|own| own.id() == listener.id()));
        let pooled = || match listener.kind() {
            super::listener::Kind::Pool => {
                listening().find(|server| server.listener.is_none()).or_else(|| listening().next())
            }
            super::listener::Kind::App => None,
        };
        own.or_else(pooled)
    }
}
