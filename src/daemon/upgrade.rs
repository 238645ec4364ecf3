//! The in-place upgrade: the next program takes this process over, and everything in its hands.
//!
//! ```text
//!   SIGUSR2 ─► trial: the new program, as a child, reads its settings and says "ready"
//!                │ no: the old one goes on
//!                ▼
//!             the shards rest, the supervisor freezes (clients wait)
//!                │
//!                ▼
//!             the trial reads the very state that is to cross, and says "taken"
//!                │ no: thawed again, here
//!                ▼
//!             exec: same pid, children stay children
//!                │ impossible: thawed again, here
//!                ▼
//!             the new program thaws
//! ```
//!
//! The state lies in memory that has no name; descriptors stay open under their numbers. It begins
//! with its version, which is all that two versions of the router must agree on.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, Write};
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::pipe;

use super::roll::Channels;
use super::{listeners, notify};
use crate::bus;
use crate::config::Address;
use crate::shard::frozen::{Common, Place};
use crate::shard::{Descriptors, Frozen};
use crate::supervisor;
use crate::sys::exec;
use crate::sys::pidfd::PidFd;

/// The version of [`State`]. A router takes over its own version only; a newer one that changes
/// the state reads the older one as well, or says that it cannot.
const VERSION: u32 = 1;
/// What stands in front of the state: these bytes, then the version, little-endian.
const MAGIC: &[u8; 8] = b"router\0\n";

/// Tells a router what it inherits: `trial:FD` or `take:FD`, the state's descriptor.
pub const VARIABLE: &str = "ROUTER_INHERIT";

/// How long the new program may take to read its settings.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long it may take to read the state. Clients wait meanwhile.
const TAKEN_TIMEOUT: Duration = Duration::from_secs(10);
/// How much of its last words is repeated, in bytes.
const LAST_WORDS: u64 = 4096;

const READY: &str = "ready";
const GO: &[u8] = b"go\n";
const TAKEN: &str = "taken";

/// Everything that crosses, but for the descriptors, which are numbered.
#[derive(Debug, Serialize, Deserialize)]
pub struct State {
    /// What the shards share.
    pub common: Common,
    /// What the shards had in hand.
    pub plane: Frozen,
    /// Where it listens.
    pub listeners: listeners::Frozen,
    /// The workers' lives.
    pub supervisor: supervisor::Frozen,
    /// The runtime directory, and where its lock lies among the descriptors.
    pub runtime: (PathBuf, Place),
    /// Which channels are whose, for the roll.
    pub channels: Channels,
    /// What the service manager has been told.
    #[serde(default)]
    pub told: notify::Told,
    /// The admin address and its sockets.
    #[serde(default)]
    pub admin: Option<(Address, Vec<Place>)>,
    /// What the log was told to say, in place of what the settings say.
    #[serde(default)]
    pub log_filter: Option<String>,
    /// What the bus has read and has to say.
    #[serde(default)]
    pub bus: Option<bus::Frozen>,
}

/// Why there was no upgrade. The old program goes on in each case.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    /// There is no such program, or it is none.
    #[error("{program} cannot be started: {reason}")]
    Unstarted {
        /// The path.
        program: String,
        /// Why.
        reason: io::Error,
    },
    /// It ended, or said something else.
    #[error("{program} did not get {what}{words}")]
    Refused {
        /// The path.
        program: String,
        /// How far it came.
        what: &'static str,
        /// Its last words.
        words: String,
    },
    /// It took too long.
    #[error("{program} did not get {what} within {limit:?}")]
    Late {
        /// The path.
        program: String,
        /// How far it came.
        what: &'static str,
        /// How long it was given.
        limit: Duration,
    },
    /// The state could not be written down or marked, or the program not be executed.
    #[error("{what}: {reason}")]
    System {
        /// What was to be done.
        what: &'static str,
        /// Why it was not.
        reason: io::Error,
    },
}

