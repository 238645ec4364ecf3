//! Sessions that do nothing: what they cost by being there.

use anyhow::Result;
use tokio::time::sleep;

use super::{Measure, Sample, Spent, WARM_UP, entries, open_sessions};
use crate::front::Front;

/// Sessions that come and go before, so that what is kept for connections that are opened at once is
/// there and counts for nobody.
const FIRST: usize = 1000;

pub(super) async fn idle(front: &Front, measure: Measure) -> Result<Sample> {
    drop(open_sessions(front, FIRST.min(measure.idle)).await?);
    sleep(WARM_UP).await;
    let first = Spent::by(front)?;
    sleep(measure.lasts).await;
    let bare = Spent::by(front)?;
    let sessions = open_sessions(front, measure.idle).await?;
    sleep(WARM_UP).await;
    let before = Spent::by(front)?;
    sleep(measure.lasts).await;
    let after = Spent::by(front)?;
    let count = u64::try_from(sessions.len())?;
    drop(sessions);
    let seconds = measure.lasts.as_secs_f64();
    let [front_alone, workers_alone] = bare.since(&first, 1).map(|us| us / seconds);
    let [front_us, workers_us] = after.since(&before, 1).map(|us| us / seconds);
    let grown = |n: usize| {
        before.0[n].resident.saturating_sub(bare.0[n].resident) as f64 / count.max(1) as f64
    };
    let mib = |spent: &Spent| spent.0[0].resident as f64 / f64::from(1 << 20);
    Ok(entries([
        ("front us a second", front_us),
        ("front us a second alone", front_alone),
        ("front us a second for them", front_us - front_alone),
        ("workers us a second for them", workers_us - workers_alone),
        ("front bytes each", grown(0)),
        ("workers bytes each", grown(1)),
        ("front MiB", mib(&before)),
        ("front MiB alone", mib(&bare)),
    ]))
}
