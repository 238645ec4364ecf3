//! One router under test: built like a command line, started, awaited, and ended with all its
//! workers whatever the test does.

use super::log::{Line, Log};
use super::process::{self, alive, signal};
use super::{Connection, Engine, Place, Response, SOON, TempDir, binary, fixture, node, until};
use nix::sys::signal::Signal;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Enough for the router's own stop at its default `--kill-timeout`, and a busy machine.
const STOP: Duration = Duration::from_secs(10);

/// A stalled worker is given some time before it is taken for dead.
const LATER: Duration = Duration::from_secs(60);

/// What a service manager, or the caller's shell, would say to the router.
const OF_A_MANAGER: [&str; 9] = [
    "PORT",
    "PM2_PORT",
    "RUNTIME_DIRECTORY",
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
];

/// The events that name a worker's process.
const OF_WORKERS: [&str; 3] = ["worker started", "worker ready", "adopted"];

/// The command line of a router to be.
pub struct Builder {
    arguments: Vec<OsString>,
    app: Option<OsString>,
    workers: usize,
    listen: Option<String>,
    interpreter: bool,
    environment: Vec<(String, String)>,
    directory: Option<OsString>,
    log_format: &'static str,
    app_args: Vec<OsString>,
    process_1: bool,
    no_io_uring: bool,
    binary: OsString,
    socket: Option<OwnedFd>,
    runtime: Option<PathBuf>,
}

/// As a service manager passes a listening socket: descriptor 3, and the process id that may use
/// it, which is the router's own because the shell becomes the router.
const PASS_STDIN: &str = "exec 3<&0 0</dev/null; export LISTEN_FDS=1 LISTEN_PID=$$; exec \"$@\"";

impl Router {
    /// A router of two sticky workers on a port of its own.
    pub fn on(engine: Engine) -> Builder {
        Builder {
            arguments: vec!["--engine".into(), engine.name().into()],
            app: Some(fixture("sticky").into()),
            workers: 2,
            listen: Some("127.0.0.1:0".into()),
            interpreter: true,
            environment: Vec::new(),
            directory: None,
            log_format: "json",
            app_args: Vec::new(),
            process_1: false,
            no_io_uring: false,
            binary: binary(),
            socket: None,
            runtime: None,
        }
    }

    /// Workers of the application whose behaviour at its start is in a file (`steady.js`), each on a
    /// port of the kernel's choice.
    pub fn steady(engine: Engine) -> Builder {
        Self::on(engine).app("steady").env("PORT", 0)
    }

    /// The same as [`Self::on`], with the engine left to the router.
    pub fn on_any_engine() -> Builder {
        Builder { arguments: Vec::new(), ..Self::on(Engine::Portable) }
    }
}

impl Builder {
    /// 0 leaves the number unsaid.
    pub fn workers(mut self, n: usize) -> Self {
        self.workers = n;
        self
    }

    /// A fixture of tests/node/apps.
    pub fn app(self, name: &str) -> Self {
        let path = fixture(name);
        self.path(&path)
    }

    pub fn path(mut self, app: &Path) -> Self {
        self.app = Some(app.into());
        self
    }

    pub fn no_app(mut self) -> Self {
        self.app = None;
        self
    }

    pub fn env(mut self, name: &str, value: impl ToString) -> Self {
        self.environment.push((name.to_owned(), value.to_string()));
        self
    }

    pub fn arg(mut self, argument: &str) -> Self {
        self.arguments.push(argument.into());
        self
    }

    pub fn option(self, name: &str, value: impl ToString) -> Self {
        self.arg(name).arg(&value.to_string())
    }

    /// Where to listen instead of a free port of the loopback.
    pub fn listen(mut self, address: &str) -> Self {
        self.listen = Some(address.to_owned());
        self
    }

    /// The application's own `listen` decides.
    pub fn no_listen(mut self) -> Self {
        self.listen = None;
        self
    }

    /// Runs the workers with this program instead of the Node under test.
    pub fn interpreter(mut self, program: &Path) -> Self {
        self.interpreter = false;
        self.option("--interpreter", program.display())
    }

    pub fn directory(mut self, path: &Path) -> Self {
        self.directory = Some(path.into());
        self
    }

    /// What the application itself gets, after `--`.
    pub fn app_args(mut self, arguments: &[&str]) -> Self {
        self.app_args = arguments.iter().map(Into::into).collect();
        self
    }

