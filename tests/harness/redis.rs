//! A Redis of the test's own, on a free port of the loopback: Debian's, with its data in a directory
//! that goes with it. It can be stopped and started again with what it had, and held still.

use super::debian::Package;
use super::http::free_port;
use super::log::Log;
use super::plain::end;
use super::process::signal;
use super::{SOON, TempDir, until};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};

const REDIS: Package = Package {
    program: "redis-server",
    packages: &["redis-server", "redis-tools", "libjemalloc2", "liblzf1"],
    trial: &["--version"],
};

/// A running Redis. Dropping it ends it, and a failing test shows what it said.
pub struct Redis {
    pub port: u16,
    child: Child,
    log: Log,
    options: Vec<String>,
    password: Option<String>,
    _directory: TempDir,
}

impl Redis {
    /// One that keeps what it is told, whatever becomes of it.
    #[track_caller]
    pub fn start() -> Self {
        Self::with(&[], None)
    }

    /// One that asks for a password.
    #[track_caller]
    pub fn asking_for(password: &str) -> Self {
        Self::with(&["--requirepass", password], Some(password))
    }

    #[track_caller]
    pub fn with(options: &[&str], password: Option<&str>) -> Self {
        let (port, directory) = (free_port(), TempDir::new());
        let port_text = port.to_string();
        let dir = directory.path().display().to_string();
        let own = ["--bind", "127.0.0.1", "--port", &port_text, "--dir", &dir, "--save", ""];
        let kept = ["--appendonly", "yes", "--daemonize", "no"];
        let options: Vec<String> =
            own.iter().chain(&kept).chain(options).map(|&word| word.to_owned()).collect();
        let log = Log::default();
        let child = spawn(&options, &log);
        let password = password.map(str::to_owned);
        let mut redis = Self { port, child, log, options, password, _directory: directory };
        redis.answers();
        redis
    }

    /// One that has what another has, in step with it.
    #[track_caller]
    pub fn replica_of(master: &Self) -> Self {
        let replica = Self::with(&["--replicaof", "127.0.0.1", &master.port.to_string()], None);
        replica.is_in_step();
        replica
    }

    /// Waits until this replica has what its master has.
    #[track_caller]
    pub fn is_in_step(&self) {
        until("the replica is in step", SOON, || {
            let info = self.ask(&["INFO", "replication"]);
            info.as_str().unwrap().contains("master_link_status:up").then_some(())
        });
    }

    /// As `--bus` takes it.
    pub fn url(&self) -> String {
        let who = self.password.as_ref().map(|password| format!(":{password}@"));
        format!("redis://{}127.0.0.1:{}", who.unwrap_or_default(), self.port)
    }

    /// Stopped as a service manager does it; what it was told is on the disk.
    pub fn stop(&mut self) {
        end(&mut self.child);
    }

    /// There again, with what it had.
    #[track_caller]
    pub fn start_again(&mut self) {
        self.child = spawn(&self.options, &self.log);
        self.answers();
    }

    pub fn hold_still(&self) {
        signal(self.child.id(), Signal::SIGSTOP);
    }

    pub fn let_go(&self) {
        signal(self.child.id(), Signal::SIGCONT);
    }

    /// What it answers to a command.
    #[track_caller]
    pub fn ask(&self, words: &[&str]) -> Value {
        self.ask_with(self.password.as_deref(), words)
    }

    /// The same, with a password of its own.
    #[track_caller]
    pub fn ask_as(&self, password: &str, words: &[&str]) -> Value {
        self.ask_with(Some(password), words)
    }

    #[track_caller]
    fn ask_with(&self, password: Option<&str>, words: &[&str]) -> Value {
        let answer = ask(self.port, password, words);
        answer.unwrap_or_else(|error| panic!("Redis says {error} to {words:?}"))
    }

    /// Connections of clients, but for the one that asks.
    pub fn connections(&self) -> usize {
        let list = self.ask(&["CLIENT", "LIST"]);
        list.as_str().unwrap().lines().count() - 1
    }

