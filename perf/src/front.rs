//! What stands in front of the workers: how each peer is started as its own documentation has it, which
//! of its processes are the front and which the workers, and how it is ended.

use std::fs;
use std::net::TcpListener;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, mkdtemp};
use serde::Serialize;
use tokio::time::{Instant, sleep};

use crate::load::requests::Once;
use crate::load::{Doer, Target, patiently};
use crate::usage;

/// How long a front and its workers may take to serve, and to end.
const PATIENCE: Duration = Duration::from_secs(30);
/// HAProxy's own.
const OWN_DESCRIPTORS: u64 = 200;
/// Where fronts and workers listen.
const PORTS: Range<u16> = 20_000..32_000;
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(50);
/// How long router's workers keep the sessions they have when they are replaced, and over how much of
/// that the last of them are closed, in seconds: less than by default, for more rounds.
const DRAIN: [(&str, &str); 2] = [("ROUTER_DRAIN_TIMEOUT", "10"), ("ROUTER_DISCONNECT_OVER", "8")];
/// How long a reload may take.
const RELOAD: Duration = Duration::from_secs(60);
/// What everything has to come to rest once it serves.
const REST: Duration = Duration::from_millis(700);

/// A peer, or the router in one of its ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// No front: workers that accept by themselves (SCHED_NONE).
    None,
    /// Router on io_uring, with the worker of the documentation.
    Router,
    /// The same on epoll.
    RouterPortable,
    /// Router with an ordinary server.
    RouterUnchanged,
    /// Router without its preload: sessions are announced, and sockets go by Node's IPC.
    RouterAnnounced,
    /// The fork of PM2.
    Pm2,
    /// Node's cluster with @socket.io/sticky in its primary.
    Sticky,
    /// nginx before servers on ports of their own.
    Nginx,
    /// The same, with its connections to the servers kept.
    NginxKept,
    /// HAProxy likewise.
    Haproxy,
    /// Router on io_uring, with workers that answer at once.
    NativeRouter,
    /// The same on epoll.
    NativePortable,
    /// Router on io_uring, on two threads.
    NativeRouterTwo,
    /// The least of a loop on epoll.
    NativeEpoll,
    /// On monoio, on its io_uring driver.
    NativeMonoio,
    /// On tokio-uring.
    NativeTokioUring,
}

impl Kind {
    /// Whether the others are told as multiples of it.
    pub(crate) const fn is_measure(self) -> bool {
        matches!(self, Self::Router | Self::NativeRouter)
    }

    /// Whether it is the router.
    pub(crate) const fn is_router(self) -> bool {
        use Kind::{NativePortable, NativeRouterTwo};
        use Kind::{RouterAnnounced, RouterPortable, RouterUnchanged};
        self.is_measure()
            || matches!(self, RouterPortable | RouterUnchanged | RouterAnnounced)
            || matches!(self, NativePortable | NativeRouterTwo)
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::None => "no front",
            Self::Router => "router",
            Self::RouterPortable => "router, epoll",
            Self::RouterUnchanged => "router, unchanged app",
            Self::RouterAnnounced => "router, no preload",
            Self::Pm2 => "@socket.io/pm2",
            Self::Sticky => "@socket.io/sticky",
            Self::Nginx => "nginx",
            Self::NginxKept => "nginx, keepalive",
            Self::Haproxy => "HAProxy",
            Self::NativeRouter => "router",
            Self::NativePortable => "router, epoll",
            Self::NativeRouterTwo => "router, 2 threads",
            Self::NativeEpoll => "bare loop, epoll",
            Self::NativeMonoio => "bare loop, monoio",
            Self::NativeTokioUring => "bare loop, tokio-uring",
        }
    }
}

/// A running front. Dropping it ends what it has started.
#[derive(Debug)]
pub(crate) struct Front {
    pub(crate) target: Target,
    /// The front's processes.
    pub(crate) front: Vec<u32>,
    /// The workers'.
    pub(crate) workers: Vec<u32>,
    children: Vec<Child>,
    /// The home of PM2's daemon, which is nobody's child.
    pm2: Option<Pm2>,
    /// What it keeps on disk.
    directory: PathBuf,
}

