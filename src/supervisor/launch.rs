//! A worker's command line and environment: from [`App`] to a running process.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::unistd::Pid;

use super::LanePair;
use super::logs::{self, Outlet};
use super::preload::{self, Preload};
use super::reader::{Reader, Rest};
use crate::config::service::LIFE;
use crate::config::{Account, App, Config, Mode};
use crate::route::WorkerId;
use crate::sys::process::{self, Identity, Spawn, Spawned};

/// Variables that speak to the router itself: from the service manager, and from the router before
/// it in the same process. Those about sockets it has removed from its own environment.
const NEVER_INHERITED: [&str; 4] = {
    let [notify, watchdog, watched] = LIFE;
    ["ROUTER_INHERIT", notify, watchdog, watched]
};

/// Variables for the router that may have a password in them: a worker sees them if its app's own
/// file says so.
const CONFIDENTIAL: [&str; 1] = ["ROUTER_BUS"];

/// A started worker.
#[derive(Debug)]
pub(super) struct Launched {
    pub(super) pid: Pid,
    /// Our end of its channel.
    pub(super) channel: OwnedFd,
    /// Its lane.
    pub(super) lane: Option<LanePair>,
    /// What it prints.
    pub(super) output: Reader,
}

/// Starts a worker's process. `unique` is a number no other process of this run has had, `number` is
/// the worker's in its log files.
pub(super) fn launch(
    config: &Config,
    id: WorkerId,
    unique: u32,
    number: u32,
    outlets: [Outlet; 2],
    preload: Option<&Preload>,
) -> io::Result<Launched> {
    let (ours, theirs) = process::channel_pair()?;
    let lane = match preload {
        Some(preload) if preload.lane() => {
            let (ours, theirs) = process::channel_pair()?;
            Some(LanePair { ours, theirs })
        }
        _ => None,
    };
    let Spawned { pid, stdout, stderr } = process::spawn(Spawn {
        program: program(&config.app),
        args: &arguments(&config.app, preload),
        env: &environment(config, id, unique, number, preload),
        unset: &unset(&config.app, std::env::vars_os().map(|(name, _)| name)),
        cwd: &config.app.cwd,
        channel: theirs,
        lane: lane.as_ref().map(|lane| lane.theirs.as_fd()),
        identity: config.app.account.as_ref().map(|account| Identity {
            uid: account.uid,
            gid: account.gid,
            groups: account.groups.clone(),
        }),
        outlives: config.app.mode == Mode::Fork || preload.is_some_and(Preload::outlives),
    })?;
    let pipes = [stdout, stderr];
    let output = Reader::start(pipes, Rest::default(), config.log, &config.app.name, id, outlets)?;
    Ok(Launched { pid, channel: ours, lane, output })
}

/// Which of these variables of the router's own the worker does not see.
fn unset(app: &App, names: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let hidden = |name: &OsString| {
        let name = name.to_string_lossy();
        let filtered = app.filter_env.as_ref().is_some_and(|filter| filter.hides(&name));
        (filtered || CONFIDENTIAL.contains(&&*name)) && !app.env.contains_key(&*name)
    };
    NEVER_INHERITED.into_iter().map(OsString::from).chain(names.filter(hidden)).collect()
}

/// What is run: the interpreter, or the script itself.
fn program(app: &App) -> &OsStr {
    if app.runs_itself() { app.script.as_os_str() } else { OsStr::new(&app.interpreter) }
}

/// As Node's own fork builds them: the interpreter's arguments, the script, its arguments. The
/// preload comes first, so that it is there before any other the operator has.
fn arguments(app: &App, preload: Option<&Preload>) -> Vec<OsString> {
    let preload = preload.map(|preload| ["--require".into(), preload.entry().into()]);
    let preload = preload.into_iter().flatten();
    let map = {
        let mut map = app.script.clone().into_os_string();
        map.push(".map");
        Path::new(&map).is_file()
    };
    let maps = app.reads_source_maps(map).then(|| "--enable-source-maps".into());
    let before = preload.chain(maps).chain(app.node_args.iter().map(OsString::from));
    let after = app.args.iter().map(OsString::from);
    let script = (!app.runs_itself()).then(|| app.script.clone().into_os_string());
    before.chain(script).chain(after).collect()
}

