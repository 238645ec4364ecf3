//! One worker's life as a table: a state, an input and the time in; actions out.
//!
//! Pure: it knows no process, no clock and no channel. `slot.rs` keeps the one or two [`Worker`]s
//! of a slot and shows each of them what stands around it ([`Around`]).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Stage;
use super::vocabulary::{Action, Exit, Input, Note, Trouble};
use crate::config::App;
use crate::route::WorkerId;

/// Time since the supervisor started.
pub(super) type Moment = Duration;

/// How long a worker that shows its first adapter heartbeat may still be about to listen.
pub(super) const SETTLE: Duration = Duration::from_millis(250);
/// How long a worker that closed its channel may go on before it is asked to end.
pub(super) const LEAVE: Duration = Duration::from_secs(30);
/// The same for a worker on trial: most that close their channel at their start are ending.
pub(super) const LAST_BREATH: Duration = Duration::from_secs(1);
/// How long Node itself may take to boot before a worker on trial is given up: a busy host must
/// not fail a reload, a worker that hangs before its first line must.
pub(super) const BOOT: Duration = Duration::from_secs(10);
/// What a backoff grows to.
pub(super) const BACKOFF_MAX: Duration = Duration::from_secs(15);
/// After a life this long the backoff starts anew.
pub(super) const BACKOFF_RESET: Duration = Duration::from_secs(30);

/// Where a worker is in its life.
///
/// ```text
///            start              sign of readiness          drain
///   Down ──────────► Starting ───────────────────► Ready ────────► Draining
///    ▲                │  │ ▲                       │  │ │              │
///    │           exit │  │ │ delay over       exit │  │ │ stop asked,  │ drained, its time over,
///    │                ▼  │ │                       │  │ │ channel gone,│ stop asked, channel gone
///    │◄───(rules)───── · ◄─┼───────────────────────┘  │ │ hung         │
///    │                 │ │ │                          ▼ ▼              │
///    │                 │ │ │  from Starting, too ─► Stopping ◄─────────┘
///    │                 │ ▼ │                          │
///    │                 │ Backoff ◄────(rules)─────────┤ exit
///    │                 ▼                              │
///    │              Errored                           │
///    └────────────────────────────────────────────────┘ exit, if it was meant to leave for good
///
///            attached
///   Awaited ──────────► Starting, Ready, Draining or Stopping: as it was left
///    │  │ time over
///    │  └─────────────► Stopping
///    └─ exit ─────────► Backoff (at once), or Down if it was leaving
/// ```
///
/// (rules): no restart wanted -> Down; too many unstable lives in a row -> Errored; else
/// Backoff. A process exists in Starting, Ready, Draining, Stopping and Awaited, and in no other
/// state. A Draining worker's exit is what was wanted: Down.
///
/// On trial (the successor in a reload) a worker shows that it is ready and is then compared with
/// the one it shall succeed; whatever goes wrong before that gives it up for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum State {
    /// No process, and none will be started.
    Down,
    /// A process of an earlier router's, which has not attached yet.
    Awaited {
        /// When it is given up.
        until: Moment,
        /// What it becomes.
        left: Stage,
    },
    /// The process runs and has not shown that it is ready.
    Starting {
        /// Node is up: what follows is the app's own start.
        online: bool,
        /// When the patience for a sign ends; `None` once it has been warned of.
        patience: Option<Moment>,
        /// When a heartbeat without a request to listen counts as ready.
        settle: Option<Moment>,
        /// It has asked to listen.
        listens: bool,
    },
    /// It may be given sockets.
    Ready,
    /// It gets no new sessions, and ends when it has none left or at this time.
    Draining {
        /// When what it still has is cut.
        until: Moment,
    },
    /// It is to end.
    Stopping {
        /// As it should: it stays down.
        wanted: bool,
        /// What is done next if it does not.
        next: Next,
    },
    /// No process; one is started at this time.
    Backoff(Moment),
    /// No process: given up after too many unstable lives.
    Errored,
}

