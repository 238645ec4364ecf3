//! All workers of the app: starting them, stopping them, and when it is over.
//!
//! Pure, as `table.rs` is; what one worker does is decided there.

use std::time::Duration;

use super::table::{Action, Exit, Habits, Input, Moment, State, Worker};
use crate::config::App;
use crate::route::WorkerId;

/// How long after `kill_timeout` a stop waits for the killed; a process the kernel cannot end
/// (its disk hangs) does not hold the router up. With the last flush of the output (300 ms) the
/// whole stop stays inside `kill_timeout` and a second.
pub(super) const STOP_GRACE: Duration = Duration::from_millis(700);

/// Every slot of one app.
#[derive(Debug)]
pub(super) struct Fleet<'a> {
    app: &'a App,
    workers: Vec<Worker>,
    habits: Habits,
    stop: Option<Stop>,
}

/// The operator's wish to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// With patience until then.
    By(Moment),
    /// At once.
    Now,
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// As the operator wished, or the workers were done.
    Stopped,
    /// No worker is left; these are given up or ended badly.
    Failed(Vec<WorkerId>),
}

impl<'a> Fleet<'a> {
    /// As many slots as the app has workers, all down.
    pub(super) fn new(app: &'a App) -> Self {
        let workers = (0..app.workers).map(Worker::new).collect();
        Self { app, workers, habits: Habits::default(), stop: None }
    }

    /// Starts every worker.
    pub(super) fn start(&mut self, now: Moment) -> Vec<Action> {
        self.each(&Input::Start, now)
    }

    /// Tells a worker what has happened to it. What concerns an earlier process of its slot, or
    /// a slot there is not, changes nothing.
    pub(super) fn feed(&mut self, id: WorkerId, input: Input, now: Moment) -> Vec<Action> {
        match self.workers.get_mut(usize::from(id.slot)) {
            Some(worker) if worker.id == id => worker.step(input, self.app, &mut self.habits, now),
            _ => vec![],
        }
    }

    /// Does what is due.
    pub(super) fn tick(&mut self, now: Moment) -> Vec<Action> {
        self.each(&Input::Tick, now)
    }

    /// The operator wants it to end; a second time: at once.
    pub(super) fn stop(&mut self, now: Moment) -> Vec<Action> {
        if self.stop.is_none() {
            self.stop = Some(Stop::By(now + self.app.kill_timeout + STOP_GRACE));
            self.each(&Input::Stop, now)
        } else {
            self.stop = Some(Stop::Now);
            self.each(&Input::Kill, now)
        }
    }

    /// Whether the operator wants it to end.
    pub(super) fn stopping(&self) -> bool {
        self.stop.is_some()
    }

    /// When [`Self::tick`] has something to do.
    pub(super) fn deadline(&self) -> Option<Moment> {
        let stop = self.stop.and_then(|stop| if let Stop::By(at) = stop { Some(at) } else { None });
        self.workers.iter().filter_map(Worker::deadline).chain(stop).min()
    }

    /// Whether it is over.
    pub(super) fn end(&self, now: Moment) -> Option<End> {
        match self.stop {
            Some(Stop::Now) => return Some(End::Stopped),
            Some(Stop::By(at)) if at <= now => return Some(End::Stopped),
            _ => {}
        }
        let resting = |worker: &Worker| matches!(worker.state, State::Down | State::Errored);
        if !self.workers.iter().all(resting) {
            return None;
        }
        let failed: Vec<_> =
            self.workers.iter().filter(|worker| self.failed(worker)).map(|w| w.id).collect();
        if self.stopping() || failed.is_empty() {
            Some(End::Stopped)
        } else {
            Some(End::Failed(failed))
        }
    }

    /// How the last process of a slot ended.
    pub(super) fn last_exit(&self, slot: u16) -> Option<&Exit> {
        self.workers.get(usize::from(slot))?.last_exit.as_ref()
    }

    /// Processes there still are.
    pub(super) fn alive(&self) -> usize {
        self.workers.iter().filter(|worker| worker.alive()).count()
    }

    fn failed(&self, worker: &Worker) -> bool {
        let well = |exit: &Exit| match exit {
            Exit::Code(code) => *code == 0 || self.app.stop_exit_codes.contains(code),
            Exit::Signal(_) | Exit::Unstarted(_) => false,
        };
        worker.state == State::Errored || !worker.last_exit.as_ref().is_some_and(well)
    }

