//! All workers of the app: starting, reloading, scaling and stopping them, and when it is over.
//!
//! Pure, as `table.rs` is; what one worker does is decided there, and how two share a slot in
//! `slot.rs`. Here is what concerns several slots: a reload goes through them one after another,
//! one at a time, and stops at the first that fails.

mod choice;

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::slot::{Context, Failed, Reloadable, Slot};
use super::table::{BACKOFF_MAX, Habits, Moment, Rules, State};
use super::vocabulary::{Action, Exit, Input, Trouble};
use super::{Ledger, Stage, Standing};
use crate::metrics::snapshot::Reloads;
use crate::route::{MAX_SLOTS, WorkerId};

pub(super) use self::choice::Hitch;

/// How long after `kill_timeout` a stop waits for the killed; a process the kernel cannot end
/// (its disk hangs) does not hold the router up. With the last flush of the output (300 ms) the
/// whole stop stays inside `kill_timeout` and a second.
pub(super) const STOP_GRACE: Duration = Duration::from_millis(700);

/// How long a worker is not recycled again after its successor has failed. The next pause is twice
/// as long, up to [`BACKOFF_MAX`].
const RECYCLE_PAUSE: Duration = Duration::from_secs(4);

/// Every slot of one app.
#[derive(Debug)]
pub(super) struct Fleet<'a> {
    rules: Rules<'a>,
    books: Books,
}

/// All that a fleet knows; it crosses an upgrade.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Books {
    /// By number, those that were scaled away at the end.
    slots: Vec<Slot>,
    habits: Habits,
    stop: Option<Stop>,
    reload: Option<Reload>,
    /// A reload was asked for while one was under way: once more.
    queued: bool,
    /// Workers to be recycled, one after another, and why; a bound: one of each slot.
    recycles: VecDeque<(WorkerId, String)>,
    /// Workers that no successor has proved as good as; a bound: one of each slot.
    #[serde(default)]
    pauses: Vec<Pause>,
    #[serde(default)]
    reloads: Reloads,
}

/// A worker is not recycled again before this time: the last successor was none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Pause {
    worker: WorkerId,
    until: Moment,
    /// How long the pause is; the next one is longer.
    length: Duration,
}

/// The operator's wish to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Stop {
    /// With patience until then.
    By(Moment),
    /// At once.
    Now,
}

/// New workers for old ones, under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Reload {
    began: Moment,
    /// Slots whose turn is still to come.
    left: VecDeque<u16>,
    /// The slot whose successor is on trial.
    current: Option<u16>,
    /// Slots in which nothing served, and the latest generation they had had then: what is started
    /// there is yet to be ready.
    #[serde(default)]
    anew: Vec<(u16, u32)>,
    /// Slots that are done.
    renewed: u16,
    /// One worker alone, for a reason of its own.
    recycle: bool,
}

impl Reload {
    fn of(left: VecDeque<u16>, recycle: bool, now: Moment) -> Self {
        Self { began: now, left, current: None, anew: Vec::new(), renewed: 0, recycle }
    }

    /// Counts the workers that were started anew, once they are ready or have failed.
    fn count_anew(&mut self, slots: &[Slot]) {
        let renewed = &mut self.renewed;
        self.anew.retain(|(slot, generation)| {
            let slot = slots.get(usize::from(*slot));
            let serves = slot.map_or(Some(false), |slot| slot.serves_since(*generation));
            *renewed += u16::from(serves == Some(true));
            serves.is_none()
        });
    }

    /// Takes the first slot whose turn can be now. One whose both seats are taken, by a worker that
    /// drains, does not hold up those behind it.
    fn take_turn(&mut self, slots: &[Slot]) -> Option<u16> {
        let may = |slot: &u16| {
            let slot = slots.get(usize::from(*slot));
            slot.is_none_or(|slot| slot.reloadable() != Reloadable::Later)
        };
        let at = self.left.iter().position(may)?;
        self.left.remove(at)
    }

    /// Whether all that is left is that workers get ready which were started anew.
    fn only_waits(&self) -> bool {
        self.current.is_none() && self.left.is_empty()
    }

