//! The router's own upgrade: another program in the same process, and nobody notices.

use crate::both_engines;
use crate::harness::http::request;
use crate::harness::load::Load;
use crate::harness::process::{fds, resident, signal, state};
use crate::harness::{Connection, Router, SOON, TempDir, binary, fixture, until};
use crate::lane::total;
use nix::fcntl::OFlag;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::json;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Upgrades of one story.
const UPGRADES: usize = 20;
/// How much more memory the router may have after them, in bytes.
const MOST_GROWTH: u64 = 4 << 20;

fn upgrade(router: &Router) {
    let done = router.events("upgraded");
    router.signal(Signal::SIGUSR2);
    router.event_number("upgraded", done + 1);
}

/// So many connections that the router has accepted, each with what it has sent.
fn accepted(router: &Router, count: usize, sends: impl Fn(usize) -> String) -> Vec<Connection> {
    let connect = |n| {
        let mut connection = router.connect();
        connection.send(sends(n));
        connection
    };
    let connections = (0..count).map(connect).collect();
    until("all are accepted", SOON, || (backlog(router.port()) == 0).then_some(()));
    connections
}

/// Connections to a port that nobody has accepted yet.
fn backlog(port: u16) -> u64 {
    const LISTENS: &str = "0A";
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let place = format!(":{port:04X}");
    let lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let listening = lines.filter(|line| line[1].ends_with(&place) && line[3] == LISTENS);
    let waiting: Vec<u64> = listening
        .map(|line| u64::from_str_radix(line[4].split_once(':').unwrap().1, 16).unwrap())
        .collect();
    assert!(!waiting.is_empty(), "nobody listens on {port}");
    waiting.iter().sum()
}

fn sockets(router: &Router) -> usize {
    fds(router.pid()).values().filter(|target| target.starts_with("socket:")).count()
}

