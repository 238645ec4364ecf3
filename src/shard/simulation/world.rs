//! What is around the shards, played: clients, mail, and the control thread that starts workers.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use super::Chance;
use super::engine::{Engine, Lane, Line, hold};
use super::worker::{Kind as Role, Worker};
use crate::ipc::Serialization;
use crate::ipc::message::{AddressType, QueryServer};
use crate::ipc::reply::SockName;
use crate::metrics::latency::Way;
use crate::metrics::{self, Counter};
use crate::route::WorkerId;
use crate::route::balance::Balance;
use crate::route::roster::Standing;
use crate::shard::connection::State;
use crate::shard::core::{Shard, Timer};
use crate::shard::listener::{Kind, Listener};
use crate::shard::ring::{Answer, Mail, Mailbox};
use crate::shard::{Report, Settings, Shared, WORKER_WAIT};
use crate::sys::wake::Wake;

const STEPS: usize = 250;
const SLOTS: u16 = 4;

pub(super) struct Client {
    pub(super) on_app: bool,
    pub(super) sid: Option<String>,
    pub(super) grant: bool,
    pub(super) refusals: Vec<WorkerId>,
    pub(super) script: Vec<u8>,
    /// Whether the script is a whole request line.
    pub(super) whole: bool,
    pub(super) arrived: usize,
    pub(super) next_at: Instant,
    /// It will say no more: half-closed, or gone.
    pub(super) finished: bool,
    pub(super) accepted_at: Option<Instant>,
    /// Who had to get it when its request line was read.
    pub(super) owner: Option<WorkerId>,
    pub(super) takers: Vec<usize>,
    pub(super) refused: bool,
    /// Descriptors of it that the router has open.
    pub(super) open: usize,
    /// It lies in a worker's lane, or is on its way back from the worker.
    pub(super) on_lane: bool,
    /// A worker has had it before, or its lane.
    pub(super) came_back: bool,
    /// The worker that gave it back last: what that had said of it may be cut off with it.
    pub(super) back_from: Option<usize>,
    /// What a worker has read of it and given back with it.
    pub(super) carried: Option<String>,
}

pub(super) struct World {
    pub(super) seed: u64,
    pub(super) step: usize,
    pub(super) chance: Chance,
    pub(super) now: Instant,
    pub(super) shared: Arc<Shared>,
    pub(super) shards: Vec<Shard>,
    pub(super) engines: Vec<Engine>,
    pub(super) reports: Receiver<Report>,
    pub(super) reporter: Sender<Report>,
    pub(super) clients: Vec<Client>,
    pub(super) workers: Vec<Worker>,
    pub(super) sids: usize,
    pub(super) padding: usize,
    pub(super) draining: bool,
    /// Descriptors on their way through mailboxes, and what they stand for.
    pub(super) posted: HashMap<RawFd, usize>,
    pub(super) app: Option<Arc<Listener>>,
    pub(super) pool: Arc<Listener>,
    pub(super) next_listener: u32,
    pub(super) users: HashSet<WorkerId>,
    /// Connections that came to the router again: read back, or given back.
    pub(super) again: u64,
    pub(super) restarts: Vec<(Instant, WorkerId)>,
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let (seed, step) = (self.seed, self.step);
            println!(
                "seed {seed}, step {step}: SIM_SEED={seed} cargo test --lib shard::simulation"
            );
        }
    }
}

pub(super) fn descriptor() -> OwnedFd {
    std::fs::File::open("/dev/null").expect("a descriptor").into()
}

pub(super) fn shard(
    index: usize,
    shared: &Arc<Shared>,
    reporter: &Sender<Report>,
    seed: u64,
) -> Shard {
    let reporter = reporter.clone();
    Shard::new(index, Arc::clone(shared), Box::new(move |report| _ = reporter.send(report)), seed)
}

