//! What a request and a packet cost in instructions: `perf/instructions/run`.
//!
//! Times of a shared machine say little about a change of a few nanoseconds; instructions say it to the
//! digit. The script runs this program under callgrind, which collects within [`measured`] only
//! and writes its counts each time that it returns; what is printed here names them, in order. By
//! itself each operation runs once, so that a test needs no valgrind.

mod operations;

use std::hint::black_box;

use operations::{Judge, Terms};

struct Instructions {
    /// Calls of each operation, less where each has many elements.
    calls: u64,
    sizes: &'static [u64],
}

impl Judge for Instructions {
    fn sizes(&self) -> &'static [u64] {
        self.sizes
    }

    #[expect(clippy::print_stdout, reason = "what the script reads")]
    fn judge<R>(&mut self, name: &str, terms: Terms, mut work: impl FnMut() -> R) {
        // What grows has grown then.
        for _ in 0..2 {
            black_box(work());
        }
        let calls = (self.calls / terms.elements).max(1);
        measured(calls, &mut work);
        println!("{name}\t{}", calls * terms.elements);
    }
}

/// Callgrind knows it by its name. The loop itself is some three instructions a call.
#[inline(never)]
fn measured<R>(calls: u64, work: &mut impl FnMut() -> R) {
    for _ in 0..calls {
        black_box(work());
    }
}

fn main() {
    let counts = std::env::args().any(|argument| argument == "--count");
    let (calls, sizes): (_, &[u64]) =
        if counts { (1_000, &[1_000, 10_000, 100_000, 1_000_000]) } else { (1, &[1_000]) };
    operations::all(&mut Instructions { calls, sizes });
}
