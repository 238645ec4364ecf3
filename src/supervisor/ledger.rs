//! What is told of the slots besides their living processes: how often each was filled again, and
//! why one is empty.

use super::slot::Slot;
use super::table::State;
use crate::metrics::snapshot::Reloads;

/// See the module's text; said after every turn.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Every slot that is wanted or has a process, by number.
    pub slots: Vec<Record>,
    /// How reloads have ended.
    pub reloads: Reloads,
}

/// One slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its number.
    pub slot: u16,
    /// Of the process that fills it, or was the last to.
    pub generation: u32,
    /// Processes that were started here after the first, for whatever reason.
    pub restarts: u32,
    /// What it is when no process lives in it.
    pub vacancy: Vacancy,
}

/// Why no process lives in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vacancy {
    /// One will be started.
    Waiting,
    /// Given up after too many unstable lives.
    Errored,
    /// None will be started.
    Stopped,
}

impl Ledger {
    pub(super) fn of(slots: &[Slot], reloads: Reloads) -> Self {
        let told = slots.iter().filter(|slot| slot.wanted || slot.alive().next().is_some());
        Self { slots: told.map(Record::of).collect(), reloads }
    }
}

impl Record {
    fn of(slot: &Slot) -> Self {
        let present = &slot.present;
        let vacancy = match present.state {
            State::Errored => Vacancy::Errored,
            _ if slot.resting() || present.leaving() && !slot.refills() => Vacancy::Stopped,
            // Of the others the process is gone by now, and the rules have yet to be asked.
            _ => Vacancy::Waiting,
        };
        let (restarts, generation) = (slot.restarts, present.id.generation);
        Self { slot: present.id.slot, generation, restarts, vacancy }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::fleet::Fleet;
    use super::super::table::Rules;
    use super::super::vocabulary::{Exit, Input};
    use super::*;
    use crate::config::App;
    use crate::route::WorkerId;

    const SECOND: Duration = Duration::from_secs(1);

    fn crash(fleet: &mut Fleet<'_>, generation: u32) {
        let id = WorkerId { slot: 0, generation };
        fleet.feed(id, Input::Exited(Exit::Code(1)), Duration::ZERO);
    }

    fn record(fleet: &Fleet<'_>) -> (u32, u32, Vacancy) {
        let Record { generation, restarts, vacancy, .. } = fleet.ledger().slots[0];
        (generation, restarts, vacancy)
    }

    #[test]
    fn an_empty_slot_says_why_and_every_further_process_counts() {
        let app = App { max_restarts: 1, workers: 1, ..App::fixture() };
        let rules = Rules { app: &app, drain_timeout: SECOND };
        let mut fleet = Fleet::new(rules);
        assert_eq!(record(&fleet), (0, 0, Vacancy::Stopped));
        fleet.start(Duration::ZERO);
        crash(&mut fleet, 1);
        assert_eq!(record(&fleet), (1, 0, Vacancy::Waiting));
        fleet.tick(SECOND);
        crash(&mut fleet, 2);
        assert_eq!(record(&fleet), (2, 1, Vacancy::Errored));
        // Somebody starts it anew, and it crosses an upgrade.
        fleet.reload(SECOND);
        let fleet = Fleet::thaw(rules, fleet.freeze());
        assert_eq!(record(&fleet), (3, 2, Vacancy::Waiting));
    }

    #[test]
    fn reloads_are_counted_by_how_they_end() {
        let app = App { workers: 1, ..App::fixture() };
        let mut fleet = Fleet::new(Rules { app: &app, drain_timeout: SECOND });
        fleet.start(Duration::ZERO);
        fleet.feed(WorkerId { slot: 0, generation: 1 }, Input::Ready, Duration::ZERO);
        fleet.reload(Duration::ZERO);
        crash(&mut fleet, 2);
        assert_eq!(fleet.ledger().reloads, Reloads { done: 0, failed: 1 });
        fleet.reload(Duration::ZERO);
        let third = WorkerId { slot: 0, generation: 4 };
        fleet.feed(third, Input::Ready, Duration::ZERO);
        fleet.feed(third, Input::Compared(vec![]), Duration::ZERO);
        assert_eq!(fleet.ledger().reloads, Reloads { done: 1, failed: 1 });
        assert_eq!(record(&fleet).1, 2);
        // A worker that is replaced for a reason of its own is no reload.
        fleet.feed(WorkerId { slot: 0, generation: 1 }, Input::Exited(Exit::Code(0)), SECOND);
        fleet.recycle(third, "too large".into(), SECOND);
        crash(&mut fleet, 5);
        assert_eq!(fleet.ledger().reloads, Reloads { done: 1, failed: 1 });
    }
}
