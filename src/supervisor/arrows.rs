//! The arrows of the table that no story in `table.rs` takes: out of Draining, out of a trial, and
//! what a worker that hangs meets.
//!
//! Each is a row: what has happened before, what happens at which millisecond, and what comes of it.

use std::time::Duration;

use super::table::{Around, BOOT, Habits, LAST_BREATH, Next, Rules, State, Worker};
use super::vocabulary::{Action, Exit, Input, Note, Trouble};
use crate::config::App;
use crate::route::WorkerId;

/// How long a worker may drain.
const DRAIN: Duration = Duration::from_secs(30);
/// The worker that a successor on trial shall succeed.
const PRESENT: WorkerId = WorkerId { slot: 0, generation: 1 };
/// How long a worker that hangs has said nothing.
const SILENT: Duration = Duration::from_secs(5);

/// What has happened before, what happens when, and what comes of it.
type Row<'a> = (&'a [(u64, Input)], u64, Input, State, Vec<Action>, Option<Trouble>);

struct Life {
    worker: Worker,
    app: App,
    habits: Habits,
    other: Option<WorkerId>,
}

impl Life {
    /// Ready at once.
    fn ready() -> Self {
        let mut life = Self::starting(Worker::new(0), None);
        life.at(0, Input::Ready);
        life
    }

    /// Beside a worker that serves.
    fn on_trial() -> Self {
        Self::starting(Worker::on_trial(0), Some(PRESENT))
    }

    fn starting(worker: Worker, other: Option<WorkerId>) -> Self {
        let mut life = Self { worker, app: App::fixture(), habits: Habits::default(), other };
        life.at(0, Input::Start);
        life
    }

    fn at(&mut self, at: u64, input: Input) -> Vec<Action> {
        let other = self.other.map_or(0, |other| other.generation);
        let mut around = Around {
            rules: Rules { app: &self.app, drain_timeout: DRAIN },
            habits: &mut self.habits,
            now: ms(at),
            latest: other.max(self.worker.id.generation),
            other: self.other,
            succeeded: false,
        };
        self.worker.step(input, &mut around)
    }

