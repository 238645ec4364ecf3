//! One worker's life as a table: a state, an input and the time in; actions out.
//!
//! Pure: it knows no process, no clock and no channel. `fleet.rs` keeps one [`Worker`] per slot
//! and shows each of them what the app as a whole is known to do.

use std::time::Duration;

use crate::config::App;
use crate::route::WorkerId;

/// Time since the supervisor started.
pub(super) type Moment = Duration;

/// How long a worker that shows its first adapter heartbeat may still be about to listen.
pub(super) const SETTLE: Duration = Duration::from_millis(250);
/// How long a worker that closed its channel may go on before it is asked to end.
pub(super) const LEAVE: Duration = Duration::from_secs(30);
/// What a backoff grows to.
pub(super) const BACKOFF_MAX: Duration = Duration::from_secs(15);
/// After a life this long the backoff starts anew.
pub(super) const BACKOFF_RESET: Duration = Duration::from_secs(30);

/// Where a worker is in its life.
///
/// ```text
///            start              sign of readiness
///   Down ──────────► Starting ───────────────────► Ready
///    ▲                │  │ ▲                       │  │
///    │           exit │  │ │ delay over       exit │  │ stop asked, channel closed,
///    │                ▼  │ │                       │  │ broken or stalled
///    │◄───(rules)───── · ◄─┼───────────────────────┘  ▼
///    │                 │ │ │                      Stopping ◄── from Starting, too
///    │                 │ ▼ │                          │
///    │                 │ Backoff ◄────(rules)─────────┤ exit
///    │                 ▼                              │
///    │              Errored                           │
///    └────────────────────────────────────────────────┘ exit, if the operator asked
/// ```
///
/// (rules): no restart wanted -> Down; too many unstable lives in a row -> Errored; else
/// Backoff. A process exists in Starting, Ready and Stopping, and in no other state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// No process, and none will be started.
    Down,
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
    /// It is to end.
    Stopping {
        /// By the operator's wish: it stays down.
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Ask it to, at this time: it left by itself and is still at it.
    Ask(Moment),
    /// SIGKILL, at this time.
    Kill(Moment),
    /// SIGKILL has been sent.
    Wait,
}

/// What happens to a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Input {
    /// The operator wants it to run.
    Start,
    /// Node is up in it.
    Online,
    /// Its adapter's first heartbeat.
    Heartbeat,
    /// It said 'ready'.
    Ready,
    /// It asked to listen.
    Listens,
    /// It listens.
    Listening,
    /// Its channel is closed, the process lives.
    Closed,
    /// Its channel is of no more use: broken or stalled.
    Broken(String),
    /// Its process has ended.
    Exited(Exit),
    /// The operator wants it to end.
    Stop,
    /// The operator wants it to end now.
    Kill,
    /// Time has passed.
    Tick,
}

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    /// By itself.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// It was never started; the reason.
    Unstarted(String),
}

/// What is to be done. A worker is named by its id: the slot's own number may have moved on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Start a process for this id.
    Spawn(WorkerId),
    /// It may (not) be given sockets.
    SetReady(WorkerId, bool),
    /// Ask it to end: the kill signal, or the message.
    Terminate(WorkerId),
    /// Ask it to end by the kill signal: it has no channel for a message.
    Signal(WorkerId),
    /// SIGKILL.
    Kill(WorkerId),
    /// Nothing listens and nobody will.
    OpenDefaultListener,
    /// Tell the operator.
    Say(WorkerId, Note),
}

/// What the operator is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Note {
    /// It is ready, this long after its start.
    Ready(Duration),
    /// No sign of readiness in time: taken as ready.
    TakenAsReady,
    /// No 'ready' in time: still waiting for it.
    StillWaiting,
    /// It closed its channel.
    Left,
    /// It is killed for this reason.
    Broken(String),
    /// It did not end when asked to: killed.
    Overdue,
    /// It ended after this long and is started again after a delay.
    Restart(Exit, Duration, Duration),
    /// It ended after this long and stays down.
    Ended(Exit, Duration),
    /// It ended this many times in a row before `min_uptime`: given up.
    Errored(Exit, u32),
}

/// What is known of the app's habits, learned from any of its workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Habits {
    /// Some worker has asked to listen.
    pub(super) listens: bool,
    /// Some worker became ready without.
    pub(super) never_listens: bool,
}

/// One slot.
#[derive(Clone, Debug)]
pub(super) struct Worker {
    /// The process there is, or was last; generation 0 before the first.
    pub(super) id: WorkerId,
    /// Where it is in its life.
    pub(super) state: State,
    /// How the last one ended.
    pub(super) last_exit: Option<Exit>,
    /// When the process was started.
    started: Moment,
    /// Unstable lives in a row.
    unstable: u32,
    /// The last pause of the growing backoff.
    backoff: Option<Duration>,
}

impl Worker {
    /// A slot without a process.
    pub(super) fn new(slot: u16) -> Self {
        Self {
            id: WorkerId { slot, generation: 0 },
            state: State::Down,
            last_exit: None,
            started: Moment::ZERO,
            unstable: 0,
            backoff: None,
        }
    }

    /// Whether a process exists.
    pub(super) fn alive(&self) -> bool {
        matches!(self.state, State::Starting { .. } | State::Ready | State::Stopping { .. })
    }

    /// When [`Input::Tick`] has something to do.
    pub(super) fn deadline(&self) -> Option<Moment> {
        match self.state {
            State::Starting { patience, settle, .. } => patience.into_iter().chain(settle).min(),
            State::Stopping { next: Next::Ask(at) | Next::Kill(at), .. } | State::Backoff(at) => {
                Some(at)
            }
            _ => None,
        }
    }

