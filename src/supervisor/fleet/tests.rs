//! Stories of several workers: reloads, recycling, scaling, and the end.

use super::super::vocabulary::Note;
use super::*;
use crate::config::App;

fn app() -> App {
    App::fixture()
}

fn rules(app: &App) -> Rules<'_> {
    Rules { app, drain_timeout: Duration::from_secs(5) }
}

fn ended(app: &App, exits: &[Exit]) -> Option<End> {
    let mut fleet = Fleet::new(rules(app));
    fleet.start(Moment::ZERO);
    for (slot, exit) in (0..).zip(exits) {
        let id = WorkerId { slot, generation: 1 };
        fleet.feed(id, Input::Exited(exit.clone()), Moment::ZERO);
    }
    fleet.end(Moment::ZERO)
}

#[test]
fn it_is_over_when_no_worker_will_run_again() {
    let once = App { workers: 2, autorestart: false, ..app() };
    let done = Exit::Code(0);
    assert_eq!(ended(&once, std::slice::from_ref(&done)), None);
    assert_eq!(ended(&once, &[done.clone(), done.clone()]), Some(End::Stopped));
    let failed = End::Failed(vec![WorkerId { slot: 1, generation: 1 }]);
    assert_eq!(ended(&once, &[done, Exit::Code(1)]), Some(failed));
    let strict = App { workers: 1, max_restarts: 0, ..app() };
    let failed = End::Failed(vec![WorkerId { slot: 0, generation: 1 }]);
    assert_eq!(ended(&strict, &[Exit::Signal(11)]), Some(failed));
}

#[test]
fn a_second_stop_kills_and_is_over_at_once() {
    let app = App { workers: 3, ..app() };
    let mut fleet = Fleet::new(rules(&app));
    fleet.start(Moment::ZERO);
    fleet.stop(Moment::ZERO);
    assert_eq!(fleet.end(Moment::ZERO), None);
    let kills = fleet.stop(Moment::ZERO);
    let kills = kills.iter().filter(|action| matches!(action, Action::Kill(_)));
    assert_eq!((kills.count(), fleet.end(Moment::ZERO)), (3, Some(End::Stopped)));
}

/// A fleet in which every first worker listens.
struct Story {
    app: App,
    now: Moment,
}

impl Story {
    fn new(workers: u16) -> Self {
        Self { app: App { workers, ..app() }, now: Moment::ZERO }
    }

    fn up(&self) -> Fleet<'_> {
        let mut fleet = Fleet::new(rules(&self.app));
        fleet.start(self.now);
        for slot in 0..self.app.workers {
            self.listens(&mut fleet, WorkerId { slot, generation: 1 });
        }
        fleet
    }

    fn listens(&self, fleet: &mut Fleet<'_>, id: WorkerId) -> Vec<Action> {
        fleet.feed(id, Input::Listens, self.now);
        let mut actions = fleet.feed(id, Input::Listening, self.now);
        if actions.iter().any(|action| matches!(action, Action::Compare { .. })) {
            actions = fleet.feed(id, Input::Compared(vec![]), self.now);
        }
        actions
    }
}

const fn id(slot: u16, generation: u32) -> WorkerId {
    WorkerId { slot, generation }
}

#[test]
fn a_reload_goes_slot_by_slot_and_does_not_wait_for_the_drain() {
    let story = Story::new(2);
    let mut fleet = story.up();
    let actions = fleet.reload(story.now);
    assert_eq!(actions, [Action::Tell(News::ReloadBegins(2)), Action::Spawn(id(0, 2))]);
    let actions = story.listens(&mut fleet, id(0, 2));
    assert!(actions.contains(&Action::SetReady(id(0, 2), true)));
    assert!(actions.contains(&Action::Drain(id(0, 1))));
    assert!(actions.contains(&Action::Spawn(id(1, 2))));
    let actions = story.listens(&mut fleet, id(1, 2));
    assert!(actions.contains(&Action::Tell(News::ReloadDone(2, Duration::ZERO))));
    assert_eq!(fleet.alive(), 4);
    let standing = Standing { ready: 2, draining: 2, wanted: 2, reloading: false };
    assert_eq!(fleet.standing(), standing);
    let ends = fleet.feed(id(0, 1), Input::Drained, story.now);
    assert_eq!(fleet.standing(), Standing { draining: 1, ..standing });
    assert_eq!(ends, [Action::Say(id(0, 1), Note::Drained), Action::Terminate(id(0, 1))]);
    fleet.feed(id(0, 1), Input::Exited(Exit::Code(0)), story.now);
    assert_eq!(fleet.alive(), 3);
}