/// The next step against a worker that is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Next {
    /// Ask it to, at this time: it left by itself and is still at it.
    Ask(Moment),
    /// SIGKILL, at this time.
    Kill(Moment),
    /// SIGKILL has been sent.
    Wait,
}

/// What is known of the app's habits, learned from any of its workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Habits {
    /// Some worker has asked to listen.
    pub(super) listens: bool,
    /// Some worker became ready without.
    pub(super) never_listens: bool,
    /// The last worker that was taken as ready had shown no sign, and has shown none since.
    pub(super) silent: bool,
}

/// What the operator set.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules<'a> {
    pub(super) app: &'a App,
    /// How long a draining worker's sessions may last.
    pub(super) drain_timeout: Duration,
}

/// What a worker needs to know beyond itself.
#[derive(Debug)]
pub(super) struct Around<'a> {
    pub(super) rules: Rules<'a>,
    pub(super) habits: &'a mut Habits,
    pub(super) now: Moment,
    /// The highest generation its slot has had.
    pub(super) latest: u32,
    /// The other process that lives in its slot.
    pub(super) other: Option<WorkerId>,
    /// That one is to succeed it.
    pub(super) succeeded: bool,
}

/// One process in a slot, and what came of those before it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Worker {
    /// The process there is, or was last; generation 0 before the first.
    pub(super) id: WorkerId,
    /// Where it is in its life.
    pub(super) state: State,
    /// How the last one ended.
    pub(super) last_exit: Option<Exit>,
    /// Why the process was given up, if it was.
    pub(super) trouble: Option<Trouble>,
    /// When the process was started.
    pub(super) started: Moment,
    /// It shall succeed another, if it proves as good.
    trial: Option<Trial>,
    /// Unstable lives in a row.
    unstable: u32,
    /// The last pause of the growing backoff.
    backoff: Option<Duration>,
}

/// How far a successor is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Trial {
    /// By itself it would be ready.
    shown: bool,
    /// But only because it never shows a sign.
    silent: bool,
    /// What it did not serve when last compared.
    missing: Vec<String>,
}

impl Worker {
    /// Without a process.
    pub(super) fn new(slot: u16) -> Self {
        Self {
            id: WorkerId { slot, generation: 0 },
            state: State::Down,
            last_exit: None,
            trouble: None,
            started: Moment::ZERO,
            trial: None,
            unstable: 0,
            backoff: None,
        }
    }

    /// One that shall succeed another.
    pub(super) fn on_trial(slot: u16) -> Self {
        Self { trial: Some(Trial::default()), ..Self::new(slot) }
    }

    /// A process that an earlier router has left so.
    pub(super) fn awaited(id: WorkerId, left: Stage, until: Moment) -> Self {
        Self { id, state: State::Awaited { until, left }, ..Self::new(id.slot) }
    }

    /// Whether a process exists.
    pub(super) fn alive(&self) -> bool {
        self.stage().is_some() || matches!(self.state, State::Awaited { .. })
    }

    /// Whether nothing will happen to it by itself.
    pub(super) fn resting(&self) -> bool {
        matches!(self.state, State::Down | State::Errored)
    }

    /// Whether its process is to go and no other to follow.
    pub(super) fn leaving(&self) -> bool {
        match self.state {
            State::Draining { .. } => true,
            State::Stopping { wanted, .. } => wanted,
            State::Awaited { left, .. } => matches!(left, Stage::Draining | Stage::Stopping),
            _ => false,
        }
    }

    /// How far its process is; what the roll says of it.
    pub(super) fn stage(&self) -> Option<Stage> {
        match self.state {
            State::Starting { .. } => Some(Stage::Starting),
            State::Ready => Some(Stage::Ready),
            State::Draining { .. } => Some(Stage::Draining),
            State::Stopping { .. } => Some(Stage::Stopping),
            State::Awaited { left, .. } => Some(left),
            State::Down | State::Backoff(_) | State::Errored => None,
        }
    }

    /// The operator starts it anew: what it did before does not count.
    pub(super) fn forget(&mut self) {
        self.unstable = 0;
        self.backoff = None;
    }

