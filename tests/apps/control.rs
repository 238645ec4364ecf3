//! Who speaks to the daemon, and what he says.

use crate::harness::process::{alive, signal};
use crate::harness::{Home, SOON, TempDir, until};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Stdio;

/// So many clients at once, half of which make no sense.
const CLIENTS: usize = 50;

#[test]
fn garbage_and_silence_do_not_keep_others_from_being_served() {
    let home = Home::new();
    home.router("ping").well();
    let socket = home.path().join("daemon.sock");
    let mut silent = Vec::new();
    let mut wild = Vec::new();
    for n in 0..CLIENTS / 2 {
        let mut client = UnixStream::connect(&socket).unwrap();
        client.set_read_timeout(Some(SOON)).unwrap();
        let said: &[u8] = match n % 5 {
            0 => b"",
            1 => b"{\"router\":1,\"version\":\"0.1.0\",\"order\":{\"do\":",
            2 => b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            3 => b"\xff\x00\xfe\n",
            _ => b"{\"router\":99,\"version\":\"9.9.9\",\"order\":{\"do\":\"list\"}}\n",
        };
        client.write_all(said).unwrap();
        if said.ends_with(b"\n") { wild.push(client) } else { silent.push(client) }
    }
    let mut served: Vec<_> = (0..CLIENTS / 2)
        .map(|n| {
            let word = if n % 2 == 0 { "ping" } else { "jlist" };
            let mut command = home.command();
            command.arg(word).stdout(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for client in &mut served {
        assert!(client.wait().unwrap().success());
    }
    for mut client in wild {
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        let answer: Value = serde_json::from_str(&answer).unwrap();
        let error = answer["error"].as_str().unwrap();
        assert!(error.contains("protocol 1"), "{error}");
    }
    assert!(alive(home.daemon().unwrap()));
    // Whoever says nothing is sent away.
    for mut client in silent {
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert!(answer.contains("nothing was asked") || answer.contains("no question"), "{answer}");
    }
    home.router("ping").well();
}

#[test]
fn another_user_is_refused() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can become another user");
        return;
    }
    let home = Home::new();
    home.router("ping").well();
    // Past the permissions of directories, to the socket's own and to the daemon's eyes.
    let open = |path: &std::path::Path| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    open(&home.path());
    open(home.path().parent().unwrap());
    let nobody = |home: &Home| {
        use std::os::unix::process::CommandExt;
        let mut command = home.command();
        command.arg("jlist").uid(65534).gid(65534);
        home.give(&mut command)
    };
    nobody(&home).fails(&["belongs to another user"]);
    let elsewhere = |home: &Home| {
        use std::os::unix::process::CommandExt;
        let closed = home.here.path().join("closed");
        std::fs::create_dir(&closed).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        std::fs::set_permissions(&closed, mode).unwrap();
        let mut command = home.command();
        command.arg("jlist").env("ROUTER_HOME", closed.join("r")).uid(65534).gid(65534);
        home.give(&mut command)
    };
    elsewhere(&home).fails(&["closed is closed to this user", "ROUTER_HOME"]);
    {
        use std::os::unix::fs::PermissionsExt;
        let socket = home.path().join("daemon.sock");
        std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o777)).unwrap();
    }
    nobody(&home).fails(&["user 65534 may not speak to this router"]);
}

/// A daemon of another version, and something that is none.
#[test]
fn whoever_else_answers_is_told_from_a_daemon() {
    let home = Home::new();
    std::fs::create_dir_all(home.path()).unwrap();
    let socket = home.path().join("daemon.sock");
    for (said, words) in [
        (
            &b"{\"router\":7,\"version\":\"5.0.0\",\"error\":\"eh?\"}\n"[..],
            &["router 5.0.0 and speaks protocol 7", "protocol 1"][..],
        ),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", &["is no router"]),
        (b"", &["ended before it had answered"]),
    ] {
        let _gone = std::fs::remove_file(&socket);
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let server = std::thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            let mut asked = [0; 1 << 12];
            let _read = client.read(&mut asked).unwrap();
            client.write_all(said).unwrap();
        });
        home.router("jlist").fails(words);
        server.join().unwrap();
    }
    std::fs::remove_file(&socket).unwrap();
}

/// What ends the difference between two versions works across it.
#[test]
fn ping_and_kill_cross_versions() {
    let home = Home::new();
    home.router("ping").well();
    let ask = |order: &str| {
        let mut client = UnixStream::connect(home.path().join("daemon.sock")).unwrap();
        let line = format!("{{\"router\":9,\"version\":\"9.9.9\",\"order\":{order}}}\n");
        client.write_all(line.as_bytes()).unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        serde_json::from_str::<Value>(&answer).unwrap()
    };
    assert_eq!(ask(r#"{"do":"ping","for":"fun"}"#)["done"]["pid"], home.daemon().unwrap());
    assert!(ask(r#"{"do":"list"}"#)["error"].as_str().unwrap().contains("protocol 9"));
    let daemon = home.daemon().unwrap();
    assert_eq!(ask(r#"{"do":"kill"}"#)["error"], Value::Null);
    until("its end", SOON, || (!alive(daemon)).then_some(()));

    // The other way round: a daemon of a version to come.
    let socket = home.path().join("daemon.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let server = std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let mut asked = [0; 1 << 12];
        let _read = client.read(&mut asked).unwrap();
        std::fs::remove_file(socket).unwrap();
        client.write_all(b"{\"router\":7,\"version\":\"5.0.0\",\"done\":{}}\n").unwrap();
    });
    assert!(home.router("kill").well().out.contains("all apps have ended"));
    server.join().unwrap();
}

#[test]
fn nobody_else_can_look_into_the_home() {
    use std::os::unix::fs::PermissionsExt;
    let home = Home::new();
    home.router("ping").well();
    for directory in [home.path(), home.path().join("logs"), home.path().join("apps")] {
        let mode = std::fs::metadata(&directory).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "{}", directory.display());
    }
    let command = std::fs::read(format!("/proc/{}/cmdline", home.daemon().unwrap())).unwrap();
    assert!(command.starts_with(b"router\0daemon\0"), "{}", String::from_utf8_lossy(&command));
    // So that what is meant for all routers reaches it, and does it no harm.
    let daemon = home.daemon().unwrap();
    for sent in [Signal::SIGHUP, Signal::SIGTTIN, Signal::SIGTTOU, Signal::SIGUSR2] {
        signal(daemon, sent);
    }
    // The last has it go on as another program.
    until("the next program", SOON, || {
        let log = std::fs::read_to_string(home.path().join("daemon.log")).unwrap();
        (log.matches("daemon ready").count() == 2).then_some(())
    });
    assert!(home.router("ping").well().out.contains(&format!("process {daemon}")));
}

#[test]
fn a_home_that_is_not_ones_own_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let home = Home::new();
    let shared = TempDir::new();
    std::fs::set_permissions(shared.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let mut command = home.command();
    command.arg("ping").env("ROUTER_HOME", shared.path());
    home.give(&mut command).fails(&["others may write there", "ROUTER_HOME"]);
    let mut command = home.command();
    command.arg("ping").env("ROUTER_HOME", shared.path().join("x".repeat(120)));
    home.give(&mut command).fails(&["ROUTER_HOME"]);
}
