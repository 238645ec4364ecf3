//! A shard's connections: from accept to hand-off, refusal or another shard.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::connection::{Choice, Connection, State, Transit};
use super::core::{Action, Shard, Timer};
use super::listener::{Kind, Listener, ListenerId};
use super::{
    ConnectionId, MAX_PARKED_SESSIONS, MAX_PARKED_WORKERS, SESSION_WAIT, SESSION_WAIT_BUSY,
    WORKER_WAIT,
};
use crate::http::request_line::{self, Fault, Head};
use crate::http::sid::sid;
use crate::ipc::message::Returned;
use crate::metrics::Counter;
use crate::metrics::latency::Way;
use crate::route::balance::pick_by_hash;
use crate::route::roster::{Roster, Standing};
use crate::route::self_routing::{Named, named};
use crate::route::session_table::Sid;
use crate::route::{self, WorkerId};

/// How long a refused client may take to close its side.
const LINGER: Duration = Duration::from_secs(2);
/// How often a connection that waits for a worker tries again.
const WORKER_RETRY: Duration = Duration::from_millis(100);
/// First and last wait between two looks at a head that has not grown.
const REPEEK: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(64)];
/// Times a worker may refuse a socket of its own session (it is out of descriptors) before
/// another worker answers for it; Node's own limit on retransmissions.
const OWN_REFUSALS: u32 = 4;

const BAD_REQUEST: &[u8] = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\
    Content-Type: text/plain\r\nContent-Length: 17\r\n\r\nnot HTTP/1.x here";
const HTTP2: &[u8] = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\
    Content-Type: text/plain\r\nContent-Length: 25\r\n\r\nHTTP/2 is not spoken here";
const TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\
    Content-Type: text/plain\r\nContent-Length: 27\r\n\r\nthis port speaks plain HTTP";
const TOO_LONG: &[u8] = b"HTTP/1.1 414 URI Too Long\r\nConnection: close\r\n\
    Content-Type: text/plain\r\nContent-Length: 31\r\n\r\nrequest line exceeds 8192 bytes";
const TIMEOUT: &[u8] = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\
    Content-Type: text/plain\r\nContent-Length: 32\r\n\r\nno complete request line in time";
const UNAVAILABLE: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\n\
    Retry-After: 1\r\nContent-Type: text/plain\r\nContent-Length: 18\r\n\r\nno worker is ready";

impl Shard {
    /// A client has connected. The engine keeps its socket under `id`.
    pub fn accepted(&mut self, id: ConnectionId, listener: ListenerId, now: Instant) {
        self.count(Counter::Accepted);
        self.admit(id, listener);
        self.connections[id].since = Some(now);
        if self.shared.trusts.is_some() {
            self.set_head_deadline(id, now);
            self.expect_proxy(id);
        } else {
            self.expect_head(id, now);
        }
    }

    /// The client has until its deadline to say what it wants.
    pub(super) fn expect_head(&mut self, id: ConnectionId, now: Instant) {
        self.set_head_deadline(id, now);
        self.expect_request(id, now);
    }

    /// As [`Self::expect_head`], for a client whose time began to run before an upgrade.
    pub(super) fn expect_head_until(&mut self, id: ConnectionId, at: Instant, now: Instant) {
        self.await_head_until(at, id, self.connections[id].serial);
        self.expect_request(id, now);
    }

    /// The same, for one whose PROXY header is not known yet.
    pub(super) fn expect_proxy_until(&mut self, id: ConnectionId, at: Instant) {
        self.await_head_until(at, id, self.connections[id].serial);
        self.expect_proxy(id);
    }

    /// A client that was refused before an upgrade gets the rest of its time.
    pub(super) fn linger_on(&mut self, id: ConnectionId, now: Instant) {
        self.connections[id].state = State::Lingering;
        self.actions.push(Action::Linger(id));
        self.refused(id, now);
    }

    fn set_head_deadline(&mut self, id: ConnectionId, now: Instant) {
        let serial = self.connections[id].serial;
        self.await_head_until(now + self.shared.settings.head_timeout, id, serial);
    }

