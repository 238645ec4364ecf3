//! The bus's own state, between the rings and Redis.
//!
//! Takes packets from the shards' ring into the backlog, makes commands of them, makes frames of what
//! comes back, and passes those on to the shards. It never holds a shard back: what it has no room
//! for is counted. It holds itself back instead: while a worker's queue is over its bound, nothing is
//! read from the stream, which keeps it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use redis::Pipeline;
use tokio::sync::Notify;

use super::Settings;
use super::backlog::{Backlog, Held};
use super::journal::{Journal, Mark};
use super::link::{Entry, Identity};
use super::names::Names;
use super::nodes::{Nodes, Tell};
use super::packet::{MARK, Packet, Way, decoded};
use super::position::{EntryId, Position};
use super::repeats::Repeats;
use super::value::Untranslatable;
use crate::ipc::message::{self, Message, PacketKind, Uid};
use crate::ipc::reply;
use crate::metrics::Counter;
use crate::metrics::snapshot;
use crate::route::WorkerId;
use crate::shard::Shared;
use crate::shard::ring::{self, Mail, Mailbox, Outgoing, Party};

/// Commands that are sent at once.
const BATCH: usize = 256;
/// Bytes of frames after which a batch gets no further command.
const BATCH_BYTES: usize = 8 << 20;
/// How long to wait when a shard's ring is full, or a worker's queue over its bound.
const RETRY: Duration = Duration::from_millis(1);
/// How often the same trouble is told.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// See the module's text.
pub(super) struct Core {
    pub(super) settings: Settings,
    pub(super) shared: Arc<Shared>,
    pub(super) names: Names,
    pub(super) state: RefCell<State>,
    /// There is something in the backlog, or to subscribe to.
    pub(super) stirred: Notify,
    status: Arc<Mutex<snapshot::Bus>>,
    journal: RefCell<Option<Journal>>,
    /// What the journal says.
    written_down: Cell<Option<Position>>,
    in_hand: RefCell<InHand>,
    troubles: Troubles,
}

pub(super) struct State {
    pub(super) host: String,
    pub(super) nodes: Nodes,
    pub(super) backlog: Backlog,
    /// `None`: the stream has never been read.
    pub(super) position: Option<Position>,
    /// The number of the next entry.
    pub(super) number: u64,
    /// The highest number that has come back.
    pub(super) echoed: u64,
    /// Entries were trimmed unread since the connection broke.
    pub(super) gap: bool,
    /// What other hosts wrote.
    pub(super) repeats: Repeats,
    /// The connection that was there last.
    pub(super) earlier: Option<Identity>,
    pub(super) connected: bool,
    /// Nothing more is put on its way.
    pub(super) resting: bool,
}

impl State {
    /// Whether there is nothing to say, or nobody to say it to.
    pub(super) fn is_silent(&self) -> bool {
        !self.connected || self.backlog.is_empty()
    }
}

/// Packets that the shards are to get, in order. Whoever waits for room may be ended by a connection
/// that breaks; what it had begun to post must not be, so it lies here. Each who adds to it waits
/// until it is empty, so it holds at most one packet of each that ever waits at once, a handful.
#[derive(Default)]
struct InHand {
    packets: VecDeque<(ring::Packet, Option<EntryId>)>,
    /// Where the first of them goes next.
    shard: usize,
}

/// Kinds of trouble, each told at most every [`TELL_EVERY`], with how often.
#[derive(Default)]
struct Troubles {
    backlog_full: Trouble,
    untranslatable: Trouble,
    skipped: Trouble,
    missed: Trouble,
    unsure: Trouble,
    dropped: Trouble,
}

#[derive(Default)]
struct Trouble {
    untold: Cell<u64>,
    told: Cell<Option<Instant>>,
}

impl Trouble {
    /// So many more. Gives how many have not been told, when it is time to.
    fn more(&self, n: u64, now: Instant) -> Option<u64> {
        self.untold.set(self.untold.get().saturating_add(n));
        let early = |at: Instant| now.saturating_duration_since(at) < TELL_EVERY;
        if self.told.get().is_some_and(early) {
            return None;
        }
        self.told.set(Some(now));
        Some(self.untold.take())
    }
}

/// The loop's clock.
pub(super) fn clock() -> Instant {
    tokio::time::Instant::now().into_std()
}

