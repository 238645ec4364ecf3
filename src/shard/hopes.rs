//! The hand-offs of this shard that may become sessions, until they have had their time.
//!
//! A shard hands off thousands in a second and each is a hope for [`HOPE`]; since a slot's hopes
//! are settled oldest first, only the last of each tenth of a second is kept.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::route::load::HOPE;
use crate::route::roster::Hope;

/// Hopes that end together.
const TOGETHER: Duration = Duration::from_millis(100);

/// In order of time.
#[derive(Debug, Default)]
pub struct Hopes {
    /// When they end, and the last hope of each worker among them.
    groups: VecDeque<(Instant, Vec<Hope>)>,
}

impl Hopes {
    /// A hope begins. `true`: it is the first, and somebody has to call [`Self::due`].
    pub fn begin(&mut self, hope: Hope, now: Instant) -> bool {
        let until = now + HOPE;
        match self.groups.back_mut() {
            Some((end, hopes)) if until <= *end => {
                match hopes.iter_mut().find(|other| other.worker == hope.worker) {
                    Some(other) => *other = hope,
                    None => hopes.push(hope),
                }
                false
            }
            _ => {
                self.groups.push_back((until + TOGETHER, vec![hope]));
                self.groups.len() == 1
            }
        }
    }

    /// Those that have had their time, a group a call.
    pub fn due(&mut self, now: Instant) -> Option<Vec<Hope>> {
        if self.next()? > now {
            return None;
        }
        self.groups.pop_front().map(|(_, hopes)| hopes)
    }

    /// When [`Self::due`] has something to give.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        self.groups.front().map(|(end, _)| *end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::WorkerId;
    use crate::route::roster::{Roster, Standing};

    #[test]
    #[expect(clippy::disallowed_methods, reason = "where the test's clock starts")]
    fn every_hope_ends_and_few_are_kept() {
        let roster = Roster::new();
        let workers = [0, 1].map(|slot| WorkerId { slot, generation: 1 });
        workers.iter().for_each(|worker| roster.set(*worker, Standing::Ready));
        let mut hopes = Hopes::default();
        let start = Instant::now();
        for n in 0..10_000_u32 {
            let hope = roster.hope(workers[usize::from(n % 3 == 0)]);
            let first = hopes.begin(hope, start + Duration::from_micros(100) * n);
            assert_eq!(first, n == 0);
        }
        assert!(hopes.groups.len() <= 11, "a second of them");
        assert!(hopes.due(start + HOPE).is_none());
        let end = hopes.next().expect("some") + Duration::from_secs(2);
        while let Some(ended) = hopes.due(end) {
            ended.into_iter().for_each(|hope| roster.hope_ends(hope));
        }
        assert_eq!(workers.map(|worker| roster.load(worker)), [0, 0]);
        assert!(!roster.expects_sessions() && hopes.next().is_none());
    }
}
