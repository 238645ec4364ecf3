//! New workers for old ones while clients are at work: what they notice of it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::{Sample, entries};
use crate::front::Front;
use crate::load::requests::Once;
use crate::load::websocket::Session;
use crate::load::{Doer, Tally, Target, patiently};

/// Clients that stay, and come back when they are cut off.
const STAYING: usize = 64;
/// Loops of requests, each on a connection of its own.
const ASKING: usize = 8;
/// Between two echoes of one client, and two requests of one loop.
const PAUSE: Duration = Duration::from_millis(50);
/// Before a client that was cut off comes back.
const BACK: Duration = Duration::from_millis(100);
/// Before the order is given, and after it has been carried out.
const CALM: Duration = Duration::from_secs(1);

/// What those who stay have noticed.
#[derive(Debug, Default)]
struct Noticed {
    /// When their sessions were closed.
    cuts: Vec<Instant>,
    /// Messages that were under way then.
    unanswered: u64,
    /// Tries to come back that failed.
    refused: u64,
}

pub(super) async fn reload(front: &mut Front) -> Result<Sample> {
    let target = front.target;
    let over = Rc::new(Cell::new(false));
    let noticed = Rc::new(RefCell::new(Noticed::default()));
    let tally = Rc::new(RefCell::new(Tally::new()?));
    let mut clients = JoinSet::new();
    for session in super::open_sessions(front, STAYING).await? {
        clients.spawn_local(stay(target, session, Rc::clone(&noticed), Rc::clone(&over)));
    }
    for number in 0..ASKING {
        clients.spawn_local(ask(Once { target, number }, Rc::clone(&tally), Rc::clone(&over)));
    }
    sleep(CALM).await;
    let began = Instant::now();
    front.reload().await?;
    let took = began.elapsed();
    sleep(CALM).await;
    over.set(true);
    while let Some(ended) = clients.join_next().await {
        ended?;
    }
    let noticed = Rc::into_inner(noticed).context("a client goes on")?.into_inner();
    let tally = tally.borrow();
    Ok(entries([
        ("seconds", took.as_secs_f64()),
        ("requests failed", tally.failed as f64),
        ("requests p99 us", tally.latency.value_at_quantile(0.99) as f64),
        ("sessions cut", noticed.cuts.len() as f64),
        ("most of them in a second", busiest_second(noticed.cuts) as f64),
        ("echoes lost", noticed.unanswered as f64),
        ("refused on return", noticed.refused as f64),
    ]))
}

async fn ask(mut client: Once, tally: Rc<RefCell<Tally>>, over: Rc<Cell<bool>>) {
    while !over.get() {
        let since = Instant::now();
        let outcome = patiently(client.once()).await;
        tally.borrow_mut().count(since, outcome);
        sleep(PAUSE).await;
    }
}

async fn stay(
    target: Target,
    session: Session,
    noticed: Rc<RefCell<Noticed>>,
    over: Rc<Cell<bool>>,
) {
    let mut open = Some(session);
    let mut number = 0;
    while !over.get() {
        let Some(session) = &mut open else {
            number += 1;
            match Session::open(target, number).await {
                Ok(session) => open = Some(session),
                Err(_) => noticed.borrow_mut().refused += 1,
            }
            sleep(BACK).await;
            continue;
        };
        // Cut off without a message under way, it has lost nothing.
        let cut = timeout(PAUSE, session.closed()).await.is_ok();
        let lost = !cut && patiently(session.echo()).await.is_err();
        if cut || lost {
            let mut noticed = noticed.borrow_mut();
            noticed.cuts.push(Instant::now());
            noticed.unanswered += u64::from(lost);
            open = None;
        }
    }
}

fn busiest_second(mut cuts: Vec<Instant>) -> usize {
    cuts.sort_unstable();
    let within = |from: &Instant| {
        cuts.iter().filter(|cut| (*from..*from + Duration::from_secs(1)).contains(cut)).count()
    };
    cuts.iter().map(within).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busiest_second_begins_with_a_cut() {
        let now = Instant::now();
        let at = |millis| now + Duration::from_millis(millis);
        assert_eq!(busiest_second(vec![at(2500), at(0), at(900), at(1500), at(1800)]), 3);
        assert_eq!(busiest_second(vec![]), 0);
    }
}
