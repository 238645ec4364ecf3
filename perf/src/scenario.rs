//! The work that is given to each front, and what is measured of it.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::front::{Front, Kind};
use crate::load::polling;
use crate::load::requests::Once;
use crate::load::websocket::{self, Echo, Visit};
use crate::load::{Doer, Tally, closed_loop, open_loop};
use crate::usage::Usage;

/// One measurement: what, and how much.
pub(crate) type Sample = BTreeMap<String, f64>;

/// Clients of a closed loop.
const CLIENTS: usize = 32;
/// Before it counts.
const WARM_UP: Duration = Duration::from_secs(1);
/// Requests a second in open loop.
const STEADY: u32 = 1000;
/// Broadcasts a second.
const BROADCASTS: u32 = 1000;
/// Sessions that are opened at the same time.
const AT_ONCE: usize = 64;
/// How long a burst of broadcasts may take beyond its time.
const LATE: Duration = Duration::from_secs(30);

/// How much of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measure {
    /// How long each measurement lasts.
    pub(crate) lasts: Duration,
    /// Connections of the idle scenario.
    pub(crate) idle: usize,
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Scenario {
    /// One request to a connection, the next when the last is done.
    Requests,
    /// The same, a thousand a second.
    Steady,
    /// Polling sessions, each message echoed.
    Polling,
    /// WebSocket sessions opened and closed.
    Storm,
    /// WebSocket sessions, each message echoed.
    Echo,
    /// One worker broadcasts 100 bytes, all deliver: 2 workers.
    #[value(name = "broadcast-2")]
    Broadcast2,
    /// 8 workers.
    #[value(name = "broadcast-8")]
    Broadcast8,
    /// 16 workers.
    #[value(name = "broadcast-16")]
    Broadcast16,
    /// 8 workers, 4,000 bytes.
    #[value(name = "broadcast-8-large")]
    Broadcast8Large,
    /// Sessions over WebSocket that do nothing.
    Idle,
    /// One request to a connection, answered by workers that do nothing else.
    Native,
}

