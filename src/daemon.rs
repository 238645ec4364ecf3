//! Wiring and stop order.
//!
//! Up: descriptors, engine, shards, the listeners that were asked for, then the workers. Down: the
//! supervisor stops accepting and ends the workers; then the shards end, and the process.

mod interpreter;
pub mod listeners;
pub mod upgrade;

use std::cell::RefCell;
use std::collections::HashSet;
use std::convert::Infallible;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::task::LocalSet;

use self::listeners::{ListenError, Listeners};
use self::upgrade::{InheritError, Inherited, State, Successor, Trial};
use crate::config::{self, Config, EngineChoice, Plan};
use crate::ipc::Serialization;
use crate::metrics::Totals;
use crate::route::WorkerId;
use crate::route::balance::Balance;
use crate::route::roster::Standing;
use crate::shard::frozen::Common;
use crate::shard::ring::{Mail, Mailbox};
use crate::shard::{
    self, Descriptors, Engine, Portion, Report, Reports, Resting, Settings, Shared, Trusts,
};
use crate::supervisor::output;
use crate::supervisor::{self, ChannelEnd, DataPlane, Ended, Event, LanePair, Outcome, Part};
use crate::sys::wake::Wake;
use crate::sys::{cpu, process, socket, uring};

/// Workers that one shard serves before `--threads auto` adds another.
const WORKERS_PER_SHARD: usize = 4;
/// Send buffer towards a Node that cannot read a frame's length in two pieces: what lies unread
/// then always fits one of its reads, so no length is ever cut by one.
const SMALL_SEND_BUFFER: usize = 16 << 10;

/// Signs of life of a worker in the time after which it is taken for hung.
const BEATS: u32 = 4;

/// How long what was printed may take to be written before another program takes over.
const FLUSH: Duration = Duration::from_millis(300);

/// Different warnings of preloads that are logged, each once.
const MAX_WARNINGS: usize = 256;

