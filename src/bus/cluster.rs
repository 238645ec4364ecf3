//! A Redis Cluster: the node that has the stream, and who is subscribed on the others.
//!
//! ```text
//!            ┌── one connection ──► the owner of the stream's slot: as if it were the only Redis
//!   router ──┤
//!            └── one to each other ► PUBSUB CHANNELS: each node knows its own subscribers alone
//! ```
//!
//! What is published on one node reaches the subscribers of all, and routers subscribe on the owner.
//! A host without router subscribes wherever its client chose, which its name is found by. The slots
//! are asked for anew with each connection: one that finds the stream elsewhere breaks.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use tokio::task::{AbortHandle, JoinSet};

use super::connect::{Fault, connect};
use super::link;
use super::slots::{self, Address, Topology};
use crate::config::{Redis, Site};

/// Nodes that are known at once; hosts without router that are on further ones are not seen.
const MAX_NODES: usize = 256;
/// How long a node may take to answer before it is passed over.
const NODE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long one node is waited for before the next is asked as well.
const STAGGER: Duration = Duration::from_millis(250);
/// How often another node is asked who is subscribed there, and tried again when it is away.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// How often the cluster is asked which nodes it has.
pub(super) const NODES_EVERY: Duration = Duration::from_secs(5);

/// What is known of a cluster from one connection to the next.
#[derive(Debug, Default)]
pub(super) struct Known {
    nodes: BTreeSet<Address>,
    /// Attempts that came to nothing: each asks another node first, since one may be cut off from the
    /// rest and not know it.
    failed: usize,
}

impl Known {
    /// The nodes there are.
    pub(super) fn learn(&mut self, nodes: BTreeSet<Address>) {
        if nodes.len() > MAX_NODES && self.nodes.len() <= MAX_NODES {
            tracing::warn!(
                nodes = nodes.len(),
                max = MAX_NODES,
                "the cluster has more nodes than are looked at: a host without router may not be seen"
            );
        }
        self.nodes = nodes;
    }

    /// A connection broke, or was not made.
    pub(super) const fn fail(&mut self) {
        self.failed = self.failed.wrapping_add(1);
    }

    /// Of the cluster where Redis is, the node that has the key.
    ///
    /// # Errors
    /// No node says, or all refuse.
    pub(super) async fn owner(
        &mut self,
        redis: &Redis,
        (tls, hosts): (bool, &[Address]),
        key: &str,
    ) -> Result<Redis, Fault> {
        let candidates = self.candidates(hosts);
        let (owner, nodes) = owner(redis, tls, candidates, key).await?;
        self.learn(nodes);
        Ok(at(redis, tls, owner))
    }

    /// Whom to ask, in which order: those who were named, then those who are known.
    fn candidates(&self, named: &[Address]) -> Vec<Address> {
        let more = self.nodes.iter().filter(|node| !named.contains(node)).take(MAX_NODES);
        let mut all: Vec<Address> = named.iter().chain(more).cloned().collect();
        let first = self.failed.checked_rem(all.len()).unwrap_or(0);
        all.rotate_left(first);
        all
    }
}

/// The same, at one node.
fn at(redis: &Redis, tls: bool, node: Address) -> Redis {
    Redis { site: Site::Tcp { tls, host: node }, ..redis.clone() }
}

/// Asks one node after another, without waiting long for any.
async fn owner(
    redis: &Redis,
    tls: bool,
    candidates: Vec<Address>,
    key: &str,
) -> Result<(Address, BTreeSet<Address>), Fault> {
    let slot = slots::slot(key);
    let mut left = candidates.into_iter();
    let mut asked = JoinSet::new();
    let mut fault = Fault::Away("the cluster has no node".to_owned());
    loop {
        if let Some(node) = left.next() {
            asked.spawn(ask(at(redis, tls, node), slot));
        } else if asked.is_empty() {
            return Err(fault);
        }
        let patience = if left.len() == 0 { NODE_TIMEOUT } else { STAGGER };
        // Nobody has answered yet: so the next is asked as well.
        let Ok(Some(answer)) = tokio::time::timeout(patience, asked.join_next()).await else {
            continue;
        };
        match answer {
            Ok(Ok(Topology { owner: Some(owner), nodes })) => return Ok((owner, nodes)),
            Ok(Ok(Topology { owner: None, .. })) if !matches!(fault, Fault::Refused(_)) => {
                fault = Fault::Away(format!(
                    "no node of the cluster has slot {slot}, where the stream is"
                ));
            }
            // What the operator can put right is told rather than what passes.
            Ok(Err(new)) if !matches!(fault, Fault::Refused(_)) => fault = new,
            Ok(_) => {}
            Err(error) => fault = Fault::Away(format!("asking a node ended: {error}")),
        }
    }
}