impl Core {
    pub(super) fn new(
        settings: Settings,
        shared: Arc<Shared>,
        state: State,
        status: Arc<Mutex<snapshot::Bus>>,
    ) -> Self {
        let names = Names::new(settings.bus.stream.clone(), settings.bus.channel_prefix.clone());
        let journal = settings.journal.as_deref().and_then(|path| {
            Journal::open(path)
                .inspect_err(|error| {
                    tracing::warn!(%error, "how far the stream was read will not be known to a router after this one");
                })
                .ok()
        });
        Self {
            settings,
            shared,
            names,
            state: RefCell::new(state),
            stirred: Notify::new(),
            status,
            journal: RefCell::new(journal),
            written_down: Cell::new(None),
            in_hand: RefCell::default(),
            troubles: Troubles::default(),
        }
    }

    fn count(&self, counter: Counter, n: u64) {
        if let Some(counters) = self.shared.counters.first() {
            counters.add(counter, n);
        }
    }

    // ---- From the shards ----

    /// Takes everything from the ring. Gives whom to greet: adapters that have just started.
    pub(super) fn collect(&self, ring: &Mailbox<Outgoing>) -> Vec<(Uid, String, WorkerId)> {
        ring.looking();
        let mut starting = Vec::new();
        let now = clock();
        while let Some(outgoing) = ring.take() {
            starting.extend(self.keep(outgoing, now));
        }
        self.stirred.notify_one();
        starting
    }

    fn keep(&self, outgoing: Outgoing, now: Instant) -> Option<(Uid, String, WorkerId)> {
        let mut state = self.state.borrow_mut();
        let mut starting = None;
        let read = message::read(outgoing.serialization, &outgoing.frame);
        let Message::Packet(packet) = read else { return None };
        match (packet.kind, packet.uid, packet.nsp) {
            (PacketKind::AdapterClose, Some(uid), _) => state.nodes.depart(uid, now),
            (
                kind @ (PacketKind::InitialHeartbeat | PacketKind::Heartbeat),
                Some(uid),
                Some(nsp),
            ) => {
                state.nodes.hear(uid, &nsp, outgoing.from, now);
                if kind == PacketKind::InitialHeartbeat {
                    starting = Some((uid, nsp, outgoing.from));
                }
                // It is of now: nobody is told later.
                if !state.connected {
                    return starting;
                }
            }
            _ => {}
        }
        if !state.backlog.push(Held::from(outgoing)) {
            drop(state);
            self.count(Counter::BusBacklogFull, 1);
            if let Some(packets) = self.troubles.backlog_full.more(1, now) {
                tracing::warn!(
                    packets,
                    "Redis is away or slow, and the backlog full: packets stay on this host"
                );
            }
        }
        starting
    }

    /// Tells an adapter that has just started who there is on other hosts.
    pub(super) async fn greet(&self, nsp: &str, worker: WorkerId) {
        let others: Vec<Uid> = self.state.borrow().nodes.others(nsp).collect();
        for uid in others {
            let frame = self.heartbeat(&uid, nsp);
            let packet = self.packet(frame, Some(worker), None, None);
            self.pass(packet, None).await;
        }
        self.tell_shards();
    }

    fn heartbeat(&self, uid: &Uid, nsp: &str) -> Bytes {
        reply::adapter_heartbeat(self.settings.serialization, uid, nsp)
    }

    /// Makes commands of the oldest packets that wait, and puts these on their way.
    pub(super) fn prepare(&self) -> Batch {
        let mut batch = Batch { commands: redis::pipe(), ways: Vec::new() };
        let mut bytes = 0;
        let now = clock();
        let resting = self.state.borrow().resting;
        while !resting && batch.ways.len() < BATCH && bytes < BATCH_BYTES {
            let Some(held) = self.state.borrow_mut().backlog.take() else { break };
            bytes += held.frame.len();
            match self.command(&held, &mut batch, now) {
                Ok(Some(number)) => self.state.borrow_mut().backlog.fly(held, number),
                // It is for somebody here, or for nobody.
                Ok(None) => {}
                Err(why) => {
                    self.count(Counter::BusUntranslatable, 1);
                    if let Some(packets) = self.troubles.untranslatable.more(1, now) {
                        tracing::warn!(worker = %held.from, %why, packets, "a packet stays on this host");
                    }
                }
            }
        }
        batch
    }

