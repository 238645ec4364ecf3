//! Which node of a Redis Cluster has a key, and which nodes there are: pure.
//!
//! The key of the stream lies in one slot, and one node owns the slot. The nodes are those that serve
//! slots, and their replicas: clients subscribe on any of them.

use std::collections::BTreeSet;

use redis::Value;

/// Slots of a cluster; the number is part of its protocol.
const SLOTS: u16 = 16_384;

/// Host and port.
pub type Address = (String, u16);

/// What a node says of its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    /// The node that has the slot; `None`: nobody has it now.
    pub owner: Option<Address>,
    /// All nodes, this one too.
    pub nodes: BTreeSet<Address>,
}

/// The slot of a key: its checksum, or that of what it has in its first braces.
#[must_use]
pub fn slot(key: &str) -> u16 {
    let tag = key.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map(|(tag, _)| tag);
    let hashed = tag.filter(|tag| !tag.is_empty()).unwrap_or(key);
    checksum(hashed.as_bytes()) % SLOTS
}

/// CRC-16 as XMODEM has it.
fn checksum(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |sum, byte| {
        (0..8).fold(sum ^ (u16::from(*byte) << 8), |sum, _| {
            if sum & 0x8000 == 0 { sum << 1 } else { (sum << 1) ^ 0x1021 }
        })
    })
}

/// What CLUSTER SLOTS says, of the owner of a slot and of all nodes. `asked` is the host whose answer
/// it is: a node that does not know how others reach it leaves its name out. `None`: no such answer.
#[must_use]
pub fn topology(answer: &Value, slot: u16, asked: &str) -> Option<Topology> {
    let Value::Array(ranges) = answer else { return None };
    let mut topology = Topology { owner: None, nodes: BTreeSet::new() };
    for range in ranges {
        let Value::Array(parts) = range else { return None };
        let [Value::Int(first), Value::Int(last), nodes @ ..] = parts.as_slice() else {
            return None;
        };
        let mut nodes = nodes.iter().map(|node| address(node, asked));
        // The first of them owns the slots, the others have copies.
        let owner = nodes.next()??;
        if let Some(owner) = &owner
            && (*first..=*last).contains(&i64::from(slot))
        {
            topology.owner = Some(owner.clone());
        }
        topology.nodes.extend(owner);
        for copy in nodes {
            topology.nodes.extend(copy?);
        }
    }
    Some(topology)
}

/// Where a node is; `Some(None)`: nowhere, it has no port for us.
#[expect(clippy::option_option, reason = "no answer of this kind, and one that names no port")]
fn address(node: &Value, asked: &str) -> Option<Option<Address>> {
    let Value::Array(parts) = node else { return None };
    let [host, Value::Int(port), ..] = parts.as_slice() else { return None };
    let host = match host {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok()?,
        Value::SimpleString(text) => text,
        Value::Nil => "",
        _ => return None,
    };
    let host = if matches!(host, "" | "?") { asked } else { host };
    let port = u16::try_from(*port).ok()?;
    Some((port > 0).then(|| (host.to_owned(), port)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_the_slots_that_redis_gives_them() {
        assert_eq!(checksum(b"123456789"), 0x31c3);
        // As CLUSTER KEYSLOT of Redis 7.0 answers.
        for (key, of) in [
            ("", 0),
            ("socket.io", 9972),
            ("foo", 12182),
            ("somekey", 11058),
            ("a{foo}b{c}", 12182),
            ("a{}foo", 16292),
            ("{foo", 13308),
        ] {
            assert_eq!(slot(key), of, "{key}");
        }
    }

    fn node(host: Value, port: i64) -> Value {
        let id = Value::BulkString(b"0123".to_vec());
        Value::Array(vec![host, Value::Int(port), id, Value::Array(vec![])])
    }

    fn named(host: &str, port: i64) -> Value {
        node(Value::BulkString(host.as_bytes().to_vec()), port)
    }

    fn range(first: i64, last: i64, nodes: Vec<Value>) -> Value {
        Value::Array([vec![Value::Int(first), Value::Int(last)], nodes].concat())
    }

    fn at(host: &str, port: u16) -> Address {
        (host.to_owned(), port)
    }

    #[test]
    fn the_owner_of_a_slot_and_all_nodes_are_read() {
        let answer = Value::Array(vec![
            range(0, 99, vec![named("a", 1), named("b", 2)]),
            range(100, 199, vec![node(Value::Nil, 3), named("", 4), named("?", 5)]),
            range(300, 300, vec![named("a", 1), named("c", 0)]),
        ]);
        let of = |slot| topology(&answer, slot, "asked").expect("an answer");
        let nodes = [at("a", 1), at("asked", 3), at("asked", 4), at("asked", 5), at("b", 2)];
        assert_eq!(of(0).nodes, BTreeSet::from(nodes));
        for (slot, owner) in [
            (99, Some(at("a", 1))),
            (100, Some(at("asked", 3))),
            (200, None),
            (300, Some(at("a", 1))),
        ] {
            assert_eq!(of(slot).owner, owner, "{slot}");
        }
    }

    #[test]
    fn other_answers_are_none() {
        let wrong = [
            Value::Nil,
            Value::Array(vec![Value::Int(1)]),
            Value::Array(vec![range(0, 1, vec![])]),
            Value::Array(vec![range(0, 1, vec![Value::Int(1)])]),
            Value::Array(vec![range(0, 1, vec![named("a", 70_000)])]),
        ];
        for answer in wrong {
            assert_eq!(topology(&answer, 0, "asked"), None, "{answer:?}");
        }
    }
}
