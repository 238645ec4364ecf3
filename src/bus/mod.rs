//! The road to other hosts: packets of the workers here to a Redis, and those of other hosts to them.
//!
//! ```text
//!   worker ─► shard ═ring═► bus ─► Redis: stream, channels ─► other routers, and hosts that run the
//!   worker ◄─ shard ◄═ring═ bus ◄─                            official adapter or an emitter
//! ```
//!
//! The wire format is that of `@socket.io/redis-streams-adapter` 0.3. One thread of its own, so that
//! neither a slow Redis nor the translation of a large packet delays a shard or the supervisor. All
//! between is bounded, and what happens at each bound is counted:
//!
//! | bound | at it |
//! |---|---|
//! | the ring from the shards | the packet stays on this host (`busy`) |
//! | [`backlog::MAX_PACKETS`], [`backlog::MAX_BYTES`] | the same (`backlog`) |
//! | a shard's ring, a worker's queue | nothing more is read from the stream, which keeps it |
//! | what waits of published messages | further ones are dropped (`skipped`) |
//! | the length of the stream | entries are trimmed unread (`missed`) |
//! | depth and number of the values in a packet | it stays on this host (`untranslatable`), or is skipped |
//!
//! | file | what it is |
//! |---|---|
//! | [`value`], [`v8`], [`json`], [`msgpack`], [`base64`] | pure: what packets carry, in four languages |
//! | [`packet`], [`names`] | pure: entries and payloads, what stream and channels are called |
//! | [`nodes`], [`backlog`], [`position`] | pure: who is there, what is to be said, how far was read |
//! | [`repeats`] | pure: what a former Redis had told already |
//! | `sentinel` | where sentinels find Redis |
//! | [`slots`], `cluster` | Redis Cluster: whose the stream is, and who is subscribed elsewhere |
//! | `core` | their owner: from the ring, to the shards |
//! | `connect`, `link`, `session` | how a connection is made, what it is asked, and its life |
//! | [`journal`] | how far the stream was read, for the next router |
#![deny(clippy::indexing_slicing, clippy::expect_used, clippy::unwrap_used, clippy::panic)]

pub mod backlog;
pub mod base64;
mod cluster;
mod connect;
mod core;
pub mod journal;
pub mod json;
mod link;
pub mod msgpack;
pub mod names;
pub mod nodes;
pub mod packet;
pub mod position;
pub mod repeats;
mod sentinel;
mod session;
pub mod slots;
pub mod v8;
pub mod value;

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, mpsc};

use self::backlog::{Backlog, Held};
use self::cluster::Known;
use self::connect::Fault;
use self::core::{Core, State, clock};
use self::link::{Identity, Link, Pushed};
use self::nodes::Nodes;
use self::position::Position;
use self::repeats::Repeats;
use crate::config;
use crate::ipc::Serialization;
use crate::ipc::message::Uid;
use crate::metrics::snapshot;
use crate::route::WorkerId;
use crate::shard::Shared;
use crate::sys::wake::Waiter;

/// How long what there is to say may take to be written when the router ends or is replaced.
const FLUSH: Duration = Duration::from_secs(1);
/// How often it is looked whether it has been.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// What a bus needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What the operator asked for.
    pub bus: config::Bus,
    /// How frames for workers are written.
    pub serialization: Serialization,
    /// What the connection is called in Redis' list of clients.
    pub client: String,
    /// Where it is kept how far the stream was read; `None`: nobody comes after.
    pub journal: Option<PathBuf>,
}

/// What a bus begins with.
#[derive(Debug)]
pub enum Start {
    /// Nothing: no client here can have missed anything.
    Fresh,
    /// Where a router that died had got to.
    After(journal::Mark),
    /// What another program had in hand.
    Thawed(Box<Frozen>),
}

/// What of a bus crosses an upgrade.
#[derive(Debug, Serialize, Deserialize)]
pub struct Frozen {
    host: String,
    stream: String,
    backlog: Backlog,
    position: Option<Position>,
    number: u64,
    echoed: u64,
    earlier: Option<Identity>,
    nodes: Vec<(Uid, String, WorkerId)>,
    #[serde(default)]
    repeats: Repeats,
}