    /// When [`Input::Tick`] has something to do.
    pub(super) fn deadline(&self) -> Option<Moment> {
        match self.state {
            State::Starting { patience, settle, .. } => patience.into_iter().chain(settle).min(),
            State::Stopping { next: Next::Ask(at) | Next::Kill(at), .. }
            | State::Backoff(at)
            | State::Draining { until: at }
            | State::Awaited { until: at, .. } => Some(at),
            State::Stopping { next: Next::Wait, .. }
            | State::Down
            | State::Ready
            | State::Errored => None,
        }
    }

    /// The table.
    pub(super) fn step(&mut self, input: Input, around: &mut Around<'_>) -> Vec<Action> {
        use State::{Awaited, Backoff, Down, Draining, Errored, Ready, Starting, Stopping};
        let (app, now) = (around.rules.app, around.now);
        match input {
            Input::Listens => *around.habits = Habits { listens: true, ..Habits::default() },
            Input::Listening | Input::Ready => around.habits.silent = false,
            _ => {}
        }
        match (self.state, input) {
            (Down | Errored | Backoff(_), Input::Start) => self.spawn(around),
            (Backoff(at), Input::Tick) if at <= now => self.spawn(around),
            (Backoff(_) | Errored, Input::Stop | Input::Kill | Input::Drain) => {
                self.state = Down;
                vec![]
            }

            (Awaited { left, .. }, Input::Attached) => self.attached(left, around),
            (Awaited { until, .. }, Input::Drain) => {
                self.state = Awaited { until, left: Stage::Draining };
                vec![]
            }
            (Awaited { left, until }, Input::Tick) if until <= now => {
                self.trouble = Some(Trouble::NeverAttached);
                let wanted = matches!(left, Stage::Draining | Stage::Stopping);
                self.state = Stopping { wanted, next: Next::Wait };
                vec![Action::Say(self.id, Note::OrphanLost(None)), Action::Kill(self.id)]
            }
            (Awaited { left, .. }, Input::Exited(exit)) => {
                // It may have run for days: no unstable life, no pause.
                let leaves = matches!(left, Stage::Draining | Stage::Stopping);
                self.state = if leaves || !app.autorestart { Down } else { Backoff(now) };
                self.last_exit = Some(exit.clone());
                vec![Action::Say(self.id, Note::OrphanLost(Some(exit)))]
            }
            (Awaited { .. }, Input::Stop) => {
                self.state = Stopping { wanted: true, next: Next::Kill(now + app.kill_timeout) };
                vec![Action::Signal(self.id)]
            }

            (
                Starting { .. },
                sign @ (Input::Online | Input::Heartbeat | Input::Listens | Input::Tick),
            ) => self.starting(sign, around),
            (Starting { .. }, Input::Ready) => self.ready(None, around),
            (Starting { .. }, Input::Listening) if !app.wait_ready || self.shown() => {
                around.habits.listens = true;
                self.ready(None, around)
            }
            (Starting { .. }, Input::Compared(missing)) => self.compared(missing, around),
            (Starting { .. } | Stopping { .. }, Input::Alone) => {
                let shown = self.trial.take().is_some_and(|trial| trial.shown);
                let runs = matches!(self.state, Starting { .. });
                if shown && runs { self.ready(None, around) } else { vec![] }
            }

            (Ready, Input::Drain) => {
                let within = around.rules.drain_timeout;
                self.state = Draining { until: now + within };
                vec![Action::Drain(self.id), Action::Say(self.id, Note::Draining(within))]
            }
            (Draining { .. }, Input::Drained) => self.drained(Note::Drained, around),
            (Draining { until }, Input::Tick) if until <= now => {
                self.drained(Note::DrainOver, around)
            }

            (Starting { .. }, Input::Closed) if self.trial.is_some() => {
                self.state = Stopping { wanted: false, next: Next::Ask(now + LAST_BREATH) };
                vec![Action::Say(self.id, Note::Left)]
            }
            (Starting { .. } | Ready, Input::Closed) => {
                self.state = Stopping { wanted: false, next: Next::Ask(now + LEAVE) };
                vec![Action::SetReady(self.id, false), Action::Say(self.id, Note::Left)]
            }
            (Draining { until }, Input::Closed) => {
                // What it still has it may finish, as if it drained.
                self.state = Stopping { wanted: true, next: Next::Ask(until.min(now + LEAVE)) };
                vec![Action::Say(self.id, Note::Left)]
            }
            (
                Starting { .. } | Ready | Draining { .. } | Stopping { wanted: false, .. },
                Input::Broken(why),
            ) => self.give_up(Trouble::Broken(why.clone()), Some(Note::Broken(why))),
            (Starting { .. } | Ready | Draining { .. }, Input::Hung(silent)) => {
                self.give_up(Trouble::Hung(silent), Some(Note::Hung(silent)))
            }

            (Ready, Input::Stop) => {
                self.state = Stopping { wanted: true, next: Next::Kill(now + app.kill_timeout) };
                vec![Action::SetReady(self.id, false), Action::Terminate(self.id)]
            }
            // What has not had a session yet has none to drain.
            (Starting { .. }, Input::Stop | Input::Drain) => {
                self.state = Stopping { wanted: true, next: Next::Kill(now + app.kill_timeout) };
                vec![Action::SetReady(self.id, false), Action::Terminate(self.id)]
            }
            (Draining { .. }, Input::Stop) => {
                self.state = Stopping { wanted: true, next: Next::Kill(now + app.kill_timeout) };
                vec![Action::Terminate(self.id)]
            }
            (Stopping { next: Next::Ask(_), .. }, Input::Stop) => {
                self.state = Stopping { wanted: true, next: Next::Kill(now + app.kill_timeout) };
                vec![Action::Signal(self.id)]
            }
            // Asked or killed already, or leaving by itself; only its reason changes.
            (Stopping { next, .. }, Input::Stop | Input::Drain) => {
                self.state = Stopping { wanted: true, next };
                vec![]
            }
            (
                Starting { .. } | Ready | Draining { .. } | Stopping { .. } | Awaited { .. },
                Input::Kill,
            ) => {
                self.state = Stopping { wanted: true, next: Next::Wait };
                vec![Action::SetReady(self.id, false), Action::Kill(self.id)]
            }
            (Stopping { wanted, next: Next::Ask(at) }, Input::Tick) if at <= now => {
                self.state = Stopping { wanted, next: Next::Kill(now + app.kill_timeout) };
                vec![Action::Signal(self.id)]
            }
            (Stopping { wanted, next: Next::Kill(at) }, Input::Tick) if at <= now => {
                self.state = Stopping { wanted, next: Next::Wait };
                vec![Action::Say(self.id, Note::Overdue), Action::Kill(self.id)]
            }

            (Draining { .. } | Stopping { wanted: true, .. }, Input::Exited(exit)) => {
                self.ended(exit, now)
            }
            (Starting { .. } | Stopping { .. }, Input::Exited(exit)) if self.trial.is_some() => {
                self.trouble.get_or_insert_with(|| Trouble::Exited(exit.clone()));
                self.ended(exit, now)
            }
            (Starting { .. } | Ready | Stopping { .. }, Input::Exited(exit)) => {
                self.exited(exit, around)
            }
            // Late words of a worker whose fate is settled, and signs that say nothing new.
            _ => vec![],
        }
    }

