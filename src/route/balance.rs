//! The choice of a worker for a request that has no session, or one that nobody knows.

use super::WorkerId;
use super::roster::Roster;

/// How a request with no session finds its worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// The worker with the fewest sessions and hand-offs; ties go round.
    #[default]
    LeastConnection,
    /// Each in turn.
    RoundRobin,
    /// Any, by chance.
    Random,
    /// Of two by chance, the one that will answer sooner (Mitzenmacher, 2001: "The power of two
    /// choices"): what `load.rs` says of delay, utilisation and what is on its way.
    LeastLag,
}

impl Balance {
    /// Picks one of the ready workers that `may` serve, or `None` when there is none.
    ///
    /// `chance` is the caller's randomness and `now` its clock in milliseconds: this room has
    /// neither.
    pub fn pick(
        self,
        roster: &Roster,
        may: impl Fn(WorkerId) -> bool,
        chance: u64,
        now: u64,
    ) -> Option<WorkerId> {
        let candidates = || roster.ready().filter(|worker| may(*worker));
        match self {
            Self::LeastConnection => {
                let slots = roster.slots().max(1);
                let first = roster.next_turn() % slots;
                candidates().min_by_key(|worker| {
                    let slot = usize::from(worker.slot);
                    let rotated = if slot < first { slot + slots - first } else { slot - first };
                    (roster.load(*worker), rotated)
                })
            }
            Self::RoundRobin => nth(&candidates, roster.next_turn()),
            Self::Random => nth(&candidates, usize::try_from(chance >> 1).unwrap_or(0)),
            Self::LeastLag => {
                let count = candidates().count();
                let first = usize::try_from(chance >> 33).unwrap_or(0).checked_rem(count)?;
                let other = usize::try_from(chance >> 1 & 0xffff_ffff).unwrap_or(0);
                let step = other.checked_rem(count - 1).map_or(0, |step| step + 1);
                let two = [first, (first + step) % count];
                let two = two.into_iter().filter_map(|number| candidates().nth(number));
                two.min_by_key(|worker| roster.cost(*worker, now))
            }
        }
    }
}

/// Picks the worker for a session that nobody knows, by its hash: all requests of one session
/// agree, and a change in the roster moves only the sessions of the worker that changed
/// (highest random weight; Thaler and Ravishankar, 1998).
pub fn pick_by_hash(
    roster: &Roster,
    may: impl Fn(WorkerId) -> bool,
    hash: u64,
) -> Option<WorkerId> {
    roster
        .ready()
        .filter(|worker| may(*worker))
        .max_by_key(|worker| mix(hash ^ mix(u64::from(worker.slot) + 1)))
}

/// The finaliser of splitmix64: every bit of the input reaches every bit of the output.
const fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

fn nth<I: Iterator<Item = WorkerId>>(
    candidates: &impl Fn() -> I,
    number: usize,
) -> Option<WorkerId> {
    let count = candidates().count();
    candidates().nth(number.checked_rem(count)?)
}

#[cfg(test)]
mod tests {
    use super::super::roster::Standing;
    use super::*;

    fn roster(ready: &[u16]) -> Roster {
        let roster = Roster::new();
        for &slot in ready {
            roster.set(WorkerId { slot, generation: 1 }, Standing::Ready);
        }
        roster
    }

    fn any(_: WorkerId) -> bool {
        true
    }

    #[test]
    fn nobody_ready_is_nobody() {
        for balance in
            [Balance::LeastConnection, Balance::RoundRobin, Balance::Random, Balance::LeastLag]
        {
            assert_eq!(balance.pick(&roster(&[]), any, 3, 0), None);
        }
        assert_eq!(pick_by_hash(&roster(&[]), any, 3), None);
    }

    #[test]
    fn sixteen_at_once_land_eight_and_eight() {
        let roster = roster(&[2, 5]);
        let mut counts = [0_u32; 8];
        for _ in 0..16 {
            let worker = Balance::LeastConnection.pick(&roster, any, 0, 0).expect("one is ready");
            roster.hope(worker);
            counts[usize::from(worker.slot)] += 1;
        }
        assert_eq!((counts[2], counts[5]), (8, 8));
    }

    #[test]
    fn round_robin_takes_turns_and_skips_who_may_not() {
        let roster = roster(&[0, 1, 2]);
        let may = |worker: WorkerId| worker.slot != 1;
        let picked: Vec<u16> = (0..4)
            .filter_map(|_| Balance::RoundRobin.pick(&roster, may, 0, 0))
            .map(|worker| worker.slot)
            .collect();
        assert_eq!(picked, [0, 2, 0, 2]);
    }

    #[test]
    fn a_lost_worker_moves_only_its_own_sessions() {
        let before = roster(&[0, 1, 2, 3]);
        let after = roster(&[0, 1, 3]);
        let mut moved = 0;
        for hash in (0..1000).map(|n| super::super::hash(format!("sid-{n}").as_bytes())) {
            let old = pick_by_hash(&before, any, hash).expect("ready").slot;
            let new = pick_by_hash(&after, any, hash).expect("ready").slot;
            if old == 2 {
                moved += 1;
            } else {
                assert_eq!(old, new);
            }
        }
        assert!((150..350).contains(&moved), "a quarter, more or less: {moved}");
    }

    #[test]
    fn least_lag_leaves_a_worker_that_does_not_answer() {
        let (only, roster) = (roster(&[2]), roster(&[0, 1, 2, 3]));
        let slow = WorkerId { slot: 2, generation: 1 };
        roster.unread(slow, 50_000);
        let mut counts = [0; 4];
        for n in 0..4000_u64 {
            let chance = mix(n);
            let picked = Balance::LeastLag.pick(&roster, any, chance, 50_250).expect("ready");
            counts[usize::from(picked.slot)] += 1;
        }
        assert_eq!(counts[2], 0, "it always loses against the other of the two");
        assert!(counts.iter().filter(|count| **count > 800).count() == 3, "{counts:?}");
        assert_eq!(Balance::LeastLag.pick(&only, any, 7, 50_250), Some(slow));
    }
}
