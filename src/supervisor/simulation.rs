//! A seeded simulation of the workers' lives: crashes, hangs, reloads, scaling, restarts, upgrades and
//! deaths of the router in random order.
//!
//! What must hold is looked at after every step; at the end everybody is well-behaved, and it must
//! end where the operator has asked. A failure prints the line that repeats it.

use std::time::Duration;

use super::fleet::{End, Fleet, STOP_GRACE};
use super::table::{Moment, Rules, State};
use super::vocabulary::{Action, Exit, Input};
use crate::config::App;
use crate::route::WorkerId;

/// Seeds tried by default; `FLEET_SEED=n` tries one.
const SEEDS: u64 = 4000;
const DRAIN: Duration = Duration::from_secs(5);

fn app() -> App {
    App::fixture()
}

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

    fn pick<T: Copy>(&mut self, of: &[T]) -> Option<T> {
        let count = u64::try_from(of.len()).expect("small");
        (count > 0).then(|| of[usize::try_from(self.below(count)).expect("small")])
    }
}

/// A process as the world has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Process {
    id: WorkerId,
    ready: bool,
    draining: bool,
    asked: bool,
    killed: bool,
}

/// The world around a fleet: which processes exist, and what was done to them.
#[derive(Default)]
struct World {
    processes: Vec<Process>,
    default_listeners: u32,
    compared: Vec<(WorkerId, WorkerId)>,
}

impl World {
    fn perform(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Spawn(id) => {
                    let there = self.processes.iter().filter(|other| other.id.slot == id.slot);
                    let there: Vec<_> = there.collect();
                    assert!(there.len() < 2, "three processes in slot {}", id.slot);
                    let twin = there.iter().any(|p| p.id.seat() == id.seat());
                    assert!(!twin, "two processes in a seat: {id} and {there:?}");
                    let newest = there.iter().all(|p| p.id.generation < id.generation);
                    assert!(newest, "a generation comes again");
                    self.processes.push(Process {
                        id,
                        ready: false,
                        draining: false,
                        asked: false,
                        killed: false,
                    });
                }
                Action::SetReady(id, ready) => {
                    let found = self.find(id);
                    assert!(!(ready && (found.asked || found.killed)), "{id} is on its way");
                    found.ready = ready;
                }
                Action::Drain(id) => {
                    let found = self.find(id);
                    (found.ready, found.draining) = (false, true);
                }
                Action::Terminate(id) | Action::Signal(id) => {
                    let found = self.find(id);
                    (found.ready, found.asked) = (false, true);
                }
                Action::Kill(id) => {
                    let found = self.find(id);
                    (found.ready, found.killed) = (false, true);
                }
                Action::Compare { successor, present } => {
                    self.compared.push((successor, present));
                }
                Action::OpenDefaultListener => self.default_listeners += 1,
                Action::Tell(_) | Action::Say(..) => {}
            }
        }
    }

    fn find(&mut self, id: WorkerId) -> &mut Process {
        self.processes.iter_mut().find(|process| process.id == id).expect("it lives")
    }

    fn ids(&self) -> Vec<WorkerId> {
        self.processes.iter().map(|process| process.id).collect()
    }

    fn exit(&mut self, id: WorkerId) {
        self.processes.retain(|process| process.id != id);
    }

    /// Serving workers by slot.
    fn serving(&self) -> Vec<WorkerId> {
        self.processes.iter().filter(|p| p.ready).map(|p| p.id).collect()
    }
}

fn rules(app: &App) -> Rules<'_> {
    Rules { app, drain_timeout: DRAIN }
}

/// Through the bytes that an upgrade writes.
fn upgraded<'a>(fleet: Fleet<'a>, app: &'a App) -> Fleet<'a> {
    let text = serde_json::to_string(&fleet.freeze()).expect("plain data");
    Fleet::thaw(rules(app), serde_json::from_str(&text).expect("as written"))
}

