//! A Redis Cluster of the test's own: masters that share the slots, and replicas when asked for.

use super::http::free_port;
use super::redis::Redis;
use super::{SOON, until};
use serde_json::Value;

/// How many slots a cluster has.
const SLOTS: usize = 16_384;

/// How long a node may be silent before the others take it to be gone, in milliseconds.
const NODE_TIMEOUT: &str = "2000";

/// A running cluster. Dropping it ends its nodes.
pub struct Cluster {
    nodes: Vec<Redis>,
}

impl Cluster {
    /// One of so many masters, each with its share of the slots.
    #[track_caller]
    pub fn of(masters: usize) -> Self {
        let nodes: Vec<Redis> = (0..masters).map(|_| node()).collect();
        for (at, node) in nodes.iter().enumerate() {
            let (first, end) = (at * SLOTS / masters, (at + 1) * SLOTS / masters);
            let (first, last) = (first.to_string(), (end - 1).to_string());
            node.ask(&["CLUSTER", "ADDSLOTSRANGE", &first, &last]);
            // They would all begin with the same one, and settle on an order later.
            node.ask(&["CLUSTER", "SET-CONFIG-EPOCH", &(at + 1).to_string()]);
        }
        let cluster = Self { nodes };
        for node in &cluster.nodes[1..] {
            cluster.meet(node);
        }
        cluster.settles();
        cluster
    }

    /// As `--bus` takes it: by some of its nodes.
    pub fn url(&self) -> String {
        let two = self.nodes[..2].iter().map(|node| format!("127.0.0.1:{}", node.port));
        format!("redis+cluster://{}", two.collect::<Vec<_>>().join(","))
    }

    /// Every node's own URL.
    pub fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(Redis::url).collect()
    }

    /// The node that has a key.
    #[track_caller]
    pub fn owner(&self, key: &str) -> &Redis {
        let slot = self.nodes[0].ask(&["CLUSTER", "KEYSLOT", key]).as_u64().unwrap();
        until("somebody has the slot", SOON, || {
            let ranges = self.living().ask(&["CLUSTER", "SLOTS"]);
            let ranges = ranges.as_array().unwrap();
            let of = |range: &&Value| {
                (range[0].as_u64().unwrap()..=range[1].as_u64().unwrap()).contains(&slot)
            };
            let port = ranges.iter().find(of)?[2][1].as_u64()?;
            self.nodes.iter().find(|node| u64::from(node.port) == port)
        })
    }

    /// A node that has none of the masters' share for a key.
    pub fn stranger(&self, key: &str) -> &Redis {
        let owner = self.owner(key).port;
        self.nodes.iter().find(|node| node.port != owner).unwrap()
    }

    /// Gives the owner of a key a replica, in step with it. Gives the replica's port.
    #[track_caller]
    pub fn replicate(&mut self, key: &str) -> u16 {
        let of = self.owner(key).ask(&["CLUSTER", "MYID"]);
        let replica = node();
        self.meet(&replica);
        let (port, of) = (replica.port, of.as_str().unwrap());
        until("the replica knows its master", SOON, || {
            let nodes = replica.ask(&["CLUSTER", "NODES"]);
            nodes.as_str().unwrap().contains(of).then_some(())
        });
        replica.ask(&["CLUSTER", "REPLICATE", of]);
        replica.is_in_step();
        self.nodes.push(replica);
        self.settles();
        port
    }

    /// The node on this port.
    pub fn node(&self, port: u16) -> &Redis {
        self.nodes.iter().find(|node| node.port == port).unwrap()
    }

    /// Ends a node for good.
    pub fn lose(&mut self, port: u16) {
        self.nodes.retain(|node| node.port != port);
    }

    fn living(&self) -> &Redis {
        &self.nodes[0]
    }

    fn meet(&self, newcomer: &Redis) {
        let config = newcomer.ask(&["CONFIG", "GET", "cluster-port"]);
        let (port, bus) = (newcomer.port.to_string(), config[1].as_str().unwrap().to_owned());
        self.living().ask(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]);
    }

    /// Waits until every node knows all others and finds that every slot has an owner.
    #[track_caller]
    fn settles(&self) {
        let known = format!("cluster_known_nodes:{}\r\n", self.nodes.len());
        for node in &self.nodes {
            until("the cluster is settled", SOON, || {
                let info = node.ask(&["CLUSTER", "INFO"]);
                let info = info.as_str().unwrap();
                (info.contains("cluster_state:ok") && info.contains(&known)).then_some(())
            });
        }
    }
}

fn node() -> Redis {
    let bus = free_port().to_string();
    let cluster = ["--cluster-enabled", "yes", "--cluster-port", &bus];
    let timeout = ["--cluster-node-timeout", NODE_TIMEOUT];
    Redis::with(&[&cluster[..], &timeout].concat(), None)
}
