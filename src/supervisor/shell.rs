//! The loop around the pure parts: events, signals and time in, processes and messages out.
//!
//! It decides nothing about a worker's life; it owns the clock, the pids and the last words.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};

use super::fleet::{End, Fleet};
use super::launch::{self, Launched};
use super::lines::Tail;
use super::output::{self, Printer};
use super::preload::{self, Part, Preload};
use super::table::{Action, Exit, Input, Moment, Note};
use super::{ChannelEnd, DataPlane, Event, Outcome};
use crate::config::Config;
use crate::route::WorkerId;
use crate::sys::process;

/// How long after a worker's exit its last output is waited for. Usually it is there already;
/// but a grandchild may hold the pipe open for ever.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// Starts the app's workers and keeps them running until a signal, or until none will run again.
///
/// `part` is what the workers' preload shall do; none: nothing is loaded into them.
///
/// Call it on a tokio current-thread runtime with I/O and time. Returns an error only when the
/// signals cannot be watched.
pub async fn run(
    config: &Config,
    part: Option<Part>,
    plane: &mut impl DataPlane,
    mut events: UnboundedReceiver<Event>,
) -> io::Result<Outcome> {
    let preload = match part.map(Preload::write).transpose() {
        Ok(preload) => preload,
        Err(error) => return Ok(Outcome::Failed(unwritten(&error))),
    };
    let mut ended = signal(SignalKind::child())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut quit = signal(SignalKind::quit())?;
    let (last_words, mut exits) = mpsc::unbounded_channel();
    let began = Instant::now();
    let mut supervisor = Supervisor {
        config,
        preload,
        plane,
        fleet: Fleet::new(&config.app),
        processes: HashMap::new(),
        tails: HashMap::new(),
        last_words,
        unique: 0,
        fatal: None,
        now: Moment::ZERO,
    };
    tracing::info!(
        app = config.app.name,
        script = %config.app.script.display(),
        workers = config.app.workers,
        "starting"
    );
    let actions = supervisor.fleet.start(Moment::ZERO);
    supervisor.perform(actions);
    let mut plane_lives = true;
    loop {
        if let Some(outcome) = supervisor.outcome() {
            return Ok(outcome);
        }
        let due = supervisor.fleet.deadline();
        // Signals first: a flood of events must not delay a stop.
        let turn = tokio::select! {
            biased;
            _ = terminate.recv() => Turn::Stop("SIGTERM"),
            _ = interrupt.recv() => Turn::Stop("SIGINT"),
            _ = quit.recv() => Turn::Stop("SIGQUIT"),
            _ = ended.recv() => Turn::Reap,
            Some((worker, exit)) = exits.recv() => Turn::Feed(worker, Input::Exited(exit)),
            () = sleep_until(began + due.unwrap_or_default()), if due.is_some() => Turn::Tick,
            event = events.recv(), if plane_lives => match event {
                Some(event) => event.into(),
                None => {
                    plane_lives = false;
                    continue;
                }
            },
        };
        supervisor.now = began.elapsed();
        supervisor.turn(turn);
    }
}

/// What one turn of the loop is about.
enum Turn {
    Stop(&'static str),
    Reap,
    Tick,
    Feed(WorkerId, Input),
}

impl From<Event> for Turn {
    fn from(event: Event) -> Self {
        match event {
            Event::Online(worker) => Self::Feed(worker, Input::Online),
            Event::Heartbeat(worker) => Self::Feed(worker, Input::Heartbeat),
            Event::Ready(worker) => Self::Feed(worker, Input::Ready),
            Event::Listens(worker) => Self::Feed(worker, Input::Listens),
            Event::Listening(worker) => Self::Feed(worker, Input::Listening),
            Event::ChannelEnded { worker, why } => Self::Feed(
                worker,
                match why {
                    ChannelEnd::Closed => Input::Closed,
                    ChannelEnd::Malformed(why) => {
                        Input::Broken(format!("its channel carried no frame: {why}"))
                    }
                    ChannelEnd::Stalled => Input::Broken("it stopped reading its channel".into()),
                },
            ),
        }
    }
}

/// A process that has not been reaped.
struct Process {
    worker: WorkerId,
    readers: [JoinHandle<()>; 2],
}

struct Supervisor<'a, P> {
    config: &'a Config,
    preload: Option<Preload>,
    plane: &'a mut P,
    fleet: Fleet<'a>,
    /// Invariant: exactly our children that have not been reaped, so a pid here is never
    /// another program's.
    processes: HashMap<Pid, Process>,
    /// The last lines on stderr of each slot's last process.
    tails: HashMap<u16, Arc<Mutex<Tail>>>,
    /// Where an exit is told once the process's output has been read.
    last_words: UnboundedSender<(WorkerId, Exit)>,
    /// The last `NODE_UNIQUE_ID` given.
    unique: u32,
    /// Why the router ends, when not by the operator's wish.
    fatal: Option<String>,
    /// The clock as read at the start of the turn.
    now: Moment,
}

