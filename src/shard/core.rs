//! One shard: its tables, its timers, its mail.
//!
//! Events come in as method calls with the loop's clock, actions go out through
//! [`Shard::take_actions`]; the engine carries them out in order. No system call is made here, so
//! whatever an engine can do to a shard a test can do too.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ahash::RandomState;
use bytes::Bytes;

use super::channel::Channel;
use super::connection::{Connection, State, Transit};
use super::hopes::Hopes;
use super::lane::Lane;
use super::listener::{Listener, ListenerId};
use super::relay::Owners;
use super::ring::{Mail, Outgoing, Packet, Party};
use super::{ChannelId, ConnectionId, LaneId, MAX_CONNECTIONS, Report, Reports, Shared};
use crate::ipc::Serialization;
use crate::metrics::Counter;
use crate::route::WorkerId;
use crate::route::roster::Standing;
use crate::route::session_table::SessionTable;

/// How long accepting pauses when the process is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How often mail that did not fit its ring is tried again.
const OUTBOX_RETRY: Duration = Duration::from_millis(1);
/// How often a partition of the session table is swept after a worker has died.
const SWEEP_EVERY: Duration = Duration::from_millis(10);

/// What the engine shall do.
#[derive(Debug)]
pub enum Action {
    /// Read what the client has sent and leave it there; answer with [`Shard::peeked`].
    Peek(ConnectionId),
    /// The same once more than `beyond` bytes are there, or the client has finished.
    PeekBeyond {
        /// The connection.
        connection: ConnectionId,
        /// Bytes seen already.
        beyond: usize,
    },
    /// Send the socket on the channel; answer with [`Shard::handed`].
    HandOff {
        /// The worker's channel.
        channel: ChannelId,
        /// Whose socket.
        connection: ConnectionId,
        /// The message that explains it.
        frame: Bytes,
    },
    /// Send frames on the channel; answer with [`Shard::wrote`].
    Write {
        /// The worker's channel.
        channel: ChannelId,
        /// What to write.
        frames: Vec<Bytes>,
        /// Bytes of the first frame that have gone already.
        offset: usize,
    },
    /// Tell when the channel takes bytes again: [`Shard::writable`].
    AwaitRoom(ChannelId),
    /// Send the socket on the lane; answer with [`Shard::sent_on_lane`].
    SendOnLane {
        /// The worker's lane.
        lane: LaneId,
        /// Whose socket.
        connection: ConnectionId,
        /// What goes beside it.
        message: Bytes,
    },
    /// Tell when the lane takes sockets again: [`Shard::lane_has_room`].
    AwaitLaneRoom(LaneId),
    /// Tell how many sockets the worker has not read: [`Shard::lane_looked_at`].
    LookAtLane(LaneId),
    /// Take back the sockets that the worker has not read: [`Shard::read_back`] for each.
    ReadBack {
        /// The worker's lane.
        lane: LaneId,
        /// Whose it is.
        worker: WorkerId,
        /// Let nothing more be sent on it, by anybody, first.
        end: bool,
    },
    /// Close the lane. Its id is free when the engine has let go of it.
    CloseLane(LaneId),
    /// Tell who the client is: [`Shard::address_is`].
    AskAddress(ConnectionId),
    /// Take so many bytes, which are there, out of the stream; answer with [`Shard::skipped`], or
    /// [`Shard::peek_failed`].
    Skip {
        /// The connection.
        connection: ConnectionId,
        /// Bytes.
        length: usize,
    },
    /// Accept clients on this listener that say nothing.
    AcceptSilent(ListenerId),
    /// Start or stop to read a channel.
    Read {
        /// The worker's channel.
        channel: ChannelId,
        /// Start, or stop.
        on: bool,
    },
    /// Close the channel. Its id is free when the engine has let go of it.
    CloseChannel(ChannelId),
    /// Close the connection. Its id is free when the engine has let go of it.
    Close(ConnectionId),
    /// Say why, half-close, and wait for the client's end; answer with [`Shard::lingered`].
    Refuse {
        /// The connection.
        connection: ConnectionId,
        /// A whole HTTP response.
        response: &'static [u8],
    },
    /// Wait for the client's end: it has been refused. Answer with [`Shard::lingered`].
    Linger(ConnectionId),
    /// Take the socket out and post it to another shard.
    Transfer {
        /// The connection.
        connection: ConnectionId,
        /// Which shard.
        shard: usize,
        /// What goes with it.
        transit: Box<Transit>,
    },
    /// Open this shard's acceptor on a listener.
    Listen {
        /// The listener.
        listener: ListenerId,
        /// Its descriptor.
        socket: std::os::fd::OwnedFd,
    },
    /// Close it.
    Unlisten(ListenerId),
    /// Start or stop to accept on all listeners.
    Accept(bool),
    /// Close all listeners.
    StopAccepting,
    /// Come to rest: end the thread with everything in hand.
    Rest,
    /// End the thread.
    Exit,
}

