//! The table of commands: PM2's names, aliases and arguments. Dispatch, `--help`, the man page and
//! the shells' completions all come from it.

use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand};
use nix::sys::signal::Signal;

use super::Options;
use crate::control::apps::Scale;

/// Puts Socket.IO on every core of this host: starts the Node workers of an app, hands them
/// their sockets, relays their packets.
///
/// With an APP it runs in the foreground until a signal ends it. With a command it speaks to the
/// daemon, which keeps many apps running in the background and is started when it is needed.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "router",
    version,
    args_conflicts_with_subcommands = true,
    after_help = "Every option is also an environment variable: --head-timeout is ROUTER_HEAD_TIMEOUT.\n\
        The command line goes before the environment, the environment before an ecosystem file.\n\
        A file or directory that is called like a command: ./list"
)]
pub(super) struct CommandLine {
    #[command(subcommand)]
    pub(super) command: Option<Command>,
    #[command(flatten)]
    pub(super) options: Options,
    #[command(flatten)]
    meaningless: Meaningless,
}

/// PM2's options for what is not here to be switched off or hurried.
#[derive(Clone, Debug, Args)]
struct Meaningless {
    #[arg(short, long, global = true, hide = true)]
    silent: bool,
    #[arg(long, global = true, hide = true)]
    no_color: bool,
    #[arg(long, global = true, hide = true)]
    no_vizion: bool,
    #[arg(long, global = true, hide = true)]
    no_pmx: bool,
    #[arg(long, global = true, hide = true)]
    no_automation: bool,
    #[arg(long, global = true, hide = true, value_name = "N")]
    parallel: Option<u16>,
}

/// What the daemon is asked to do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Run an app, or all apps of an ecosystem file, in the background; or those that were stopped
    Start(Box<Start>),
    /// End apps; they are remembered
    Stop(Targets),
    /// End the workers and start them again; of an ecosystem file, as it is now
    #[command(alias = "startOrRestart")]
    Restart(Again),
    /// Replace the workers one by one without dropping a client; of an ecosystem file, as it is now
    #[command(
        visible_aliases = ["gracefulReload", "startOrReload"],
        aliases = ["graceful-reload", "startOrGracefulReload"]
    )]
    Reload(Again),
    /// End apps and forget them
    #[command(visible_alias = "del", alias = "rm")]
    Delete(Targets),
    /// Set the number of workers of an app: N, +N or -N
    Scale(ScaleTo),
    /// Show all apps and their workers
    #[command(visible_aliases = ["ls", "l", "status"], alias = "ps")]
    List,
    /// Show everything about an app
    #[command(visible_aliases = ["show", "info"], aliases = ["desc", "inspect"])]
    Describe(Target),
    /// Show what the workers print, the last lines first
    #[command(visible_alias = "log")]
    Logs(Logs),
    /// Watch apps, workers and logs live in the terminal, and act on them with keys
    #[command(visible_alias = "dash", aliases = ["dashboard", "imonit"])]
    Monit,
    /// Empty the logs
    Flush(MaybeTargets),
    /// Open all logs again, after they were moved away
    #[command(name = "reloadLogs", alias = "reload-logs")]
    ReloadLogs,
    /// Print the list as JSON, in PM2's shape
    Jlist,
    /// Print the list as JSON for people
    #[command(alias = "prettyList")]
    Prettylist,
    /// Show the environment that an app was started in
    Env(Target),
    /// Print the workers' process ids
    Pid(MaybeTarget),
    /// Print the workers' numbers
    Id(Target),
    /// Send a signal to workers
    #[command(name = "sendSignal", alias = "send-signal")]
    SendSignal(SendSignal),
    /// Forget how often workers were started again
    Reset(Targets),
    /// Change what the routers' logs say: error, warn, info, debug, trace
    #[command(name = "logLevel", alias = "log-level")]
    LogLevel(LogLevel),
    /// Show whether the daemon lives; start it if not
    Ping,
    /// End all apps and the daemon
    Kill,
    /// Write down which apps there are
    #[command(visible_alias = "dump")]
    Save,
    /// Run what was saved
    Resurrect,
    /// Forget what was saved
    Cleardump,
    /// Have what is saved run when the host starts (systemd)
    Startup(Startup),
    /// Undo startup
    Unstartup(Unstartup),
    /// Write an ecosystem.config.js to begin with
    #[command(visible_alias = "ecosystem")]
    Init,
    /// Have the daemon and all routers go on as the program that is installed now; drops nobody
    Update,
    /// Print a script that completes commands in a shell
    Completions(Completions),
    /// Print the manual page
    Man,
    /// Keep apps, in the foreground: what the other commands speak to
    Daemon(Daemon),
}