/// Why the router could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// `--engine uring` where it is forbidden.
    #[error(
        "io_uring cannot be used here: {0}. It needs Linux 6.1 or newer and a container runtime \
         that allows it; use --engine portable, or auto to choose by itself"
    )]
    NoUring(io::Error),
    /// A place could not be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// Something the process needs from the system.
    #[error("cannot start: {what}: {reason}")]
    System {
        /// What was to be had.
        what: &'static str,
        /// Why it was not.
        reason: io::Error,
    },
    /// A thread of the data plane ended.
    #[error("the data plane failed: {0}. The router ends; its supervisor should start it again")]
    Shard(String),
    /// What was asked for does not go with the interpreter.
    #[error(transparent)]
    Plan(#[from] config::PlanError),
    /// What a router before this one has left.
    #[error(transparent)]
    Inherit(#[from] InheritError),
    /// The workers.
    #[error("{0}")]
    Workers(String),
}

/// Runs the app until it is stopped.
///
/// # Errors
/// It could not start as asked, or could not go on.
pub fn run(mut config: Config) -> Result<ExitCode, DaemonError> {
    if let Err(error) = process::raise_fd_limit() {
        tracing::warn!(%error, "the limit on file descriptors stays as it is");
    }
    let inherited = upgrade::inherited()?;
    let plan = config::plan(&config, interpreter::ask(&config.app))?;
    plan.apply(&mut config);
    let engine = choose_engine(config.engine)?;
    let mut start = match inherited {
        Inherited::Trial(memory) => {
            upgrade::attend_trial(memory)?;
            return Ok(ExitCode::SUCCESS);
        }
        Inherited::State(state, descriptors) => Start::Inherited(state, descriptors),
        Inherited::Nothing => Start::Fresh,
    };
    let successor = Successor::of_this_process()
        .map_err(|reason| DaemonError::System { what: "the path of this program", reason })?;
    let shards = shard_count(&config);
    tracing::info!(%engine, shards, workers = config.app.workers, balance = ?config.balance,
        serialization = plan.serialization.as_str(), handoff = plan.handoff(), "router starts");
    if let Some(notice) = &plan.notice {
        tracing::info!("{notice}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|reason| DaemonError::System { what: "the control thread's runtime", reason })?;
    loop {
        let lifetime = lifetime(&config, &plan, engine, &successor, start);
        match LocalSet::new().block_on(&runtime, lifetime)? {
            Over::Ended(outcome) => match outcome {
                Outcome::Failed(why) => return Err(DaemonError::Workers(why)),
                stopped @ Outcome::Stopped => return Ok(stopped.exit_code()),
            },
            Over::Frozen(trial, state, descriptors) => {
                output::printer().flush(FLUSH);
                // Returns only when it could not be done.
                let error = trial.exec(&descriptors);
                tracing::error!(error = error.to_string(), "upgrade failed");
                start = Start::Resumed(state, descriptors);
            }
        }
    }
}

/// What a lifetime of the daemon begins with.
enum Start {
    Fresh,
    /// What another process has had in hand.
    Inherited(Box<State>, Descriptors),
    /// What this one has had in hand before an upgrade that failed.
    Resumed(Box<State>, Descriptors),
}

/// How a lifetime of the daemon is over.
enum Over {
    Ended(Outcome),
    /// Everything it had in hand, and the program that is to go on with it.
    Frozen(Box<Trial>, Box<State>, Descriptors),
}

/// From the shards' start to their end.
async fn lifetime(
    config: &Config,
    plan: &Plan,
    engine: Engine,
    successor: &Successor,
    start: Start,
) -> Result<Over, DaemonError> {
    let now = clock();
    let upgraded = matches!(start, Start::Inherited(..));
    let (thawed, mut descriptors) = match start {
        Start::Fresh => (None, Descriptors::default()),
        Start::Inherited(state, descriptors) | Start::Resumed(state, descriptors) => {
            (Some(state), descriptors)
        }
    };
    let epoch = thawed.as_ref().map_or(now, |state| state.common.epoch(now));
    let shared = shared(config, plan, epoch)?;
    let (reports, reported) = mpsc::unbounded_channel();
    let (failures, failed) = mpsc::unbounded_channel();
    let mut listeners = Listeners::new(Arc::clone(&shared), !config.listen.is_empty());
    let (portions, frozen) = match thawed {
        Some(state) => {
            let State { common, plane, listeners: places, mut supervisor, .. } = *state;
            let hopes = common.thaw(&shared);
            let accept = !supervisor.stopping();
            let places = listeners.thaw(places, &mut descriptors, accept).map_err(|reason| {
                DaemonError::System { what: "a listening socket's share", reason }
            })?;
            supervisor.unstow(|place| descriptors.take(place));
            let portions = plane.divide(|place| descriptors.take(place), &places, hopes, &shared);
            (portions, Some(Box::new(supervisor)))
        }
        None => (shared.mailboxes.iter().map(|_| Portion::default()).collect(), None),
    };
    let threads = start_shards(engine, &shared, &reports, &failures, portions)?;
    let control = Control { config, plan, shared: &shared, successor, upgraded };
    match control.run(listeners, reported, failed, frozen).await {
        Ok(Next::Ended(outcome)) => {
            stop_shards(&shared, threads);
            tracing::info!(totals = %Totals(shared.counters.iter().collect()), "router stops");
            Ok(Over::Ended(outcome))
        }
        Ok(Next::Upgrade(mut trial, supervisor, listeners)) => {
            let resting = threads.into_iter().filter_map(|thread| thread.join().ok().flatten());
            let mut descriptors = Descriptors::default();
            let now = clock();
            let plane = shard::freeze(resting.collect(), &mut descriptors, now);
            let mut supervisor = *supervisor;
            supervisor.stow(|pipe| descriptors.add(pipe));
            let state = Box::new(State {
                common: Common::freeze(&shared, now),
                plane,
                listeners: listeners.freeze(&mut descriptors),
                supervisor,
            });
            match trial.show(&state, &descriptors).await {
                Ok(()) => Ok(Over::Frozen(trial, state, descriptors)),
                Err(error) => {
                    tracing::error!(error = error.to_string(), "upgrade failed");
                    let start = Start::Resumed(state, descriptors);
                    Box::pin(lifetime(config, plan, engine, successor, start)).await
                }
            }
        }
        Err(error) => {
            stop_shards(&shared, threads);
            Err(error)
        }
    }
}

/// How the control thread's work is over.
enum Next {
    Ended(Outcome),
    /// The shards have come to rest, and the supervisor too.
    Upgrade(Box<Trial>, Box<supervisor::Frozen>, Box<Listeners>),
}

/// The control thread: listeners and supervisor, until the workers have ended or a shard has.
struct Control<'a> {
    config: &'a Config,
    plan: &'a Plan,
    shared: &'a Arc<Shared>,
    successor: &'a Successor,
    /// This program has just taken the process over.
    upgraded: bool,
}

impl Control<'_> {
    async fn run(
        &self,
        mut listeners: Listeners,
        reported: UnboundedReceiver<Report>,
        mut failed: UnboundedReceiver<String>,
        frozen: Option<Box<supervisor::Frozen>>,
    ) -> Result<Next, DaemonError> {
        let Self { config, plan, shared, .. } = self;
        // Before the supervisor lets signals through.
        let asked = signal(SignalKind::user_defined2())
            .map_err(|reason| DaemonError::System { what: "signals", reason })?;
        if let Some(frozen) = &frozen {
            if self.upgraded {
                tracing::info!(workers = frozen.workers(), "upgraded");
            }
            // The workers and their clients are worth more than a new place.
            if let Err(error) = listeners.change_pool(&config.listen) {
                tracing::error!("{error}");
            }
        } else {
            for address in &config.listen {
                listeners.open_pool(address)?;
            }
        }
        let listeners = Rc::new(RefCell::new(listeners));
        let (events, happened) = mpsc::unbounded_channel();
        let pass_on = pass_on(reported, events, Rc::clone(&listeners), Arc::clone(shared));
        let passing = tokio::task::spawn_local(pass_on);
        let part = plan.preload.then_some(Part {
            lane: plan.lane,
            adapter: config.adapter,
            beat: config.hang_timeout.map(|timeout| timeout / BEATS),
        });
        let mut plane = Plane {
            shared: Arc::clone(shared),
            listeners: Rc::clone(&listeners),
            default_port: config.default_port,
            serialization: serialization(plan.serialization),
            whole_headers: plan.whole_lengths,
        };
        let mut trial = None;
        let ended = tokio::select! {
            ended = supervisor::run(config, part, &mut plane, happened, frozen) => ended
                .map_err(|reason| DaemonError::System { what: "signals", reason }),
            Some(why) = failed.recv() => Err(DaemonError::Shard(why)),
            never = self.upgrades(asked, &mut trial) => match never {},
        };
        passing.abort();
        match ended {
            Ok(Ended::Frozen(frozen)) => {
                let trial = trial.ok_or_else(|| DaemonError::Shard("frozen by nobody".into()))?;
                drop(plane);
                let listeners = listeners.replace(Listeners::new(Arc::clone(shared), false));
                Ok(Next::Upgrade(Box::new(trial), frozen, Box::new(listeners)))
            }
            Ok(Ended::Over(outcome)) => {
                listeners.borrow_mut().clean_up();
                Ok(Next::Ended(outcome))
            }
            Err(error) => {
                listeners.borrow_mut().clean_up();
                Err(error)
            }
        }
    }

    /// Tries the next program out whenever that is asked for; once it would do, the shards are put
    /// to rest, which ends with the supervisor frozen.
    async fn upgrades(&self, mut asked: Signal, ready: &mut Option<Trial>) -> Infallible {
        while ready.is_none() {
            asked.recv().await;
            tracing::info!(binary = %self.successor.program().display(), "upgrade begins");
            match self.successor.try_out().await {
                Ok(trial) => {
                    *ready = Some(trial);
                    for shard in 0..self.shared.mailboxes.len() {
                        post(self.shared, shard, Mail::Rest);
                    }
                }
                Err(error) => tracing::error!(error = error.to_string(), "upgrade failed"),
            }
        }
        std::future::pending().await
    }
}

/// Turns the shards' reports into the supervisor's events; requests to listen are answered here.
async fn pass_on(
    mut reported: UnboundedReceiver<Report>,
    events: UnboundedSender<Event>,
    listeners: Rc<RefCell<Listeners>>,
    shared: Arc<Shared>,
) {
    let mut warned = HashSet::new();
    let mut resting = 0;
    while let Some(report) = reported.recv().await {
        let event = match report {
            Report::Online(worker) => Event::Online(worker),
            Report::Heartbeat(worker) => Event::Heartbeat(worker),
            Report::Ready(worker) => Event::Ready(worker),
            Report::Listening(worker) => Event::Listening(worker),
            Report::Listen(worker, request) => {
                let answer = listeners.borrow_mut().listen(worker, &request);
                let reply = Mail::ListenReply { worker, ack: request.seq, answer };
                post(&shared, shared.owner(worker.slot), reply);
                Event::Listens(worker)
            }
            Report::ServerClosed(worker, listener) => {
                listeners.borrow_mut().leave(worker, listener);
                continue;
            }
            Report::Preloaded { worker, lane } => {
                if shared.settings.lanes && !lane {
                    tracing::warn!(%worker, "the worker cannot read its lane: its sockets go by \
                        Node's IPC");
                }
                continue;
            }
            Report::SpeaksFirst(listener) => {
                for shard in 0..shared.mailboxes.len() {
                    post(&shared, shard, Mail::AcceptSilent(Arc::clone(&listener)));
                }
                continue;
            }
            Report::Rested => {
                resting += 1;
                if resting < shared.mailboxes.len() {
                    continue;
                }
                // Everything that was reported before has been passed on.
                Event::Freeze
            }
            Report::Drained(worker) => Event::Drained(worker),
            Report::Warning(worker, text) => {
                if warned.len() < MAX_WARNINGS && warned.insert(text.clone()) {
                    tracing::warn!(%worker, "{text}");
                }
                continue;
            }
            Report::ChannelEnded(worker, end) => {
                listeners.borrow_mut().worker_gone(worker);
                let why = match end {
                    shard::End::Closed => ChannelEnd::Closed,
                    shard::End::Malformed(why) => ChannelEnd::Malformed(why),
                    shard::End::Stalled => ChannelEnd::Stalled,
                };
                Event::ChannelEnded { worker, why }
            }
        };
        if events.send(event).is_err() {
            return;
        }
    }
}

/// The data plane as the supervisor sees it.
struct Plane {
    shared: Arc<Shared>,
    listeners: Rc<RefCell<Listeners>>,
    default_port: u16,
    serialization: Serialization,
    whole_headers: bool,
}

impl Plane {
    fn tell(&self, worker: WorkerId, mail: Mail) {
        post(&self.shared, self.shared.owner(worker.slot), mail);
    }

    fn tell_all(&self, mail: impl Fn() -> Mail) {
        for shard in 0..self.shared.mailboxes.len() {
            post(&self.shared, shard, mail());
        }
    }
}

impl Plane {
    /// Gives every shard its share of both ends.
    fn lend_lane(&self, worker: WorkerId, lane: &LanePair) -> io::Result<()> {
        for shard in 0..self.shared.mailboxes.len() {
            let (ours, theirs) = (lane.ours.try_clone()?, lane.theirs.try_clone()?);
            post(&self.shared, shard, Mail::Lane { worker, ours, theirs });
        }
        Ok(())
    }
}

impl DataPlane for Plane {
    fn attach(&mut self, worker: WorkerId, channel: OwnedFd, lane: Option<LanePair>) {
        if self.whole_headers
            && let Err(error) = socket::set_send_buffer(channel.as_fd(), SMALL_SEND_BUFFER)
        {
            tracing::warn!(%worker, %error, "the channel's send buffer stays as it is");
        }
        self.shared.roster.set(worker, Standing::Starting);
        if let Some(lane) = lane
            && let Err(error) = self.lend_lane(worker, &lane)
        {
            // Its sockets go by its channel then.
            tracing::warn!(%worker, %error, "the worker's lane cannot be used");
        }
        let (serialization, whole_headers) = (self.serialization, self.whole_headers);
        self.tell(worker, Mail::Attach { worker, channel, serialization, whole_headers });
    }

    fn set_ready(&mut self, worker: WorkerId, ready: bool) {
        // A channel that has ended meanwhile has taken the worker off the roster already.
        if self.shared.roster.standing(worker) != Standing::Gone {
            if ready {
                self.shared.roster.set_ready(worker, self.shared.millis(clock()));
            } else {
                self.shared.roster.set(worker, Standing::Draining);
            }
        }
        self.tell_all(|| Mail::RosterChanged);
    }

    fn drain(&mut self, worker: WorkerId, within: Duration, over: Duration) {
        if self.shared.roster.standing(worker) != Standing::Gone {
            self.shared.roster.set(worker, Standing::Draining);
        }
        self.tell(worker, Mail::Drain { worker, within, over });
        self.tell_all(|| Mail::RosterChanged);
    }

    fn sessions(&self, worker: WorkerId) -> u32 {
        self.shared.roster.load(worker)
    }

    fn says_when_drained(&self, worker: WorkerId) -> bool {
        self.shared.roster.has_preload(worker)
    }

    fn places(&self, worker: WorkerId) -> Vec<String> {
        self.listeners.borrow().places_of(worker)
    }

    fn silence(&self, worker: WorkerId) -> Option<Duration> {
        let heard = self.shared.roster.last_heard(worker)?;
        let silent = self.shared.millis(clock()).saturating_sub(heard);
        Some(Duration::from_millis(silent))
    }

    fn detach(&mut self, worker: WorkerId) {
        self.shared.roster.set_gone(worker);
        self.tell(worker, Mail::Detach(worker));
    }

    fn shutdown_message(&mut self, worker: WorkerId) {
        self.tell(worker, Mail::Shutdown(worker));
    }

    fn open_default_listener(&mut self) -> Result<(), String> {
        let port = self.default_port;
        self.listeners.borrow_mut().open_default(port).map_err(|error| error.to_string())
    }

    fn stop_accepting(&mut self) {
        self.tell_all(|| Mail::StopAccepting);
        self.listeners.borrow_mut().stop();
    }
}

/// Posts to a shard and wakes it. A full ring is waited for: shards always take their mail, and
/// the control thread has little of it.
fn post(shared: &Shared, shard: usize, mail: Mail) {
    let Some(mailbox) = shared.mailboxes.get(shard) else { return };
    let mut mail = mail;
    while let Err(back) = mailbox.post(mail) {
        mail = back;
        mailbox.tell();
        std::thread::yield_now();
    }
    mailbox.tell();
}

fn choose_engine(choice: EngineChoice) -> Result<Engine, DaemonError> {
    match choice {
        EngineChoice::Portable => Ok(Engine::Portable),
        EngineChoice::Uring => match uring::probe() {
            Ok(()) => Ok(Engine::Uring),
            Err(error) => Err(DaemonError::NoUring(error)),
        },
        EngineChoice::Auto => match uring::probe() {
            Ok(()) => Ok(Engine::Uring),
            Err(error) => {
                tracing::warn!(%error, "io_uring cannot be used here: the portable engine it is");
                Ok(Engine::Portable)
            }
        },
    }
}

fn shard_count(config: &Config) -> usize {
    let workers = usize::from(config.app.workers);
    let auto = workers.div_ceil(WORKERS_PER_SHARD).min(cpu::usable_cores());
    config.threads.unwrap_or(auto).max(1)
}

fn shared(config: &Config, plan: &Plan, epoch: Instant) -> Result<Arc<Shared>, DaemonError> {
    let shards = shard_count(config);
    let mailboxes: io::Result<Vec<Mailbox>> =
        (0..shards).map(|_| Ok(Mailbox::new(Arc::new(Wake::new()?)))).collect();
    let mailboxes =
        mailboxes.map_err(|reason| DaemonError::System { what: "an eventfd", reason })?;
    let settings = Settings {
        balance: balance(config.balance),
        head_timeout: config.head_timeout,
        out_queue: shard::MAX_OUT_QUEUE,
        lanes: plan.lane,
        self_routing: plan.preload,
        by_address: config.sticky == config::Sticky::Ip,
    };
    let trusts = config
        .proxy
        .clone()
        .map(|trust| -> Trusts { Box::new(move |address| trust.allows(address)) });
    Ok(Shared::new(mailboxes, settings, trusts, epoch))
}

/// The clock that the shards share; it counts from when they were made.
#[expect(clippy::disallowed_methods, reason = "the data plane's clock starts here")]
fn clock() -> Instant {
    Instant::now()
}

fn start_shards(
    engine: Engine,
    shared: &Arc<Shared>,
    reports: &UnboundedSender<Report>,
    failures: &UnboundedSender<String>,
    portions: Vec<Portion>,
) -> Result<Vec<Thread>, DaemonError> {
    let mut threads = Vec::new();
    for (index, portion) in portions.into_iter().enumerate() {
        let shared = Arc::clone(shared);
        let sender = reports.clone();
        // The control thread outlives its shards but for its very end, when nobody listens.
        let reports: Reports = Box::new(move |report| _ = sender.send(report));
        let alarm = Alarm { index, failures: failures.clone(), why: None };
        let thread = std::thread::Builder::new()
            .name(format!("shard-{index}"))
            .spawn(move || run_shard(engine, index, shared, reports, portion, alarm))
            .map_err(|reason| DaemonError::System { what: "a thread", reason })?;
        threads.push(thread);
    }
    Ok(threads)
}

fn run_shard(
    engine: Engine,
    index: usize,
    shared: Arc<Shared>,
    reports: Reports,
    portion: Portion,
    mut alarm: Alarm,
) -> Option<Resting> {
    if let Err(error) = cpu::pin(index) {
        tracing::debug!(shard = index, %error, "not pinned to a core");
    }
    let seed = u64::from(std::process::id()) << 16 | index as u64;
    alarm.why = Some(match shard::run(engine, index, shared, reports, seed, portion) {
        Ok(resting) => {
            alarm.disarm();
            return resting;
        }
        Err(error) => error.to_string(),
    });
    None
}

/// A shard's thread; what it had in hand comes back from one that was put to rest.
type Thread = JoinHandle<Option<Resting>>;

/// Tells the control thread when a shard ends in any other way than asked to, by a panic too:
/// what such a shard leaves behind is in an unknown state.
struct Alarm {
    index: usize,
    failures: UnboundedSender<String>,
    why: Option<String>,
}

impl Alarm {
    fn disarm(mut self) {
        self.why = None;
        self.index = usize::MAX;
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if self.index != usize::MAX {
            let why = self.why.take().unwrap_or_else(|| "it panicked".to_owned());
            // Nobody listens when the router is ending already.
            let _heard = self.failures.send(format!("shard {}: {why}", self.index));
        }
    }
}

fn stop_shards(shared: &Arc<Shared>, threads: Vec<Thread>) {
    for (index, thread) in threads.into_iter().enumerate() {
        if !thread.is_finished() {
            post(shared, index, Mail::Exit);
        }
        if thread.join().is_err() {
            tracing::error!(shard = index, "a shard ended by a panic");
        }
    }
}

const fn serialization(serialization: config::Serialization) -> Serialization {
    match serialization {
        config::Serialization::Advanced => Serialization::Advanced,
        config::Serialization::Json => Serialization::Json,
    }
}

const fn balance(balance: config::Balance) -> Balance {
    match balance {
        config::Balance::LeastConnection => Balance::LeastConnection,
        config::Balance::RoundRobin => Balance::RoundRobin,
        config::Balance::Random => Balance::Random,
        config::Balance::LeastLag => Balance::LeastLag,
    }
}