impl Action {
    /// Whether it only begins a wait. A shard that comes to rest begins none: whoever thaws it does.
    pub(super) fn waits(&self) -> bool {
        matches!(
            self,
            Self::Peek(_)
                | Self::PeekBeyond { .. }
                | Self::AwaitRoom(_)
                | Self::AwaitLaneRoom(_)
                | Self::Read { .. }
                | Self::Accept(_)
        )
    }
}

/// What a timer is for. `connection` timers carry the serial of the entry they were set for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// Look at the head again.
    Repeek(ConnectionId, u32),
    /// The session was not announced in time.
    Session(ConnectionId, u32),
    /// Try the workers again.
    Worker(ConnectionId, u32),
    /// The refused client has had its time.
    Linger(ConnectionId, u32),
    /// Hand-offs without a session have not become any.
    Hopes,
    /// The lane may be tried again.
    LaneRoom(WorkerId),
    /// Look at the lane.
    Look(WorkerId),
    /// Read back the lane of a worker without descriptors.
    Full(WorkerId),
    /// Has the congested worker taken anything?
    Stall(ChannelId, WorkerId),
    /// The channel may be tried again.
    Room(ChannelId, WorkerId),
    /// Accept again.
    Accept,
    /// Post again what did not fit.
    Outbox,
    /// Sweep the session table.
    Sweep,
}

/// See the module's text.
pub struct Shard {
    pub(super) index: usize,
    pub(super) shared: Arc<Shared>,
    pub(super) reports: Reports,
    pub(super) connections: Vec<Connection>,
    pub(super) open_connections: usize,
    pub(super) channels: Vec<Option<Channel>>,
    /// The channels of the workers that this shard owns.
    pub(super) by_worker: HashMap<WorkerId, ChannelId, RandomState>,
    /// Channels that ended this turn, until their lanes are read back.
    pub(super) ended: Vec<Channel>,
    pub(super) lanes: Vec<Option<Lane>>,
    pub(super) lane_of: HashMap<WorkerId, LaneId, RandomState>,
    pub(super) hopes: Hopes,
    pub(super) listeners: HashMap<ListenerId, Arc<Listener>, RandomState>,
    pub(super) owners: Owners,
    /// Connections in `AwaitSession`, by serial.
    pub(super) awaiting_session: HashSet<(ConnectionId, u32), RandomState>,
    /// Connections in `AwaitWorker`, by serial.
    pub(super) awaiting_worker: HashSet<(ConnectionId, u32), RandomState>,
    /// Heads by deadline; all have the same time, so the oldest is first.
    heads: VecDeque<(Instant, ConnectionId, u32)>,
    pub(super) timers: BinaryHeap<Reverse<(Instant, Timer)>>,
    /// Mail that did not fit its ring, by shard; in order.
    outbox: Vec<VecDeque<Mail>>,
    /// Shards to wake when this turn ends.
    to_tell: Vec<bool>,
    to_tell_bus: bool,
    /// Channels with something to write when this turn ends.
    pub(super) dirty: Vec<ChannelId>,
    /// Empty between two turns, and the next one to be `dirty`: kept for its room.
    pub(super) pumped: Vec<ChannelId>,
    /// Empty between two reads of channels: kept for its room.
    pub(super) frames: Vec<Bytes>,
    pub(super) actions: Vec<Action>,
    /// Sent to a worker that was cut off and may still take them, until its process is gone.
    pub(super) in_doubt: Vec<(WorkerId, ConnectionId)>,
    pub(super) stopping: bool,
    /// Sessions were announced here this turn.
    pub(super) announced: bool,
    accepting: bool,
    accept_wanted: bool,
    /// Channels are not read for now.
    held: bool,
    outbox_timer: bool,
    sweep_turns: usize,
    chance: u64,
}

impl std::fmt::Debug for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shard")
            .field("index", &self.index)
            .field("open_connections", &self.open_connections)
            .finish_non_exhaustive()
    }
}