/// What is started.
#[derive(Clone, Debug, Args)]
pub struct Start {
    /// What is run, and how; of several APPs each may also be the name, id or namespace of apps that
    /// were stopped, or all
    #[command(flatten)]
    pub options: Options,
    /// An app of this name is started again as it is defined now
    #[arg(short, long)]
    pub force: bool,
}

/// Apps that are there.
#[derive(Clone, Debug, Args)]
pub struct Targets {
    /// Names, ids, namespaces, all, or an ecosystem file
    #[arg(value_name = "APP", required = true)]
    pub targets: Vec<String>,
    /// Which apps of the ecosystem file, by name
    #[arg(long, value_name = "NAME")]
    pub only: Option<String>,
    /// Those that were started with this --env, of a file whose names end in it
    #[arg(long, value_name = "NAME")]
    pub env: Option<String>,
}

/// Apps that are there, or an ecosystem file's.
#[derive(Clone, Debug, Args)]
pub struct Again {
    /// Names, ids, namespaces, all, or an ecosystem file
    #[arg(value_name = "APP", required = true)]
    pub targets: Vec<String>,
    /// Which apps of the ecosystem file, by name
    #[arg(long, value_name = "NAME")]
    pub only: Option<String>,
    /// Add the variables of the ecosystem file's env_NAME
    #[arg(long, value_name = "NAME")]
    pub env: Option<String>,
    /// From now on with the environment of this command
    #[arg(short = 'a', long)]
    pub update_env: bool,
}

/// One app.
#[derive(Clone, Debug, Args)]
pub struct Target {
    /// A name or an id
    #[arg(value_name = "APP")]
    pub target: String,
}

/// Apps, or all.
#[derive(Clone, Debug, Args)]
pub struct MaybeTargets {
    /// Names, ids, namespaces [default: all]
    #[arg(value_name = "APP")]
    pub targets: Vec<String>,
}

/// One app, or all.
#[derive(Clone, Debug, Args)]
pub struct MaybeTarget {
    /// A name or an id [default: the daemon's own]
    #[arg(value_name = "APP")]
    pub target: Option<String>,
}

/// A number of workers.
#[derive(Clone, Debug, Args)]
pub struct ScaleTo {
    /// A name or an id
    #[arg(value_name = "APP")]
    pub target: String,
    /// So many workers, +N more or -N less
    #[arg(value_name = "N|+N|-N", allow_hyphen_values = true, value_parser = scale)]
    pub to: Scale,
}

/// What is shown of the logs.
#[derive(Clone, Debug, Args)]
pub struct Logs {
    /// A name, id or namespace [default: all]
    #[arg(value_name = "APP")]
    pub target: Option<String>,
    /// So many lines of each log before what is new
    #[arg(long, value_name = "N", default_value_t = 15)]
    pub lines: usize,
    /// Do not wait for what is new
    #[arg(long)]
    pub nostream: bool,
    /// Only what goes to stderr
    #[arg(long, conflicts_with = "out")]
    pub err: bool,
    /// Only what goes to stdout
    #[arg(long)]
    pub out: bool,
    /// Nothing before the lines
    #[arg(long, conflicts_with = "json")]
    pub raw: bool,
    /// One JSON object a line
    #[arg(long)]
    pub json: bool,
    /// When each line came, before it; of those from before it is not known
    #[arg(long)]
    pub timestamp: bool,
}

/// A signal and whose it is.
#[derive(Clone, Debug, Args)]
pub struct SendSignal {
    /// SIGUSR2, USR2 or a number
    #[arg(value_parser = signal)]
    pub signal: Signal,
    /// Names, ids, namespaces, or all
    #[arg(value_name = "APP", required = true)]
    pub targets: Vec<String>,
}

/// What is said from now on.
#[derive(Clone, Debug, Args)]
pub struct LogLevel {
    /// A level, or one for each target, as in RUST_LOG
    pub level: String,
    /// Names, ids, namespaces [default: all, and the daemon]
    #[arg(value_name = "APP")]
    pub targets: Vec<String>,
}

/// For the host's start.
#[derive(Clone, Debug, Args)]
pub struct Startup {
    /// The init system; only systemd
    #[arg(value_name = "PLATFORM", default_value = "systemd")]
    pub platform: String,
    /// Whose apps they are [default: the user of this command]
    #[arg(short, long, value_name = "NAME")]
    pub user: Option<String>,
    /// That user's home directory
    #[arg(long, value_name = "DIR")]
    pub hp: Option<PathBuf>,
    /// What the unit is called
    #[arg(long, value_name = "NAME")]
    pub service_name: Option<String>,
    /// For the host, not for a user: its things are in /var/lib/router, /run/router and
    /// /var/log/router, and root's commands speak to it
    #[arg(long, conflicts_with = "hp")]
    pub system: bool,
    /// Print the unit, and install nothing
    #[arg(long)]
    pub print: bool,
}

