//! The data plane as it crosses an upgrade: frozen by one process, thawed by the next, or by the
//! same one when the next does not take over.
//!
//! Plain data, with serde; descriptors are numbers into a list that crosses beside it. Nothing here
//! belongs to a shard: the next process may have another number of them. Clients that wait are not
//! frozen where they wait but at the last step before, which is taken again: what they have sent
//! lies in their sockets, since it was only peeked at.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::connection::{Choice, Connection, State};
use super::engine::Keeper;
use super::handoff::HandOffs;
use super::listener::{Kind, Listener, ListenerId};
use super::rest::{self, Resting};
use super::ring::Party;
use super::{ConnectionId, Shared};
use crate::ipc::Serialization;
use crate::ipc::message::{AddressType, QueryServer, Uid};
use crate::metrics::latency::{Recorded, Way};
use crate::metrics::{self, Counter};
use crate::route::WorkerId;
use crate::route::roster::{self, Hope, Standing};
use crate::route::session_table::Sid;

/// Descriptors that cross beside the data, which names them by their place here.
#[derive(Debug, Default)]
pub struct Descriptors(Vec<Option<OwnedFd>>);

/// A place among [`Descriptors`].
pub type Place = u32;

impl Descriptors {
    /// Those that the former process has left, in order.
    #[must_use]
    pub fn new(all: Vec<OwnedFd>) -> Self {
        Self(all.into_iter().map(Some).collect())
    }

    /// Keeps one, and names its place.
    pub fn add(&mut self, descriptor: OwnedFd) -> Place {
        self.0.push(Some(descriptor));
        Place::try_from(self.0.len() - 1).unwrap_or(Place::MAX)
    }

    /// The one at this place; `None`: there is none, or it has been taken.
    pub fn take(&mut self, place: Place) -> Option<OwnedFd> {
        self.0.get_mut(usize::try_from(place).ok()?)?.take()
    }

    /// All that are left.
    pub fn iter(&self) -> impl Iterator<Item = &OwnedFd> {
        self.0.iter().flatten()
    }
}

/// What the shards shared.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Common {
    roster: Vec<roster::Frozen>,
    sessions: Vec<(Bytes, WorkerId)>,
    /// By name.
    counters: Vec<(String, u64)>,
    /// By [`Way::name`].
    #[serde(default)]
    latencies: Vec<(String, Recorded)>,
    /// For how long their common clock has run.
    age: Duration,
}

impl Common {
    /// Freezes what these shards have shared; they must have come to rest.
    #[must_use]
    pub fn freeze(shared: &Shared, now: Instant) -> Self {
        let mut sessions = Vec::with_capacity(shared.sessions.len());
        shared.sessions.each(|sid, worker| {
            if shared.roster.standing(worker) != Standing::Gone {
                sessions.push((Bytes::copy_from_slice(sid), worker));
            }
        });
        let totals = metrics::totals(&shared.counters);
        let latencies = Way::ALL
            .iter()
            .map(|way| (way.name().to_owned(), metrics::latencies(&shared.counters, *way)));
        Self {
            roster: shared.roster.freeze(),
            sessions,
            counters: totals.map(|(counter, total)| (counter.name().to_owned(), total)).collect(),
            latencies: latencies.collect(),
            age: now.saturating_duration_since(shared.epoch),
        }
    }

    /// When the common clock began.
    #[must_use]
    pub fn epoch(&self, now: Instant) -> Instant {
        now.checked_sub(self.age).unwrap_or(now)
    }

    /// Fills the state of a new set of shards. Gives hand-offs that may become sessions, for one of
    /// the shards to see to.
    #[must_use]
    pub fn thaw(self, shared: &Shared) -> Vec<Hope> {
        for (sid, worker) in self.sessions {
            if let Err(refused) = shared.sessions.insert(&sid, worker) {
                tracing::debug!(%worker, %refused, "session not kept");
            }
        }
        for (name, total) in self.counters {
            // One that this version no longer has is nobody's.
            let counter = Counter::ALL.iter().find(|counter| counter.name() == name);
            if let (Some(counter), Some(counters)) = (counter, shared.counters.first()) {
                counters.add(*counter, total);
            }
        }
        for (name, recorded) in self.latencies {
            let way = Way::ALL.iter().find(|way| way.name() == name);
            if let (Some(way), Some(counters)) = (way, shared.counters.first()) {
                counters.latency(*way).add(&recorded);
            }
        }
        shared.roster.thaw(&self.roster)
    }
}