/// Why an inherited state was not taken.
#[derive(Debug, thiserror::Error)]
pub enum InheritError {
    /// Not what a router sets.
    #[error("{VARIABLE}={0} is set by a router for its successor, and by nobody else: unset it")]
    Variable(String),
    /// Not a state, or of another version.
    #[error("the state of the former process is of version {got}; this router reads {VERSION}")]
    Version {
        /// What was found; 0 for what is no state.
        got: u32,
    },
    /// It cannot be read.
    #[error("the state of the former process cannot be read: {0}")]
    Unreadable(String),
}

const fn system(what: &'static str) -> impl FnOnce(io::Error) -> UpgradeError {
    move |reason| UpgradeError::System { what, reason }
}

fn encode(state: &State, numbers: &[RawFd]) -> io::Result<Vec<u8>> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(VERSION.to_le_bytes());
    // By name, so that a field that is added can have a default.
    let mut serializer = rmp_serde::Serializer::new(&mut bytes).with_struct_map();
    (state, numbers).serialize(&mut serializer).map_err(io::Error::other)?;
    Ok(bytes)
}

fn decode(bytes: &[u8]) -> Result<(State, Vec<RawFd>), InheritError> {
    let version = bytes.strip_prefix(MAGIC).and_then(|rest| rest.split_first_chunk());
    let Some((version, rest)) = version else { return Err(InheritError::Version { got: 0 }) };
    match u32::from_le_bytes(*version) {
        VERSION => {
            rmp_serde::from_slice(rest).map_err(|error| InheritError::Unreadable(error.to_string()))
        }
        got => Err(InheritError::Version { got }),
    }
}

/// What this process has been given.
#[derive(Debug)]
pub enum Inherited {
    /// Nothing: it was started like any program.
    Nothing,
    /// The state that it may be asked to take over: see [`attend_trial`].
    Trial(File),
    /// The state that it takes over.
    State(Box<State>, Descriptors),
}

/// Whether this process only shows that it could take over: what it says is for the one that asks.
#[must_use]
pub fn is_trial() -> bool {
    let value = std::env::var_os(VARIABLE);
    value.is_some_and(|value| value.as_encoded_bytes().starts_with(b"trial:"))
}

/// Reads what a router before this one has left.
///
/// # Errors
/// It is not what a router leaves, or of another version.
pub fn inherited() -> Result<Inherited, InheritError> {
    let Some(value) = std::env::var_os(VARIABLE) else { return Ok(Inherited::Nothing) };
    let value = value.to_string_lossy().into_owned();
    let number = |text: &str| text.parse().ok().and_then(|number| exec::inherit(number).ok());
    let found = match value.split_once(':') {
        Some((word @ ("trial" | "take"), text)) => Some(word).zip(number(text)),
        _ => None,
    };
    match found {
        Some(("trial", memory)) => Ok(Inherited::Trial(File::from(memory))),
        Some((_, memory)) => {
            let bytes = exec::contents(&mut File::from(memory))
                .map_err(|error| InheritError::Unreadable(error.to_string()))?;
            let (state, numbers) = decode(&bytes)?;
            let descriptors: io::Result<Vec<OwnedFd>> =
                numbers.into_iter().map(exec::inherit).collect();
            let descriptors =
                descriptors.map_err(|error| InheritError::Unreadable(error.to_string()))?;
            Ok(Inherited::State(Box::new(state), Descriptors::new(descriptors)))
        }
        None => Err(InheritError::Variable(value)),
    }
}

/// The new program's part of the trial: the settings have been read and would do.
///
/// # Errors
/// The state cannot be taken over, or the old program has lost interest.
pub fn attend_trial(mut memory: File) -> Result<(), InheritError> {
    let lost = |error: io::Error| InheritError::Unreadable(error.to_string());
    let mut out = io::stdout().lock();
    writeln!(out, "{READY}").and_then(|()| out.flush()).map_err(lost)?;
    let mut line = Vec::new();
    io::stdin().lock().read_until(b'\n', &mut line).map_err(lost)?;
    if line != GO {
        return Err(InheritError::Unreadable("the upgrade was called off".to_owned()));
    }
    decode(&exec::contents(&mut memory).map_err(lost)?)?;
    writeln!(out, "{TAKEN}").and_then(|()| out.flush()).map_err(lost)
}

