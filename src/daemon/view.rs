//! How everything stands, put together for whoever asks from outside.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::unistd::Pid;

use super::listeners::Listeners;
use super::shards::clock;
use crate::bus::Status;
use crate::config::Config;
use crate::metrics::latency::Way;
use crate::metrics::snapshot::{Process, Queues, Snapshot, Worker};
use crate::metrics::{self, Gauges};
use crate::shard::ring::Mailbox;
use crate::shard::{Engine, Shared};
use crate::supervisor::{Ledger, Left, Record, Stage, Standing, Vacancy, logs};
use crate::sys::process;

/// What the supervisor has said last.
#[derive(Debug, Default)]
pub(super) struct View {
    pub(super) workers: Vec<Left>,
    pub(super) ledger: Ledger,
    pub(super) standing: Option<Standing>,
    /// Why the port of an app that asks for none is not open, if it should be.
    pub(super) unopened: Option<String>,
}

/// A look at the router, as often as it is called.
pub(super) fn look(
    config: &Config,
    engine: Engine,
    shared: &Arc<Shared>,
    view: &Rc<RefCell<View>>,
    listeners: &Rc<RefCell<Listeners>>,
    bus: Option<Status>,
) -> Rc<dyn Fn() -> Snapshot> {
    let (shared, view, listeners) = (Arc::clone(shared), Rc::clone(view), Rc::clone(listeners));
    let (app, wanted) = (config.app.name.clone(), usize::from(config.app.workers));
    let preload = config.preload;
    Rc::new(move || {
        let view = view.borrow();
        let totals = metrics::totals(&shared.counters);
        let mut totals: BTreeMap<String, u64> =
            totals.map(|(counter, total)| (counter.name().to_owned(), total)).collect();
        let latency =
            Way::ALL.map(|way| (way.name().to_owned(), metrics::latencies(&shared.counters, way)));
        // Whatever the reason: each is timed in one of the ways.
        let handed_off = latency.iter().map(|(_, recorded)| recorded.count()).sum();
        totals.insert("handed_off".to_owned(), handed_off);
        Snapshot {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            process: usage(Pid::this()),
            engine: engine.to_string(),
            shards: shared.mailboxes.len(),
            app: app.clone(),
            wanted: view.standing.map_or(wanted, |standing| standing.wanted),
            listening: listeners.borrow().addresses(),
            unopened: view.unopened.clone(),
            reloading: view.standing.is_some_and(|standing| standing.reloading),
            reloads: view.ledger.reloads,
            announced_sessions: shared.sessions.len(),
            workers: workers(&view, &shared, preload),
            queues: (0..shared.mailboxes.len()).map(|shard| queues(shard, &shared)).collect(),
            bus: bus.as_ref().map(Status::read),
            latency: latency.into(),
            log_lines_dropped: logs::dropped(),
            log_writes_failed: logs::failed_writes(),
            totals,
        }
    })
}

/// What one shard has in hand.
fn queues(shard: usize, shared: &Shared) -> Queues {
    let (ring_mail, ring_bytes) = shared.mailboxes.get(shard).map_or((0, 0), Mailbox::depth);
    let gauges = shared.gauges.get(shard);
    let gauge = |of: fn(&Gauges) -> &AtomicU64| {
        gauges.map_or(0, |gauges| of(gauges).load(Ordering::Relaxed))
    };
    let awaiting = shared.awaiting_sessions.get(shard);
    Queues {
        held: gauge(|gauges| &gauges.held),
        awaiting_session: awaiting.map_or(0, |n| n.load(Ordering::Relaxed)).into(),
        awaiting_worker: gauge(|gauges| &gauges.awaiting_worker),
        ring_mail: ring_mail as u64,
        ring_bytes: ring_bytes as u64,
    }
}

/// The processes, and the slots that have none.
fn workers(view: &View, shared: &Shared, preload: bool) -> Vec<Worker> {
    // Both are in the order of the slots.
    let (left, records) = (&view.workers, &view.ledger.slots);
    let living = left.iter().map(|left| {
        let at = records.binary_search_by_key(&left.worker.slot, |record| record.slot);
        let record = at.ok().and_then(|at| records.get(at));
        worker(left, record.map_or(0, |record| record.restarts), shared, preload)
    });
    let lives = |slot| left.binary_search_by_key(&slot, |left| left.worker.slot).is_ok();
    let empty = records.iter().filter(|record| !lives(record.slot)).map(vacant);
    let mut all: Vec<Worker> = living.chain(empty).collect();
    all.sort_unstable_by_key(|worker| (worker.slot, worker.generation));
    all
}

fn worker(left: &Left, restarts: u32, shared: &Shared, preload: bool) -> Worker {
    let roster = &shared.roster;
    let reports = preload && roster.has_preload(left.worker);
    let pace = reports.then(|| roster.pace(left.worker, shared.millis(clock())));
    let state = match left.stage {
        Stage::Starting => "starting",
        Stage::Ready => "ready",
        Stage::Draining => "draining",
        Stage::Stopping => "stopping",
    };
    Worker {
        slot: left.worker.slot,
        generation: left.worker.generation,
        state: state.to_owned(),
        process: usage(Pid::from_raw(left.pid)),
        sessions: roster.load(left.worker),
        handed_off: roster.taken(left.worker),
        queue: roster.queue(left.worker),
        event_loop_utilisation: pace.map(|(utilisation, _)| f64::from(utilisation) / 1000.0),
        event_loop_delay: pace.map(|(_, delay_ms)| f64::from(delay_ms) / 1000.0),
        restarts,
    }
}

fn vacant(record: &Record) -> Worker {
    let state = match record.vacancy {
        Vacancy::Waiting => "waiting",
        Vacancy::Errored => "errored",
        Vacancy::Stopped => "stopped",
    };
    Worker {
        slot: record.slot,
        generation: record.generation,
        state: state.to_owned(),
        process: Process::default(),
        sessions: 0,
        handed_off: 0,
        queue: 0,
        event_loop_utilisation: None,
        event_loop_delay: None,
        restarts: record.restarts,
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
