//! One app: its router's process, started, watched, started again, ended.
//!
//! The router may be a child of this process or of a daemon before it: it is watched by descriptor
//! either way, and asked over the control socket in its runtime directory.

use std::cell::RefCell;
use std::fs;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::sync::{Mutex, Notify};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::record::Record;
use crate::control::apps::{AppState, RouterState};
use crate::control::home::Home;
use crate::control::orders::Order;
use crate::control::protocol::AskError;
use crate::control::socket;
use crate::sys::pidfd::PidFd;
use crate::sys::private::{self, Lock};

/// The exit code of a router that was not started as it should be.
const USAGE: i32 = 2;
/// The exit code of a router whose workers have all failed.
const WORKERS_FAILED: i32 = 3;

/// How long an app may take to show how its start went.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// How soon a router that does not answer yet is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(20);
/// How long beyond its workers' time a router may take to end.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// The same after it was told to end at once.
const STOP_NOW: Duration = Duration::from_secs(2);
/// How long a router may take to say how it stands.
const STATUS_TIME: Duration = Duration::from_secs(2);
/// The second pause before a router that has died is started again (the first is none), and the
/// longest; each is twice the last.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(15);
/// After a life this long the pauses begin anew.
const STABLE: Duration = Duration::from_secs(30);
/// How much of a router's last words is told, in bytes.
const WORDS_MAX: u64 = 8 << 10;

/// See the module's text.
#[derive(Debug)]
pub(super) struct App {
    pub(super) record: RefCell<Record>,
    /// Its router's runtime directory.
    directory: PathBuf,
    /// What is run as its router.
    program: PathBuf,
    life: RefCell<Life>,
    /// One order at a time.
    pub(super) busy: Mutex<()>,
    /// Its router has ended.
    ended: Notify,
}

#[derive(Debug, Default)]
struct Life {
    running: Option<Running>,
    stopping: bool,
    /// Why it does not run.
    why: Option<String>,
    restarts: u32,
    /// It has been seen to run as it is defined: what goes wrong now may pass.
    proved: bool,
    /// The next one, when the router dies again.
    pause: Duration,
}

#[derive(Clone, Debug)]
struct Running {
    pid: Pid,
    process: Rc<PidFd>,
    since: Instant,
}

/// How a router ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Code(i32),
    /// By a signal, or unknown and without having put its things away.
    Died,
}

impl App {
    pub(super) fn new(record: Record, home: &Home, program: &Path) -> Rc<Self> {
        let directory = home.app(&record.definition.name);
        Rc::new(Self {
            record: RefCell::new(record),
            directory,
            program: program.to_owned(),
            life: RefCell::default(),
            busy: Mutex::default(),
            ended: Notify::new(),
        })
    }

    pub(super) fn name(&self) -> String {
        self.record.borrow().definition.name.clone()
    }

    pub(super) fn ids(&self) -> Vec<u32> {
        self.record.borrow().ids.clone()
    }

    pub(super) fn runs(&self) -> bool {
        self.life.borrow().running.is_some()
    }

    /// Writes down what is to be remembered.
    pub(super) fn remember(&self) -> Result<(), String> {
        let place =
            |error: io::Error| format!("cannot write to {}: {error}", self.directory.display());
        private::directory(&self.directory)
            .map_err(|error| format!("cannot use {}: {error}", self.directory.display()))?;
        self.record.borrow().write(&self.directory).map_err(place)
    }

    /// Goes on watching a router that an earlier daemon has started, or starts the one that should
    /// be there.
    pub(super) fn take_over(self: &Rc<Self>) {
        match self.holder() {
            Ok(Some(pid)) => {
                tracing::info!(app = self.name(), pid = pid.as_raw(), "found");
                self.life.borrow_mut().proved = true;
                if let Err(error) = self.watch(pid) {
                    tracing::error!(app = self.name(), %error, "it cannot be watched");
                }
            }
            Ok(None) if self.record.borrow().runs => {
                self.life.borrow_mut().proved = true;
                if let Err(error) = self.spawn() {
                    self.life.borrow_mut().why = Some(error.clone());
                    tracing::error!(app = self.name(), error, "not started");
                }
            }
            Ok(None) => {}
            Err(error) => {
                tracing::error!(app = self.name(), %error, "its lock cannot be looked at")
            }
        }
    }

