//! The loop around the pure parts: events, signals and time in, processes and messages out.
//!
//! It decides nothing about a worker's life; it owns the clock, the pids and the last words.

mod said;

use std::collections::HashMap;
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until, timeout};

use super::estate::{Estate, Left};
use super::fleet::{End, Fleet};
use super::frozen::{self, Frozen};
use super::ids::Ids;
use super::launch::{self, Launched};
use super::lines::Tail;
use super::logs;
use super::orders::{Order, Orders};
use super::output;
use super::pid_file;
use super::preload::{Part, Preload};
use super::reader::{Reader, Rest};
use super::table::{Moment, Rules};
use super::vocabulary::{Action, Exit, Input};
use super::wishes::Wishers;
use super::{ChannelEnd, DataPlane, Ended, Event, Origin, Outcome, Stage, Standing, Wish};
use crate::config::{Config, Mode};
use crate::route::WorkerId;
use crate::sys::pidfd::PidFd;
use crate::sys::{exec, process};

/// How long after a worker's exit its last output is waited for. Usually it is there already;
/// but a grandchild may hold the pipe open for ever.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// How often the sessions of a draining worker are looked at that does not say by itself when it
/// has none left.
const DRAIN_LOOK: Duration = Duration::from_millis(100);

/// Looks for silent workers in the time after which one is taken for hung.
const LISTENS: u32 = 8;

/// The numbers of a process's output.
const STDOUT: RawFd = 1;
const STDERR: RawFd = 2;

/// How often the workers' memory is looked at, where there is a limit.
const WEIGH: Duration = Duration::from_secs(2);

/// Starts the app's workers and keeps them running until a signal, or until none will run again.
///
/// `part` is what the workers' preload shall do; none: nothing is loaded into them. `ids` has the
/// workers' numbers.
///
/// Call it on a tokio current-thread runtime with I/O and time. Returns an error only when the
/// signals cannot be watched.
pub async fn run(
    config: &Config,
    part: Option<Part>,
    plane: &mut impl DataPlane,
    mut events: UnboundedReceiver<Event>,
    mut ordered: UnboundedReceiver<Order>,
    origin: Origin,
    ids: Ids,
) -> io::Result<Ended> {
    let preload = match part.map(Preload::write).transpose() {
        Ok(preload) => preload,
        Err(error) => return Ok(Ended::Over(Outcome::Failed(unwritten(&error)))),
    };
    let mut ended = signal(SignalKind::child())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut quit = signal(SignalKind::quit())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut more = signal(SignalKind::from_raw(Signal::SIGTTIN as i32))?;
    let mut less = signal(SignalKind::from_raw(Signal::SIGTTOU as i32))?;
    let (last_words, mut exits) = mpsc::unbounded_channel();
    let (wisher, mut wishes) = mpsc::unbounded_channel();
    let _wishers = Wishers::start(&config.app, &wisher);
    exec::release_signals()?;
    let now = match &origin {
        Origin::Frozen(frozen) => frozen.now,
        Origin::Fresh | Origin::Left(..) => Moment::ZERO,
    };
    let (watch, mut gone) = mpsc::unbounded_channel();
    let began = Instant::now().checked_sub(now).unwrap_or_else(Instant::now);
    let rules = Rules { app: &config.app, drain_timeout: config.drain_timeout };
    let mut supervisor = Supervisor {
        config,
        preload,
        ids,
        plane,
        fleet: Fleet::new(rules),
        processes: HashMap::new(),
        tails: HashMap::new(),
        last_words,
        watch,
        untold: Vec::new(),
        unique: 0,
        fatal: None,
        stands: None,
        orders: Orders::default(),
        now,
    };
    match origin {
        Origin::Fresh => supervisor.start(),
        Origin::Left(estate, within) => supervisor.adopt(&estate, within),
        Origin::Frozen(frozen) => supervisor.thaw(*frozen),
    }
    supervisor.tell_standing();
    let mut look = every(DRAIN_LOOK);
    let mut listen = every(config.hang_timeout.unwrap_or(DRAIN_LOOK) / LISTENS);
    let mut weigh = every(WEIGH);
    let mut plane_lives = true;
    loop {
        if let Some(outcome) = supervisor.outcome() {
            return Ok(Ended::Over(outcome));
        }
        supervisor.bequeath();
        let due = supervisor.fleet.deadline();
        let looks = supervisor.drains_unseen();
        // Signals first: a flood of events must not delay a stop.
        let turn = tokio::select! {
            biased;
            _ = terminate.recv() => Turn::Stop("SIGTERM"),
            _ = interrupt.recv() => Turn::Stop("SIGINT"),
            _ = quit.recv() => Turn::Stop("SIGQUIT"),
            _ = hangup.recv() => Turn::Wish(Wish::Reload { why: None }),
            _ = more.recv() => Turn::Wish(Wish::Scale(1)),
            _ = less.recv() => Turn::Wish(Wish::Scale(-1)),
            _ = ended.recv() => Turn::Reap,
            Some(pid) = gone.recv() => Turn::Gone(pid),
            Some(wish) = wishes.recv() => Turn::Wish(wish),
            Some(order) = ordered.recv() => Turn::Order(order),
            Some((worker, exit)) = exits.recv() => Turn::Exit(worker, exit),
            () = sleep_until(began + due.unwrap_or_default()), if due.is_some() => Turn::Tick,
            _ = look.tick(), if looks => Turn::Look,
            _ = weigh.tick(), if config.app.max_memory_restart.is_some() => Turn::Weigh,
            _ = listen.tick(), if config.hang_timeout.is_some() => Turn::Listen,
            event = events.recv(), if plane_lives => match event {
                Some(Event::Freeze) => return supervisor.freeze(began.elapsed()),
                Some(event) => event.into(),
                None => {
                    plane_lives = false;
                    continue;
                }
            },
        };
        supervisor.now = began.elapsed();
        supervisor.turn(turn);
        supervisor.tell_standing();
        supervisor.tell_orders();
    }
}