impl Frozen {
    /// Takes what the shards have posted since the thread came to rest.
    pub fn collect(&mut self, shared: &Shared) {
        let Some(ring) = &shared.bus else { return };
        while let Some(outgoing) = ring.take() {
            // At the bound it stays on this host, as ever; the counters have crossed already.
            if !self.backlog.push(Held::from(outgoing)) {
                return tracing::warn!("the backlog is full: packets stay on this host");
            }
        }
    }
}

/// Redis is there and will not have this router.
#[derive(Debug, thiserror::Error)]
#[error("--bus: {redis} refuses: {why}")]
pub struct Refused {
    redis: String,
    why: String,
}

/// Asks Redis whether it would have this router. That it is not there is no error.
///
/// # Errors
/// It is there, and refuses: a wrong password, or a key in the stream's place that is none.
pub fn probe(bus: &config::Bus) -> Result<(), Refused> {
    prepare_tls();
    let redis = bus.redis.to_string();
    let tokio = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(tokio) => tokio,
        Err(error) => return Err(Refused { redis, why: error.to_string() }),
    };
    let answer = tokio.block_on(async {
        let (pushed, mut known) = (Arc::new(Pushed::default()), Known::default());
        let mut link = Link::open(&bus.redis, &bus.stream, "router", &pushed, &mut known).await?;
        link.stream(&bus.stream).await
    });
    match answer {
        Ok(_) => Ok(()),
        Err(Fault::Refused(why)) => Err(Refused { redis, why }),
        Err(Fault::Away(why)) => {
            tracing::warn!(redis, why, "Redis is away: this host is alone until it is back");
            Ok(())
        }
    }
}

/// TLS needs somebody who computes; who was first is as good.
fn prepare_tls() {
    let _first = rustls::crypto::ring::default_provider().install_default();
}

/// The thread.
#[derive(Debug)]
pub struct Bus {
    thread: JoinHandle<Frozen>,
    begun: Arc<Notify>,
    orders: mpsc::UnboundedSender<Order>,
    status: Arc<Mutex<snapshot::Bus>>,
}

/// How the thread shall end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// When all that there is to say has been said.
    End,
    /// When what is on its way has landed.
    Rest,
}

/// Shows how a bus stands, from any thread.
#[derive(Clone, Debug)]
pub struct Status(Arc<Mutex<snapshot::Bus>>);

