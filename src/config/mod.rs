//! What the operator asked for: raw settings from several places, then one resolved [`Config`].
//!
//! Pure: it reads no file, no environment and no clock. The command line (`cli`) collects the
//! raw settings and hands them in; everything after this module sees only resolved values.

mod account;
mod address;
mod app;
mod bus;
mod bytes;
mod cron;
mod date;
mod ecosystem;
mod filter;
mod glob;
mod interpreter;
mod keys;
mod logs;
mod nearest;
pub mod service;
mod time;
mod trust;
mod words;
mod workers;

use std::path::PathBuf;
use std::time::Duration;

pub use account::Account;
pub use address::{Address, AddressError, Resolve};
pub use app::{App, RawApp, Surroundings};
pub use bus::{
    BUS_CHANNEL_PREFIX, BUS_MAX_LEN, BUS_STREAM, Bus, RawBus, Redis, RedisError, Secret, Site,
    presentable, presentable_url,
};
pub use bytes::bytes;
pub use cron::CronPattern;
pub use date::DateFormat;
pub use ecosystem::{Ecosystem, app_values, select};
pub use filter::FilterEnv;
pub use glob::glob;
pub use interpreter::{Interpreter, Plan, PlanError, plan};
pub use logs::{
    Combined, LogFile, LogForm, Logs, PidFile, RawLogs, Rotation, Targets as LogTargets, age,
    at_home,
};
pub use nearest::nearest;
pub use time::{milliseconds, seconds};
pub use trust::{Trust, TrustError};
pub use words::split as split_words;
pub use workers::{WORKERS_MAX, Workers};

/// The port of an app that never listens, when nothing names another.
pub const DEFAULT_PORT: u16 = 8080;

/// How long a client may take to send its request line.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a draining worker may keep the sessions it has.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// The last part of the drain, over which the clients that are left are disconnected.
pub const DISCONNECT_OVER: Duration = Duration::from_secs(10);

/// How long workers wait for another router when theirs has died.
pub const ORPHAN_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a worker may give no sign of life.
pub const HANG_TIMEOUT: Duration = Duration::from_secs(30);

/// Everything the daemon needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// The app whose workers are run.
    pub app: App,
    /// Where to listen; empty when the operator left it to the app.
    pub listen: Vec<Address>,
    /// The port opened for an app that never listens: `PM2_PORT`, else `PORT`, else 8080.
    pub default_port: u16,
    /// How many shards; `None` is automatic.
    pub threads: Option<usize>,
    /// How the data plane talks to the kernel.
    pub engine: EngineChoice,
    /// Who gets a request that has no session.
    pub balance: Balance,
    /// The codec of the workers' channels; `None` leaves it to the interpreter ([`plan`]).
    pub serialization: Option<Serialization>,
    /// How sockets reach workers.
    pub handoff: Handoff,
    /// Put the preload into the workers.
    pub preload: bool,
    /// Let the preload give an unchanged app the cluster adapter.
    pub adapter: bool,
    /// Who gets a connection whose session cannot be read.
    pub sticky: Sticky,
    /// Connections begin with a PROXY protocol header, believed of these peers; `None` is off.
    pub proxy: Option<Trust>,
    /// How long a client may take to send its request line.
    pub head_timeout: Duration,
    /// How long a draining worker may keep the sessions it has.
    pub drain_timeout: Duration,
    /// The last part of the drain, over which the clients that are left are disconnected; not
    /// longer than the drain.
    pub disconnect_over: Duration,
    /// A worker silent for longer is recycled; `None` is never, as without the preload, which is
    /// what gives the sign of life.
    pub hang_timeout: Option<Duration>,
    /// How long workers that have lost their router wait for the next; `None`: they end with it, as
    /// they do without the preload.
    pub orphan_timeout: Option<Duration>,
    /// Where the router keeps what must outlive it; `None`: a directory of its own choice.
    pub runtime_dir: Option<PathBuf>,
    /// Where it can be asked how it stands.
    pub admin: Option<Address>,
    /// How the router's log and the workers' output look.
    pub log: LogFormat,
    /// How much the router says.
    pub verbosity: Verbosity,
}

#[cfg(test)]
impl Config {
    /// Every default around this app: for tests, so that a new field is added in one place.
    pub(crate) fn fixture(app: App) -> Self {
        Self {
            app,
            listen: vec![],
            default_port: DEFAULT_PORT,
            threads: None,
            engine: EngineChoice::Auto,
            balance: Balance::LeastConnection,
            serialization: None,
            handoff: Handoff::Auto,
            preload: true,
            adapter: true,
            sticky: Sticky::Sid,
            proxy: None,
            head_timeout: HEAD_TIMEOUT,
            drain_timeout: DRAIN_TIMEOUT,
            disconnect_over: DISCONNECT_OVER,
            hang_timeout: Some(HANG_TIMEOUT),
            orphan_timeout: Some(ORPHAN_TIMEOUT),
            runtime_dir: None,
            admin: None,
            log: LogFormat::Pretty,
            verbosity: Verbosity::Normal,
        }
    }
}

