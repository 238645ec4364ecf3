//! What a service manager passes to the router and is told by it: listening sockets, readiness,
//! reloads, the watchdog; and logs that were moved away.

use crate::both_engines;
use crate::harness::http::request;
use crate::harness::process::fds;
use crate::harness::router::Builder;
use crate::harness::{Connection, Engine, Router, SOON, TempDir};
use nix::sys::signal::Signal;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

fn get(target: &str) -> Vec<u8> {
    request("GET", target, b"")
}

fn steady(engine: Engine) -> Builder {
    Router::steady(engine).no_listen()
}

/// A socket of the manager's, as it listens before and after any router.
fn socket() -> (TcpListener, u16) {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    (socket, port)
}

/// Whether the process has this descriptor of ours, under whatever number.
fn has(pid: u32, ours: RawFd) -> bool {
    let inode = fs::read_link(format!("/proc/self/fd/{ours}")).unwrap();
    fds(pid).into_values().any(|target| Path::new(&target) == inode)
}

#[track_caller]
fn served(port: u16) {
    assert_eq!(Connection::tcp(port).get("/pid").status, 200);
}

both_engines! {
    fn a_connection_made_before_the_router_started_is_served(engine) {
        let (socket, port) = socket();
        let mut early = Connection::tcp(port);
        early.send(get("/pid"));
        let router = steady(engine).env("PORT", port).socket(&socket).start();
        assert!(router.pids().contains(&early.response().pid()));
    }

    fn the_applications_own_port_is_the_passed_one_and_no_worker_has_it(engine) {
        let (socket, port) = socket();
        let router = steady(engine).env("PORT", port).socket(&socket).option("--threads", 2).start();
        assert!(has(router.pid(), socket.as_raw_fd()), "it listens on a socket of its own");
        for name in ["LISTEN_FDS", "LISTEN_PID"] {
            let target = format!("/environment?name={name}");
            assert_eq!(Connection::tcp(port).get(&target).text(), "", "{name}");
        }
        assert!(router.pids().into_iter().all(|pid| !has(pid, socket.as_raw_fd())));
    }

    fn what_listen_names_is_the_passed_one(engine) {
        let (socket, port) = socket();
        let router = Router::on(engine)
            .listen(&format!("127.0.0.1:{port}"))
            .socket(&socket)
            .option("--threads", 2)
            .start();
        assert!(has(router.pid(), socket.as_raw_fd()));
        served(port);
    }

    fn for_an_application_that_never_listens_it_is_the_pool(engine) {
        let (socket, port) = socket();
        let router = Router::on(engine).no_listen().socket(&socket).start();
        assert_eq!(router.port(), port);
        served(port);
    }

    fn the_next_router_serves_the_same_socket(engine) {
        let (socket, port) = socket();
        for _ in 0..2 {
            let mut router = steady(engine).env("PORT", port).socket(&socket).start();
            served(port);
            let (status, _) = router.stop();
            assert!(status.success());
        }
        // Between two of them, too, a client is let in, and waits.
        let mut between = Connection::tcp(port);
        between.send(get("/pid"));
        let router = steady(engine).env("PORT", port).socket(&socket).start();
        assert!(router.pids().contains(&between.response().pid()));
    }

    fn a_unix_socket_serves_too_and_its_file_stays(engine) {
        let directory = TempDir::new();
        let path = directory.path().join("socket");
        let socket = UnixListener::bind(&path).unwrap();
        for _ in 0..2 {
            let mut router = Router::on(engine)
                .listen(&format!("unix:{}", path.display()))
                .socket(&socket)
                .start();
            let mut client = UnixStream::connect(&path).unwrap();
            client.set_read_timeout(Some(SOON)).unwrap();
            client.write_all(&get("/pid")).unwrap();
            let mut head = [0; 12];
            client.read_exact(&mut head).unwrap();
            assert_eq!(&head, b"HTTP/1.1 200");
            router.stop();
        }
        assert!(path.exists());
    }

    fn it_crosses_an_upgrade(engine) {
        let (socket, port) = socket();
        let mut router = steady(engine).env("PORT", port).socket(&socket).start();
        for n in 1..=2 {
            router.signal(Signal::SIGUSR2);
            router.event_number("upgraded", n);
            served(port);
            assert!(has(router.pid(), socket.as_raw_fd()));
        }
        router.stop();
        let _next = steady(engine).env("PORT", port).socket(&socket).start();
        served(port);
    }
}

#[test]
fn what_was_passed_to_another_process_is_left_alone() {
    let router = steady(Engine::Portable).env("LISTEN_FDS", 1).env("LISTEN_PID", 1).start();
    router.lives();
}

#[test]
fn what_cannot_be_listened_on_is_named() {
    let datagram = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = datagram.local_addr().unwrap().to_string();
    let (status, said) = steady(Engine::Portable).socket(&datagram).fails();
    assert_eq!(status.code(), Some(1));
    assert!(said.contains("descriptor 3") && said.contains(&address), "{said}");
    assert!(said.contains("not a stream socket"), "{said}");
}