    /// In a PID namespace of its own, whose end ends everything in it.
    pub fn in_a_pid_namespace(mut self) -> Self {
        self.process_1 = true;
        self
    }

    /// Where io_uring is forbidden, in the way container runtimes do it.
    pub fn without_io_uring(mut self) -> Self {
        self.no_io_uring = true;
        self
    }

    /// Another program than the router under test: a copy of it, say.
    pub fn binary(mut self, path: &Path) -> Self {
        self.binary = path.into();
        self
    }

    /// Where it keeps what its successor needs, instead of a directory that goes with it.
    pub fn runtime(mut self, directory: &Path) -> Self {
        self.runtime = Some(directory.into());
        self
    }

    /// Passes a listening socket, as a service manager does.
    pub fn socket(mut self, socket: &impl AsFd) -> Self {
        self.socket = Some(socket.as_fd().try_clone_to_owned().unwrap());
        self
    }

    /// For people; the events can't be waited for then.
    pub fn pretty(mut self) -> Self {
        self.log_format = "pretty";
        self
    }

    /// The process, with no word yet on what becomes of it.
    pub fn spawn(self) -> Router {
        let place = Place::take();
        node::packages();
        let mut command = if self.process_1 {
            let mut unshare = Command::new("unshare");
            unshare.args(["--pid", "--fork", "--mount-proc", "--kill-child=SIGKILL"]);
            unshare.arg(&self.binary);
            unshare
        } else if self.socket.is_some() {
            let mut shell = Command::new("sh");
            shell.args(["-c", PASS_STDIN, "sh"]).arg(&self.binary);
            shell
        } else {
            Command::new(&self.binary)
        };
        // Nothing of the caller's environment decides for the router under test.
        for (name, _) in std::env::vars() {
            if name.starts_with("ROUTER_") || OF_A_MANAGER.contains(&&*name) {
                command.env_remove(name);
            }
        }
        // A directory of its own: a router takes over the workers that it finds in it.
        let own_runtime = self.runtime.is_none().then(TempDir::new);
        let runtime = self.runtime.as_deref().or_else(|| own_runtime.as_ref().map(TempDir::path));
        command.env("XDG_RUNTIME_DIR", runtime.unwrap());
        command.args(["--log-format", self.log_format]);
        if self.workers > 0 {
            command.args(["--workers", &self.workers.to_string()]);
        }
        if let Some(address) = &self.listen {
            command.args(["--listen", address]);
        }
        if let Some(node) = node::interpreter().filter(|_| self.interpreter) {
            command.arg("--interpreter").arg(node);
        }
        command.args(&self.arguments).args(&self.app);
        if !self.app_args.is_empty() {
            command.arg("--").args(&self.app_args);
        }
        command.envs(self.environment.iter().map(|(k, v)| (k, v)));
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        if self.no_io_uring {
            process::forbid_io_uring(&mut command);
        }
        command.stdin(self.socket.map_or_else(Stdio::null, Stdio::from));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the router starts");
        let log = Log::default();
        log.follow(child.stdout.take().unwrap());
        log.follow(child.stderr.take().unwrap());
        let (workers, process_1) = (self.workers, self.process_1);
        Router {
            child,
            log,
            workers,
            process_1,
            status: None,
            _place: place,
            _runtime: own_runtime,
        }
    }

    /// Started and listening; the workers may not be up yet.
    #[track_caller]
    pub fn start_early(self) -> Router {
        let router = self.spawn();
        router.event("listening");
        router
    }

    /// Started, listening, every worker ready.
    #[track_caller]
    pub fn start(self) -> Router {
        let router = self.start_early();
        router.ready(router.workers);
        router
    }

    /// For a command line that must fail: how it ended and all it said.
    #[track_caller]
    pub fn fails(self) -> (ExitStatus, String) {
        let mut router = self.spawn();
        let status = router.wait(SOON);
        assert!(!status.success(), "it succeeded");
        (status, router.log.text())
    }
}

/// A running router. Dropping it ends it and its workers, and a failing test shows its output.
pub struct Router {
    child: Child,
    pub log: Log,
    workers: usize,
    /// The child is its namespace's parent, and the log's ids are the namespace's.
    process_1: bool,
    status: Option<ExitStatus>,
    _place: Place,
    _runtime: Option<TempDir>,
}

impl Router {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the router's own event of that name and gives its first line.
    #[track_caller]
    pub fn event(&self, message: &str) -> Line {
        self.event_where(message, |_| true)
    }