    pub(super) fn expect_request(&mut self, id: ConnectionId, now: Instant) {
        let connection = &mut self.connections[id];
        connection.state = State::ExpectHead { seen: 0 };
        let listener = self.listeners.get(&connection.listener);
        if listener.is_some_and(|listener| listener.may_speak_first()) {
            self.route_unreadable(id, self.shared.settings.by_address, now);
        } else {
            self.actions.push(Action::Peek(id));
        }
    }

    /// A client of a router that has died has come to this one. The engine keeps its socket under `id`.
    pub fn kept(&mut self, id: ConnectionId, listener: &Arc<Listener>, now: Instant) {
        self.listeners.entry(listener.id()).or_insert_with(|| Arc::clone(listener));
        self.accepted(id, listener.id(), now);
        if self.stopping {
            self.refuse_unavailable(id);
        }
    }

    /// A connection of another shard's has arrived for a worker of this one.
    pub fn connection_arrived(&mut self, id: ConnectionId, transit: Transit, now: Instant) {
        let listener = transit.listener.id();
        self.listeners.entry(listener).or_insert_with(|| Arc::clone(&transit.listener));
        self.admit(id, listener);
        let connection = &mut self.connections[id];
        (connection.since, connection.choice) = (transit.since, transit.choice);
        connection.sid = transit.sid;
        connection.counted = transit.counted.then_some(transit.worker);
        connection.give_up = transit.give_up;
        connection.tries = transit.tries;
        connection.refused_by = transit.refused_by;
        connection.unwanted = transit.unwanted;
        connection.peer = transit.peer;
        connection.address = transit.address;
        connection.carried = transit.carried;
        connection.waited = true;
        self.deliver(id, transit.worker, now);
    }

    /// A worker gives a connection back, with what it had read of its next request. The engine
    /// keeps the socket under `id`.
    pub(super) fn returned(
        &mut self,
        id: ConnectionId,
        listener: ListenerId,
        from: WorkerId,
        returned: Returned,
        now: Instant,
    ) {
        self.admit(id, listener);
        self.connections[id].since = Some(now);
        self.connections[id].peer = returned.peer;
        let drains = self.shared.roster.standing(from) == Standing::Draining;
        if returned.bytes.is_empty() && drains {
            // Nothing is going on there: whoever is asked next answers.
            self.connections[id].idle = true;
            self.count(Counter::Returned);
            return self.expect_head(id, now);
        }
        if returned.bytes.is_empty() {
            // It had no room, or no server any more.
            self.connections[id].refused(from);
            self.connections[id].unwanted = true;
            if let Some(listener) = self.listeners.get(&listener) {
                listener.refused_by(from, self.shared.millis(now));
            }
            self.count(Counter::Redispatched);
            return self.expect_head(id, now);
        }
        self.count(Counter::Returned);
        let connection = &mut self.connections[id];
        if let Head::Line(line) = request_line::parse(&returned.bytes) {
            connection.sid = sid(line.target).map(|sid| Sid::new(&sid));
        }
        connection.carried = Some(returned.bytes.into());
        let sid = self.connections[id].sid.as_ref();
        let owner = sid.and_then(|sid| self.owner(self.named(sid), sid));
        if owner.is_none_or(|owner| owner == from) {
            // Its own session's, so that it had no room; or nobody's, and it may be asked again.
            return self.await_worker(id, now);
        }
        self.route(id, now);
    }

    /// The engine keeps a socket under `id` that is for the worker itself.
    pub(super) fn admit_grant(&mut self, id: ConnectionId, frame: Bytes) {
        self.admit(id, 0);
        self.connections[id].grant = Some(frame);
    }