/// How the data plane talks to the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum EngineChoice {
    /// io_uring where it works, else portable.
    #[default]
    Auto,
    /// io_uring or nothing.
    Uring,
    /// epoll.
    Portable,
}

/// Who gets a request that has no session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Balance {
    /// The worker with the fewest connections.
    #[default]
    LeastConnection,
    /// Each in turn.
    RoundRobin,
    /// Any.
    Random,
    /// The worker whose event loop answers soonest.
    LeastLag,
}

/// The codec of the workers' channels; a worker is told at its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Serialization {
    /// V8's structured clone: keeps binary data binary.
    #[default]
    Advanced,
    /// One JSON text a line.
    Json,
}

impl Serialization {
    /// The value of `NODE_CHANNEL_SERIALIZATION_MODE`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Advanced => "advanced",
            Self::Json => "json",
        }
    }
}

/// How sockets reach workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Handoff {
    /// The lane once the worker's preload reports it, else Node's IPC.
    #[default]
    Auto,
    /// The lane: sockets only, nothing of Node's in between. Needs the preload.
    Lane,
    /// Node's IPC.
    Ipc,
}

/// Who gets a connection whose session cannot be read.
///
/// A TLS hello on an application's own port always goes by address: nothing in it can be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Sticky {
    /// Whom the balance picks.
    #[default]
    Sid,
    /// Whom a hash of the client's address picks.
    Ip,
}

/// What the workers of an app are to each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// They share the router's ports and sessions.
    #[default]
    Cluster,
    /// Ordinary processes, of whatever language, that are kept running.
    Fork,
}

impl Mode {
    /// As in an ecosystem file.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::Fork => "fork",
        }
    }
}

/// How the router's log and the workers' output look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Pretty,
    /// One JSON object a line.
    Json,
}

/// How much the router says; `RUST_LOG` has the last word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verbosity {
    /// Warnings and errors.
    Quiet,
    /// Also what the router and its workers are doing.
    #[default]
    Normal,
    /// Also why (`-v`).
    Verbose,
    /// Everything (`-vv`).
    Trace,
}

/// A setting that cannot be honoured. The message says which, what was got and what would do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A key of an ecosystem file has a value of the wrong kind.
    #[error("{file}: app {app}: `{key}` is {got}; it must be {wanted}")]
    Value {
        /// The ecosystem file.
        file: String,
        /// The app's name in the file, or its place.
        app: String,
        /// The key as written.
        key: String,
        /// The value as written, shortened.
        got: String,
        /// What it must be.
        wanted: &'static str,
    },
    /// An ecosystem file that is not a list of apps.
    #[error("{file}: {problem}")]
    File {
        /// The ecosystem file.
        file: String,
        /// What is wrong with it.
        problem: String,
    },
    /// `--only` is needed, or names nothing.
    #[error("{file} describes {}: {}; choose one with --only NAME{}", count(.names.len()), .names.join(", "),
        .wanted.as_ref().map_or_else(String::new, |name| format!(" (there is no app named {name})")))]
    Choose {
        /// The ecosystem file.
        file: String,
        /// The apps in it.
        names: Vec<String>,
        /// What `--only` said.
        wanted: Option<String>,
    },
    /// `--env NAME` where the app has no `env_NAME`.
    #[error("app {app} has no env_{name}{}", if .known.is_empty() { String::new() } else { format!("; it has {}", .known.join(", ")) })]
    Environment {
        /// The app's name.
        app: String,
        /// What `--env` said.
        name: String,
        /// The app's env_ keys.
        known: Vec<String>,
    },
    /// `increment_var` names a variable that is no number.
    #[error(
        "app {app}: `increment_var` counts {name} up, which is `{got}` in its environment; it must be a number"
    )]
    Increment {
        /// The app's name.
        app: String,
        /// The variable.
        name: String,
        /// Its value.
        got: String,
    },
    /// An app without a script.
    #[error("app {0} names no script; add `script` to it")]
    NoScript(String),
    /// More workers than a router runs, or fewer than one.
    #[error("{got} workers asked for; it must be 1 to {WORKERS_MAX}")]
    Workers {
        /// How many.
        got: u64,
    },
}

fn count(apps: usize) -> String {
    if apps == 1 { "one app".to_owned() } else { format!("{apps} apps") }
}