    /// Waits until the event has been said so many times, and gives that line.
    #[track_caller]
    pub fn event_number(&self, message: &str, n: usize) -> Line {
        self.event_number_within(message, n, SOON)
    }

    #[track_caller]
    pub fn event_number_within(&self, message: &str, n: usize, limit: Duration) -> Line {
        let found = self
            .log
            .find(limit, |lines| lines.iter().filter(|line| line.is(message)).nth(n - 1).cloned());
        found.unwrap_or_else(|| panic!("not {n} events {message:?} within {limit:?}"))
    }

    /// How often the event has been said.
    pub fn events(&self, message: &str) -> usize {
        self.log.lines().iter().filter(|line| line.is(message)).count()
    }

    /// Waits until nobody drains.
    #[track_caller]
    pub fn nobody_drains(&self) {
        let all_gone = |lines: &[Line]| {
            let draining = lines.iter().filter(|l| l.is("worker draining"));
            let mut pids = draining.map(|l| worker_of(l, lines).map(|(_, pid)| pid));
            pids.all(|pid| pid.is_some_and(|pid| !alive(pid))).then_some(())
        };
        until("no worker drains", SOON, || all_gone(&self.log.lines()));
    }

    /// Ended at once, as by a crash: its workers are not told.
    #[track_caller]
    pub fn crash(&mut self) {
        self.child.kill().unwrap();
        self.wait(SOON);
    }

    #[track_caller]
    pub fn event_where(&self, message: &str, wanted: impl Fn(&Line) -> bool) -> Line {
        let found = self.log.find(SOON, |lines| {
            lines.iter().find(|line| line.is(message) && wanted(line)).cloned()
        });
        found.unwrap_or_else(|| panic!("no event {message:?}"))
    }

    /// Waits until a worker has printed a line that `wanted` takes.
    #[track_caller]
    pub fn output<T>(&self, what: &str, wanted: impl Fn(&str) -> Option<T>) -> T {
        let found = self
            .log
            .find(SOON, |lines| lines.iter().find_map(|line| wanted(line.worker_output()?)));
        found.unwrap_or_else(|| panic!("no worker printed {what}"))
    }

    /// Waits until this many workers are ready at once.
    #[track_caller]
    pub fn ready(&self, n: usize) -> BTreeMap<u64, u32> {
        let found = self.log.find(SOON, |lines| Some(ready_in(lines)).filter(|r| r.len() >= n));
        found.unwrap_or_else(|| panic!("not {n} workers ready"))
    }

    /// Slot to process, of the workers that are ready now.
    pub fn slots(&self) -> BTreeMap<u64, u32> {
        ready_in(&self.log.lines())
    }

    pub fn pids(&self) -> Vec<u32> {
        self.slots().into_values().collect()
    }

    /// Waits for a ready worker in this worker's place.
    #[track_caller]
    pub fn replaced(&self, pid: u32) -> u32 {
        let found = self.log.find(LATER, |lines| {
            let mut workers = lines
                .iter()
                .filter_map(|l| l.is("worker ready").then(|| worker_of(l, lines)).flatten());
            let (slot, _) = workers.find(|(_, p)| *p == pid)?;
            ready_in(lines).get(&slot).copied().filter(|p| *p != pid)
        });
        found.unwrap_or_else(|| panic!("worker {pid} was not replaced"))
    }

    /// Every process ever announced as a worker.
    pub fn all_pids(&self) -> BTreeSet<u32> {
        let lines = self.log.lines();
        lines
            .iter()
            .filter(|l| OF_WORKERS.iter().any(|e| l.is(e)))
            .filter_map(|l| l.number("pid")?.try_into().ok())
            .collect()
    }

    /// What the nth opened listener is bound to.
    #[track_caller]
    pub fn address(&self, nth: usize) -> String {
        let found = self.log.find(SOON, |lines| {
            let mut all = lines.iter().filter(|l| l.is("listening"));
            Some(all.nth(nth)?.string("address")?.to_owned())
        });
        found.unwrap_or_else(|| panic!("no listener {nth}"))
    }

    #[track_caller]
    pub fn port(&self) -> u16 {
        let address = self.address(0);
        let port = address.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
        port.unwrap_or_else(|| panic!("no port in {address}"))
    }

