//! Several hosts on one Redis. A "host" is a router with its workers on an address of the loopback, or
//! plain Node on the official adapter.

mod codec;
mod failover;
mod faults;
mod hosts;
mod secrets;

use crate::harness::http::free_port;
use crate::harness::process::signal;
use crate::harness::{
    Builder, Connection, Engine, PlainNode, Redis, Router, SOON, fixture, node, repository, until,
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// The two addresses that two hosts have.
const HERE: &str = "127.0.0.1";
const THERE: &str = "127.0.0.2";

/// A router of two workers that run an unchanged application, on this address, joined by this Redis.
fn host(engine: Engine, address: &str, redis: &Redis) -> Builder {
    host_on(engine, address, &redis.url())
}

fn host_on(engine: Engine, address: &str, bus: &str) -> Builder {
    let (listen, admin) = (format!("{address}:0"), format!("127.0.0.1:{}", free_port()));
    on_bus(engine, bus).listen(&listen).option("--admin", admin)
}

fn on_bus(engine: Engine, bus: &str) -> Builder {
    unchanged(engine).option("--bus", bus)
}

fn on_bus_by_variable(engine: Engine, bus: &str) -> Builder {
    let admin = format!("127.0.0.1:{}", free_port());
    unchanged(engine).option("--admin", admin).env("ROUTER_BUS", bus)
}

fn unchanged(engine: Engine) -> Builder {
    Router::on(engine).path(&repository().join("tests/node/apps/plain/http.js"))
}

/// Two of them.
fn two_hosts(engine: Engine, redis: &Redis) -> (Router, Router) {
    (host(engine, HERE, redis).start(), host(engine, THERE, redis).start())
}

/// A host of plain Node on the official adapter, and where it is.
fn plain_host(redis: &Redis) -> (PlainNode, String) {
    plain_host_on(&redis.url())
}

fn plain_host_on(redis: &str) -> (PlainNode, String) {
    let port = free_port();
    let environment = [("PORT", port.to_string()), ("REDIS", redis.to_owned())];
    let plain = PlainNode::start(node::interpreter(), &fixture("streams"), &environment, &[port]);
    (plain, format!("http://127.0.0.1:{port}"))
}

/// Hosts and their servers, as the scenarios take them.
fn hosts(all: &[(&str, usize)]) -> Value {
    all.iter().map(|(url, servers)| json!({ "url": url, "servers": servers })).collect()
}

/// What a router says of itself.
fn status(router: &Router) -> Value {
    let line = router.event("admin listens");
    let port = line.string("address").unwrap().rsplit_once(':').unwrap().1.parse().unwrap();
    let answer = Connection::tcp(port).get("/status");
    serde_json::from_slice(&answer.body).unwrap()
}

/// Waits until a router has counted so many.
#[track_caller]
fn counted(router: &Router, counter: &str, n: u64) {
    until(counter, SOON, || {
        let now = status(router)["totals"][counter].as_u64().unwrap();
        (now >= n).then_some(())
    });
}

/// A client that sends numbered packets when it is told to, and knows who got which.
struct Numbered {
    child: Child,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Numbered {
    fn start(hosts: &Value, count: usize) -> Self {
        let mut child = Command::new("node")
            .arg(repository().join("tests/node/clients/run.js"))
            .args(["numbered", "-", &json!({ "hosts": hosts, "count": count }).to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("node is on PATH");
        let (ask, answers) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { child, ask, answers: BufReader::new(answers) }
    }

    /// Sends until so many have been sent.
    #[track_caller]
    fn send_up_to(&mut self, n: usize) {
        writeln!(self.ask, "{n}").unwrap();
        assert_eq!(self.line()["sent"], n);
    }

    /// Waits until each receiver has the last that was sent.
    #[track_caller]
    fn until_heard(&mut self) {
        writeln!(self.ask, "heard").unwrap();
        let line = self.line();
        assert!(line["heard"].is_number(), "it said {line}");
    }

    /// How many each receiver got, in order, none twice.
    #[track_caller]
    fn received(&mut self) -> Vec<usize> {
        self.end()["received"].as_array().unwrap().iter().map(number).collect()
    }

    /// Which each receiver did not get; the others came in order, none twice.
    #[track_caller]
    fn missing(&mut self) -> Vec<Vec<usize>> {
        let gap = |gap: &Value| number(&gap[0])..=number(&gap[1]);
        let of = |receiver: &Value| receiver.as_array().unwrap().iter().flat_map(gap).collect();
        self.end()["missing"].as_array().unwrap().iter().map(of).collect()
    }

    #[track_caller]
    fn end(&mut self) -> Value {
        let seen = self.line();
        assert!(self.child.wait().unwrap().success());
        seen
    }

    #[track_caller]
    fn line(&mut self) -> Value {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("it said {line:?}: {e}"))
    }
}

fn number(value: &Value) -> usize {
    value.as_u64().unwrap() as usize
}

impl Drop for Numbered {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            signal(self.child.id(), Signal::SIGKILL);
            let _ended = self.child.wait();
        }
    }
}
