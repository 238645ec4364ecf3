//! A connection's life: made, caught up, used until it breaks; and the pause before the next.
//!
//! ```text
//!   connect ─► end the former connection ─► subscribe ─► read what was missed
//!      ▲                                                      │ what of the former's entries came
//!      │                                                      ▼ back was taken, the rest goes again
//!    pause ◄── the first error of any ── read │ write │ listen │ look
//! ```
//!
//! The four work side by side on one connection: `read` the stream whenever Redis says that it has
//! changed, `write` what is in the backlog, a batch at a time, `listen` to what is published, `look`
//! who is there. A fifth, `heed`, asks the sentinels whether it still is the right one.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use redis::Value;
use redis::aio::MultiplexedConnection;

use super::cluster::{Known, NODES_EVERY, Others};
use super::connect::{self, Fault};
use super::core::{Core, clock};
use super::link::{self, Link, Next, Pushed};
use super::packet::Way;
use super::sentinel::{self, Sentinels};
use crate::config::Redis;

/// Entries that are asked for at once, at first and at most.
const FEW: usize = 100;
const MANY: usize = 1000;
/// Bytes of an answer above which fewer entries are asked for, and a quarter of it more.
const MAX_ANSWER: usize = 8 << 20;
/// How often it is looked who is there, and whether the stream has been read to its end.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long Redis may take to say who is there before nobody waits for other hosts.
const SLOW: Duration = Duration::from_secs(2);
/// How often the stream is read where Redis does not say when it changes.
const POLL_EVERY: Duration = Duration::from_millis(25);
/// The first pause before another connection is tried, and the longest.
const PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// One connection after another, for ever.
pub(super) async fn sessions(core: &Core) -> Infallible {
    let mut pause = PAUSE;
    let mut known = Known::default();
    loop {
        let (fault, worked) = match session(core, &mut known).await {
            Err(Broken::Early(fault)) => (fault, false),
            Err(Broken::Late(fault)) => (fault, true),
            Ok(never) => match never {},
        };
        core.state.borrow_mut().connected = false;
        known.fail();
        lose_all(core).await;
        if worked {
            pause = PAUSE;
        }
        match &fault {
            Fault::Refused(why) => {
                tracing::error!(redis = %core.settings.bus.redis, why, "Redis refuses")
            }
            Fault::Away(why) if worked || pause == PAUSE => {
                tracing::warn!(redis = %core.settings.bus.redis, why, "Redis is away: this host is alone until it is back");
            }
            Fault::Away(why) => tracing::debug!(why, "Redis is still away"),
        }
        core.show(Some(fault.to_string()));
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Nobody here shall wait for an answer that does not come.
async fn lose_all(core: &Core) {
    let tell = core.state.borrow_mut().nodes.lose_all();
    core.tell(tell).await;
}

/// Why a connection is over.
enum Broken {
    /// It was never used.
    Early(Fault),
    Late(Fault),
}

async fn session(core: &Core, known: &mut Known) -> Result<Infallible, Broken> {
    let pushed = Arc::new(Pushed::default());
    let (mut link, subscribed) = begin(core, &pushed, known).await.map_err(Broken::Early)?;
    core.count_connection();
    let redis = &core.settings.bus.redis;
    let node = (link.place != *redis).then(|| tracing::field::display(&link.place));
    tracing::info!(%redis, node, name = core.names.stream, "the bus is connected");
    core.show(None);
    let (reading, looking, place) = (link.clone(), link.clone(), link.place.clone());
    let over = tokio::select! {
        over = read(core, reading, &pushed) => over,
        over = write(core, &mut link, subscribed) => over,
        over = listen(core, &pushed) => over,
        over = look(core, looking, known) => over,
        over = heed(redis, &place) => over,
    };
    over.map_err(Broken::Late)
}

/// Up to where the connection can be used like any other.
async fn begin(
    core: &Core,
    pushed: &Arc<Pushed>,
    known: &mut Known,
) -> Result<(Link, Subscriptions), Fault> {
    let (bus, client) = (&core.settings.bus, &core.settings.client);
    let mut link = Link::open(&bus.redis, &bus.stream, client, pushed, known).await?;
    let earlier = core.state.borrow_mut().earlier.replace(link.identity.clone());
    if let Some(earlier) = earlier {
        if !link.identity.is_where(&earlier) {
            core.state.borrow_mut().repeats.switch();
        }
        link.end(&earlier).await?;
    }
    let stream = &core.names.stream;
    link.track(stream).await?;
    let info = link.stream(stream).await?;
    if core.state.borrow().position.is_none_or(|position| info.last < position.last) {
        core.settle(&info);
    }
    let mut subscribed = Subscriptions::default();
    subscribed.follow(core, &mut link).await?;
    let mut count = FEW;
    while core.state.borrow().position.is_some_and(|position| position.last < info.last) {
        if read_some(core, &mut link, &mut count).await? == 0 {
            break;
        }
    }
    core.settle(&info_now(core, &mut link).await?);
    core.caught_up();
    Ok((link, subscribed))
}

async fn info_now(core: &Core, link: &mut Link) -> Result<super::position::StreamInfo, Fault> {
    link.stream(&core.names.stream).await
}

// ---- read ----

async fn read(core: &Core, mut link: Link, pushed: &Pushed) -> Result<Infallible, Fault> {
    let mut count = FEW;
    let pause = if link.tracks { LOOK_EVERY } else { POLL_EVERY };
    let mut looked = clock();
    loop {
        while read_some(core, &mut link, &mut count).await? > 0 {}
        if clock().saturating_duration_since(looked) >= LOOK_EVERY {
            looked = clock();
            let info = info_now(core, &mut link).await?;
            core.settle(&info);
        }
        // Nothing changed in so long is no error: it is time to look all the same.
        let _late = tokio::time::timeout(pause, pushed.changed.notified()).await;
    }
}

/// Reads and passes on the next entries; how many there were.
async fn read_some(core: &Core, link: &mut Link, count: &mut usize) -> Result<usize, Fault> {
    let last = core.state.borrow().position.unwrap_or_default().last;
    let entries = link.entries(&core.names.stream, last, *count).await?;
    let bytes: usize = entries.iter().map(link::Entry::len).sum();
    if bytes > MAX_ANSWER {
        *count = (*count / 2).max(1);
    } else if bytes < MAX_ANSWER / 4 && entries.len() == *count {
        *count = (*count * 2).min(MANY);
    }
    let read = entries.len();
    for entry in entries {
        core.entry(entry).await;
    }
    if read > 0 {
        core.tell_shards();
        core.note_position();
    }
    Ok(read)
}

// ---- write ----

async fn write(
    core: &Core,
    link: &mut Link,
    mut subscribed: Subscriptions,
) -> Result<Infallible, Fault> {
    loop {
        let batch = core.prepare();
        // Whoever asks must be reachable for the answer, and seen by the others.
        subscribed.follow(core, link).await?;
        if batch.ways.is_empty() {
            core.stirred.notified().await;
            continue;
        }
        let answers = link.ask_all(&batch.commands).await?;
        let mut refused = 0;
        for (way, answer) in batch.ways.iter().zip(&answers) {
            let Value::ServerError(error) = answer else { continue };
            match way {
                // None of it is lost: what came back was taken, the rest goes again.
                Way::Stream => return Err(redis::RedisError::from(error.clone()).into()),
                Way::Everyone | Way::Requester => refused += 1,
            }
        }
        core.count_refused(refused);
        core.landed(batch.ways.len());
    }
}

/// What this connection is subscribed to.
#[derive(Debug, Default)]
struct Subscriptions {
    channels: BTreeSet<String>,
    version: Option<u64>,
}

impl Subscriptions {
    /// Subscribes to what is wanted now, and no more.
    async fn follow(&mut self, core: &Core, link: &mut Link) -> Result<(), Fault> {
        let wanted = {
            let state = core.state.borrow();
            if self.version.replace(state.nodes.version()) == Some(state.nodes.version()) {
                return Ok(());
            }
            state.nodes.subscriptions(&core.names, &state.host)
        };
        let more: Vec<String> = wanted.difference(&self.channels).cloned().collect();
        if !more.is_empty() {
            link.subscribe(&more).await?;
        }
        let less: Vec<String> = self.channels.difference(&wanted).cloned().collect();
        if !less.is_empty() {
            link.unsubscribe(&less).await?;
        }
        self.channels = wanted;
        Ok(())
    }
}

// ---- listen ----

async fn listen(core: &Core, pushed: &Pushed) -> Result<Infallible, Fault> {
    loop {
        match pushed.next() {
            Some(Next::Published(channel, payload)) => {
                core.published(&channel, &payload).await;
                core.tell_shards();
            }
            Some(Next::Dropped(messages)) => core.dropped(messages),
            Some(Next::Ended) => {
                return Err(Fault::Away("the connection to Redis has ended".to_owned()));
            }
            None => pushed.arrived.notified().await,
        }
    }
}

// ---- heed ----

/// Ends when the sentinels name another master than the one at `place`.
async fn heed(redis: &Redis, place: &Redis) -> Result<Infallible, Fault> {
    let Some(mut sentinels) = Sentinels::of(redis)? else { return std::future::pending().await };
    loop {
        tokio::time::sleep(sentinel::ASK_EVERY).await;
        match sentinels.master().await {
            Ok(master) if master != *place => {
                return Err(Fault::Away(format!("the sentinels name another master: {master}")));
            }
            Ok(_) => {}
            // The connection is none the worse for it.
            Err(fault) => tracing::debug!(%fault, "no sentinel says which the master is"),
        }
    }
}

// ---- look ----

async fn look(core: &Core, mut link: Link, known: &mut Known) -> Result<Infallible, Fault> {
    let pattern = core.names.pattern();
    let mut stand_ins = StandIns::default();
    let mut others = Others::default();
    let mut nodes_asked = None;
    loop {
        let asks_nodes = link.in_cluster
            && nodes_asked.is_none_or(|at| clock().saturating_duration_since(at) >= NODES_EVERY);
        let (names, nodes) = {
            let asked = async {
                let nodes = match asks_nodes {
                    true => Some(link.topology(&core.names.stream).await?.nodes),
                    false => None,
                };
                Ok::<_, Fault>((link.channels(&pattern).await?, nodes))
            };
            tokio::pin!(asked);
            match tokio::time::timeout(SLOW, &mut asked).await {
                Ok(answers) => answers?,
                Err(_) => {
                    tracing::warn!(redis = %core.settings.bus.redis, "Redis is slow: this host is alone meanwhile");
                    core.show(Some("Redis is slow".to_owned()));
                    lose_all(core).await;
                    asked.await?
                }
            }
        };
        if let Some(nodes) = nodes {
            others.follow(&link.place, &nodes, &pattern);
            known.learn(nodes);
            nodes_asked = Some(clock());
        }
        let elsewhere = others.channels();
        let now = clock();
        let (tell, wanted) = {
            let mut state = core.state.borrow_mut();
            let all = names.iter().chain(&elsewhere);
            let tell = state.nodes.look(all.filter_map(|name| core.names.read(name)), now);
            state.nodes.forget_silent(now);
            (tell, state.nodes.stand_ins(&core.names, now))
        };
        core.tell(tell).await;
        stand_ins.follow(&link.place, wanted).await;
        core.show(None);
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Connections that stand in for the adapters here beyond the first of each namespace, where
/// somebody counts subscribers.
#[derive(Default)]
struct StandIns(Vec<(MultiplexedConnection, BTreeSet<String>)>);

impl StandIns {
    async fn follow(&mut self, redis: &Redis, wanted: Vec<BTreeSet<String>>) {
        self.0.truncate(wanted.len());
        for (at, channels) in wanted.into_iter().enumerate() {
            if let Err(fault) = self.follow_one(redis, at, channels).await {
                // The next look tries again.
                self.0.truncate(at);
                return tracing::debug!(%fault, "no connection to stand in for a worker");
            }
        }
    }

    async fn follow_one(
        &mut self,
        redis: &Redis,
        at: usize,
        wanted: BTreeSet<String>,
    ) -> Result<(), Fault> {
        if self.0.len() == at {
            self.0.push((connect::stand_in(redis).await?, BTreeSet::new()));
        }
        let Some((connection, channels)) = self.0.get_mut(at) else { return Ok(()) };
        let more: Vec<&String> = wanted.difference(channels).collect();
        if !more.is_empty() {
            connection.subscribe(more).await?;
        }
        let less: Vec<&String> = channels.difference(&wanted).collect();
        if !less.is_empty() {
            connection.unsubscribe(less).await?;
        }
        *channels = wanted;
        Ok(())
    }
}
