//! A seeded simulation of whole shards: clients, Node workers, engine and clock in memory.
//!
//! `world` plays clients and the control thread, `engine` the engines, `worker` the Node processes. Everything is
//! chosen by one seed, so a failure repeats; the line printed with it says how. What must hold is
//! looked at where it happens (a socket taken twice, a packet out of order) and at the end, when
//! everything has had time to finish and nothing may be left over.

mod engine;
mod upgrade;
mod worker;
mod world;

use crate::ipc::Serialization;
use crate::route::WorkerId;
use world::World;

/// Seeds tried by default; `SIM_SEEDS=n` tries more, `SIM_SEED=n` one.
const SEEDS: u64 = 256;

/// xorshift64 (Marsaglia, 2003).
struct Chance(u64);

impl Chance {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 11
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next()).unwrap_or(0) % bound.max(1)
    }

    fn one_in(&mut self, odds: usize) -> bool {
        self.below(odds) == 0
    }
}

#[test]
fn nothing_is_lost_doubled_or_misled() {
    let number = |name| std::env::var(name).ok().map(|n| n.parse::<u64>().expect("a number"));
    match number("SIM_SEED") {
        Some(seed) => World::new(seed).run(),
        None => {
            let seeds = number("SIM_SEEDS").unwrap_or(SEEDS);
            (0..seeds).for_each(|seed| World::new(seed).run());
        }
    }
}

#[test]
fn a_worker_causes_one_report_of_each_kind_whatever_it_repeats() {
    let mut world = World::new(0);
    let (now, worker) = (world.now, WorkerId { slot: 0, generation: 1 });
    world.shards[0].attached(0, worker, Serialization::Json, false, now);
    for _ in 0..1000 {
        let words = ["router:drained", "router:beat", "ready"].map(|word| format!("\"{word}\"\n"));
        world.shards[0].received(0, words.concat().as_bytes(), now);
    }
    let reports = world.reports.try_iter().map(|report| format!("{report:?}"));
    let name = "(WorkerId { slot: 0, generation: 1 })";
    assert_eq!(reports.collect::<Vec<_>>(), [format!("Drained{name}"), format!("Ready{name}")]);
}
