//! Connections whose session the router cannot read: TLS on an application's own port, where a
//! client's address stands for its sessions, and `--sticky ip` for whatever else is not HTTP.

use crate::both_engines;
use crate::harness::http::{free_port, request};
use crate::harness::{
    Builder, Connection, Engine, PlainNode, Router, SOON, TempDir, client, node, repository,
    shares, until,
};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A key and a certificate signed by itself, which nobody trusts: in the repository, since not every
/// machine has a program that makes them.
struct Identity;

impl Identity {
    fn key(&self) -> PathBuf {
        repository().join("tests/node/tls/for-tests-only-key.pem")
    }

    fn certificate(&self) -> PathBuf {
        repository().join("tests/node/tls/for-tests-only-certificate.pem")
    }
}

fn path() -> PathBuf {
    repository().join("tests/node/apps/plain/peer.js")
}

/// The HTTPS application under the router, and its URL.
fn secure(
    engine: Engine,
    identity: &Identity,
    more: impl FnOnce(Builder) -> Builder,
) -> (Router, u16) {
    let port = free_port();
    let router = Router::on(engine)
        .path(&path())
        .no_listen()
        .env("PORT", port)
        .env("TLS_KEY", identity.key().display())
        .env("TLS_CERT", identity.certificate().display());
    (more(router).start(), port)
}

fn https(port: u16) -> String {
    format!("https://127.0.0.1:{port}")
}

#[test]
fn the_https_application_of_these_tests_does_what_it_should_on_node() {
    let identity = Identity;
    let dir = TempDir::new();
    let app = dir.write(
        "app.js",
        &format!(
            "process.env.TLS_KEY = {:?};\nprocess.env.TLS_CERT = {:?};\nrequire({:?});\n",
            identity.key(),
            identity.certificate(),
            path()
        ),
    );
    let port = free_port();
    let interpreter: Option<&Path> = node::interpreter();
    let _node = PlainNode::start(interpreter, &app, &[("PORT", port)], &[port]);
    client("tls_polling_sticks", &https(port), &json!({}));
    client("tls_clients", &https(port), &json!({}));
}

