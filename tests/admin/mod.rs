//! The admin address: probes, status, metrics, and the page that shows them.

mod openmetrics;
mod page;

use crate::both_engines;
use crate::harness::{
    Connection, Engine, Router, SOON, Session, TempDir, client, process, repository, until,
};
use nix::sys::signal::Signal;
use openmetrics::Metrics;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::TcpListener;

/// Clients of the admin address that it must not mind.
const NUISANCES: usize = 50;

pub fn port(router: &Router) -> u16 {
    let address = router.event("admin listens").string("address").unwrap().to_owned();
    address.rsplit_once(':').unwrap().1.parse().unwrap()
}

#[track_caller]
fn status(port: u16) -> Value {
    let answer = Connection::tcp(port).get("/status");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    serde_json::from_str(&answer.text()).unwrap()
}

#[track_caller]
fn metrics(port: u16) -> Metrics {
    // As Prometheus asks.
    let accept = "application/openmetrics-text;version=1.0.0;q=0.8, text/plain;version=0.0.4;q=0.3";
    let mut connection = Connection::tcp(port);
    connection.send(format!("GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\n\r\n"));
    let answer = connection.response();
    assert!(answer.header("content-type").unwrap().starts_with("application/openmetrics-text"));
    Metrics::parse(&answer.text())
}

/// A Redis that is not there: the bus is told of all the same.
const NOBODY: &str = "redis://127.0.0.1:1";

/// The README's table of metrics: name, type, meaning.
fn in_readme() -> BTreeMap<String, (String, String)> {
    let readme = std::fs::read_to_string(repository().join("README.md")).unwrap();
    let rows = readme.lines().filter_map(|line| line.strip_prefix("| `router_"));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let [name, kind, meaning, ""] = cells[..] else { panic!("{row}") };
        let name = name.split('`').next().unwrap();
        let name = name.strip_suffix("_total").unwrap_or(name);
        (format!("router_{name}"), (kind.to_owned(), meaning.to_owned()))
    })
    .collect()
}