impl World {
    #[expect(clippy::disallowed_methods, reason = "where the simulated clock starts")]
    pub(super) fn new(seed: u64) -> Self {
        let mut chance = Chance::new(seed + 1);
        let count = 1 + chance.below(3);
        let mailbox = || Mailbox::new(Arc::new(Wake::new().expect("an eventfd")));
        let out_queue = if chance.one_in(2) { 8 << 10 } else { 1 << 20 };
        let padding = if out_queue < 1 << 20 { 2000 } else { 200 };
        let settings = Settings {
            balance: [
                Balance::LeastConnection,
                Balance::RoundRobin,
                Balance::Random,
                Balance::LeastLag,
            ][chance.below(4)],
            head_timeout: Duration::from_millis(400),
            out_queue,
            lanes: !chance.one_in(4),
            self_routing: true,
            by_address: chance.one_in(3),
        };
        let mailboxes = (0..count).map(|_| mailbox()).collect();
        let shared = Shared::new(mailboxes, None, settings, None, Instant::now());
        let (sender, reports) = channel();
        let shards = (0..count).map(|index| shard(index, &shared, &sender, seed)).collect();
        Self {
            seed,
            step: 0,
            now: Instant::now(),
            shards,
            engines: (0..count).map(|_| Engine::default()).collect(),
            chance,
            shared,
            reports,
            reporter: sender,
            clients: Vec::new(),
            workers: Vec::new(),
            sids: 0,
            padding,
            draining: false,
            posted: HashMap::new(),
            app: None,
            pool: Arc::new(Listener::new(1, Kind::Pool)),
            next_listener: 2,
            users: HashSet::new(),
            again: 0,
            restarts: Vec::new(),
        }
    }

    pub(super) fn run(mut self) {
        self.listen(&Arc::clone(&self.pool));
        for slot in 0..u16::try_from(1 + self.chance.below(SLOTS.into())).expect("small") {
            self.restarts.push((self.now, WorkerId { slot, generation: 1 }));
        }
        while self.step < STEPS {
            self.step += 1;
            if self.chance.one_in(3) {
                let (on_app, at) = (self.chance.one_in(3), self.later(20));
                let sid = (self.chance.one_in(5)).then(|| format!("lost{}", self.chance.below(5)));
                self.add_client(sid, on_app, at);
            }
            self.turn();
            if self.chance.one_in(100) {
                self.upgrade();
            }
            let most = if self.chance.one_in(40) { 500 } else { 6 };
            self.now = self.later(most);
        }
        self.draining = true;
        for worker in &mut self.workers {
            worker.paused_until = self.now;
        }
        let end = self.now + Duration::from_secs(14);
        while self.now < end {
            self.step += 1;
            self.turn();
            let fast = self.now + Duration::from_secs(13) > end;
            self.now += Duration::from_millis(if fast { 50 } else { 5 });
        }
        self.nothing_is_left();
    }

    pub(super) fn later(&mut self, millis: usize) -> Instant {
        self.now + Duration::from_micros(self.chance.below(millis * 1000) as u64)
    }

    pub(super) fn add_client(&mut self, sid: Option<String>, on_app: bool, at: Instant) {
        let query = sid.as_ref().map_or(String::new(), |sid| format!("&sid={sid}"));
        let script = match self.chance.below(24) {
            0 => b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03".to_vec(),
            1 => b"\0\x01garbage\r\n".to_vec(),
            2 => vec![b'a'; 9000].iter().fold(b"GET /".to_vec(), |mut line, byte| {
                line.push(*byte);
                line
            }),
            3 => b"GET /socket".to_vec(),
            _ => format!("GET /socket.io/?EIO=4{query} HTTP/1.1\r\n\r\n").into_bytes(),
        };
        let whole = script.ends_with(b"\r\n\r\n");
        let sid = sid.filter(|_| whole);
        self.clients.push(Client {
            on_app,
            sid,
            grant: false,
            refusals: Vec::new(),
            script,
            whole,
            arrived: 0,
            next_at: at,
            finished: false,
            accepted_at: None,
            owner: None,
            takers: Vec::new(),
            refused: false,
            open: 0,
            on_lane: false,
            came_back: false,
            back_from: None,
            carried: None,
        });
    }

