//! Who is on the bus: the adapters of the workers here, and those of other hosts.
//!
//! Adapters here are learnt from what they say. Those of others are read from the names of the
//! channels, once a second ([`super::names`]), and from what they send. The workers' own adapters
//! know each other by heartbeats; the official adapter of other hosts sends none, since it counts who
//! is subscribed. So for such a one the router beats, for as long as it is subscribed, and says for
//! each that it is gone when it has been out of sight for `GONE_AFTER`.
//!
//! Pure: `now` comes in, what workers are to be told goes out.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use ahash::RandomState;

use super::names::{Names, Subscribed};
use crate::ipc::message::Uid;
use crate::route::WorkerId;

/// Adapters of other hosts that are known at once; more are not beaten for.
const MAX_REMOTE: usize = 65_536;
/// Adapters here; a worker has one for each namespace.
const MAX_LOCAL: usize = 65_536;
/// How often the router beats for an adapter that does not. Workers give up on one after 10 s.
const BEAT_EVERY: Duration = Duration::from_secs(4);
/// How long an adapter of another host may be out of sight: a router that is replaced in place, or
/// whose connection broke, is back sooner.
const GONE_AFTER: Duration = Duration::from_secs(2);
/// How long an adapter here may say nothing; it beats every 5 s.
const SILENCE: Duration = Duration::from_secs(30);
/// How long one that is gone is still known as one of ours: what it has published comes back.
const DEPARTED: Duration = Duration::from_secs(60);
/// For how long after it was last seen a host without router is reckoned with.
const PLAIN_KEPT: Duration = Duration::from_secs(60);

/// Tables of both kinds. Local and remote have no id in common.
#[derive(Debug, Default)]
pub struct Nodes {
    local: HashMap<Uid, Local, RandomState>,
    departed: VecDeque<(Uid, Instant)>,
    remote: HashMap<Uid, Remote, RandomState>,
    /// Counts the changes of `local`.
    version: u64,
    plain_seen: Option<Instant>,
}

#[derive(Clone, Debug)]
struct Local {
    nsp: String,
    worker: WorkerId,
    heard: Instant,
}

#[derive(Clone, Debug)]
struct Remote {
    nsp: String,
    /// The host whose router has it; `None`: it has none, as far as is known.
    host: Option<String>,
    /// When it was last subscribed, or sent something.
    seen: Instant,
    /// When the workers were last told that it lives, by us.
    beaten: Option<Instant>,
}

/// What the workers are to be told of another host's adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tell {
    /// It lives.
    Lives(Uid, String),
    /// It is gone.
    Gone(Uid, String),
}

/// Another host, as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// What its router calls itself; empty: hosts without router.
    pub name: String,
    /// Its adapters.
    pub nodes: usize,
}

impl Nodes {
    /// An adapter of a worker here has spoken.
    pub fn hear(&mut self, uid: Uid, nsp: &str, worker: WorkerId, now: Instant) {
        if let Some(known) = self.local.get_mut(&uid) {
            known.heard = now;
            return;
        }
        if self.local.len() < MAX_LOCAL && !self.departed.iter().any(|(gone, _)| *gone == uid) {
            self.remote.remove(&uid);
            self.local.insert(uid, Local { nsp: nsp.to_owned(), worker, heard: now });
            self.version += 1;
        }
    }

    /// An adapter here is gone.
    pub fn depart(&mut self, uid: Uid, now: Instant) {
        if self.local.remove(&uid).is_some() {
            self.version += 1;
            self.departed.push_back((uid, now));
        }
    }

    /// Forgets who has been silent for too long, and who has been gone for long.
    pub fn forget_silent(&mut self, now: Instant) {
        let silent = |local: &Local| now.saturating_duration_since(local.heard) > SILENCE;
        let gone: Vec<Uid> =
            self.local.iter().filter(|(_, local)| silent(local)).map(|(uid, _)| *uid).collect();
        for uid in gone {
            self.local.remove(&uid);
            self.version += 1;
        }
        let long = |at: Instant| now.saturating_duration_since(at) > DEPARTED;
        while self.departed.front().is_some_and(|(_, at)| long(*at)) {
            self.departed.pop_front();
        }
    }

    /// Whether this is an adapter of ours, or was a moment ago.
    #[must_use]
    pub fn is_ours(&self, uid: &Uid) -> bool {
        self.local.contains_key(uid) || self.departed.iter().any(|(gone, _)| gone == uid)
    }

    /// The worker whose adapter this is.
    #[must_use]
    pub fn worker_of(&self, uid: &Uid) -> Option<WorkerId> {
        self.local.get(uid).map(|local| local.worker)
    }

