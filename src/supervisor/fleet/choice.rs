//! What is done with some of the workers and not with all, and whether it is done.

use super::super::slot::{Context, Slot};
use super::super::table::{Moment, State};
use super::super::vocabulary::{Action, Input};
use super::Fleet;
use crate::route::WorkerId;

/// Why a worker that is wanted does not serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::supervisor) enum Hitch {
    /// It was given up.
    Errored,
    /// It has ended.
    Ends,
    /// It has not shown that it is ready.
    Unready,
}

impl Fleet<'_> {
    /// Ends the workers of these slots, and starts each anew when it has ended. Those that were
    /// halted are filled.
    pub(in crate::supervisor) fn restart_slots(
        &mut self,
        slots: &[u16],
        now: Moment,
    ) -> Vec<Action> {
        self.withdraw(|slot| !slots.contains(&slot));
        let mut actions = self.chosen(slots, now, |slot, context| {
            if slot.wanted { slot.restart(context) } else { slot.fill(context) }
        });
        actions.extend(self.go_on(None, now));
        actions
    }

    /// Ends the workers of these slots, which stay empty.
    pub(in crate::supervisor) fn halt(&mut self, slots: &[u16], now: Moment) -> Vec<Action> {
        self.withdraw(|slot| !slots.contains(&slot));
        let mut actions = self.chosen(slots, now, |slot, context| {
            slot.wanted = false;
            slot.stop(&Input::Stop, context)
        });
        actions.extend(self.go_on(None, now));
        actions
    }

    /// Fills these slots, if they are empty.
    pub(in crate::supervisor) fn resume(&mut self, slots: &[u16], now: Moment) -> Vec<Action> {
        self.chosen(slots, now, |slot, context| {
            let rests = slot.wanted && slot.resting() && !slot.present.alive();
            if !slot.wanted || rests { slot.fill(context) } else { vec![] }
        })
    }

    /// From now on it is counted anew how often workers are started again.
    pub(in crate::supervisor) fn reset(&mut self, slots: Option<&[u16]>) {
        let meant =
            |slot: &&mut Slot| slots.is_none_or(|slots| slots.contains(&slot.present.id.slot));
        self.books.slots.iter_mut().filter(meant).for_each(|slot| slot.restarts = 0);
    }

    /// Does it with some slots, if it is not to end.
    fn chosen(
        &mut self,
        slots: &[u16],
        now: Moment,
        mut act: impl FnMut(&mut Slot, &mut Context<'_>) -> Vec<Action>,
    ) -> Vec<Action> {
        if self.stopping() {
            return vec![];
        }
        self.each(now, |slot, context| {
            if slots.contains(&slot.present.id.slot) { act(slot, context) } else { vec![] }
        })
    }

    /// Whether nothing is about to change soon: the workers serve, or will not for a while.
    pub(in crate::supervisor) fn settled(&self) -> bool {
        let reloading = self.books.reload.as_ref().is_some_and(|reload| !reload.recycle);
        !reloading && !self.books.queued && self.books.slots.iter().all(Slot::settled)
    }

    /// What is amiss with those that are wanted and do not serve.
    pub(in crate::supervisor) fn hitches(&self) -> impl Iterator<Item = (WorkerId, Hitch)> {
        let wanted = self.books.slots.iter().filter(|slot| slot.wanted);
        wanted.filter_map(|slot| {
            let hitch = match slot.present.state {
                State::Ready => return None,
                State::Errored => Hitch::Errored,
                // One that has done what it was to do.
                State::Down if !self.rules.app.autorestart => return None,
                State::Down | State::Backoff(_) => Hitch::Ends,
                _ => Hitch::Unready,
            };
            Some((slot.present.id, hitch))
        })
    }

    /// Whether there is, or has been, such a slot.
    pub(in crate::supervisor) fn has_slot(&self, slot: u16) -> bool {
        usize::from(slot) < self.books.slots.len()
    }
}
