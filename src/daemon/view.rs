//! How everything stands, put together for whoever asks from outside.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use nix::unistd::Pid;

use crate::config::Config;
use crate::metrics;
use crate::metrics::snapshot::{Process, Snapshot, Worker};
use crate::shard::{Engine, Shared};
use crate::supervisor::{Left, Stage, Standing, logs};
use crate::sys::process;

/// What the supervisor has said last.
#[derive(Debug, Default)]
pub(super) struct View {
    pub(super) workers: Vec<Left>,
    pub(super) standing: Option<Standing>,
}

/// A look at the router, as often as it is called.
pub(super) fn look(
    config: &Config,
    engine: Engine,
    shared: &Arc<Shared>,
    view: &Rc<RefCell<View>>,
) -> Rc<dyn Fn() -> Snapshot> {
    let (shared, view) = (Arc::clone(shared), Rc::clone(view));
    let (app, wanted) = (config.app.name.clone(), usize::from(config.app.workers));
    let preload = config.preload;
    Rc::new(move || {
        let view = view.borrow();
        let totals = metrics::totals(&shared.counters);
        let workers = view.workers.iter().map(|left| worker(left, &shared, preload));
        Snapshot {
            version: env!("CARGO_PKG_VERSION"),
            process: usage(Pid::this()),
            engine: engine.to_string(),
            shards: shared.mailboxes.len(),
            app: app.clone(),
            wanted: view.standing.map_or(wanted, |standing| standing.wanted),
            reloading: view.standing.is_some_and(|standing| standing.reloading),
            announced_sessions: shared.sessions.len(),
            workers: workers.collect(),
            log_lines_dropped: logs::dropped(),
            log_writes_failed: logs::failed_writes(),
            totals: totals.map(|(counter, total)| (counter.name(), total)).collect(),
        }
    })
}

fn worker(left: &Left, shared: &Shared, preload: bool) -> Worker {
    let roster = &shared.roster;
    let pace = (preload && roster.has_preload(left.worker)).then(|| roster.pace(left.worker));
    Worker {
        slot: left.worker.slot,
        generation: left.worker.generation,
        state: match left.stage {
            Stage::Starting => "starting",
            Stage::Ready => "ready",
            Stage::Draining => "draining",
            Stage::Stopping => "stopping",
        },
        process: usage(Pid::from_raw(left.pid)),
        sessions: roster.load(left.worker),
        event_loop_utilisation: pace.map(|(utilisation, _)| f64::from(utilisation) / 1000.0),
        event_loop_delay: pace.map(|(_, delay_ms)| f64::from(delay_ms) / 1000.0),
    }
}

/// One that has just ended has used nothing.
fn usage(pid: Pid) -> Process {
    let pid_number = pid.as_raw();
    let Ok(usage) = process::usage(pid) else {
        return Process { pid: pid_number, ..Process::default() };
    };
    Process {
        pid: pid_number,
        uptime: usage.age.as_secs_f64(),
        cpu: usage.cpu.as_secs_f64(),
        memory: usage.resident,
    }
}
