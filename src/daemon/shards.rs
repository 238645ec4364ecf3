//! The shards' threads: how many, what they share, their start and their end.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::sync::mpsc::UnboundedSender;

use super::DaemonError;
use crate::config::{self, Config, EngineChoice, Plan};
use crate::route::balance::Balance;
use crate::shard::ring::{Mail, Mailbox};
use crate::shard::{self, Engine, Portion, Report, Reports, Resting, Settings, Shared, Trusts};
use crate::sys::wake::Wake;
use crate::sys::{cpu, uring};

/// Workers at work at a time that one shard serves before `--threads auto` adds another.
const WORKERS_PER_SHARD: usize = 4;

/// Posts to a shard and wakes it. A full ring is waited for: shards always take their mail, and
/// the control thread has little of it.
pub(super) fn post(shared: &Shared, shard: usize, mail: Mail) {
    let Some(mailbox) = shared.mailboxes.get(shard) else { return };
    let mut mail = mail;
    while let Err(back) = mailbox.post(mail) {
        mail = back;
        mailbox.tell();
        std::thread::yield_now();
    }
    mailbox.tell();
}

pub(super) fn choose_engine(choice: EngineChoice) -> Result<Engine, DaemonError> {
    match choice {
        EngineChoice::Portable => Ok(Engine::Portable),
        EngineChoice::Uring => match uring::probe() {
            Ok(()) => Ok(Engine::Uring),
            Err(error) => Err(DaemonError::NoUring(error)),
        },
        EngineChoice::Auto => match uring::probe() {
            Ok(()) => Ok(Engine::Uring),
            Err(error) => {
                tracing::warn!(%error, "io_uring cannot be used here: the portable engine it is");
                Ok(Engine::Portable)
            }
        },
    }
}

pub(super) fn count(config: &Config) -> usize {
    let auto = auto(usize::from(config.app.workers), cpu::usable_cores());
    config.threads.unwrap_or(auto).max(1)
}

/// Workers beyond the cores wait for each other, and are not more to serve; each shard that there is
/// without need is woken for every packet.
fn auto(workers: usize, cores: usize) -> usize {
    workers.min(cores).div_ceil(WORKERS_PER_SHARD)
}

pub(super) fn shared(
    config: &Config,
    plan: &Plan,
    epoch: Instant,
) -> Result<Arc<Shared>, DaemonError> {
    let shards = count(config);
    let mailboxes: io::Result<Vec<Mailbox>> =
        (0..shards).map(|_| Ok(Mailbox::new(Arc::new(Wake::new()?)))).collect();
    let mailboxes =
        mailboxes.map_err(|reason| DaemonError::System { what: "an eventfd", reason })?;
    let settings = Settings {
        balance: balance(config.balance),
        head_timeout: config.head_timeout,
        out_queue: shard::MAX_OUT_QUEUE,
        lanes: plan.lane,
        self_routing: plan.preload,
        by_address: config.sticky == config::Sticky::Ip,
    };
    let trusts = config
        .proxy
        .clone()
        .map(|trust| -> Trusts { Box::new(move |address| trust.allows(address)) });
    let bus = config.app.bus.as_ref().map(|_| Ok(Mailbox::new(Arc::new(Wake::new()?)))).transpose();
    let bus = bus.map_err(|reason| DaemonError::System { what: "an eventfd", reason })?;
    Ok(Shared::new(mailboxes, bus, settings, trusts, epoch))
}

/// The clock that the shards share; it counts from when they were made.
#[expect(clippy::disallowed_methods, reason = "the data plane's clock starts here")]
pub(super) fn clock() -> Instant {
    Instant::now()
}

pub(super) fn start(
    engine: Engine,
    shared: &Arc<Shared>,
    reports: &UnboundedSender<Report>,
    failures: &UnboundedSender<String>,
    portions: Vec<Portion>,
) -> Result<Vec<Thread>, DaemonError> {
    let mut threads = Vec::new();
    for (index, portion) in portions.into_iter().enumerate() {
        let shared = Arc::clone(shared);
        let sender = reports.clone();
        // The control thread outlives its shards but for its very end, when nobody listens.
        let reports: Reports = Box::new(move |report| _ = sender.send(report));
        let alarm = Alarm { index, failures: failures.clone(), why: None };
        let thread = std::thread::Builder::new()
            .name(format!("shard-{index}"))
            .spawn(move || run_shard(engine, index, shared, reports, portion, alarm))
            .map_err(|reason| DaemonError::System { what: "a thread", reason })?;
        threads.push(thread);
    }
    Ok(threads)
}

fn run_shard(
    engine: Engine,
    index: usize,
    shared: Arc<Shared>,
    reports: Reports,
    portion: Portion,
    mut alarm: Alarm,
) -> Option<Resting> {
    if let Err(error) = cpu::pin(index) {
        tracing::debug!(shard = index, %error, "not pinned to a core");
    }
    let seed = u64::from(std::process::id()) << 16 | index as u64;
    alarm.why = Some(match shard::run(engine, index, shared, reports, seed, portion) {
        Ok(resting) => {
            alarm.disarm();
            return resting;
        }
        Err(error) => error.to_string(),
    });
    None
}

/// A shard's thread; what it had in hand comes back from one that was put to rest.
pub(super) type Thread = JoinHandle<Option<Resting>>;

/// Tells the control thread when a shard ends in any other way than asked to, by a panic too:
/// what such a shard leaves behind is in an unknown state.
struct Alarm {
    index: usize,
    failures: UnboundedSender<String>,
    why: Option<String>,
}

impl Alarm {
    fn disarm(mut self) {
        self.why = None;
        self.index = usize::MAX;
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if self.index != usize::MAX {
            let why = self.why.take().unwrap_or_else(|| "it panicked".to_owned());
            // Nobody listens when the router is ending already.
            let _heard = self.failures.send(format!("shard {}: {why}", self.index));
        }
    }
}

pub(super) fn stop(shared: &Arc<Shared>, threads: Vec<Thread>) {
    for (index, thread) in threads.into_iter().enumerate() {
        if !thread.is_finished() {
            post(shared, index, Mail::Exit);
        }
        if thread.join().is_err() {
            tracing::error!(shard = index, "a shard ended by a panic");
        }
    }
}

const fn balance(balance: config::Balance) -> Balance {
    match balance {
        config::Balance::LeastConnection => Balance::LeastConnection,
        config::Balance::RoundRobin => Balance::RoundRobin,
        config::Balance::Random => Balance::Random,
        config::Balance::LeastLag => Balance::LeastLag,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thread_serves_the_workers_of_four_cores() {
        for (workers, cores, threads) in
            [(1, 1, 1), (2, 64, 1), (4, 4, 1), (5, 8, 2), (8, 2, 1), (64, 16, 4), (1024, 128, 32)]
        {
            assert_eq!(auto(workers, cores), threads, "{workers} workers, {cores} cores");
        }
    }
}
