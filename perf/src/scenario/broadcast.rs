//! One worker broadcasts, all deliver.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{Sample, Spent, WARM_UP, entries, open_sessions};
use crate::front::Front;
use crate::load::websocket;

/// How long a burst may take beyond its time.
const LATE: Duration = Duration::from_secs(30);

/// How many workers deliver how large a broadcast how often.
#[derive(Clone, Copy, Debug)]
pub(super) struct Broadcast {
    pub(super) workers: usize,
    pub(super) bytes: usize,
    /// A second.
    pub(super) rate: u32,
}

/// One client a worker has them broadcast; each must get all.
pub(super) async fn broadcast(front: &Front, what: Broadcast, lasts: Duration) -> Result<Sample> {
    let workers = what.workers;
    // Two for each worker, so that every worker has some, whoever gets whom.
    let mut sessions = open_sessions(front, workers * 2).await?;
    burst(&mut sessions, what, WARM_UP).await?;
    let before = Spent::by(front)?;
    let count = burst(&mut sessions, what, lasts).await?;
    let after = Spent::by(front)?;
    let relayed = count * (u64::try_from(workers)? - 1);
    let [front_us, workers_us] = after.since(&before, relayed);
    Ok(entries([("front us each", front_us), ("workers us each", workers_us)]))
}

async fn burst(
    sessions: &mut Vec<websocket::Session>,
    what: Broadcast,
    lasts: Duration,
) -> Result<u64> {
    let Broadcast { bytes, rate, .. } = what;
    let count = u64::from(rate) * lasts.as_secs();
    let speaker = sessions.first_mut().context("no session")?;
    speaker.send(&format!("42[\"burst\",{count},{bytes},{rate}]")).await?;
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