both_engines! {
    fn how_it_stands_is_told(engine) {
        let router = Router::on(engine).option("--admin", "127.0.0.1:0").start();
        let (workers, admin) = (router.slots(), port(&router));
        let get = |path: &str| Connection::tcp(admin).get(path);
        assert_eq!((get("/healthz").status, get("/healthz").text()), (200, "ok\n".to_owned()));
        let ready = get("/readyz");
        assert_eq!((ready.status, ready.text()), (200, "2 of 2 workers ready\n".to_owned()));
        assert_eq!(get("/nothing").status, 404);
        assert_eq!(Connection::tcp(admin).post("/metrics", b"x").status, 405);

        let before = metrics(admin);
        for _ in 0..3 {
            Session::open(router.port()).unwrap();
        }
        // A worker has a connection some moments before the router knows that it has.
        let seen = until("three are taken", SOON, || {
            let seen = status(admin);
            (seen["totals"]["handed_off"] == 3).then_some(seen)
        });
        assert_eq!(seen["engine"], engine.name());
        assert_eq!(seen["listening"], json!([format!("127.0.0.1:{}", router.port())]));
        assert_eq!((&seen["wanted"], &seen["reloading"]), (&json!(2), &json!(false)));
        assert_eq!(seen["process"]["pid"], router.pid());
        assert_eq!(seen["totals"]["handed_off_balanced"], 3);
        let told = seen["workers"].as_array().unwrap();
        assert_eq!(told.len(), 2);
        for worker in told {
            assert_eq!(worker["state"], "ready");
            assert_eq!(worker["pid"], workers[&worker["slot"].as_u64().unwrap()]);
            assert!(worker["memory"].as_u64().unwrap() > 1 << 20, "{worker}");
        }
        let now = metrics(admin);
        let grown = |name: &str| now.sum(name) - before.sum(name);
        assert!((grown("router_connections_accepted_total") - 3.0).abs() < 0.1, "{now:?}");
        for name in [
            "router_connections_handed_off_total",
            "router_worker_connections_handed_off_total",
            "router_handoff_latency_seconds_count",
        ] {
            assert!((grown(name) - 3.0).abs() < 0.1, "{name}: {now:?}");
        }
        assert!(grown("router_handoff_latency_seconds_sum") > 0.0, "{now:?}");
        assert!((now.value(r#"router_workers{state="ready"}"#) - 2.0).abs() < 0.1);
        let sessions = |slot: u64| {
            let name = format!(r#"router_worker_sessions{{slot="{slot}",generation="1"}}"#);
            metrics(admin).value(&name)
        };
        until("both have some", SOON, || (sessions(0) + sessions(1) > 2.9).then_some(()));
    }

    fn a_probe_is_answered_beside_many_that_say_nothing(engine) {
        let router = Router::on(engine).option("--admin", "127.0.0.1:0").start();
        let admin = port(&router);
        // Eight times as many as have a place.
        let silent: Vec<_> = (0..512)
            .map(|_| std::net::TcpStream::connect(("127.0.0.1", admin)).unwrap())
            .collect();
        assert_eq!(Connection::tcp(admin).get("/healthz").status, 200);
        drop(silent);
    }

    fn every_metric_is_in_the_readme_as_it_is_told(engine) {
        let router = Router::on(engine).option("--admin", "127.0.0.1:0").option("--bus", NOBODY);
        let router = router.start();
        client("connects", &router.url(), &json!({}));
        assert_eq!(metrics(port(&router)).families, in_readme(), "left is told, right is the README");
    }

    fn who_does_not_ask_for_openmetrics_gets_the_older_text(engine) {
        let router = Router::on(engine).option("--admin", "127.0.0.1:0").start();
        client("connects", &router.url(), &json!({}));
        let answer = Connection::tcp(port(&router)).get("/metrics");
        assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
        let older = Metrics::parse_older(&answer.text());
        let newer = metrics(port(&router));
        assert_eq!(older.families, newer.families);
        assert!(older.values.keys().eq(newer.values.keys()), "{older:?} {newer:?}");
    }

    fn it_is_ready_only_while_a_worker_is(engine) {
        let directory = TempDir::new();
        let mode = directory.path().join("mode");
        std::fs::write(&mode, "never").unwrap();
        let router = Router::steady(engine)
            .option("--admin", "127.0.0.1:0")
            .option("--listen-timeout", "60s")
            .env("MODE_FILE", mode.display())
            .spawn();
        let admin = port(&router);
        let ready = Connection::tcp(admin).get("/readyz");
        assert_eq!((ready.status, ready.text()), (503, "0 of 2 workers ready\n".to_owned()));
        assert_eq!(Connection::tcp(admin).get("/healthz").status, 200);
        let states = status(admin);
        assert_eq!(states["workers"][0]["state"], "starting", "{states}");
    }

    fn an_empty_slot_has_a_line_and_restarts_and_reloads_are_counted(engine) {
        let directory = TempDir::new();
        let mode = directory.path().join("mode");
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let router = Router::steady(engine)
            .option("--admin", free)
            .option("--max-restarts", 1)
            .option("--min-uptime", "1h")
            .env("MODE_FILE", mode.display())
            .start();
        let admin = port(&router);
        let restarts = |slot: u64| {
            let name = format!(r#"router_worker_restarts_total{{slot="{slot}"}}"#);
            metrics(admin).value(&name) as u64
        };
        assert_eq!((restarts(0), restarts(1)), (0, 0));
        std::fs::write(&mode, "exit 3").unwrap();
        process::signal(router.slots()[&0], Signal::SIGKILL);
        let errored = until("its slot is given up", SOON, || {
            let line = status(admin)["workers"][0].clone();
            (line["state"] == "errored").then_some(line)
        });
        assert_eq!((&errored["slot"], &errored["generation"]), (&json!(0), &json!(2)), "{errored}");
        assert_eq!((&errored["pid"], &errored["memory"]), (&json!(0), &json!(0)), "{errored}");
        assert_eq!((&errored["restarts"], restarts(0), restarts(1)), (&json!(1), 1, 0));
        let now = metrics(admin);
        assert_eq!(now.value(r#"router_workers{state="errored"}"#) as u64, 1);
        assert_eq!(now.value(r#"router_workers{state="ready"}"#) as u64, 1);

        router.signal(Signal::SIGHUP);
        router.event("reload failed");
        std::fs::remove_file(&mode).unwrap();
        router.signal(Signal::SIGHUP);
        router.event("reload done");
        let reloads = |seen: Value| (seen["reloads"]["done"].clone(), seen["reloads"]["failed"].clone());
        assert_eq!(reloads(status(admin)), (json!(1), json!(1)));
        let counted = (restarts(0), restarts(1));
        assert!(counted.0 >= 2 && counted.1 >= 1, "{counted:?}");
        router.signal(Signal::SIGUSR2);
        router.event("upgraded");
        assert_eq!(reloads(status(admin)), (json!(1), json!(1)));
        assert_eq!((restarts(0), restarts(1)), counted);
    }

    fn a_slot_whose_worker_is_started_later_waits(engine) {
        let router = Router::on(engine)
            .option("--admin", "127.0.0.1:0")
            .option("--restart-delay", "1h")
            .start();
        let admin = port(&router);
        process::signal(router.slots()[&1], Signal::SIGKILL);
        let waits = until("its line", SOON, || {
            let line = status(admin)["workers"][1].clone();
            (line["pid"] == 0).then_some(line)
        });
        assert_eq!(waits["state"], "waiting", "{waits}");
        assert_eq!((&waits["generation"], &waits["restarts"]), (&json!(1), &json!(0)));
    }

    fn clients_that_hang_or_talk_nonsense_keep_nobody_away(engine) {
        let router = Router::on(engine).option("--admin", "127.0.0.1:0").start();
        let admin = port(&router);
        let nuisances: Vec<Connection> = (0..NUISANCES)
            .map(|n| {
                let mut nuisance = Connection::tcp(admin);
                nuisance.send(match n % 3 {
                    0 => &b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03"[..],
                    1 => b"GET /metrics HTTP/1.1\r\nX: ",
                    _ => b"\xff",
                });
                nuisance
            })
            .collect();
        assert_eq!(Connection::tcp(admin).get("/healthz").status, 200);
        assert!(!metrics(admin).families.is_empty());
        drop(nuisances);
        assert_eq!(router.slots().len(), 2);
    }

    fn it_answers_on_after_an_upgrade(engine) {
        // Of its own choice it would have another port each time.
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let router = Router::on(engine).option("--admin", free).start();
        let admin = port(&router);
        Session::open(router.port()).unwrap();
        // Its client may be answered before the router has counted it.
        let before = until("the hand-off", SOON, || {
            let seen = status(admin);
            (seen["totals"]["handed_off"] == 1).then_some(seen)
        });
        router.signal(Signal::SIGUSR2);
        router.event("upgraded");
        let after = status(admin);
        assert_eq!(after["process"]["pid"], before["process"]["pid"]);
        assert_eq!(after["totals"]["handed_off"], before["totals"]["handed_off"]);
        let pids = |seen: &Value| -> Vec<Value> {
            seen["workers"].as_array().unwrap().iter().map(|w| w["pid"].clone()).collect()
        };
        assert_eq!(pids(&after), pids(&before));
    }
}

#[test]
fn a_unix_socket_will_do_and_goes_with_the_router() {
    let directory = TempDir::new();
    let path = directory.path().join("admin");
    let address = format!("unix:{}", path.display());
    let mut router = Router::on(Engine::Portable).option("--admin", &address).start();
    assert_eq!(Connection::unix(&path).get("/readyz").status, 200);
    router.stop();
    assert!(!path.exists());
}

#[test]
fn an_address_that_cannot_be_had_is_an_error() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let (status, text) = Router::on(Engine::Portable).option("--admin", address).fails();
    assert_eq!(status.code(), Some(1));
    assert!(text.contains("--admin") && text.contains("in use"), "{text}");
    let (status, text) = Router::on(Engine::Portable).option("--admin", "nonsense").fails();
    assert_eq!(status.code(), Some(2));
    assert!(text.contains("--admin") && text.contains("no port"), "{text}");
}