both_engines! {
    fn sessions_stick_over_tls_though_nobody_can_read_them(engine) {
        let identity = Identity;
        for how in [&["--handoff", "lane"][..], &["--handoff", "ipc"], &["--threads", "2"]] {
            let (_router, port) = secure(engine, &identity, |mut router| {
                for word in how {
                    router = router.arg(word);
                }
                router
            });
            client("tls_polling_sticks", &https(port), &json!({}));
        }
    }

    fn polling_clients_and_web_sockets_work_over_tls(engine) {
        let identity = Identity;
        let (router, port) = secure(engine, &identity, |router| router.workers(3));
        let workers = router.slots();
        let seen = client("tls_clients", &https(port), &json!({}));
        let transports = seen["transports"].as_array().unwrap();
        assert_eq!(transports.iter().filter(|t| *t == "websocket").count(), 4, "{seen}");
        // One address, one worker: whoever polls must find it again.
        assert_eq!(shares(&seen), [8], "{seen}");
        assert_eq!(router.slots(), workers);
    }

    fn a_proxy_s_word_decides_for_tls_too(engine) {
        let identity = Identity;
        let (_router, port) = secure(engine, &identity, |router| router.arg("--proxy-protocol"));
        let worker = |n: usize| {
            let mut child = Command::new("node")
                .arg("-e")
                .arg(BEHIND_A_HEADER)
                .arg(format!("203.0.113.{n}"))
                .arg(port.to_string())
                .stdin(Stdio::null())
                .output()
                .expect("node is on PATH");
            let text = String::from_utf8(std::mem::take(&mut child.stdout)).unwrap();
            let error = String::from_utf8_lossy(&child.stderr);
            assert!(child.status.success(), "{error}{text}");
            let seen: Vec<Value> = serde_json::from_str(&text).unwrap();
            let pids: BTreeSet<u64> = seen.iter().map(|s| s["pid"].as_u64().unwrap()).collect();
            assert_eq!(pids.len(), 1, "203.0.113.{n}: {text}");
            for (k, one) in seen.iter().enumerate() {
                assert_eq!(one["address"], format!("203.0.113.{n}"), "{one}");
                assert_eq!(one["port"], 1000 + k, "{one}");
            }
            pids.into_iter().next().unwrap()
        };
        let used: BTreeSet<u64> = (1..=10).map(worker).collect();
        assert_eq!(used.len(), 2, "addresses are spread");
    }

    fn plain_http_on_a_tls_port_is_the_applications_to_refuse(engine) {
        let identity = Identity;
        let (router, port) = secure(engine, &identity, |router| router);
        let mut plain = Connection::tcp(port);
        plain.send(request("GET", "/", b""));
        let rest = plain.rest();
        assert!(!rest.starts_with(b"HTTP/1.1 200"), "{:?}", String::from_utf8_lossy(&rest));
        client("tls_polling_sticks", &https(port), &json!({ "sessions": 1, "requests": 2 }));
        drop(router);
    }

    fn with_sticky_ip_one_address_is_one_worker_and_several_are_spread(engine) {
        for threads in [1, 2] {
            for kind in ["net", "echo"] {
                let port = free_port();
                let all = json!([{ "kind": kind, "where": port }]);
                let router = Router::on(engine)
                    .app("servers")
                    .no_listen()
                    .env("SERVERS", all)
                    .option("--sticky", "ip")
                    .option("--threads", threads)
                    .start();
                let addresses: Vec<String> = (1..=24).map(|n| format!("127.0.0.{n}")).collect();
                let speaks = kind == "echo";
                let options = json!({ "addresses": addresses, "each": 4, "speaks": speaks });
                let seen = client("greetings", &format!("http://127.0.0.1:{port}"), &options);
                let mut used = BTreeSet::new();
                for (address, lines) in serde_json::from_value::<Vec<(String, Vec<String>)>>(seen).unwrap() {
                    let pids: BTreeSet<u64> = lines
                        .iter()
                        .map(|line| {
                            let line = line.lines().next().unwrap();
                            let seen: Value = serde_json::from_str(line).unwrap();
                            seen["pid"].as_u64().unwrap()
                        })
                        .collect();
                    assert_eq!(pids.len(), 1, "{kind}, {threads} threads: {address}");
                    used.extend(pids);
                }
                assert_eq!(used.len(), 2, "{kind}, {threads} threads: addresses are spread");
                drop(router);
            }
        }
    }

    fn with_sticky_ip_readable_sessions_still_find_their_workers(engine) {
        let port = free_port();
        let router = Router::on(engine)
            .path(&path())
            .no_listen()
            .env("PORT", port)
            .option("--sticky", "ip")
            .start();
        until("the application listens", SOON, || Connection::connects(port).then_some(()));
        let failures = crate::harness::polling::many(20, 4, |_| {
            let session = crate::harness::Session::open(port)?;
            session.join()?;
            let first = session.pid()?;
            if session.pid()? == first { Ok(()) } else { Err("it moved".to_owned()) }
        });
        assert!(failures.is_empty(), "{failures:?}");
        drop(router);
    }
}

/// Five connections, each a header of version 1 and then TLS; prints what the pages say.
const BEHIND_A_HEADER: &str = r#"
const net = require('net');
const http = require('http');
const tls = require('tls');
const [address, port] = process.argv.slice(1);
const one = (n) => new Promise((resolve, reject) => {
  const socket = net.connect(+port, '127.0.0.1', () => {
    socket.write(`PROXY TCP4 ${address} 192.0.2.1 ${1000 + n} 443\r\n`);
    const createConnection = () => tls.connect({ socket, rejectUnauthorized: false });
    // HTTP over a socket that is TLS already.
    http.get({ path: '/', createConnection }, (res) => {
      let text = '';
      res.on('data', (chunk) => (text += chunk)).on('end', () => resolve(JSON.parse(text)));
    }).on('error', reject);
  });
  socket.on('error', reject);
});
setTimeout(() => process.exit(3), 15000).unref();
Promise.all([0, 1, 2, 3, 4].map(one)).then((all) => console.log(JSON.stringify(all)) || process.exit(0));
"#;
