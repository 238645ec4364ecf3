//! Applications under Node's own cluster: they call `listen`, the router opens the port.

use crate::both_engines;
use crate::harness::http::free_port;
use crate::harness::process::cpu_time;
use crate::harness::{Builder, Connection, Engine, Router, SOON, TempDir, until};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::time::Duration;

/// The plain HTTP application on these ports or paths.
fn listens(engine: Engine, on: &Value) -> Builder {
    Router::on(engine).app("listen").no_listen().env("LISTEN", on)
}

fn get(port: u16, target: &str) -> Value {
    let answer = Connection::tcp(port).get(target);
    assert_eq!(answer.status, 200, "{answer:?}");
    serde_json::from_slice(&answer.body).unwrap()
}

fn answered_by(port: u16, times: usize) -> BTreeSet<u64> {
    (0..times).map(|_| get(port, "/")["pid"].as_u64().unwrap()).collect()
}

/// A line of JSON that a worker printed and that has this key.
fn printed(router: &Router, key: &str) -> Value {
    router.output(key, |line| {
        let value: Value = serde_json::from_str(line).ok()?;
        value.get(key)?;
        Some(value)
    })
}

both_engines! {
    fn an_application_gets_the_port_it_listens_on(engine) {
        let port = free_port();
        let router = listens(engine, &json!([port])).start();
        let all: BTreeSet<u64> = router.pids().into_iter().map(u64::from).collect();
        assert_eq!(answered_by(port, 20), all, "both workers answer");
    }

    fn any_port_is_one_port_for_all_workers(engine) {
        let router = listens(engine, &json!([0])).start();
        let port = router.port();
        assert_eq!(answered_by(port, 20).len(), 2);
        assert_eq!(printed(&router, "listening")["listening"]["port"], port);
    }

    fn a_worker_may_have_several_servers(engine) {
        let (first, second) = (free_port(), free_port());
        let _router = listens(engine, &json!([first, second])).start();
        until("the second is open", SOON, || Connection::connects(second).then_some(()));
        for _ in 0..8 {
            assert_eq!(get(first, "/")["index"], 0);
            assert_eq!(get(second, "/")["index"], 1);
        }
    }

    fn a_port_in_use_is_the_servers_error_event(engine) {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let router = listens(engine, &json!([port])).env("HOST", "127.0.0.1").spawn();
        assert_eq!(printed(&router, "error")["error"], "EADDRINUSE");
    }

    fn a_unix_socket_path_is_listened_on(engine) {
        let dir = TempDir::new();
        let path = dir.path().join("app.sock");
        let router = listens(engine, &json!([path])).start();
        let answer = Connection::unix(&path).get("/");
        let seen: Value = serde_json::from_slice(&answer.body).unwrap();
        let pid = seen["pid"].as_u64().unwrap();
        assert!(router.pids().iter().any(|p| u64::from(*p) == pid));
    }

    fn listen_overrides_the_applications_port(engine) {
        let unused = free_port();
        let router = listens(engine, &json!([unused])).listen("127.0.0.1:0").start();
        assert_eq!(answered_by(router.port(), 20).len(), 2);
        assert!(!Connection::connects(unused), "the application's own port stays closed");
    }

    fn a_worker_that_disconnects_answers_what_it_has_and_is_replaced(engine) {
        let port = free_port();
        let router = listens(engine, &json!([port])).start();
        let gone = get(port, "/disconnect")["pid"].as_u64().unwrap();
        assert_eq!(printed(&router, "disconnected")["disconnected"], true);
        for _ in 0..20 {
            assert_ne!(get(port, "/")["pid"].as_u64().unwrap(), gone);
        }
        router.replaced(gone as u32);
    }

    fn a_refused_connection_goes_to_another_worker(engine) {
        let port = free_port();
        let router = listens(engine, &json!([port])).env("MAX_CONNECTIONS", 1).start();
        // Two at once fill both workers, whichever is tried first.
        let mut busy = Connection::tcp(port);
        busy.send("GET /?ms=1500 HTTP/1.1\r\nHost: x\r\n\r\n");
        let quick = get(port, "/")["pid"].as_u64();
        let slow: Value = serde_json::from_slice(&busy.response().body).unwrap();
        assert_ne!(slow["pid"].as_u64(), quick);
        drop(router);
    }

    fn refusals_by_all_workers_neither_spin_nor_lose_the_client(engine) {
        let port = free_port();
        let router = listens(engine, &json!([port])).env("MAX_CONNECTIONS", 1).start();
        let mut held: Vec<Connection> = (0..2).map(|_| Connection::tcp(port)).collect();
        for connection in &mut held {
            connection.send("GET /?ms=2000 HTTP/1.1\r\nHost: x\r\n\r\n");
        }
        // Both have their places before the third comes.
        let holds = router.log.find(SOON, |lines| {
            let said = lines.iter().filter_map(|line| line.worker_output());
            (said.filter(|said| said.contains("holds")).count() == 2).then_some(())
        });
        holds.expect("both workers are full");
        let mut waiting = Connection::tcp(port);
        let before = cpu_time(router.pid());
        waiting.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(waiting.is_quiet(Duration::from_millis(1200)), "all workers are full");
        let used = cpu_time(router.pid()) - before;
        assert!(used < Duration::from_millis(300), "{used:?} of CPU while it waited");
        for connection in &mut held {
            assert_eq!(connection.response().status, 200);
        }
        assert_eq!(waiting.response().status, 200, "answered once there is room");
    }

    fn a_server_closed_by_all_workers_closes_the_port(engine) {
        let port = free_port();
        let router = listens(engine, &json!([port])).start();
        let first = get(port, "/close")["pid"].as_u64().unwrap();
        // The other one serves on.
        let second = answered_by(port, 6);
        assert_eq!(second.len(), 1);
        assert!(!second.contains(&first));
        get(port, "/close");
        until("the port is closed", SOON, || (!Connection::connects(port)).then_some(()));
        router.log.find(SOON, |lines| {
            let closed = lines.iter().filter_map(|l| l.worker_output());
            (closed.filter(|l| l.contains("closed")).count() == 2).then_some(())
        }).expect("both servers' close callbacks ran");
    }

    fn a_server_that_is_not_http_gets_its_connections(engine) {
        let port = free_port();
        let router = Router::on(engine)
            .app("netserver")
            .no_listen()
            .env("PORT", port)
            .option("--head-timeout", 1)
            .start();
        let mut talker = Connection::tcp(port);
        talker.send("\x00binary, no request line\n");
        let hello = talker.line();
        let pid: u32 = hello.strip_prefix("hello from ").unwrap().parse().unwrap();
        assert!(router.pids().contains(&pid));
        assert_eq!(talker.line(), "\x00binary, no request line");
        // One that waits for the server's word gets it at the head deadline at the latest.
        assert!(Connection::tcp(port).line().starts_with("hello from "));
    }

    fn silent_clients_cross_shards_and_are_let_go(engine) {
        let port = free_port();
        let router = Router::on(engine)
            .app("netserver")
            .no_listen()
            .env("PORT", port)
            .option("--threads", 2)
            .option("--head-timeout", 1)
            .start();
        let open = || crate::harness::process::fds(router.pid()).len();
        let before = open();
        // At the deadline a look at each is still under way, here or on its way elsewhere.
        let mut silent: Vec<Connection> = (0..8).map(|_| Connection::tcp(port)).collect();
        let pids: BTreeSet<String> = silent.iter_mut().map(|client| client.line()).collect();
        assert_eq!(pids.len(), 2, "{pids:?}");
        // The connections live on, and none of their sockets is left in the router.
        until("the router lets go of them", SOON, || (open() <= before).then_some(()));
    }

    fn a_udp_port_is_shared_by_the_workers(engine) {
        let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let router = Router::on(engine).app("udp").no_listen().env("PORT", port).spawn();
        printed(&router, "bound");
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        socket.send_to(b"who?", ("127.0.0.1", port)).unwrap();
        let mut answer = [0; 32];
        let n = socket.recv(&mut answer).unwrap();
        let pid: u32 = std::str::from_utf8(&answer[..n]).unwrap().parse().unwrap();
        assert!(router.all_pids().contains(&pid));
    }

    fn a_burst_of_connections_to_an_applications_port_is_all_answered(engine) {
        let port = free_port();
        let _router = listens(engine, &json!([port])).start();
        let failures = crate::harness::polling::many(600, 16, |_| {
            let answer = Connection::tcp(port).try_get("/").map_err(|e| e.to_string())?;
            if answer.status == 200 { Ok(()) } else { Err(format!("{answer:?}")) }
        });
        assert!(failures.is_empty(), "{failures:?}");
    }
}