/// A turn that is late puts off those after it.
fn every(period: Duration) -> Interval {
    let mut interval = interval(period.max(Duration::from_millis(1)));
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// What one turn of the loop is about.
enum Turn {
    Stop(&'static str),
    Reap,
    /// A process that is not our child has ended.
    Gone(Pid),
    Tick,
    /// At the sessions of those that drain.
    Look,
    /// For those that have fallen silent.
    Listen,
    /// For those that have grown too large.
    Weigh,
    Wish(Wish),
    Order(Order),
    /// A process has ended and said its last words.
    Exit(WorkerId, Exit),
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
            // Taken before: see the loop.
            Event::Freeze => Self::Reap,
            Event::Drained(worker) => Self::Feed(worker, Input::Drained),
            Event::Attached(worker) => Self::Feed(worker, Input::Attached),
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

/// A process that has not been reaped, or, not being our child, has not been seen to end.
struct Process {
    worker: WorkerId,
    started: u64,
    /// Its number in its log files.
    number: u32,
    /// By this an orphan is signalled: nobody keeps its pid for us.
    orphan: Option<Rc<PidFd>>,
    /// `None`: nobody reads it any more.
    output: Option<Reader>,
}

struct Supervisor<'a, P> {
    config: &'a Config,
    preload: Option<Preload>,
    ids: Ids,
    plane: &'a mut P,
    fleet: Fleet<'a>,
    /// Invariant: our children that have not been reaped, so that a pid here is never another
    /// program's, and orphans.
    processes: HashMap<Pid, Process>,
    /// The last lines on stderr of each process, and of the last of each slot.
    tails: HashMap<WorkerId, Arc<Mutex<Tail>>>,
    /// Where an exit is told once the process's output has been read.
    last_words: UnboundedSender<(WorkerId, Exit)>,
    /// Where the end of an orphan is told.
    watch: UnboundedSender<Pid>,
    /// Exits that are still to be told so. They must outlast a freeze: nobody reaps these processes
    /// a second time.
    untold: Vec<(WorkerId, Exit)>,
    /// The last `NODE_UNIQUE_ID` given.
    unique: u32,
    /// Why the router ends, when not by the operator's wish.
    fatal: Option<String>,
    /// What the data plane has been told last.
    stands: Option<Standing>,
    /// Who waits for what.
    orders: Orders,
    /// The clock as read at the start of the turn.
    now: Moment,
}

impl<P: DataPlane> Supervisor<'_, P> {
    fn start(&mut self) {
        let app = &self.config.app;
        let script = app.script.display();
        tracing::info!(app = app.name, %script, workers = app.workers, "starting");
        let actions = self.fleet.start(self.now);
        self.perform(actions);
    }

    /// Goes on where another has stopped.
    fn thaw(&mut self, frozen: Frozen) {
        let Frozen { books, processes, untold, fatal, unique, configured, log_failures, .. } =
            frozen;
        let (dropped, failed) = log_failures;
        logs::count_from(dropped, failed);
        let rules = self.fleet.rules();
        (self.fleet, self.unique, self.fatal) = (Fleet::thaw(rules, books), unique, fatal);
        for mut process in processes {
            let rest = std::mem::take(&mut process.rest);
            let pipes = process.take_pipes().ok_or_else(|| io::Error::other("it has no pipes"));
            let frozen::Process { worker, pid, started, orphan, number, .. } = process;
            let number = number.unwrap_or_else(|| worker.slot.into());
            let orphan = if orphan {
                match self.watch(pid, started) {
                    Ok(process) => Some(process),
                    Err(_gone) => {
                        self.plane.detach(worker);
                        self.untold.push((worker, Exit::Unknown));
                        let _ = self.last_words.send((worker, Exit::Unknown));
                        continue;
                    }
                }
            } else {
                None
            };
            let output = self.read(worker, number, pipes, rest);
            let process = Process { worker, started, number, orphan, output };
            self.processes.insert(Pid::from_raw(pid), process);
        }
        for (worker, exit) in untold {
            let actions = self.fleet.feed(worker, Input::Exited(exit), self.now);
            self.perform(actions);
        }
        // Whoever ended while nobody looked.
        self.reap();
        let workers = self.config.app.workers;
        if workers != configured {
            let actions = self.fleet.scale(workers.into(), self.now);
            self.perform(actions);
        }
    }

    /// Goes on with the workers that a dead router has left.
    fn adopt(&mut self, estate: &Estate, within: Duration) {
        self.unique = estate.unique;
        let mut found = Vec::new();
        for left in estate.left().iter().copied() {
            let (number, Left { worker, pid, started, stage, .. }) = (left.number(), left);
            let Ok(orphan) = self.watch(pid, started) else {
                // It has ended by now: nobody waits for it.
                self.plane.detach(worker);
                continue;
            };
            let orphan = Some(orphan);
            let descriptor = |number| process::read_end(Pid::from_raw(pid), number);
            let pipes = descriptor(STDOUT).and_then(|out| Ok([out, descriptor(STDERR)?]));
            let output = self.read(worker, number, pipes, Rest::default());
            let process = Process { worker, started, number, orphan, output };
            self.processes.insert(Pid::from_raw(pid), process);
            found.push((worker, stage));
        }
        let app = &self.config.app;
        let script = app.script.display();
        tracing::info!(app = app.name, %script, workers = app.workers, left = found.len(),
            "taking over from a router that has died");
        let rules = self.fleet.rules();
        self.fleet = Fleet::adopting(rules, estate.habits, &found, self.now + within);
        let actions = self.fleet.start(self.now);
        self.perform(actions);
        if self.forks() {
            // There is nothing that they would have to find again.
            for (worker, _) in found {
                let actions = self.fleet.feed(worker, Input::Attached, self.now);
                self.perform(actions);
            }
        }
    }

    /// Whether the workers are ordinary processes.
    fn forks(&self) -> bool {
        self.config.app.mode == Mode::Fork
    }

    /// Watches a process that is not our child. An error: it has ended.
    fn watch(&self, pid: i32, started: u64) -> io::Result<Rc<PidFd>> {
        let pid = Pid::from_raw(pid);
        let process = Rc::new(PidFd::open(pid)?);
        // Only now can it not change any more whose pid this is.
        if process::started(pid)? != started {
            return Err(Errno::ESRCH.into());
        }
        let end = process.end()?;
        let tell = self.watch.clone();
        tokio::task::spawn_local(async move {
            end.await;
            let _ = tell.send(pid);
        });
        Ok(process)
    }

    /// Reads a worker's output on, if it can be had.
    fn read(
        &mut self,
        worker: WorkerId,
        number: u32,
        pipes: io::Result<[OwnedFd; 2]>,
        rest: Rest,
    ) -> Option<Reader> {
        let Config { log, app, .. } = self.config;
        let outlets = logs::outlets(self.config, number, output::printer());
        let output = pipes
            .and_then(|pipes| Reader::start(pipes, rest, *log, &app.name, worker, outlets))
            .inspect_err(|error| tracing::error!(%worker, %error, "the worker's output is lost"))
            .ok()?;
        self.tails.insert(worker, output.tail());
        Some(output)
    }

    /// Says who lives: what is known from outside, and to the next router if this one dies.
    fn bequeath(&mut self) {
        let left = self.processes.iter().filter_map(|(pid, process)| {
            let stage = self.fleet.stage(process.worker)?;
            let Process { worker, started, number, .. } = *process;
            Some(Left { worker, pid: pid.as_raw(), started, stage, number: Some(number) })
        });
        let mut left: Vec<Left> = left.collect();
        left.sort_unstable_by_key(|left| left.worker);
        let estate = Estate { unique: self.unique, habits: self.fleet.habits(), left };
        self.plane.bequeath(estate, self.fleet.ledger());
    }

    fn freeze(self, now: Moment) -> io::Result<Ended> {
        let fleet = &self.fleet;
        let processes = self.processes.into_iter().map(|(pid, process)| {
            let Process { worker, started, number, orphan, output } = process;
            let stopped = output.map(Reader::stop).transpose();
            let stopped = stopped.inspect_err(|error| {
                tracing::error!(%worker, %error, "the worker's output is lost");
            });
            let stage = fleet.stage(worker).unwrap_or(Stage::Stopping);
            let (pid, number) = (pid.as_raw(), Some(number));
            let left = Left { worker, pid, started, stage, number };
            frozen::Process::new(&left, orphan.is_some(), stopped.ok().flatten())
        });
        Ok(Ended::Frozen(Box::new(Frozen {
            now,
            processes: processes.collect(),
            untold: self.untold,
            fatal: self.fatal,
            books: self.fleet.freeze(),
            unique: self.unique,
            configured: self.config.app.workers,
            log_failures: (logs::dropped(), logs::failed_writes()),
        })))
    }

    fn turn(&mut self, turn: Turn) {
        let actions = match turn {
            Turn::Stop(signal) => {
                tracing::info!(signal, workers = self.fleet.alive(), "stopping");
                self.stop()
            }
            Turn::Tick => self.fleet.tick(self.now),
            // A process that is nobody's worker may close what it was given.
            Turn::Feed(_, Input::Closed) if self.forks() => return,
            Turn::Feed(worker, input) => {
                tracing::trace!(%worker, ?input, "happened");
                self.fleet.feed(worker, input, self.now)
            }
            Turn::Exit(worker, exit) => {
                tracing::debug!(%worker, ?exit, "ended");
                self.untold.retain(|(ended, _)| *ended != worker);
                self.fleet.feed(worker, Input::Exited(exit), self.now)
            }
            Turn::Look => self.look(),
            Turn::Listen => self.listen(),
            Turn::Weigh => self.weigh(),
            Turn::Wish(wish) => self.fulfil(wish),
            Turn::Order(order) => self.obey(order),
            Turn::Reap => {
                self.reap();
                return;
            }
            Turn::Gone(pid) => {
                self.ended(pid, Exit::Unknown);
                return;
            }
        };
        self.perform(actions);
    }

    fn fulfil(&mut self, wish: Wish) -> Vec<Action> {
        match wish {
            // Two of a kind may not get along: one ends, then the next begins.
            Wish::Reload { why } if self.forks() => {
                let why = why.unwrap_or_else(|| "a reload was asked for".to_owned());
                self.fulfil(Wish::Restart { why })
            }
            Wish::Recycle { worker, why } if self.forks() => {
                tracing::warn!(%worker, why, "recycling the worker");
                self.fleet.restart_slots(&[worker.slot], self.now)
            }
            Wish::Reload { why } => {
                if let Some(why) = why {
                    tracing::info!(why, "a reload is due");
                }
                self.fleet.reload(self.now)
            }
            Wish::Recycle { worker, why } => self.fleet.recycle(worker, why, self.now),
            Wish::Restart { why } => {
                tracing::info!(why, workers = self.fleet.wanted(), "restarting the workers");
                self.fleet.restart(self.now)
            }
            // A worker that he does not know of could not be named by anybody.
            Wish::Scale(_) if self.ids.are_given() => {
                tracing::warn!(
                    "how many workers there are is for the daemon to say: `router scale NAME +1`"
                );
                vec![]
            }
            Wish::Scale(by) => {
                let to = self.fleet.wanted().saturating_add_signed(by);
                self.fleet.scale(to, self.now)
            }
            Wish::ScaleTo(to) => self.fleet.scale(to, self.now),
            Wish::RestartSlots(slots) => {
                tracing::info!(?slots, "restarting workers");
                self.fleet.restart_slots(&slots, self.now)
            }
            Wish::Halt(slots) => {
                tracing::info!(?slots, "stopping workers");
                self.fleet.halt(&slots, self.now)
            }
            Wish::Resume(slots) => self.fleet.resume(&slots, self.now),
            Wish::Reset(slots) => {
                self.fleet.reset(slots.as_deref());
                vec![]
            }
            Wish::Signal(signal, slots) => {
                for (worker, _) in self.fleet.stages() {
                    if slots.as_ref().is_none_or(|slots| slots.contains(&worker.slot)) {
                        self.kill(worker, signal);
                    }
                }
                vec![]
            }
        }
    }

    /// Fulfils the wish of somebody who waits, if it can be.
    fn obey(&mut self, order: Order) -> Vec<Action> {
        let Order { wish, done } = order;
        let unknown = match &wish {
            Wish::RestartSlots(slots) | Wish::Halt(slots) | Wish::Resume(slots) => {
                slots.iter().find(|slot| !self.fleet.has_slot(**slot))
            }
            _ => None,
        };
        let refusal = match unknown {
            _ if self.fleet.stopping() => Some("it is stopping".to_owned()),
            Some(slot) => Some(format!("it has no worker {slot}")),
            None => None,
        };
        if let Some(refusal) = refusal {
            // Whoever asked need not have waited.
            let _ = done.send(Err(refusal));
            return vec![];
        }
        self.orders.begin(&wish, done);
        self.fulfil(wish)
    }

    /// After the whole of a turn.
    fn tell_orders(&mut self) {
        let mut orders = std::mem::take(&mut self.orders);
        orders.settle(&self.fleet, |worker| self.last_lines(worker));
        self.orders = orders;
    }

    /// Whether a worker drains that does not say by itself when it has no sessions left.
    fn drains_unseen(&self) -> bool {
        self.draining().any(|worker| !self.plane.says_when_drained(worker))
    }

    fn draining(&self) -> impl Iterator<Item = WorkerId> {
        let stages = self.fleet.stages();
        stages.filter(|(_, stage)| *stage == Stage::Draining).map(|(worker, _)| worker)
    }

    fn look(&mut self) -> Vec<Action> {
        let drained = self.draining().filter(|worker| {
            !self.plane.says_when_drained(*worker) && self.plane.sessions(*worker) == 0
        });
        let drained: Vec<WorkerId> = drained.collect();
        let fleet = &mut self.fleet;
        let fed =
            drained.into_iter().flat_map(|worker| fleet.feed(worker, Input::Drained, self.now));
        fed.collect()
    }

    fn weigh(&mut self) -> Vec<Action> {
        let Some(most) = self.config.app.max_memory_restart else { return vec![] };
        let ready = self
            .processes
            .iter()
            .filter(|(_, process)| self.fleet.stage(process.worker) == Some(Stage::Ready));
        let heavy = ready.filter_map(|(pid, process)| {
            // One that has just ended weighs nothing.
            let bytes = process::usage(*pid).ok()?.resident;
            (bytes > most).then_some((process.worker, bytes))
        });
        let heavy: Vec<_> = heavy.collect();
        let mut actions = Vec::new();
        for (worker, bytes) in heavy {
            let why = format!("its memory is {} MiB, more than {} MiB", bytes >> 20, most >> 20);
            actions.extend(self.fulfil(Wish::Recycle { worker, why }));
        }
        actions
    }

    fn listen(&mut self) -> Vec<Action> {
        let Some(timeout) = self.config.hang_timeout else { return vec![] };
        let silent = self.fleet.stages().filter_map(|(worker, stage)| {
            let silent = self.plane.silence(worker).filter(|silent| *silent > timeout)?;
            // One that starts has its own time limit.
            matches!(stage, Stage::Ready | Stage::Draining).then_some((worker, silent))
        });
        let silent: Vec<_> = silent.collect();
        let fleet = &mut self.fleet;
        let feed = |(worker, silent)| fleet.feed(worker, Input::Hung(silent), self.now);
        silent.into_iter().flat_map(feed).collect()
    }

    /// Places of the present worker's that its successor does not serve.
    fn compare(&mut self, successor: WorkerId, present: WorkerId) -> Vec<Action> {
        let has = self.plane.places(successor);
        let missing = self.plane.places(present).into_iter().filter(|place| !has.contains(place));
        let missing = Input::Compared(missing.collect());
        self.fleet.feed(successor, missing, self.now)
    }

    /// After the whole of a turn: when a worker is ready, so is the place where it is reached.
    fn tell_standing(&mut self) {
        let stands = Some(self.fleet.standing());
        if let (Some(standing), true) = (stands, stands != self.stands) {
            self.stands = stands;
            self.plane.stands(standing);
        }
    }

    fn stop(&mut self) -> Vec<Action> {
        if !self.fleet.stopping() {
            self.plane.stop_accepting();
        }
        self.fleet.stop(self.now)
    }

    /// Children that ended.
    fn reap(&mut self) {
        let (fleet, processes) = (&self.fleet, &self.processes);
        let treekill = self.config.app.treekill;
        let ended = process::reap(|pid| {
            // What was asked to end leaves nobody of its process group behind.
            let worker = processes.get(&pid).map(|process| process.worker);
            worker.is_some_and(|worker| treekill && fleet.stage(worker) == Some(Stage::Stopping))
        });
        for (pid, status) in ended {
            // As process 1 of a container we are handed strangers, too.
            self.ended(pid, exit_of(status));
        }
    }

    /// A process is gone. The fleet learns of it once the last words are read.
    fn ended(&mut self, pid: Pid, exit: Exit) {
        let Some(Process { worker, output, number, .. }) = self.processes.remove(&pid) else {
            return;
        };
        // A reload that failed has left the old worker beside its successor.
        let mut others = self.processes.iter().filter(|(_, process)| process.number == number);
        let other = others.next().map(|(pid, _)| *pid);
        pid_file::replace(self.config.app.pid_file.as_ref(), number, pid, other);
        self.plane.detach(worker);
        self.untold.push((worker, exit.clone()));
        let last_words = self.last_words.clone();
        tokio::task::spawn_local(async move {
            if let Some(mut output) = output {
                let _ = timeout(LAST_WORDS, output.ended()).await;
            }
            // Only a supervisor that has returned does not listen.
            let _ = last_words.send((worker, exit));
        });
    }

    fn perform(&mut self, actions: Vec<Action>) {
        for action in actions {
            tracing::debug!(?action, "to be done");
            match action {
                Action::Spawn(worker) => self.spawn(worker),
                Action::SetReady(worker, ready) => {
                    // Once it is reaped the data plane no longer knows it.
                    if self.pid(worker).is_some() {
                        self.plane.set_ready(worker, ready);
                    }
                }
                Action::Drain(worker) => {
                    if self.pid(worker).is_some() {
                        let Config { drain_timeout, disconnect_over, .. } = *self.config;
                        self.plane.drain(worker, drain_timeout, disconnect_over);
                    }
                }
                Action::Compare { successor, present } => {
                    let actions = self.compare(successor, present);
                    self.perform(actions);
                }
                Action::Tell(news) => self.tell(&news),
                Action::Terminate(worker) if self.config.app.shutdown_with_message => {
                    self.plane.shutdown_message(worker);
                }
                Action::Terminate(worker) | Action::Signal(worker) => {
                    self.kill(worker, self.config.app.kill_signal);
                }
                Action::Kill(worker) => self.kill(worker, Signal::SIGKILL),
                // They have nothing to do with the router's ports.
                Action::OpenDefaultListener if self.forks() => {}
                Action::OpenDefaultListener => match self.plane.open_default_listener() {
                    Ok(()) => {}
                    // It has shown nothing that could serve anybody: a job in the background, say.
                    Err(reason) if self.fleet.habits().silent => {
                        tracing::warn!(reason, "no port is opened for a worker that may need none");
                    }
                    Err(reason) => _ = self.fatal.get_or_insert(reason),
                },
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
        let number = self.ids.number(worker.slot);
        let outlets = logs::outlets(self.config, number, output::printer());
        let preload = self.preload.as_ref();
        match launch::launch(self.config, worker, self.unique, number, outlets, preload) {
            Ok(Launched { pid, channel, lane, output }) => {
                tracing::info!(%worker, pid = pid.as_raw(), "worker started");
                pid_file::write(self.config.app.pid_file.as_ref(), number, pid);
                self.forget_tails(worker.slot);
                self.tails.insert(worker, output.tail());
                // It is our child and not reaped, so that it has a line in /proc, if there is one.
                let started = process::started(pid).unwrap_or(0);
                let output = Some(output);
                let process = Process { worker, started, number, orphan: None, output };
                self.processes.insert(pid, process);
                self.plane.attach(worker, channel, lane);
                if self.forks() && !self.config.app.wait_ready {
                    let actions = self.fleet.feed(worker, Input::Ready, self.now);
                    self.perform(actions);
                }
            }
            Err(error) => {
                let reason =
                    format!("{} could not be started: {error}", self.config.app.interpreter);
                // Told like any exit, in a turn of its own: a restart at once must not recurse.
                let exit = Exit::Unstarted(reason);
                self.untold.push((worker, exit.clone()));
                let _ = self.last_words.send((worker, exit));
            }
        }
    }

    /// Those of processes that are gone: a new one begins.
    fn forget_tails(&mut self, slot: u16) {
        let fleet = &self.fleet;
        self.tails.retain(|worker, _| worker.slot != slot || fleet.stage(*worker).is_some());
    }

    fn pid(&self, worker: WorkerId) -> Option<Pid> {
        let mut processes = self.processes.iter();
        processes.find(|(_, process)| process.worker == worker).map(|(pid, _)| *pid)
    }

    fn kill(&self, worker: WorkerId, signal: Signal) {
        let Some(pid) = self.pid(worker) else { return };
        let orphan = self.processes.get(&pid).and_then(|process| process.orphan.as_ref());
        let kill = if self.config.app.treekill { process::kill_tree } else { process::kill };
        // As long as it lives its pid is its own.
        let killed = match orphan {
            Some(orphan) => orphan.probe().and_then(|()| kill(pid, signal)),
            None => kill(pid, signal),
        };
        if let Err(error) = killed {
            tracing::warn!(%worker, %signal, %error, "the worker could not be signalled");
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
}

/// Why there is no preload.
fn unwritten(error: &io::Error) -> String {
    format!(
        "the preload cannot be written: {error}. Name a directory that can be written with \
         --runtime-dir, or use --no-preload"
    )
}

fn exit_of(status: ExitStatus) -> Exit {
    match (status.code(), status.signal()) {
        (Some(code), _) => Exit::Code(code),
        (None, signal) => Exit::Signal(signal.unwrap_or_default()),
    }
}