    /// Adds the command for a packet. Gives its number, if it is an entry.
    fn command(
        &self,
        held: &Held,
        batch: &mut Batch,
        now: Instant,
    ) -> Result<Option<Option<u64>>, Untranslatable> {
        let mut packet = Packet::of_frame(held.serialization, &held.frame)?;
        let mut state = self.state.borrow_mut();
        if let Some(uid) = packet.sender().filter(|_| packet.kind != PacketKind::AdapterClose) {
            state.nodes.hear(uid, &packet.nsp, held.from, now);
        }
        if packet.kind == PacketKind::InitialHeartbeat {
            // Who is there need not say so: this router has told its worker.
            packet.kind = PacketKind::Heartbeat;
        }
        let way = packet.way();
        let too_long = || Untranslatable::TooLong { got: held.frame.len(), max: u32::MAX as usize };
        let channel = match way {
            Way::Stream => {
                let data = packet.entry_data().ok_or_else(too_long)?;
                let next = state.number;
                let number = held.number.unwrap_or(next);
                state.number = next.max(number + 1);
                let bus = &self.settings.bus;
                let commands = batch.commands.cmd("XADD").arg(&bus.stream);
                commands.arg("MAXLEN").arg("~").arg(bus.max_len).arg("*");
                commands.arg("uid").arg(&*packet.uid).arg("nsp").arg(&*packet.nsp);
                commands.arg("type").arg(packet.kind.number());
                if let Some(data) = data {
                    commands.arg("data").arg(data);
                }
                commands.arg(MARK).arg(format!("{}:{number}", state.host));
                batch.ways.push(way);
                return Ok(Some(Some(number)));
            }
            Way::Everyone => self.names.everyone(&packet.nsp),
            Way::Requester => {
                let requester = packet.requester.as_deref().unwrap_or_default();
                let ours =
                    Uid::new(requester.as_bytes()).is_some_and(|uid| state.nodes.is_ours(&uid));
                if ours {
                    return Ok(None);
                }
                self.names.adapter(&packet.nsp, requester)
            }
        };
        let payload = packet.into_payload().ok_or_else(too_long)?;
        batch.commands.cmd("PUBLISH").arg(channel).arg(payload);
        batch.ways.push(way);
        Ok(Some(None))
    }

    /// Redis has taken a batch.
    pub(super) fn landed(&self, packets: usize) {
        self.state.borrow_mut().backlog.landed();
        self.count(Counter::BusSent, packets as u64);
    }

    /// The stream has been read as far as it went when the connection was made: what of the former one
    /// Redis has is known now.
    pub(super) fn caught_up(&self) {
        let mut state = self.state.borrow_mut();
        let (echoed, gap) = (state.echoed, std::mem::take(&mut state.gap));
        let settled = state.backlog.settle(echoed, gap);
        state.connected = true;
        drop(state);
        self.count(Counter::BusSent, settled.landed);
        self.count(Counter::BusUnsure, settled.unsure);
        if settled.unsure > 0
            && let Some(packets) = self.troubles.unsure.more(settled.unsure, clock())
        {
            tracing::warn!(
                packets,
                "Redis did not say whether it took these: they are not sent again"
            );
        }
        self.stirred.notify_one();
    }

    // ---- To the shards ----

    /// Passes an entry on. What cannot be read is counted.
    ///
    /// It is written down as read before any worker can have it: a router that dies meanwhile takes one
    /// packet with it, as it does with those of its workers; read again, it would come twice, and behind
    /// younger ones.
    pub(super) async fn entry(&self, entry: Entry) {
        // An entry that the connection before this one had brought may still be in hand.
        self.post_all().await;
        let id = entry.id;
        if self.state.borrow().position.is_some_and(|position| id <= position.last) {
            return;
        }
        match self.mail_of_entry(entry) {
            Ok(Some(packet)) => {
                let mut position = self.state.borrow().position.unwrap_or_default();
                position.read(id);
                self.write_down(position);
                self.pass(packet, Some(id)).await;
            }
            Ok(None) => self.has_read(id),
            Err(why) => {
                self.skip(&format!("entry {id}"), why);
                self.has_read(id);
            }
        }
    }

    fn has_read(&self, id: EntryId) {
        if let Some(position) = &mut self.state.borrow_mut().position {
            position.read(id);
        }
    }

