//! The session table, as it grows.

use super::sessions::{scattered, session, table, worker};
use super::{FREE, Judge};

pub(super) fn all(judge: &mut impl Judge) {
    for &size in judge.sizes() {
        let sessions = table(size);
        let ids = scattered(size);
        let group = format!("table of {size}");
        let mut known = ids.iter().cycle();
        let mut next = || known.next().expect("there are some");
        judge.judge(&format!("{group}/get"), FREE, || sessions.get(next()));
        judge.judge(&format!("{group}/insert again"), FREE, || sessions.insert(next(), worker(1)));
        let mut number = size;
        judge.judge(&format!("{group}/miss"), FREE, || {
            number += 1;
            sessions.get(&session(number))
        });
        // One in, the one before it out: it neither grows nor shrinks.
        judge.judge(&format!("{group}/insert and remove"), FREE, || {
            number += 1;
            let inserted = sessions.insert(&session(number), worker(1));
            (inserted, sessions.remove(&session(number - 1), worker(1)))
        });
    }
}