/// Everything the shards had in hand.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Frozen {
    clients: Vec<Client>,
    channels: Vec<Channel>,
    lanes: Vec<Lane>,
    owners: Vec<(Uid, WorkerId)>,
    /// Sent to a worker that was cut off; by index into `clients`.
    in_doubt: Vec<(WorkerId, usize)>,
}

/// One client's connection.
#[derive(Debug, Serialize, Deserialize)]
struct Client {
    socket: Place,
    stage: Stage,
    /// For how long it has been in the router's hands.
    #[serde(default)]
    held: Duration,
    #[serde(default)]
    choice: Choice,
    listener: ListenerId,
    kind: Kind,
    sid: Option<Bytes>,
    counted: Option<WorkerId>,
    waited: bool,
    /// What is left of its patience for a worker.
    give_up: Option<Duration>,
    /// What is left of its time for a request line.
    head: Duration,
    tries: u32,
    refused_by: Vec<WorkerId>,
    unwanted: bool,
    idle: bool,
    grant: Option<Bytes>,
    peer: Option<SocketAddr>,
    address: Option<u64>,
    carried: Option<Bytes>,
    carried_as: i64,
}

/// The step that a client's connection takes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Stage {
    /// The header of the PROXY protocol.
    Proxy,
    /// The request line.
    Head,
    /// The choice of a worker.
    Route,
    /// None: a worker's channel or its end decides.
    Held,
    /// The client's end.
    Lingering,
}

/// One worker's channel.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Channel {
    pub(super) worker: WorkerId,
    pub(super) serialization: Serialization,
    pub(super) whole_headers: bool,
    /// What has arrived of an unfinished frame.
    pub(super) partial: Bytes,
    pub(super) adapters: Vec<(Uid, String)>,
    pub(super) servers: Vec<Server>,
    pub(super) closed: Vec<(u32, Option<ListenerId>)>,
    pub(super) asked: Vec<QueryServer>,
    pub(super) told: super::channel::Told,
    /// What waits to be written, from `offset` bytes into the first.
    pub(super) queue: Vec<Bytes>,
    pub(super) offset: usize,
    pub(super) next_sequence: i64,
    pub(super) next_key: u32,
    pub(super) next_carried: i64,
    pub(super) socket: Place,
    /// By index into the clients, as are the next two.
    pub(super) handoffs: HandOffs<usize>,
    pub(super) waiting: Vec<usize>,
    pub(super) arrived: Vec<usize>,
}

/// A server inside a worker: as [`super::channel::Server`].
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Server {
    pub(super) key: String,
    pub(super) number: u32,
    pub(super) listener: Option<ListenerId>,
    pub(super) listening: bool,
    pub(super) index: i64,
    pub(super) address_type: AddressType,
    pub(super) address: Option<String>,
    pub(super) ports: [i64; 2],
}

/// A worker's lane.
#[derive(Debug, Serialize, Deserialize)]
struct Lane {
    worker: WorkerId,
    ours: Place,
    theirs: Place,
}

/// Freezes shards that have come to rest.
#[must_use]
pub fn freeze(mut shards: Vec<Resting>, descriptors: &mut Descriptors, now: Instant) -> Frozen {
    rest::settle(&mut shards, now);
    let mut frozen = Frozen::default();
    if let Some(shard) = shards.first() {
        frozen.owners = shard.shard.owners.iter().collect();
    }
    for shard in shards {
        frozen.add(shard, descriptors, now);
    }
    frozen
}

impl Frozen {
    fn add(&mut self, resting: Resting, descriptors: &mut Descriptors, now: Instant) {
        let Resting { mut shard, clients, mut channels, lanes } = resting;
        let deadlines = shard.head_deadlines();
        let mut index_of: HashMap<ConnectionId, usize> = HashMap::new();
        for (id, socket) in clients {
            let Some(connection) = shard.connections.get_mut(id) else { continue };
            let connection = std::mem::replace(connection, Connection::free());
            let deadline = deadlines.get(&id).copied();
            let left = deadline.unwrap_or(now + shard.shared.settings.head_timeout);
            if let Some(client) = Client::of(connection, left, now) {
                index_of.insert(id, self.clients.len());
                self.clients.push(Client { socket: descriptors.add(socket), ..client });
            }
        }
        let indices = |ids: &mut dyn Iterator<Item = ConnectionId>| -> Vec<usize> {
            ids.filter_map(|id| index_of.get(&id).copied()).collect()
        };
        for (id, channel) in std::mem::take(&mut shard.channels).into_iter().enumerate() {
            let (Some(channel), Some(socket)) = (channel, channels.remove(&id)) else { continue };
            let waiting = indices(&mut channel.waiting.iter().copied());
            let arrived = indices(&mut channel.arrived.iter().copied());
            let (frozen, handoffs) = channel.freeze();
            self.channels.push(Channel {
                socket: descriptors.add(socket),
                handoffs: handoffs.renamed(|id| index_of.get(&id).copied()),
                waiting,
                arrived,
                ..frozen
            });
        }
        for (id, lane) in lanes {
            let Some(state) = shard.lanes.get(id).and_then(Option::as_ref) else { continue };
            // Every shard has a share of the same two.
            if self.lanes.iter().all(|other| other.worker != state.worker) {
                self.lanes.push(Lane {
                    worker: state.worker,
                    ours: descriptors.add(lane.ours),
                    theirs: descriptors.add(lane.theirs),
                });
            }
        }
        let in_doubt = shard.in_doubt.iter();
        let in_doubt = in_doubt.filter_map(|(worker, id)| Some((*worker, *index_of.get(id)?)));
        self.in_doubt.extend(in_doubt);
    }