    fn spawn(&mut self, around: &Around<'_>) -> Vec<Action> {
        assert!(!self.alive(), "slot {}: a second process", self.id.slot);
        let mut generation = around.latest + 1;
        // The two that live in a slot differ in parity: see `WorkerId::seat`.
        if around.other.is_some_and(|other| other.generation & 1 == generation & 1) {
            generation += 1;
        }
        self.id.generation = generation;
        self.trouble = None;
        self.started = around.now;
        self.state = State::Starting {
            online: false,
            patience: Some(around.now + around.rules.app.listen_timeout),
            settle: None,
            listens: false,
        };
        vec![Action::Spawn(self.id)]
    }

    /// It goes on from where its last router saw it.
    fn attached(&mut self, left: Stage, around: &Around<'_>) -> Vec<Action> {
        let (rules, now) = (around.rules, around.now);
        let (state, action) = match left {
            Stage::Starting => {
                let patience = Some(now + rules.app.listen_timeout);
                let state =
                    State::Starting { online: true, patience, settle: None, listens: false };
                (state, None)
            }
            Stage::Ready => (State::Ready, Some(Action::SetReady(self.id, true))),
            Stage::Draining => {
                let until = now + rules.drain_timeout;
                (State::Draining { until }, Some(Action::Drain(self.id)))
            }
            Stage::Stopping => {
                let next = Next::Kill(now + rules.app.kill_timeout);
                (State::Stopping { wanted: true, next }, Some(Action::Terminate(self.id)))
            }
        };
        self.state = state;
        let adopted = Action::Say(self.id, Note::Adopted);
        [adopted].into_iter().chain(action).collect()
    }