    fn done(&self, now: Moment, reloads: &mut Reloads) -> Option<Action> {
        let took = now.saturating_sub(self.began);
        reloads.done += u64::from(!self.recycle);
        (!self.recycle).then_some(Action::Tell(News::ReloadDone(self.renewed, took)))
    }
}

/// What the operator is told of the fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// So many workers are replaced.
    ReloadBegins(usize),
    /// One is under way: this one comes after it.
    ReloadQueued,
    /// So many workers were replaced, in so long.
    ReloadDone(u16, Duration),
    /// A successor did not prove as good, after so many that did.
    ReloadFailed {
        /// On trial.
        worker: WorkerId,
        /// Why it was given up.
        why: Trouble,
        /// Workers that were replaced before it.
        renewed: u16,
    },
    /// This worker is replaced, for this reason.
    Recycling(WorkerId, String),
    /// From so many workers to so many.
    Scaling(usize, usize),
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// As the operator wished, or the workers were done.
    Stopped,
    /// No worker is left; these are given up or ended badly.
    Failed(Vec<WorkerId>),
}

impl<'a> Fleet<'a> {
    /// As many slots as the app has workers, all down.
    pub(super) fn new(rules: Rules<'a>) -> Self {
        let slots = (0..rules.app.workers).map(Slot::new).collect();
        Self { rules, books: Books::new(slots) }
    }

    /// The same, with workers that an earlier router has left; they have until then to attach.
    pub(super) fn adopting(
        rules: Rules<'a>,
        habits: Habits,
        left: &[(WorkerId, Stage)],
        until: Moment,
    ) -> Self {
        let highest = left.iter().map(|(id, _)| id.slot + 1).max().unwrap_or(0);
        let slot = |slot| {
            let here = left.iter().copied().filter(|(id, _)| id.slot == slot);
            let here: Vec<_> = here.collect();
            Slot::adopting(slot, slot < rules.app.workers, &here, until)
        };
        let slots = (0..highest.max(rules.app.workers)).map(slot).collect();
        Self { rules, books: Books { habits, ..Books::new(slots) } }
    }

    /// What is known of the app.
    pub(super) fn habits(&self) -> Habits {
        self.books.habits
    }

    /// Another process's fleet.
    pub(super) fn thaw(rules: Rules<'a>, books: Books) -> Self {
        Self { rules, books }
    }