impl Front {
    /// Starts it with so many workers, and waits until they serve.
    pub(crate) async fn start(kind: Kind, workers: usize) -> Result<Self> {
        let perf = Path::new(env!("CARGO_MANIFEST_DIR"));
        let port = free_port()?;
        let directory = mkdtemp(&std::env::temp_dir().join("router-perf-XXXXXX"))?;
        let target = Target { port };
        let (front, children) = (Vec::new(), Vec::new());
        let mut this = Self { target, front, workers: Vec::new(), children, pm2: None, directory };
        this.launch(kind, workers, &perf.join("apps"))?;
        this.serves().await.with_context(|| format!("{} does not serve", kind.name()))?;
        this.find(workers).await?;
        sleep(REST).await;
        Ok(this)
    }

    fn launch(&mut self, kind: Kind, workers: usize, apps: &Path) -> Result<()> {
        let (count, port) = (workers.to_string(), self.target.port.to_string());
        let listen = format!("127.0.0.1:{port}");
        let router = program("router");
        let node = |script: &str| {
            let mut command = Command::new("node");
            command.arg(apps.join(script)).env("PORT", &port).env("WORKERS", &count);
            command
        };
        let by_router = |script: &str, more: &[&str]| {
            let mut command = Command::new(&router);
            command.args(["-q", "--no-install", "-w", &count]).args(more).arg(apps.join(script));
            command.env("PORT", &port).envs(DRAIN);
            command
        };
        match kind {
            Kind::None => self.child(node("none.js"))?,
            Kind::Sticky => self.child(node("primary.js"))?,
            Kind::Router => self.child(by_router("sticky.js", &["-l", &listen]))?,
            Kind::RouterPortable => {
                self.child(by_router("sticky.js", &["-l", &listen, "--engine", "portable"]))?;
            }
            Kind::RouterUnchanged => self.child(by_router("plain.js", &[]))?,
            Kind::RouterAnnounced => {
                self.child(by_router("sticky.js", &["-l", &listen, "--no-preload"]))?;
            }
            Kind::NativeRouter => self.child(self.native_by_router("uring", 1, workers)?)?,
            Kind::NativePortable => self.child(self.native_by_router("portable", 1, workers)?)?,
            Kind::NativeRouterTwo => self.child(self.native_by_router("uring", 2, workers)?)?,
            Kind::NativeEpoll => self.child(contender("epoll", &port, &count))?,
            Kind::NativeMonoio => self.child(contender("monoio", &port, &count))?,
            Kind::NativeTokioUring => self.child(contender("tokio-uring", &port, &count))?,
            Kind::Pm2 => {
                let pm2 = Pm2 { home: self.directory.clone(), apps: apps.to_owned(), port };
                pm2.give(&["start", "sticky.js", "-i", &count])?;
                self.pm2 = Some(pm2);
            }
            Kind::Nginx | Kind::NginxKept | Kind::Haproxy => {
                let mut ports = Vec::new();
                for _ in 0..workers {
                    let port = free_port()?;
                    let mut command = Command::new("node");
                    command.arg(apps.join("plain.js")).env("PORT", port.to_string());
                    self.child(command)?;
                    ports.push(port);
                }
                self.workers = self.children.iter().map(Child::id).collect();
                let proxy = match kind {
                    Kind::Haproxy => self.haproxy(&ports),
                    kind => self.nginx(&ports, kind == Kind::NginxKept),
                };
                self.child(proxy?)?;
            }
        }
        Ok(())
    }