    fn mail_of_entry(&self, entry: Entry) -> Result<Option<ring::Packet>, Untranslatable> {
        let now = clock();
        if !entry.mark.is_empty() {
            let mark = String::from_utf8_lossy(&entry.mark);
            let mut state = self.state.borrow_mut();
            if let Some((host, number)) = mark.rsplit_once(':')
                && let Ok(number) = number.parse()
            {
                if host == state.host {
                    state.echoed = state.echoed.max(number);
                    return Ok(None);
                }
                if state.repeats.read(host, number) {
                    return Ok(None);
                }
            }
        }
        // As the official adapter has it: an entry of somebody else's.
        if entry.nsp.is_empty() && entry.uid.is_empty() && !entry.is_empty() {
            return Err(Untranslatable::Unreadable);
        }
        let data = decoded(entry.data)?;
        let packet = Packet::of_entry(&entry.uid, &entry.nsp, &entry.kind, data.as_ref())?;
        Ok(self.incoming(packet, None, now))
    }

    /// Passes on what was published on a channel.
    pub(super) async fn published(&self, channel: &str, payload: &[u8]) {
        let requester = self.names.requester(channel);
        let packet = match Packet::of_payload(payload) {
            Ok(packet) => self.incoming(packet, requester, clock()),
            Err(why) => return self.skip(&format!("a message on {channel}"), why),
        };
        if let Some(packet) = packet {
            self.pass(packet, None).await;
        }
    }

    /// More was published than there was time for.
    pub(super) fn dropped(&self, messages: u64) {
        self.count(Counter::BusSkipped, messages);
        if let Some(messages) = self.troubles.dropped.more(messages, clock()) {
            tracing::warn!(messages, "more was published than this host could pass on");
        }
    }

    fn skip(&self, what: &str, why: Untranslatable) {
        self.count(Counter::BusSkipped, 1);
        if let Some(times) = self.troubles.skipped.more(1, clock()) {
            tracing::warn!(times, %why, "{what} is no packet, and skipped");
        }
    }

    /// The packet for the workers; `None`: it comes from one of them, or is for none.
    fn incoming(
        &self,
        mut packet: Packet<'_>,
        requester: Option<Uid>,
        now: Instant,
    ) -> Option<ring::Packet> {
        let mut state = self.state.borrow_mut();
        let sender = packet.sender();
        if sender.is_some_and(|uid| state.nodes.is_ours(&uid)) {
            return None;
        }
        let mut to = None;
        if let Some(requester) = requester {
            to = Some(state.nodes.worker_of(&requester)?);
            packet.requester = Some(requester.as_str().to_owned().into());
        } else {
            packet.requester = None;
        }
        let closes = packet.kind == PacketKind::AdapterClose;
        if let Some(uid) = sender.filter(|uid| uid.as_str() != super::packet::EMITTER) {
            if closes {
                state.nodes.depart_remote(&uid);
            } else {
                state.nodes.hear_remote(uid, &packet.nsp, now);
            }
        }
        let learn = sender.filter(|_| packet.asks());
        let forget = sender.filter(|_| closes);
        drop(state);
        self.count(Counter::BusReceived, 1);
        let frame = Bytes::from(packet.into_frame(self.settings.serialization));
        Some(self.packet(frame, to, learn, forget))
    }

    #[expect(clippy::unused_self, reason = "what the bus passes on is the core's to make")]
    fn packet(
        &self,
        frame: Bytes,
        to: Option<WorkerId>,
        learn: Option<Uid>,
        forget: Option<Uid>,
    ) -> ring::Packet {
        ring::Packet { frame, from: Party::Bus, to: to.map(Party::Worker), learn, forget }
    }

    /// Tells the workers of adapters on other hosts.
    pub(super) async fn tell(&self, all: Vec<Tell>) {
        for tell in all {
            let packet = match tell {
                Tell::Lives(uid, nsp) => self.packet(self.heartbeat(&uid, &nsp), None, None, None),
                Tell::Gone(uid, nsp) => {
                    let frame = reply::adapter_close(self.settings.serialization, &uid, &nsp);
                    self.packet(frame, None, None, Some(uid))
                }
            };
            self.pass(packet, None).await;
        }
        self.tell_shards();
    }

    /// Posts a packet to the shards it is for; waits while there is no room.
    async fn pass(&self, packet: ring::Packet, entry: Option<EntryId>) {
        self.in_hand.borrow_mut().packets.push_back((packet, entry));
        self.post_all().await;
    }