    /// A sign that is not yet readiness, or none in time.
    fn starting(&mut self, input: Input, around: &mut Around<'_>) -> Vec<Action> {
        let (app, now) = (around.rules.app, around.now);
        let State::Starting { online, patience, settle, listens } = &mut self.state else {
            return vec![];
        };
        match input {
            Input::Online => {
                *online = true;
                // Node itself was slow to boot; the app gets its full time all the same.
                let late = now >= self.started + app.listen_timeout;
                if late && (patience.is_none() && !app.wait_ready || self.trial.is_some()) {
                    *patience = Some(now + app.listen_timeout);
                }
                vec![]
            }
            Input::Heartbeat if app.wait_ready || around.habits.listens || *listens => vec![],
            Input::Heartbeat if around.habits.never_listens => self.ready(None, around),
            Input::Heartbeat => {
                settle.get_or_insert(now + SETTLE);
                vec![]
            }
            Input::Listens => {
                *listens = true;
                *settle = None;
                vec![]
            }
            _ if settle.is_some_and(|at| at <= now) => {
                *settle = None;
                // Meanwhile a sibling asked to listen: so will this one.
                if around.habits.listens { vec![] } else { self.ready(None, around) }
            }
            _ if patience.is_some_and(|at| at <= now) => {
                *patience = None;
                match &self.trial {
                    Some(trial) if trial.shown => {
                        let missing = trial.missing.clone();
                        self.give_up(Trouble::Missing(missing), None)
                    }
                    Some(_) if !*online && now < self.started + BOOT => {
                        *patience = Some(self.started + BOOT);
                        vec![]
                    }
                    Some(_) if !*online || app.wait_ready || !around.habits.silent => {
                        let waited = now.saturating_sub(self.started);
                        self.give_up(Trouble::NotReady(waited), None)
                    }
                    None if app.wait_ready => vec![Action::Say(self.id, Note::StillWaiting)],
                    None if !*online => vec![],
                    _ => self.ready(Some(Note::TakenAsReady), around),
                }
            }
            _ => vec![],
        }
    }

    fn ready(&mut self, warning: Option<Note>, around: &mut Around<'_>) -> Vec<Action> {
        if let Some(trial) = &mut self.trial {
            trial.shown = true;
            trial.silent = warning.is_some();
            let compare = |present| Action::Compare { successor: self.id, present };
            return around.other.map(compare).into_iter().collect();
        }
        let habits = &mut *around.habits;
        habits.silent = warning.is_some() && !habits.listens;
        let after = around.now.saturating_sub(self.started);
        self.state = State::Ready;
        // Said when it is so: whoever reads it may count on the worker.
        let note = warning.unwrap_or(Note::Ready(after));
        let mut actions = vec![Action::SetReady(self.id, true), Action::Say(self.id, note)];
        if !habits.listens && !habits.never_listens {
            habits.never_listens = true;
            // Before the worker may be given sockets, so that a failure is told first.
            actions.insert(0, Action::OpenDefaultListener);
        }
        actions
    }