    pub(super) fn taken(&mut self, client: usize, worker: usize) {
        let client_state = &self.clients[client];
        assert!(!client_state.refused, "client {client} was refused and handed off");
        let twice = client_state.takers.iter().find(|taker| {
            let taker = &self.workers[**taker];
            taker.alive && !taker.cut
        });
        assert!(twice.is_none(), "client {client} was handed to two living workers");
        let id = self.workers[worker].id;
        if let Some(owner) = client_state.owner.filter(|owner| *owner != id) {
            let refusals = client_state.refusals.iter().filter(|by| **by == owner).count();
            let lives = self.shared.roster.standing(owner) != Standing::Gone;
            let serves = !client_state.on_app
                || self.app.as_ref().is_some_and(|app| app.is_served_by(owner));
            let full = self.workers.iter().any(|worker| worker.id == owner && worker.was_full);
            assert!(
                !lives || !serves || refusals > 0 || full,
                "client {client} with a session of {owner} came to {id}"
            );
        }
        self.clients[client].takers.push(worker);
    }

    pub(super) fn kill(&mut self, index: usize) {
        let worker = &mut self.workers[index];
        worker.alive = false;
        let uncarried = worker.uncarried.drain().map(|(_, client)| client);
        for client in worker.given_back.drain(..).chain(uncarried) {
            // It was the worker's, and goes with it; or the router has not heard that it was.
            self.clients[client].on_lane = false;
            self.clients[client].finished = true;
        }
        worker.inbound.clear();
        worker.queued = 0;
    }

    fn turn(&mut self) {
        self.control();
        for index in 0..self.clients.len() {
            self.client_acts(index);
        }
        for index in 0..self.workers.len() {
            if self.draining || self.chance.one_in(2) {
                self.worker_acts(index);
            }
        }
        for index in 0..self.shards.len() {
            if self.draining || !self.chance.one_in(4) {
                self.shard_turn(index);
            }
        }
    }

    fn post(&self, shard: usize, mail: Mail) {
        self.shared.mailboxes[shard].post(mail).expect("room");
    }

    fn tell_all(&self, mail: impl Fn() -> Mail) {
        (0..self.shared.mailboxes.len()).for_each(|shard| self.post(shard, mail()));
    }

    pub(super) fn listen(&self, listener: &Arc<Listener>) {
        self.tell_all(|| Mail::Listen { listener: Arc::clone(listener), socket: descriptor() });
    }

    /// The control thread: answers reports, reaps, restarts.
    fn control(&mut self) {
        let reports: Vec<Report> = self.reports.try_iter().collect();
        for report in reports {
            match report {
                Report::Heartbeat(id) if self.role(id) == Some(Role::Sticky) => self.ready(id),
                Report::Listening(id) => self.ready(id),
                Report::Listen(id, request) => {
                    let answer = self.answer(id, &request);
                    let mail = Mail::ListenReply { worker: id, ack: request.seq, answer };
                    self.post(self.shared.owner(id.slot), mail);
                }
                Report::ServerClosed(id, listener) => {
                    let mine = self.app.as_ref().is_some_and(|app| app.id() == listener);
                    if mine && self.users.remove(&id) && self.users.is_empty() {
                        let app = self.app.take().expect("just seen");
                        self.tell_all(|| Mail::Unlisten(Arc::clone(&app)));
                    }
                }
                Report::ChannelEnded(id, _) => {
                    self.users.remove(&id);
                    let index = self.workers.iter().position(|w| w.id == id).expect("known");
                    self.kill(index);
                }
                _ => {}
            }
        }
        for index in 0..self.workers.len() {
            let worker = &self.workers[index];
            if worker.alive || worker.reaped || !(self.draining || self.chance.one_in(4)) {
                continue;
            }
            let id = worker.id;
            self.workers[index].reaped = true;
            self.shared.roster.set_gone(id);
            self.post(self.shared.owner(id.slot), Mail::Detach(id));
            let next = WorkerId { slot: id.slot, generation: id.generation + 1 };
            let at = self.later(200);
            self.restarts.push((at, next));
        }
        let now = self.now;
        let (due, later) = self.restarts.drain(..).partition(|(at, _)| *at <= now);
        self.restarts = later;
        for (_, id) in due {
            let role = [Role::Sticky, Role::Sticky, Role::App, Role::Pooled][self.chance.below(4)];
            let room = [2000, 20_000, 200_000][self.chance.below(3)];
            let preload = self.chance.one_in(2);
            let mut worker = Worker::new(id, role, room, preload, now);
            worker.start();
            self.shared.roster.set(id, Standing::Starting);
            let channel = descriptor();
            self.posted.insert(channel.as_raw_fd(), self.workers.len());
            for shard in 0..self.shards.len() {
                let (ours, theirs) = (descriptor(), descriptor());
                self.posted.insert(ours.as_raw_fd(), self.workers.len());
                self.post(shard, Mail::Lane { worker: id, ours, theirs });
            }
            self.workers.push(worker);
            let mail = Mail::Attach {
                worker: id,
                channel,
                serialization: Serialization::Json,
                whole_headers: self.chance.one_in(3),
            };
            self.post(self.shared.owner(id.slot), mail);
        }
    }