    #[track_caller]
    fn answers(&mut self) {
        let port = self.port;
        until("Redis answers", SOON, || {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "Redis ended: {ended:?} {}", self.log.text());
            let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
            stream.set_read_timeout(Some(SOON)).unwrap();
            send(&mut stream, &["PING"]);
            let mut first = [0; 8];
            let length = stream.read(&mut first).ok()?;
            let said = &first[..length];
            (said.starts_with(b"+PONG") || said.starts_with(b"-NOAUTH")).then_some(())
        });
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.let_go();
        end(&mut self.child);
        if std::thread::panicking() {
            eprintln!("--- Redis' output ---\n{}---", self.log.text());
        }
    }
}

/// A sentinel that watches a Redis and calls it `main`. Dropping it ends it.
pub struct Sentinel {
    pub port: u16,
    child: Child,
    _directory: TempDir,
}

impl Sentinel {
    #[track_caller]
    pub fn of(redis: &Redis) -> Self {
        let (port, directory) = (free_port(), TempDir::new());
        let watched = format!(
            "sentinel monitor main 127.0.0.1 {} 1\nsentinel down-after-milliseconds main 2000\n",
            redis.port
        );
        let config = format!("bind 127.0.0.1\nport {port}\n{watched}");
        let config = directory.write("sentinel.conf", &config).display().to_string();
        let child = spawn(&[config, "--sentinel".to_owned()], &Log::default());
        until("the sentinel answers", SOON, || {
            TcpStream::connect(("127.0.0.1", port)).is_ok().then_some(())
        });
        Self { port, child, _directory: directory }
    }

    /// Has it make another Redis the master. Gives that one's port, when it is.
    #[track_caller]
    pub fn fail_over(&self) -> u16 {
        let before = self.master();
        // It has to have heard of a replica first.
        until("the sentinel begins", SOON, || {
            ask(self.port, None, &["SENTINEL", "FAILOVER", "main"]).ok()
        });
        until("another is master", SOON, || Some(self.master()).filter(|master| *master != before))
    }

    fn master(&self) -> u16 {
        let answer = ask(self.port, None, &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main"]);
        answer.unwrap()[1].as_str().unwrap().parse().unwrap()
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

fn spawn(options: &[String], log: &Log) -> Child {
    let mut child = REDIS
        .installed()
        .command()
        .args(options)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("Redis starts");
    log.follow(child.stdout.take().unwrap());
    log.follow(child.stderr.take().unwrap());
    child
}

/// What the server on a port answers to a command; its errors in its own words.
#[track_caller]
fn ask(port: u16, password: Option<&str>, words: &[&str]) -> Result<Value, String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("Redis is there");
    stream.set_read_timeout(Some(SOON)).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    if let Some(password) = password {
        send(&mut stream, &["AUTH", password]);
        assert_eq!(answer(&mut reader)?, "OK");
    }
    send(&mut stream, words);
    answer(&mut reader)
}

fn send(stream: &mut TcpStream, words: &[&str]) {
    let mut command = format!("*{}\r\n", words.len());
    for word in words {
        command.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    stream.write_all(command.as_bytes()).expect("Redis reads");
}

/// An answer in the older of the protocols.
fn answer(reader: &mut impl BufRead) -> Result<Value, String> {
    let mut line = String::new();
    reader.read_line(&mut line).expect("Redis answers");
    let line = line.trim_end();
    let (kind, rest) = line.split_at(1);
    let length = || rest.parse::<i64>().unwrap();
    Ok(match kind {
        "+" => json!(rest),
        "-" => return Err(rest.to_owned()),
        ":" => json!(length()),
        "$" if length() < 0 => Value::Null,
        "$" => {
            let mut bytes = vec![0; length() as usize + 2];
            reader.read_exact(&mut bytes).unwrap();
            bytes.truncate(bytes.len() - 2);
            json!(String::from_utf8_lossy(&bytes))
        }
        "*" if length() < 0 => Value::Null,
        "*" => (0..length()).map(|_| answer(reader)).collect::<Result<_, _>>()?,
        other => panic!("not an answer: {other}{rest}"),
    })
}