impl Shard {
    /// A shard with nothing in it. `seed` is for `--balance random`.
    #[must_use]
    pub fn new(index: usize, shared: Arc<Shared>, reports: Reports, seed: u64) -> Self {
        let shards = shared.mailboxes.len();
        Self {
            index,
            shared,
            reports,
            connections: Vec::new(),
            open_connections: 0,
            channels: Vec::new(),
            by_worker: HashMap::default(),
            ended: Vec::new(),
            lanes: Vec::new(),
            lane_of: HashMap::default(),
            hopes: Hopes::default(),
            listeners: HashMap::default(),
            owners: Owners::default(),
            awaiting_session: HashSet::default(),
            awaiting_worker: HashSet::default(),
            heads: VecDeque::new(),
            timers: BinaryHeap::new(),
            outbox: (0..shards).map(|_| VecDeque::new()).collect(),
            to_tell: vec![false; shards],
            to_tell_bus: false,
            dirty: Vec::new(),
            pumped: Vec::new(),
            frames: Vec::new(),
            actions: Vec::new(),
            in_doubt: Vec::new(),
            stopping: false,
            announced: false,
            accepting: true,
            accept_wanted: true,
            held: false,
            outbox_timer: false,
            sweep_turns: 0,
            chance: seed | 1,
        }
    }

    /// The mailbox whose wake-ups the engine waits for.
    #[must_use]
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Which shard this is.
    #[must_use]
    pub fn index(&self) -> usize {
        self.index
    }

    /// What there is to do, in order.
    pub fn take_actions(&mut self, into: &mut Vec<Action>) {
        into.append(&mut self.actions);
    }

    /// When [`Self::tick`] has something to do, if nothing else happens.
    #[must_use]
    pub fn next_deadline(&mut self) -> Option<Instant> {
        self.drop_stale_heads();
        let head = self.heads.front().map(|(at, ..)| *at);
        let timer = self.timers.peek().map(|Reverse((at, _))| *at);
        match (head, timer) {
            (Some(head), Some(timer)) => Some(head.min(timer)),
            (head, timer) => head.or(timer),
        }
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Instant) {
        self.drop_stale_heads();
        while let Some((at, connection, _)) = self.heads.front().copied() {
            if at > now {
                break;
            }
            self.heads.pop_front();
            self.head_is_late(connection, now);
            self.drop_stale_heads();
        }
        while let Some(Reverse((at, timer))) = self.timers.peek().copied() {
            if at > now {
                break;
            }
            self.timers.pop();
            self.timer_is_due(timer, now);
        }
    }

    /// Ends a turn: writes what the turn has queued, wakes whom it has written to, and decides
    /// whether to accept and to read on.
    pub fn end_turn(&mut self, now: Instant) {
        if std::mem::take(&mut self.announced) {
            self.sessions_announced(now);
        }
        self.pump_dirty(now);
        self.flush_outbox(now);
        self.regulate_reading();
        self.regulate_accepting();
        self.show();
        for shard in 0..self.to_tell.len() {
            if std::mem::take(&mut self.to_tell[shard]) {
                self.shared.mailboxes[shard].tell();
            }
        }
        if std::mem::take(&mut self.to_tell_bus)
            && let Some(bus) = &self.shared.bus
        {
            bus.tell();
        }
    }

    /// Takes everything from the mailbox; the engine answers for sockets and channels by its own
    /// ids, which `admit` gives out.
    pub fn mail(&mut self, mail: Mail, now: Instant) {
        match mail {
            Mail::Packet(packet) => self.packet_arrived(&packet, now),
            Mail::Unread(worker, bytes) => self.unread(worker, &bytes, now),
            Mail::Detach(worker) => self.detach(worker, now),
            Mail::Drain { worker, within, over } => self.write_drain(worker, within, over, now),
            Mail::Shutdown(worker) => self.write_shutdown(worker, now),
            Mail::Listen { listener, socket } => {
                let id = listener.id();
                self.listeners.insert(id, listener);
                self.join_pools();
                if !self.stopping {
                    self.actions.push(Action::Listen { listener: id, socket });
                }
            }
            Mail::AcceptSilent(listener) => self.actions.push(Action::AcceptSilent(listener.id())),
            Mail::LaneClosed(worker) => self.lane_closed(worker, now),
            Mail::LaneLate(worker, since) => self.relieve(worker, since, now),
            Mail::Unlisten(listener) => {
                self.listeners.remove(&listener.id());
                self.actions.push(Action::Unlisten(listener.id()));
            }
            Mail::ListenReply { .. }
            | Mail::Connection { .. }
            | Mail::Kept { .. }
            | Mail::Attach { .. }
            | Mail::Lane { .. } => {
                debug_assert!(false, "the engine admits these itself");
            }
            Mail::RosterChanged => self.roster_changed(now),
            Mail::SessionsAnnounced => self.recheck_sessions(now),
            // Being woken is enough: the end of the turn looks whether to read again.
            Mail::FlowResumes => {}
            Mail::StopAccepting => self.stop_accepting(),
            Mail::Beat => {
                if let Some(beats) = self.shared.beats.get(self.index) {
                    beats.fetch_add(1, Ordering::Release);
                }
            }
            Mail::Rest => self.actions.push(Action::Rest),
            Mail::Exit => self.actions.push(Action::Exit),
        }
    }