    /// By itself it would be ready.
    fn shown(&self) -> bool {
        self.trial.as_ref().is_some_and(|trial| trial.shown)
    }

    /// What it does not serve of what the other does: nothing is the end of its trial.
    fn compared(&mut self, missing: Vec<String>, around: &mut Around<'_>) -> Vec<Action> {
        let State::Starting { patience, .. } = self.state else { return vec![] };
        let Some(trial) = self.trial.as_mut().filter(|trial| trial.shown) else { return vec![] };
        if missing.is_empty() {
            let warning = trial.silent.then_some(Note::TakenAsReady);
            self.trial = None;
            return self.ready(warning, around);
        }
        trial.missing.clone_from(&missing);
        // It may be about to listen there, unless its time is over.
        if patience.is_some() { vec![] } else { self.give_up(Trouble::Missing(missing), None) }
    }

    /// What it has is over: it is asked to end.
    fn drained(&mut self, note: Note, around: &Around<'_>) -> Vec<Action> {
        let next = Next::Kill(around.now + around.rules.app.kill_timeout);
        self.state = State::Stopping { wanted: true, next };
        vec![Action::Say(self.id, note), Action::Terminate(self.id)]
    }

    /// Killed, and the reason kept. What was not leaving is started again by the rules.
    fn give_up(&mut self, why: Trouble, note: Option<Note>) -> Vec<Action> {
        let wanted = self.trial.is_some() || self.leaving();
        self.trouble = Some(why);
        self.state = State::Stopping { wanted, next: Next::Wait };
        let note = note.map(|note| Action::Say(self.id, note));
        let actions = [Action::SetReady(self.id, false)].into_iter().chain(note);
        actions.chain([Action::Kill(self.id)]).collect()
    }

    /// Gone for good.
    fn ended(&mut self, exit: Exit, now: Moment) -> Vec<Action> {
        self.state = State::Down;
        self.last_exit = Some(exit.clone());
        vec![Action::Say(self.id, Note::Ended(exit, now.saturating_sub(self.started)))]
    }

    /// The rules of what follows an exit nobody asked for.
    fn exited(&mut self, exit: Exit, around: &Around<'_>) -> Vec<Action> {
        let (app, now) = (around.rules.app, around.now);
        let uptime = now.saturating_sub(self.started);
        let enough = matches!(exit, Exit::Code(code) if app.stop_exit_codes.contains(&code));
        if enough || !app.autorestart || around.succeeded {
            return self.ended(exit, now);
        }
        self.last_exit = Some(exit.clone());
        self.unstable = if uptime < app.min_uptime { self.unstable + 1 } else { 0 };
        if self.unstable > app.max_restarts {
            self.state = State::Errored;
            return vec![Action::Say(self.id, Note::Errored(exit, self.unstable))];
        }
        let delay = self.delay(app, uptime);
        self.state = State::Backoff(now + delay);
        vec![Action::Say(self.id, Note::Restart(exit, uptime, delay))]
    }