    /// Divides it among the shards of `shared`; each thaws its own portion.
    #[must_use]
    pub fn divide(
        self,
        mut descriptors: impl FnMut(Place) -> Option<OwnedFd>,
        listeners: &HashMap<ListenerId, Arc<Listener>>,
        hopes: Vec<Hope>,
        shared: &Shared,
    ) -> Vec<Portion> {
        let count = shared.mailboxes.len().max(1);
        let mut portions: Vec<Portion> = (0..count)
            .map(|_| Portion {
                owners: self.owners.clone(),
                listeners: listeners.clone(),
                ..Portion::default()
            })
            .collect();
        portions[0].hopes = hopes;
        for lane in self.lanes {
            let (Some(ours), Some(theirs)) = (descriptors(lane.ours), descriptors(lane.theirs))
            else {
                continue;
            };
            for portion in &mut portions {
                // A shard without one sends sockets by way of the shard that has the channel.
                if let (Ok(ours), Ok(theirs)) = (ours.try_clone(), theirs.try_clone()) {
                    portion.lanes.push((lane.worker, ours, theirs));
                }
            }
        }
        // Who belongs to a channel goes where that goes; the others are spread.
        let mut home: Vec<usize> = (0..self.clients.len()).map(|index| index % count).collect();
        for channel in &self.channels {
            let owner = shared.owner(channel.worker.slot);
            let listed = channel.waiting.iter().chain(&channel.arrived).copied();
            for index in listed.chain(channel.handoffs.names()) {
                if let Some(home) = home.get_mut(index) {
                    *home = owner;
                }
            }
        }
        for (worker, index) in self.in_doubt {
            let owner = shared.owner(worker.slot);
            if let Some(home) = home.get_mut(index) {
                *home = owner;
                portions[owner].in_doubt.push((worker, index));
            }
        }
        for channel in self.channels {
            if let Some(socket) = descriptors(channel.socket) {
                portions[shared.owner(channel.worker.slot)].channels.push((channel, socket));
            }
        }
        for (index, client) in self.clients.into_iter().enumerate() {
            if let Some(socket) = descriptors(client.socket) {
                portions[home[index]].clients.push((index, client, socket));
            }
        }
        portions
    }
}

impl Client {
    /// `None`: there is nobody at this place of the table. The socket is filled in later.
    fn of(connection: Connection, head_deadline: Instant, now: Instant) -> Option<Self> {
        let stage = match connection.state {
            State::Free => return None,
            State::ExpectHead { .. } | State::ExpectAddress { proxy: false } => Stage::Head,
            State::ExpectAddress { proxy: true } | State::ExpectProxy { .. } => Stage::Proxy,
            State::AwaitSession | State::AwaitWorker | State::OnLane(_) => Stage::Route,
            State::HandingOff(_) | State::Arrived => Stage::Held,
            State::Lingering => Stage::Lingering,
        };
        let left = |at: Instant| at.saturating_duration_since(now);
        Some(Self {
            socket: Place::MAX,
            stage,
            held: connection.since.map_or(Duration::ZERO, |at| now.saturating_duration_since(at)),
            choice: connection.choice,
            listener: connection.listener,
            kind: connection.kind,
            sid: connection.sid.map(|sid| Bytes::copy_from_slice(sid.as_bytes())),
            counted: connection.counted,
            // Who was waiting for an announcement waits on: it may lie unread in a channel.
            waited: connection.waited && connection.state != State::AwaitSession,
            give_up: connection.give_up.map(left),
            head: left(head_deadline),
            tries: connection.tries,
            refused_by: connection.refused_by,
            unwanted: connection.unwanted,
            idle: connection.idle,
            grant: connection.grant,
            peer: connection.peer,
            address: connection.address,
            carried: connection.carried,
            carried_as: connection.carried_as,
        })
    }

