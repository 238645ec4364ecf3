//! Orders: wishes of somebody who waits to hear what became of them.
//!
//! An order is done when the workers have come to rest after it: those that are wanted serve, or it
//! is clear that they will not soon.

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
    failure: Option<String>,
}

impl Orders {
    /// From now on it is waited for.
    pub(super) fn begin(&mut self, wish: &Wish, done: oneshot::Sender<Result<(), String>>) {
        let reload = matches!(wish, Wish::Reload { .. });
        self.waiting.push(Waiting { done, reload, failure: None });
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
        let hitch = fleet.hitches().next().map(|(worker, hitch)| {
            let said = match hitch {
                Hitch::Errored => "is errored, and not started again",
                Hitch::Ends => "has ended; it is started again",
                Hitch::Unready => "is not ready yet; it is still waited for",
            };
            format!("worker {} {said}{}", worker.slot, last_words(worker))
        });
        for waiting in self.waiting.drain(..) {
            let outcome = match waiting.failure.or_else(|| hitch.clone()) {
                Some(why) => Err(why),
                None => Ok(()),
            };
            // Whoever asked need not have waited.
            let _ = waiting.done.send(outcome);
        }
    }
}
