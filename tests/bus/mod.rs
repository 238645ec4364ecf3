//! Several hosts on one Redis. A "host" is a router with its workers on an address of the loopback, or
//! plain Node on the official adapter.

mod faults;
mod hosts;

use crate::harness::http::free_port;
use crate::harness::{Builder, Engine, PlainNode, Redis, Router, fixture, node, repository};
use serde_json::{Value, json};

/// A router of two workers that run an unchanged application, on this address, joined by this Redis.
fn host(engine: Engine, address: &str, redis: &Redis) -> Builder {
    let app = repository().join("tests/node/apps/plain/http.js");
    Router::on(engine).path(&app).listen(&format!("{address}:0")).option("--bus", redis.url())
}

/// The two addresses that two hosts have.
const HERE: &str = "127.0.0.1";
const THERE: &str = "127.0.0.2";

/// A host of plain Node on the official adapter, and where it is.
fn plain_host(redis: &Redis) -> (PlainNode, String) {
    let port = free_port();
    let environment = [("PORT", port.to_string()), ("REDIS", redis.url())];
    let environment: Vec<(&str, &str)> =
        environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let plain = PlainNode::start(node::interpreter(), &fixture("streams"), &environment, &[port]);
    (plain, format!("http://127.0.0.1:{port}"))
}

/// Hosts, as the scenarios take them.
fn hosts(all: &[(&str, usize)]) -> Value {
    json!(
        all.iter()
            .map(|(url, servers)| json!({ "url": url, "servers": servers }))
            .collect::<Vec<_>>()
    )
}