    /// The engine could not accept: the process is out of descriptors or memory.
    pub fn accept_failed(&mut self, now: Instant) {
        self.count(Counter::AcceptPaused);
        self.accept_wanted = false;
        self.set_timer(now + ACCEPT_PAUSE, Timer::Accept);
    }

    pub(super) fn count(&self, counter: Counter) {
        if let Some(counters) = self.shared.counters.get(self.index) {
            counters.bump(counter);
        }
    }

    pub(super) fn count_more(&self, counter: Counter, n: usize) {
        if let Some(counters) = self.shared.counters.get(self.index) {
            counters.add(counter, n as u64);
        }
    }

    pub(super) fn report(&self, report: Report) {
        (self.reports)(report);
    }

    /// xorshift64 (Marsaglia, 2003): which worker, nothing that must not be guessed.
    pub(super) fn chance(&mut self) -> u64 {
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        self.chance
    }

    pub(super) fn set_timer(&mut self, at: Instant, timer: Timer) {
        self.timers.push(Reverse((at, timer)));
    }

    pub(super) fn set_hope_timer(&mut self) {
        if let Some(at) = self.hopes.next() {
            self.set_timer(at, Timer::Hopes);
        }
    }

    fn hopes_end(&mut self, now: Instant) {
        while let Some(ended) = self.hopes.due(now) {
            ended.into_iter().for_each(|hope| self.shared.roster.hope_ends(hope));
        }
        self.set_hope_timer();
    }

    pub(super) fn await_head_until(&mut self, at: Instant, connection: ConnectionId, serial: u32) {
        if self.heads.back().is_none_or(|(last, ..)| *last <= at) {
            return self.heads.push_back((at, connection, serial));
        }
        // Those of before an upgrade come in any order.
        let place = self.heads.partition_point(|(other, ..)| *other <= at);
        self.heads.insert(place, (at, connection, serial));
    }

    /// The connection if its entry is still the one meant.
    pub(super) fn current(&mut self, id: ConnectionId, serial: u32) -> Option<&mut Connection> {
        self.connections.get_mut(id).filter(|connection| connection.serial == serial)
    }

    /// Posts to another shard, now or, in order, when there is room.
    pub(super) fn post(&mut self, shard: usize, mail: Mail) {
        let Some(outbox) = self.outbox.get_mut(shard) else { return };
        if outbox.is_empty() {
            match self.shared.mailboxes[shard].post(mail) {
                Ok(()) => {}
                Err(back) => outbox.push_back(back),
            }
        } else {
            outbox.push_back(mail);
        }
        self.to_tell[shard] = true;
    }

    /// Posts a packet of a worker's here for other hosts, unless its only receiver is here. What
    /// the ring has no room for stays on this host: nobody here waits for another one.
    pub(super) fn post_to_bus(&mut self, packet: &Packet, from: WorkerId, written: Serialization) {
        let Some(bus) = &self.shared.bus else { return };
        if matches!(packet.to, Some(Party::Worker(_))) {
            return;
        }
        let outgoing = Outgoing { frame: packet.frame.clone(), serialization: written, from };
        self.to_tell_bus = true;
        if bus.post(outgoing).is_err() {
            self.count(Counter::BusRingFull);
        }
    }

    /// Posts a packet to every other shard, or to the one that owns its only receiver.
    pub(super) fn post_packet(&mut self, packet: &Packet) {
        for shard in 0..self.shared.mailboxes.len() {
            let receives = match packet.to {
                None => true,
                Some(Party::Worker(to)) => self.shared.owner(to.slot) == shard,
                Some(Party::Bus) => false,
            };
            let wanted = receives || packet.learn.is_some();
            if shard != self.index && wanted {
                self.post(shard, Mail::Packet(packet.clone()));
            }
        }
    }

    /// Starts to take a dead worker's sessions out of the table, a little at a time.
    pub(super) fn start_sweep(&mut self, now: Instant) {
        if self.sweep_turns == 0 {
            self.set_timer(now + SWEEP_EVERY, Timer::Sweep);
        }
        self.sweep_turns = SessionTable::sweep_turns();
    }

