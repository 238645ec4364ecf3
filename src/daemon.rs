//! Wiring and stop order.
//!
//! Up: descriptors, engine, shards, the listeners that were asked for, then the workers. Down: the
//! supervisor stops accepting and ends the workers; then the shards end, and the process.

pub mod activation;
mod attach;
mod bus;
mod interpreter;
mod kept;
pub mod listeners;
pub mod log;
pub mod notify;
mod orders;
mod plane;
pub mod roll;
pub mod runtime;
mod shards;
pub mod upgrade;
mod view;

use std::cell::RefCell;
use std::convert::Infallible;
use std::io;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::sync::oneshot;
use tokio::task::LocalSet;

use self::activation::{ActivationError, Passed};
use self::attach::Awaited;
use self::kept::Kept;
use self::listeners::{ListenError, Listeners};
use self::notify::{Notifier, Notify};
use self::orders::Takers;
use self::plane::Plane;
use self::roll::{Channels, Roll};
use self::runtime::{Runtime, RuntimeError};
use self::shards::{clock, post};
use self::upgrade::{InheritError, Inherited, State, Successor, Trial};
use crate::bus::Bus;
use crate::config::{self, Config, Interpreter, Mode, Plan};
use crate::control::admin::{Admin, Look};
use crate::metrics::Totals;
use crate::shard::frozen::Common;
use crate::shard::ring::Mail;
use crate::shard::{self, Descriptors, Engine, Portion, Report, Shared};
use crate::supervisor::ids::Ids;
use crate::supervisor::logs::{self, LogError};
use crate::supervisor::output;
use crate::supervisor::{self, Attach, Ended, Origin, Outcome, Part};
use crate::sys::{exec, process};

/// Signs of life of a worker in the time after which it is taken for hung.
const BEATS: u32 = 4;

