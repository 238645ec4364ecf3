//! What a request and a packet cost in time, without the kernel: `cargo bench --bench hot [FILTER]`.
//!
//! The way of a request (its line, its session id, its worker) is meant to take at most 100 ns.
//! `operations` has the list; times move with the machine, so `benches/instructions.rs` counts
//! what does not.

mod operations;

use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput};
use operations::{Judge, Terms};

struct Time {
    criterion: Criterion,
    sizes: &'static [u64],
}

impl Judge for Time {
    fn sizes(&self) -> &'static [u64] {
        self.sizes
    }

    fn judge<R>(&mut self, name: &str, terms: Terms, mut work: impl FnMut() -> R) {
        let (group, what) = name.split_once('/').expect("a group and a name");
        let mut group: BenchmarkGroup<'_, WallTime> = self.criterion.benchmark_group(group);
        if terms.elements > 1 {
            group.throughput(Throughput::Elements(terms.elements));
        }
        group.bench_function(what, |b| b.iter(&mut work));
        group.finish();
    }
}

fn main() {
    // As a test, each runs once: `cargo test` passes no argument, `cargo bench` this one.
    let measures = std::env::args().any(|argument| argument == "--bench");
    let criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    let sizes: &[u64] = if measures { &[1_000, 10_000, 100_000, 1_000_000] } else { &[1_000] };
    let mut time = Time { criterion, sizes };
    operations::all(&mut time);
    time.criterion.final_summary();
}