/// Asks one node where the slots are.
async fn ask(node: Redis, slot: u16) -> Result<Topology, Fault> {
    let asked = async {
        let mut connection = silent(&node).await?;
        topology(&mut connection, &node, slot).await
    };
    match tokio::time::timeout(NODE_TIMEOUT, asked).await {
        Ok(answer) => answer.map_err(|fault| fault.of(&node)),
        Err(_) => Err(Fault::Away("it does not answer".to_owned()).of(&node)),
    }
}

/// Asks where the slots are; `node` is whom.
///
/// # Errors
/// It is no node of a cluster, it says no, or the connection has ended.
pub(super) async fn topology(
    connection: &mut MultiplexedConnection,
    node: &Redis,
    slot: u16,
) -> Result<Topology, Fault> {
    let answer = connection.send_packed_command(redis::cmd("CLUSTER").arg("SLOTS")).await;
    let answer = match answer {
        Ok(redis::Value::ServerError(error)) => Err(redis::RedisError::from(error)),
        answer => answer,
    };
    let answer = answer.map_err(|error| {
        if error.to_string().contains("cluster support disabled") {
            return Fault::Refused("it is no Redis Cluster: write redis://".to_owned());
        }
        error.into()
    })?;
    let asked = match &node.site {
        Site::Tcp { host: (host, _), .. } => host.as_str(),
        _ => "",
    };
    slots::topology(&answer, slot, asked).ok_or_else(|| Fault::unexpected("CLUSTER SLOTS", &answer))
}

/// A connection on which nothing is said that is not asked.
async fn silent(redis: &Redis) -> Result<MultiplexedConnection, Fault> {
    connect(redis, |_| Ok::<(), redis::aio::SendError>(())).await
}

/// Who is subscribed on the other nodes. Each is asked by a task of its own, so that none that is
/// slow or away keeps anybody waiting; who was on it is out of sight.
#[derive(Debug, Default)]
pub(super) struct Others(BTreeMap<Address, Other>);

#[derive(Debug)]
struct Other {
    task: AbortHandle,
    channels: Channels,
}

/// What was subscribed to when the node was asked last.
type Channels = Arc<Mutex<Vec<String>>>;

impl Drop for Other {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Others {
    /// Looks at these nodes, but for the one that the router is on, and at no others.
    pub(super) fn follow(&mut self, here: &Redis, nodes: &BTreeSet<Address>, pattern: &str) {
        let Site::Tcp { tls, host } = &here.site else { return };
        let wanted = || nodes.iter().filter(|node| *node != host).take(MAX_NODES);
        let kept: BTreeSet<&Address> = wanted().collect();
        self.0.retain(|node, _| kept.contains(node));
        for node in wanted() {
            if self.0.contains_key(node) {
                continue;
            }
            let channels = Channels::default();
            let look =
                look(at(here, *tls, node.clone()), pattern.to_owned(), Arc::clone(&channels));
            let task = tokio::spawn(look).abort_handle();
            self.0.insert(node.clone(), Other { task, channels });
        }
    }

    /// The channels that somebody is subscribed to there.
    pub(super) fn channels(&self) -> Vec<String> {
        let of =
            |other: &Other| other.channels.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.0.values().flat_map(of).collect()
    }
}

async fn look(node: Redis, pattern: String, channels: Channels) -> Infallible {
    let mut told = false;
    loop {
        let mut answered = false;
        let fault = match look_until_it_breaks(&node, &pattern, &channels, &mut answered).await {
            Ok(never) => match never {},
            Err(fault) => fault.of(&node),
        };
        channels.lock().unwrap_or_else(PoisonError::into_inner).clear();
        if answered || !told {
            told = true;
            tracing::warn!(
                %fault,
                "a node of the cluster is away: hosts without router that are on it are not seen"
            );
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

async fn look_until_it_breaks(
    node: &Redis,
    pattern: &str,
    channels: &Channels,
    answered: &mut bool,
) -> Result<Infallible, Fault> {
    let late = |_| Fault::Away("it does not answer".to_owned());
    let mut connection = tokio::time::timeout(NODE_TIMEOUT, silent(node)).await.map_err(late)??;
    loop {
        let names = link::channels(&mut connection, pattern);
        let names = tokio::time::timeout(NODE_TIMEOUT, names).await.map_err(late)??;
        *answered = true;
        *channels.lock().unwrap_or_else(PoisonError::into_inner) = names;
        tokio::time::sleep(ASK_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(host: &str) -> Address {
        (host.to_owned(), 1)
    }

    #[test]
    fn another_node_is_asked_first_after_each_failure() {
        let mut known = Known::default();
        assert!(known.candidates(&[]).is_empty());
        known.learn(BTreeSet::from([at("a"), at("b"), at("c")]));
        let named = [at("b"), at("z")];
        let order = |known: &Known| -> String {
            known.candidates(&named).into_iter().map(|(host, _)| host).collect()
        };
        assert_eq!(order(&known), "bzac");
        known.fail();
        assert_eq!(order(&known), "zacb");
        (0..3).for_each(|_| known.fail());
        assert_eq!(order(&known), "bzac");
    }
}