#[test]
fn a_successor_that_ends_leaves_the_old_one_and_the_next_takes_another_seat() {
    let story = Story::new(1);
    let mut fleet = story.up();
    fleet.reload(story.now);
    let actions = fleet.feed(id(0, 2), Input::Exited(Exit::Code(7)), story.now);
    let why = Trouble::Exited(Exit::Code(7));
    let told = Action::Tell(News::ReloadFailed { worker: id(0, 2), why, renewed: 0 });
    assert!(actions.contains(&told), "{actions:?}");
    assert_eq!(fleet.stage(id(0, 1)), Some(Stage::Ready));
    let actions = fleet.reload(story.now);
    assert!(actions.contains(&Action::Spawn(id(0, 4))), "{actions:?}");
}

#[test]
fn a_successor_that_listens_elsewhere_or_never_is_given_up() {
    let story = Story::new(1);
    let mut fleet = story.up();
    let late = story.now + story.app.listen_timeout;
    fleet.reload(story.now);
    fleet.feed(id(0, 2), Input::Online, story.now);
    fleet.feed(id(0, 2), Input::Listens, story.now);
    let compare = fleet.feed(id(0, 2), Input::Listening, story.now);
    assert_eq!(compare, [Action::Compare { successor: id(0, 2), present: id(0, 1) }]);
    let missing = vec!["[::]:3000".to_owned()];
    assert_eq!(fleet.feed(id(0, 2), Input::Compared(missing.clone()), story.now), []);
    let actions = fleet.tick(late);
    let why = Trouble::Missing(missing);
    let told = Action::Tell(News::ReloadFailed { worker: id(0, 2), why, renewed: 0 });
    assert!(actions.contains(&told) && actions.contains(&Action::Kill(id(0, 2))));
    fleet.feed(id(0, 2), Input::Exited(Exit::Signal(9)), late);

    fleet.reload(late);
    fleet.feed(id(0, 4), Input::Online, late);
    let actions = fleet.tick(late + story.app.listen_timeout);
    let never = |action: &Action| {
        matches!(action, Action::Tell(News::ReloadFailed { why: Trouble::NotReady(_), .. }))
    };
    assert!(actions.iter().any(never), "{actions:?}");
    assert_eq!(fleet.stage(id(0, 1)), Some(Stage::Ready));
}

#[test]
fn a_reload_that_comes_during_another_comes_after_it_once() {
    let story = Story::new(1);
    let mut fleet = story.up();
    fleet.reload(story.now);
    for _ in 0..3 {
        assert_eq!(fleet.reload(story.now), [Action::Tell(News::ReloadQueued)]);
    }
    let actions = story.listens(&mut fleet, id(0, 2));
    assert!(actions.contains(&Action::Tell(News::ReloadBegins(1))));
    let spawns = |action: &Action| matches!(action, Action::Spawn(_));
    assert!(!actions.iter().any(spawns), "both seats are taken: {actions:?}");
    fleet.feed(id(0, 1), Input::Drained, story.now);
    let actions = fleet.feed(id(0, 1), Input::Exited(Exit::Code(0)), story.now);
    assert!(actions.contains(&Action::Spawn(id(0, 3))), "{actions:?}");
    story.listens(&mut fleet, id(0, 3));
    assert!(!fleet.reloading());
}