    /// The router that has the app's directory.
    fn holder(&self) -> io::Result<Option<Pid>> {
        let path = self.directory.join("lock");
        if !path.exists() {
            return Ok(None);
        }
        match private::lock(&path)? {
            Lock::Taken(_given_back) => Ok(None),
            Lock::Held(holder) if private::has_ended(&holder) => Ok(None),
            Lock::Held(holder) => Ok(holder.parse().ok().map(Pid::from_raw)),
        }
    }

    /// Starts it, and waits until its workers serve, or will not.
    pub(super) async fn start(self: &Rc<Self>) -> Result<(), String> {
        self.record.borrow_mut().runs = true;
        {
            let mut life = self.life.borrow_mut();
            (life.why, life.pause, life.proved) = (None, Duration::ZERO, false);
        }
        self.remember()?;
        self.spawn().inspect_err(|error| self.give_up(error.clone()))?;
        self.up().await
    }

    fn spawn(self: &Rc<Self>) -> Result<(), String> {
        let words = private::file(&self.directory.join("last-words"))
            .map_err(|error| format!("cannot write to {}: {error}", self.directory.display()))?;
        let child = Command::new(&self.program)
            .arg("--saved")
            .arg(self.directory.join("start.json"))
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(words)
            // What the terminal says to the daemon it does not say to them.
            .process_group(0)
            .spawn()
            .map_err(|error| format!("cannot run {}: {error}", self.program.display()))?;
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX));
        tracing::info!(app = self.name(), pid = pid.as_raw(), "started");
        self.watch(pid).map_err(|error| format!("it cannot be watched: {error}"))
    }

    fn watch(self: &Rc<Self>, pid: Pid) -> io::Result<()> {
        let process = Rc::new(PidFd::open(pid)?);
        let end = process.end()?;
        let mut life = self.life.borrow_mut();
        life.running = Some(Running { pid, process, since: Instant::now() });
        life.stopping = false;
        let app = Rc::clone(self);
        tokio::task::spawn_local(async move {
            end.await;
            app.has_ended(pid);
        });
        Ok(())
    }

    /// Its router is gone: what now?
    fn has_ended(self: &Rc<Self>, pid: Pid) {
        let end = match waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(_, code)) => End::Code(code),
            Ok(_) => End::Died,
            // Another's child. One that ended as it should has put its things away.
            Err(_) if self.directory.join("lock").exists() => End::Died,
            Err(_) if self.last_words().is_empty() => End::Code(0),
            Err(_) => End::Code(USAGE),
        };
        let lived = {
            let mut life = self.life.borrow_mut();
            let running = life.running.take();
            life.stopping = false;
            running.map_or(Duration::ZERO, |running| running.since.elapsed())
        };
        let (app, wanted) = (self.name(), self.record.borrow().runs);
        match end {
            _ if !wanted => tracing::info!(app, "stopped"),
            End::Code(0) => {
                tracing::info!(app, "it has done what it was to do");
                self.rest();
            }
            End::Code(code @ (USAGE | WORKERS_FAILED)) => {
                tracing::error!(app, code, "it is errored");
                self.give_up(self.last_words());
            }
            End::Code(code) if !self.life.borrow().proved => {
                tracing::error!(app, code, "it could not be started");
                self.give_up(self.last_words());
            }
            End::Code(_) | End::Died => self.start_again(lived),
        }
        self.ended.notify_waiters();
    }

    /// It shall not run any more.
    fn rest(&self) {
        self.record.borrow_mut().runs = false;
        if let Err(error) = self.remember() {
            tracing::error!(app = self.name(), error, "that is not remembered");
        }
    }

    fn give_up(&self, why: String) {
        let why = if why.is_empty() { "it ended and did not say why".to_owned() } else { why };
        self.life.borrow_mut().why = Some(why);
        self.rest();
    }

    /// A router that has died has left workers and clients, which wait.
    fn start_again(self: &Rc<Self>, lived: Duration) {
        let pause = {
            let mut life = self.life.borrow_mut();
            if lived >= STABLE {
                life.pause = Duration::ZERO;
            }
            let pause = life.pause;
            life.pause = (pause * 2).clamp(PAUSE, PAUSE_MAX);
            life.restarts += 1;
            pause
        };
        tracing::error!(app = self.name(), ?lived, again_in = ?pause, "its router has died");
        let app = Rc::clone(self);
        tokio::task::spawn_local(async move {
            sleep(pause).await;
            let wanted = app.record.borrow().runs && !app.runs();
            if wanted && let Err(error) = app.spawn() {
                tracing::error!(app = app.name(), error, "not started");
                app.give_up(error);
            }
        });
    }

    /// What its router has said last.
    fn last_words(&self) -> String {
        let mut words = Vec::new();
        let read = fs::File::open(self.directory.join("last-words"))
            .and_then(|file| file.take(WORDS_MAX).read_to_end(&mut words));
        if let Err(error) = read {
            return format!("(what it said cannot be read: {error})");
        }
        let text = String::from_utf8_lossy(&words);
        text.trim().trim_start_matches("router: ").to_owned()
    }

    /// Waits until its workers serve, or will not.
    pub(super) async fn up(&self) -> Result<(), String> {
        let deadline = Instant::now() + START_PATIENCE;
        while Instant::now() < deadline {
            if !self.runs() {
                let why = self.life.borrow().why.clone();
                if let Some(why) = why {
                    return Err(why);
                }
                if !self.record.borrow().runs {
                    return Ok(());
                }
            }
            match timeout_at(deadline, self.ask(&Order::Settle)).await {
                Err(_) => break,
                Ok(Ok(_)) => {
                    self.life.borrow_mut().proved = true;
                    return Ok(());
                }
                Ok(Err(AskError::Nobody(_) | AskError::Ended)) => sleep(ASK_AGAIN).await,
                Ok(Err(error)) => return Err(error.to_string()),
            }
        }
        Err(format!(
            "it has not started within {START_PATIENCE:?}; `router logs` shows what it says"
        ))
    }

    /// Ends it: its workers have the time that they have.
    pub(super) async fn stop(&self) -> Result<(), String> {
        self.record.borrow_mut().runs = false;
        self.life.borrow_mut().why = None;
        self.remember()?;
        self.end().await
    }

    /// Ends its router, whatever comes then.
    pub(super) async fn end(&self) -> Result<(), String> {
        let patience = self.record.borrow().definition.kill_timeout + STOP_GRACE;
        for (signal, patience) in [
            (Signal::SIGTERM, patience),
            // A second time: at once.
            (Signal::SIGTERM, STOP_NOW),
            (Signal::SIGKILL, STOP_NOW),
        ] {
            let Some(running) = self.life.borrow().running.clone() else { return Ok(()) };
            self.life.borrow_mut().stopping = true;
            if let Err(error) = running.process.send_signal(signal)
                && error.raw_os_error() != Some(nix::errno::Errno::ESRCH as i32)
            {
                return Err(format!("it cannot be ended: {error}"));
            }
            if timeout(patience, self.gone()).await.is_ok() {
                return Ok(());
            }
        }
        Err("the kernel does not end it".to_owned())
    }

    async fn gone(&self) {
        loop {
            let ended = self.ended.notified();
            if !self.runs() {
                return;
            }
            ended.await;
        }
    }

    /// Asks its router.
    pub(super) async fn ask(&self, order: &Order) -> Result<Value, AskError> {
        socket::ask(&self.directory.join("control"), order).await
    }

    /// Has its router open its logs again.
    pub(super) fn reopen_logs(&self) {
        let running = self.life.borrow().running.clone();
        let signalled = running.map(|running| running.process.send_signal(Signal::SIGUSR1));
        if let Some(Err(error)) = signalled {
            tracing::error!(app = self.name(), %error, "its logs are not reopened");
        }
    }

    /// It is forgotten.
    pub(super) fn forget(&self) {
        Record::forget(&self.directory);
    }

    /// How it stands.
    pub(super) async fn state(&self) -> AppState {
        let status = if self.runs() {
            let asked = timeout(STATUS_TIME, self.ask(&Order::Status)).await;
            let said = asked.ok().and_then(Result::ok);
            said.and_then(|said| serde_json::from_value(said).ok())
        } else {
            None
        };
        let (record, life) = (self.record.borrow(), self.life.borrow());
        let state = match (&life.running, &life.why) {
            (Some(_), _) if life.stopping => RouterState::Stopping,
            (Some(_), _) => RouterState::Online,
            (None, Some(_)) => RouterState::Errored,
            (None, None) if record.runs => RouterState::Waiting,
            (None, None) => RouterState::Stopped,
        };
        AppState {
            definition: record.definition.clone(),
            ids: record.ids.clone(),
            state,
            pid: life.running.as_ref().and_then(|running| running.pid.as_raw().try_into().ok()),
            restarts: life.restarts,
            created: record.created,
            why: life.why.clone(),
            status,
            runtime: self.directory.clone(),
        }
    }
}