    fn thaw(self, into: &mut Connection, now: Instant) {
        into.since = Some(now.checked_sub(self.held).unwrap_or(now));
        into.choice = self.choice;
        into.kind = self.kind;
        into.sid = self.sid.map(|sid| Sid::new(&sid));
        into.counted = self.counted;
        into.waited = self.waited;
        into.give_up = self.give_up.map(|left| now + left);
        into.tries = self.tries;
        into.refused_by = self.refused_by;
        into.unwanted = self.unwanted;
        into.idle = self.idle;
        into.grant = self.grant;
        into.peer = self.peer;
        into.address = self.address;
        into.carried = self.carried;
        into.carried_as = self.carried_as;
    }
}

/// What one shard thaws; nothing, for one that starts afresh.
#[derive(Debug, Default)]
pub struct Portion {
    listeners: HashMap<ListenerId, Arc<Listener>>,
    owners: Vec<(Uid, WorkerId)>,
    clients: Vec<(usize, Client, OwnedFd)>,
    channels: Vec<(Channel, OwnedFd)>,
    lanes: Vec<(WorkerId, OwnedFd, OwnedFd)>,
    in_doubt: Vec<(WorkerId, usize)>,
    hopes: Vec<Hope>,
}

/// Gives a new shard what an earlier one had in hand.
pub(super) fn thaw(keeper: &mut impl Keeper, portion: Portion, now: Instant) {
    let Portion { listeners, owners, clients, channels, lanes, in_doubt, hopes } = portion;
    let shard = keeper.shard();
    shard.listeners.extend(listeners.iter().map(|(id, listener)| (*id, Arc::clone(listener))));
    for (uid, worker) in owners {
        shard.owners.learn(uid, Party::Worker(worker));
    }
    for hope in hopes {
        if shard.hopes.begin(hope, now) {
            shard.set_hope_timer();
        }
    }
    for (worker, ours, theirs) in lanes {
        match keeper.keep_lane(ours, theirs) {
            Ok(id) => keeper.shard().lane_opened(id, worker),
            Err(error) => tracing::error!(%worker, %error, "lane not taken"),
        }
    }
    let mut id_of: HashMap<usize, ConnectionId> = HashMap::new();
    let mut next = Vec::new();
    for (index, client, socket) in clients {
        let id = keeper.keep_client(socket);
        id_of.insert(index, id);
        let (stage, head) = (client.stage, now + client.head);
        let shard = keeper.shard();
        shard.admit(id, client.listener);
        client.thaw(&mut shard.connections[id], now);
        if stage == Stage::Held {
            shard.connections[id].state = State::Arrived;
        }
        next.push((id, stage, head));
    }
    let name = |index: usize| id_of.get(&index).copied();
    for (mut channel, socket) in channels {
        let worker = channel.worker;
        let handoffs = std::mem::replace(&mut channel.handoffs, HandOffs::new()).renamed(name);
        let waiting = channel.waiting.iter().filter_map(|index| name(*index)).collect();
        let arrived = channel.arrived.iter().filter_map(|index| name(*index)).collect();
        match keeper.keep_channel(socket) {
            Ok(id) => {
                let shard = keeper.shard();
                let find = |id| listeners.get(&id).map(Arc::clone);
                let bound = shard.shared.settings.out_queue;
                let mut thawed = super::channel::Channel::thaw(channel, find, bound, now);
                (thawed.handoffs, thawed.waiting, thawed.arrived) = (handoffs, waiting, arrived);
                shard.channel_thawed(id, thawed);
            }
            Err(error) => tracing::error!(%worker, %error, "channel not taken"),
        }
    }
    let shard = keeper.shard();
    let in_doubt = in_doubt.into_iter().filter_map(|(worker, index)| Some((worker, name(index)?)));
    shard.in_doubt.extend(in_doubt);
    for (id, stage, head) in next {
        match stage {
            Stage::Proxy => shard.expect_proxy_until(id, head),
            Stage::Head => shard.expect_head_until(id, head, now),
            Stage::Route => shard.route(id, now),
            Stage::Lingering => shard.linger_on(id, now),
            Stage::Held => {}
        }
    }
}
