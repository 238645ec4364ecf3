//! Bun and Deno in Node's place: the worker of the Socket.IO documentation runs on them, on the
//! hand-off that they know, and what they cannot do is said before anything is tried.

use crate::both_engines;
use crate::harness::http::free_port;
use crate::harness::{Builder, Engine, Random, Router, client, node, shares};
use serde_json::{Value, json};
use std::collections::BTreeSet;

fn bun(engine: Engine) -> Builder {
    Router::on(engine).interpreter(&node::bun())
}

/// Deno neither asks for its updates nor colours what it prints.
fn deno(engine: Engine) -> Builder {
    let deno = Router::on(engine).interpreter(&node::deno());
    deno.env("DENO_NO_UPDATE_CHECK", 1).env("NO_COLOR", 1)
}

/// Clients that poll and clients that upgrade, packets between the workers, a long body.
fn serves(builder: Builder, name: &str, serialization: &str) {
    let mut random = Random::new();
    let mut router = builder.start();
    let starts = router.event("router starts");
    assert_eq!(starts.string("handoff"), Some("ipc"));
    assert_eq!(starts.string("serialization"), Some(serialization));
    let said = router.log.text().matches(&format!("workers on {name} run without")).count();
    assert_eq!(said, 1, "what {name} does without is said in one line");

    let seen = client("connects", &router.url(), &json!({ "clients": 12, "stay": 300 }));
    assert_eq!(shares(&seen), [6, 6], "{seen}");
    let transports = seen["transports"].as_array().unwrap();
    let upgraded = transports.iter().filter(|t| *t == "websocket").count();
    assert_eq!(upgraded, 6, "half of them upgrade: {seen}");
    client("emit_reaches_all", &router.url(), &json!({ "clients": 12, "binary": false }));

    let body = random.bytes(300_000);
    for _ in 0..4 {
        let answer = router.connect().post("/echo", &body);
        assert_eq!(answer.status, 200);
        assert!(answer.body == body, "the body came back different");
    }
    let gone = router.log.lines().iter().any(|l| l.string("level") == Some("WARN"));
    assert!(!gone, "no worker was lost on the way");
    let (status, _) = router.stop();
    assert!(status.success(), "{status}");
}

both_engines! {
    fn bun_serves_with_sticky_1(engine) {
        serves(bun(engine).env("STICKY", 1), "Bun", "json");
    }

    fn bun_serves_with_sticky_2(engine) {
        serves(bun(engine).env("STICKY", 2), "Bun", "json");
    }

    fn deno_serves_with_sticky_2(engine) {
        serves(deno(engine).env("STICKY", 2), "Deno", "advanced");
    }

    fn deno_gets_the_port_it_listens_on_from_the_router(engine) {
        let port = free_port();
        let router = deno(engine).app("listen").no_listen().env("LISTEN", json!([port])).start();
        assert_eq!(router.port(), port);
        let pids: BTreeSet<u32> = (0..20)
            .map(|_| {
                let answer: Value = serde_json::from_slice(&router.get("/").body).unwrap();
                answer["pid"].as_u64().unwrap() as u32
            })
            .collect();
        assert_eq!(pids, router.pids().into_iter().collect(), "both workers answer");
    }

    fn deno_serves_over_json(engine) {
        serves(deno(engine).option("--serialization", "json"), "Deno", "json");
    }
}

/// What they cannot do is refused before an engine is chosen: one of the two is enough.
fn some_engine() -> Engine {
    if Engine::Uring.wanted() { Engine::Uring } else { Engine::Portable }
}

#[test]
fn what_bun_and_deno_cannot_do_is_an_error_with_advice() {
    let engine = some_engine();
    for (builder, parts) in [
        (bun(engine).option("--serialization", "advanced"), ["Bun", "json"]),
        (bun(engine).option("--handoff", "lane"), ["Bun", "leave --handoff at auto"]),
        (deno(engine).option("--handoff", "lane"), ["Deno", "leave --handoff at auto"]),
        (deno(engine).arg("--proxy-protocol"), ["Deno", "--interpreter node"]),
    ] {
        let (status, text) = builder.fails();
        assert_eq!(status.code(), Some(2), "{text}");
        for part in parts {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
