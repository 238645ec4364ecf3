//! The router dies and another takes over its workers, while a service manager keeps the listening
//! socket open: nobody may notice.

use crate::both_engines;
use crate::harness::load::Load;
use crate::harness::polling::encode;
use crate::harness::process::{alive, fds, signal};
use crate::harness::router::Builder;
use crate::harness::{Connection, Engine, Router, SOON, Session, TempDir, client, until};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const CRASHES: usize = 10;
const BROADCASTS: u32 = 20;
/// More than one message of the keeper's holds.
const CROWD: usize = 300;

/// A service manager in small: it keeps the listening socket and the runtime directory, and starts
/// the router again when it has died.
struct Manager {
    engine: Engine,
    socket: TcpListener,
    command: fn(Builder, u16) -> Builder,
    /// The last one lives. Those before are kept for their logs: whose workers there ever were.
    routers: Vec<Router>,
    /// Removed when they have ended.
    runtime: TempDir,
}

impl Manager {
    #[track_caller]
    fn start(engine: Engine, command: fn(Builder, u16) -> Builder) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut manager =
            Self { engine, socket, runtime: TempDir::new(), command, routers: Vec::new() };
        manager.restart();
        manager.router().ready(2);
        manager
    }

    fn port(&self) -> u16 {
        self.socket.local_addr().unwrap().port()
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port())
    }

    fn router(&self) -> &Router {
        self.routers.last().unwrap()
    }

    #[track_caller]
    fn restart(&mut self) {
        let builder = Router::on(self.engine).socket(&self.socket).runtime(self.runtime.path());
        self.routers.push((self.command)(builder, self.port()).spawn());
    }

    fn crash(&mut self) {
        self.routers.last_mut().unwrap().crash();
    }

    /// The new router has every worker of the old one's.
    #[track_caller]
    fn all_adopted(&self, workers: &BTreeMap<u64, u32>) {
        self.router().event_number("adopted", workers.len());
        assert_eq!(&self.router().slots(), workers);
    }

    /// Ends the router; nothing any of them ever started is left.
    #[track_caller]
    fn stop(mut self) {
        let (status, _) = self.routers.last_mut().unwrap().stop();
        assert!(status.success(), "{status}");
        for pid in self.routers.iter().flat_map(Router::all_pids) {
            assert!(!alive(pid), "process {pid} is left behind");
        }
    }

    /// The directory that the router made for itself.
    fn directory(&self) -> PathBuf {
        let one = |path: &Path| fs::read_dir(path).unwrap().next().unwrap().unwrap().path();
        one(&one(self.runtime.path()))
    }
}

fn steady(builder: Builder, port: u16) -> Builder {
    builder.app("steady").no_listen().env("PORT", port)
}

fn sticky(builder: Builder, port: u16) -> Builder {
    builder.env("GENERATE_ID", "uuid").listen(&format!("127.0.0.1:{port}"))
}

/// How many connections to this port a process has open.
fn clients_of(pid: u32, port: u16) -> usize {
    const LISTENS: &str = "0A";
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let local = format!(":{port:04X}");
    let inode = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let ours = fields[1].ends_with(&local) && fields[3] != LISTENS;
        ours.then(|| format!("socket:[{}]", fields[9]))
    };
    let connections: BTreeSet<String> = table.lines().skip(1).filter_map(inode).collect();
    fds(pid).values().filter(|target| connections.contains(*target)).count()
}

/// A worker sends more than may wait around the death of its router.
#[track_caller]
fn holds_back(engine: Engine, stands_still: bool) {
    let mut manager = Manager::start(engine, steady);
    let workers = manager.router().slots();
    let mut connection = Connection::tcp(manager.port());
    connection.get("/pid");
    // 40 MiB, of which 32 MiB may wait.
    let emit = "/emit?messages=640&bytes=65536";
    if stands_still {
        signal(manager.router().pid(), Signal::SIGSTOP);
        connection.get(emit);
    }
    manager.crash();
    if !stands_still {
        connection.get(emit);
    }
    manager.restart();
    manager.all_adopted(&workers);
    let dropped = " messages were dropped while no router was there";
    let told = manager.router().log.find(SOON, |lines| {
        lines.iter().find_map(|l| l.string("message")?.strip_suffix(dropped)?.parse().ok())
    });
    let number: u32 = told.expect("it is said how many were dropped");
    // A few are in the buffers of the dead router's socket, and so with it.
    assert!((100..200).contains(&number), "{number} of 640");
    manager.stop();
}

