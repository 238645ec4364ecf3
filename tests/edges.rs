//! What arrives that is no ordinary request, and what is there to arrive at.

use crate::both_engines;
use crate::harness::polling::many;
use crate::harness::process::{cpu_time, fds};
use crate::harness::{Connection, Router, SOON, TempDir, until};
use std::time::{Duration, Instant};

const TLS_HELLO: &[u8] = b"\x16\x03\x01\x00\xc8\x01\x00\x00\xc4\x03\x03\x5b\x90\x9d\x9b\x72\x0b";

both_engines! {
    fn a_request_line_may_come_byte_by_byte(engine) {
        let router = Router::on(engine).start();
        let mut connection = router.connect();
        for byte in b"GET /pid?a=b HTTP/1.1\r\nHost: x\r\n\r\n" {
            connection.send([*byte]);
            std::thread::sleep(Duration::from_millis(3));
        }
        assert!(router.pids().contains(&connection.response().pid()));
    }

    fn incomplete_request_lines_cost_no_cpu_while_they_wait(engine) {
        let router = Router::on(engine).start();
        let mut waiting: Vec<Connection> = (0..50).map(|_| router.connect()).collect();
        for connection in &mut waiting {
            connection.send("GET /pi");
        }
        router.lives();
        let before = cpu_time(router.pid());
        std::thread::sleep(Duration::from_millis(1500));
        let used = cpu_time(router.pid()) - before;
        assert!(used <= Duration::from_millis(150), "{used:?} of CPU in 1.5 s");
        for connection in &mut waiting {
            connection.send("d HTTP/1.1\r\nHost: x\r\n\r\n");
        }
        for connection in &mut waiting {
            assert_eq!(connection.response().status, 200);
        }
    }

    fn a_request_line_of_eight_thousand_bytes_is_served(engine) {
        let router = Router::on(engine).start();
        let target = format!("/line?{}", "a".repeat(8000 - 20));
        let answer = router.get(&target);
        assert_eq!(answer.status, 200);
        assert!(answer.text().contains(&target));
    }

    fn a_longer_request_line_is_answered_414(engine) {
        let router = Router::on(engine).start();
        for length in [9000, 60_000] {
            let mut connection = router.connect();
            connection.send(format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(length)));
            refused(connection, 414);
        }
        router.lives();
    }

    fn what_is_not_http_is_answered_400(engine) {
        let router = Router::on(engine).start();
        for bytes in [&b"hello there\r\n"[..], b"\x00\x01\x02\x03\r\n", b"GET /pid\r\n\r\n", b"\r\n\r\n\r\n\r\nno\r\n"] {
            let mut connection = router.connect();
            connection.send(bytes);
            refused(connection, 400);
        }
        router.lives();
    }

    fn an_http_2_preface_is_answered_400(engine) {
        let router = Router::on(engine).start();
        let mut connection = router.connect();
        connection.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
        refused(connection, 400);
    }

    fn a_tls_hello_is_answered_400_and_logged_once(engine) {
        let router = Router::on(engine).start();
        for _ in 0..5 {
            let mut connection = router.connect();
            connection.send(TLS_HELLO);
            refused(connection, 400);
        }
        router.lives();
        let said = |l: &&str| l.contains("plain HTTP");
        until("it is logged", SOON, || router.log.text().lines().find(said).map(|_| ()));
        assert_eq!(router.log.text().lines().filter(said).count(), 1);
    }

    fn a_head_that_never_ends_is_answered_408(engine) {
        let router = Router::on(engine).option("--head-timeout", 1).start();
        let mut connection = router.connect();
        let began = Instant::now();
        connection.send("GET /pid");
        refused(connection, 408);
        let took = began.elapsed();
        assert!(took > Duration::from_millis(900) && took < Duration::from_secs(4), "{took:?}");
    }

    fn dripping_bytes_does_not_move_the_head_deadline(engine) {
        let router = Router::on(engine).option("--head-timeout", 1).start();
        let mut connection = router.connect();
        let began = Instant::now();
        connection.send("GET /");
        while began.elapsed() < Duration::from_secs(4) {
            // Fails once the router has closed.
            if connection.try_send("a").is_err() || !connection.is_quiet(Duration::from_millis(50)) {
                break;
            }
        }
        assert!(began.elapsed() < Duration::from_millis(3500), "{:?}", began.elapsed());
    }

    fn clients_that_leave_mid_line_leave_nothing_behind(engine) {
        let router = Router::on(engine).start();
        router.lives();
        let before = fds(router.pid()).len();
        for n in 0..100 {
            let mut connection = router.connect();
            connection.send(&b"GET /pid HTTP"[..n % 13]);
        }
        until("their descriptors are closed", SOON, || (fds(router.pid()).len() <= before).then_some(()));
        router.lives();
    }

    fn without_a_ready_worker_clients_wait_and_then_get_503(engine) {
        let router = never_ready(engine, &TempDir::new()).start_early();
        let mut connection = router.connect();
        let began = Instant::now();
        connection.send("GET /pid HTTP/1.1\r\nHost: x\r\n\r\n");
        let answer = connection.response();
        let took = began.elapsed();
        assert_eq!(answer.status, 503);
        assert!(answer.header("retry-after").is_some(), "{answer:?}");
        assert!(took > Duration::from_secs(4) && took < Duration::from_secs(8), "{took:?}");
    }

    fn clients_that_wait_are_served_once_a_worker_is_ready(engine) {
        let dir = TempDir::new();
        let router = never_ready(engine, &dir).start_early();
        let mut waiting: Vec<Connection> = (0..20).map(|_| router.connect()).collect();
        for connection in &mut waiting {
            connection.send("GET /pid HTTP/1.1\r\nHost: x\r\n\r\n");
        }
        assert!(waiting[0].is_quiet(Duration::from_millis(300)));
        dir.write("ready", "");
        for connection in &mut waiting {
            assert_eq!(connection.response().status, 200);
        }
    }

    fn out_of_descriptors_the_router_pauses_and_every_client_is_answered(engine) {
        let router = Router::on(engine).start();
        router.lives();
        router.limit_files(8);
        let port = router.port();
        let failures = many(120, 40, |_| {
            let mut connection = Connection::tcp(port);
            connection.try_send("GET /pid HT").map_err(|e| e.to_string())?;
            // Holds its place while the others come.
            std::thread::sleep(Duration::from_millis(60));
            connection.try_send("TP/1.1\r\nHost: x\r\n\r\n").map_err(|e| e.to_string())?;
            let answer = connection.try_response().map_err(|e| e.to_string())?;
            if answer.status == 200 { Ok(()) } else { Err(format!("{answer:?}")) }
        });
        assert!(failures.is_empty(), "{} of 120: {:?}", failures.len(), failures.first());
        router.lives();
    }

    fn out_of_descriptors_the_router_does_not_spin(engine) {
        let router = Router::on(engine).option("--head-timeout", 5).start();
        router.lives();
        router.limit_files(8);
        let mut held: Vec<Connection> = (0..40).map(|_| router.connect()).collect();
        for connection in &mut held {
            connection.send("GET /pid HT");
        }
        let before = cpu_time(router.pid());
        std::thread::sleep(Duration::from_millis(1000));
        let used = cpu_time(router.pid()) - before;
        assert!(used <= Duration::from_millis(300), "{used:?} of CPU in 1 s");
        for connection in &mut held {
            connection.send("TP/1.1\r\nHost: x\r\n\r\n");
        }
        for connection in &mut held {
            assert_eq!(connection.response().status, 200);
        }
    }

    fn a_unix_socket_is_served(engine) {
        let dir = TempDir::new();
        let path = dir.path().join("router.sock");
        let mut router = Router::on(engine).listen(&format!("unix:{}", path.display())).start();
        assert_eq!(router.address(0), format!("unix:{}", path.display()));
        assert_eq!(Connection::unix(&path).get("/pid").status, 200);
        let answer = Connection::unix(&path).post("/echo", &[7; 100_000]);
        assert_eq!(answer.body, [7; 100_000]);
        router.stop();
        assert!(!path.exists(), "the socket's file goes with the router");
    }

    fn a_stale_unix_socket_is_taken_over(engine) {
        let dir = TempDir::new();
        let path = dir.path().join("router.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let _router = Router::on(engine).listen(&format!("unix:{}", path.display())).start();
        assert_eq!(Connection::unix(&path).get("/pid").status, 200);
    }

    fn a_port_alone_is_both_address_families(engine) {
        let router = Router::on(engine).listen(":0").start();
        assert_eq!(Connection::to(("127.0.0.1", router.port())).get("/pid").status, 200);
        if std::net::TcpListener::bind("[::1]:0").is_err() {
            eprintln!("skipped in part: no IPv6 here");
            return;
        }
        assert_eq!(Connection::to(("::1", router.port())).get("/pid").status, 200);
    }

    fn several_listeners_serve_one_cluster(engine) {
        let router = Router::on(engine).option("--listen", "127.0.0.1:0").start();
        let second = router.address(1);
        assert_ne!(second, router.address(0));
        assert_eq!(router.get("/pid").status, 200);
        assert_eq!(Connection::to(&*second).get("/pid").status, 200);
    }

    fn accepted_sockets_reach_the_worker_without_delay_and_unblocked(engine) {
        // A blocking socket would freeze the worker while a slow reader lets 30 MB wait.
        let router = Router::on(engine).workers(1).start();
        let mut slow = router.connect();
        let body = vec![b'z'; 30 << 20];
        slow.send(crate::harness::http::request("POST", "/echo", &body));
        let began = Instant::now();
        for _ in 0..20 {
            assert_eq!(router.get("/pid").status, 200);
        }
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        assert_eq!(slow.response().body.len(), body.len());
    }
}

/// A worker that only says it is ready once the directory's file `ready` is there.
fn never_ready(engine: crate::harness::Engine, dir: &TempDir) -> crate::harness::Builder {
    Router::on(engine)
        .workers(1)
        .arg("--wait-ready")
        .option("--listen-timeout", 60_000)
        .env("READY_FILE", dir.path().join("ready").display())
}

/// A one-line reason, and closed.
#[track_caller]
fn refused(mut connection: Connection, status: u16) {
    let answer = connection.response();
    assert_eq!(answer.status, status, "{answer:?}");
    assert!(!answer.body.is_empty() && answer.text().trim().lines().count() == 1, "{answer:?}");
    assert!(connection.rest().is_empty());
}