impl Status {
    /// How it stands.
    #[must_use]
    pub fn read(&self) -> snapshot::Bus {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Bus {
    /// Starts the thread, which waits for [`Self::begin`].
    ///
    /// # Errors
    /// The system has none left, or no descriptor.
    pub fn start(settings: Settings, shared: Arc<Shared>, start: Start) -> io::Result<Self> {
        prepare_tls();
        let state = state(start, &settings.bus.stream);
        let status = Arc::new(Mutex::new(snapshot::Bus::default()));
        let (orders, ordered) = mpsc::unbounded_channel();
        let begun = Arc::new(Notify::new());
        let told = Arc::clone(&begun);
        let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let core = {
            let status = Arc::clone(&status);
            move || Core::new(settings, shared, state, status)
        };
        let run = move || {
            let core = core();
            core.show(None);
            tokio.block_on(run(&core, &told, ordered));
            let stream = core.names.stream.clone();
            freeze(core.into_state(), stream)
        };
        let thread = std::thread::Builder::new().name("bus".to_owned()).spawn(run)?;
        Ok(Self { thread, begun, orders, status })
    }

    /// How it stands.
    #[must_use]
    pub fn status(&self) -> Status {
        Status(Arc::clone(&self.status))
    }

    /// Has it read and write. The shards must know by then of each worker that packets are for: what is
    /// for others is for nobody.
    pub fn begin(&self) {
        self.begun.notify_one();
    }

    /// Ends it, once all has been said that the workers had to say.
    pub fn end(self) {
        let _ended = self.join(Order::End);
    }

    /// Brings it to rest: what it had in hand.
    #[must_use]
    pub fn rest(self) -> Option<Frozen> {
        self.join(Order::Rest)
    }

    fn join(self, order: Order) -> Option<Frozen> {
        // One that has ended by itself has panicked, which the join says.
        let _heard = self.orders.send(order);
        self.thread.join().inspect_err(|_| tracing::error!("the bus ended by a panic")).ok()
    }
}

fn state(start: Start, stream: &str) -> State {
    let mut state = State {
        host: String::new(),
        nodes: Nodes::default(),
        backlog: Backlog::default(),
        position: None,
        number: first_number(),
        echoed: 0,
        gap: false,
        repeats: Repeats::default(),
        earlier: None,
        connected: false,
        resting: false,
    };
    match start {
        Start::Fresh => state.host = host(),
        Start::After(mark) => {
            state.host = mark.host;
            state.position = Some(mark.position).filter(|_| mark.stream == stream);
        }
        Start::Thawed(frozen) => {
            let Frozen { host, backlog, position, number, echoed, earlier, nodes, .. } = *frozen;
            state.repeats = frozen.repeats;
            // Another stream is read from its end.
            let position = position.filter(|_| frozen.stream == stream);
            let now = clock();
            for (uid, nsp, worker) in nodes {
                state.nodes.hear(uid, &nsp, worker, now);
            }
            (state.host, state.backlog, state.position) = (host, backlog, position);
            (state.number, state.echoed, state.earlier) = (number, echoed, earlier);
        }
    }
    state
}

fn freeze(state: State, stream: String) -> Frozen {
    Frozen {
        stream,
        nodes: state.nodes.freeze(),
        host: state.host,
        backlog: state.backlog,
        position: state.position,
        number: state.number,
        echoed: state.echoed,
        repeats: state.repeats,
        earlier: state.earlier,
    }
}

/// What this host is called on the bus: its name, and what tells its routers apart.
fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let name: String = name.chars().filter(plain).take(64).collect();
    let chance = ahash::RandomState::new().hash_one(std::process::id());
    format!("{name}~{chance:016x}")
}

/// Numbers grow from one router to the next of the same host.
fn first_number() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(1, |since| u64::try_from(since.as_micros()).unwrap_or(1))
}

async fn run(core: &Core, begun: &Notify, mut ordered: mpsc::UnboundedReceiver<Order>) {
    tokio::select! {
        () = begun.notified() => {}
        // There is nothing to finish.
        _order = ordered.recv() => return,
    }
    let work = async {
        tokio::select! {
            never = collect(core) => never,
            never = session::sessions(core) => never,
        }
    };
    tokio::pin!(work);
    let order = tokio::select! {
        never = &mut work => match never {},
        order = ordered.recv() => order.unwrap_or(Order::End),
    };
    let ring = || core.shared.bus.as_ref().map_or(0, |ring| ring.depth().0);
    let over = async {
        match order {
            Order::End => {
                while !core.state.borrow().is_silent() || ring() > 0 {
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
            }
            Order::Rest => {
                core.state.borrow_mut().resting = true;
                let flies = || core.state.borrow().connected && core.state.borrow().backlog.flies();
                while flies() || !core.has_posted_all() {
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
            }
        }
    };
    tokio::select! {
        never = &mut work => match never {},
        // What is left at an end is lost with the router; at a rest the next one sees to it.
        _ended = tokio::time::timeout(FLUSH, over) => {}
    }
}

/// Takes what the shards post, as they post it.
async fn collect(core: &Core) -> std::convert::Infallible {
    let Some(ring) = &core.shared.bus else { return std::future::pending().await };
    let waiter = match Waiter::new(ring.wake()) {
        Ok(waiter) => waiter,
        Err(error) => {
            tracing::error!(%error, "the bus cannot be told of packets: this host is alone");
            return std::future::pending().await;
        }
    };
    loop {
        for (_, nsp, worker) in core.collect(ring) {
            core.greet(&nsp, worker).await;
        }
        if let Err(error) = waiter.woken().await {
            tracing::error!(%error, "the bus cannot be told of packets: this host is alone");
            return std::future::pending().await;
        }
    }
}