    /// Counts the changes of who is here: what is subscribed to follows it.
    #[must_use]
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// Everything that is to be subscribed to for the adapters here.
    #[must_use]
    pub fn subscriptions(&self, names: &Names, host: &str) -> BTreeSet<String> {
        let of_one = |(uid, local): (&Uid, &Local)| {
            let everyone = names.everyone(&local.nsp);
            [everyone, names.adapter(&local.nsp, uid.as_str()), names.mark(host, uid)]
        };
        self.local.iter().flat_map(of_one).collect()
    }

    /// An adapter of another host has sent something.
    pub fn hear_remote(&mut self, uid: Uid, nsp: &str, now: Instant) {
        if let Some(remote) = self.remote.get_mut(&uid) {
            remote.seen = now;
        } else if self.remote.len() < MAX_REMOTE {
            let remote = Remote { nsp: nsp.to_owned(), host: None, seen: now, beaten: None };
            self.remote.insert(uid, remote);
        }
    }

    /// An adapter of another host has said that it is gone.
    pub fn depart_remote(&mut self, uid: &Uid) {
        self.remote.remove(uid);
    }

    /// All names that are subscribed to, as of `now`.
    pub fn look<'a>(
        &mut self,
        subscribed: impl Iterator<Item = Subscribed<'a>> + Clone,
        now: Instant,
    ) -> Vec<Tell> {
        let marks: HashMap<Uid, &str, RandomState> = subscribed
            .clone()
            .filter_map(|name| match name {
                Subscribed::Mark { host, uid } => Some((uid, host)),
                Subscribed::Adapter { .. } => None,
            })
            .collect();
        let mut tell = Vec::new();
        for name in subscribed {
            let Subscribed::Adapter { nsp, uid } = name else { continue };
            if self.is_ours(&uid) {
                continue;
            }
            self.hear_remote(uid, nsp, now);
            let Some(remote) = self.remote.get_mut(&uid) else { continue };
            remote.host = marks.get(&uid).map(|host| (*host).to_owned());
            if remote.host.is_none() {
                self.plain_seen = Some(now);
            }
            let due = match remote.beaten {
                None => true,
                // Those of routers beat themselves.
                Some(at) => {
                    remote.host.is_none() && now.saturating_duration_since(at) >= BEAT_EVERY
                }
            };
            if due {
                remote.beaten = Some(now);
                tell.push(Tell::Lives(uid, remote.nsp.clone()));
            }
        }
        self.remote.retain(|uid, remote| {
            let gone = now.saturating_duration_since(remote.seen) >= GONE_AFTER;
            if gone {
                tell.push(Tell::Gone(*uid, remote.nsp.clone()));
            }
            !gone
        });
        tell
    }

    /// Nobody of the others can be reached: they are gone for the workers, who do not wait for them.
    pub fn lose_all(&mut self) -> Vec<Tell> {
        self.remote.drain().map(|(uid, remote)| Tell::Gone(uid, remote.nsp)).collect()
    }

    /// The adapters of other hosts in a namespace: what one that has just started here is told.
    pub fn others<'a>(&'a self, nsp: &'a str) -> impl Iterator<Item = Uid> + 'a {
        self.remote.iter().filter(move |(_, remote)| remote.nsp == nsp).map(|(uid, _)| *uid)
    }

    /// How often each namespace's channel is to be subscribed to besides the once that everything
    /// is: the official adapter waits for as many answers as there are subscribers, and each
    /// adapter here answers. Nothing where all hosts run router.
    #[must_use]
    pub fn stand_ins(&self, names: &Names, now: Instant) -> Vec<BTreeSet<String>> {
        let reckoned =
            self.plain_seen.is_some_and(|at| now.saturating_duration_since(at) < PLAIN_KEPT);
        if !reckoned {
            return Vec::new();
        }
        let mut count: BTreeMap<&str, usize> = BTreeMap::new();
        for local in self.local.values() {
            *count.entry(&local.nsp).or_default() += 1;
        }
        let most = count.values().copied().max().unwrap_or(0);
        (1..most)
            .map(|at| {
                count.iter().filter(|(_, n)| **n > at).map(|(nsp, _)| names.everyone(nsp)).collect()
            })
            .collect()
    }

    /// Adapters here.
    #[must_use]
    pub fn here(&self) -> usize {
        self.local.len()
    }

    /// The other hosts, by name.
    #[must_use]
    pub fn hosts(&self) -> Vec<Host> {
        let mut count: BTreeMap<&str, usize> = BTreeMap::new();
        for remote in self.remote.values() {
            *count.entry(remote.host.as_deref().unwrap_or_default()).or_default() += 1;
        }
        count.into_iter().map(|(name, nodes)| Host { name: name.to_owned(), nodes }).collect()
    }

    /// The adapters here, for the next program.
    #[must_use]
    pub fn freeze(&self) -> Vec<(Uid, String, WorkerId)> {
        self.local.iter().map(|(uid, local)| (*uid, local.nsp.clone(), local.worker)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn names() -> Names {
        Names::new("s".to_owned(), "p".to_owned())
    }

    fn uid(n: u8) -> Uid {
        Uid::new(format!("{n:016x}").as_bytes()).expect("an id")
    }

    fn worker(slot: u16) -> WorkerId {
        WorkerId { slot, generation: 1 }
    }

    #[expect(clippy::disallowed_methods, reason = "tests have no loop")]
    fn start() -> Instant {
        Instant::now()
    }

    fn adapter(n: u8) -> Subscribed<'static> {
        Subscribed::Adapter { nsp: "/", uid: uid(n) }
    }

    fn mark(n: u8) -> Subscribed<'static> {
        Subscribed::Mark { host: "b", uid: uid(n) }
    }

    fn look(nodes: &mut Nodes, all: &[Subscribed<'static>], now: Instant) -> Vec<Tell> {
        nodes.look(all.iter().cloned(), now)
    }

    #[test]
    fn the_router_beats_for_those_who_do_not() {
        let (mut nodes, t) = (Nodes::default(), start());
        let all = [adapter(1), adapter(2), mark(2)];
        let lives = |n| Tell::Lives(uid(n), "/".to_owned());
        assert_eq!(look(&mut nodes, &all, t), [lives(1), lives(2)]);
        assert_eq!(look(&mut nodes, &all, t + SECOND), []);
        assert_eq!(look(&mut nodes, &all, t + 4 * SECOND), [lives(1)]);
        let hosts = nodes.hosts();
        let shown: Vec<_> = hosts.iter().map(|host| (&*host.name, host.nodes)).collect();
        assert_eq!(shown, [("", 1), ("b", 1)]);
    }

    #[test]
    fn who_is_out_of_sight_is_gone_and_who_comes_back_in_time_is_not() {
        let (mut nodes, t) = (Nodes::default(), start());
        let all = [adapter(1), mark(1)];
        look(&mut nodes, &all, t);
        assert_eq!(look(&mut nodes, &[], t + SECOND), []);
        assert_eq!(look(&mut nodes, &all, t + SECOND), []);
        assert_eq!(look(&mut nodes, &[], t + 3 * SECOND), [Tell::Gone(uid(1), "/".to_owned())]);
        assert_eq!(look(&mut nodes, &[], t + 4 * SECOND), []);
        // One that is only heard of, in an old entry of the stream, is gone as well.
        nodes.hear_remote(uid(9), "/", t + 4 * SECOND);
        assert_eq!(look(&mut nodes, &[], t + 6 * SECOND), [Tell::Gone(uid(9), "/".to_owned())]);
        // Without Redis all are.
        look(&mut nodes, &all, t + 7 * SECOND);
        assert_eq!(nodes.lose_all(), [Tell::Gone(uid(1), "/".to_owned())]);
        assert!(nodes.hosts().is_empty());
    }

    #[test]
    fn ours_are_subscribed_for_and_not_taken_for_others() {
        let (mut nodes, t) = (Nodes::default(), start());
        nodes.hear(uid(1), "/", worker(0), t);
        nodes.hear(uid(2), "/", worker(1), t);
        nodes.hear(uid(3), "/chat", worker(1), t);
        assert_eq!(nodes.version(), 3);
        nodes.hear(uid(3), "/chat", worker(1), t);
        assert_eq!((nodes.version(), nodes.worker_of(&uid(3))), (3, Some(worker(1))));
        let all = nodes.subscriptions(&names(), "h");
        assert_eq!(all.len(), 2 + 3 + 3);
        assert_eq!(look(&mut nodes, &[adapter(1), mark(1)], t), []);
        nodes.depart(uid(1), t);
        assert!(nodes.is_ours(&uid(1)) && nodes.worker_of(&uid(1)).is_none());
        // What it still had to say does not bring it back.
        nodes.hear(uid(1), "/", worker(0), t);
        assert_eq!(nodes.here(), 2);
        nodes.forget_silent(t + 31 * SECOND);
        assert_eq!(nodes.here(), 0);
        nodes.forget_silent(t + 61 * SECOND);
        assert!(!nodes.is_ours(&uid(1)));
    }

    #[test]
    fn stand_ins_make_the_official_count_right_and_only_where_it_is_made() {
        let (mut nodes, t) = (Nodes::default(), start());
        for n in 0..3 {
            nodes.hear(uid(n), "/", worker(n.into()), t);
        }
        nodes.hear(uid(7), "/one", worker(0), t);
        look(&mut nodes, &[adapter(9), mark(9)], t);
        assert!(nodes.stand_ins(&names(), t).is_empty());
        look(&mut nodes, &[adapter(8)], t);
        let only_root = || BTreeSet::from(["p#/#".to_owned()]);
        assert_eq!(nodes.stand_ins(&names(), t), [only_root(), only_root()]);
        assert!(nodes.stand_ins(&names(), t + 61 * SECOND).is_empty());
    }
}
