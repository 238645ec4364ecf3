//! How sockets reach workers: every way of handing off, several servers in one worker, and workers
//! that stop, die, run out of descriptors or are busy with sockets still unread in their lane.

use crate::both_engines;
use crate::harness::http::{free_port, request};
use crate::harness::polling::Session;
use crate::harness::process::{alive, cpu_time, signal};
use crate::harness::{
    Builder, Connection, Engine, Random, Router, SOON, TempDir, client, node, repository, until,
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

const GET_PID: &str = "GET /pid HTTP/1.1\r\nHost: x\r\n\r\n";

/// Sticky workers of both versions, handed their sockets in this way, do all that workers do.
fn serves(engine: Engine, how: &[&str], named: &str) {
    let mut random = Random::new();
    for sticky in [1, 2] {
        let mut router = Router::on(engine).env("STICKY", sticky);
        for word in how {
            router = router.arg(word);
        }
        let router = router.start();
        let said = router.event("router starts");
        assert_eq!(said.string("handoff"), Some(named), "{how:?}: {}", said.text);
        client("everything", &router.url(), &json!({ "workers": 2, "binary": true }));
        // The kinds of clients that there are: polling, upgrading, one large request.
        let seen = client("connects", &router.url(), &json!({ "clients": 8 }));
        let transports = seen["transports"].as_array().unwrap();
        assert_eq!(transports.iter().filter(|t| *t == "websocket").count(), 4, "{how:?}: {seen}");
        let body = random.bytes(200 << 10);
        let answer = router.connect().post("/echo", &body);
        assert!(answer.status == 200 && answer.body == body, "{how:?}: {}", answer.status);
        // The fourth descriptor is the lane, where there is one.
        let fds: Value = serde_json::from_slice(&router.get("/fds").body).unwrap();
        let fourth = fds["4"].as_str().unwrap_or_default().starts_with("socket:");
        assert_eq!(fourth, named == "lane", "{how:?}: {fds}");
    }
}

both_engines! {
    fn everything_works_by_the_lane(engine) {
        serves(engine, &["--handoff", "lane"], "lane");
    }

    fn everything_works_by_node_s_own_channel(engine) {
        serves(engine, &["--handoff", "ipc"], "ipc");
    }

    fn the_lane_is_what_is_chosen_unasked(engine) {
        serves(engine, &["--handoff", "auto"], "lane");
    }

    fn everything_works_without_the_preload(engine) {
        serves(engine, &["--no-preload"], "ipc");
    }
}

/// The fixture of several servers, on these places.
fn servers(engine: Engine, all: &Value) -> Builder {
    Router::on(engine).app("servers").no_listen().env("SERVERS", all)
}

/// Both workers have opened this server at least so often, all in all.
fn opened(router: &Router, index: usize, times: usize) {
    let found = router.log.find(SOON, |lines| {
        let lines = lines.iter().filter_map(|line| line.worker_output());
        let open = lines.filter_map(|line| serde_json::from_str::<Value>(line).ok());
        (open.filter(|line| line["open"] == index).count() >= times).then_some(())
    });
    found.unwrap_or_else(|| panic!("server {index} was not opened {times} times"));
}

fn ask(mut connection: Connection, target: &str) -> Value {
    let answer = connection.get(target);
    assert_eq!(answer.status, 200, "{answer:?}");
    serde_json::from_slice(&answer.body).unwrap()
}

fn greeting(connection: &mut Connection) -> Value {
    serde_json::from_str(&connection.line()).unwrap()
}

both_engines! {
    fn each_of_a_workers_servers_gets_its_own_connections(engine) {
        for handoff in ["lane", "ipc"] {
            let dir = TempDir::new();
            let path = dir.path().join("app.sock");
            let ports = [free_port(), free_port(), free_port(), free_port()];
            let all = json!([
                { "kind": "http", "where": ports[0] },
                { "kind": "http", "where": ports[1] },
                { "kind": "http", "where": path },
                { "kind": "net", "where": ports[2] },
                { "kind": "echo", "where": ports[3] },
            ]);
            let router = servers(engine, &all).option("--handoff", handoff).start();
            for index in 0..5 {
                opened(&router, index, 2);
            }
            let mut random = Random::new();
            let mut pids = vec![BTreeSet::new(); 5];
            // Workers take turns and servers come by chance: who serves what is chance, too.
            let mut asked = 0;
            while asked < 60 || pids.iter().any(|pids| pids.len() < 2) {
                assert!(asked < 600, "{handoff}: both workers serve all: {pids:?}");
                asked += 1;
                let index = random.below(5);
                let seen = match index {
                    0 | 1 => ask(Connection::tcp(ports[index]), "/"),
                    2 => ask(Connection::unix(&path), "/"),
                    3 => greeting(&mut Connection::tcp(ports[2])),
                    _ => {
                        let mut talker = Connection::tcp(ports[3]);
                        talker.send("\x00no line of HTTP\n");
                        let seen = greeting(&mut talker);
                        assert_eq!(talker.line(), "\x00no line of HTTP");
                        seen
                    }
                };
                assert_eq!(seen["index"], index, "{handoff}: {seen}");
                pids[index].insert(seen["pid"].as_u64().unwrap());
            }
        }
    }

    fn a_server_that_is_closed_and_opened_again_serves_again(engine) {
        let ports = [free_port(), free_port(), free_port()];
        let kinds = ["http", "http", "net"];
        let all: Vec<Value> =
            (0..3).map(|n| json!({ "kind": kinds[n], "where": ports[n] })).collect();
        let router = servers(engine, &json!(all)).start();
        (0..3).for_each(|index| opened(&router, index, 2));
        for round in 1..=4 {
            for index in [1, 2] {
                ask(Connection::tcp(ports[0]), &format!("/reopen?index={index}"));
                // Whoever has not closed it serves on, and the other one takes part again.
                let pids: BTreeSet<u64> = (0..12)
                    .map(|_| {
                        let mut connection = Connection::tcp(ports[index]);
                        let seen = match index {
                            1 => ask(connection, "/"),
                            _ => greeting(&mut connection),
                        };
                        assert_eq!(seen["index"], index, "round {round}: {seen}");
                        seen["pid"].as_u64().unwrap()
                    })
                    .collect();
                assert_eq!(pids.len(), 2, "round {round}: both workers serve {index}");
            }
        }
    }

    fn a_port_that_its_only_worker_closes_is_free_at_once(engine) {
        let ports = [free_port(), free_port()];
        let all = json!(ports.map(|port| json!({ "kind": "http", "where": port })));
        let router = servers(engine, &all).workers(1).option("--threads", 2).start();
        (0..2).for_each(|index| opened(&router, index, 1));
        for _ in 0..20 {
            ask(Connection::tcp(ports[0]), "/reopen?index=1");
            assert_eq!(ask(Connection::tcp(ports[1]), "/")["index"], 1);
        }
    }

    fn connections_a_server_has_no_room_for_go_to_the_other_worker_or_wait(engine) {
        for handoff in ["lane", "ipc"] {
            let ports = [free_port(), free_port()];
            let all = json!([
                { "kind": "net", "where": ports[0], "max": 1 },
                { "kind": "http", "where": ports[1], "max": 1 },
            ]);
            let router = servers(engine, &all).option("--handoff", handoff).start();
            (0..2).for_each(|index| opened(&router, index, 2));
            let mut held: Vec<Connection> = (0..2).map(|_| Connection::tcp(ports[0])).collect();
            let pids: BTreeSet<u64> =
                held.iter_mut().map(|c| greeting(c)["pid"].as_u64().unwrap()).collect();
            assert_eq!(pids.len(), 2, "{handoff}: one for each worker");
            let mut busy: Vec<Connection> = (0..2).map(|_| Connection::tcp(ports[1])).collect();
            for connection in &mut busy {
                connection.send("GET /?ms=2500 HTTP/1.1\r\nHost: x\r\n\r\n");
            }
            let mut waits = [Connection::tcp(ports[0]), Connection::tcp(ports[1])];
            waits[1].send(request("GET", "/", b""));
            let before = cpu_time(router.pid());
            for connection in &mut waits {
                assert!(connection.is_quiet(Duration::from_millis(700)), "{handoff}: all are full");
            }
            let used = cpu_time(router.pid()) - before;
            assert!(used < Duration::from_millis(300), "{handoff}: {used:?} of CPU in 1.4 s");
            drop(held);
            assert_eq!(greeting(&mut waits[0])["index"], 0, "{handoff}: there is room again");
            for connection in &mut busy {
                assert_eq!(connection.response().status, 200);
            }
            drop(busy);
            assert_eq!(waits[1].response().status, 200, "{handoff}");
        }
    }

    fn a_server_that_speaks_first_greets_clients_that_say_nothing(engine) {
        for how in [&["--handoff", "lane"][..], &["--handoff", "ipc"], &["--threads", "2"]] {
            let port = free_port();
            let all = json!([{ "kind": "net", "where": port }]);
            // Its deadline would let a client in as well: put it out of reach.
            let mut router = servers(engine, &all).option("--head-timeout", 60);
            for word in how {
                router = router.arg(word);
            }
            let router = router.start();
            opened(&router, 0, 2);
            let mut silent: Vec<Connection> = (0..12).map(|_| Connection::tcp(port)).collect();
            let pids: BTreeSet<u64> = silent
                .iter_mut()
                .map(|client| {
                    client.patience(Duration::from_secs(5));
                    greeting(client)["pid"].as_u64().unwrap()
                })
                .collect();
            assert_eq!(pids.len(), 2, "{how:?}");
        }
    }
}

/// Sends each a request; gives them and which of them have been answered, when no more than these
/// will be while the victim does not move.
fn clients_of_a_stopped_worker(
    router: &Router,
    clients: usize,
    others: usize,
) -> (Vec<Connection>, usize) {
    let mut clients: Vec<Connection> = (0..clients).map(|_| router.connect()).collect();
    for connection in &mut clients {
        connection.send(GET_PID);
    }
    let mut answered = vec![false; clients.len()];
    until("the other worker's answers", SOON, || {
        for (connection, done) in clients.iter_mut().zip(&mut answered) {
            *done = *done || !connection.is_quiet(Duration::from_micros(300));
        }
        (answered.iter().filter(|a| **a).count() >= others).then_some(())
    });
    let waiting = answered.iter().filter(|a| !**a).count();
    (clients, waiting)
}

/// One of two workers is stopped, given half of the clients, and killed.
fn killed_while_stopped(router: Builder, count: usize) {
    let router = router.option("--balance", "round-robin").start();
    router.lives();
    let victim = router.pids()[0];
    signal(victim, Signal::SIGSTOP);
    let (mut clients, waiting) = clients_of_a_stopped_worker(&router, count, count / 2);
    assert!(waiting >= count / 2 - 5, "only {waiting} of {count} are the stopped worker's");
    signal(victim, Signal::SIGKILL);
    for (n, connection) in clients.iter_mut().enumerate() {
        let answer = connection.try_response();
        let answer = answer.unwrap_or_else(|e| panic!("client {n} of {count}: {e}"));
        assert_ne!(answer.pid(), victim);
    }
    router.replaced(victim);
    router.lives();
}

both_engines! {
    fn sockets_unread_in_the_lane_of_a_worker_that_is_killed_go_to_the_other(engine) {
        killed_while_stopped(Router::on(engine).option("--handoff", "lane"), 320);
    }

    fn the_same_with_two_router_threads(engine) {
        let router = Router::on(engine).option("--handoff", "lane").option("--threads", 2);
        killed_while_stopped(router, 320);
    }

    fn more_sockets_than_a_lane_holds_are_all_answered_when_its_worker_is_killed(engine) {
        // A session-less socket goes elsewhere at once if a lane is full: for them to wait, they
        // must have nowhere else to go.
        for threads in [1, 2] {
            let router = Router::on(engine)
                .workers(1)
                .option("--handoff", "lane")
                .option("--threads", threads)
                .start();
            router.lives();
            let victim = router.pids()[0];
            signal(victim, Signal::SIGSTOP);
            let (mut clients, waiting) = clients_of_a_stopped_worker(&router, 600, 0);
            assert_eq!(waiting, 600);
            until("the router has done what it can", SOON, || {
                let before = cpu_time(router.pid());
                std::thread::sleep(Duration::from_millis(100));
                (cpu_time(router.pid()) == before).then_some(())
            });
            signal(victim, Signal::SIGKILL);
            for (n, connection) in clients.iter_mut().enumerate() {
                let answer = connection.try_response();
                let answer = answer.unwrap_or_else(|e| panic!("client {n} of 600: {e}"));
                assert_ne!(answer.pid(), victim, "{threads} threads");
            }
        }
    }

    fn more_sockets_than_a_lane_holds_are_all_answered_once_its_worker_goes_on(engine) {
        let router = Router::on(engine).option("--balance", "round-robin").start();
        router.lives();
        let slow = router.pids()[0];
        signal(slow, Signal::SIGSTOP);
        let mut clients: Vec<Connection> = (0..900).map(|_| router.connect()).collect();
        for connection in &mut clients {
            connection.send(GET_PID);
        }
        until("the router has done what it can", SOON, || {
            let before = cpu_time(router.pid());
            std::thread::sleep(Duration::from_millis(100));
            (cpu_time(router.pid()) == before).then_some(())
        });
        signal(slow, Signal::SIGCONT);
        let pids: Vec<u32> = clients.iter_mut().map(|c| c.response().pid()).collect();
        let by_slow = pids.iter().filter(|pid| **pid == slow).count();
        assert!(by_slow >= 150, "{by_slow} of 900 by the worker that was stopped");
        assert!(alive(slow), "it is the same worker");
    }

    fn sessions_of_a_stopped_worker_wait_for_it_beyond_what_its_lane_holds(engine) {
        let router = Router::on(engine).start();
        let port = router.port();
        // A session of either worker, by its own word.
        let sessions = sessions_of_all(port, 2);
        let (session, owner) = &sessions[0];
        signal(*owner, Signal::SIGSTOP);
        let mut clients: Vec<Connection> = (0..500).map(|_| router.connect()).collect();
        for connection in &mut clients {
            let target = format!("/pid?sid={}", session.sid);
            connection.send(request("GET", &target, b""));
        }
        // Meanwhile the other one serves whoever has no session.
        assert_ne!(ask_pid(port), *owner);
        signal(*owner, Signal::SIGCONT);
        for connection in &mut clients {
            assert_eq!(connection.response().pid(), *owner);
        }
    }
}

/// Without a session; tried again until somebody answers soon, for the one who could is not alone.
fn ask_pid(port: u16) -> u32 {
    until("a worker that answers", SOON, || {
        let mut connection = Connection::tcp(port);
        connection.send(GET_PID);
        connection.patience(Duration::from_millis(300));
        connection.try_response().ok().map(|answer| answer.pid())
    })
}

/// A joined session in each of so many processes.
fn sessions_of_all(port: u16, processes: usize) -> Vec<(Session, u32)> {
    let mut found: Vec<(Session, u32)> = Vec::new();
    for _ in 0..60 {
        let session = Session::open(port).unwrap();
        session.join().unwrap();
        let pid = session.pid().unwrap();
        if found.iter().all(|(_, known)| *known != pid) {
            found.push((session, pid));
        }
        if found.len() == processes {
            return found;
        }
    }
    panic!("60 sessions in {} processes", found.len());
}

/// Only the first slot is short of descriptors.
fn few_files(dir: &TempDir, limit: u32) -> std::path::PathBuf {
    let script = format!(
        "#!/bin/sh\n[ \"$NODE_APP_INSTANCE\" = 0 ] && ulimit -n {limit}\nexec {} \"$@\"\n",
        node::command()
    );
    dir.write_script("few-files", &script)
}

/// The total of this name in the line that the router says at its end.
pub fn total(router: &mut Router, name: &str) -> u64 {
    router.stop();
    let line = router.event("router stops");
    let totals = line.string("totals").unwrap_or_default();
    let found = totals.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    found.map_or(0, |count| count.parse().unwrap())
}

both_engines! {
    fn a_worker_nearly_out_of_descriptors_leaves_clients_to_the_other(engine) {
        let dir = TempDir::new();
        let mut router = Router::on(engine)
            .interpreter(&few_files(&dir, 56))
            .option("--handoff", "lane")
            .option("--balance", "round-robin")
            .start();
        let short = router.slots()[&0];
        for round in 0..3 {
            let mut clients: Vec<Connection> = (0..200).map(|_| router.connect()).collect();
            for connection in &mut clients {
                connection.send("GET /slow?ms=1200 HTTP/1.1\r\nHost: x\r\n\r\n");
            }
            let mut by_short = 0;
            for (n, connection) in clients.iter_mut().enumerate() {
                let answer = connection.try_response();
                let answer = answer.unwrap_or_else(|e| panic!("round {round}, client {n}: {e}"));
                by_short += usize::from(answer.pid() == short);
            }
            assert!(by_short < 60, "{by_short} in a worker of 56 descriptors");
            drop(clients);
            // With its descriptors back it serves again.
            until("the worker that was short serves again", SOON, || {
                (router.get("/pid").pid() == short).then_some(())
            });
        }
        assert!(alive(short), "it lives on");
        assert_eq!(total(&mut router, "lost"), 0, "no socket was cut off");
    }

    fn a_session_of_a_worker_nearly_out_of_descriptors_waits_for_it(engine) {
        let dir = TempDir::new();
        let router = Router::on(engine)
            .interpreter(&few_files(&dir, 56))
            .option("--handoff", "lane")
            .option("--balance", "round-robin")
            .start();
        let short = router.slots()[&0];
        let sessions = sessions_of_all(router.port(), 2);
        let (session, _) = sessions.iter().find(|(_, pid)| *pid == short).unwrap();
        let mut clients: Vec<Connection> = (0..120).map(|_| router.connect()).collect();
        for connection in &mut clients {
            connection.send("GET /slow?ms=250 HTTP/1.1\r\nHost: x\r\n\r\n");
        }
        let target = format!("/pid?sid={}", session.sid);
        assert_eq!(router.get(&target).pid(), short);
        for connection in &mut clients {
            connection.response().pid();
        }
    }

    fn least_lag_lets_nobody_wait_for_a_worker_that_is_busy(engine) {
        for threads in [1, 2] {
            let router = Router::on(engine)
                .option("--balance", "least-lag")
                .option("--threads", threads)
                .start();
            router.lives();
            let mut busy = router.connect();
            busy.send("GET /block?ms=2000 HTTP/1.1\r\nHost: x\r\n\r\n");
            router.output("the block begins", |line| (line == "blocks").then_some(()));
            let began = Instant::now();
            let open = request("GET", "/socket.io/?EIO=4&transport=polling", b"");
            // Those of the first moments may be given to it, and must not stay there.
            let mut early: Vec<Connection> = Vec::new();
            for _ in 0..20 {
                let mut connection = router.connect();
                connection.send(&open);
                early.push(connection);
                std::thread::sleep(Duration::from_millis(10));
            }
            for (n, connection) in early.iter_mut().enumerate() {
                let answer = connection.try_response();
                let answer = answer.unwrap_or_else(|e| panic!("handshake {n}: {e}"));
                assert_eq!(answer.status, 200);
                let over = !busy.is_quiet(Duration::from_micros(100));
                assert!(!over, "handshake {n} of 20 waited for the end of the block");
            }
            while began.elapsed() < Duration::from_millis(250) {
                std::thread::sleep(Duration::from_millis(5));
            }
            let mut late = Vec::new();
            while busy.is_quiet(Duration::from_millis(10)) {
                let pid = router.get("/pid").pid();
                // One that the end of the block overtakes says nothing.
                if busy.is_quiet(Duration::from_micros(100)) {
                    late.push(pid);
                }
            }
            let blocked = busy.response().pid();
            assert!(late.len() > 8, "{threads} threads: {late:?}");
            assert!(!late.contains(&blocked), "{threads} threads: {blocked} is busy: {late:?}");
        }
    }
}

/// An unchanged application with two workers, and its port.
fn unchanged(engine: Engine) -> (Router, u16) {
    let app: &Path = &repository().join("tests/node/apps/plain/peer.js");
    let port = free_port();
    let router = Router::on(engine).path(app).no_listen().env("PORT", port).start();
    (router, port)
}

/// A connection that this worker serves.
fn connection_of(port: u16, pid: u32) -> Connection {
    until("a connection of the worker's", SOON, || {
        let mut connection = Connection::tcp(port);
        let answer = connection.get("/");
        let seen: Value = serde_json::from_slice(&answer.body).unwrap();
        (seen["pid"] == pid).then_some(connection)
    })
}

/// The session is gone: the application says so, and the connection goes on.
fn unknown_and_goes_on(connection: &mut Connection) {
    let answer = connection.response();
    assert_eq!(answer.status, 400, "{answer:?}");
    assert!(answer.text().contains("Session ID unknown"), "{answer:?}");
    for _ in 0..3 {
        assert_eq!(connection.get("/").status, 200, "the connection goes on");
    }
}

both_engines! {
    fn a_request_of_a_worker_that_has_died_is_answered_by_another(engine) {
        let (router, port) = unchanged(engine);
        let sessions = sessions_of_all(port, 2);
        let ((lost, owner), (_, other)) = (&sessions[0], &sessions[1]);
        let mut connections: Vec<Connection> =
            (0..4).map(|_| connection_of(port, *other)).collect();
        let body = "4".repeat(20 << 10);
        let requests = [
            request("GET", &lost.target(), b""),
            request("POST", &lost.target(), body.as_bytes()),
        ];
        signal(*owner, Signal::SIGKILL);
        for (n, connection) in connections.iter_mut().enumerate() {
            connection.send(&requests[n % 2]);
            unknown_and_goes_on(connection);
        }
        router.replaced(*owner);
    }

    fn a_request_handed_back_to_a_worker_that_dies_then_is_answered_by_another(engine) {
        let (router, port) = unchanged(engine);
        let sessions = sessions_of_all(port, 2);
        let ((lost, owner), (_, other)) = (&sessions[0], &sessions[1]);
        let mut connections: Vec<Connection> =
            (0..4).map(|_| connection_of(port, *other)).collect();
        signal(*owner, Signal::SIGSTOP);
        let body = "4".repeat(20 << 10);
        let requests = [
            request("GET", &lost.target(), b""),
            request("POST", &lost.target(), body.as_bytes()),
        ];
        for (n, connection) in connections.iter_mut().enumerate() {
            connection.send(&requests[n % 2]);
        }
        for connection in &mut connections {
            assert!(connection.is_quiet(Duration::from_millis(50)), "its owner is stopped");
        }
        signal(*owner, Signal::SIGKILL);
        for connection in &mut connections {
            unknown_and_goes_on(connection);
        }
        router.replaced(*owner);
    }
}