both_engines! {
    fn ten_deaths_under_load_are_noticed_by_nobody(engine) {
        let mut manager = Manager::start(engine, steady);
        let workers = manager.router().slots();
        let mut load = Load::start(&manager.url(), &json!({ "broadcasts": "asked" }));
        for _ in 0..CRASHES {
            load.say(1);
            until("it is heard", SOON, || (load.report().count("behind") == 0).then_some(()));
            manager.crash();
            // They have to wait for the next router.
            load.say(BROADCASTS);
            std::thread::sleep(Duration::from_millis(300));
            manager.restart();
            manager.all_adopted(&workers);
            until("all are heard", SOON, || (load.report().count("behind") == 0).then_some(()));
        }
        load.stop().nothing_failed().nobody_left();
        // They are workers like any other.
        manager.router().signal(Signal::SIGHUP);
        manager.router().event("reload done");
        manager.router().nobody_drains();
        assert!(workers.values().all(|pid| !alive(*pid)), "the reload replaced them");
        manager.stop();
    }

    fn announced_sessions_are_known_to_the_next_router(engine) {
        let mut manager = Manager::start(engine, sticky);
        let workers = manager.router().slots();
        let sessions: Vec<(Session, u32)> = (0..8)
            .map(|_| {
                let session = Session::open(manager.port()).unwrap();
                session.join().unwrap();
                let pid = session.pid().unwrap();
                (session, pid)
            })
            .collect();
        for _ in 0..3 {
            manager.crash();
            manager.restart();
            manager.all_adopted(&workers);
            for (session, pid) in &sessions {
                assert_eq!(session.pid().unwrap(), *pid);
            }
        }
        // Each question counts the sockets of the cluster: these must be gone.
        for (session, _) in &sessions {
            assert_eq!(session.post("1").unwrap(), "ok");
        }
        client("everything", &manager.url(), &json!({ "workers": 2 }));
        manager.stop();
    }

    fn a_worker_that_died_meanwhile_is_replaced(engine) {
        let mut manager = Manager::start(engine, steady);
        let workers = manager.router().slots();
        manager.crash();
        signal(workers[&0], Signal::SIGKILL);
        until("it is gone", SOON, || (!alive(workers[&0])).then_some(()));
        manager.restart();
        manager.router().event_where("adopted", |l| l.number("pid") == Some(workers[&1].into()));
        let now = manager.router().ready(2);
        assert_eq!(now[&1], workers[&1]);
        assert_ne!(now[&0], workers[&0]);
        // And one that dies later.
        signal(workers[&1], Signal::SIGKILL);
        until("its replacement", SOON, || {
            manager.router().slots().get(&1).filter(|pid| **pid != workers[&1]).copied()
        });
        manager.stop();
    }

    fn a_client_in_the_middle_of_its_request_is_the_next_routers(engine) {
        let mut manager = Manager::start(engine, steady);
        let workers = manager.router().slots();
        let requests = ["G", "GET /pi", "GET /pid HTTP/1.1\r\nHost: x\r"];
        // The router does not wait for the end of the head: those with a whole line are a worker's.
        let kept = CROWD / 3 * 2;
        let mut slow: Vec<(Connection, &str)> = (0..CROWD)
            .map(|n| {
                let mut connection = Connection::tcp(manager.port());
                let said = requests[n % requests.len()];
                connection.send(said);
                (connection, said)
            })
            .collect();
        // By then the router has them, and waits for the rest.
        Connection::tcp(manager.port()).get("/pid");
        // An answer may come before the router has closed what it has handed over.
        until("it has these alone", SOON, || {
            (clients_of(manager.router().pid(), manager.port()) == kept).then_some(())
        });
        for _ in 0..2 {
            manager.crash();
            manager.restart();
            manager.all_adopted(&workers);
        }
        let taken = manager.router().event("clients of the router before this one taken over");
        assert_eq!(taken.number("clients"), Some(kept as u64));
        for (connection, said) in &mut slow {
            connection.send(&"GET /pid HTTP/1.1\r\nHost: x\r\n\r\n"[said.len()..]);
            let pid = connection.response().pid();
            assert!(workers.values().any(|worker| *worker == pid), "{pid}");
        }
        manager.stop();
    }

    fn a_worker_that_stands_still_comes_back_when_it_goes_on(engine) {
        let mut manager = Manager::start(engine, steady);
        let workers = manager.router().slots();
        signal(workers[&0], Signal::SIGSTOP);
        manager.crash();
        manager.restart();
        manager.router().event_where("adopted", |l| l.number("pid") == Some(workers[&1].into()));
        let mut connection = Connection::tcp(manager.port());
        assert_eq!(connection.get("/pid").pid(), workers[&1], "the other one serves meanwhile");
        signal(workers[&0], Signal::SIGCONT);
        manager.all_adopted(&workers);
        manager.stop();
    }

    fn a_router_with_adopted_workers_is_upgraded_and_dies_again(engine) {
        let mut manager = Manager::start(engine, sticky);
        let workers = manager.router().slots();
        // They know of each other by then: what a router has in its hands when it dies is lost, and
        // were that their first greeting, the next would come after five seconds.
        client("everything", &manager.url(), &json!({ "workers": 2 }));
        manager.crash();
        manager.restart();
        manager.all_adopted(&workers);
        manager.router().signal(Signal::SIGUSR2);
        manager.router().event("upgraded");
        assert_eq!(manager.router().slots(), workers);
        manager.crash();
        manager.restart();
        manager.all_adopted(&workers);
        client("everything", &manager.url(), &json!({ "workers": 2 }));
        manager.stop();
    }

    fn output_of_adopted_workers_is_read_on_and_none_of_it_blocks_them(engine) {
        let mut manager = Manager::start(engine, steady);
        let workers = manager.router().slots();
        // A connection of a worker's own, which needs no router.
        let mut connection = Connection::tcp(manager.port());
        let pid = connection.get("/pid").pid();
        manager.crash();
        for _ in 0..8 {
            assert_eq!(connection.get("/say?bytes=60000").pid(), pid, "more than a pipe holds");
        }
        manager.restart();
        manager.all_adopted(&workers);
        assert_eq!(connection.get("/say?bytes=33").pid(), pid);
        let line = "x".repeat(33);
        manager.router().output("what it was told to", |l| (l == line).then_some(()));
        manager.stop();
    }

    fn what_a_worker_holds_back_has_a_bound_and_what_is_given_up_is_said(engine) {
        holds_back(engine, false);
    }

    /// A kernel that still has the socket of a dead router open takes some of what is sent, and then no
    /// more; a router that stands still before it dies looks the same, for as long as one likes.
    fn what_the_kernel_had_no_room_for_when_the_router_died_is_held_back_too(engine) {
        holds_back(engine, true);
    }

    fn an_adopted_worker_that_hangs_is_recycled(engine) {
        let mut manager = Manager::start(engine, |builder, port| {
            steady(builder, port).option("--hang-timeout", 2)
        });
        let workers = manager.router().slots();
        manager.crash();
        manager.restart();
        manager.all_adopted(&workers);
        let mut connection = Connection::tcp(manager.port());
        let pid = connection.get("/pid").pid();
        connection.send("GET /hang HTTP/1.1\r\nHost: x\r\n\r\n");
        until("it is gone", SOON, || (!alive(pid)).then_some(()));
        until("another one serves", SOON, || {
            let now = manager.router().slots();
            (now.len() == 2 && !now.values().any(|other| *other == pid)).then_some(())
        });
        manager.stop();
    }

    fn without_another_router_the_workers_end_in_time(engine) {
        let mut manager = Manager::start(engine, |builder, port| {
            steady(builder, port).option("--orphan-timeout", "2s")
        });
        let workers = manager.router().pids();
        let mut connection = Connection::tcp(manager.port());
        let pid = connection.get("/pid").pid();
        let crashed = Instant::now();
        manager.crash();
        while crashed.elapsed() < Duration::from_millis(1200) {
            assert_eq!(connection.get("/pid").pid(), pid, "it serves whom it has");
            std::thread::sleep(Duration::from_millis(100));
        }
        until("the workers end", SOON, || (!workers.iter().any(|p| alive(*p))).then_some(()));
        assert!(crashed.elapsed() >= Duration::from_millis(1800), "{:?}", crashed.elapsed());
        // The next router finds nobody and starts its own.
        manager.restart();
        manager.router().ready(2);
        assert_eq!(manager.router().events("adopted"), 0);
        manager.stop();
    }

    fn with_no_time_given_the_workers_end_with_the_router(engine) {
        let mut manager = Manager::start(engine, |builder, port| {
            steady(builder, port).option("--orphan-timeout", 0)
        });
        let workers = manager.router().pids();
        manager.crash();
        until("the workers end", Duration::from_secs(3), || {
            (!workers.iter().any(|pid| alive(*pid))).then_some(())
        });
    }

    fn nobody_else_can_attach(engine) {
        let mut manager = Manager::start(engine, steady);
        let workers = manager.router().slots();
        manager.crash();
        manager.restart();
        manager.all_adopted(&workers);
        let directory = manager.directory();
        let path = directory.join("attach");
        let secret = fs::read_to_string(directory.join("secret")).unwrap();
        let secret = secret.trim();
        let line = |secret: &str, pid: u32| {
            json!({ "secret": secret, "slot": 0, "generation": 1, "pid": pid, "lane": true })
        };
        let forged = |line: &Value| {
            let mut connection = Connection::unix(&path);
            connection.send(format!("{line}\n"));
            assert_eq!(connection.rest(), b"", "{line} was answered");
        };
        let (ours, worker) = (std::process::id(), workers[&0]);
        forged(&line("00000000000000000000000000000000", ours));
        forged(&line("00000000000000000000000000000000", worker));
        forged(&line(secret, ours));
        forged(&line(secret, worker));
        forged(&json!({ "secret": secret }));
        forged(&json!("x".repeat(900)));
        // By the worker itself, with all it knows: it is attached.
        let replay = format!(
            "/attach?path={}&line={}",
            encode(&path.display().to_string()),
            encode(&line(secret, worker).to_string())
        );
        let mut connection = until("a connection of the worker's", SOON, || {
            let mut connection = Connection::tcp(manager.port());
            (connection.get("/pid").pid() == worker).then_some(connection)
        });
        assert_eq!(connection.get(&replay).text(), "\"\"");
        let refused = until("each is logged", SOON, || {
            Some(manager.router().events("attach refused")).filter(|n| *n >= 7)
        });
        assert_eq!(refused, 7);
        assert_eq!(manager.router().slots(), workers, "the workers are untouched");
        client("connects", &manager.url(), &json!({}));
        for file in ["secret", "attach"] {
            use std::os::unix::fs::PermissionsExt;
            let mode = fs::metadata(directory.join(file)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{file}");
        }
        manager.stop();
    }

    fn a_deliberate_stop_leaves_nothing_to_adopt(engine) {
        let manager = Manager::start(engine, steady);
        let directory = manager.directory();
        assert!(directory.join("secret").exists());
        let Manager { runtime, mut routers, .. } = manager;
        routers[0].stop();
        assert!(!directory.exists(), "{directory:?} is left");
        assert!(runtime.path().exists());
    }
}

/// In /tmp anybody can be there first.
#[test]
fn a_place_that_others_prepared_is_not_trusted() {
    use std::os::unix::fs::PermissionsExt;
    let parent = TempDir::new();
    let prepared = parent.path().join(format!("router-{}", nix::unistd::geteuid()));
    fs::create_dir(&prepared).unwrap();
    fs::set_permissions(&prepared, fs::Permissions::from_mode(0o777)).unwrap();
    let (status, text) = Router::on(Engine::Portable).runtime(parent.path()).fails();
    assert_eq!(status.code(), Some(1), "{text}");
    assert!(text.contains("others may write there"), "{text}");
    assert!(fs::read_dir(prepared).unwrap().next().is_none(), "something was written there");
}