fn environment(
    config: &Config,
    id: WorkerId,
    unique: u32,
    number: u32,
    preload: Option<&Preload>,
) -> Vec<(OsString, OsString)> {
    let login = config.app.account.iter().flat_map(Account::environment);
    let login = login.map(|(name, value)| (name.to_owned(), value));
    let operators = config.app.env.iter().map(|(name, value)| (name.clone(), value.clone()));
    let operators = login.chain(operators);
    // Last, so that nothing the operator sets can take a worker's channel away.
    let app = &config.app;
    let ours = [
        (app.instance_var.as_str(), id.slot.to_string()),
        ("pm_id", number.to_string()),
        ("name", app.name.clone()),
        ("namespace", app.namespace.clone()),
        ("exec_mode", format!("{}_mode", app.mode.as_str())),
        ("pm_exec_path", app.script.display().to_string()),
        ("pm_cwd", app.cwd.display().to_string()),
        ("instances", app.workers.to_string()),
        ("exec_interpreter", app.interpreter.clone()),
    ];
    // PM2's, where there are such files.
    let [out, error] = app.logs.targets.streams(number);
    let pid = app.pid_file.as_ref().map(|file| file.of(number));
    let files = [("pm_out_log_path", out), ("pm_err_log_path", error), ("pm_pid_path", pid)];
    let files = files.into_iter().filter_map(|(name, path)| {
        path.map(|path| (name, logs::place(&path).display().to_string()))
    });
    let serialization = config.serialization.unwrap_or_default().as_str().to_owned();
    // What makes a worker of Node's cluster.
    let member = (app.mode == Mode::Cluster).then(|| ("NODE_UNIQUE_ID", unique.to_string()));
    let channel = [
        ("NODE_CHANNEL_FD", process::CHANNEL_FD.to_string()),
        ("NODE_CHANNEL_SERIALIZATION_MODE", serialization),
    ];
    let channel = channel.into_iter().filter(|_| app.speaks_node());
    let ours = ours.into_iter().chain(files).chain(member).chain(channel);
    let preload = preload.map(|preload| {
        (preload::VARIABLE, preload.instruction(id, config.serialization.unwrap_or_default()))
    });
    let counted = config.app.incremented(id.slot);
    let ours = ours.chain(preload).chain(counted).map(|(name, value)| (name.to_owned(), value));
    operators.chain(ours).map(|(name, value)| (name.into(), value.into())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::FilterEnv;

    #[test]
    fn what_is_filtered_is_not_seen_unless_the_app_says_so() {
        let mut app = App::fixture();
        let names =
            || ["AWS_KEY", "AWS_REGION", "PATH", "ROUTER_BUS"].into_iter().map(OsString::from);
        assert_eq!(unset(&app, names())[NEVER_INHERITED.len()..], ["ROUTER_BUS"]);
        app.filter_env = Some(FilterEnv::Containing(vec!["AWS".to_owned()]));
        app.env.insert("AWS_REGION".to_owned(), "eu".to_owned());
        assert_eq!(unset(&app, names())[NEVER_INHERITED.len()..], ["AWS_KEY", "ROUTER_BUS"]);
        app.env.insert("ROUTER_BUS".to_owned(), "the app's own".to_owned());
        assert_eq!(unset(&app, names())[NEVER_INHERITED.len()..], ["AWS_KEY"]);
        app.source_maps = Some(true);
        assert_eq!(arguments(&app, None)[0], "--enable-source-maps");
    }

    #[test]
    fn the_operators_environment_cannot_take_the_channel() {
        let mut app = App::fixture();
        app.env.insert("NODE_CHANNEL_FD".into(), "9".into());
        app.args = vec!["--x".into()];
        app.node_args = vec!["--inspect".into()];
        assert_eq!(arguments(&app, None), ["--inspect", "/srv/app.js", "--x"]);
        let config = Config::fixture(app);
        let id = WorkerId { slot: 2, generation: 5 };
        let environment = environment(&config, id, 7, 40, None);
        let last = |name: &str| {
            let found = environment.iter().rfind(|(key, _)| key == name);
            found.map(|(_, value)| value.to_string_lossy().into_owned())
        };
        assert_eq!(last("NODE_CHANNEL_FD").as_deref(), Some("3"));
        assert_eq!(last("NODE_UNIQUE_ID").as_deref(), Some("7"));
        assert_eq!(last("NODE_APP_INSTANCE").as_deref(), Some("2"));
        assert_eq!(last("pm_id").as_deref(), Some("40"));
        assert_eq!(last("NODE_CHANNEL_SERIALIZATION_MODE").as_deref(), Some("advanced"));
    }
}