    /// What the operator set.
    pub(super) fn rules(&self) -> Rules<'a> {
        self.rules
    }

    /// Everything it knows, for another process.
    pub(super) fn freeze(self) -> Books {
        self.books
    }

    /// Starts every worker that is not there.
    pub(super) fn start(&mut self, now: Moment) -> Vec<Action> {
        self.each(now, |slot, context| {
            let empty = slot.wanted && !slot.present.alive();
            if empty { slot.fill(context) } else { vec![] }
        })
    }

    /// Tells a worker what has happened to it. What concerns an earlier process of its slot, or
    /// a slot there is not, changes nothing.
    pub(super) fn feed(&mut self, id: WorkerId, input: Input, now: Moment) -> Vec<Action> {
        let Self { rules, books } = self;
        let Some(slot) = books.slots.get_mut(usize::from(id.slot)) else { return vec![] };
        let mut context = Context { rules: *rules, habits: &mut books.habits, now };
        let (mut actions, failed) = slot.feed(id, input, &mut context);
        actions.extend(self.go_on(failed, now));
        actions
    }

    /// Does what is due.
    pub(super) fn tick(&mut self, now: Moment) -> Vec<Action> {
        let mut actions = Vec::new();
        for index in 0..self.books.slots.len() {
            let Self { rules, books } = self;
            let mut context = Context { rules: *rules, habits: &mut books.habits, now };
            let (more, failed) = books.slots[index].feed_all(&Input::Tick, &mut context);
            actions.extend(more);
            actions.extend(self.go_on(failed, now));
        }
        actions
    }

    /// New workers for all old ones; queued when that is under way already.
    pub(super) fn reload(&mut self, now: Moment) -> Vec<Action> {
        if self.stopping() {
            return vec![];
        }
        // One that is not ready yet may never be, and a reload is how that is mended.
        let waits = self.books.reload.take_if(|reload| reload.only_waits());
        // Also when it is one worker alone that is replaced: then all of them come after it.
        if self.books.reload.is_some() {
            self.books.queued = true;
            return vec![Action::Tell(News::ReloadQueued)];
        }
        let mut actions: Vec<Action> =
            waits.and_then(|waits| waits.done(now, &mut self.books.reloads)).into_iter().collect();
        actions.extend(self.begin_reload(now));
        actions.extend(self.go_on(None, now));
        actions
    }

    /// A new worker for this one, if it still serves.
    pub(super) fn recycle(&mut self, id: WorkerId, why: String, now: Moment) -> Vec<Action> {
        let present = self.slot(id).is_some_and(|slot| slot.present.id == id);
        let queued = self.books.recycles.iter().any(|(other, _)| *other == id);
        if self.stopping() || !present || queued || self.is_due(id) || self.pauses(id, now) {
            return vec![];
        }
        self.books.recycles.push_back((id, why));
        self.go_on(None, now)
    }

    /// Whether the worker is about to be replaced already.
    fn is_due(&self, id: WorkerId) -> bool {
        let reload = self.books.reload.as_ref();
        reload
            .is_some_and(|reload| reload.current == Some(id.slot) || reload.left.contains(&id.slot))
    }

    /// Whether it is too early to try again to replace this worker.
    fn pauses(&self, id: WorkerId, now: Moment) -> bool {
        self.books.pauses.iter().any(|pause| pause.worker == id && now < pause.until)
    }

    /// Ends all workers, and starts each anew when it has ended: no overlap.
    pub(super) fn restart(&mut self, now: Moment) -> Vec<Action> {
        if self.stopping() {
            return vec![];
        }
        let Books { reload, queued, recycles, .. } = &mut self.books;
        (*reload, *queued) = (None, false);
        recycles.clear();
        self.each(now, Slot::restart)
    }

    /// Makes it so many workers, 1 to [`MAX_SLOTS`]. Those too many drain as in a reload.
    pub(super) fn scale(&mut self, to: usize, now: Moment) -> Vec<Action> {
        let (from, to) = (self.wanted(), to.clamp(1, MAX_SLOTS));
        if self.stopping() || from == to {
            return vec![];
        }
        let mut actions = vec![Action::Tell(News::Scaling(from, to))];
        for number in self.books.slots.len()..to {
            let number = u16::try_from(number).unwrap_or(u16::MAX);
            let mut slot = Slot::new(number);
            slot.wanted = false;
            self.books.slots.push(slot);
        }
        self.withdraw(|slot| usize::from(slot) < to);
        actions.extend(self.each(now, |slot, context| {
            match (usize::from(slot.present.id.slot) < to, slot.wanted) {
                (true, false) => slot.fill(context),
                (false, true) => slot.vacate(context),
                _ => vec![],
            }
        }));
        actions.extend(self.go_on(None, now));
        actions
    }

    /// What is under way goes on in these slots only.
    fn withdraw(&mut self, stays: impl Fn(u16) -> bool) {
        if let Some(reload) = &mut self.books.reload {
            reload.left.retain(|slot| stays(*slot));
            reload.anew.retain(|(slot, _)| stays(*slot));
            reload.current = reload.current.filter(|slot| stays(*slot));
        }
        self.books.recycles.retain(|(id, _)| stays(id.slot));
    }

    /// How many workers there shall be.
    pub(super) fn wanted(&self) -> usize {
        self.books.slots.iter().filter(|slot| slot.wanted).count()
    }

    /// The operator wants it to end; a second time: at once.
    pub(super) fn stop(&mut self, now: Moment) -> Vec<Action> {
        let (stop, input) = if self.stopping() {
            (Stop::Now, Input::Kill)
        } else {
            (Stop::By(now + self.rules.app.kill_timeout + STOP_GRACE), Input::Stop)
        };
        let Books { reload, queued, recycles, .. } = &mut self.books;
        (*reload, *queued) = (None, false);
        recycles.clear();
        self.books.stop = Some(stop);
        self.each(now, |slot, context| slot.stop(&input, context))
    }

    /// Whether the operator wants it to end.
    pub(super) fn stopping(&self) -> bool {
        self.books.stopping()
    }

    /// Whether workers are being replaced.
    #[cfg(test)]
    pub(super) fn reloading(&self) -> bool {
        self.books.reload.is_some()
    }

    /// How the workers stand.
    pub(super) fn standing(&self) -> Standing {
        let count = |wanted| self.stages().filter(|(_, stage)| *stage == wanted).count();
        let (ready, draining) = (count(Stage::Ready), count(Stage::Draining));
        let reload = self.books.reload.as_ref();
        let reloading = reload.is_some_and(|reload| !reload.recycle);
        Standing { ready, draining, wanted: self.wanted(), reloading }
    }

    /// What is told of the slots besides their processes.
    pub(super) fn ledger(&self) -> Ledger {
        Ledger::of(&self.books.slots, self.books.reloads)
    }

    /// When [`Self::tick`] has something to do.
    pub(super) fn deadline(&self) -> Option<Moment> {
        let stop = match self.books.stop {
            Some(Stop::By(at)) => Some(at),
            _ => None,
        };
        self.books.slots.iter().filter_map(Slot::deadline).chain(stop).min()
    }

    /// Whether it is over.
    pub(super) fn end(&self, now: Moment) -> Option<End> {
        match self.books.stop {
            Some(Stop::Now) => return Some(End::Stopped),
            Some(Stop::By(at)) if at <= now => return Some(End::Stopped),
            _ => {}
        }
        if !self.books.slots.iter().all(Slot::resting) {
            return None;
        }
        let wanted = self.books.slots.iter().filter(|slot| slot.wanted);
        let failed = wanted.map(|slot| &slot.present).filter(|worker| {
            let well = |exit: &Exit| match exit {
                Exit::Code(code) => *code == 0 || self.rules.app.stop_exit_codes.contains(code),
                Exit::Signal(_) | Exit::Unstarted(_) | Exit::Unknown => false,
            };
            worker.state == State::Errored || !worker.last_exit.as_ref().is_some_and(well)
        });
        let failed: Vec<_> = failed.map(|worker| worker.id).collect();
        if self.stopping() || failed.is_empty() {
            Some(End::Stopped)
        } else {
            Some(End::Failed(failed))
        }
    }

    /// How the last process of a slot ended.
    pub(super) fn last_exit(&self, slot: u16) -> Option<&Exit> {
        self.books.slots.get(usize::from(slot))?.present.last_exit.as_ref()
    }

    /// How far the process of this name is; `None`: there is none.
    pub(super) fn stage(&self, id: WorkerId) -> Option<Stage> {
        self.slot(id)?.worker(id)?.stage()
    }

    /// The processes there are, and how far each is.
    pub(super) fn stages(&self) -> impl Iterator<Item = (WorkerId, Stage)> {
        let workers = self.books.slots.iter().flat_map(Slot::alive);
        workers.filter_map(|worker| Some((worker.id, worker.stage()?)))
    }

    /// Processes there still are.
    pub(super) fn alive(&self) -> usize {
        self.books.slots.iter().flat_map(Slot::alive).count()
    }

    /// All slots.
    #[cfg(test)]
    pub(super) fn slots(&self) -> &[Slot] {
        &self.books.slots
    }

    /// The slot of a worker.
    pub(super) fn slot(&self, id: WorkerId) -> Option<&Slot> {
        self.books.slots.get(usize::from(id.slot))
    }

    fn begin_reload(&mut self, now: Moment) -> Vec<Action> {
        let wanted = self.books.slots.iter().filter(|slot| slot.wanted);
        let left: VecDeque<u16> = wanted.map(|slot| slot.present.id.slot).collect();
        let begins = News::ReloadBegins(left.len());
        self.books.reload = Some(Reload::of(left, false, now));
        // They are replaced anyway.
        self.books.recycles.clear();
        vec![Action::Tell(begins)]
    }

    /// Takes the reload as far as it can go now, and begins the next.
    fn go_on(&mut self, failed: Option<Failed>, now: Moment) -> Vec<Action> {
        let mut actions = Vec::new();
        if let Some(Failed { worker, why }) = failed
            && self.books.reload.as_ref().is_some_and(|reload| reload.current == Some(worker.slot))
            && let Some(Reload { renewed, recycle, .. }) = self.books.reload.take()
        {
            self.books.reloads.failed += u64::from(!recycle);
            if recycle {
                self.books.pause(worker.slot, now);
            }
            actions.push(Action::Tell(News::ReloadFailed { worker, why, renewed }));
        }
        loop {
            let Self { rules, books } = self;
            let Some(reload) = &mut books.reload else {
                if self.stopping() {
                    return actions;
                }
                if std::mem::take(&mut self.books.queued) {
                    actions.extend(self.begin_reload(now));
                } else if let Some((id, why)) = self.books.next_recycle() {
                    actions.push(Action::Tell(News::Recycling(id, why)));
                    self.books.reload = Some(Reload::of(VecDeque::from([id.slot]), true, now));
                } else {
                    return actions;
                }
                continue;
            };
            if let Some(current) = reload.current {
                let slot = books.slots.get(usize::from(current));
                if slot.is_some_and(|slot| slot.coming().is_some()) {
                    return actions;
                }
                reload.current = None;
                reload.renewed += 1;
            }
            let Some(next) = reload.take_turn(&books.slots) else {
                reload.count_anew(&books.slots);
                if !reload.left.is_empty() || !reload.anew.is_empty() {
                    return actions;
                }
                actions.extend(reload.done(now, &mut books.reloads));
                books.reload = None;
                continue;
            };
            let Some(slot) = books.slots.get_mut(usize::from(next)) else { continue };
            let mut context = Context { rules: *rules, habits: &mut books.habits, now };
            match slot.reloadable() {
                Reloadable::Now => {
                    reload.current = Some(next);
                    actions.extend(slot.succeed(&mut context));
                }
                Reloadable::Anew => {
                    reload.anew.push((next, slot.latest()));
                    actions.extend(slot.renew(&mut context));
                }
                // It was not taken if it was to come later.
                Reloadable::Later | Reloadable::Never => {}
            }
        }
    }

    fn each(
        &mut self,
        now: Moment,
        mut act: impl FnMut(&mut Slot, &mut Context<'_>) -> Vec<Action>,
    ) -> Vec<Action> {
        let Self { rules, books } = self;
        let mut actions = Vec::new();
        for slot in &mut books.slots {
            let mut context = Context { rules: *rules, habits: &mut books.habits, now };
            actions.extend(act(slot, &mut context));
        }
        actions
    }
}