#[test]
fn a_slot_whose_old_worker_drains_does_not_hold_up_the_others() {
    let story = Story::new(2);
    let mut fleet = story.up();
    fleet.reload(story.now);
    story.listens(&mut fleet, id(0, 2));
    story.listens(&mut fleet, id(1, 2));
    fleet.feed(id(1, 1), Input::Exited(Exit::Code(0)), story.now);
    // The first slot's turn comes when its old worker has gone.
    let actions = fleet.reload(story.now);
    assert_eq!(actions, [Action::Tell(News::ReloadBegins(2)), Action::Spawn(id(1, 3))]);
    story.listens(&mut fleet, id(1, 3));
    let actions = fleet.feed(id(0, 1), Input::Exited(Exit::Code(0)), story.now);
    assert!(actions.contains(&Action::Spawn(id(0, 3))), "{actions:?}");
    let actions = story.listens(&mut fleet, id(0, 3));
    assert!(actions.contains(&Action::Tell(News::ReloadDone(2, Duration::ZERO))));
    // A recycle is held up as little: beside both workers one drains, then beside one.
    assert_eq!(fleet.recycle(id(0, 3), "too large".into(), story.now), []);
    assert_eq!(fleet.recycle(id(1, 3), "too large".into(), story.now), []);
    assert!(!fleet.reloading());
    let actions = fleet.feed(id(1, 2), Input::Exited(Exit::Code(0)), story.now);
    assert!(actions.contains(&Action::Spawn(id(1, 4))), "{actions:?}");
}

#[test]
fn a_reload_is_done_when_those_that_were_started_anew_are_ready_or_have_failed() {
    let crash = Input::Exited(Exit::Code(1));
    let done = |count| Action::Tell(News::ReloadDone(count, Duration::ZERO));
    for (ready, count) in [(true, 2), (false, 1)] {
        let story = Story::new(2);
        let mut fleet = story.up();
        fleet.feed(id(1, 1), crash.clone(), story.now);
        fleet.reload(story.now);
        let actions = story.listens(&mut fleet, id(0, 2));
        assert!(actions.contains(&Action::Spawn(id(1, 2))), "{actions:?}");
        assert!(fleet.reloading(), "it is not ready yet");
        let actions = if ready {
            story.listens(&mut fleet, id(1, 2))
        } else {
            fleet.feed(id(1, 2), crash.clone(), story.now)
        };
        assert!(actions.contains(&done(count)), "{actions:?}");
    }
}

#[test]
fn a_reload_does_not_come_after_one_that_only_waits_for_a_worker_to_get_ready() {
    let story = Story { app: App { wait_ready: true, workers: 1, ..app() }, now: Moment::ZERO };
    let mut fleet = Fleet::new(rules(&story.app));
    fleet.start(story.now);
    // It would be waited for in vain: it is ended, and another takes its place.
    let begins = Action::Tell(News::ReloadBegins(1));
    assert_eq!(fleet.reload(story.now)[0], begins);
    fleet.feed(id(0, 1), Input::Exited(Exit::Code(0)), story.now);
    let actions = fleet.reload(story.now);
    assert_eq!(actions[..2], [Action::Tell(News::ReloadDone(0, Duration::ZERO)), begins]);
    fleet.feed(id(0, 2), Input::Exited(Exit::Code(0)), story.now);
    assert!(fleet.reloading());
    // And a warning that it is not ready is as good as an end.
    let late = story.now + story.app.listen_timeout;
    let actions = fleet.tick(late);
    assert!(actions.contains(&Action::Tell(News::ReloadDone(0, late))), "{actions:?}");
}

#[test]
fn recycled_workers_take_turns_and_each_tells_why() {
    let story = Story::new(2);
    let mut fleet = story.up();
    let actions = fleet.recycle(id(0, 1), "too large".into(), story.now);
    let told = |slot| Action::Tell(News::Recycling(id(slot, 1), "too large".into()));
    assert_eq!(actions, [told(0), Action::Spawn(id(0, 2))]);
    // While one is replaced the next waits, however often it is asked for.
    for _ in 0..2 {
        assert_eq!(fleet.recycle(id(1, 1), "too large".into(), story.now), []);
    }
    let actions = story.listens(&mut fleet, id(0, 2));
    assert!(actions.contains(&told(1)) && actions.contains(&Action::Spawn(id(1, 2))));
    story.listens(&mut fleet, id(1, 2));
    assert!(!fleet.reloading());
}

