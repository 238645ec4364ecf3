//! The PROXY protocol: whom the workers see when a load balancer in front tells them, in any cut,
//! by any way of handing off; and who is closed without a word.

use crate::both_engines;
use crate::harness::http::{free_port, request};
use crate::harness::polling::Session;
use crate::harness::{Builder, Connection, Engine, Random, Router, SOON, repository, until};
use crate::lane::total;
use serde_json::{Value, json};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// A line of version 1.
fn v1(from: &str) -> Vec<u8> {
    let from: SocketAddr = from.parse().unwrap();
    let (family, to) =
        if from.is_ipv4() { ("TCP4", "192.0.2.1") } else { ("TCP6", "2001:db8::ff") };
    format!("PROXY {family} {} {to} {} 443\r\n", from.ip(), from.port()).into_bytes()
}

/// A header of version 2 with some fields behind the addresses, which are nobody's business here.
fn v2(from: &str) -> Vec<u8> {
    let from: SocketAddr = from.parse().unwrap();
    let (family, mut body) = match from.ip() {
        IpAddr::V4(ip) => (0x11, [ip.octets(), [192, 0, 2, 1]].concat()),
        IpAddr::V6(ip) => (0x21, [ip.octets(), [7; 16]].concat()),
    };
    body.extend(from.port().to_be_bytes());
    body.extend(443_u16.to_be_bytes());
    body.extend(b"\x03\x00\x04\xfe\xdc\xba\x98");
    binary(0x21, family, &body)
}

fn binary(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    bytes.extend([command, family]);
    bytes.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
    bytes.extend(body);
    bytes
}

const CLIENTS: [&str; 4] = [
    "203.0.113.9:5432",
    "255.255.255.255:65535",
    "[2001:db8::1]:1",
    "[2001:db8:1:2:3:4:5:6]:65535",
];

/// Every client, by both versions.
fn headers() -> Vec<(Vec<u8>, &'static str)> {
    CLIENTS.iter().flat_map(|client| [(v1(client), *client), (v2(client), *client)]).collect()
}

fn on(engine: Engine) -> Builder {
    Router::on(engine).arg("--proxy-protocol")
}

/// A page of the worker's own says this client.
#[track_caller]
fn sees(connection: &mut Connection, client: &str) -> u32 {
    sees_in(&connection.response().body, client)
}

#[track_caller]
fn sees_in(answer: &[u8], client: &str) -> u32 {
    let seen: Value = serde_json::from_slice(answer)
        .unwrap_or_else(|e| panic!("{e}: {:?}", String::from_utf8_lossy(answer)));
    let client: SocketAddr = client.parse().unwrap();
    let ip = seen["address"].as_str().and_then(|text| text.parse::<IpAddr>().ok());
    assert_eq!(ip, Some(client.ip()), "{client}: {seen}");
    assert_eq!(seen["port"], client.port(), "{client}: {seen}");
    assert_eq!(seen["family"], if client.is_ipv4() { "IPv4" } else { "IPv6" }, "{client}: {seen}");
    seen["pid"].as_u64().unwrap().try_into().unwrap()
}

/// The client that these connect from, by its own word: nobody told of another.
fn itself(connection: &Connection) -> String {
    format!("127.0.0.1:{}", connection.local_port())
}

/// Each header with a request, in one segment, apart, and cut in three anywhere.
fn all_are_seen(port: u16, random: &mut Random) {
    let get = request("GET", "/peer", b"");
    for (header, client) in headers() {
        let whole = [&header[..], &get].concat();
        let mut connection = Connection::tcp(port);
        connection.send(&whole);
        sees(&mut connection, client);
        let mut cuts = vec![[header.len(), header.len()], [1, header.len()]];
        for _ in 0..4 {
            let mut two = [1 + random.below(whole.len() - 1), 1 + random.below(whole.len() - 1)];
            two.sort_unstable();
            cuts.push(two);
        }
        for [first, second] in cuts {
            let mut connection = Connection::tcp(port);
            for piece in [&whole[..first], &whole[first..second], &whole[second..]] {
                connection.send(piece);
                // Time for the piece to be seen alone; correctness doesn't hang on it.
                std::thread::sleep(Duration::from_millis(2));
            }
            println!("{client} cut at {first} and {second} of {}", whole.len());
            sees(&mut connection, client);
        }
    }
}

