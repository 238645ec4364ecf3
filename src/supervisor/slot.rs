//! One slot: the worker that fills it, and the one beside it while they change over.
//!
//! Pure, as `table.rs` is. That a slot holds two processes at most is in its shape; that the two
//! differ in parity is kept by the table, which gives out the generations.

use serde::{Deserialize, Serialize};

use super::Stage;
use super::table::{Around, Habits, Moment, Rules, State, Worker};
use super::vocabulary::{Action, Input, Trouble};
use crate::route::WorkerId;

/// ```text
///              start a successor           it proves as good: they change places
///   present ───────────────────► present + Coming ───────────────► present + Leaving
///      ▲  ▲                          │        │ it does not                     │
///      │  │  present ends: Coming    │        ▼                                 │
///      │  └──────────────────────────┘     present + Leaving                    │
///      └────────────────────────────────────────┴───────────────────────────────┘ Leaving ends
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Slot {
    /// The worker that fills it, or will.
    pub(super) present: Worker,
    /// The other one, while there is one.
    pub(super) beside: Option<Beside>,
    /// The operator wants it filled. A slot that was scaled away is kept, empty: the generations
    /// it has had must not come again.
    pub(super) wanted: bool,
    /// It is filled anew as soon as no process lives in it.
    anew: bool,
    /// The highest generation it has had.
    latest: u32,
    /// Processes that were started here after the first this router knew.
    #[serde(default)]
    pub(super) restarts: u32,
}

/// The second worker of a slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Beside {
    /// On trial: it starts while the present one serves.
    Coming(Worker),
    /// Its sessions, or its process, have yet to end.
    Leaving(Worker),
}

impl Beside {
    pub(super) fn worker(&self) -> &Worker {
        match self {
            Self::Coming(worker) | Self::Leaving(worker) => worker,
        }
    }

    fn worker_mut(&mut self) -> &mut Worker {
        match self {
            Self::Coming(worker) | Self::Leaving(worker) => worker,
        }
    }
}

/// A successor that did not prove as good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failed {
    pub(super) worker: WorkerId,
    pub(super) why: Trouble,
}

/// What a reload can do with a slot now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reloadable {
    /// Start a successor.
    Now,
    /// Later: both seats are taken, or the worker has not attached.
    Later,
    /// Nothing serves here: it is simply started anew.
    Anew,
    /// Nothing is wanted here.
    Never,
}

/// What a slot needs to know beyond itself.
pub(super) struct Context<'a> {
    pub(super) rules: Rules<'a>,
    pub(super) habits: &'a mut Habits,
    pub(super) now: Moment,
}

impl Slot {
    /// Without a process, and wanted.
    pub(super) fn new(slot: u16) -> Self {
        let present = Worker::new(slot);
        Self { present, beside: None, wanted: true, anew: false, latest: 0, restarts: 0 }
    }

    /// Of an earlier router's workers: the one that serves becomes the present one, if the slot is
    /// wanted; the others leave.
    pub(super) fn adopting(
        slot: u16,
        wanted: bool,
        left: &[(WorkerId, Stage)],
        until: Moment,
    ) -> Self {
        let mut workers: Vec<_> = left.iter().copied().take(2).collect();
        let serves = |stage| workers.iter().position(|(_, left)| *left == stage);
        let best = serves(Stage::Ready).or_else(|| serves(Stage::Starting)).filter(|_| wanted);
        let leaves = |stage| match stage {
            Stage::Starting | Stage::Stopping => Stage::Stopping,
            Stage::Ready | Stage::Draining => Stage::Draining,
        };
        let mut found = Self { wanted, ..Self::new(slot) };
        found.latest = workers.iter().map(|(id, _)| id.generation).max().unwrap_or(0);
        if let Some(best) = best {
            let (id, left) = workers.remove(best);
            found.present = Worker::awaited(id, left, until);
        } else if workers.len() == 2 {
            // Both seats are taken by workers that leave.
            let (id, left) = workers.remove(0);
            found.present = Worker::awaited(id, leaves(left), until);
            found.anew = wanted;
        }
        let beside = workers.pop();
        found.beside =
            beside.map(|(id, left)| Beside::Leaving(Worker::awaited(id, leaves(left), until)));
        found
    }

    /// Both.
    pub(super) fn workers(&self) -> impl Iterator<Item = &Worker> {
        std::iter::once(&self.present).chain(self.beside.as_ref().map(Beside::worker))
    }

    /// The processes there are.
    pub(super) fn alive(&self) -> impl Iterator<Item = &Worker> {
        self.workers().filter(|worker| worker.alive())
    }