    fn delay(&mut self, app: &App, uptime: Duration) -> Duration {
        if !app.restart_delay.is_zero() {
            return app.restart_delay;
        }
        let first = app.exp_backoff_restart_delay.min(BACKOFF_MAX);
        let delay = match self.backoff {
            Some(last) if uptime < BACKOFF_RESET => (last * 3 / 2).min(BACKOFF_MAX),
            _ => first,
        };
        self.backoff = Some(delay);
        delay
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app() -> App {
        App::fixture()
    }

    /// One worker driven step by step; time is in milliseconds.
    struct Life {
        worker: Worker,
        app: App,
        habits: Habits,
    }

    impl Life {
        fn started(app: App) -> Self {
            let mut life = Self { worker: Worker::new(0), app, habits: Habits::default() };
            assert_eq!(life.at(0, Input::Start), [Action::Spawn(life.worker.id)]);
            life
        }

        fn at(&mut self, ms: u64, input: Input) -> Vec<Action> {
            let mut around = Around {
                rules: Rules { app: &self.app, drain_timeout: Duration::from_secs(30) },
                habits: &mut self.habits,
                now: Duration::from_millis(ms),
                latest: self.worker.id.generation,
                other: None,
                succeeded: false,
            };
            self.worker.step(input, &mut around)
        }

        fn is_ready(&self) -> bool {
            self.worker.state == State::Ready
        }

        /// Crashes and comes back; returns the pause.
        fn crash(&mut self, ms: u64) -> Duration {
            match self.at(ms, Input::Exited(Exit::Code(1))).as_slice() {
                [Action::Say(_, Note::Restart(_, _, delay))] => {
                    let delay = *delay;
                    let due = ms + u64::try_from(delay.as_millis()).expect("short") + 1;
                    assert_eq!(self.at(due, Input::Tick).len(), 1, "it is started again");
                    delay
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn listening_is_ready() {
        let mut life = Life::started(app());
        life.at(5, Input::Online);
        assert_eq!(life.at(10, Input::Listens), []);
        let actions = life.at(20, Input::Listening);
        let id = life.worker.id;
        let note = Note::Ready(Duration::from_millis(20));
        assert_eq!(actions, [Action::SetReady(id, true), Action::Say(id, note)]);
    }

    #[test]
    fn an_app_that_never_listens_is_ready_a_moment_after_its_heartbeat() {
        let mut life = Life::started(app());
        assert_eq!(life.at(100, Input::Heartbeat), []);
        assert_eq!(life.at(120, Input::Heartbeat), []);
        assert_eq!(life.worker.deadline(), Some(Duration::from_millis(350)));
        assert_eq!(life.at(349, Input::Tick), []);
        assert_eq!(life.at(350, Input::Tick)[0], Action::OpenDefaultListener);
        assert!(life.is_ready() && life.habits.never_listens);
        // From the second life on, the habit is known: no wait, and no second listener.
        life.crash(2000);
        let actions = life.at(2100, Input::Heartbeat);
        assert!(life.is_ready() && !actions.contains(&Action::OpenDefaultListener));
    }

    #[test]
    fn a_heartbeat_before_listen_waits_for_listening() {
        let mut life = Life::started(app());
        life.at(100, Input::Heartbeat);
        life.at(200, Input::Listens);
        assert_eq!(life.at(400, Input::Tick), []);
        assert!(!life.is_ready());
        life.at(500, Input::Listening);
        assert!(life.is_ready());
        life.crash(2000);
        life.at(2100, Input::Heartbeat);
        life.at(2600, Input::Tick);
        assert!(!life.is_ready(), "it is known to listen");
    }

    #[test]
    fn no_sign_in_time_is_taken_as_ready_once_node_is_up() {
        let mut life = Life::started(app());
        assert_eq!(life.at(3000, Input::Tick), [], "node itself is not up yet");
        life.at(3500, Input::Online);
        assert_eq!(life.at(6000, Input::Tick), []);
        let actions = life.at(6500, Input::Tick);
        assert!(actions.contains(&Action::Say(life.worker.id, Note::TakenAsReady)));
        assert!(life.is_ready());
    }

    #[test]
    fn wait_ready_waits_for_the_word() {
        let mut life = Life::started(App { wait_ready: true, ..app() });
        for input in [Input::Online, Input::Heartbeat, Input::Listens, Input::Listening] {
            assert_eq!(life.at(10, input), []);
        }
        let warning = [Action::Say(life.worker.id, Note::StillWaiting)];
        assert_eq!(life.at(3000, Input::Tick), warning);
        assert_eq!(life.at(9000, Input::Tick), [], "once");
        life.at(9001, Input::Ready);
        assert!(life.is_ready());
    }

    #[test]
    fn the_backoff_grows_and_is_forgotten() {
        let mut life = Life::started(App { max_restarts: 100, ..app() });
        let mut now = 0;
        let delays: Vec<_> = (0..24)
            .map(|_| {
                let delay = life.crash(now);
                now += 20_000;
                u64::try_from(delay.as_micros()).expect("short")
            })
            .collect();
        assert_eq!(delays[..4], [10_000, 15_000, 22_500, 33_750]);
        assert_eq!(delays[23], 15_000_000);
        assert_eq!(life.crash(now + 60_000).as_millis(), 10);
    }

    #[test]
    fn a_set_delay_is_constant_and_zero_is_at_once() {
        let mut life = Life::started(App { restart_delay: Duration::from_millis(70), ..app() });
        assert_eq!([life.crash(0), life.crash(500)].map(|d| d.as_millis()), [70, 70]);
        let mut life = Life::started(App { exp_backoff_restart_delay: Duration::ZERO, ..app() });
        assert_eq!([life.crash(0), life.crash(500)].map(|d| d.as_millis()), [0, 0]);
    }

    #[test]
    fn too_many_unstable_lives_in_a_row_are_given_up() {
        let mut life = Life::started(App { max_restarts: 2, ..app() });
        life.crash(0);
        life.crash(5000 - 4000);
        // A stable life in between starts the count anew.
        life.crash(10_000);
        life.crash(10_100);
        life.crash(10_200);
        let actions = life.at(10_300, Input::Exited(Exit::Signal(11)));
        let id = life.worker.id;
        assert_eq!(actions, [Action::Say(id, Note::Errored(Exit::Signal(11), 3))]);
        assert_eq!(life.worker.state, State::Errored);
        assert_eq!(life.worker.deadline(), None);
    }

    #[test]
    fn stop_codes_and_no_autorestart_stay_down() {
        for (app, code) in [
            (App { stop_exit_codes: vec![0, 3], ..app() }, 3),
            (App { autorestart: false, ..app() }, 1),
        ] {
            let mut life = Life::started(app);
            life.at(10, Input::Exited(Exit::Code(code)));
            assert_eq!(life.worker.state, State::Down);
        }
    }

    #[test]
    fn a_worker_that_left_is_waited_for_then_asked_then_killed() {
        let mut life = Life::started(app());
        life.at(10, Input::Ready);
        let id = life.worker.id;
        assert_eq!(life.at(20, Input::Closed)[0], Action::SetReady(id, false));
        assert_eq!(life.at(30_020, Input::Tick), [Action::Signal(id)]);
        let killed = [Action::Say(id, Note::Overdue), Action::Kill(id)];
        assert_eq!(life.at(31_620, Input::Tick), killed);
        let actions = life.at(31_630, Input::Exited(Exit::Signal(9)));
        assert!(matches!(actions[..], [Action::Say(_, Note::Restart(..))]), "{actions:?}");
    }

    #[test]
    fn a_broken_channel_is_a_crash() {
        let mut life = Life::started(app());
        life.at(10, Input::Ready);
        let actions = life.at(20, Input::Broken("stalled".into()));
        assert_eq!(actions.last(), Some(&Action::Kill(life.worker.id)));
        life.crash(30);
    }

    #[test]
    fn a_stop_asks_then_kills_and_the_worker_stays_down() {
        let mut life = Life::started(app());
        life.at(10, Input::Ready);
        let id = life.worker.id;
        let asked = [Action::SetReady(id, false), Action::Terminate(id)];
        assert_eq!(life.at(100, Input::Stop), asked);
        assert_eq!(life.at(110, Input::Closed), []);
        assert_eq!(life.at(1699, Input::Tick), []);
        assert_eq!(life.at(1700, Input::Tick).last(), Some(&Action::Kill(id)));
        life.at(1701, Input::Exited(Exit::Signal(9)));
        assert_eq!(life.worker.state, State::Down);
    }

    #[test]
    fn a_stop_during_the_backoff_starts_nothing() {
        let mut life = Life::started(app());
        life.at(10, Input::Exited(Exit::Code(1)));
        life.at(15, Input::Stop);
        assert_eq!((life.at(60_000, Input::Tick), life.worker.state), (vec![], State::Down));
    }
}