    /// What has arrived of the request, or nothing at the end of the stream.
    pub fn peeked(&mut self, id: ConnectionId, bytes: &[u8], finished: bool, now: Instant) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        let state = connection.state;
        if bytes.is_empty() && state.is_early() {
            self.count(Counter::Abandoned);
            return self.close(id);
        }
        match state {
            State::ExpectHead { seen } => self.head_peeked(id, bytes, seen, finished, now),
            State::ExpectProxy { seen } => self.proxy_peeked(id, bytes, seen, finished, now),
            _ => {}
        }
    }

    fn head_peeked(
        &mut self,
        id: ConnectionId,
        bytes: &[u8],
        seen: usize,
        finished: bool,
        now: Instant,
    ) {
        let connection = &mut self.connections[id];
        let by_address = self.shared.settings.by_address;
        match (request_line::parse(bytes), connection.kind) {
            (Head::Line(line), _) => {
                connection.sid = sid(line.target).map(|sid| Sid::new(&sid));
                connection.tries = 0;
                self.route(id, now);
            }
            (Head::Incomplete, _) if bytes.len() > seen => {
                connection.state = State::ExpectHead { seen: bytes.len() };
                connection.tries = 0;
                self.actions.push(Action::PeekBeyond { connection: id, beyond: bytes.len() });
            }
            (Head::Incomplete, Kind::App) if finished => {
                self.route_unreadable(id, by_address, now);
            }
            (Head::Incomplete, Kind::Pool) if finished => {
                self.count(Counter::Abandoned);
                self.close(id);
            }
            (Head::Incomplete, _) => self.peek_later(id, now),
            (Head::Fault(Fault::TlsHello), _) if self.takes_tls(id) => {
                self.route_unreadable(id, true, now);
            }
            (Head::Fault(_), Kind::App) => self.route_unreadable(id, by_address, now),
            (Head::Fault(fault), Kind::Pool) => self.refuse_fault(id, fault),
        }
    }

    fn takes_tls(&self, id: ConnectionId) -> bool {
        let listener = self.listeners.get(&self.connections[id].listener);
        listener.is_some_and(|listener| listener.takes_tls())
    }

    /// Woken without news: a Unix socket knows no low-water mark.
    pub(super) fn peek_later(&mut self, id: ConnectionId, now: Instant) {
        let connection = &mut self.connections[id];
        let wait = REPEEK[0] * 2_u32.saturating_pow(connection.tries.min(6));
        connection.tries += 1;
        let timer = Timer::Repeek(id, connection.serial);
        self.set_timer(now + wait.min(REPEEK[1]), timer);
    }

    /// The client went away while its head was awaited, or after it was refused.
    pub fn lingered(&mut self, id: ConnectionId) {
        if self.connections.get(id).is_some_and(|c| c.state != State::Free) {
            self.close(id);
        }
    }

    /// Looking at the head failed: the connection was reset.
    pub fn peek_failed(&mut self, id: ConnectionId) {
        if self.connections.get(id).is_some_and(|c| c.state.is_early()) {
            self.count(Counter::Abandoned);
            self.close(id);
        }
    }

    /// The response has been sent; the client may still be sending. See [`Self::lingered`].
    pub fn refused(&mut self, id: ConnectionId, now: Instant) {
        if let Some(connection) = self.connections.get(id) {
            let timer = Timer::Linger(id, connection.serial);
            self.set_timer(now + LINGER, timer);
        }
    }

    /// Finds the worker: the session's, the one that balance says, or patience.
    pub(super) fn route(&mut self, id: ConnectionId, now: Instant) {
        let connection = &self.connections[id];
        let Some(sid) = connection.sid.as_ref() else {
            if let Some(hash) = connection.address {
                self.connections[id].choice = Choice::Address;
                return self.route_by_hash(id, hash, now);
            }
            self.connections[id].choice = Choice::Balance;
            return match self.pick_balanced(id, now) {
                Some(worker) => {
                    self.hope(id, worker, now);
                    self.deliver(id, worker, now);
                }
                None => self.await_worker(id, now),
            };
        };
        let millis = self.shared.millis(now);
        let roster = &self.shared.roster;
        let named = self.named(sid);
        let owner = self.owner(named, sid);
        if owner.is_some_and(|worker| roster.is_awaited(worker)) {
            return self.await_worker(id, now);
        }
        if let Some(worker) = owner.filter(|worker| takes_its_own(roster, *worker)) {
            let listener = self.listeners.get(&connection.listener);
            let refuses = listener.is_some_and(|own| own.is_refused_by(worker, millis));
            if (roster.is_full(worker) || refuses) && connection.tries < OWN_REFUSALS {
                // Only this worker knows the session: give it a moment to close something.
                self.connections[id].tries += 1;
                return self.await_worker(id, now);
            }
            if may_serve(roster, listener, connection, worker, millis) {
                let named = named.is_some();
                self.connections[id].choice = if named { Choice::Named } else { Choice::Announced };
                return self.deliver(id, worker, now);
            }
        } else if named.is_none() && !connection.waited && self.may_be_announced(connection) {
            return self.await_session(id, now);
        }
        let hash = route::hash(sid.as_bytes());
        self.count(Counter::UnknownSession);
        self.connections[id].choice = Choice::Unknown;
        self.route_by_hash(id, hash, now);
    }

    /// The worker that the id itself names.
    fn named(&self, sid: &Sid) -> Option<Named> {
        self.shared.settings.self_routing.then(|| named(sid.as_bytes())).flatten()
    }

    /// The worker of a session, dead or alive.
    fn owner(&self, named: Option<Named>, sid: &Sid) -> Option<WorkerId> {
        match named {
            Some(named) => self.shared.roster.find(named).map(|(worker, _)| worker),
            None => self.shared.sessions.get(sid.as_bytes()),
        }
    }

    /// Counts the hand-off as load until it becomes a session or has had its time.
    fn hope(&mut self, id: ConnectionId, worker: WorkerId, now: Instant) {
        let hope = self.shared.roster.hope(worker);
        self.connections[id].counted = Some(worker);
        if self.hopes.begin(hope, now) {
            self.set_hope_timer();
        }
    }

    /// Whether to wait for an announcement. Where the application listens by itself, sessions are
    /// announced only if it uses sticky as well: then some have been.
    fn may_be_announced(&self, connection: &Connection) -> bool {
        let some = !self.shared.sessions.is_empty() || self.shared.roster.awaits();
        let announces = connection.kind == Kind::Pool || some;
        announces && self.awaiting_session.len() < MAX_PARKED_SESSIONS
    }

    /// All connections of one hash agree on one worker.
    fn route_by_hash(&mut self, id: ConnectionId, hash: u64, now: Instant) {
        let connection = &self.connections[id];
        let listener = self.listeners.get(&connection.listener);
        let roster = &self.shared.roster;
        let millis = self.shared.millis(now);
        let may = |worker| may_serve(roster, listener, connection, worker, millis);
        match pick_by_hash(roster, may, hash) {
            Some(worker) => self.deliver(id, worker, now),
            None => self.await_worker(id, now),
        }
    }

    fn pick_balanced(&mut self, id: ConnectionId, now: Instant) -> Option<WorkerId> {
        let chance = self.chance();
        let connection = &self.connections[id];
        let listener = self.listeners.get(&connection.listener);
        let roster = &self.shared.roster;
        let millis = self.shared.millis(now);
        let may = |worker| may_serve(roster, listener, connection, worker, millis);
        self.shared.settings.balance.pick(roster, may, chance, millis)
    }

    /// Whether another ready worker could take the connection.
    pub(super) fn has_another(&self, id: ConnectionId, than: WorkerId, now: Instant) -> bool {
        let millis = self.shared.millis(now);
        let connection = &self.connections[id];
        let listener = self.listeners.get(&connection.listener);
        let roster = &self.shared.roster;
        let mut ready = roster.ready().filter(|worker| *worker != than);
        ready.any(|worker| may_serve(roster, listener, connection, worker, millis))
    }

    /// Sends the connection on the worker's lane; without one, queues it on the worker's channel,
    /// or sends it to the shard that owns that.
    fn deliver(&mut self, id: ConnectionId, worker: WorkerId, now: Instant) {
        if let Some(lane) = self.open_lane(worker)
            && self.connections[id].carried.is_none()
            && !self.connections[id].unwanted
        {
            return self.send_on_lane(lane, id, now);
        }
        let owner = self.shared.owner(worker.slot);
        if owner != self.index {
            return self.transfer(id, owner, worker);
        }
        let channel = self.by_worker.get(&worker).copied();
        let channel = channel.filter(|channel| self.channel_of(*channel, worker).is_some());
        match channel {
            Some(channel) => {
                self.connections[id].state = State::HandingOff(channel);
                self.queue_hand_off(channel, id, now);
            }
            None => {
                self.uncount(id);
                self.await_worker(id, now);
            }
        }
    }

    fn transfer(&mut self, id: ConnectionId, shard: usize, worker: WorkerId) {
        let connection = &mut self.connections[id];
        let Some(listener) = self.listeners.get(&connection.listener) else {
            return self.close(id);
        };
        let transit = Box::new(Transit {
            listener: Arc::clone(listener),
            since: connection.since,
            choice: connection.choice,
            sid: connection.sid.take(),
            worker,
            counted: connection.counted.is_some(),
            give_up: connection.give_up,
            tries: connection.tries,
            refused_by: std::mem::take(&mut connection.refused_by),
            unwanted: connection.unwanted,
            peer: connection.peer,
            address: connection.address,
            carried: connection.carried.take(),
        });
        self.forget(id);
        self.actions.push(Action::Transfer { connection: id, shard, transit });
    }

    /// Waits for the session to be announced. Engine.IO writes the handshake's response before the
    /// worker announces its session, so a fast client's next request can be here first.
    fn await_session(&mut self, id: ConnectionId, now: Instant) {
        self.count(Counter::ParkedForSession);
        let connection = &mut self.connections[id];
        connection.state = State::AwaitSession;
        connection.waited = true;
        connection.waits_since = Some(now);
        let serial = connection.serial;
        self.awaiting_session.insert((id, serial));
        self.set_timer(now + SESSION_WAIT, Timer::Session(id, serial));
        let waiting = &self.shared.awaiting_sessions[self.index];
        waiting.fetch_add(1, Ordering::SeqCst);
        // Announced between the look-up and the count: nobody would have told us.
        self.recheck_sessions(now);
    }

    /// Sends on every connection whose session is known by now.
    pub(super) fn recheck_sessions(&mut self, now: Instant) {
        let (shared, connections) = (&self.shared, &self.connections);
        let mut found = Vec::new();
        self.awaiting_session.retain(|(id, serial)| {
            let Some(connection) = connections.get(*id).filter(|connection| {
                connection.serial == *serial && connection.state == State::AwaitSession
            }) else {
                return false;
            };
            let sid = connection.sid.as_ref().map_or(&[][..], |sid| sid.as_bytes());
            let owner = shared.sessions.get(sid);
            let known = owner.is_some_and(|worker| takes_its_own(&shared.roster, worker));
            if known {
                found.push(*id);
            }
            !known
        });
        self.note_awaiting_sessions();
        for id in found {
            self.route(id, now);
        }
    }

    pub(super) fn session_is_late(&mut self, id: ConnectionId, serial: u32, now: Instant) {
        let Some(connection) = self.current(id, serial) else { return };
        if connection.state != State::AwaitSession {
            return;
        }
        let since = connection.waits_since.unwrap_or(now);
        let roster = &self.shared.roster;
        let waits = if roster.awaits() {
            now < since + WORKER_WAIT
        } else {
            roster.expects_sessions() && now < since + SESSION_WAIT_BUSY
        };
        if waits {
            return self.set_timer(now + SESSION_WAIT, Timer::Session(id, serial));
        }
        self.awaiting_session.remove(&(id, serial));
        self.note_awaiting_sessions();
        self.route(id, now);
    }

    fn note_awaiting_sessions(&self) {
        let count = u32::try_from(self.awaiting_session.len()).unwrap_or(u32::MAX);
        self.shared.awaiting_sessions[self.index].store(count, Ordering::SeqCst);
    }

    /// Waits for a worker: none is ready, none serves here, or all have refused.
    fn await_worker(&mut self, id: ConnectionId, now: Instant) {
        let connection = &mut self.connections[id];
        let first = connection.give_up.is_none();
        let give_up = *connection.give_up.get_or_insert(now + WORKER_WAIT);
        // Those that refused may have room by the next try.
        connection.refused_by.clear();
        connection.state = State::AwaitWorker;
        // One timer at a time: the one of an earlier try finds another serial.
        connection.serial = connection.serial.wrapping_add(1);
        let serial = connection.serial;
        if first {
            self.count(Counter::ParkedForWorker);
        }
        let full = self.awaiting_worker.len() >= MAX_PARKED_WORKERS;
        if now >= give_up || full || self.stopping {
            return self.refuse_unavailable(id);
        }
        self.awaiting_worker.insert((id, serial));
        self.set_timer(give_up.min(now + WORKER_RETRY), Timer::Worker(id, serial));
    }

    pub(super) fn try_workers_again(&mut self, id: ConnectionId, serial: u32, now: Instant) {
        if self.current(id, serial).is_some_and(|c| c.state == State::AwaitWorker) {
            self.awaiting_worker.remove(&(id, serial));
            self.route(id, now);
        }
    }

    pub(super) fn roster_changed(&mut self, now: Instant) {
        for (id, serial) in std::mem::take(&mut self.awaiting_worker) {
            if self.current(id, serial).is_some_and(|c| c.state == State::AwaitWorker) {
                self.route(id, now);
            }
        }
        // A worker that has come back has announced its sessions before.
        if !self.awaiting_session.is_empty() {
            self.recheck_sessions(now);
        }
    }

    /// A worker did not take the socket: it refused, died or went away. The client sees nothing.
    pub(super) fn redispatch(&mut self, id: ConnectionId, from: WorkerId, now: Instant) {
        self.uncount(id);
        let connection = &mut self.connections[id];
        if connection.grant.is_some() {
            return self.close(id);
        }
        connection.tries += 1;
        let own = connection.sid.as_ref().is_some_and(|sid| {
            let named = named(sid.as_bytes()).is_some_and(|named| named.is(from));
            named || self.shared.sessions.get(sid.as_bytes()) == Some(from)
        });
        self.count(Counter::Redispatched);
        if own
            && takes_its_own(&self.shared.roster, from)
            && self.connections[id].tries < OWN_REFUSALS
        {
            // Only this worker knows the session: give it a moment to close some descriptors.
            return self.await_worker(id, now);
        }
        self.connections[id].refused(from);
        self.route(id, now);
    }

    /// The head is not there in time. A server of the application's own may be one that speaks
    /// first, and then nothing was going to come.
    pub(super) fn head_is_late(&mut self, id: ConnectionId, now: Instant) {
        let Some(connection) = self.connections.get(id) else { return };
        match (connection.state, connection.kind) {
            (State::ExpectProxy { .. } | State::ExpectAddress { .. }, _) => {
                self.count(Counter::ClosedNoProxy);
                self.close(id);
            }
            (_, Kind::App) => self.route_unreadable(id, self.shared.settings.by_address, now),
            // Given back by a worker that drains, and idle: no request was begun that could be late.
            (State::ExpectHead { seen: 0 }, Kind::Pool) if connection.idle => {
                self.count(Counter::Abandoned);
                self.close(id);
            }
            (_, Kind::Pool) => {
                self.count(Counter::RefusedTimeout);
                self.refuse(id, TIMEOUT);
            }
        }
    }

    pub(super) fn stop_accepting(&mut self) {
        self.stopping = true;
        self.actions.push(Action::StopAccepting);
        for (id, serial) in std::mem::take(&mut self.awaiting_worker) {
            if self.current(id, serial).is_some_and(|c| c.state == State::AwaitWorker) {
                self.refuse_unavailable(id);
            }
        }
    }

    pub(super) fn refuse_unavailable(&mut self, id: ConnectionId) {
        self.count(Counter::RefusedNoWorker);
        self.refuse(id, UNAVAILABLE);
    }

    /// The worker has it.
    pub(super) fn taken(&mut self, id: ConnectionId, worker: WorkerId, way: Way, now: Instant) {
        let connection = &self.connections[id];
        debug_assert!(connection.since.is_some(), "nobody has accepted {connection:?}");
        let latency = now.saturating_duration_since(connection.since.unwrap_or(now));
        if let Some(counters) = self.shared.counters.get(self.index) {
            counters.handed_off(connection.choice.counter(), way, latency);
        }
        self.shared.roster.took(worker);
        self.close(id);
    }

    /// The worker has it, or nobody will.
    pub(super) fn close(&mut self, id: ConnectionId) {
        self.forget(id);
        self.actions.push(Action::Close(id));
    }

    /// The entry's socket goes on as another connection.
    pub(super) fn forget(&mut self, id: ConnectionId) {
        self.connections[id].close();
        self.open_connections -= 1;
    }

    /// Takes back the load a hand-off was counted as.
    fn uncount(&mut self, id: ConnectionId) {
        if let Some(worker) = self.connections[id].counted.take() {
            self.shared.roster.hope_fails(worker);
        }
    }

    pub(super) fn admit(&mut self, id: ConnectionId, listener: ListenerId) {
        if id >= self.connections.len() {
            self.connections.resize_with(id + 1, Connection::free);
        }
        let kind = self.listeners.get(&listener).map_or(Kind::Pool, |listener| listener.kind());
        self.connections[id].open(listener, kind);
        self.open_connections += 1;
    }

    fn refuse_fault(&mut self, id: ConnectionId, fault: Fault) {
        let (counter, response) = match fault {
            Fault::TooLong => (Counter::RefusedTooLong, TOO_LONG),
            Fault::NotHttp => (Counter::RefusedNotHttp, BAD_REQUEST),
            Fault::Http2Preface => (Counter::RefusedHttp2, HTTP2),
            Fault::TlsHello => (Counter::RefusedTls, TLS),
        };
        let counters = &self.shared.counters;
        let first_hello =
            fault == Fault::TlsHello && counters.iter().all(|c| c.read(Counter::RefusedTls) == 0);
        if first_hello {
            tracing::warn!(
                "a client began a TLS handshake: this port speaks plain HTTP; \
                 terminate TLS in front of the router (said once)"
            );
        }
        self.count(counter);
        self.refuse(id, response);
    }

    fn refuse(&mut self, id: ConnectionId, response: &'static [u8]) {
        self.connections[id].state = State::Lingering;
        self.actions.push(Action::Refuse { connection: id, response });
    }
}

/// Whether a worker gets sockets of the sessions it has.
fn takes_its_own(roster: &Roster, worker: WorkerId) -> bool {
    matches!(roster.standing(worker), Standing::Ready | Standing::Draining)
}

fn may_serve(
    roster: &Roster,
    listener: Option<&Arc<Listener>>,
    connection: &Connection,
    worker: WorkerId,
    now: u64,
) -> bool {
    listener.is_some_and(|own| own.is_served_by(worker) && !own.is_refused_by(worker, now))
        && !roster.is_full(worker)
        && !connection.refused_by.contains(&worker)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_state_their_length() {
        for response in [BAD_REQUEST, HTTP2, TLS, TOO_LONG, TIMEOUT, UNAVAILABLE] {
            let text = std::str::from_utf8(response).expect("ASCII");
            let (head, body) = text.split_once("\r\n\r\n").expect("a head");
            let length = head.split_once("Content-Length: ").expect("a length").1;
            assert_eq!(length.lines().next(), Some(body.len().to_string().as_str()));
        }
    }
}