/// How long what was printed may take to be written before another program takes over.
const FLUSH: Duration = Duration::from_millis(300);

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
    /// Where it keeps what must outlive it.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// What a router before this one has left.
    #[error(transparent)]
    Inherit(#[from] InheritError),
    /// What the service manager has passed.
    #[error(transparent)]
    Activation(#[from] ActivationError),
    /// A log file of the workers'.
    #[error(transparent)]
    Logs(#[from] LogError),
    /// Redis will not have this router.
    #[error(transparent)]
    Bus(#[from] crate::bus::Refused),
    /// The workers.
    #[error("{0}")]
    Workers(String),
}

impl DaemonError {
    /// Whether it is for the operator to put right: to start once more would end in the same way.
    #[must_use]
    pub const fn is_usage(&self) -> bool {
        matches!(self, Self::Plan(_) | Self::Activation(_) | Self::Logs(_) | Self::Bus(_))
    }
}

/// The descriptors that were left open for this process by whoever started it.
#[derive(Debug)]
pub struct Inheritance {
    /// By a router.
    inherited: Inherited,
    /// By a service manager.
    passed: Vec<Passed>,
}

/// Takes them, so that no program that this one starts has them, or is told of them. Must come
/// before anything opens descriptors or starts a thread, and once.
///
/// # Errors
/// They are not what the environment says.
pub fn inherit() -> Result<Inheritance, DaemonError> {
    let inherited = upgrade::inherited()?;
    // After an upgrade the pid is the same, and a router that did not remove the variables has left
    // them: what they speak of is part of the state then.
    let passed = match inherited {
        Inherited::Nothing => activation::take()?,
        Inherited::Trial(_) | Inherited::State(..) => Vec::new(),
    };
    exec::forget(&config::service::SOCKETS)
        .map_err(|reason| DaemonError::System { what: "the LISTEN_ variables", reason })?;
    Ok(Inheritance { inherited, passed })
}

/// Runs the app until it is stopped.
///
/// # Errors
/// It could not start as asked, or could not go on.
pub fn run(mut config: Config, inheritance: Inheritance) -> Result<ExitCode, DaemonError> {
    let Inheritance { inherited, passed } = inheritance;
    if let Err(error) = process::raise_fd_limit() {
        tracing::warn!(%error, "the limit on file descriptors stays as it is");
    }
    let interpreter = match config.app.mode {
        Mode::Cluster => interpreter::ask(&config.app),
        // Any program may run there, and not every one knows --version.
        Mode::Fork => Interpreter::Unknown,
    };
    let plan = config::plan(&config, interpreter)?;
    plan.apply(&mut config);
    let engine = shards::choose_engine(config.engine)?;
    let (mut start, runtime) = match inherited {
        Inherited::Trial(memory) => {
            // Which numbers the workers have it does not know yet; the directories are the same.
            logs::check(&config, &mut Ids::slots())?;
            upgrade::attend_trial(memory)?;
            return Ok(ExitCode::SUCCESS);
        }
        Inherited::State(state, mut descriptors) => {
            let (directory, lock) = state.runtime.clone();
            let lock = descriptors.take(lock).ok_or_else(|| {
                InheritError::Unreadable(
                    "the lock of the runtime directory did not cross".to_owned(),
                )
            })?;
            if let Some(filter) = &state.log_filter
                && let Err(error) = log::change(filter)
            {
                tracing::error!(filter, error, "the log says what the settings ask for");
            }
            (Start::Inherited(state, descriptors), Runtime::inherit(directory, lock)?)
        }
        Inherited::Nothing => {
            let runtime = Runtime::open(&config)?;
            if let Err(error) = bus::probe(&config, &runtime) {
                runtime.clear();
                return Err(error);
            }
            if let Err(error) = logs::check(&config, &mut Ids::at(runtime.ids())) {
                if !runtime.roll().exists() {
                    runtime.clear();
                    return Err(error.into());
                }
                // The workers that an earlier router has left are worth more than their logs.
                tracing::error!("{error}");
            }
            (Start::Fresh(passed, Kept::fetch(&runtime)), runtime)
        }
    };
    let keep = || kept::keeper(&runtime, config.orphan_timeout?);
    // The only other thread is the one that writes the log.
    let mut keeper = keep();
    let successor = Successor::of_this_process()
        .map_err(|reason| DaemonError::System { what: "the path of this program", reason })?;
    let shards = shards::count(&config);
    tracing::info!(%engine, shards, workers = config.app.workers, balance = ?config.balance,
        serialization = plan.serialization.as_str(), handoff = plan.handoff(), "router starts");
    if let Some(notice) = &plan.notice {
        tracing::info!("{notice}");
    }
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|reason| DaemonError::System { what: "the control thread's runtime", reason })?;
    loop {
        let settings = Lifetime {
            config: &config,
            plan: &plan,
            engine,
            successor: &successor,
            runtime: &runtime,
        };
        let lifetime = lifetime(settings, start);
        match LocalSet::new().block_on(&tokio, lifetime) {
            Ok(Over::Ended(outcome)) => {
                kept::end(keeper);
                runtime.clear();
                return match outcome {
                    Outcome::Failed(why) => Err(DaemonError::Workers(why)),
                    stopped @ Outcome::Stopped => Ok(stopped.exit_code()),
                };
            }
            // Workers that live are the next router's.
            Err(error) => {
                if !runtime.roll().exists() {
                    kept::end(keeper);
                    runtime.clear();
                }
                return Err(error);
            }
            Ok(Over::Frozen(trial, state, descriptors)) => {
                logs::flush(FLUSH);
                output::printer().flush(FLUSH);
                // The next program gets a descriptor table of its own: what it closes is to be closed.
                kept::end(keeper.take());
                // Returns only when it could not be done.
                let error = trial.exec(&descriptors);
                tracing::error!(error = error.to_string(), "upgrade failed");
                keeper = keep();
                start = Start::Resumed(state, descriptors);
            }
        }
    }
}

/// What a lifetime of the daemon begins with.
enum Start {
    /// With the sockets that the service manager has passed, and the clients of a router that died.
    Fresh(Vec<Passed>, Kept),
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

/// What stays the same from one lifetime to the next.
#[derive(Clone, Copy)]
struct Lifetime<'a> {
    config: &'a Config,
    plan: &'a Plan,
    engine: Engine,
    successor: &'a Successor,
    runtime: &'a Runtime,
}

/// From the shards' start to their end.
async fn lifetime(settings: Lifetime<'_>, start: Start) -> Result<Over, DaemonError> {
    let Lifetime { config, plan, engine, successor, runtime } = settings;
    let now = clock();
    let upgraded = matches!(start, Start::Inherited(..));
    let (thawed, mut descriptors) = match start {
        Start::Fresh(passed, kept) => (Err((passed, kept)), Descriptors::default()),
        Start::Inherited(state, descriptors) | Start::Resumed(state, descriptors) => {
            (Ok(state), descriptors)
        }
    };
    let epoch = thawed.as_ref().map_or(now, |state| state.common.epoch(now));
    let shared = shards::shared(config, plan, epoch)?;
    let (reports, reported) = mpsc::unbounded_channel();
    let (failures, failed) = mpsc::unbounded_channel();
    let mut listeners = Listeners::new(Arc::clone(&shared), !config.listen.is_empty());
    let (portions, before, told, bus) = match thawed {
        Ok(state) => {
            let State {
                common,
                plane,
                listeners: places,
                mut supervisor,
                told,
                channels,
                admin,
                bus,
                ..
            } = *state;
            let hopes = common.thaw(&shared);
            let accept = !supervisor.stopping();
            let places = listeners.thaw(places, &mut descriptors, accept).map_err(|reason| {
                DaemonError::System { what: "a listening socket's share", reason }
            })?;
            supervisor.unstow(|place| descriptors.take(place));
            let portions = plane.divide(|place| descriptors.take(place), &places, hopes, &shared);
            let admin = admin.map(|(address, sockets)| {
                let sockets = sockets.into_iter().filter_map(|place| descriptors.take(place));
                Admin::resume(address, sockets.collect())
            });
            let admin = admin
                .transpose()
                .map_err(|reason| DaemonError::System { what: "--admin", reason })?;
            let before = Before::Frozen(Box::new(supervisor), channels, admin);
            (portions, before, told, bus::Before::Frozen(bus.map(Box::new)))
        }
        Err((passed, kept)) => {
            listeners.give(passed);
            let portions = shared.mailboxes.iter().map(|_| Portion::default());
            let told = notify::Told::default();
            (portions.collect(), Before::Dead(kept), told, bus::Before::Dead)
        }
    };
    let notify = Notifier::from_environment(told);
    let threads = shards::start(engine, &shared, &reports, &failures, portions)?;
    let bus = bus::start(config, plan, &shared, runtime, bus)?;
    let control = Control {
        config,
        plan,
        engine,
        shared: &shared,
        successor,
        runtime,
        notify: &notify,
        upgraded,
        bus: bus.as_ref(),
    };
    match control.run(listeners, before, reported, failed).await {
        Ok(Next::Ended(outcome)) => {
            shards::stop(&shared, threads);
            bus.into_iter().for_each(Bus::end);
            tracing::info!(totals = %Totals(&shared.counters), "router stops");
            Ok(Over::Ended(outcome))
        }
        Ok(Next::Upgrade { mut trial, supervisor, listeners, channels, admin }) => {
            // What it passes on until then the shards still take.
            let mut bus = bus.and_then(Bus::rest);
            let resting = threads.into_iter().filter_map(|thread| thread.join().ok().flatten());
            let mut descriptors = Descriptors::default();
            let now = clock();
            let plane = shard::freeze(resting.collect(), &mut descriptors, now);
            if let Some(bus) = &mut bus {
                bus.collect(&shared);
            }
            let mut supervisor = *supervisor;
            supervisor.stow(|pipe| descriptors.add(pipe));
            let lock = runtime.share().map_err(|reason| DaemonError::System {
                what: "a share of the runtime directory's lock",
                reason,
            })?;
            let lock = descriptors.add(lock);
            let admin = match admin {
                None => None,
                Some(admin) => {
                    let address = admin.address().clone();
                    let sockets = admin
                        .into_sockets()
                        .map_err(|reason| DaemonError::System { what: "--admin", reason })?;
                    let places = sockets.into_iter().map(|socket| descriptors.add(socket));
                    Some((address, places.collect()))
                }
            };
            let state = Box::new(State {
                common: Common::freeze(&shared, now),
                plane,
                listeners: listeners.freeze(&mut descriptors),
                supervisor,
                runtime: (runtime.directory().to_owned(), lock),
                channels,
                told: notify.borrow().told(),
                admin,
                log_filter: log::changed(),
                bus,
            });
            match trial.show(&state, &descriptors).await {
                Ok(()) => Ok(Over::Frozen(trial, state, descriptors)),
                Err(error) => {
                    tracing::error!(error = error.to_string(), "upgrade failed");
                    // It is not to live on beside the router for as long as that goes on.
                    drop(trial);
                    let start = Start::Resumed(state, descriptors);
                    Box::pin(lifetime(settings, start)).await
                }
            }
        }
        Err(error) => {
            // What the shards that are left have in hand is for the next router, if it can have it.
            if !runtime.roll().exists() {
                shards::stop(&shared, threads);
            }
            Err(error)
        }
    }
}

/// Answers whoever asks how the router stands, where anybody can.
async fn answer(admin: &Option<Admin>, look: Look) -> Infallible {
    match admin {
        Some(admin) => admin.serve(look).await,
        None => std::future::pending().await,
    }
}

/// Opens the log files again whenever they have been moved away.
async fn reopen_logs(mut moved: Signal) -> Infallible {
    loop {
        moved.recv().await;
        logs::reopen();
        match output::reopen() {
            Ok(()) => tracing::info!("logs reopened"),
            Err(error) => tracing::error!(%error, "the log file cannot be opened again"),
        }
    }
}

/// How the control thread's work is over.
enum Next {
    Ended(Outcome),
    /// The shards have come to rest, and the supervisor too.
    Upgrade {
        trial: Box<Trial>,
        supervisor: Box<supervisor::Frozen>,
        listeners: Box<Listeners>,
        channels: Channels,
        admin: Option<Admin>,
    },
}

/// Who was here before.
enum Before {
    /// Nobody, or a router that has died, and the clients it had in hand.
    Dead(Kept),
    /// Another program, with its workers, their channels, and its admin address.
    Frozen(Box<supervisor::Frozen>, Channels, Option<Admin>),
}

/// The control thread: listeners and supervisor, until the workers have ended or a shard has.
struct Control<'a> {
    config: &'a Config,
    plan: &'a Plan,
    engine: Engine,
    shared: &'a Arc<Shared>,
    successor: &'a Successor,
    runtime: &'a Runtime,
    notify: &'a Notify,
    /// This program has just taken the process over.
    upgraded: bool,
    /// To other hosts, where it is asked for.
    bus: Option<&'a Bus>,
}

impl Control<'_> {
    async fn run(
        &self,
        mut listeners: Listeners,
        before: Before,
        reported: UnboundedReceiver<Report>,
        mut failed: UnboundedReceiver<String>,
    ) -> Result<Next, DaemonError> {
        let Self { config, plan, shared, runtime, notify, .. } = self;
        // Before the supervisor lets signals through.
        let no_signals = |reason| DaemonError::System { what: "signals", reason };
        let asked = signal(SignalKind::user_defined2()).map_err(no_signals)?;
        let moved = signal(SignalKind::user_defined1()).map_err(no_signals)?;
        let mut kept = Kept::default();
        let mut answered = None;
        let (origin, channels) = match before {
            Before::Frozen(frozen, channels, admin) => {
                answered = admin;
                if self.upgraded {
                    tracing::info!(workers = frozen.workers(), "upgraded");
                }
                notify.borrow_mut().upgrades(false);
                (Origin::Frozen(frozen), channels)
            }
            Before::Dead(clients) => {
                kept = clients;
                match (self.left(), config.orphan_timeout) {
                    (Some(roll), Some(within)) => {
                        // Before the first client is accepted.
                        for left in roll.estate.left().iter().filter(|left| left.has_sessions()) {
                            shared.roster.await_return(left.worker);
                        }
                        listeners.reopen(roll.listeners);
                        (Origin::Left(roll.estate, within), roll.channels)
                    }
                    _ => (Origin::Fresh, Channels::new()),
                }
            }
        };
        if matches!(origin, Origin::Fresh) {
            for address in &config.listen {
                listeners.open_pool(address)?;
            }
        } else if let Err(error) = listeners.change_pool(&config.listen) {
            // The workers and their clients are worth more than a new place.
            tracing::error!("{error}");
        }
        let listeners = Rc::new(RefCell::new(listeners));
        let (awaited, kept) = (Rc::new(Awaited::default()), Rc::new(RefCell::new(kept)));
        let (events, happened) = mpsc::unbounded_channel();
        let pass_on = plane::pass_on(
            reported,
            events,
            Rc::clone(&listeners),
            Arc::clone(shared),
            Rc::clone(&awaited),
        );
        let passing = tokio::task::spawn_local(pass_on);
        let part = plan.preload.then(|| Part {
            directory: runtime.preload(config.app.account.is_some()),
            public: config.app.account.is_some(),
            lane: plan.lane,
            adapter: config.adapter,
            beat: config.hang_timeout.map(|timeout| timeout / BEATS),
            attach: config.orphan_timeout.map(|within| Attach {
                path: runtime.attach(),
                secret: runtime.secret().to_owned(),
                within,
            }),
        });
        let mut plane =
            Plane::new(config, plan, shared, &listeners, notify, &awaited, runtime.roll());
        if config.app.mode == Mode::Fork {
            // Nothing is said on the channels of processes that were left.
            plane.inherit(channels);
        } else if let Origin::Left(estate, _) = &origin {
            let opened = awaited.open(estate.left(), plan.lane, &mut plane);
            opened
                .map_err(|reason| DaemonError::System { what: "the workers' channels", reason })?;
            for (worker, channel) in channels {
                plane.pass_unread(worker, kept.borrow_mut().unread(channel));
            }
        } else {
            plane.inherit(channels);
        }
        if let Some(bus) = self.bus {
            bus.begin();
        }
        let attaching = attach::serve(runtime, Rc::clone(&awaited), Rc::clone(&kept))
            .map_err(|reason| DaemonError::System { what: "the workers' way back", reason })?;
        let admin = self.admin(answered, matches!(origin, Origin::Frozen(_)))?;
        let look = view::look(
            config,
            self.engine,
            shared,
            plane.view(),
            &listeners,
            self.bus.map(Bus::status),
        );
        let (order, ordered) = mpsc::unbounded_channel();
        let (upgrade, wished) = mpsc::unbounded_channel();
        let takers = Takers { supervisor: order, upgrade };
        let orders = orders::obey(orders::open(runtime), Rc::clone(&look), takers);
        let ids = Ids::at(runtime.ids());
        let mut trial = None;
        let ended = tokio::select! {
            ended = supervisor::run(config, part, &mut plane, happened, ordered, origin, ids) => ended
                .map_err(|reason| DaemonError::System { what: "signals", reason }),
            Some(why) = failed.recv() => Err(DaemonError::Shard(why)),
            never = async {
                kept::settle(&kept, &awaited, shared, &listeners).await;
                // What waits for them here does not cross.
                awaited.are_none().await;
                self.upgrades(asked, wished, &mut trial).await
            } => match never {},
            never = self.lives() => match never {},
            never = answer(&admin, look) => match never {},
            never = orders => match never {},
            never = notify::make_reports(Rc::clone(notify)) => match never {},
            never = reopen_logs(moved) => match never {},
        };
        passing.abort();
        attaching.abort();
        notify.borrow_mut().last_report(clock());
        match ended {
            Ok(Ended::Frozen(frozen)) => {
                let trial = trial.ok_or_else(|| DaemonError::Shard("frozen by nobody".into()))?;
                let channels = plane.channels();
                let listeners = listeners.replace(Listeners::new(Arc::clone(shared), false));
                Ok(Next::Upgrade {
                    trial: Box::new(trial),
                    supervisor: frozen,
                    listeners: Box::new(listeners),
                    channels,
                    admin,
                })
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

    /// The admin address: as it was before, or opened. After an upgrade, done or failed, that it
    /// cannot be had is no reason to end.
    fn admin(&self, before: Option<Admin>, crossed: bool) -> Result<Option<Admin>, DaemonError> {
        if before.as_ref().map(Admin::address) == self.config.admin.as_ref() {
            return Ok(before);
        }
        // What is not asked for any more is given back first: the new one may be a part of it.
        drop(before);
        let opened = self.config.admin.as_ref().map(Admin::open).transpose();
        match opened {
            Err(error) if crossed => {
                tracing::error!(%error, "the admin address cannot be listened on");
                Ok(None)
            }
            opened => opened.map_err(|reason| DaemonError::System { what: "--admin", reason }),
        }
    }

    /// What a router that has died has left here.
    fn left(&self) -> Option<Roll> {
        match roll::read(&self.runtime.roll(), self.config) {
            Ok(roll) => roll.filter(|roll| !roll.estate.left().is_empty()),
            Err(error) => {
                let path = self.runtime.roll();
                tracing::error!(path = %path.display(), %error,
                    "the workers of the router before this one are not taken over");
                None
            }
        }
    }

    /// Tries the next program out whenever that is asked for; once it would do, the shards are put
    /// to rest, which ends with the supervisor frozen.
    async fn upgrades(
        &self,
        mut asked: Signal,
        mut wished: UnboundedReceiver<oneshot::Sender<String>>,
        ready: &mut Option<Trial>,
    ) -> Infallible {
        while ready.is_none() {
            let waits = tokio::select! {
                _ = asked.recv() => None,
                // By signal alone, where no orders are taken.
                Some(waits) = wished.recv() => Some(waits),
            };
            tracing::info!(binary = %self.successor.program().display(), "upgrade begins");
            self.notify.borrow_mut().upgrades(true);
            match self.successor.try_out().await {
                Ok(trial) => {
                    *ready = Some(trial);
                    for shard in 0..self.shared.mailboxes.len() {
                        post(self.shared, shard, Mail::Rest);
                    }
                }
                Err(error) => {
                    tracing::error!(error = error.to_string(), "upgrade failed");
                    self.notify.borrow_mut().upgrades(false);
                    // Whoever asked need not have waited.
                    let _told = waits.map(|waits| waits.send(error.to_string()));
                }
            }
        }
        std::future::pending().await
    }

    /// Says so for as long as it is true.
    async fn lives(&self) -> Infallible {
        match notify::watchdog() {
            Some(limit) => notify::feed(Rc::clone(self.notify), self.shared, limit).await,
            None => std::future::pending().await,
        }
    }
}