impl Scenario {
    pub(crate) const ALL: [Self; 11] = [
        Self::Requests,
        Self::Steady,
        Self::Polling,
        Self::Storm,
        Self::Echo,
        Self::Broadcast2,
        Self::Broadcast8,
        Self::Broadcast16,
        Self::Broadcast8Large,
        Self::Idle,
        Self::Native,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Steady => "steady",
            Self::Polling => "polling",
            Self::Storm => "storm",
            Self::Echo => "echo",
            Self::Broadcast2 => "broadcast-2",
            Self::Broadcast8 => "broadcast-8",
            Self::Broadcast16 => "broadcast-16",
            Self::Broadcast8Large => "broadcast-8-large",
            Self::Idle => "idle",
            Self::Native => "native",
        }
    }

    /// A sentence for the record.
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Requests => "One request per connection, closed loop, 32 clients, 2 workers",
            Self::Steady => "One request per connection, open loop, 1,000 a second, 2 workers",
            Self::Polling => "32 polling sessions, each message echoed, 2 workers",
            Self::Storm => "WebSocket sessions opened and closed, 32 at once, 2 workers",
            Self::Echo => "32 WebSocket sessions, each message echoed, 2 workers",
            Self::Broadcast2 => "1,000 broadcasts a second of 100 bytes, 2 workers",
            Self::Broadcast8 => "1,000 broadcasts a second of 100 bytes, 8 workers",
            Self::Broadcast16 => "1,000 broadcasts a second of 100 bytes, 16 workers",
            Self::Broadcast8Large => "1,000 broadcasts a second of 4,000 bytes, 8 workers",
            Self::Idle => "WebSocket sessions that do nothing, 2 workers",
            Self::Native => "One request per connection, 2 native workers that answer at once",
        }
    }

    const fn broadcast(self) -> Option<(usize, usize)> {
        match self {
            Self::Broadcast2 => Some((2, 100)),
            Self::Broadcast8 => Some((8, 100)),
            Self::Broadcast16 => Some((16, 100)),
            Self::Broadcast8Large => Some((8, 4000)),
            _ => None,
        }
    }

    pub(crate) fn workers(self) -> usize {
        self.broadcast().map_or(2, |(workers, _)| workers)
    }

    /// Who can do it: without stickiness there are no polling sessions, and who relays no packets
    /// needs a Redis for broadcasts.
    pub(crate) const fn fronts(self) -> &'static [Kind] {
        use Kind::{Haproxy, Nginx, None, Pm2, Router, RouterPortable, RouterUnchanged, Sticky};
        use Kind::{NativeEpoll, NativeMonoio, NativePortable, NativeRouter, NativeTokioUring};
        match self {
            Self::Polling => {
                &[Router, RouterPortable, RouterUnchanged, Pm2, Sticky, Nginx, Haproxy]
            }
            Self::Broadcast2 | Self::Broadcast8 | Self::Broadcast16 | Self::Broadcast8Large => {
                &[Router, RouterPortable, RouterUnchanged, Pm2, Sticky]
            }
            Self::Native => {
                &[NativeRouter, NativePortable, NativeEpoll, NativeMonoio, NativeTokioUring]
            }
            _ => &[None, Router, RouterPortable, RouterUnchanged, Pm2, Sticky, Nginx, Haproxy],
        }
    }

    /// Measures it once.
    pub(crate) async fn measure(self, front: &Front, measure: Measure) -> Result<Sample> {
        let (target, lasts) = (front.target, measure.lasts);
        match self {
            Self::Requests | Self::Native => {
                let clients = (0..CLIENTS).map(|number| Once { target, number });
                closed(front, clients.collect(), lasts).await
            }
            Self::Steady => {
                let client = |number| Once { target, number };
                open_loop(STEADY, WARM_UP, client).await?;
                let before = Spent::by(front)?;
                let tally = open_loop(STEADY, lasts, client).await?;
                sample(&tally, before, front)
            }
            Self::Polling => {
                let clients = (0..CLIENTS).map(|number| polling::Session::new(target, number));
                closed(front, clients.collect(), lasts).await
            }
            Self::Storm => {
                let clients = (0..CLIENTS).map(|number| Visit { target, number });
                closed(front, clients.collect(), lasts).await
            }
            Self::Echo => {
                let sessions = open_sessions(front, CLIENTS).await?;
                closed(front, sessions.into_iter().map(Echo).collect(), lasts).await
            }
            Self::Idle => idle(front, measure).await,
            Self::Broadcast2 | Self::Broadcast8 | Self::Broadcast16 | Self::Broadcast8Large => {
                let (workers, bytes) = self.broadcast().unwrap_or((2, 100));
                broadcast(front, workers, bytes, lasts).await
            }
        }
    }
}

/// What front and workers have used when it began, in this order.
struct Spent([Usage; 2]);

impl Spent {
    fn by(front: &Front) -> Result<Self> {
        Ok(Self([Usage::of(&front.front)?, Usage::of(&front.workers)?]))
    }

    /// Microseconds on a core since, for each of so many.
    fn since(&self, before: &Self, each: u64) -> [f64; 2] {
        let spent = |n: usize| (self.0[n].cpu.saturating_sub(before.0[n].cpu)) as f64 / 1e3;
        [spent(0), spent(1)].map(|spent| spent / each.max(1) as f64)
    }
}

async fn closed<D: Doer + 'static>(
    front: &Front,
    clients: Vec<D>,
    lasts: Duration,
) -> Result<Sample> {
    let (_warm, clients) = closed_loop(clients, WARM_UP).await?;
    let before = Spent::by(front)?;
    let (tally, _clients) = closed_loop(clients, lasts).await?;
    sample(&tally, before, front)
}