impl<P: DataPlane> Supervisor<'_, P> {
    fn turn(&mut self, turn: Turn) {
        let actions = match turn {
            Turn::Stop(signal) => {
                tracing::info!(signal, workers = self.fleet.alive(), "stopping");
                self.stop()
            }
            Turn::Tick => self.fleet.tick(self.now),
            Turn::Feed(worker, input) => self.fleet.feed(worker, input, self.now),
            Turn::Reap => {
                self.reap();
                return;
            }
        };
        self.perform(actions);
    }

    fn stop(&mut self) -> Vec<Action> {
        if !self.fleet.stopping() {
            self.plane.stop_accepting();
        }
        self.fleet.stop(self.now)
    }

    /// Children that ended. The fleet learns of an exit once the last words are read.
    fn reap(&mut self) {
        for (pid, status) in process::reap() {
            // As process 1 of a container we are handed strangers, too.
            let Some(Process { worker, mut readers }) = self.processes.remove(&pid) else {
                continue;
            };
            self.plane.detach(worker);
            let last_words = self.last_words.clone();
            tokio::spawn(async move {
                let [out, err] = &mut readers;
                let both = async { (out.await, err.await) };
                let _ = timeout(LAST_WORDS, both).await;
                // Only a supervisor that has returned does not listen.
                let _ = last_words.send((worker, exit_of(status)));
            });
        }
    }

    fn perform(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Spawn(worker) => self.spawn(worker),
                Action::SetReady(worker, ready) => {
                    // Once it is reaped the data plane no longer knows it.
                    if self.pid(worker).is_some() {
                        self.plane.set_ready(worker, ready);
                    }
                }
                Action::Terminate(worker) if self.config.app.shutdown_with_message => {
                    self.plane.shutdown_message(worker);
                }
                Action::Terminate(worker) | Action::Signal(worker) => {
                    self.kill(worker, self.config.app.kill_signal);
                }
                Action::Kill(worker) => self.kill(worker, Signal::SIGKILL),
                Action::OpenDefaultListener => {
                    if let Err(reason) = self.plane.open_default_listener() {
                        self.fatal.get_or_insert(reason);
                    }
                }
                Action::Say(worker, note) => self.say(worker, &note),
            }
        }
        if self.fatal.is_some() && !self.fleet.stopping() {
            let actions = self.stop();
            self.perform(actions);
        }
    }

    fn spawn(&mut self, worker: WorkerId) {
        self.unique += 1;
        let printer: &Printer = output::printer();
        let preload = self.preload.as_ref();
        match launch::launch(self.config, worker, self.unique, printer, preload) {
            Ok(Launched { pid, channel, lane, tail, readers }) => {
                tracing::info!(%worker, pid = pid.as_raw(), "worker started");
                self.processes.insert(pid, Process { worker, readers });
                self.tails.insert(worker.slot, tail);
                self.plane.attach(worker, channel, lane);
            }
            Err(error) => {
                self.tails.remove(&worker.slot);
                let reason =
                    format!("{} could not be started: {error}", self.config.app.interpreter);
                // Told like any exit, in a turn of its own: a restart at once must not recurse.
                let _ = self.last_words.send((worker, Exit::Unstarted(reason)));
            }
        }
    }

    fn pid(&self, worker: WorkerId) -> Option<Pid> {
        let mut processes = self.processes.iter();
        processes.find(|(_, process)| process.worker == worker).map(|(pid, _)| *pid)
    }

    fn kill(&self, worker: WorkerId, signal: Signal) {
        let Some(pid) = self.pid(worker) else { return };
        if let Err(error) = process::kill(pid, signal) {
            tracing::warn!(%worker, %signal, %error, "the worker could not be signalled");
        }
    }

    fn say(&self, worker: WorkerId, note: &Note) {
        let app = &self.config.app;
        match note {
            Note::Ready(after) => tracing::info!(%worker, after = ?rounded(*after), "worker ready"),
            Note::TakenAsReady => tracing::warn!(
                %worker,
                "the worker neither listens nor shows an adapter after {:?}: taken as ready",
                app.listen_timeout
            ),
            Note::StillWaiting => tracing::warn!(
                %worker,
                "the worker has not said 'ready' after {:?}; still waiting",
                app.listen_timeout
            ),
            Note::Left => tracing::debug!(%worker, "the worker closed its channel"),
            Note::Broken(reason) => tracing::error!(%worker, reason, "killing the worker"),
            Note::Overdue => tracing::warn!(
                %worker,
                "the worker did not end within {:?}: killed",
                app.kill_timeout
            ),
            Note::Restart(exit, uptime, delay) => tracing::warn!(
                %worker,
                uptime = ?rounded(*uptime),
                "worker {exit}; it is started again in {:?}",
                rounded(*delay)
            ),
            Note::Ended(exit, uptime) => {
                tracing::info!(%worker, uptime = ?rounded(*uptime), "worker {exit}");
            }
            // A paragraph: fields behind its last line would belong to nothing.
            Note::Errored(exit, count) => tracing::error!(
                "worker {worker} is errored, and not started again: {} {exit}, {count} times in a row within {:?} of its start{}",
                app.script.display(),
                app.min_uptime,
                self.last_lines(worker.slot)
            ),
        }
    }

    fn last_lines(&self, slot: u16) -> String {
        let quoted =
            |tail: &Arc<Mutex<Tail>>| tail.lock().unwrap_or_else(PoisonError::into_inner).quoted();
        match self.tails.get(&slot).map(quoted) {
            Some(lines) if !lines.is_empty() => format!("; its last words:{lines}"),
            _ => String::new(),
        }
    }

    fn outcome(&mut self) -> Option<Outcome> {
        let end = self.fleet.end(self.now)?;
        let left = self.processes.len();
        if left > 0 {
            tracing::warn!(left, "ending without waiting for the last workers");
        }
        if let Some(reason) = self.fatal.take() {
            return Some(Outcome::Failed(reason));
        }
        match end {
            End::Stopped => Some(Outcome::Stopped),
            End::Failed(workers) => Some(Outcome::Failed(self.obituary(&workers))),
        }
    }

    /// Why no worker is left, by the example of the first that failed.
    fn obituary(&self, failed: &[WorkerId]) -> String {
        let app = &self.config.app;
        let Some(first) = failed.first() else { return "no worker is left".to_owned() };
        let exit = self.fleet.last_exit(first.slot).map_or_else(String::new, Exit::to_string);
        format!(
            "no worker of {} is left: {} of {} failed. Worker {} ({}) {exit}{}",
            app.name,
            failed.len(),
            app.workers,
            first.slot,
            app.script.display(),
            self.last_lines(first.slot)
        )
    }
}

/// Why there is no preload.
fn unwritten(error: &io::Error) -> String {
    format!(
        "the preload cannot be written into {}: {error}. Set XDG_RUNTIME_DIR or TMPDIR to a \
         directory that can be written, or use --no-preload",
        preload::runtime_directory().display()
    )
}

/// Nobody reads more than milliseconds.
fn rounded(duration: Duration) -> Duration {
    Duration::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

fn exit_of(status: ExitStatus) -> Exit {
    match (status.code(), status.signal()) {
        (Some(code), _) => Exit::Code(code),
        (None, signal) => Exit::Signal(signal.unwrap_or_default()),
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exited with code {code}"),
            Self::Signal(number) => match Signal::try_from(*number) {
                Ok(signal) => write!(f, "was ended by {signal}"),
                Err(_) => write!(f, "was ended by signal {number}"),
            },
            Self::Unstarted(reason) => f.write_str(reason),
        }
    }
}