    fn sweep(&mut self, now: Instant) {
        self.sweep_turns -= 1;
        let shared = &self.shared;
        shared
            .sessions
            .sweep(self.sweep_turns, |worker| shared.roster.standing(worker) != Standing::Gone);
        if self.sweep_turns > 0 {
            self.set_timer(now + SWEEP_EVERY, Timer::Sweep);
        }
    }

    fn timer_is_due(&mut self, timer: Timer, now: Instant) {
        match timer {
            Timer::Repeek(id, serial) => {
                if self.current(id, serial).is_some_and(|connection| connection.state.is_early()) {
                    self.actions.push(Action::Peek(id));
                }
            }
            Timer::Session(id, serial) => self.session_is_late(id, serial, now),
            Timer::Worker(id, serial) => self.try_workers_again(id, serial, now),
            Timer::Linger(id, serial) => {
                if self.current(id, serial).is_some_and(|c| c.state == State::Lingering) {
                    self.close(id);
                }
            }
            Timer::Hopes => self.hopes_end(now),
            Timer::LaneRoom(worker) => self.lane_may_have_room(worker, now),
            Timer::Look(worker) => self.look_at_lane(worker),
            Timer::Full(worker) => self.empty_lane(worker, now),
            Timer::Stall(channel, worker) => self.check_stall(channel, worker, now),
            Timer::Room(channel, worker) => {
                if self.channel_of(channel, worker).is_some() {
                    self.writable(channel);
                }
            }
            Timer::Accept => self.accept_wanted = true,
            Timer::Outbox => self.outbox_timer = false,
            Timer::Sweep => self.sweep(now),
        }
    }

    /// Heads that have been read no longer have a deadline.
    fn drop_stale_heads(&mut self) {
        while let Some((_, id, serial)) = self.heads.front().copied() {
            let waits = self.current(id, serial).is_some_and(|c| c.state.is_early());
            if waits {
                break;
            }
            self.heads.pop_front();
        }
    }

    /// Posts what did not fit before. `true`: some of it has gone.
    pub(super) fn flush_outbox(&mut self, now: Instant) -> bool {
        let (mut left, mut gone) = (false, false);
        for shard in 0..self.outbox.len() {
            while let Some(mail) = self.outbox[shard].pop_front() {
                self.to_tell[shard] = true;
                if let Err(back) = self.shared.mailboxes[shard].post(mail) {
                    self.outbox[shard].push_front(back);
                    left = true;
                    break;
                }
                gone = true;
            }
        }
        if left && !self.outbox_timer {
            self.outbox_timer = true;
            self.set_timer(now + OUTBOX_RETRY, Timer::Outbox);
        }
        gone
    }

    /// Until when each client may take for its head.
    pub(super) fn head_deadlines(&self) -> HashMap<ConnectionId, Instant> {
        let current = self.heads.iter().filter(|(_, id, serial)| {
            self.connections.get(*id).is_some_and(|connection| connection.serial == *serial)
        });
        current.map(|(at, id, _)| (*id, *at)).collect()
    }

    /// Workers are not read while a queue anywhere is over its bound or mail waits for a ring:
    /// what is not read stays with its sender.
    fn regulate_reading(&mut self) {
        let congested = self.shared.congested.load(Ordering::Acquire) > 0;
        let hold = congested || self.outbox.iter().any(|outbox| !outbox.is_empty());
        if hold == self.held {
            return;
        }
        self.held = hold;
        if hold {
            self.count(Counter::HeldBack);
        }
        for (channel, state) in self.channels.iter().enumerate() {
            if state.is_some() {
                self.actions.push(Action::Read { channel, on: !hold });
            }
        }
    }

    /// Whether channels are not read for now.
    pub(super) fn is_held(&self) -> bool {
        self.held
    }

    /// Says how much it has in hand.
    fn show(&self) {
        if let Some(gauges) = self.shared.gauges.get(self.index) {
            gauges.held.store(self.open_connections as u64, Ordering::Relaxed);
            gauges.awaiting_worker.store(self.awaiting_worker.len() as u64, Ordering::Relaxed);
        }
    }

    fn regulate_accepting(&mut self) {
        let room = if self.accepting {
            self.open_connections < MAX_CONNECTIONS
        } else {
            self.open_connections < MAX_CONNECTIONS * 9 / 10
        };
        let accept = self.accept_wanted && room;
        if accept != self.accepting && !self.stopping {
            self.accepting = accept;
            if !room {
                self.count(Counter::AcceptPaused);
            }
            self.actions.push(Action::Accept(accept));
        }
    }
}
