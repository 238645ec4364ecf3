//! Wiring and stop order.
//!
//! Up: descriptors, engine, shards, the listeners that were asked for, then the workers. Down: the
//! supervisor stops accepting and ends the workers; then the shards end, and the process.

pub mod activation;
mod interpreter;
pub mod listeners;
pub mod notify;
mod plane;
mod shards;
pub mod upgrade;

use std::cell::RefCell;
use std::convert::Infallible;
use std::io;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::task::LocalSet;

use self::activation::{ActivationError, Passed};
use self::listeners::{ListenError, Listeners};
use self::notify::{Notifier, Notify};
use self::plane::Plane;
use self::shards::{clock, post};
use self::upgrade::{InheritError, Inherited, State, Successor, Trial};
use crate::config::{self, Config, Plan};
use crate::metrics::Totals;
use crate::shard::frozen::Common;
use crate::shard::ring::Mail;
use crate::shard::{self, Descriptors, Engine, Portion, Report, Shared};
use crate::supervisor::output;
use crate::supervisor::{self, Ended, Outcome, Part};
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
    /// What a router before this one has left.
    #[error(transparent)]
    Inherit(#[from] InheritError),
    /// What the service manager has passed.
    #[error(transparent)]
    Activation(#[from] ActivationError),
    /// The workers.
    #[error("{0}")]
    Workers(String),
}

impl DaemonError {
    /// Whether it is for the operator to put right: to start once more would end in the same way.
    #[must_use]
    pub const fn is_usage(&self) -> bool {
        matches!(self, Self::Plan(_) | Self::Activation(_))
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
    exec::forget(&activation::VARIABLES)
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
    let plan = config::plan(&config, interpreter::ask(&config.app))?;
    plan.apply(&mut config);
    let engine = shards::choose_engine(config.engine)?;
    let mut start = match inherited {
        Inherited::Trial(memory) => {
            upgrade::attend_trial(memory)?;
            return Ok(ExitCode::SUCCESS);
        }
        Inherited::State(state, descriptors) => Start::Inherited(state, descriptors),
        Inherited::Nothing => Start::Fresh(passed),
    };
    let successor = Successor::of_this_process()
        .map_err(|reason| DaemonError::System { what: "the path of this program", reason })?;
    let shards = shards::count(&config);
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
    /// With the sockets that the service manager has passed.
    Fresh(Vec<Passed>),
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
    let (thawed, mut descriptors, passed) = match start {
        Start::Fresh(passed) => (None, Descriptors::default(), passed),
        Start::Inherited(state, descriptors) | Start::Resumed(state, descriptors) => {
            (Some(state), descriptors, Vec::new())
        }
    };
    let epoch = thawed.as_ref().map_or(now, |state| state.common.epoch(now));
    let shared = shards::shared(config, plan, epoch)?;
    let (reports, reported) = mpsc::unbounded_channel();
    let (failures, failed) = mpsc::unbounded_channel();
    let mut listeners = Listeners::new(Arc::clone(&shared), !config.listen.is_empty());
    listeners.give(passed);
    let (portions, frozen, told) = match thawed {
        Some(state) => {
            let State { common, plane, listeners: places, mut supervisor, told } = *state;
            let hopes = common.thaw(&shared);
            let accept = !supervisor.stopping();
            let places = listeners.thaw(places, &mut descriptors, accept).map_err(|reason| {
                DaemonError::System { what: "a listening socket's share", reason }
            })?;
            supervisor.unstow(|place| descriptors.take(place));
            let portions = plane.divide(|place| descriptors.take(place), &places, hopes, &shared);
            (portions, Some(Box::new(supervisor)), told)
        }
        None => {
            let portions = shared.mailboxes.iter().map(|_| Portion::default());
            (portions.collect(), None, notify::Told::default())
        }
    };
    let notify = Notifier::from_environment(told);
    let threads = shards::start(engine, &shared, &reports, &failures, portions)?;
    let control = Control { config, plan, shared: &shared, successor, notify: &notify, upgraded };
    match control.run(listeners, reported, failed, frozen).await {
        Ok(Next::Ended(outcome)) => {
            shards::stop(&shared, threads);
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
                told: notify.borrow().told(),
            });
            match trial.show(&state, &descriptors).await {
                Ok(()) => Ok(Over::Frozen(trial, state, descriptors)),
                Err(error) => {
                    tracing::error!(error = error.to_string(), "upgrade failed");
                    // It is not to live on beside the router for as long as that goes on.
                    drop(trial);
                    let start = Start::Resumed(state, descriptors);
                    Box::pin(lifetime(config, plan, engine, successor, start)).await
                }
            }
        }
        Err(error) => {
            shards::stop(&shared, threads);
            Err(error)
        }
    }
}

/// Opens the log file again whenever it has been moved away.
async fn reopen_logs(mut moved: Signal) -> Infallible {
    loop {
        moved.recv().await;
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
    Upgrade(Box<Trial>, Box<supervisor::Frozen>, Box<Listeners>),
}

/// The control thread: listeners and supervisor, until the workers have ended or a shard has.
struct Control<'a> {
    config: &'a Config,
    plan: &'a Plan,
    shared: &'a Arc<Shared>,
    successor: &'a Successor,
    notify: &'a Notify,
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
        let Self { config, plan, shared, notify, .. } = self;
        // Before the supervisor lets signals through.
        let no_signals = |reason| DaemonError::System { what: "signals", reason };
        let asked = signal(SignalKind::user_defined2()).map_err(no_signals)?;
        let moved = signal(SignalKind::user_defined1()).map_err(no_signals)?;
        if let Some(frozen) = &frozen {
            if self.upgraded {
                tracing::info!(workers = frozen.workers(), "upgraded");
            }
            notify.borrow_mut().upgrades(false);
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
        let pass_on = plane::pass_on(reported, events, Rc::clone(&listeners), Arc::clone(shared));
        let passing = tokio::task::spawn_local(pass_on);
        let part = plan.preload.then_some(Part {
            lane: plan.lane,
            adapter: config.adapter,
            beat: config.hang_timeout.map(|timeout| timeout / BEATS),
        });
        let mut plane = Plane::new(config, plan, shared, &listeners, notify);
        let mut trial = None;
        let ended = tokio::select! {
            ended = supervisor::run(config, part, &mut plane, happened, frozen) => ended
                .map_err(|reason| DaemonError::System { what: "signals", reason }),
            Some(why) = failed.recv() => Err(DaemonError::Shard(why)),
            never = self.upgrades(asked, &mut trial) => match never {},
            never = self.lives() => match never {},
            never = notify::make_reports(Rc::clone(notify)) => match never {},
            never = reopen_logs(moved) => match never {},
        };
        passing.abort();
        notify.borrow_mut().last_report(clock());
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