fn sample(tally: &Tally, before: Spent, front: &Front) -> Result<Sample> {
    let after = Spent::by(front)?;
    let why = tally.why.as_deref().unwrap_or_default();
    ensure!(tally.done > 0, "nothing was done, {} failed: {why}", tally.failed);
    if tally.failed > 0 {
        crate::say(&format!("    {} failed: {why}", tally.failed));
    }
    let [front_us, workers_us] = after.since(&before, tally.done);
    Ok(entries([
        ("per second", tally.done as f64 / tally.took.as_secs_f64()),
        ("front us each", front_us),
        ("workers us each", workers_us),
        ("p50 us", tally.latency.value_at_quantile(0.5) as f64),
        ("p99 us", tally.latency.value_at_quantile(0.99) as f64),
        ("failed", tally.failed as f64),
    ]))
}

fn entries<const N: usize>(entries: [(&str, f64); N]) -> Sample {
    entries.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

async fn open_sessions(front: &Front, count: usize) -> Result<Vec<websocket::Session>> {
    let target = front.target;
    let (mut opening, mut opened) = (JoinSet::new(), Vec::with_capacity(count));
    for number in 0..count {
        if opening.len() >= AT_ONCE
            && let Some(session) = opening.join_next().await
        {
            opened.push(session??);
        }
        opening.spawn_local(websocket::Session::open(target, number));
    }
    while let Some(session) = opening.join_next().await {
        opened.push(session??);
    }
    Ok(opened)
}

/// One client a worker has them broadcast; each must get all.
async fn broadcast(front: &Front, workers: usize, bytes: usize, lasts: Duration) -> Result<Sample> {
    // Two for each worker, so that every worker has some, whoever gets whom.
    let mut sessions = open_sessions(front, workers * 2).await?;
    burst(&mut sessions, bytes, WARM_UP).await?;
    let before = Spent::by(front)?;
    let count = burst(&mut sessions, bytes, lasts).await?;
    let after = Spent::by(front)?;
    let relayed = count * (u64::try_from(workers)? - 1);
    let [front_us, workers_us] = after.since(&before, relayed);
    Ok(entries([("front us each", front_us), ("workers us each", workers_us)]))
}

async fn burst(
    sessions: &mut Vec<websocket::Session>,
    bytes: usize,
    lasts: Duration,
) -> Result<u64> {
    let count = u64::from(BROADCASTS) * lasts.as_secs();
    let speaker = sessions.first_mut().context("no session")?;
    speaker.send(&format!("42[\"burst\",{count},{bytes},{BROADCASTS}]")).await?;
    let mut readers = JoinSet::new();
    for mut session in std::mem::take(sessions) {
        readers.spawn_local(async move {
            let mut ticks = 0;
            loop {
                let packet = session.packet().await?;
                if packet.starts_with("42[\"tick\"") {
                    ticks += 1;
                } else if packet.starts_with("42[\"over\"") {
                    return anyhow::Ok((session, ticks));
                }
            }
        });
    }
    let all = async {
        while let Some(read) = readers.join_next().await {
            let (session, ticks) = read??;
            ensure!(ticks == count, "a client got {ticks} of {count} broadcasts");
            sessions.push(session);
        }
        Ok(count)
    };
    timeout(lasts + LATE, all).await.context("broadcasts are missing")?
}

async fn idle(front: &Front, measure: Measure) -> Result<Sample> {
    let bare = Spent::by(front)?;
    let sessions = open_sessions(front, measure.idle).await?;
    sleep(WARM_UP).await;
    let before = Spent::by(front)?;
    sleep(measure.lasts).await;
    let after = Spent::by(front)?;
    let count = u64::try_from(sessions.len())?;
    drop(sessions);
    let [front_us, workers_us] = after.since(&before, 1);
    let grown = |n: usize| {
        before.0[n].resident.saturating_sub(bare.0[n].resident) as f64 / count.max(1) as f64
    };
    Ok(entries([
        ("front us a second", front_us / measure.lasts.as_secs_f64()),
        ("workers us a second", workers_us / measure.lasts.as_secs_f64()),
        ("front bytes each", grown(0)),
        ("workers bytes each", grown(1)),
        ("front MiB", before.0[0].resident as f64 / f64::from(1 << 20)),
    ]))
}
