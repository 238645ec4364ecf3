//! What the hot path asks of the allocator: nothing, or exactly as much as `benches/operations` says;
//! and how much of it a table of sessions keeps.
//!
//! The allocator of this binary counts for each thread, so other tests beside this one count for
//! themselves.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

#[path = "../benches/operations/mod.rs"]
mod operations;

use operations::{Judge, Terms};

/// The system's allocator, and how often this thread asked it.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    /// Bytes that it got and has not given back.
    static KEPT: Cell<isize> = const { Cell::new(0) };
}

fn count() {
    ALLOCATIONS.set(ALLOCATIONS.get() + 1);
}

fn keep(more: usize, less: usize) {
    KEPT.set(KEPT.get().wrapping_add_unsigned(more).wrapping_sub_unsigned(less));
}

// SAFETY: every call is the system allocator's own, passed on as it came. The counter has no
// destructor and no lazy beginning, so that counting allocates nothing.
#[expect(unsafe_code, reason = "an allocator cannot be written without it")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        keep(layout.size(), 0);
        // SAFETY: the caller's promises are the ones asked for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        keep(0, layout.size());
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        keep(size, layout.size());
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[derive(Default)]
struct Allocations {
    judged: usize,
    /// Operations that do not allocate as often as they say.
    wrong: Vec<String>,
}

impl Judge for Allocations {
    fn sizes(&self) -> &'static [u64] {
        &[1_000]
    }

    fn judge<R>(&mut self, name: &str, terms: Terms, mut work: impl FnMut() -> R) {
        // What grows has grown then: each partition of a table, each worker's entry in a list.
        for _ in 0..4_000 / terms.elements + 3 {
            drop(work());
        }
        for _ in 0..10 {
            let before = ALLOCATIONS.get();
            let result = work();
            let count = ALLOCATIONS.get() - before;
            drop(result);
            if count != terms.allocations {
                let Terms { elements, allocations } = terms;
                self.wrong.push(format!("{name}: {count}, not {allocations}, for {elements}"));
                break;
            }
        }
        self.judged += 1;
    }
}

#[test]
fn the_hot_path_allocates_exactly_what_it_says() {
    let mut allocations = Allocations::default();
    operations::all(&mut allocations);
    assert!(allocations.judged > 50, "{}", allocations.judged);
    assert!(allocations.wrong.is_empty(), "{:#?}", allocations.wrong);
}

/// Bytes that a session may take of a table, whose parts double when they grow.
const MOST_BYTES: f64 = 100.0;

#[test]
fn a_session_takes_few_bytes_of_a_table() {
    for sessions in [10_000, 100_000, 1_000_000] {
        let before = KEPT.get();
        let table = operations::sessions::table(sessions);
        let each = (KEPT.get() - before) as f64 / sessions as f64;
        assert!(each <= MOST_BYTES, "{each} bytes for each of {sessions}");
        drop(table);
        assert_eq!(KEPT.get(), before, "all of it is given back");
    }
}
