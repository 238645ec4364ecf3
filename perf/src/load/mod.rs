//! The clients: how many at once, or how often; what they do is theirs.

pub(crate) mod http;
pub(crate) mod polling;
pub(crate) mod requests;
pub(crate) mod websocket;

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

/// What a client waits.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest latency that is told from longer ones, in microseconds.
const LATENCY_MAX: u64 = 10_000_000;
/// Before a client that has failed tries again.
const REFUSED_PAUSE: Duration = Duration::from_millis(10);
/// Clients of an open loop that are under way before the next one counts as failed.
const UNDER_WAY_MAX: usize = 4096;

/// What came of it.
#[derive(Debug)]
pub(crate) struct Tally {
    /// What was done.
    pub(crate) done: u64,
    /// What was answered wrong, late or not at all.
    pub(crate) failed: u64,
    /// The first reason of a failure.
    pub(crate) why: Option<String>,
    /// How long each took, in microseconds.
    pub(crate) latency: Histogram<u64>,
    /// From the first to the last.
    pub(crate) took: Duration,
}

impl Tally {
    pub(crate) fn new() -> Result<Self> {
        let latency = Histogram::new_with_bounds(1, LATENCY_MAX, 3)?;
        Ok(Self { done: 0, failed: 0, why: None, latency, took: Duration::ZERO })
    }

    pub(crate) fn count(&mut self, since: Instant, outcome: Result<()>) {
        match outcome {
            Ok(()) => {
                self.done += 1;
                let micros = u64::try_from(since.elapsed().as_micros()).unwrap_or(LATENCY_MAX);
                self.latency.saturating_record(micros);
            }
            Err(error) => {
                self.failed += 1;
                self.why.get_or_insert_with(|| format!("{error:#}"));
            }
        }
    }
}

/// The server, and where the clients come from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    pub(crate) port: u16,
}

impl Target {
    /// The client of this number connects, from an address of its own: so that whoever goes by
    /// address shares them out, and no address runs out of ports.
    pub(crate) async fn connect(self, client: usize) -> Result<TcpStream> {
        let [.., second, third, last] = client.to_be_bytes();
        let [second, third, last] = [second % 64 + 1, third, last % 250 + 1];
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from((Ipv4Addr::new(127, second, third, last), 0)))?;
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        let stream = timeout(PATIENCE, socket.connect(to)).await.context("connecting")??;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// Clients that each do the next as soon as the last is done, for so long. They are given back.
pub(crate) async fn closed_loop<D: Doer + 'static>(
    clients: Vec<D>,
    lasts: Duration,
) -> Result<(Tally, Vec<D>)> {
    let tally = Rc::new(RefCell::new(Tally::new()?));
    let began = Instant::now();
    let end = began + lasts;
    let mut all = JoinSet::new();
    for mut client in clients {
        let tally = Rc::clone(&tally);
        all.spawn_local(async move {
            while Instant::now() < end {
                let since = Instant::now();
                let outcome = patiently(client.once()).await;
                let failed = outcome.is_err();
                tally.borrow_mut().count(since, outcome);
                if failed {
                    // A server that refuses is not asked as fast as it refuses.
                    sleep_until(Instant::now() + REFUSED_PAUSE).await;
                }
            }
            client
        });
    }
    let mut clients = Vec::new();
    while let Some(client) = all.join_next().await {
        clients.push(client?);
    }
    Ok((finish(tally, began)?, clients))
}

/// So many a second, whether or not the last is done; what waits for its turn counts as waiting.
pub(crate) async fn open_loop<C, D>(rate: u32, lasts: Duration, client: C) -> Result<Tally>
where
    C: Fn(usize) -> D,
    D: Doer + 'static,
{
    let tally = Rc::new(RefCell::new(Tally::new()?));
    let began = Instant::now();
    let mut all = JoinSet::new();
    let pause = Duration::from_secs(1) / rate;
    let mut due = began;
    let mut number = 0;
    while due < began + lasts {
        sleep_until(due).await;
        while all.try_join_next().transpose()?.is_some() {}
        if all.len() >= UNDER_WAY_MAX {
            let late = anyhow::anyhow!("{UNDER_WAY_MAX} are under way");
            tally.borrow_mut().count(due, Err(late));
        } else {
            let mut doer = client(number);
            let (tally, since) = (Rc::clone(&tally), due);
            all.spawn_local(async move {
                let outcome = patiently(doer.once()).await;
                tally.borrow_mut().count(since, outcome);
            });
        }
        number += 1;
        due += pause;
    }
    while let Some(ended) = all.join_next().await {
        ended?;
    }
    finish(tally, began)
}

/// Within the time that a client waits.
pub(crate) async fn patiently(outcome: impl Future<Output = Result<()>>) -> Result<()> {
    timeout(PATIENCE, outcome).await.context("no answer")?
}

fn finish(tally: Rc<RefCell<Tally>>, began: Instant) -> Result<Tally> {
    let tally = Rc::into_inner(tally).context("a client goes on")?;
    let mut tally = tally.into_inner();
    tally.took = began.elapsed();
    Ok(tally)
}

/// A client.
pub(crate) trait Doer {
    /// Does once what is measured.
    async fn once(&mut self) -> Result<()>;
}