both_engines! {
    fn a_sticky_worker_sees_the_client_of_the_header(engine) {
        for handoff in ["lane", "ipc"] {
            for sticky in [1, 2] {
                let router = on(engine).env("STICKY", sticky).option("--handoff", handoff).start();
                println!("{handoff}, sticky {sticky}");
                all_are_seen(router.port(), &mut Random::new());
            }
        }
    }

    fn an_application_that_listens_sees_the_client_of_the_header(engine) {
        for (handoff, threads) in [("lane", 1), ("ipc", 1), ("lane", 2), ("ipc", 2)] {
            let (_router, port) = app(engine, |router| {
                router.option("--handoff", handoff).option("--threads", threads)
            });
            println!("{handoff}, {threads} threads");
            all_are_seen(port, &mut Random::new());
        }
    }

    fn a_header_cut_at_every_place_is_read(engine) {
        let router = on(engine).start();
        let client = "203.0.113.9:5432";
        for header in [v1(client), v2(client)] {
            let whole = [&header[..], &request("GET", "/peer", b"")].concat();
            for cut in 1..=header.len() + 1 {
                let mut connection = router.connect();
                connection.send(&whole[..cut]);
                std::thread::sleep(Duration::from_millis(2));
                connection.send(&whole[cut..]);
                println!("cut at {cut}");
                sees(&mut connection, client);
            }
        }
    }

    fn a_header_may_come_byte_by_byte(engine) {
        let router = on(engine).start();
        for (header, client) in headers() {
            let mut connection = router.connect();
            for byte in [&header[..], &request("GET", "/peer", b"")].concat() {
                connection.send([byte]);
                std::thread::sleep(Duration::from_millis(1));
            }
            sees(&mut connection, client);
        }
    }

    fn unknown_and_local_keep_the_address_there_is(engine) {
        let nobody = [
            b"PROXY UNKNOWN\r\n".to_vec(),
            b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n".to_vec(),
            binary(0x20, 0x00, b""),
            binary(0x20, 0x11, &[9; 12]),
            binary(0x21, 0x00, b""),
        ];
        for handoff in ["lane", "ipc"] {
            let router = on(engine).option("--handoff", handoff).start();
            for header in &nobody {
                let mut connection = router.connect();
                connection.send([&header[..], &request("GET", "/peer", b"")].concat());
                let own = itself(&connection);
                println!("{handoff}: {}", String::from_utf8_lossy(header));
                sees(&mut connection, &own);
            }
        }
    }

    fn a_large_request_behind_a_header_arrives_whole(engine) {
        let mut random = Random::new();
        let router = on(engine).start();
        for client in CLIENTS {
            for header in [v1(client), v2(client)] {
                let body = random.bytes(200 << 10);
                let mut connection = router.connect();
                connection.send([&header[..], &request("POST", "/echo", &body)].concat());
                let answer = connection.response();
                assert!(answer.status == 200 && answer.body == body, "{client}: {}", answer.status);
            }
        }
    }

    fn a_session_finds_its_worker_behind_headers(engine) {
        let router = on(engine).option("--balance", "round-robin").start();
        for (n, client) in CLIENTS.iter().cycle().take(12).enumerate() {
            let ask = |method: &str, target: &str, body: &str| {
                let header = if n % 2 == 0 { v1(client) } else { v2(client) };
                let mut connection = router.connect();
                connection.send([&header[..], &request(method, target, body.as_bytes())].concat());
                let answer = connection.response();
                assert_eq!(answer.status, 200, "{method} {target}: {answer:?}");
                answer.text()
            };
            let opened = ask("GET", "/socket.io/?EIO=4&transport=polling", "");
            let opened: Value = serde_json::from_str(&opened[1..]).unwrap();
            let sid = opened["sid"].as_str().unwrap().to_owned();
            let session = Session { port: router.port(), sid };
            for _ in 0..6 {
                assert_eq!(ask("POST", &session.target(), "40"), "ok");
            }
            assert!(ask("GET", &session.target(), "").starts_with("40"));
        }
    }

    fn the_client_stays_the_same_when_a_connection_changes_workers(engine) {
        for handoff in ["lane", "ipc"] {
            let (_router, port) = app(engine, |router| router.option("--handoff", handoff));
            let client = "203.0.113.9:5432";
            for client in [client, "[2001:db8::1]:1"] {
                let sessions = sessions_of_both(port, client);
                let mut connection = Connection::tcp(port);
                connection.send(v1(client));
                let mut first = true;
                for n in 0..12 {
                    let (sid, pid) = &sessions[n / 2 % 2];
                    // A page of the application's that is asked for in a session's name.
                    connection.send(request("GET", &format!("/peer?sid={sid}"), b""));
                    assert_eq!(sees(&mut connection, client), *pid, "{handoff}: request {n}");
                    if std::mem::take(&mut first) {
                        println!("{handoff}: {client}");
                    }
                }
            }
        }
    }

    fn a_server_that_speaks_first_sees_the_client_and_every_byte_behind_the_header(engine) {
        for handoff in ["lane", "ipc"] {
            let ports = [free_port(), free_port()];
            let all = json!([
                { "kind": "net", "where": ports[0] },
                { "kind": "echo", "where": ports[1] },
            ]);
            let router = on(engine)
                .app("servers")
                .no_listen()
                .env("SERVERS", all)
                .option("--handoff", handoff)
                .start();
            for port in ports {
                until("both are open", SOON, || Connection::connects(port).then_some(()));
            }
            for (header, client) in headers() {
                let mut silent = Connection::tcp(ports[0]);
                silent.send(&header);
                sees_in(silent.line().as_bytes(), client);
                for port in ports {
                    let mut talker = Connection::tcp(port);
                    talker.send([&header[..], b"first\n"].concat());
                    sees_in(talker.line().as_bytes(), client);
                    assert_eq!(talker.line(), "first", "{handoff}: {client}");
                    talker.send("second\n");
                    assert_eq!(talker.line(), "second", "{handoff}: {client}");
                }
            }
            drop(router);
        }
    }

    fn a_missing_or_malformed_header_closes_without_a_word_and_is_counted(engine) {
        let mut router = on(engine).start();
        let wrong: [&[u8]; 11] = [
            b"GET /pid HTTP/1.1\r\nHost: x\r\n\r\n",
            b"\x16\x03\x01\x00\xc8\x01\x00\x00\xc4\x03\x03",
            b"PROXY TCP4 203.0.113.9 192.0.2.1 5432\r\nGET /pid HTTP/1.1\r\n\r\n",
            b"PROXY TCP4 203.0.113.999 192.0.2.1 5432 443\r\nGET /pid HTTP/1.1\r\n\r\n",
            b"PROXY TCP6 203.0.113.9 192.0.2.1 5432 443\r\nGET /pid HTTP/1.1\r\n\r\n",
            b"PROXY TCP4 203.0.113.9 192.0.2.1 65536 443\r\nGET /pid HTTP/1.1\r\n\r\n",
            b"PROXY TCP4 203.0.113.9 192.0.2.1 5432 443\nGET /pid HTTP/1.1\r\n\r\n",
            b"proxy TCP4 203.0.113.9 192.0.2.1 5432 443\r\nGET /pid HTTP/1.1\r\n\r\n",
            &[b"PROXY TCP4 ", &[b'1'; 200][..]].concat(),
            &[b"\r\n\r\n\0\r\nQUIT\n\x31\x11\x00\x0c", &[1; 12][..]].concat(),
            &[b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x04", &[1; 4][..]].concat(),
        ];
        for bytes in wrong {
            let mut connection = router.connect();
            connection.send(bytes);
            let rest = connection.rest();
            assert!(rest.is_empty(), "{:?}: {rest:?}", String::from_utf8_lossy(bytes));
        }
        let mut good = router.connect();
        good.send([&v1(CLIENTS[0])[..], &request("GET", "/peer", b"")].concat());
        sees(&mut good, CLIENTS[0]);
        assert_eq!(total(&mut router, "closed_no_proxy"), 11);
    }

    fn a_header_from_somebody_who_is_not_trusted_closes_and_is_counted(engine) {
        let mut router = on(engine).option("--trust", "10.0.0.0/8,unix").start();
        for header in [v1(CLIENTS[0]), v2(CLIENTS[0])] {
            let mut connection = router.connect();
            connection.send([&header[..], &request("GET", "/peer", b"")].concat());
            assert!(connection.rest().is_empty());
        }
        assert_eq!(total(&mut router, "closed_untrusted"), 2);
    }

    fn a_header_on_a_unix_socket_is_believed(engine) {
        let dir = crate::harness::TempDir::new();
        let path = dir.path().join("router.sock");
        let _router = on(engine).listen(&format!("unix:{}", path.display())).start();
        for (header, client) in headers() {
            let mut connection = Connection::unix(&path);
            connection.send([&header[..], &request("GET", "/peer", b"")].concat());
            sees(&mut connection, client);
            let mut connection = Connection::unix(&path);
            connection.send(&header);
            std::thread::sleep(Duration::from_millis(2));
            connection.send(request("GET", "/peer", b""));
            sees(&mut connection, client);
        }
    }

    fn a_header_that_is_too_slow_closes_at_the_head_deadline(engine) {
        let mut router = on(engine).option("--head-timeout", 1).start();
        let whole = v2(CLIENTS[0]);
        for beginning in [&b""[..], b"PROXY TCP4 203.0", &whole[..20]] {
            let mut connection = router.connect();
            let began = Instant::now();
            connection.send(beginning);
            let rest = connection.rest();
            let took = began.elapsed();
            assert!(rest.is_empty(), "{rest:?}");
            let soon = took > Duration::from_millis(900) && took < Duration::from_secs(6);
            assert!(soon, "{took:?} for {} bytes", beginning.len());
        }
        // The request that follows has no deadline of its own.
        let mut connection = router.connect();
        connection.send(&whole);
        assert_eq!(connection.response().status, 408);
        let counted = total(&mut router, "closed_no_proxy");
        assert!(counted >= 2, "{counted}");
    }

    fn sticky_ip_goes_by_the_address_of_the_header(engine) {
        let port = free_port();
        let all = json!([{ "kind": "net", "where": port }]);
        let router = on(engine)
            .app("servers")
            .no_listen()
            .env("SERVERS", all)
            .option("--sticky", "ip")
            .start();
        let worker = |client: &str| {
            let mut connection = Connection::tcp(port);
            connection.send(v1(client));
            sees_in(connection.line().as_bytes(), client)
        };
        let mut used = std::collections::BTreeSet::new();
        for n in 1..=24 {
            let pids: Vec<u32> =
                (1..=3).map(|port| worker(&format!("203.0.113.{n}:{port}"))).collect();
            assert!(pids.iter().all(|pid| *pid == pids[0]), "203.0.113.{n}: {pids:?}");
            used.insert(pids[0]);
        }
        assert_eq!(used.len(), 2, "addresses are spread");
        drop(router);
    }
}

/// An unchanged application whose every page says who answers and whom it sees.
fn app(engine: Engine, more: impl FnOnce(Builder) -> Builder) -> (Router, u16) {
    let port = free_port();
    let path = repository().join("tests/node/apps/plain/peer.js");
    let router = more(on(engine).path(&path).no_listen().env("PORT", port)).start();
    (router, port)
}

/// A session id of each of two workers, and its process.
fn sessions_of_both(port: u16, client: &str) -> Vec<(String, u32)> {
    let mut found: Vec<(String, u32)> = Vec::new();
    for _ in 0..60 {
        let mut connection = Connection::tcp(port);
        connection.send(v1(client));
        let opened = connection.get("/socket.io/?EIO=4&transport=polling").text();
        let opened: Value = serde_json::from_str(&opened[1..]).unwrap();
        let sid = opened["sid"].as_str().unwrap().to_owned();
        let mut connection = Connection::tcp(port);
        connection.send([&v1(client)[..], &request("GET", &format!("/?sid={sid}"), b"")].concat());
        let pid = sees(&mut connection, client);
        if found.iter().all(|(_, known)| *known != pid) {
            found.push((sid, pid));
        }
        if found.len() == 2 {
            return found;
        }
    }
    panic!("60 sessions, all in one worker");
}