/// The router dies, and the next one finds what is left.
fn adopted<'a>(fleet: &Fleet<'a>, world: &mut World, app: &'a App, now: Moment) -> Fleet<'a> {
    let left: Vec<_> = fleet.stages().collect();
    for process in &mut world.processes {
        (process.ready, process.draining, process.asked) = (false, false, false);
    }
    let mut next = Fleet::adopting(rules(app), fleet.habits(), &left, now + DRAIN);
    world.perform(next.start(now));
    next
}

fn sign(fleet: &mut Fleet<'_>, id: WorkerId, which: u64, now: Moment) -> Vec<Action> {
    let input = match which {
        0 => Input::Online,
        1 => Input::Heartbeat,
        2 => Input::Ready,
        3 => Input::Listens,
        4 => Input::Listening,
        5 => Input::Attached,
        _ => Input::Drained,
    };
    fleet.feed(id, input, now)
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
    let mut fleet = Fleet::new(rules(&app));
    let mut world = World::default();
    let mut now = Moment::ZERO;
    world.perform(fleet.start(now));
    for _ in 0..random.below(400) {
        now += Duration::from_millis(random.below(800));
        // Often a process that there is, sometimes one that is gone or never was.
        let slot = u16::try_from(random.below(5)).expect("small");
        let generation = u32::try_from(random.below(3)).expect("small");
        let known = random.pick(&world.ids()).filter(|_| random.below(6) > 0);
        let id = known.unwrap_or(WorkerId { slot, generation });
        let served = world.serving();
        let choice = random.below(40);
        let actions = match choice {
            0..12 => sign(&mut fleet, id, random.below(7), now),
            12 => fleet.feed(id, Input::Closed, now),
            13 => fleet.feed(id, Input::Broken("test".into()), now),
            14 => fleet.feed(id, Input::Hung(DRAIN), now),
            15..18 if known.is_some() => {
                world.exit(id);
                let code = i32::try_from(random.below(3)).expect("small");
                fleet.feed(id, Input::Exited(Exit::Code(code)), now)
            }
            18 | 19 => fleet.reload(now),
            20 => fleet.recycle(id, "test".into(), now),
            21 => fleet.scale(usize::try_from(random.below(6)).expect("small"), now),
            22 => fleet.restart(now),
            23 => {
                fleet = upgraded(fleet, &app);
                vec![]
            }
            24 if random.below(3) == 0 => {
                fleet = adopted(&fleet, &mut world, &app, now);
                vec![]
            }
            _ => fleet.tick(now),
        };
        world.perform(actions);
        if choice < 12 || choice == 18 || choice == 19 || choice > 24 {
            // Nothing but a reload's success, a drain or a death takes a worker that serves.
            for id in served {
                let slot = fleet.slot(id).expect("it was there");
                let replaced = world
                    .serving()
                    .iter()
                    .any(|other| other.slot == id.slot && other.generation > id.generation);
                let kept = world.serving().contains(&id);
                let known = slot.worker(id).is_some_and(|worker| worker.state == State::Ready);
                assert!(kept && known || replaced, "{id} serves no longer: {slot:?}");
            }
        }
        answer_comparisons(&mut fleet, &mut world, &mut random, now);
        check(&fleet, &world, now);
    }
    if random.below(2) == 0 {
        settles(&mut fleet, &mut world, &app, &mut now);
    }
    stops(fleet, world, &app, &mut random, now);
}

fn answer_comparisons(fleet: &mut Fleet<'_>, world: &mut World, random: &mut Random, now: Moment) {
    while let Some((successor, _)) = world.compared.pop() {
        let missing = if random.below(3) == 0 { vec!["[::]:3000".to_owned()] } else { vec![] };
        world.perform(fleet.feed(successor, Input::Compared(missing), now));
    }
}