    #[track_caller]
    pub fn url(&self) -> String {
        let address = self.address(0);
        // Of several addresses of the loopback the test has chosen one.
        match address.starts_with("127.") {
            true => format!("http://{address}"),
            false => format!("http://127.0.0.1:{}", self.port()),
        }
    }

    #[track_caller]
    pub fn connect(&self) -> Connection {
        Connection::tcp(self.port())
    }

    /// One request on a connection of its own.
    #[track_caller]
    pub fn get(&self, target: &str) -> Response {
        self.connect().get(target)
    }

    /// From now on the router may have `spare` more descriptors than it has.
    pub fn limit_files(&self, spare: usize) {
        // The lowest number that is free bounds a new one: the highest one in use counts.
        let highest = process::fds(self.pid()).into_keys().max().unwrap_or(0) as usize;
        let limit = format!("--nofile={0}:{0}", highest + 1 + spare);
        let status =
            Command::new("prlimit").arg("--pid").arg(self.pid().to_string()).arg(limit).status();
        assert!(status.expect("prlimit is installed").success());
    }

    pub fn signal(&self, what: Signal) {
        let pid = self.pid();
        if self.process_1 {
            // The child only waits for the router, its own child.
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
            signal(children.trim().parse().unwrap(), what);
        } else {
            signal(pid, what);
        }
    }

    /// Waits for the router to end by itself.
    #[track_caller]
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let child = &mut self.child;
        let status = until("the router ends", limit, || child.try_wait().unwrap());
        self.log.ended(Duration::from_secs(2));
        self.status = Some(status);
        status
    }

    /// SIGTERM, the end, and no worker left; gives how long it took.
    #[track_caller]
    pub fn stop(&mut self) -> (ExitStatus, Duration) {
        let began = Instant::now();
        self.signal(Signal::SIGTERM);
        let status = self.wait(STOP);
        let took = began.elapsed();
        for pid in self.all_pids() {
            // A SIGKILL just sent may take a moment.
            until("its workers go with the router", Duration::from_secs(1), || {
                (!alive(pid)).then_some(())
            });
        }
        (status, took)
    }

    /// The router answers and its workers are these: it lives.
    #[track_caller]
    pub fn lives(&self) {
        assert!(alive(self.pid()), "the router is gone");
        assert_eq!(self.get("/pid").status, 200);
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        if self.process_1 {
            let _ = self.child.kill();
            let _ = self.child.wait();
        } else if self.status.is_none() {
            self.signal(Signal::SIGTERM);
            let deadline = Instant::now() + STOP;
            while !matches!(self.child.try_wait(), Ok(Some(_))) {
                if Instant::now() > deadline {
                    let _ = self.child.kill();
                    let _ = self.child.wait();
                    break;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        // A stopped or deaf worker outlives a router that was itself killed.
        for pid in self.all_pids() {
            if !self.process_1 && is_worker(pid) {
                signal(pid, Signal::SIGKILL);
            }
        }
        if std::thread::panicking() {
            eprintln!("--- the router's output ---\n{}---", self.log.text());
        }
    }
}

/// Guards against an id that another process has by now: ours run a script of the tests.
fn is_worker(pid: u32) -> bool {
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let command = String::from_utf8_lossy(&command);
    alive(pid) && (command.contains("tests/node/apps/") || command.contains("router-it-"))
}

/// Replays the events: who is ready after all of these lines. A worker that is gone isn't,
/// whatever was said about it.
fn ready_in(lines: &[Line]) -> BTreeMap<u64, u32> {
    let mut ready = BTreeMap::new();
    for line in lines.iter().filter(|l| l.is("worker ready") || l.is("adopted")) {
        let (slot, pid) = worker_of(line, lines).expect("`worker ready` says which");
        ready.insert(slot, pid);
    }
    ready.retain(|_, pid| alive(*pid));
    ready
}

/// The slot and process of an event: its own fields, or those of the `worker started` of the
/// same worker (`worker=SLOT#GENERATION`).
fn worker_of(line: &Line, lines: &[Line]) -> Option<(u64, u32)> {
    let name = line.string("worker");
    let slot = line.number("slot").or_else(|| name?.split('#').next()?.parse().ok())?;
    let pid = line.number("pid").or_else(|| {
        let mut started = lines.iter().filter(|l| l.is("worker started") || l.is("adopted"));
        started.find(|l| l.string("worker") == name)?.number("pid")
    })?;
    Some((slot, pid.try_into().ok()?))
}
