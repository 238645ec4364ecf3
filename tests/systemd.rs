//! What a service manager passes to the router and is told by it: listening sockets, readiness,
//! reloads, the watchdog; and logs that were moved away.

use crate::both_engines;
use crate::harness::http::request;
use crate::harness::process::fds;
use crate::harness::router::Builder;
use crate::harness::{
    Connection, Engine, Router, SOON, Session, TempDir, binary, fixture, repository, until,
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The socket a service manager listens on for what its service has to say.
struct Manager {
    _directory: TempDir,
    path: PathBuf,
    socket: UnixDatagram,
    said: Vec<String>,
}

impl Manager {
    fn new() -> Self {
        let directory = TempDir::new();
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self { _directory: directory, path, socket, said: Vec::new() }
    }

    fn service(&self, router: Builder) -> Builder {
        router.env("NOTIFY_SOCKET", self.path.display())
    }

    /// All assignments so far, in order.
    fn heard(&mut self) -> &[String] {
        let mut buffer = [0; 4096];
        while let Ok(n) = self.socket.recv(&mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..n]).into_owned();
            self.said.extend(text.lines().map(str::to_owned));
        }
        &self.said
    }

    fn count(&mut self, word: &str) -> usize {
        self.heard().iter().filter(|said| *said == word).count()
    }

    #[track_caller]
    fn hears(&mut self, word: &str, times: usize) {
        until(word, SOON, || (self.count(word) >= times).then_some(()));
    }

    /// What concerns its state, in order.
    fn states(&mut self) -> Vec<&str> {
        let states = ["READY=1", "RELOADING=1", "STOPPING=1"];
        self.heard().iter().map(String::as_str).filter(|said| states.contains(said)).collect()
    }
}

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

    fn a_program_that_reads_the_settings_has_it_neither(engine) {
        let (socket, port) = socket();
        let directory = TempDir::new();
        let seen = directory.path().join("seen");
        let file = directory.write("ecosystem.config.js", &format!(
            "const {{ readdirSync, readlinkSync, appendFileSync }} = require('fs');\n\
             const link = (fd) => {{ try {{ return readlinkSync(`/proc/self/fd/${{fd}}`); }} catch {{}} }};\n\
             const names = Object.keys(process.env).filter((name) => name.startsWith('LISTEN_'));\n\
             const open = readdirSync('/proc/self/fd').map(link);\n\
             appendFileSync({seen:?}, JSON.stringify({{ names, open }}) + '\\n');\n\
             module.exports = {{ script: {script:?} }};\n",
            script = fixture("sticky"),
        ));
        let router = Router::on(engine)
            .path(&file)
            .listen(&format!("127.0.0.1:{port}"))
            .socket(&socket)
            .env("LISTEN_FDNAMES", "http")
            .start();
        // Once more for the trial, and for the router after it, which have every socket there is.
        router.signal(Signal::SIGUSR2);
        router.event("upgraded");
        served(port);
        let text = fs::read_to_string(&seen).unwrap();
        assert_eq!(text.lines().count(), 3, "{text}");
        for line in text.lines() {
            let seen: Value = serde_json::from_str(line).unwrap();
            assert_eq!(seen["names"], json!([]));
            let open = seen["open"].as_array().unwrap().iter().filter_map(Value::as_str);
            let sockets: Vec<_> = open.filter(|target| target.starts_with("socket:")).collect();
            assert!(sockets.is_empty(), "{sockets:?}");
        }
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

    fn an_address_of_ipv4_is_any_address_too(engine) {
        let socket = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let router = Router::on(engine).listen(&format!(":{port}")).socket(&socket).start();
        assert!(router.pids().contains(&Connection::tcp(port).get("/pid").pid()));
    }

    fn any_address_is_what_the_manager_means_by_a_port_alone(engine) {
        let socket = TcpListener::bind("[::]:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let mut router = Router::on(engine).listen(&format!(":{port}")).socket(&socket).start();
        assert!(has(router.pid(), socket.as_raw_fd()));
        served(port);
        router.stop();
        // The application names a port, and no address.
        let plain = repository().join("tests/node/apps/plain/http.js");
        let own = Router::on(engine).path(&plain).no_listen().env("PORT", port).socket(&socket).start();
        assert!(has(own.pid(), socket.as_raw_fd()));
        assert_eq!(Connection::tcp(port).get("/no/such/page").status, 404, "the application's");
    }

    fn for_an_application_that_never_listens_it_is_the_pool(engine) {
        let (socket, port) = socket();
        let router = Router::on(engine).no_listen().socket(&socket).start();
        assert_eq!(router.port(), port);
        served(port);
    }

    fn what_nobody_asks_for_is_named(engine) {
        let (socket, port) = socket();
        let router = Router::on(engine).socket(&socket).env("LISTEN_FDNAMES", "spare").start();
        let named = "nobody listens on a socket that was passed: its clients wait";
        let line = router.event(named);
        assert_eq!(line.string("name"), Some("spare"));
        assert_eq!(line.string("address"), Some(&*format!("127.0.0.1:{port}")));
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

    fn it_is_ready_when_a_worker_is(engine) {
        let mut manager = Manager::new();
        let directory = TempDir::new();
        let ready = directory.path().join("ready");
        let router = manager
            .service(Router::on(engine))
            .env("READY_FILE", ready.display())
            .arg("--wait-ready")
            .option("--listen-timeout", 60_000)
            .start_early();
        router.output("that it is up", |l| (l == "worker is up").then_some(()));
        assert_eq!(manager.count("READY=1"), 0, "{:?}", manager.said);
        fs::write(&ready, "").unwrap();
        router.ready(2);
        manager.hears("STATUS=2 of 2 workers ready", 1);
        assert_eq!(manager.states(), ["READY=1"]);
    }

    fn a_reload_and_its_end_are_announced_and_a_stop(engine) {
        let mut manager = Manager::new();
        let mut router = manager.service(steady(engine)).start();
        router.signal(Signal::SIGHUP);
        router.event("reload done");
        manager.hears("READY=1", 2);
        assert_eq!(manager.states(), ["READY=1", "RELOADING=1", "READY=1"]);
        // Type=notify-reload wants the time along with it.
        assert!(manager.said.iter().any(|said| said.starts_with("MONOTONIC_USEC=")));
        router.stop();
        assert_eq!(manager.states(), ["READY=1", "RELOADING=1", "READY=1", "STOPPING=1"]);
    }

    fn whoever_drains_is_in_the_status(engine) {
        let mut manager = Manager::new();
        let router = manager.service(Router::on(engine)).workers(1).start();
        manager.hears("STATUS=1 of 1 workers ready", 1);
        let session = Session::open(router.port()).unwrap();
        session.join().unwrap();
        router.signal(Signal::SIGHUP);
        manager.hears("STATUS=1 of 1 workers ready, 1 draining", 1);
        // Engine.IO's close: the only session.
        session.post("1").unwrap();
        manager.hears("STATUS=1 of 1 workers ready", 2);
    }

    fn a_reload_that_fails_is_over_too(engine) {
        let mut manager = Manager::new();
        let directory = TempDir::new();
        let mode = directory.path().join("mode");
        let router = manager.service(steady(engine)).env("MODE_FILE", mode.display()).start();
        fs::write(&mode, "exit 1").unwrap();
        router.signal(Signal::SIGHUP);
        router.event("reload failed");
        manager.hears("READY=1", 2);
        assert_eq!(manager.states(), ["READY=1", "RELOADING=1", "READY=1"]);
    }

    fn an_upgrade_is_announced_like_a_reload_done_or_not(engine) {
        let mut manager = Manager::new();
        let directory = TempDir::new();
        let program = directory.path().join("router");
        fs::copy(binary(), &program).unwrap();
        let router = manager.service(steady(engine)).binary(&program).start();
        router.signal(Signal::SIGUSR2);
        router.event("upgraded");
        manager.hears("READY=1", 2);
        fs::remove_file(&program).unwrap();
        router.signal(Signal::SIGUSR2);
        router.event("upgrade failed");
        manager.hears("READY=1", 3);
        let states = ["READY=1", "RELOADING=1", "READY=1", "RELOADING=1", "READY=1"];
        assert_eq!(manager.states(), states);
    }

    fn the_watchdog_is_fed(engine) {
        const LIMIT: Duration = Duration::from_secs(1);
        let mut manager = Manager::new();
        let router = manager
            .service(steady(engine))
            .option("--threads", 2)
            .env("WATCHDOG_USEC", LIMIT.as_micros())
            .start();
        let in_time = |manager: &mut Manager| {
            let fed = manager.count("WATCHDOG=1");
            for n in 1..=4 {
                until("it is fed in time", LIMIT, || {
                    (manager.count("WATCHDOG=1") >= fed + n).then_some(())
                });
            }
        };
        in_time(&mut manager);
        // It outlives an upgrade.
        router.signal(Signal::SIGUSR2);
        router.event("upgraded");
        in_time(&mut manager);
    }

    fn logs_that_were_moved_are_opened_again(engine) {
        let directory = TempDir::new();
        let (path, moved) = (directory.path().join("log"), directory.path().join("log.1"));
        let mut router = Router::on(engine).option("--log-file", path.display()).spawn();
        logged(&path, "worker ready", 2);
        logged(&path, "worker is up", 2);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o137, 0);
        fs::rename(&path, &moved).unwrap();
        router.signal(Signal::SIGUSR1);
        logged(&path, "logs reopened", 1);
        let before = fs::metadata(&moved).unwrap().len();
        router.signal(Signal::SIGHUP);
        logged(&path, "reload done", 1);
        logged(&path, "worker is up", 2);
        assert_eq!(fs::metadata(&moved).unwrap().len(), before, "the old file is left alone");
        // Again, after an upgrade.
        router.signal(Signal::SIGUSR2);
        logged(&path, "upgraded", 1);
        fs::rename(&path, &moved).unwrap();
        router.signal(Signal::SIGUSR1);
        logged(&path, "logs reopened", 1);
        router.signal(Signal::SIGTERM);
        assert!(router.wait(SOON).success());
        assert!(fs::read_to_string(&path).unwrap().contains("router stops"));
        assert_eq!(router.log.text(), "", "nothing goes elsewhere");
    }

    fn without_a_log_file_the_signal_does_no_harm(engine) {
        let router = Router::on(engine).spawn();
        // Before anybody waits for it, and after.
        router.event("router starts");
        router.signal(Signal::SIGUSR1);
        router.ready(2);
        router.signal(Signal::SIGUSR1);
        router.event("logs reopened");
        router.lives();
    }
}

/// Waits until the file has this many lines with these words.
#[track_caller]
fn logged(path: &Path, words: &str, times: usize) {
    until(words, SOON, || {
        let text = fs::read_to_string(path).unwrap_or_default();
        (text.lines().filter(|line| line.contains(words)).count() >= times).then_some(())
    });
}

#[test]
fn a_log_file_that_cannot_be_opened_is_named() {
    let router = Router::on(Engine::Portable).option("--log-file", "/nowhere/router.log");
    let (status, said) = router.fails();
    assert_eq!(status.code(), Some(2));
    assert!(said.contains("/nowhere/router.log"), "{said}");
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
    let router = steady(Engine::Portable).socket(&datagram).env("LISTEN_FDNAMES", "chat.socket");
    let (status, said) = router.fails();
    assert_eq!(status.code(), Some(2));
    assert!(said.contains("descriptor 3 \\\"chat.socket\\\" ("), "{said}");
    assert!(said.contains(&address), "{said}");
    assert!(said.contains("not a stream socket"), "{said}");
}