    /// A program that takes Node's place, as an ecosystem file has it.
    fn native_by_router(&self, engine: &str, threads: usize, workers: usize) -> Result<Command> {
        let file = self.directory.join("ecosystem.json");
        let app = serde_json::json!({
            "name": "native", "script": program("router-perf-native"), "interpreter": "none",
            "exec_mode": "cluster", "instances": workers,
        });
        fs::write(&file, serde_json::json!({ "apps": [app] }).to_string())?;
        let mut command = Command::new(program("router"));
        let listen = format!("127.0.0.1:{}", self.target.port);
        command.args(["-q", "--handoff", "lane", "--serialization", "json", "--engine", engine]);
        command.args(["-l", &listen, "--threads", &threads.to_string()]).arg(file);
        Ok(command)
    }

    /// As Socket.IO's page "Using multiple nodes" has it; connections to the workers are kept by
    /// those who have read on.
    fn nginx(&self, ports: &[u16], kept: bool) -> Result<Command> {
        let (keepalive, connection) = if kept { ("keepalive 64;", "''") } else { ("", "upgrade") };
        let servers: String =
            ports.iter().map(|port| format!("server 127.0.0.1:{port};\n")).collect();
        let configuration = format!(
            "daemon off; pid nginx.pid; error_log stderr; worker_processes auto;
            worker_rlimit_nofile 200000;
            events {{ worker_connections 65536; }}
            http {{
              access_log off;
              client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
              uwsgi_temp_path uwsgi; scgi_temp_path scgi;
              map $http_upgrade $connection_upgrade {{ default upgrade; '' {connection}; }}
              upstream workers {{ hash $remote_addr consistent; {servers} {keepalive} }}
              server {{
                listen 127.0.0.1:{} backlog=4096;
                location / {{
                  proxy_pass http://workers;
                  proxy_http_version 1.1;
                  proxy_set_header Host $host;
                  proxy_set_header Upgrade $http_upgrade;
                  proxy_set_header Connection $connection_upgrade;
                  proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
                }}
              }}
            }}",
            self.target.port
        );
        let file = self.directory.join("nginx.conf");
        fs::write(&file, configuration)?;
        let mut command = Command::new("nginx");
        command.args(["-e", "stderr", "-p"]).arg(&self.directory).arg("-c").arg(file);
        Ok(command)
    }

    fn haproxy(&self, ports: &[u16]) -> Result<Command> {
        let servers: String = ports
            .iter()
            .enumerate()
            .map(|(n, port)| format!("    server worker{n} 127.0.0.1:{port}\n"))
            .collect();
        // It wants two descriptors for each, and some for itself.
        let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
        let connections = limit.saturating_sub(OWN_DESCRIPTORS) / 2;
        let configuration = format!(
            "global\n    maxconn {connections}\n\
             defaults\n    mode http\n    timeout connect 10s\n    timeout client 1h\n    \
             timeout server 1h\n    timeout tunnel 1h\n    option forwardfor\n    http-reuse safe\n\
             frontend front\n    bind 127.0.0.1:{} backlog 4096\n    default_backend workers\n\
             backend workers\n    balance source\n    hash-type consistent\n{servers}",
            self.target.port
        );
        let file = self.directory.join("haproxy.cfg");
        fs::write(&file, configuration)?;
        let mut command = Command::new("haproxy");
        command.args(["-db", "-f"]).arg(file);
        Ok(command)
    }

    fn child(&mut self, mut command: Command) -> Result<()> {
        let log = fs::File::create(self.directory.join(format!("{}.log", self.children.len())))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn();
        let child = child.with_context(|| format!("{:?} cannot be run", command.get_program()))?;
        self.children.push(child);
        Ok(())
    }

    async fn serves(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        // From many addresses: all the workers are to be there.
        let mut served = 0;
        while served < 64 {
            let mut client = Once { target: self.target, number: served };
            match patiently(client.once()).await {
                Ok(()) => served += 1,
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => {
                    served = 0;
                    sleep(PAUSE).await;
                }
            }
            for child in &mut self.children {
                if let Some(status) = child.try_wait()? {
                    bail!("it ended with {status}: {}", self.words());
                }
            }
        }
        Ok(())
    }