    fn each(&mut self, input: &Input, now: Moment) -> Vec<Action> {
        let Self { app, workers, habits, .. } = self;
        workers.iter_mut().flat_map(|worker| worker.step(input.clone(), app, habits, now)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::app;
    use super::*;

    const SEEDS: u64 = 4000;

    /// splitmix64: small, and the same on every machine.
    struct Random(u64);

    impl Random {
        fn below(&mut self, bound: u64) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (z ^ (z >> 31)) % bound
        }
    }

    /// The world around a fleet: which processes exist and which of them have been killed.
    #[derive(Default)]
    struct World {
        processes: Vec<(WorkerId, bool)>,
        ready: Vec<WorkerId>,
        default_listeners: u32,
    }

    impl World {
        fn perform(&mut self, actions: Vec<Action>) {
            for action in actions {
                match action {
                    Action::Spawn(id) => {
                        let twin = self.processes.iter().any(|(other, _)| other.slot == id.slot);
                        assert!(!twin, "two processes in slot {}", id.slot);
                        self.processes.push((id, false));
                    }
                    Action::SetReady(id, ready) => {
                        self.ready.retain(|other| *other != id);
                        if ready {
                            assert!(self.processes.iter().any(|(other, _)| *other == id));
                            self.ready.push(id);
                        }
                    }
                    Action::Kill(id) => {
                        let process = self.processes.iter_mut().find(|(other, _)| *other == id);
                        process.expect("only what lives is killed").1 = true;
                    }
                    Action::OpenDefaultListener => self.default_listeners += 1,
                    Action::Terminate(_) | Action::Signal(_) | Action::Say(..) => {}
                }
            }
        }

        fn exit(&mut self, at: usize) -> WorkerId {
            let (id, _) = self.processes.swap_remove(at);
            self.ready.retain(|other| *other != id);
            id
        }
    }

    fn simulate(seed: u64) {
        let mut random = Random(seed);
        let app = App {
            workers: u16::try_from(1 + random.below(4)).expect("small"),
            wait_ready: random.below(4) == 0,
            autorestart: random.below(8) != 0,
            max_restarts: u32::try_from(random.below(20)).expect("small"),
            stop_exit_codes: if random.below(4) == 0 { vec![0] } else { vec![] },
            ..app()
        };
        let mut fleet = Fleet::new(&app);
        let mut world = World::default();
        let mut now = Moment::ZERO;
        world.perform(fleet.start(now));
        for _ in 0..random.below(300) {
            now += Duration::from_millis(random.below(800));
            let slot = u16::try_from(random.below(5)).expect("small");
            // Often the process there is, sometimes one that is gone.
            let generation = u32::try_from(random.below(3)).expect("small");
            let current = world.processes.iter().map(|(id, _)| *id).find(|id| id.slot == slot);
            let id = match current {
                Some(id) if random.below(4) > 0 => id,
                _ => WorkerId { slot, generation },
            };
            let actions = match random.below(12) {
                0 => fleet.feed(id, Input::Online, now),
                1 => fleet.feed(id, Input::Heartbeat, now),
                2 => fleet.feed(id, Input::Ready, now),
                3 => fleet.feed(id, Input::Listens, now),
                4 => fleet.feed(id, Input::Listening, now),
                5 => fleet.feed(id, Input::Closed, now),
                6 => fleet.feed(id, Input::Broken("test".into()), now),
                7 | 8 if !world.processes.is_empty() => {
                    let count = u64::try_from(world.processes.len()).expect("small");
                    let id = world.exit(usize::try_from(random.below(count)).expect("small"));
                    let code = i32::try_from(random.below(3)).expect("small");
                    fleet.feed(id, Input::Exited(Exit::Code(code)), now)
                }
                _ => fleet.tick(now),
            };
            world.perform(actions);
            check(&fleet, &world, now);
        }
        // The operator ends it; asked workers may or may not obey, killed ones do.
        let asked = now;
        world.perform(fleet.stop(now));
        while fleet.end(now).is_none() {
            now = fleet.deadline().map_or(now, |at| at.max(now));
            world.perform(fleet.tick(now));
            check(&fleet, &world, now);
            let obedient = random.below(2) == 0;
            while let Some(at) = world.processes.iter().position(|(_, killed)| *killed || obedient)
            {
                let id = world.exit(at);
                world.perform(fleet.feed(id, Input::Exited(Exit::Signal(9)), now));
            }
        }
        assert!(world.processes.is_empty(), "left behind: {:?}", world.processes);
        assert!(now <= asked + app.kill_timeout + STOP_GRACE, "the stop took too long");
        assert!(world.ready.is_empty());
        world.perform(fleet.tick(now + Duration::from_secs(3600)));
        assert!(world.processes.is_empty(), "nothing starts after the stop");
    }

    fn check(fleet: &Fleet<'_>, world: &World, now: Moment) {
        assert_eq!(fleet.alive(), world.processes.len());
        assert!(world.default_listeners <= 1);
        for worker in &fleet.workers {
            let has_process = world.processes.iter().any(|(id, _)| *id == worker.id);
            assert_eq!(worker.alive(), has_process, "{worker:?}");
            let ready = world.ready.contains(&worker.id);
            assert_eq!(worker.state == State::Ready, ready, "{worker:?}");
        }
        if let Some(End::Failed(_)) = fleet.end(now) {
            assert!(world.processes.is_empty());
        }
    }

    #[test]
    fn whatever_happens_a_slot_has_one_process_and_a_stop_ends_it() {
        for seed in 0..SEEDS {
            let run = std::panic::catch_unwind(|| simulate(seed));
            if let Err(panic) = run {
                println!("repeat with simulate({seed})");
                std::panic::resume_unwind(panic);
            }
        }
    }

    fn ended(app: &App, exits: &[Exit]) -> Option<End> {
        let mut fleet = Fleet::new(app);
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
        let mut fleet = Fleet::new(&app);
        fleet.start(Moment::ZERO);
        fleet.stop(Moment::ZERO);
        assert_eq!(fleet.end(Moment::ZERO), None);
        let kills = fleet.stop(Moment::ZERO);
        let kills = kills.iter().filter(|action| matches!(action, Action::Kill(_)));
        assert_eq!((kills.count(), fleet.end(Moment::ZERO)), (3, Some(End::Stopped)));
    }
}