    fn role(&self, id: WorkerId) -> Option<Role> {
        self.workers.iter().find(|worker| worker.id == id).map(|worker| worker.kind)
    }

    fn ready(&self, id: WorkerId) {
        if self.shared.roster.standing(id) != Standing::Gone {
            self.shared.roster.set(id, Standing::Ready);
        }
        self.tell_all(|| Mail::RosterChanged);
    }

    fn answer(&mut self, id: WorkerId, request: &QueryServer) -> Answer {
        if request.address_type == AddressType::Udp4 {
            let socket = descriptor();
            let (client, now) = (self.clients.len(), self.now);
            self.add_client(None, false, now);
            self.clients[client].grant = true;
            self.clients[client].open = 1;
            self.posted.insert(socket.as_raw_fd(), client);
            return Answer::Socket(socket);
        }
        if !self.draining && self.chance.one_in(6) {
            return Answer::Refused(-98);
        }
        let port = u16::try_from(request.port).expect("a port");
        let listener = if request.port == 8080 {
            Arc::clone(&self.pool)
        } else {
            self.users.insert(id);
            let open = self.app.take();
            let app = open.unwrap_or_else(|| {
                self.next_listener += 1;
                let app = Arc::new(Listener::new(self.next_listener, Kind::App));
                self.listen(&app);
                app
            });
            self.app = Some(Arc::clone(&app));
            app
        };
        let name = SockName { address: "::".into(), family: "IPv6", port };
        Answer::Listening { listener, name: Some(name), ticket_keys: None }
    }

    fn client_acts(&mut self, index: usize) {
        let client = &self.clients[index];
        if client.grant || client.finished || client.next_at > self.now {
            return;
        }
        if client.accepted_at.is_none() {
            let shard = self.chance.below(self.shards.len());
            let id = if client.on_app { self.app.as_ref().map(|a| a.id()) } else { Some(1) };
            let engine = &mut self.engines[shard];
            let Some(listener) = id.filter(|id| !engine.paused && engine.listening.contains(id))
            else {
                self.clients[index].next_at = self.later(100);
                return;
            };
            if !self.draining && self.chance.one_in(30) {
                self.shards[shard].accept_failed(self.now);
                self.clients[index].next_at = self.later(100);
                return;
            }
            self.clients[index].accepted_at = Some(self.now);
            self.clients[index].open = 1;
            let id = hold(&mut self.engines[shard], index);
            self.shards[shard].accepted(id, listener, self.now);
            return;
        }
        let left = client.script.len() - client.arrived;
        let more = if self.chance.one_in(2) { left } else { self.chance.below(left + 1) };
        let ends = !self.draining && self.chance.one_in(15);
        let ends = ends || client.refused;
        let at = self.later(300);
        let client = &mut self.clients[index];
        client.arrived += more;
        client.finished = ends;
        client.next_at = at;
    }

    fn shard_turn(&mut self, index: usize) {
        self.read_mail(index);
        self.complete(index);
        for turns in 0.. {
            self.shards[index].tick(self.now);
            self.act(index);
            let deadline = self.shards[index].next_deadline();
            if deadline.is_none_or(|at| at > self.now) {
                break;
            }
            assert!(turns < 8, "shard {index} spins");
        }
        self.sweep(index);
    }