/// With everybody well-behaved from here on, it ends where the operator has asked.
fn settles(fleet: &mut Fleet<'_>, world: &mut World, app: &App, now: &mut Moment) {
    for _ in 0..400 {
        *now += Duration::from_millis(100);
        for Process { id, asked, killed, draining, .. } in world.processes.clone() {
            if killed || asked {
                world.exit(id);
                let exit = if killed { Exit::Signal(9) } else { Exit::Code(0) };
                world.perform(fleet.feed(id, Input::Exited(exit), *now));
            } else if draining {
                world.perform(fleet.feed(id, Input::Drained, *now));
            } else {
                for input in [Input::Attached, Input::Listens, Input::Listening, Input::Ready] {
                    world.perform(fleet.feed(id, input, *now));
                }
            }
            while let Some((successor, _)) = world.compared.pop() {
                world.perform(fleet.feed(successor, Input::Compared(vec![]), *now));
            }
        }
        world.perform(fleet.tick(*now));
        check(fleet, world, *now);
    }
    assert!(!fleet.reloading(), "a reload that never ends");
    for slot in fleet.slots() {
        let alive: Vec<_> = slot.alive().collect();
        if !slot.wanted {
            assert!(alive.is_empty(), "nobody is wanted here: {slot:?}");
            continue;
        }
        assert!(slot.beside.is_none(), "two in one slot: {slot:?}");
        match slot.present.state {
            State::Ready => assert_eq!(alive.len(), 1),
            State::Errored => {}
            State::Down => assert!(
                !app.autorestart || !app.stop_exit_codes.is_empty(),
                "down without a reason: {slot:?}"
            ),
            // It left by itself and takes its time, or pauses.
            State::Stopping { wanted: false, .. } | State::Backoff(_) => {}
            _ => panic!("neither up nor down: {slot:?}"),
        }
    }
}

/// The operator ends it; asked workers may or may not obey, killed ones do.
fn stops(mut fleet: Fleet<'_>, mut world: World, app: &App, random: &mut Random, mut now: Moment) {
    let asked = now;
    world.perform(fleet.stop(now));
    while fleet.end(now).is_none() {
        now = fleet.deadline().map_or(now, |at| at.max(now));
        world.perform(fleet.tick(now));
        check(&fleet, &world, now);
        let obedient = random.below(2) == 0;
        while let Some(at) = world.processes.iter().position(|p| p.killed || obedient) {
            let id = world.processes[at].id;
            world.exit(id);
            world.perform(fleet.feed(id, Input::Exited(Exit::Signal(9)), now));
        }
    }
    assert!(world.processes.is_empty(), "left behind: {:?}", world.processes);
    assert!(now <= asked + app.kill_timeout + STOP_GRACE, "the stop took too long");
    world.perform(fleet.tick(now + Duration::from_secs(3600)));
    assert!(world.processes.is_empty(), "nothing starts after the stop");
}

fn check(fleet: &Fleet<'_>, world: &World, now: Moment) {
    let mut known: Vec<WorkerId> = fleet.stages().map(|(id, _)| id).collect();
    let mut there = world.ids();
    known.sort_unstable();
    there.sort_unstable();
    assert_eq!(known, there, "the books and the world differ");
    for slot in fleet.slots() {
        slot.check();
        for worker in slot.workers() {
            let ready = world.serving().contains(&worker.id);
            assert_eq!(worker.state == State::Ready, ready, "{worker:?}");
        }
    }
    if let Some(End::Failed(_)) = fleet.end(now) {
        assert!(world.processes.is_empty());
    }
}

#[test]
fn whatever_happens_no_slot_has_two_of_a_kind_and_the_operator_gets_what_he_asked_for() {
    let one = std::env::var("FLEET_SEED").ok().map(|seed| seed.parse().expect("a number"));
    for seed in one.map_or(0..SEEDS, |seed| seed..seed + 1) {
        let run = std::panic::catch_unwind(|| simulate(seed));
        if let Err(panic) = run {
            println!("FLEET_SEED={seed} cargo test --lib supervisor::simulation");
            std::panic::resume_unwind(panic);
        }
    }
}
