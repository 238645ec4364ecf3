//! What the operator is told of the workers.

use std::sync::{Arc, Mutex, PoisonError};

use nix::unistd::Pid;

use super::super::DataPlane;
use super::super::fleet::News;
use super::super::lines::Tail;
use super::super::vocabulary::{Exit, Note, Trouble, rounded};
use super::Supervisor;
use crate::route::WorkerId;

impl<P: DataPlane> Supervisor<'_, P> {
    pub(super) fn say(&self, worker: WorkerId, note: &Note) {
        let app = &self.config.app;
        match note {
            Note::Ready(after) => tracing::info!(%worker, after = ?rounded(*after), "worker ready"),
            Note::TakenAsReady => tracing::warn!(
                %worker,
                "the worker neither listens nor shows an adapter after {:?}: taken as ready",
                app.listen_timeout
            ),
            Note::StillWaiting => tracing::warn!(
                %worker,
                "the worker has not said 'ready' after {:?}; still waiting",
                app.listen_timeout
            ),
            Note::Draining(within) => {
                tracing::info!(%worker, within = ?rounded(*within), "worker draining");
            }
            Note::Drained => tracing::info!(%worker, "worker drained"),
            Note::DrainOver => tracing::info!(
                %worker,
                sessions = self.plane.sessions(worker),
                "the worker's time to drain is over"
            ),
            Note::Hung(silent) => tracing::error!(
                %worker,
                why = format!("its event loop has not turned for {:?}", rounded(*silent)),
                "recycling the worker"
            ),
            Note::Adopted => {
                let pid = self.pid(worker).map(Pid::as_raw);
                tracing::info!(%worker, pid, "adopted");
            }
            Note::OrphanLost(exit) => {
                let why =
                    exit.as_ref().map_or_else(|| "it did not attach".to_owned(), Exit::to_string);
                tracing::warn!(%worker, why, "orphan lost");
            }
            Note::Left => tracing::debug!(%worker, "the worker closed its channel"),
            Note::Broken(reason) => tracing::error!(%worker, reason, "killing the worker"),
            Note::Overdue => tracing::warn!(
                %worker,
                "the worker did not end within {:?}: killed",
                app.kill_timeout
            ),
            Note::Restart(exit, uptime, delay) => tracing::warn!(
                %worker,
                uptime = ?rounded(*uptime),
                "worker {exit}; it is started again in {:?}",
                rounded(*delay)
            ),
            Note::Ended(exit, uptime) => {
                tracing::info!(%worker, uptime = ?rounded(*uptime), "worker {exit}");
            }
            // A paragraph: fields behind its last line would belong to nothing.
            Note::Errored(exit, count) => tracing::error!(
                "worker {worker} is errored, and not started again: {} {exit}, {count} times in a row within {:?} of its start{}",
                app.script.display(),
                app.min_uptime,
                self.last_lines(worker)
            ),
        }
    }

    pub(super) fn tell(&mut self, news: &News) {
        match news {
            News::ReloadBegins(workers) => {
                self.orders.reload_begins();
                tracing::info!(workers, "reload begins");
            }
            News::ReloadQueued => tracing::info!("reload queued"),
            News::ReloadDone(workers, took) => {
                tracing::info!(workers, took = ?rounded(*took), "reload done");
            }
            News::ReloadFailed { worker, why, renewed } => {
                let error = self.failure(*worker, why, *renewed);
                self.orders.reload_failed(&error);
                tracing::error!(error, "reload failed");
            }
            News::Recycling(worker, why) => tracing::warn!(%worker, why, "recycling the worker"),
            News::Scaling(from, to) => tracing::info!(from, to, "scaling"),
        }
    }

    /// Why a reload came to nothing, as a paragraph.
    fn failure(&self, worker: WorkerId, why: &Trouble, renewed: u16) -> String {
        let script = self.config.app.script.display();
        let others = match renewed {
            0 => "the old workers serve on".to_owned(),
            renewed => format!("{renewed} workers are new, the other old ones serve on"),
        };
        format!("the new worker {worker} ({script}) {why}; {others}{}", self.last_lines(worker))
    }

    pub(super) fn last_lines(&self, worker: WorkerId) -> String {
        let quoted =
            |tail: &Arc<Mutex<Tail>>| tail.lock().unwrap_or_else(PoisonError::into_inner).quoted();
        match self.tails.get(&worker).map(quoted) {
            Some(lines) if !lines.is_empty() => format!("; its last words:{lines}"),
            _ => String::new(),
        }
    }

    /// Why no worker is left, by the example of the first that failed.
    pub(super) fn obituary(&self, failed: &[WorkerId]) -> String {
        let app = &self.config.app;
        let Some(first) = failed.first() else { return "no worker is left".to_owned() };
        let exit = self.fleet.last_exit(first.slot).map_or_else(String::new, Exit::to_string);
        format!(
            "no worker of {} is left: {} of {} failed. Worker {} ({}) {exit}{}",
            app.name,
            failed.len(),
            app.workers,
            first.slot,
            app.script.display(),
            self.last_lines(*first)
        )
    }
}