    /// What its processes have said.
    fn words(&self) -> String {
        let logs = (0..self.children.len()).map(|n| self.directory.join(format!("{n}.log")));
        logs.map(|log| fs::read_to_string(log).unwrap_or_else(|error| error.to_string())).collect()
    }

    /// The process that the others descend from.
    fn root(&self) -> Result<u32> {
        Ok(match &self.pm2 {
            Some(pm2) => fs::read_to_string(pm2.home.join("pm2.pid"))?.trim().parse()?,
            None => self.children.last().context("nothing was started")?.id(),
        })
    }

    /// Has the workers replaced, and waits until none of the old ones is left.
    pub(crate) async fn reload(&mut self) -> Result<()> {
        let old = std::mem::take(&mut self.workers);
        match self.pm2.clone() {
            Some(pm2) => {
                let given = move || pm2.give(&["reload", "sticky"]);
                tokio::task::spawn_blocking(given).await??;
            }
            None => kill(Pid::from_raw(i32::try_from(self.root()?)?), Signal::SIGHUP)?,
        }
        let deadline = Instant::now() + RELOAD;
        loop {
            // Of those that are known nobody is looked for.
            self.workers.clear();
            self.find(old.len()).await?;
            if self.workers.iter().all(|pid| !old.contains(pid)) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "not reloaded within {RELOAD:?}");
            sleep(PAUSE).await;
        }
    }

    /// Tells the front's processes from the workers'.
    async fn find(&mut self, wanted: usize) -> Result<()> {
        let root = self.root()?;
        if !self.workers.is_empty() {
            self.front = usage::tree(root);
            return Ok(());
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (mut front, mut workers) = (vec![root], vec![]);
            for pid in usage::tree(root).split_off(1) {
                match usage::name(pid).as_deref() {
                    Some("router-keeper") => front.push(pid),
                    Some(_) => workers.push(pid),
                    None => {}
                }
            }
            if workers.len() == wanted {
                (self.front, self.workers) = (front, workers);
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{} of {wanted} workers", workers.len());
            sleep(PAUSE).await;
        }
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        if let Some(pm2) = &self.pm2 {
            // What is left of it is killed below.
            let _said = pm2.give(&["kill"]);
        }
        // The front first: it ends its workers.
        for child in self.children.iter_mut().rev() {
            let pid = Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX));
            let _ended = kill(pid, Signal::SIGTERM);
            let _status = child.wait();
        }
        let _gone = fs::remove_dir_all(&self.directory);
    }
}

#[derive(Clone, Debug)]
struct Pm2 {
    home: PathBuf,
    apps: PathBuf,
    port: String,
}

impl Pm2 {
    fn give(&self, words: &[&str]) -> Result<()> {
        // Not a pipe: its daemon may keep that open, and whoever reads it waits for ever.
        let said = self.home.join("said");
        let file = fs::File::create(&said)?;
        let status = Command::new("node")
            .arg("node_modules/@socket.io/pm2/bin/pm2")
            .args(words)
            .current_dir(&self.apps)
            .env("PM2_HOME", &self.home)
            .env("PM2_PORT", &self.port)
            .env("PORT", &self.port)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .status()?;
        ensure!(status.success(), "pm2 {words:?}: {}", fs::read_to_string(said)?);
        Ok(())
    }
}

/// Of this workspace.
fn program(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release").join(name)
}

fn contender(on: &str, port: &str, workers: &str) -> Command {
    let mut command = Command::new(program("router-perf-native"));
    command.args(["contender", on, "--port", port, "--workers", workers]);
    command
}

/// One that no client's own end can have: below those that the kernel gives out by itself.
fn free_port() -> Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(PORTS.start);
    loop {
        let port = NEXT.fetch_add(1, Ordering::Relaxed);
        ensure!(PORTS.contains(&port), "no port of {PORTS:?} is free");
        if TcpListener::bind(("0.0.0.0", port)).is_ok() {
            return Ok(port);
        }
    }
}
