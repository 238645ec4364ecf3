//! The work that is given to each front, and what is measured of it.

mod broadcast;
mod idle;
mod reload;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::task::JoinSet;

use self::broadcast::Broadcast;
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
/// Sessions that are opened at the same time.
const AT_ONCE: usize = 64;

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
    /// 64 workers, an eighth as often.
    #[value(name = "broadcast-64")]
    Broadcast64,
    /// 2 workers, 4,000 bytes.
    #[value(name = "broadcast-2-large")]
    Broadcast2Large,
    /// 8 workers, 4,000 bytes.
    #[value(name = "broadcast-8-large")]
    Broadcast8Large,
    /// 16 workers, 4,000 bytes.
    #[value(name = "broadcast-16-large")]
    Broadcast16Large,
    /// New workers for old ones, under load.
    Reload,
    /// Sessions over WebSocket that do nothing.
    Idle,
    /// One request to a connection, answered by workers that do nothing else.
    Native,
    /// The same by 64 workers.
    #[value(name = "native-64")]
    Native64,
}

impl Scenario {
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
            Self::Broadcast64 => "broadcast-64",
            Self::Broadcast2Large => "broadcast-2-large",
            Self::Broadcast8Large => "broadcast-8-large",
            Self::Broadcast16Large => "broadcast-16-large",
            Self::Reload => "reload",
            Self::Idle => "idle",
            Self::Native => "native",
            Self::Native64 => "native-64",
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
            Self::Broadcast2 => "2,000 broadcasts a second of 100 bytes, 2 workers",
            Self::Broadcast8 => "2,000 broadcasts a second of 100 bytes, 8 workers",
            Self::Broadcast16 => "1,000 broadcasts a second of 100 bytes, 16 workers",
            Self::Broadcast64 => "125 broadcasts a second of 100 bytes, 64 workers",
            Self::Broadcast2Large => "2,000 broadcasts a second of 4,000 bytes, 2 workers",
            Self::Broadcast8Large => "2,000 broadcasts a second of 4,000 bytes, 8 workers",
            Self::Broadcast16Large => "1,000 broadcasts a second of 4,000 bytes, 16 workers",
            Self::Reload => {
                "Reload of 2 workers under 64 WebSocket sessions and 8 loops of requests"
            }
            Self::Idle => "WebSocket sessions that do nothing, 2 workers",
            Self::Native => "One request per connection, 2 native workers that answer at once",
            Self::Native64 => "One request per connection, 64 native workers that answer at once",
        }
    }

    const fn broadcast(self) -> Option<Broadcast> {
        let (workers, bytes, rate) = match self {
            Self::Broadcast2 => (2, 100, 2000),
            Self::Broadcast8 => (8, 100, 2000),
            Self::Broadcast16 => (16, 100, 1000),
            // As many deliveries as with 8.
            Self::Broadcast64 => (64, 100, 125),
            Self::Broadcast2Large => (2, 4000, 2000),
            Self::Broadcast8Large => (8, 4000, 2000),
            Self::Broadcast16Large => (16, 4000, 1000),
            _ => return None,
        };
        Some(Broadcast { workers, bytes, rate })
    }

    pub(crate) fn workers(self) -> usize {
        match (self, self.broadcast()) {
            (_, Some(broadcast)) => broadcast.workers,
            (Self::Native64, _) => 64,
            _ => 2,
        }
    }

    /// Who can do it: without stickiness there are no polling sessions, and who relays no packets
    /// needs a Redis for broadcasts.
    pub(crate) const fn fronts(self) -> &'static [Kind] {
        use Kind::{Haproxy, Nginx, NginxKept, None, Pm2, Sticky};
        use Kind::{NativeEpoll, NativeMonoio, NativePortable, NativeRouter, NativeRouterTwo};
        use Kind::{NativeTokioUring, Router, RouterAnnounced, RouterPortable, RouterUnchanged};
        match self {
            Self::Polling => {
                &[Router, RouterPortable, RouterUnchanged, Pm2, Sticky, Nginx, Haproxy]
            }
            // Their workers alone would take minutes to start.
            Self::Broadcast64 => &[Router, RouterPortable, Sticky],
            _ if self.broadcast().is_some() => {
                &[Router, RouterPortable, RouterUnchanged, Pm2, Sticky]
            }
            // The others have nothing to reload workers with.
            Self::Reload => &[Router, RouterPortable, RouterUnchanged, Pm2],
            Self::Idle => &[
                None,
                Router,
                RouterPortable,
                RouterUnchanged,
                RouterAnnounced,
                Pm2,
                Sticky,
                Nginx,
                Haproxy,
            ],
            Self::Native => &[
                NativeRouter,
                NativePortable,
                NativeRouterTwo,
                NativeEpoll,
                NativeMonoio,
                NativeTokioUring,
            ],
            Self::Native64 => &[NativeRouter, NativePortable, NativeRouterTwo, NativeEpoll],
            Self::Requests => &[
                None,
                Router,
                RouterPortable,
                RouterUnchanged,
                Pm2,
                Sticky,
                Nginx,
                NginxKept,
                Haproxy,
            ],
            _ => &[None, Router, RouterPortable, RouterUnchanged, Pm2, Sticky, Nginx, Haproxy],
        }
    }

    /// Measures it once.
    pub(crate) async fn measure(self, front: &mut Front, measure: Measure) -> Result<Sample> {
        let (target, lasts) = (front.target, measure.lasts);
        if let Some(what) = self.broadcast() {
            return broadcast::broadcast(front, what, lasts).await;
        }
        match self {
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
            Self::Reload => reload::reload(front).await,
            Self::Idle => idle::idle(front, measure).await,
            _ => {
                let clients = (0..CLIENTS).map(|number| Once { target, number });
                closed(front, clients.collect(), lasts).await
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
