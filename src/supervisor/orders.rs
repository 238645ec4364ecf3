//! Orders: wishes of somebody who waits to hear what became of them.
//!
//! An order is done when the workers have come to rest after it: those that it is about serve, if
//! they are wanted, or it is clear that they will not soon.

use tokio::sync::oneshot;

use super::Wish;
use super::fleet::{Fleet, Hitch};
use crate::route::WorkerId;

/// A wish and who made it.
#[derive(Debug)]
pub struct Order {
    /// What is wished.
    pub wish: Wish,
    /// Told when it is done; or why it is not, for a person to read. Dropped when the workers' lives
    /// go on elsewhere.
    pub done: oneshot::Sender<Result<(), String>>,
}

/// Orders under way.
#[derive(Debug, Default)]
pub(super) struct Orders {
    waiting: Vec<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    done: oneshot::Sender<Result<(), String>>,
    reload: bool,
    /// Whose serving it is about; all workers' where it does not say.
    about: Option<Vec<u16>>,
    failure: Option<String>,
}

impl Orders {
    /// From now on it is waited for.
    pub(super) fn begin(&mut self, wish: &Wish, done: oneshot::Sender<Result<(), String>>) {
        let reload = matches!(wish, Wish::Reload { .. });
        let about = match wish {
            // Done as soon as it is; whoever serves or not is none of its business.
            Wish::Signal(..) | Wish::Reset(_) => Some(Vec::new()),
            Wish::RestartSlots(slots) | Wish::Halt(slots) => Some(slots.clone()),
            Wish::Resume(slots) if !slots.is_empty() => Some(slots.clone()),
            // To resume none is to wait for all.
            Wish::Resume(_)
            | Wish::Reload { .. }
            | Wish::Recycle { .. }
            | Wish::Restart { .. }
            | Wish::Scale(_)
            | Wish::ScaleTo(_) => None,
        };
        self.waiting.push(Waiting { done, reload, about, failure: None });
    }

    /// A reload begins: what went wrong with the one before it does not count.
    pub(super) fn reload_begins(&mut self) {
        self.reloads().for_each(|waiting| waiting.failure = None);
    }

    /// A reload came to nothing.
    pub(super) fn reload_failed(&mut self, why: &str) {
        self.reloads().for_each(|waiting| waiting.failure = Some(why.to_owned()));
    }

    fn reloads(&mut self) -> impl Iterator<Item = &mut Waiting> {
        self.waiting.iter_mut().filter(|waiting| waiting.reload)
    }

    /// After every turn: whoever need not wait any longer is told.
    pub(super) fn settle(&mut self, fleet: &Fleet<'_>, last_words: impl Fn(WorkerId) -> String) {
        if self.waiting.is_empty() || !fleet.settled() {
            return;
        }
        let hitch = |about: Option<&[u16]>| {
            let mut hitches = fleet.hitches();
            let meant = |slot| about.is_none_or(|about| about.contains(&slot));
            let (worker, hitch) = hitches.find(|(worker, _)| meant(worker.slot))?;
            let said = match hitch {
                Hitch::Errored => "is errored, and not started again",
                Hitch::Ends => "has ended; it is started again",
                Hitch::Unready => "is not ready yet; it is still waited for",
            };
            Some(format!("worker {} {said}{}", worker.slot, last_words(worker)))
        };
        for Waiting { done, about, failure, .. } in self.waiting.drain(..) {
            let outcome = failure.or_else(|| hitch(about.as_deref())).map_or(Ok(()), Err);
            // Whoever asked need not have waited.
            let _ = done.send(outcome);
        }
    }
}