    /// The table.
    pub(super) fn step(
        &mut self,
        input: Input,
        app: &App,
        habits: &mut Habits,
        now: Moment,
    ) -> Vec<Action> {
        use State::{Backoff, Down, Errored, Ready, Starting, Stopping};
        if input == Input::Listens {
            *habits = Habits { listens: true, never_listens: false };
        }
        match (self.state, input) {
            (Down | Errored, Input::Start) => self.spawn(app, now),
            (Backoff(at), Input::Tick) if at <= now => self.spawn(app, now),
            (Backoff(_), Input::Stop | Input::Kill) => {
                self.state = Down;
                vec![]
            }

            (
                Starting { .. },
                sign @ (Input::Online | Input::Heartbeat | Input::Listens | Input::Tick),
            ) => self.starting(sign, app, habits, now),
            (Starting { .. }, Input::Ready) => self.ready(None, habits, now),
            (Starting { .. }, Input::Listening) if !app.wait_ready => {
                habits.listens = true;
                self.ready(None, habits, now)
            }

            (Starting { .. } | Ready, Input::Closed) => {
                self.state = Stopping { wanted: false, next: Next::Ask(now + LEAVE) };
                vec![Action::SetReady(self.id, false), Action::Say(self.id, Note::Left)]
            }
            (Starting { .. } | Ready | Stopping { wanted: false, .. }, Input::Broken(why)) => {
                self.state = Stopping { wanted: false, next: Next::Wait };
                vec![
                    Action::SetReady(self.id, false),
                    Action::Say(self.id, Note::Broken(why)),
                    Action::Kill(self.id),
                ]
            }
            (Starting { .. } | Ready, Input::Stop) => {
                self.state = Stopping { wanted: true, next: Next::Kill(now + app.kill_timeout) };
                vec![Action::SetReady(self.id, false), Action::Terminate(self.id)]
            }
            (Stopping { wanted: false, next: Next::Ask(_) }, Input::Stop) => {
                self.state = Stopping { wanted: true, next: Next::Kill(now + app.kill_timeout) };
                vec![Action::Signal(self.id)]
            }
            // Asked or killed already; only its reason changes.
            (Stopping { next, .. }, Input::Stop) => {
                self.state = Stopping { wanted: true, next };
                vec![]
            }
            (Starting { .. } | Ready | Stopping { .. }, Input::Kill) => {
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

            (Stopping { wanted: true, .. }, Input::Exited(exit)) => {
                self.state = Down;
                self.last_exit = Some(exit.clone());
                vec![Action::Say(self.id, Note::Ended(exit, now.saturating_sub(self.started)))]
            }
            (Starting { .. } | Ready | Stopping { .. }, Input::Exited(exit)) => {
                self.exited(exit, app, now)
            }
            // Late words of a worker whose fate is settled, and signs that say nothing new.
            _ => vec![],
        }
    }

    fn spawn(&mut self, app: &App, now: Moment) -> Vec<Action> {
        assert!(!self.alive(), "slot {}: a second process", self.id.slot);
        self.id.generation += 1;
        self.started = now;
        self.state = State::Starting {
            online: false,
            patience: Some(now + app.listen_timeout),
            settle: None,
            listens: false,
        };
        vec![Action::Spawn(self.id)]
    }

    /// A sign that is not yet readiness, or none in time.
    fn starting(
        &mut self,
        input: Input,
        app: &App,
        habits: &mut Habits,
        now: Moment,
    ) -> Vec<Action> {
        let State::Starting { online, patience, settle, listens } = &mut self.state else {
            return vec![];
        };
        match input {
            Input::Online => {
                *online = true;
                // Node itself was slow to boot; the app gets its full time all the same.
                if patience.is_none() && !app.wait_ready {
                    *patience = Some(now + app.listen_timeout);
                }
                vec![]
            }
            Input::Heartbeat if app.wait_ready || habits.listens || *listens => vec![],
            Input::Heartbeat if habits.never_listens => self.ready(None, habits, now),
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
                if habits.listens { vec![] } else { self.ready(None, habits, now) }
            }
            _ if patience.is_some_and(|at| at <= now) => {
                *patience = None;
                if app.wait_ready {
                    vec![Action::Say(self.id, Note::StillWaiting)]
                } else if *online {
                    self.ready(Some(Note::TakenAsReady), habits, now)
                } else {
                    vec![]
                }
            }
            _ => vec![],
        }
    }

    fn ready(&mut self, warning: Option<Note>, habits: &mut Habits, now: Moment) -> Vec<Action> {
        let note = warning.unwrap_or_else(|| Note::Ready(now.saturating_sub(self.started)));
        self.state = State::Ready;
        // Said when it is so: whoever reads it may count on the worker.
        let mut actions = vec![Action::SetReady(self.id, true), Action::Say(self.id, note)];
        if !habits.listens && !habits.never_listens {
            habits.never_listens = true;
            // Before the worker may be given sockets, so that a failure is told first.
            actions.insert(0, Action::OpenDefaultListener);
        }
        actions
    }

    /// The rules of what follows an exit nobody asked for.
    fn exited(&mut self, exit: Exit, app: &App, now: Moment) -> Vec<Action> {
        let uptime = now.saturating_sub(self.started);
        self.last_exit = Some(exit.clone());
        let enough = matches!(exit, Exit::Code(code) if app.stop_exit_codes.contains(&code));
        if enough || !app.autorestart {
            self.state = State::Down;
            return vec![Action::Say(self.id, Note::Ended(exit, uptime))];
        }
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
    use super::super::tests::app;
    use super::*;

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
            self.worker.step(input, &self.app, &mut self.habits, Duration::from_millis(ms))
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