    fn after(mut self, before: &[(u64, Input)]) -> Self {
        for (at, input) in before {
            self.at(*at, input.clone());
        }
        self
    }
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

const fn stopping(wanted: bool, next: Next) -> State {
    State::Stopping { wanted, next }
}

/// What is to be killed after the time that it is given from this moment on.
fn killed_after(at: u64) -> Next {
    Next::Kill(ms(at) + App::fixture().kill_timeout)
}

fn crash() -> Input {
    Input::Exited(Exit::Code(1))
}

fn broken() -> Input {
    Input::Broken("test".to_owned())
}

fn missing(places: &[&str]) -> Input {
    Input::Compared(places.iter().map(ToString::to_string).collect())
}

#[test]
fn out_of_draining() {
    const BEGINS: u64 = 10;
    let until = ms(BEGINS) + DRAIN;
    let over = BEGINS + 30_000;
    let draining = State::Draining { until };
    let id = Life::ready().worker.id;
    let (say, off) = (|note| Action::Say(id, note), Action::SetReady(id, false));
    let (ask, kill) = (Action::Terminate(id), Action::Kill(id));
    let given_up = stopping(true, Next::Wait);
    let ended = Note::Ended(Exit::Code(1), ms(100));
    for (at, input, state, actions) in [
        (
            100,
            Input::Drained,
            stopping(true, killed_after(100)),
            vec![say(Note::Drained), ask.clone()],
        ),
        (over - 1, Input::Tick, draining, vec![]),
        (
            over,
            Input::Tick,
            stopping(true, killed_after(over)),
            vec![say(Note::DrainOver), ask.clone()],
        ),
        // It may go on for as long as it might have drained.
        (100, Input::Closed, stopping(true, Next::Ask(until)), vec![say(Note::Left)]),
        (
            100,
            broken(),
            given_up,
            vec![off.clone(), say(Note::Broken("test".into())), kill.clone()],
        ),
        (
            100,
            Input::Hung(SILENT),
            given_up,
            vec![off.clone(), say(Note::Hung(SILENT)), kill.clone()],
        ),
        (100, Input::Stop, stopping(true, killed_after(100)), vec![ask]),
        (100, Input::Kill, given_up, vec![off, kill]),
        (100, crash(), State::Down, vec![say(ended)]),
        // Signs of readiness, and a second wish, change nothing.
        (100, Input::Ready, draining, vec![]),
        (100, Input::Listening, draining, vec![]),
        (100, Input::Heartbeat, draining, vec![]),
        (100, Input::Drain, draining, vec![]),
        (100, Input::Start, draining, vec![]),
    ] {
        let mut life = Life::ready().after(&[(BEGINS, Input::Drain)]);
        assert_eq!(life.worker.state, draining);
        assert_eq!(life.at(at, input.clone()), actions, "{input:?}");
        assert_eq!(life.worker.state, state, "{input:?}");
    }
}

#[test]
fn out_of_a_trial() {
    let first = Life::on_trial();
    let (id, starts) = (first.worker.id, first.worker.state);
    let (off, kill) = (Action::SetReady(id, false), Action::Kill(id));
    let compare = Action::Compare { successor: id, present: PRESENT };
    let (say, given_up) = (|note| Action::Say(id, note), stopping(true, Next::Wait));
    let online = (0, Input::Online);
    let up = Life::on_trial().after(std::slice::from_ref(&online)).worker.state;
    let nowhere = Trouble::Missing(vec!["[::]:3000".to_owned()]);
    let exited = || Some(Trouble::Exited(Exit::Code(1)));
    let broke = || Some(Trouble::Broken("test".to_owned()));
    let shown = [online.clone(), (10, Input::Ready)];
    let found_wanting = [online.clone(), (10, Input::Ready), (11, missing(&["[::]:3000"]))];
    let leaves = [online.clone(), (20, Input::Closed)];
    let left = stopping(false, Next::Ask(ms(20) + LAST_BREATH));
    let online = [online];
    let boots =
        State::Starting { online: false, patience: Some(BOOT), settle: None, listens: false };
    let rows: [Row<'_>; 22] = [
        // It is not taken as ready before it is compared, and not compared before it is ready.
        (&online, 10, Input::Ready, up, vec![compare.clone()], None),
        (&online, 10, Input::Listening, up, vec![compare], None),
        (&online, 10, missing(&[]), up, vec![], None),
        (
            &shown,
            20,
            missing(&[]),
            State::Ready,
            vec![Action::SetReady(id, true), say(Note::Ready(ms(20)))],
            None,
        ),
        (&shown, 20, missing(&["[::]:3000"]), up, vec![], None),
        (
            &found_wanting,
            3000,
            Input::Tick,
            given_up,
            vec![off.clone(), kill.clone()],
            Some(nowhere),
        ),
        (
            &found_wanting,
            20,
            missing(&[]),
            State::Ready,
            vec![Action::SetReady(id, true), say(Note::Ready(ms(20)))],
            None,
        ),
        // Not ready in time, and not even booted.
        (
            &online,
            3000,
            Input::Tick,
            given_up,
            vec![off.clone(), kill.clone()],
            Some(Trouble::NotReady(ms(3000))),
        ),
        (&[], 3000, Input::Tick, boots, vec![], None),
        (
            &[(3000, Input::Tick)],
            10_000,
            Input::Tick,
            given_up,
            vec![off.clone(), kill.clone()],
            Some(Trouble::NotReady(BOOT)),
        ),
        // Whatever goes wrong gives it up.
        (&[], 20, crash(), State::Down, vec![say(Note::Ended(Exit::Code(1), ms(20)))], exited()),
        (
            &[],
            20,
            broken(),
            given_up,
            vec![off.clone(), say(Note::Broken("test".into())), kill.clone()],
            broke(),
        ),
        (
            &[],
            20,
            Input::Hung(SILENT),
            given_up,
            vec![off.clone(), say(Note::Hung(SILENT)), kill.clone()],
            Some(Trouble::Hung(SILENT)),
        ),
        (&online, 20, Input::Closed, left, vec![say(Note::Left)], None),
        (
            &leaves,
            30,
            crash(),
            State::Down,
            vec![say(Note::Ended(Exit::Code(1), ms(30)))],
            exited(),
        ),
        (
            &leaves,
            30,
            broken(),
            given_up,
            vec![off.clone(), say(Note::Broken("test".into())), kill.clone()],
            broke(),
        ),
        (
            &leaves,
            1020,
            Input::Tick,
            stopping(false, killed_after(1020)),
            vec![Action::Signal(id)],
            None,
        ),
        // The operator does not want it.
        (
            &[],
            20,
            Input::Stop,
            stopping(true, killed_after(20)),
            vec![off.clone(), Action::Terminate(id)],
            None,
        ),
        (&[], 20, Input::Kill, given_up, vec![off, kill], None),
        // The one it was to succeed is gone.
        (&[], 20, Input::Alone, starts, vec![], None),
        (
            &shown,
            20,
            Input::Alone,
            State::Ready,
            vec![Action::SetReady(id, true), say(Note::Ready(ms(20)))],
            None,
        ),
        (&leaves, 30, Input::Alone, left, vec![], None),
    ];
    for (n, (before, at, input, state, actions, trouble)) in rows.into_iter().enumerate() {
        let mut life = Life::on_trial().after(before);
        // Some app's worker has listened before, so that no row opens the default listener.
        life.habits.never_listens = true;
        assert_eq!(life.at(at, input.clone()), actions, "row {n}: {input:?}");
        assert_eq!(
            (life.worker.state, life.worker.trouble),
            (state, trouble),
            "row {n}: {input:?}"
        );
    }
}

#[test]
fn a_successor_that_is_alone_lives_by_the_rules_of_all_others() {
    let mut life = Life::on_trial().after(&[(10, Input::Alone)]);
    let actions = life.at(20, crash());
    assert!(matches!(actions[..], [Action::Say(_, Note::Restart(..))]), "{actions:?}");
    assert_eq!(life.worker.trouble, None);
}

#[test]
fn a_worker_that_hangs_is_killed_and_started_again() {
    for mut life in [Life::ready(), Life::starting(Worker::new(0), None)] {
        let id = life.worker.id;
        let killed =
            [Action::SetReady(id, false), Action::Say(id, Note::Hung(SILENT)), Action::Kill(id)];
        assert_eq!(life.at(10, Input::Hung(SILENT)), killed);
        assert_eq!(life.worker.state, stopping(false, Next::Wait));
        // Once is enough, and there is nothing to wait for but its end.
        assert_eq!(life.at(20, Input::Hung(SILENT)), []);
        assert_eq!((life.at(60_000, Input::Tick), life.worker.deadline()), (vec![], None));
        let actions = life.at(60_000, Input::Exited(Exit::Signal(9)));
        assert!(matches!(actions[..], [Action::Say(_, Note::Restart(..))]), "{actions:?}");
    }
}

#[test]
fn what_has_no_process_or_is_ending_hears_the_operator() {
    let gone = [(10, crash())];
    let left = [(10, Input::Closed)];
    let id = Life::ready().worker.id;
    let wanted = stopping(true, killed_after(20));
    let next = Next::Ask(ms(10) + super::table::LEAVE);
    let rows: [(&[_], Input, State, Vec<Action>); 6] = [
        (&gone, Input::Stop, State::Down, vec![]),
        (&gone, Input::Kill, State::Down, vec![]),
        (&gone, Input::Drain, State::Down, vec![]),
        (&left, Input::Stop, wanted, vec![Action::Signal(id)]),
        (&left, Input::Drain, stopping(true, next), vec![]),
        (
            &left,
            Input::Kill,
            stopping(true, Next::Wait),
            vec![Action::SetReady(id, false), Action::Kill(id)],
        ),
    ];
    for (before, input, state, actions) in rows {
        let mut life = Life::ready().after(before);
        assert_eq!(life.at(20, input.clone()), actions, "{input:?}");
        assert_eq!(life.worker.state, state, "{input:?}");
    }
}
