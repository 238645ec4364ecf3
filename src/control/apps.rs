//! What can be asked of the daemon that keeps many apps, and what it answers.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::protocol::Lasting;
use super::targets::Known;
use crate::config::LogTargets;
use crate::metrics::snapshot::Snapshot;

/// Variables of a program's environment.
pub type Environment = BTreeMap<String, String>;

/// An app as it was asked for: what would have been a command line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Definition {
    /// What it is called; no two apps have the same name.
    pub name: String,
    /// Apps can be named together by this.
    pub namespace: String,
    /// Where the command was given.
    pub directory: PathBuf,
    /// Around the command.
    pub environment: Environment,
    /// The options, `--name=value` each.
    pub options: Vec<String>,
    /// What is run.
    pub app: Source,
    /// The script's own arguments, of the command.
    pub app_args: Vec<String>,
    /// All of the script's arguments, for people.
    #[serde(default)]
    pub args: Vec<String>,
    /// The interpreter's, for people.
    #[serde(default)]
    pub node_args: Vec<String>,
    /// The variable that tells a worker its slot, for people.
    #[serde(default)]
    pub instance_var: String,
    /// So many workers.
    pub workers: u16,
    /// They share the router's ports and sessions, or are ordinary processes.
    pub mode: String,
    /// The script, for people.
    pub script: PathBuf,
    /// Where the workers start, for people.
    pub cwd: PathBuf,
    /// What runs the script, for people.
    pub interpreter: String,
    /// Whether it is started with the others.
    pub autostart: bool,
    /// How long a worker may take to end.
    pub kill_timeout: Duration,
    /// Where the workers' output goes.
    pub logs: LogTargets,
    /// Where what its router says goes.
    pub router_log: PathBuf,
}

/// What is run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A script or directory, as it was given.
    Path(PathBuf),
    /// One app of an ecosystem file.
    Described(Value),
}

/// What becomes of an app that is there already when it is defined again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Anew {
    /// An error, if it runs.
    Refuse,
    /// It ends and is started again.
    Restart,
    /// Its router goes on with the new definition, and the workers are replaced without a gap.
    Reload,
}

/// What is done with apps, or with some workers of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// They run.
    Start,
    /// They end, and are remembered.
    Stop,
    /// They end and are started again.
    Restart,
    /// New workers for the old ones, without a gap.
    Reload,
    /// They end, and are forgotten.
    Delete,
}

/// A number of workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scale {
    /// So many.
    To(u16),
    /// So many more, or fewer.
    By(i16),
}

/// One order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Order {
    /// Answers with [`Pong`].
    Ping,
    /// Answers with a list of [`AppState`].
    List,
    /// Runs apps. Answers with a list of [`Outcome`], as all that follow do.
    Run {
        /// Which.
        apps: Vec<Definition>,
        /// If they are there.
        anew: Anew,
    },
    /// Does something with apps that are there.
    Act {
        /// What.
        action: Action,
        /// Names, ids, namespaces, or `all`.
        targets: Vec<String>,
        /// From now on in place of the environment they were started in.
        environment: Option<Environment>,
    },
    /// More workers, or fewer.
    Scale {
        /// Of this app.
        target: String,
        /// How many.
        to: Scale,
    },
    /// Sends a signal to workers.
    Signal {
        /// As in kill(2).
        signal: i32,
        /// Names, ids, namespaces, or `all`.
        targets: Vec<String>,
    },
    /// Forgets how often the workers were started again.
    Reset {
        /// Names, ids, namespaces, or `all`.
        targets: Vec<String>,
    },
    /// Changes what the routers' logs say.
    LogLevel {
        /// As in `RUST_LOG`.
        filter: String,
        /// Names, ids, namespaces, or `all`.
        targets: Vec<String>,
    },
    /// Opens all logs again.
    ReopenLogs,
    /// Writes down which apps there are. Answers with their number.
    Save,
    /// Runs what was saved.
    Resurrect,
    /// The routers go on as the program that lies where theirs lay.
    Update,
    /// So does the daemon. Taken from every version, as ping and kill are. The connection ends when it does; an answer is why it does not.
    Renew,
    /// Ends all apps, and the daemon unless one of them does not end.
    Kill,
}

impl Lasting for Order {
    fn lasts(&self) -> bool {
        matches!(self, Self::Ping | Self::Renew | Self::Kill)
    }
}

/// Who answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pong {
    /// The daemon's process.
    pub pid: u32,
    /// Its version.
    pub version: String,
    /// What it is doing with which app, for people.
    #[serde(default)]
    pub doing: Vec<String>,
}

/// What became of an order for one app.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Which.
    pub name: String,
    /// The workers meant.
    pub ids: Vec<u32>,
    /// Why it was not done.
    pub error: Option<String>,
    /// What is to be known though it was done.
    #[serde(default)]
    pub warning: Option<String>,
}

/// How an app's router is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RouterState {
    /// It runs.
    Online,
    /// It was to end, or had done what it was to do.
    Stopped,
    /// It ends, and has not yet.
    Stopping,
    /// It has ended and is started again in a moment.
    Waiting,
    /// It was given up.
    Errored,
}

/// One app.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AppState {
    /// As it was asked for; the environment as it was given.
    pub definition: Definition,
    /// The workers' numbers, by slot.
    pub ids: Vec<u32>,
    /// How its router is.
    pub state: RouterState,
    /// Its process.
    pub pid: Option<u32>,
    /// How often it was started again after it had ended by itself.
    pub restarts: u32,
    /// When the app was first started, in seconds since 1970.
    pub created: u64,
    /// Why it does not run, if it should.
    pub why: Option<String>,
    /// What its router says of itself; none when it does not answer.
    pub status: Option<Snapshot>,
    /// Where its router keeps what must outlive it.
    pub runtime: PathBuf,
}

impl AppState {
    /// What it is found by.
    #[must_use]
    pub fn known(&self) -> Known<'_> {
        self.definition.known(&self.ids)
    }
}

impl Definition {
    /// What the app is found by, whose workers have these numbers.
    #[must_use]
    pub fn known<'a>(&'a self, ids: &'a [u32]) -> Known<'a> {
        Known { name: &self.name, namespace: &self.namespace, ids }
    }
}