    /// Posts what is in hand; waits while there is no room.
    async fn post_all(&self) {
        while !self.post() {
            self.tell_shards();
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Posts what there is room for of what is in hand; `false`: some is left.
    fn post(&self) -> bool {
        let mut in_hand = self.in_hand.borrow_mut();
        let InHand { packets, shard } = &mut *in_hand;
        while let Some((packet, entry)) = packets.front() {
            if *shard == 0 && self.shared.congested.load(Ordering::Acquire) > 0 {
                return false;
            }
            while let Some(mailbox) = self.shared.mailboxes.get(*shard) {
                let elsewhere = |worker: WorkerId| self.shared.owner(worker.slot) != *shard;
                let skipped = matches!(packet.to, Some(Party::Worker(worker)) if elsewhere(worker));
                if !skipped && mailbox.post(Mail::Packet(packet.clone())).is_err() {
                    return false;
                }
                *shard += 1;
            }
            if let Some(id) = *entry {
                self.has_read(id);
            }
            *shard = 0;
            packets.pop_front();
        }
        true
    }

    /// Whether all that was read has been posted.
    pub(super) fn has_posted_all(&self) -> bool {
        self.in_hand.borrow().packets.is_empty()
    }

    /// Wakes the shards for what was posted.
    pub(super) fn tell_shards(&self) {
        for mailbox in &self.shared.mailboxes {
            mailbox.tell();
        }
    }

    // ---- How it stands ----

    /// Compares the position with what Redis says of the stream.
    pub(super) fn settle(&self, info: &super::position::StreamInfo) {
        let mut state = self.state.borrow_mut();
        let missed = match &mut state.position {
            Some(position) => position.settle(info),
            none => {
                *none = Some(Position::end(info));
                0
            }
        };
        state.gap |= missed > 0;
        drop(state);
        if missed > 0 {
            self.count(Counter::BusMissed, missed);
            if let Some(entries) = self.troubles.missed.more(missed, clock()) {
                tracing::warn!(
                    entries,
                    "the stream was trimmed before this host had read it (--bus-max-len)"
                );
            }
        }
    }

    /// Writes down how far the stream has been read.
    pub(super) fn note_position(&self) {
        let position = self.state.borrow().position;
        if let Some(position) = position {
            self.write_down(position);
        }
    }

    fn write_down(&self, position: Position) {
        if self.written_down.replace(Some(position)) == Some(position) {
            return;
        }
        if let Some(journal) = &mut *self.journal.borrow_mut() {
            let host = self.state.borrow().host.clone();
            journal.write(&Mark { host, stream: self.names.stream.clone(), position });
        }
    }

    /// Shows how it stands; `trouble` is why it is not connected.
    pub(super) fn show(&self, trouble: Option<String>) {
        let state = self.state.borrow();
        let hosts = state.nodes.hosts();
        let plain = hosts.iter().filter(|host| host.name.is_empty()).map(|host| host.nodes).sum();
        let named = hosts.into_iter().filter(|host| !host.name.is_empty());
        let hosts = named.map(|host| snapshot::BusHost { name: host.name, nodes: host.nodes });
        let mut shown = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        *shown = snapshot::Bus {
            redis: self.settings.bus.redis.to_string(),
            stream: self.names.stream.clone(),
            host: state.host.clone(),
            connected: state.connected,
            trouble,
            backlog: state.backlog.len() as u64,
            backlog_bytes: state.backlog.bytes() as u64,
            nodes: state.nodes.here(),
            hosts: hosts.collect(),
            plain,
        };
    }

    /// A connection to Redis was made.
    pub(super) fn count_connection(&self) {
        self.count(Counter::BusConnected, 1);
    }

    /// Some entries were refused for themselves.
    pub(super) fn count_refused(&self, packets: u64) {
        self.count(Counter::BusUnsure, packets);
    }

    /// What the next one begins with. An entry that some shard has and another has no room for counts as
    /// read: nobody gets it twice.
    pub(super) fn into_state(self) -> State {
        let begun = {
            let in_hand = self.in_hand.borrow();
            in_hand.packets.front().filter(|_| in_hand.shard > 0).and_then(|(_, entry)| *entry)
        };
        if let Some(id) = begun {
            self.has_read(id);
        }
        self.state.into_inner()
    }
}

/// Commands that are sent at once.
pub(super) struct Batch {
    pub(super) commands: Pipeline,
    /// Of each.
    pub(super) ways: Vec<Way>,
}