both_engines! {
    fn twenty_upgrades_under_load_and_nobody_notices(engine) {
        let mut router = Router::steady(engine).option("--threads", 2).start();
        let workers = router.slots();
        let load = Load::start(&router.url(), &json!({ "clients": 64, "broadcasts": 200 }));
        let (mut descriptors, mut memory) = (0, 0);
        for turn in 0..UPGRADES {
            upgrade(&router);
            if turn == 2 {
                // Both shards answer: their engines are up.
                (0..16).for_each(|_| router.lives());
                descriptors = fds(router.pid()).len();
                memory = resident(router.pid());
            }
        }
        let summary = load.stop();
        summary.nothing_failed().nobody_left();
        assert_eq!(router.slots(), workers, "the workers are the same");
        router.lives();
        until("no descriptor was kept", Duration::from_secs(5), || {
            (fds(router.pid()).len() <= descriptors).then_some(())
        });
        let grown = resident(router.pid()).saturating_sub(memory);
        assert!(grown < MOST_GROWTH, "{grown} bytes more than after the third");
        router.stop();
        let totals = router.event("router stops").string("totals").unwrap().to_owned();
        let accepted = totals.split(' ').find_map(|count| count.strip_prefix("accepted="));
        let accepted: u64 = accepted.unwrap().parse().unwrap();
        assert!(accepted >= summary.connections(), "{totals}: {}", summary.0);
    }

    fn whoever_asks_how_it_stands_is_answered_all_the_while(engine) {
        let directory = TempDir::new();
        let unix = directory.path().join("admin");
        for place in ["127.0.0.1:0".to_owned(), format!("unix:{}", unix.display())] {
            let router = Router::on(engine).option("--admin", &place).start();
            let tcp = place.starts_with("127").then(|| crate::admin::port(&router));
            let over = AtomicBool::new(false);
            std::thread::scope(|scope| {
                let asking = scope.spawn(|| {
                    let mut asked = 0;
                    while !over.load(Ordering::Relaxed) {
                        let mut probe =
                            tcp.map_or_else(|| Connection::unix(&unix), Connection::tcp);
                        assert_eq!(probe.get("/readyz").status, 200, "after {asked}");
                        asked += 1;
                    }
                    asked
                });
                (0..5).for_each(|_| upgrade(&router));
                over.store(true, Ordering::Relaxed);
                assert!(asking.join().unwrap() > 5);
            });
        }
        assert!(!unix.exists(), "it is taken away at the end");
    }

    fn a_program_that_cannot_take_over_leaves_the_old_one(engine) {
        let directory = TempDir::new();
        let program = directory.path().join("router");
        std::fs::copy(binary(), &program).unwrap();
        let router =
            Router::steady(engine).binary(&program).option("--admin", "127.0.0.1:0").start();
        let (workers, admin) = (router.slots(), crate::admin::port(&router));
        // The last two fail when everything is at rest: the old one goes on from there.
        for (bad, word) in [
            ("#!/bin/sh\necho no such thing >&2\nexit 1\n", "no such thing"),
            ("text", "started"),
            ("#!/bin/sh\necho ready\nread go\necho not mine >&2\nexit 1\n", "not mine"),
            ("#!/bin/sh\necho ready\nread go\nrm \"$0\"\necho taken\n", "exec"),
        ] {
            // The last has removed itself.
            let _ = std::fs::remove_file(&program);
            directory.write_script("router", bad);
            let failed = router.events("upgrade failed");
            router.signal(Signal::SIGUSR2);
            let line = router.event_number("upgrade failed", failed + 1);
            assert!(line.string("error").unwrap().contains(word), "{}", line.text);
            assert_eq!(Connection::tcp(admin).get("/readyz").status, 200, "at the same port");
            router.lives();
            assert_eq!(router.slots(), workers);
        }
        assert_eq!(router.events("upgraded"), 0);
        // Mended, it is taken.
        std::fs::copy(binary(), &program).unwrap();
        upgrade(&router);
        router.lives();
    }

    fn a_trial_that_will_not_end_is_ended(engine) {
        let directory = TempDir::new();
        let program = directory.path().join("router");
        let told = directory.path().join("pid");
        std::fs::copy(binary(), &program).unwrap();
        let router = Router::steady(engine).binary(&program).start();
        // Each is given up at another point; the last is taken, but is no longer there to be run. By
        // itself each would end long after this test has given up.
        for words in ["echo no", "echo ready\nread go\necho no", "echo ready\nread go\nrm \"$0\"\necho taken"] {
            let _ = std::fs::remove_file(&program);
            let pid = told.display();
            directory.write_script("router", &format!("#!/bin/sh\necho $$ > {pid}\n{words}\nexec sleep 60\n"));
            let failed = router.events("upgrade failed");
            router.signal(Signal::SIGUSR2);
            router.event_number("upgrade failed", failed + 1);
            let pid: u32 = std::fs::read_to_string(&told).unwrap().trim().parse().unwrap();
            until("the trial is gone, and reaped", SOON, || state(pid).is_none().then_some(()));
            router.lives();
        }
    }

    fn half_a_request_line_is_finished_after_the_upgrade(engine) {
        let router = Router::steady(engine).start();
        let mut connection = router.connect();
        connection.send(b"GET /pi");
        upgrade(&router);
        connection.send(b"d HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_eq!(connection.response().status, 200);
    }

    fn clients_that_wait_for_the_first_worker_are_answered_after_the_upgrade(engine) {
        const EACH: usize = 16;
        let directory = TempDir::new();
        let ready = directory.path().join("ready");
        let mut router = Router::on(engine)
            .arg("--wait-ready")
            .env("READY_FILE", ready.display())
            .start_early();
        // Without a session, with one that nobody knows, and with half a request line.
        let mut clients = accepted(&router, EACH, |_| "GET /pid HTTP/1.1\r\nHost: x\r\n\r\n".into());
        clients.extend(accepted(&router, EACH, |n| {
            format!("GET /pid?EIO=4&sid=nobodys{n} HTTP/1.1\r\nHost: x\r\n\r\n")
        }));
        let mut late = accepted(&router, EACH, |_| "GET /pi".into());
        upgrade(&router);
        late.iter_mut().for_each(|connection| connection.send("d HTTP/1.1\r\nHost: x\r\n\r\n"));
        assert_eq!(router.slots().len(), 0, "no worker is ready");
        directory.write("ready", "");
        for connection in clients.iter_mut().chain(&mut late) {
            connection.response().pid();
        }
        assert!(total(&mut router, "parked_for_worker") >= 2 * EACH as u64);
    }

    fn clients_that_wait_for_their_session_are_answered_by_its_worker_after_the_upgrade(engine) {
        const SESSIONS: usize = 16;
        let directory = TempDir::new();
        let program = directory.path().join("router");
        std::fs::copy(binary(), &program).unwrap();
        let mut router = Router::on(engine).env("GENERATE_ID", "asked").binary(&program).start();
        router.lives();
        // Such a client waits for half a second at most. So this trial costs no time: it says what a
        // trial has to say, and waits for the test before.
        let gate = directory.path().join("gate");
        mkfifo(&gate, Mode::S_IRWXU).unwrap();
        std::fs::remove_file(&program).unwrap();
        let script = format!(
            "#!/bin/sh\ncase $ROUTER_INHERIT in trial*) read x < {}; echo ready; read go; echo taken; exit;; \
             esac\nexec {} \"$@\"\n",
            gate.display(),
            binary().display(),
        );
        directory.write_script("router", &script);
        router.signal(Signal::SIGUSR2);
        let mut gate = until("the trial waits", SOON, || {
            OpenOptions::new().write(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(&gate).ok()
        });
        let workers = router.pids();
        workers.iter().for_each(|pid| signal(*pid, Signal::SIGSTOP));
        let before = sockets(&router);
        let mut handshakes = accepted(&router, SESSIONS, |n| {
            let id = format!("GET /socket.io/?EIO=4&transport=polling&id=session{n}");
            format!("{id} HTTP/1.1\r\nHost: x\r\n\r\n")
        });
        until("all are handed on", SOON, || (sockets(&router) <= before).then_some(()));
        let mut joins = accepted(&router, SESSIONS, |n| {
            let target = format!("/socket.io/?EIO=4&transport=polling&sid=session{n}");
            String::from_utf8(request("POST", &target, b"40")).unwrap()
        });
        gate.write_all(b"go\n").unwrap();
        router.event("upgraded");
        workers.iter().for_each(|pid| signal(*pid, Signal::SIGCONT));
        for connection in &mut handshakes {
            assert_eq!(connection.response().status, 200);
        }
        // A worker that does not have the session says 400.
        for connection in &mut joins {
            let answer = connection.response();
            assert_eq!((answer.status, &*answer.text()), (200, "ok"));
        }
        assert_eq!(router.pids(), workers, "they are the same");
        // One that waits on both sides of the upgrade is counted twice.
        assert!(total(&mut router, "parked_for_session") > SESSIONS as u64);
    }

    fn what_is_queued_for_a_stopped_worker_crosses_in_order(engine) {
        // 8 MiB, of which a socket's buffer holds a fraction of one.
        let router = Router::on(engine).workers(3).option("--balance", "round-robin").start();
        let workers = router.slots();
        let queue = json!({ "count": 4096, "size": 2048 });
        let (load, up) = Load::run("queue", &router.url(), &queue);
        upgrade(&router);
        signal(up["victim"].as_u64().unwrap() as u32, Signal::SIGCONT);
        let summary = load.stop();
        assert_eq!(summary.count("got"), summary.count("count"), "{}", summary.0);
        assert_eq!((summary.count("disorder"), summary.count("closes")), (0, 0), "{}", summary.0);
        assert_eq!(router.slots(), workers, "the workers are the same");
    }

    fn what_was_changed_in_the_settings_takes_effect(engine) {
        let directory = TempDir::new();
        let file = |instances: u8| {
            let script = fixture("steady");
            let script = script.to_str().unwrap();
            format!(r#"{{ "apps": [{{ "script": {script:?}, "instances": {instances}, "env": {{ "PORT": 0 }} }}] }}"#)
        };
        let path = directory.write("ecosystem.config.json", &file(2));
        let router = Router::on(engine).path(&path).workers(0).start_early();
        let before = router.ready(2);
        directory.write("ecosystem.config.json", &file(3));
        upgrade(&router);
        let after = router.ready(3);
        assert!(before.iter().all(|(slot, pid)| after[slot] == *pid), "{before:?} {after:?}");
    }
}