    /// The worker of this name.
    pub(super) fn worker(&self, id: WorkerId) -> Option<&Worker> {
        self.workers().find(|worker| worker.id == id)
    }

    /// The successor that is on trial.
    pub(super) fn coming(&self) -> Option<&Worker> {
        match &self.beside {
            Some(Beside::Coming(worker)) => Some(worker),
            _ => None,
        }
    }

    /// Whether nothing will happen here by itself.
    pub(super) fn resting(&self) -> bool {
        !self.anew && self.beside.is_none() && self.present.resting()
    }

    /// Whether nothing is about to change here soon: it serves, or will not for a while. A worker
    /// that drains changes nothing.
    pub(super) fn settled(&self) -> bool {
        let settled = match self.present.state {
            State::Starting { patience, .. } => patience.is_none(),
            State::Stopping { .. } | State::Awaited { .. } => false,
            State::Down
            | State::Ready
            | State::Draining { .. }
            | State::Backoff(_)
            | State::Errored => true,
        };
        settled && !self.anew && self.coming().is_none()
    }

    /// Whether it is filled anew as soon as no process lives in it.
    pub(super) fn refills(&self) -> bool {
        self.anew
    }

    /// When the next tick has something to do.
    pub(super) fn deadline(&self) -> Option<Moment> {
        self.workers().filter_map(Worker::deadline).min()
    }

    /// Tells one of the two what has happened to it. What concerns neither changes nothing.
    pub(super) fn feed(
        &mut self,
        id: WorkerId,
        input: Input,
        context: &mut Context<'_>,
    ) -> (Vec<Action>, Option<Failed>) {
        let is_present = self.present.id == id;
        let beside = self.beside.as_ref().is_some_and(|beside| beside.worker().id == id);
        if !is_present && !beside {
            return (vec![], None);
        }
        let mut actions = self.step(is_present, input, context);
        let failed = self.change_over(&mut actions, context);
        (actions, failed)
    }

    /// Tells both.
    pub(super) fn feed_all(
        &mut self,
        input: &Input,
        context: &mut Context<'_>,
    ) -> (Vec<Action>, Option<Failed>) {
        let mut actions = self.step(true, input.clone(), context);
        if self.beside.is_some() {
            actions.extend(self.step(false, input.clone(), context));
        }
        let failed = self.change_over(&mut actions, context);
        (actions, failed)
    }

    /// Fills the slot.
    pub(super) fn fill(&mut self, context: &mut Context<'_>) -> Vec<Action> {
        self.wanted = true;
        self.present.forget();
        if self.present.leaving() && self.beside.is_none() {
            let fresh = Worker::new(self.present.id.slot);
            let old = std::mem::replace(&mut self.present, fresh);
            self.beside = Some(Beside::Leaving(old));
        }
        if self.present.alive() && self.present.leaving() {
            self.anew = true;
            return vec![];
        }
        self.step(true, Input::Start, context)
    }

    /// Empties the slot, as a reload empties the old worker's.
    pub(super) fn vacate(&mut self, context: &mut Context<'_>) -> Vec<Action> {
        self.wanted = false;
        self.anew = false;
        let mut actions = self.dismiss_coming(context);
        actions.extend(self.step(true, Input::Drain, context));
        actions
    }

    /// Ends what lives here, and then starts anew: no overlap.
    pub(super) fn restart(&mut self, context: &mut Context<'_>) -> Vec<Action> {
        self.present.forget();
        self.anew = self.wanted;
        let mut actions = self.dismiss_coming(context);
        let (more, _) = self.feed_all(&Input::Stop, context);
        actions.extend(more);
        actions
    }

    /// Ends what lives here, for good.
    pub(super) fn stop(&mut self, input: &Input, context: &mut Context<'_>) -> Vec<Action> {
        self.anew = false;
        let mut actions = self.dismiss_coming(context);
        actions.extend(self.feed_all(input, context).0);
        actions
    }

    /// What a reload can do here.
    pub(super) fn reloadable(&self) -> Reloadable {
        match self.present.state {
            _ if !self.wanted => Reloadable::Never,
            State::Awaited { .. } => Reloadable::Later,
            State::Ready if self.beside.is_none() => Reloadable::Now,
            State::Ready => Reloadable::Later,
            _ => Reloadable::Anew,
        }
    }

    /// The highest generation it has had.
    pub(super) fn latest(&self) -> u32 {
        self.latest
    }

