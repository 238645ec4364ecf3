//! One app: its router's process, started, watched, started again, ended.
//!
//! The router may be a child of this process or of a daemon before it: it is watched by descriptor
//! either way, and asked over the control socket in its runtime directory. What changes an app needs
//! its [`turn`].

mod turn;

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
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

use self::turn::Turns;
pub(super) use self::turn::{NoTurn, Turn};
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
    turns: Turns,
    /// What lies on the disk, if it is known.
    written: RefCell<Option<Record>>,
    /// Why that is not what is in `record`.
    unwritten: RefCell<Option<String>>,
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
    /// One that is not there yet.
    pub(super) fn new(record: Record, home: &Home, program: &Path) -> Rc<Self> {
        let directory = home.app(&record.definition.name);
        Rc::new(Self {
            record: RefCell::new(record),
            directory,
            program: program.to_owned(),
            life: RefCell::default(),
            turns: Turns::default(),
            written: RefCell::default(),
            unwritten: RefCell::default(),
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

    fn running(&self) -> Option<Running> {
        self.life.borrow().running.clone()
    }

    /// Whether it lies on the disk, so that the next daemon would find it.
    pub(super) fn is_known(&self) -> bool {
        self.written.borrow().is_some()
    }

    /// What an order is doing with it.
    pub(super) fn doing(&self) -> Option<&'static str> {
        self.turns.doing()
    }

    /// It is this from now on; or it stays what it was, if that cannot be written down: what it is
    /// started from is read there.
    pub(super) fn redefine(&self, record: Record) -> Result<(), String> {
        self.write(&record)?;
        *self.record.borrow_mut() = record;
        Ok(())
    }

    /// Writes down how it is. Where that fails the app is as it is all the same; whoever gave the
    /// order is told what the next daemon will not know.
    pub(super) fn remember(&self) {
        let record = self.record.borrow().clone();
        if let Err(error) = self.write(&record) {
            tracing::error!(app = self.name(), error, "that is not remembered");
        }
    }

    /// What is not written down of it, and why not.
    pub(super) fn unwritten(&self) -> Option<String> {
        self.unwritten.borrow().clone()
    }

    fn write(&self, record: &Record) -> Result<(), String> {
        if self.written.borrow().as_ref() == Some(record) {
            *self.unwritten.borrow_mut() = None;
            return Ok(());
        }
        let written = private::directory(&self.directory)
            .map_err(|error| format!("cannot use {}: {error}", self.directory.display()))
            .and_then(|()| {
                record.write(&self.directory).map_err(|error| {
                    format!("cannot write to {}: {error}", self.directory.display())
                })
            });
        if written.is_ok() {
            *self.written.borrow_mut() = Some(record.clone());
        }
        *self.unwritten.borrow_mut() = written.clone().err();
        written
    }

    /// One whose record an earlier daemon has left. Goes on watching the router that it has started,
    /// or starts the one that should be there.
    pub(super) fn take_over(self: &Rc<Self>) {
        *self.written.borrow_mut() = Some(self.record.borrow().clone());
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
        self.remember();
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

    async fn gone(&self) {
        loop {
            let ended = self.ended.notified();
            if !self.runs() {
                return;
            }
            ended.await;
        }
    }

    /// Asks its router, and nobody who may have come in its place: an answer counts if it is the
    /// watched process's. One that falls silent is not waited for.
    pub(super) async fn ask(&self, order: &Order) -> Result<Value, AskError> {
        let path = self.directory.join("control");
        let running = self.life.borrow().running.as_ref().map(|running| running.pid);
        let Some(pid) = running else { return Err(AskError::Nobody(path)) };
        let asked = socket::ask_while_it_answers(&path, Some(pid), order, &Order::Status);
        asked.await.map_err(|error| match error {
            AskError::Silent(_) => AskError::Silent(format!(
                "its router, process {pid}: it may be stopped (SIGCONT has it go on), or stuck \
                 (`router stop {}` ends it)",
                self.name()
            )),
            other => other,
        })
    }

    /// Has its router open its logs again.
    pub(super) fn reopen_logs(&self) {
        let running = self.life.borrow().running.clone();
        let signalled = running.map(|running| running.process.send_signal(Signal::SIGUSR1));
        if let Some(Err(error)) = signalled {
            tracing::error!(app = self.name(), %error, "its logs are not reopened");
        }
    }

    /// Nothing is left of it.
    fn forget(&self) {
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
