//! Session ids like engine.io's, and tables full of them.

use router::route::WorkerId;
use router::route::session_table::SessionTable;

/// A worker's first process.
pub(crate) fn worker(slot: u16) -> WorkerId {
    WorkerId { slot, generation: 1 }
}

/// An id of engine.io's length; any two numbers make two ids.
pub(crate) fn session(number: u64) -> [u8; 20] {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    std::array::from_fn(|_| {
        mixed = mixed.rotate_left(6);
        ALPHABET[usize::from(mixed.to_le_bytes()[0] & 63)]
    })
}

/// The first so many ids, in an order in which no cache helps: only the list itself is read ahead.
pub(crate) fn scattered(sessions: u64) -> Vec<[u8; 20]> {
    const PRIME: u64 = 7_919;
    (0..sessions).map(|n| session(n * PRIME % sessions)).collect()
}

/// A table of the first so many ids, on four workers.
pub(crate) fn table(sessions: u64) -> SessionTable {
    let table = SessionTable::new();
    for number in 0..sessions {
        let slot = u16::from(number.to_le_bytes()[0] & 3);
        table.insert(&session(number), worker(slot)).expect("room");
    }
    table
}