#[test]
fn a_worker_whose_successor_fails_is_recycled_again_after_a_growing_pause() {
    let story = Story::new(1);
    let mut fleet = story.up();
    let mut now = story.now;
    let fails = |fleet: &mut Fleet<'_>, now| {
        let actions = fleet.recycle(id(0, 1), "too large".into(), now);
        let spawned = actions.iter().find_map(|action| match action {
            Action::Spawn(id) => Some(*id),
            _ => None,
        });
        let Some(successor) = spawned else { return false };
        fleet.feed(successor, Input::Exited(Exit::Code(1)), now);
        true
    };
    for seconds in [4, 8, 15, 15] {
        assert!(fails(&mut fleet, now));
        let pause = Duration::from_secs(seconds);
        assert!(!fails(&mut fleet, now + pause - Duration::from_millis(1)), "{seconds} s");
        now += pause;
    }
    // An operator's reload does not wait, and the next life has no such history.
    fleet.reload(now);
    let successor = fleet.slots()[0].coming().expect("it begins at once").id;
    story.listens(&mut fleet, successor);
    fleet.feed(id(0, 1), Input::Exited(Exit::Code(0)), now);
    let actions = fleet.recycle(successor, "too large".into(), now);
    assert!(actions.iter().any(|action| matches!(action, Action::Spawn(_))), "{actions:?}");
}

#[test]
fn the_old_worker_dies_while_its_successor_starts() {
    let story = Story::new(1);
    let mut fleet = story.up();
    fleet.reload(story.now);
    let actions = fleet.feed(id(0, 1), Input::Exited(Exit::Code(1)), story.now);
    let spawns = |action: &Action| matches!(action, Action::Spawn(_));
    assert!(!actions.iter().any(spawns), "one is on its way: {actions:?}");
    let actions = story.listens(&mut fleet, id(0, 2));
    assert!(actions.contains(&Action::SetReady(id(0, 2), true)), "{actions:?}");
}

#[test]
fn scaling_adds_and_drains() {
    let story = Story::new(2);
    let mut fleet = story.up();
    let actions = fleet.scale(3, story.now);
    assert_eq!(actions, [Action::Tell(News::Scaling(2, 3)), Action::Spawn(id(2, 1))]);
    story.listens(&mut fleet, id(2, 1));
    let actions = fleet.scale(1, story.now);
    assert!(
        actions.contains(&Action::Drain(id(1, 1))) && actions.contains(&Action::Drain(id(2, 1)))
    );
    // Before the old one is gone the slot is wanted again.
    let actions = fleet.scale(2, story.now);
    assert!(actions.contains(&Action::Spawn(id(1, 2))), "{actions:?}");
    fleet.feed(id(2, 1), Input::Drained, story.now);
    fleet.feed(id(2, 1), Input::Exited(Exit::Code(0)), story.now);
    assert_eq!((fleet.wanted(), fleet.alive()), (2, 3));
    assert_eq!(fleet.scale(0, story.now)[0], Action::Tell(News::Scaling(2, 1)));
}

#[test]
fn a_restart_has_no_overlap() {
    let story = Story::new(1);
    let mut fleet = story.up();
    let actions = fleet.restart(story.now);
    assert!(actions.contains(&Action::Terminate(id(0, 1))), "{actions:?}");
    let spawn = fleet.feed(id(0, 1), Input::Exited(Exit::Code(0)), story.now);
    assert!(spawn.contains(&Action::Spawn(id(0, 2))), "{spawn:?}");
}

#[test]
fn what_an_earlier_router_left_goes_on_when_it_attaches() {
    const UNTIL: Moment = Duration::from_secs(30);
    let app = App { workers: 2, ..app() };
    let left = [(id(0, 4), Stage::Ready), (id(0, 3), Stage::Draining), (id(3, 1), Stage::Ready)];
    let mut fleet = Fleet::adopting(rules(&app), Habits::default(), &left, UNTIL);
    assert_eq!(fleet.start(Moment::ZERO), [Action::Spawn(id(1, 1))]);
    let actions = fleet.feed(id(0, 4), Input::Attached, Moment::ZERO);
    let adopted = |generation| Action::Say(id(0, generation), Note::Adopted);
    assert_eq!(actions, [adopted(4), Action::SetReady(id(0, 4), true)]);
    let actions = fleet.feed(id(0, 3), Input::Attached, Moment::ZERO);
    assert_eq!(actions, [adopted(3), Action::Drain(id(0, 3))]);
    let actions = fleet.tick(UNTIL);
    assert!(actions.contains(&Action::Kill(id(3, 1))), "it never came: {actions:?}");
}
