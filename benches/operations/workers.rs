//! The choice of a worker, as their number grows; and what is written down of it.

use std::hint::black_box;
use std::time::Duration;

use router::metrics::latency::Way;
use router::metrics::{Counter, Counters};
use router::route::balance::{Balance, pick_by_hash};
use router::route::roster::{Roster, Standing};

use super::sessions::worker;
use super::{FREE, Judge};

/// So many ready workers.
pub(super) fn roster(workers: u16) -> Roster {
    let roster = Roster::new();
    (0..workers).for_each(|slot| roster.set(worker(slot), Standing::Ready));
    roster
}

pub(super) fn all(judge: &mut impl Judge) {
    for workers in [2, 4, 16, 64, 1024] {
        let roster = roster(workers);
        let balances = [
            ("least-connection", Balance::LeastConnection),
            ("round-robin", Balance::RoundRobin),
            ("random", Balance::Random),
            ("least-lag", Balance::LeastLag),
        ];
        for (name, balance) in balances {
            judge.judge(&format!("pick of {workers}/{name}"), FREE, || {
                balance.pick(&roster, |_| true, black_box(0x1234_5678_9abc_def0), 50_000)
            });
        }
        judge.judge(&format!("pick of {workers}/hash"), FREE, || {
            pick_by_hash(&roster, |_| true, black_box(0x1234_5678))
        });
    }

    let (roster, counters) = (roster(4), Counters::new());
    let mut micros = 0;
    judge.judge("count/a hand-off and its latency", FREE, || {
        micros = (micros + 7_919) % 1_000_000;
        let latency = Duration::from_micros(black_box(micros));
        counters.handed_off(Counter::HandedOffNamed, Way::Lane, latency);
        roster.took(worker(2));
    });
    judge.judge("count/a hope, and that it ends", FREE, || {
        roster.hope_ends(roster.hope(black_box(worker(2))));
    });
}