    /// Whether a worker that was started after this generation serves; `None`: that is still to be
    /// seen.
    pub(super) fn serves_since(&self, generation: u32) -> Option<bool> {
        if !self.wanted || !self.anew && self.present.resting() {
            return Some(false);
        }
        let fresh = self.present.id.generation > generation;
        match self.present.state {
            State::Ready if fresh => Some(true),
            // It has ended again; or it was warned of, and may take for ever.
            State::Backoff(_) | State::Starting { patience: None, .. } if fresh => Some(false),
            _ => None,
        }
    }

    /// Starts a successor: see [`Reloadable::Now`].
    pub(super) fn succeed(&mut self, context: &mut Context<'_>) -> Vec<Action> {
        debug_assert_eq!(self.reloadable(), Reloadable::Now);
        self.beside = Some(Beside::Coming(Worker::on_trial(self.present.id.slot)));
        self.step(false, Input::Start, context)
    }

    /// Starts anew where nothing serves: see [`Reloadable::Anew`].
    pub(super) fn renew(&mut self, context: &mut Context<'_>) -> Vec<Action> {
        self.present.forget();
        match self.present.state {
            // It has what is new in a moment: its successor will be started by the rules.
            State::Stopping { .. } | State::Draining { .. } => vec![],
            State::Starting { .. } => self.restart(context),
            _ => self.step(true, Input::Start, context),
        }
    }

    /// A successor on trial is no longer wanted.
    fn dismiss_coming(&mut self, context: &mut Context<'_>) -> Vec<Action> {
        match self.beside.take() {
            Some(Beside::Coming(worker)) => {
                self.beside = Some(Beside::Leaving(worker));
                self.step(false, Input::Stop, context)
            }
            beside => {
                self.beside = beside;
                vec![]
            }
        }
    }

    fn step(&mut self, present: bool, input: Input, context: &mut Context<'_>) -> Vec<Action> {
        let succeeded = self.coming().is_some();
        let living = |worker: &Worker| worker.alive().then_some(worker.id);
        let (worker, other) = match (present, &mut self.beside) {
            (true, beside) => {
                let other = beside.as_ref().and_then(|beside| living(beside.worker()));
                (&mut self.present, other)
            }
            (false, Some(beside)) => (beside.worker_mut(), living(&self.present)),
            (false, None) => return vec![],
        };
        let mut around = Around {
            rules: context.rules,
            habits: context.habits,
            now: context.now,
            latest: self.latest,
            other,
            succeeded: succeeded && present,
        };
        let actions = worker.step(input, &mut around);
        let started = worker.id.generation > self.latest;
        self.restarts = self.restarts.saturating_add(u32::from(started && self.latest > 0));
        self.latest = self.latest.max(worker.id.generation);
        actions
    }

    /// Who has proved changes places, who has ended goes.
    fn change_over(
        &mut self,
        actions: &mut Vec<Action>,
        context: &mut Context<'_>,
    ) -> Option<Failed> {
        let mut failed = None;
        match self.beside.take() {
            Some(Beside::Coming(worker)) if worker.state == State::Ready => {
                let old = std::mem::replace(&mut self.present, worker);
                self.beside = Some(Beside::Leaving(old));
                actions.extend(self.step(false, Input::Drain, context));
            }
            Some(Beside::Coming(worker)) if worker.trouble.is_some() => {
                let why = worker.trouble.clone();
                failed = why.map(|why| Failed { worker: worker.id, why });
                self.beside = Some(Beside::Leaving(worker));
            }
            // Whoever was to be succeeded is gone: what comes is all there is.
            Some(Beside::Coming(worker)) if !self.present.alive() => {
                self.present = worker;
                actions.extend(self.step(true, Input::Alone, context));
            }
            beside => self.beside = beside,
        }
        if self.beside.as_ref().is_some_and(|beside| !beside.worker().alive()) {
            self.beside = None;
        }
        if self.anew && self.alive().next().is_none() {
            self.anew = false;
            self.present.state = State::Down;
            actions.extend(self.step(true, Input::Start, context));
        }
        failed
    }

    /// What must hold after every step.
    #[cfg(test)]
    pub(super) fn check(&self) {
        let living: Vec<u32> = self.alive().map(|worker| worker.id.generation).collect();
        if let [one, other] = living[..] {
            assert_ne!(one & 1, other & 1, "one seat for two: {self:?}");
        }
        if let Some(beside) = &self.beside {
            assert!(beside.worker().alive(), "a process that is not there: {self:?}");
        }
        assert!(!self.present.alive() || self.present.id.generation <= self.latest);
        let ready = self.workers().filter(|worker| worker.state == State::Ready);
        assert!(ready.count() <= 1, "two that serve: {self:?}");
    }
}