/// The program that is run next, and how: as this one was.
#[derive(Clone, Debug)]
pub struct Successor {
    program: PathBuf,
    arguments: Vec<OsString>,
}

impl Successor {
    /// What now lies where this process's program lay when it was started.
    ///
    /// # Errors
    /// /proc is not there.
    pub fn of_this_process() -> io::Result<Self> {
        let program = std::fs::read_link("/proc/self/exe")?;
        Ok(Self { program, arguments: std::env::args_os().collect() })
    }

    /// Where it lies.
    #[must_use]
    pub fn program(&self) -> &Path {
        &self.program
    }

    fn name(&self) -> String {
        self.program.display().to_string()
    }

    /// Starts it as a child, and waits until it has read its settings.
    ///
    /// # Errors
    /// It cannot be started, ends, or takes too long.
    pub async fn try_out(&self) -> Result<Trial, UpgradeError> {
        let mut trial = self.start()?;
        trial.hear(READY, "ready to take over", READY_TIMEOUT).await?;
        Ok(trial)
    }

    fn start(&self) -> Result<Trial, UpgradeError> {
        let memory = exec::memory().map_err(system("no memory for the state"))?;
        exec::keep_across_exec(memory.as_fd(), true).map_err(system("fcntl"))?;
        let mut command = Command::new(&self.program);
        command
            .args(self.arguments.iter().skip(1))
            .env(VARIABLE, format!("trial:{}", exec::number(&memory)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let started = command.spawn();
        exec::keep_across_exec(memory.as_fd(), false).map_err(system("fcntl"))?;
        let program = self.name();
        let mut child = started.map_err(|reason| UpgradeError::Unstarted { program, reason })?;
        let process = Process::of(&mut child).map_err(system("the trial cannot be held"))?;
        let pipes = Pipes::of(&mut child).map_err(system("a pipe of the trial's"))?;
        Ok(Trial { successor: self.clone(), memory, process, pipes })
    }
}

/// The new program as a child, which has read its settings. It ends with this value.
#[derive(Debug)]
pub struct Trial {
    successor: Successor,
    memory: File,
    process: Process,
    pipes: Pipes,
}

/// The trial's process. The supervisor reaps every child, this one too, so that its pid may be
/// another's at any time: it is held by a descriptor.
#[derive(Debug)]
struct Process(PidFd);

impl Process {
    /// Must be called right after the child's start, with no `await` in between: what reaps runs on
    /// this thread, so that the pid is still the child's.
    fn of(child: &mut Child) -> io::Result<Self> {
        let opened = i32::try_from(child.id())
            .map_err(io::Error::other)
            .and_then(|pid| PidFd::open(Pid::from_raw(pid)));
        match opened {
            Ok(process) => Ok(Self(process)),
            Err(error) => {
                child.kill()?;
                Err(error)
            }
        }
    }

    /// Ends it, if it has not ended.
    fn end(&self) {
        match self.0.send_signal(Signal::SIGKILL) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(Errno::ESRCH as i32) => {}
            Err(error) => tracing::error!(%error, "the trial of an upgrade cannot be ended"),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

#[derive(Debug)]
struct Pipes {
    ask: pipe::Sender,
    answer: BufReader<pipe::Receiver>,
    words: pipe::Receiver,
}

impl Pipes {
    fn of(child: &mut Child) -> io::Result<Self> {
        let (Some(ask), Some(answer), Some(words)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(io::Error::other("a piped child has no pipes"));
        };
        Ok(Self {
            ask: pipe::Sender::from_owned_fd(ask.into())?,
            answer: BufReader::new(pipe::Receiver::from_owned_fd(answer.into())?),
            words: pipe::Receiver::from_owned_fd(words.into())?,
        })
    }
}

impl Trial {
    /// Shows it the state that is to cross.
    ///
    /// # Errors
    /// It cannot take it, or takes too long.
    pub async fn show(
        &mut self,
        state: &State,
        crossing: &Descriptors,
    ) -> Result<(), UpgradeError> {
        let numbers: Vec<RawFd> = crossing.iter().map(exec::number).collect();
        let written =
            encode(state, &numbers).and_then(|bytes| exec::fill(&mut self.memory, &bytes));
        written.map_err(system("the state cannot be written down"))?;
        // A trial that has ended shows by its silence.
        let _heard = self.pipes.ask.write_all(GO).await;
        self.hear(TAKEN, "to take the state", TAKEN_TIMEOUT).await?;
        // It has said all that it is asked for, and after an exec nobody would end it.
        self.process.end();
        Ok(())
    }

    /// Becomes the new program. Returns only when that was not possible: then nothing has changed.
    pub fn exec(self, crossing: &Descriptors) -> UpgradeError {
        match self.mark_and_exec(crossing) {
            Ok(never) => match never {},
            Err(error) => {
                for descriptor in crossing.iter() {
                    if let Err(error) = exec::keep_across_exec(descriptor.as_fd(), false) {
                        tracing::error!(%error, "a descriptor stays open for the workers' own");
                    }
                }
                error
            }
        }
    }

    fn mark_and_exec(
        &self,
        crossing: &Descriptors,
    ) -> Result<std::convert::Infallible, UpgradeError> {
        let marked = crossing.iter().map(OwnedFd::as_fd).chain([self.memory.as_fd()]);
        for descriptor in marked {
            exec::keep_across_exec(descriptor, true).map_err(system("fcntl"))?;
        }
        let take = format!("take:{}", exec::number(&self.memory));
        let kept = std::env::vars_os().filter(|(name, _)| name != VARIABLE);
        let environment: Vec<_> = kept.chain([(VARIABLE.into(), take.into())]).collect();
        exec::hold_signals().map_err(system("sigprocmask"))?;
        let failed = exec::exec(&self.successor.program, &self.successor.arguments, &environment);
        exec::release_signals().map_err(system("sigprocmask"))?;
        failed.map_err(system("exec"))
    }

    async fn hear(
        &mut self,
        word: &str,
        what: &'static str,
        limit: Duration,
    ) -> Result<(), UpgradeError> {
        let mut line = String::new();
        let program = self.successor.name();
        match tokio::time::timeout(limit, self.pipes.answer.read_line(&mut line)).await {
            Ok(Ok(_)) if line.trim_end() == word => Ok(()),
            Ok(_) => Err(UpgradeError::Refused { program, what, words: self.last_words().await }),
            Err(_) => Err(UpgradeError::Late { program, what, limit }),
        }
    }

    /// What it has said on stderr, as an appendix to a sentence.
    async fn last_words(&mut self) -> String {
        const PATIENCE: Duration = Duration::from_secs(1);
        let mut words = Vec::new();
        let mut all = (&mut self.pipes.words).take(LAST_WORDS);
        // What has come by then will do.
        let _late = tokio::time::timeout(PATIENCE, all.read_to_end(&mut words)).await;
        let words = String::from_utf8_lossy(&words).trim().replace('\n', "\n    ");
        if words.is_empty() { String::new() } else { format!("; it said:\n    {words}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::wait::{WaitStatus, waitpid};

    /// A program in the router's place.
    fn shell(script: &str) -> Successor {
        let arguments = ["sh", "-c", script].map(OsString::from).to_vec();
        Successor { program: "/bin/sh".into(), arguments }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_trial_that_says_nothing_in_time_is_ended() {
        const LIMIT: Duration = Duration::from_millis(50);
        // Its pid is all that it says, on its standard error; it ends by itself in the end, so that
        // this test cannot wait for ever.
        let mut trial = shell("echo $$ >&2; exec sleep 30").start().expect("sh is there");
        let late = trial.hear(READY, "ready", LIMIT).await;
        assert!(matches!(late, Err(UpgradeError::Late { limit: LIMIT, .. })), "{late:?}");
        let mut pid = String::new();
        let mut words = BufReader::new(&mut trial.pipes.words);
        words.read_line(&mut pid).await.expect("it says its pid");
        let pid = Pid::from_raw(pid.trim().parse().expect("a number"));
        drop(trial);
        assert_eq!(waitpid(pid, None), Ok(WaitStatus::Signaled(pid, Signal::SIGKILL, false)));
    }
}