impl Books {
    /// Whether the operator wants it to end.
    pub(super) fn stopping(&self) -> bool {
        self.stop.is_some()
    }

    fn new(slots: Vec<Slot>) -> Self {
        Self {
            slots,
            habits: Habits::default(),
            stop: None,
            reload: None,
            queued: false,
            recycles: VecDeque::new(),
            pauses: Vec::new(),
            reloads: Reloads::default(),
        }
    }

    /// Takes the first worker that can be recycled now, and why. One beside which another drains
    /// does not hold up those behind it.
    fn next_recycle(&mut self) -> Option<(WorkerId, String)> {
        let slot = |id: &WorkerId| self.slots.get(usize::from(id.slot));
        // By now it may have gone by itself.
        self.recycles.retain(|(id, _)| slot(id).is_some_and(|slot| slot.present.id == *id));
        let may = |(id, _): &(WorkerId, String)| {
            slot(id).is_some_and(|slot| slot.reloadable() != Reloadable::Later)
        };
        let at = self.recycles.iter().position(may)?;
        self.recycles.remove(at)
    }

    /// The worker of this slot could not be recycled.
    fn pause(&mut self, slot: u16, now: Moment) {
        let Some(worker) = self.slots.get(usize::from(slot)).map(|slot| slot.present.id) else {
            return;
        };
        let last = self.pauses.iter().find(|pause| pause.worker == worker);
        let length = last.map_or(RECYCLE_PAUSE, |last| (last.length * 2).min(BACKOFF_MAX));
        self.pauses.retain(|pause| pause.worker.slot != slot);
        self.pauses.push(Pause { worker, until: now + length, length });
    }
}

#[cfg(test)]
mod tests;