    fn act(&mut self, index: usize) {
        for turns in 0.. {
            assert!(turns < 10_000, "shard {index} never ends its turn");
            self.shards[index].end_turn(self.now);
            let mut actions = Vec::new();
            self.shards[index].take_actions(&mut actions);
            if actions.is_empty() {
                return;
            }
            actions.into_iter().for_each(|action| self.carry_out(index, action));
        }
    }

    fn read_mail(&mut self, index: usize) {
        let most = if self.draining { usize::MAX } else { self.chance.below(12) };
        self.read_some_mail(index, most);
    }

    /// Gives how much there was.
    pub(super) fn read_some_mail(&mut self, index: usize, most: usize) -> usize {
        let shared = Arc::clone(&self.shared);
        let mut count = 0;
        let now = self.now;
        for mail in std::iter::from_fn(|| shared.mailboxes[index].take()).take(most) {
            count += 1;
            let (shard, engine) = (&mut self.shards[index], &mut self.engines[index]);
            match mail {
                Mail::Connection { socket, transit } => {
                    let client = self.posted.remove(&socket.as_raw_fd()).expect("posted");
                    let id = hold(engine, client);
                    shard.connection_arrived(id, *transit, now);
                }
                Mail::Attach { worker, channel, serialization, whole_headers } => {
                    let at = self.posted.remove(&channel.as_raw_fd()).expect("posted");
                    self.workers[at].attached = true;
                    let id = engine.lines.insert(Line {
                        worker: at,
                        read: false,
                        ops: 0,
                        room: false,
                        closing: false,
                    });
                    shard.attached(id, worker, serialization, whole_headers, now);
                }
                Mail::ListenReply { worker, ack, answer: Answer::Socket(socket) } => {
                    let client = self.posted.remove(&socket.as_raw_fd()).expect("posted");
                    let id = hold(engine, client);
                    shard.listen_answered(worker, ack, Answer::Granted, Some(id), now);
                }
                Mail::ListenReply { worker, ack, answer } => {
                    shard.listen_answered(worker, ack, answer, None, now);
                }
                Mail::Lane { worker, ours, .. } => {
                    let at = self.posted.remove(&ours.as_raw_fd()).expect("posted");
                    let lane = Lane { worker: at, ops: 0, room: false, closing: false };
                    shard.lane_opened(engine.lanes.insert(lane), worker);
                }
                mail => shard.mail(mail, now),
            }
        }
        count
    }

    pub(super) fn refused(&mut self, index: usize, response: &[u8]) {
        let client = &mut self.clients[index];
        let waited = self.now - client.accepted_at.expect("accepted");
        let status = std::str::from_utf8(&response[9..12]).expect("ASCII");
        let right = match status {
            // At once for what comes back and the application has closed its place meanwhile.
            "503" => waited >= WORKER_WAIT || client.came_back,
            "408" => waited >= Duration::from_millis(400) && !client.on_app,
            "400" | "414" => !client.whole && !client.on_app,
            _ => false,
        };
        assert!(right, "client {index} was refused with {status} after {waited:?}");
        assert!(!client.refused, "client {index} was refused twice");
        client.refused = true;
    }

    pub(super) fn closed(&mut self, index: usize) {
        let client = &mut self.clients[index];
        assert!(client.open > 0, "client {index} was closed twice");
        client.open -= 1;
        let done = !client.takers.is_empty() || client.refused || client.finished || client.grant;
        let done = done || client.on_lane || client.open > 0 || client.carried.is_some();
        let cut = client.back_from.is_some_and(|worker| !self.workers[worker].alive);
        let done = done || cut;
        assert!(done, "client {index} was closed and nobody has it");
    }