/// Not for the host's start any more.
#[derive(Clone, Debug, Args)]
pub struct Unstartup {
    /// The init system; only systemd
    #[arg(value_name = "PLATFORM", default_value = "systemd")]
    pub platform: String,
    /// Whose apps they are [default: the user of this command]
    #[arg(short, long, value_name = "NAME")]
    pub user: Option<String>,
    /// What the unit is called
    #[arg(long, value_name = "NAME")]
    pub service_name: Option<String>,
    /// That of the host
    #[arg(long)]
    pub system: bool,
}

/// For a shell.
#[derive(Clone, Debug, Args)]
pub struct Completions {
    /// Which
    pub shell: clap_complete::Shell,
}

/// The daemon itself.
#[derive(Clone, Debug, Args)]
pub struct Daemon {
    /// Run what was saved
    #[arg(long)]
    pub resurrect: bool,
    /// Append the log to this file; SIGUSR1 opens it again [default: stderr]
    #[arg(long, value_name = "PATH")]
    pub log_file: Option<PathBuf>,
}

/// `3`, `+1`, `-1`.
fn scale(text: &str) -> Result<Scale, String> {
    let wrong = || "write N, +N or -N".to_owned();
    if text.starts_with(['+', '-']) {
        text.parse().map(Scale::By).map_err(|_| wrong())
    } else {
        text.parse().map(Scale::To).map_err(|_| wrong())
    }
}

fn signal(text: &str) -> Result<Signal, String> {
    let upper = text.to_uppercase();
    let numbered = text.parse().ok().and_then(|number: i32| Signal::try_from(number).ok());
    let named = || upper.parse().or_else(|_| format!("SIG{upper}").parse()).ok();
    numbered.or_else(named).ok_or_else(|| "write SIGUSR2, SIGHUP, … or a number".to_owned())
}

/// The whole command line, as a table.
pub(super) fn table() -> clap::Command {
    CommandLine::command()
}

#[cfg(test)]
mod tests {
    use super::super::elsewhere::left_out;
    use super::*;

    fn parse(line: &str) -> Result<CommandLine, String> {
        let words = std::iter::once("router").chain(line.split_whitespace());
        CommandLine::try_parse_from(words).map_err(|error| error.to_string())
    }

    #[test]
    fn the_table_is_sound_and_says_what_each_command_is_for() {
        let mut table = table();
        table.clone().debug_assert();
        table.build();
        for command in table.get_subcommands() {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            for name in std::iter::once(command.get_name()).chain(command.get_all_aliases()) {
                assert!(left_out(name).is_none(), "{name} is there and left out");
            }
        }
    }

    #[test]
    fn pm2s_names_and_aliases_lead_to_commands() {
        for line in [
            "ls",
            "l",
            "status",
            "ps",
            "list",
            "describe 0",
            "show a",
            "info a",
            "desc a",
            "del a",
            "delete all",
            "reloadLogs",
            "sendSignal SIGUSR2 a",
            "dump",
            "prettylist",
            "jlist",
            "gracefulReload all",
            "startOrReload a.config.js",
            "startOrRestart a.config.js --env production",
            "startOrGracefulReload a.config.js",
            "start a b -k 3000 --cron @daily",
            "start a -c @daily --interpreter-args=-x -s --no-pmx --no-vizion --parallel 2",
            "restart a -a",
            "ls --silent",
            "ecosystem",
            "init",
            "kill",
            "ping",
            "flush",
            "flush a",
            "pid",
            "pid a",
            "env 0",
            "reset all",
            "save",
            "resurrect",
            "startup",
            "startup systemd -u www",
            "unstartup systemd",
            "update",
            "logs a --lines 5 --err",
            "scale a 3",
            "stop a b 1",
            "restart a.config.js --only x --env production --update-env",
            "id a",
            "cleardump",
            "monit",
            "dash",
        ] {
            assert!(parse(line).expect(line).command.is_some(), "{line}");
        }
    }

    #[test]
    fn an_app_is_no_command() {
        for line in ["app.js", "-w 2 app.js", "./list", "", "-w 2"] {
            assert!(parse(line).expect(line).command.is_none(), "{line}");
        }
        let both = parse("-w 2 list").expect("an app called list");
        assert!(both.command.is_none() || both.options.workers.is_none());
    }

    #[test]
    fn numbers_of_workers_are_absolute_or_relative() {
        for (text, to) in [("3", Scale::To(3)), ("+1", Scale::By(1)), ("-2", Scale::By(-2))] {
            let Some(Command::Scale(parsed)) =
                parse(&format!("scale a {text}")).expect(text).command
            else {
                panic!("{text}");
            };
            assert_eq!(parsed.to, to);
        }
        assert!(parse("scale a many").expect_err("no number").contains("+N"));
    }
}