    /// What must hold after every turn.
    fn sweep(&self, index: usize) {
        let shard = &self.shards[index];
        let bound = self.shared.settings.out_queue + (64 << 10);
        for channel in shard.channels.iter().flatten() {
            assert!(channel.queued_bytes() <= bound, "the queue of {} grows", channel.worker);
        }
        if self.step.is_multiple_of(16) {
            let mut seen = HashSet::new();
            for timer in shard.timers.iter().map(|timer| timer.0.1) {
                let name = format!("{timer:?}");
                let single = matches!(
                    timer,
                    Timer::Hopes | Timer::Worker(..) | Timer::Look(..) | Timer::LaneRoom(..)
                );
                assert!(!single || seen.insert(name), "shard {index} has two of {timer:?}");
            }
        }
    }

    fn nothing_is_left(&self) {
        assert!(self.posted.is_empty(), "mail is left");
        assert_eq!(self.shared.congested.load(Ordering::SeqCst), 0, "congested");
        for (index, shard) in self.shards.iter().enumerate() {
            let used = shard.connections.iter().filter(|c| c.state != State::Free).count();
            assert_eq!((used, shard.open_connections), (0, 0), "connections in shard {index}");
            assert!(shard.awaiting_session.is_empty() && shard.awaiting_worker.is_empty());
            assert_eq!(self.shared.awaiting_sessions[index].load(Ordering::SeqCst), 0);
            assert!(self.engines[index].clients.is_empty(), "sockets in shard {index}");
            let waiting =
                shard.lanes.iter().flatten().map(|lane| lane.waiting.len()).sum::<usize>();
            assert_eq!(waiting, 0, "sockets wait for a lane in shard {index}");
        }
        let sum = |of: &[Counter]| -> u64 {
            let each = self.shared.counters.iter();
            each.map(|counters| of.iter().map(|c| counters.read(*c)).sum::<u64>()).sum()
        };
        use Counter::SocketsFromWorkers;
        use Counter::{Abandoned, Accepted, RefusedHttp2, RefusedNoWorker};
        use Counter::{HandedOffAddress, HandedOffAnnounced, HandedOffBalanced};
        use Counter::{HandedOffNamed, HandedOffUnknown};
        use Counter::{RefusedNotHttp, RefusedTimeout, RefusedTls, RefusedTooLong};
        let refused = [
            RefusedHttp2,
            RefusedNoWorker,
            RefusedNotHttp,
            RefusedTimeout,
            RefusedTls,
            RefusedTooLong,
        ];
        let handed_off = [
            HandedOffAddress,
            HandedOffAnnounced,
            HandedOffBalanced,
            HandedOffNamed,
            HandedOffUnknown,
        ];
        let timed = Way::ALL.map(|way| metrics::latencies(&self.shared.counters, way).count());
        assert_eq!(sum(&handed_off), timed.iter().sum::<u64>(), "a hand-off was not timed");
        // What is read back from a lane is handed off again, or abandoned; a returned connection too.
        assert_eq!(
            sum(&[Accepted]) + self.again,
            sum(&handed_off) + sum(&[Abandoned, SocketsFromWorkers]) + sum(&refused),
            "the counters do not add up"
        );
        for (index, client) in self.clients.iter().enumerate() {
            assert!(client.open == 0 && !client.on_lane, "client {index} is still open");
            let told = client.carried.is_none() || client.refused || client.finished;
            let cut = client.back_from.is_some_and(|worker| !self.workers[worker].alive);
            let told = told || cut || !client.takers.is_empty();
            assert!(told, "what was read of client {index} is lost");
        }
        for worker in &self.workers {
            assert!(worker.lane.is_empty(), "sockets are left in the lane of {}", worker.id);
        }
        for worker in self.workers.iter().filter(|worker| worker.alive) {
            let (id, load) = (worker.id, self.shared.roster.load(worker.id));
            assert_eq!(load as usize, worker.sessions.len(), "load of {id}");
            assert!(worker.handles.is_empty() && worker.outbound.is_empty(), "{id} is behind");
            for other in self.workers.iter().filter(|other| other.id != id) {
                let Some(heard) = worker.heard.get(&other.uid) else { continue };
                let closed = worker.closed.contains(&other.uid);
                assert_eq!(closed, !other.alive, "{id} and the end of {}", other.id);
                assert!(!other.alive || *heard == other.broadcasts, "{id} missed {}", other.id);
            }
        }
    }
}
