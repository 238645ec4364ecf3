//! One app: what the operator may leave out ([`RawApp`]), and what it comes to ([`App`]).
//!
//! Settings come in layers, command line over environment over ecosystem file over PM2's own
//! environment variables; [`RawApp::over`] lays one on another and [`RawApp::resolve`] fills
//! the rest with the defaults.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;

use super::bus::{Bus, RawBus};
use super::logs::{Logs, Naming, PidFile, RawLogs, absolute};
use super::{Account, ConfigError, CronPattern, FilterEnv, Mode, Workers};

/// An app, every question answered. The defaults are PM2's, but for the one with a reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct App {
    /// What it is called in logs.
    pub name: String,
    /// The file each worker runs; absolute.
    pub script: PathBuf,
    /// Where each worker starts; absolute.
    pub cwd: PathBuf,
    /// The script's arguments.
    pub args: Vec<String>,
    /// The program that runs the script.
    pub interpreter: String,
    /// The interpreter's arguments, before the script.
    pub node_args: Vec<String>,
    /// Added to the environment of each worker.
    pub env: BTreeMap<String, String>,
    /// How many workers, 1 to [`super::WORKERS_MAX`].
    pub workers: u16,
    /// The variable that tells a worker its slot.
    pub instance_var: String,
    /// A worker is ready when it says so, and not before.
    pub wait_ready: bool,
    /// How long a worker may take to show a sign of being ready.
    pub listen_timeout: Duration,
    /// How long a worker may take to end when asked to.
    pub kill_timeout: Duration,
    /// The signal that asks a worker to end.
    pub kill_signal: Signal,
    /// Ask with the message 'shutdown' instead of the signal.
    pub shutdown_with_message: bool,
    /// Start a worker again when it has ended.
    pub autorestart: bool,
    /// Exit codes after which a worker is not started again.
    pub stop_exit_codes: Vec<i32>,
    /// A worker that lived shorter counts as unstable.
    pub min_uptime: Duration,
    /// Unstable lives in a row after which a worker is given up.
    pub max_restarts: u32,
    /// A constant pause before each restart; zero leaves it to the backoff.
    pub restart_delay: Duration,
    /// The first pause of the growing backoff; zero restarts at once.
    ///
    /// PM2's default is zero. Ours is 10 ms: a crash loop must not burn a core.
    pub exp_backoff_restart_delay: Duration,
    /// A worker whose resident memory is more than this many bytes is recycled.
    pub max_memory_restart: Option<u64>,
    /// When all workers are reloaded.
    pub cron_restart: Option<CronPattern>,
    /// Files and directories whose changes restart all workers; absolute; empty: none.
    pub watch: Vec<PathBuf>,
    /// Globs of what is not watched, besides `node_modules` and what begins with a dot.
    pub ignore_watch: Vec<String>,
    /// How long nothing more must change before the restart.
    pub watch_delay: Duration,
    /// A variable that counts up from its value in `env` (or 0), one for each slot.
    pub increment_var: Option<String>,
    /// A worker's descendants end with it.
    pub treekill: bool,
    /// What its workers are to each other.
    pub mode: Mode,
    /// Apps of one namespace can be named together.
    pub namespace: String,
    /// The files that the workers' lines go to.
    pub logs: Logs,
    /// The bus to other hosts; `None`: this host is alone.
    pub bus: Option<Bus>,
    /// Where each worker's process id is written down.
    pub pid_file: Option<PidFile>,
    /// Which of the router's own variables the workers do not see.
    pub filter_env: Option<FilterEnv>,
    /// Node reads source maps; none: where the script has one.
    pub source_maps: Option<bool>,
    /// Whose processes the workers are to be, by name or number.
    pub user: Option<String>,
    /// Of which group, by name or number.
    pub group: Option<String>,
    /// The two as found in the system; none: whoever runs router.
    pub account: Option<Account>,
}

impl App {
    /// The variable of `increment_var` and its value in this slot.
    ///
    /// [`RawApp::resolve`] has made sure that the base is a number.
    pub fn incremented(&self, slot: u16) -> Option<(&str, String)> {
        let name = self.increment_var.as_deref()?;
        let base: u64 = self.env.get(name).and_then(|base| base.trim().parse().ok()).unwrap_or(0);
        Some((name, base.saturating_add(u64::from(slot)).to_string()))
    }

    /// Whether the script is a program that needs no interpreter.
    pub fn runs_itself(&self) -> bool {
        self.interpreter == "none"
    }

    /// Whether Node is told to read source maps, where the script has one or has none.
    pub fn reads_source_maps(&self, has_one: bool) -> bool {
        let name = Path::new(&self.interpreter).file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with("node")) && self.source_maps.unwrap_or(has_one)
    }

    /// Whether its processes may speak on a channel as Node's children do.
    pub fn speaks_node(&self) -> bool {
        let name = Path::new(&self.interpreter).file_name().and_then(|name| name.to_str());
        let javascript = |name: &str| ["node", "bun", "deno"].iter().any(|js| name.starts_with(js));
        self.mode == Mode::Cluster || name.is_some_and(javascript)
    }

    /// A debugger may hold the workers still for as long as it likes.
    pub fn inspected(&self) -> bool {
        let options = self.env.get("NODE_OPTIONS").map_or(&[][..], std::slice::from_ref);
        let mut options = options.iter().flat_map(|line| line.split_whitespace());
        let inspects = |word: &str| word.starts_with("--inspect");
        self.node_args.iter().any(|word| inspects(word)) || options.any(inspects)
    }

    /// Every default, and one worker: for tests, so that a new field is added in one place.
    #[cfg(test)]
    pub(crate) fn fixture() -> Self {
        let raw = RawApp { script: Some("/srv/app.js".into()), ..RawApp::default() };
        let workers = Workers::Exactly(1);
        raw.resolve(&Surroundings { base: Path::new("/srv"), cores: 2, workers, env: None })
            .expect("it has a script")
    }
}

/// What one layer of settings says of an app; `None` and empty say nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawApp {
    /// See [`App::name`].
    pub name: Option<String>,
    /// Keys that are options of the command line, with their values.
    pub own: BTreeMap<String, Vec<String>>,
    /// See [`App::script`]; relative to `cwd`.
    pub script: Option<PathBuf>,
    /// See [`App::cwd`]; relative to the file or directory the app was found in.
    pub cwd: Option<PathBuf>,
    /// See [`App::args`].
    pub args: Option<Vec<String>>,
    /// See [`App::interpreter`].
    pub interpreter: Option<String>,
    /// See [`App::node_args`].
    pub node_args: Option<Vec<String>>,
    /// See [`App::env`].
    pub env: BTreeMap<String, String>,
    /// The `env_NAME` objects, by NAME.
    pub env_named: BTreeMap<String, BTreeMap<String, String>>,
    /// `port`: becomes `PORT` in the environment.
    pub port: Option<u16>,
    /// See [`App::workers`].
    pub instances: Option<Workers>,
    /// See [`App::mode`].
    pub exec_mode: Option<Mode>,
    /// See [`App::instance_var`].
    pub instance_var: Option<String>,
    /// See [`App::wait_ready`].
    pub wait_ready: Option<bool>,
    /// See [`App::listen_timeout`].
    pub listen_timeout: Option<Duration>,
    /// See [`App::kill_timeout`].
    pub kill_timeout: Option<Duration>,
    /// See [`App::kill_signal`].
    pub kill_signal: Option<Signal>,
    /// See [`App::shutdown_with_message`].
    pub shutdown_with_message: Option<bool>,
    /// See [`App::autorestart`].
    pub autorestart: Option<bool>,
    /// See [`App::stop_exit_codes`].
    pub stop_exit_codes: Option<Vec<i32>>,
    /// See [`App::min_uptime`].
    pub min_uptime: Option<Duration>,
    /// See [`App::max_restarts`].
    pub max_restarts: Option<u32>,
    /// See [`App::restart_delay`].
    pub restart_delay: Option<Duration>,
    /// See [`App::exp_backoff_restart_delay`].
    pub exp_backoff_restart_delay: Option<Duration>,
    /// See [`App::max_memory_restart`]; 0 is off.
    pub max_memory_restart: Option<u64>,
    /// See [`App::cron_restart`].
    pub cron_restart: Option<CronPattern>,
    /// See [`App::watch`]; relative to `cwd`.
    pub watch: Option<Vec<PathBuf>>,
    /// See [`App::ignore_watch`].
    pub ignore_watch: Option<Vec<String>>,
    /// See [`App::watch_delay`].
    pub watch_delay: Option<Duration>,
    /// See [`App::increment_var`].
    pub increment_var: Option<String>,
    /// See [`App::treekill`].
    pub treekill: Option<bool>,
    /// See [`App::namespace`].
    pub namespace: Option<String>,
    /// Whether it is started with the others.
    pub autostart: Option<bool>,
    /// See [`App::logs`].
    pub logs: RawLogs,
    /// See [`App::bus`].
    pub bus: RawBus,
    /// See [`App::pid_file`]; relative to `cwd`.
    pub pid_file: Option<PathBuf>,
    /// See [`App::filter_env`].
    pub filter_env: Option<FilterEnv>,
    /// See [`App::source_maps`].
    pub source_maps: Option<bool>,
    /// See [`App::user`].
    pub user: Option<String>,
    /// See [`App::group`].
    pub group: Option<String>,
    /// `append_env_to_name`: with `--env production` the app is called `NAME-production`.
    pub append_env_to_name: Option<bool>,
}

/// What resolving needs to know of the place the router runs in.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings<'a> {
    /// The directory `cwd` and `script` are relative to; absolute.
    pub base: &'a Path,
    /// Cores this process may use.
    pub cores: usize,
    /// Workers when no layer says how many.
    pub workers: Workers,
    /// `--env NAME`.
    pub env: Option<&'a str>,
}

impl RawApp {
    /// This layer laid over `below`: what this one leaves open, `below` answers.
    pub fn over(self, below: Self) -> Self {
        let mut env = below.env;
        env.extend(self.env);
        let mut env_named = below.env_named;
        env_named.extend(self.env_named);
        let mut own = below.own;
        own.extend(self.own);
        Self {
            name: self.name.or(below.name),
            own,
            script: self.script.or(below.script),
            cwd: self.cwd.or(below.cwd),
            args: self.args.or(below.args),
            interpreter: self.interpreter.or(below.interpreter),
            node_args: self.node_args.or(below.node_args),
            env,
            env_named,
            port: self.port.or(below.port),
            instances: self.instances.or(below.instances),
            exec_mode: self.exec_mode.or(below.exec_mode),
            instance_var: self.instance_var.or(below.instance_var),
            wait_ready: self.wait_ready.or(below.wait_ready),
            listen_timeout: self.listen_timeout.or(below.listen_timeout),
            kill_timeout: self.kill_timeout.or(below.kill_timeout),
            kill_signal: self.kill_signal.or(below.kill_signal),
            shutdown_with_message: self.shutdown_with_message.or(below.shutdown_with_message),
            autorestart: self.autorestart.or(below.autorestart),
            stop_exit_codes: self.stop_exit_codes.or(below.stop_exit_codes),
            min_uptime: self.min_uptime.or(below.min_uptime),
            max_restarts: self.max_restarts.or(below.max_restarts),
            restart_delay: self.restart_delay.or(below.restart_delay),
            exp_backoff_restart_delay: self
                .exp_backoff_restart_delay
                .or(below.exp_backoff_restart_delay),
            max_memory_restart: self.max_memory_restart.or(below.max_memory_restart),
            cron_restart: self.cron_restart.or(below.cron_restart),
            watch: self.watch.or(below.watch),
            ignore_watch: self.ignore_watch.or(below.ignore_watch),
            watch_delay: self.watch_delay.or(below.watch_delay),
            increment_var: self.increment_var.or(below.increment_var),
            treekill: self.treekill.or(below.treekill),
            namespace: self.namespace.or(below.namespace),
            autostart: self.autostart.or(below.autostart),
            logs: self.logs.over(below.logs),
            bus: self.bus.over(below.bus),
            pid_file: self.pid_file.or(below.pid_file),
            filter_env: self.filter_env.or(below.filter_env),
            source_maps: self.source_maps.or(below.source_maps),
            user: self.user.or(below.user),
            group: self.group.or(below.group),
            append_env_to_name: self.append_env_to_name.or(below.append_env_to_name),
        }
    }

    /// Fills what is still open.
    pub fn resolve(self, around: &Surroundings<'_>) -> Result<App, ConfigError> {
        let label = self.label();
        let env = match (around.env, self.environment(around.env)) {
            (_, Some(env)) => env,
            (name, None) => {
                return Err(ConfigError::Environment {
                    app: label,
                    name: name.unwrap_or_default().to_owned(),
                    known: self.env_named.into_keys().map(|key| format!("env_{key}")).collect(),
                });
            }
        };
        let script = self.script.ok_or_else(|| ConfigError::NoScript(label.clone()))?;
        let cwd = self.cwd.map_or_else(|| around.base.to_owned(), |cwd| around.base.join(cwd));
        let script = normal(&cwd.join(script));

        if let Some(name) = &self.increment_var
            && let Some(base) = env.get(name)
            && base.trim().parse::<u64>().is_err()
        {
            return Err(ConfigError::Increment {
                app: label,
                name: name.clone(),
                got: base.clone(),
            });
        }
        // The one process that PM2 runs of an app that asks for no number has none in its logs.
        let single = self.instances.is_none() && around.workers == Workers::Exactly(1);
        let naming = Naming {
            app: &label,
            cwd: &cwd,
            merged: single && self.exec_mode != Some(Mode::Cluster),
        };
        Ok(App {
            logs: self.logs.resolve(naming),
            bus: self.bus.resolve(),
            pid_file: self.pid_file.map(|path| PidFile(absolute(&cwd, &path))),
            filter_env: self.filter_env,
            source_maps: self.source_maps,
            user: self.user,
            group: self.group,
            account: None,
            name: label,
            workers: self.instances.unwrap_or(around.workers).resolve(around.cores)?,
            script,
            watch: self.watch.unwrap_or_default().iter().map(|path| joined(&cwd, path)).collect(),
            cwd,
            args: self.args.unwrap_or_default(),
            interpreter: self.interpreter.unwrap_or_else(|| "node".to_owned()),
            node_args: self.node_args.unwrap_or_default(),
            env,
            instance_var: self.instance_var.unwrap_or_else(|| "NODE_APP_INSTANCE".to_owned()),
            wait_ready: self.wait_ready.unwrap_or(false),
            listen_timeout: self.listen_timeout.unwrap_or(Duration::from_millis(3000)),
            kill_timeout: self.kill_timeout.unwrap_or(Duration::from_millis(1600)),
            kill_signal: self.kill_signal.unwrap_or(Signal::SIGINT),
            shutdown_with_message: self.shutdown_with_message.unwrap_or(false),
            autorestart: self.autorestart.unwrap_or(true),
            stop_exit_codes: self.stop_exit_codes.unwrap_or_default(),
            min_uptime: self.min_uptime.unwrap_or(Duration::from_millis(1000)),
            max_restarts: self.max_restarts.unwrap_or(16),
            restart_delay: self.restart_delay.unwrap_or(Duration::ZERO),
            exp_backoff_restart_delay: self
                .exp_backoff_restart_delay
                .unwrap_or(Duration::from_millis(10)),
            max_memory_restart: self.max_memory_restart.filter(|bytes| *bytes > 0),
            cron_restart: self.cron_restart,
            ignore_watch: self.ignore_watch.unwrap_or_default(),
            watch_delay: self.watch_delay.unwrap_or(Duration::ZERO),
            increment_var: self.increment_var,
            treekill: self.treekill.unwrap_or(true),
            mode: self.exec_mode.unwrap_or_default(),
            namespace: self.namespace.unwrap_or_else(|| "default".to_owned()),
        })
    }

    /// What it adds to the workers' environment, with `env_NAME` of this name; none: it has none.
    pub fn environment(&self, name: Option<&str>) -> Option<BTreeMap<String, String>> {
        let mut env = self.env.clone();
        // An explicit PORT in `env` is the more particular of the two.
        if let Some(port) = self.port {
            env.entry("PORT".to_owned()).or_insert_with(|| port.to_string());
        }
        if let Some(name) = name {
            env.extend(self.env_named.get(name)?.clone());
        }
        Some(env)
    }

    /// Takes the name that goes with `--env`, once and for all.
    pub fn name_for(&mut self, env: Option<&str>) {
        if let (Some(true), Some(env)) = (self.append_env_to_name.take(), env) {
            self.name = Some(format!("{}-{env}", self.label()));
        }
    }

    /// The app's name, or the one its script gives it, as PM2 does.
    pub fn label(&self) -> String {
        let stem = || {
            let stem = self.script.as_deref().and_then(Path::file_stem);
            stem.map_or_else(|| "app".to_owned(), |stem| stem.to_string_lossy().into_owned())
        };
        self.name.clone().unwrap_or_else(stem)
    }
}

/// Without `.` and `..`, as Node's path.resolve has it: by the letters alone.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => _ = normal.pop(),
            part => normal.push(part),
        }
    }
    normal
}

/// `path` under `base`, without the `.` components that `watch: true` and `./src` bring along.
pub(super) fn joined(base: &Path, path: &Path) -> PathBuf {
    base.join(path).components().filter(|part| *part != Component::CurDir).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn around(env: Option<&str>) -> Surroundings<'_> {
        Surroundings { base: Path::new("/srv/app"), cores: 4, workers: Workers::MAX, env }
    }

    fn script(path: &str) -> RawApp {
        RawApp { script: Some(path.into()), ..RawApp::default() }
    }

    #[test]
    fn the_defaults_are_pm2s_but_for_the_backoff() {
        let app = script("server.js").resolve(&around(None)).expect("it has a script");
        assert_eq!(app.name, "server");
        assert_eq!(app.script, Path::new("/srv/app/server.js"));
        assert_eq!(app.cwd, Path::new("/srv/app"));
        assert_eq!((app.workers, app.max_restarts), (4, 16));
        assert_eq!((app.interpreter.as_str(), app.kill_signal), ("node", Signal::SIGINT));
        assert_eq!(app.listen_timeout.as_millis(), 3000);
        assert_eq!(app.kill_timeout.as_millis(), 1600);
        assert_eq!(app.min_uptime.as_millis(), 1000);
        assert_eq!(app.exp_backoff_restart_delay.as_millis(), 10);
        assert!(app.autorestart && !app.wait_ready && !app.shutdown_with_message);
        assert!(app.treekill && app.watch.is_empty() && app.watch_delay.is_zero());
        assert_eq!(
            (app.max_memory_restart, app.cron_restart, app.increment_var),
            (None, None, None)
        );
    }

    #[test]
    fn the_upper_layer_wins_where_it_speaks() {
        let mut above = script("a.js");
        above.wait_ready = Some(false);
        above.env.insert("X".into(), "above".into());
        let mut below = script("b.js");
        below.wait_ready = Some(true);
        below.name = Some("below".into());
        below.env.insert("X".into(), "below".into());
        below.env.insert("Y".into(), "below".into());
        let app = above.over(below).resolve(&around(None)).expect("resolves");
        assert_eq!((app.name.as_str(), app.wait_ready), ("below", false));
        assert!(app.script.ends_with("a.js"));
        assert_eq!((app.env["X"].as_str(), app.env["Y"].as_str()), ("above", "below"));
    }

    #[test]
    fn a_relative_cwd_moves_the_script() {
        let raw = RawApp { cwd: Some("sub".into()), ..script("./a.js") };
        let app = raw.resolve(&around(None)).expect("resolves");
        assert_eq!((app.cwd, app.script), ("/srv/app/sub".into(), "/srv/app/sub/./a.js".into()));
    }

    #[test]
    fn what_is_watched_is_below_the_apps_directory_unless_absolute() {
        let watch = vec![".".into(), "./src".into(), "/etc/chat".into()];
        let raw = RawApp { cwd: Some("sub".into()), watch: Some(watch), ..script("a.js") };
        let app = raw.resolve(&around(None)).expect("resolves");
        let expected = ["/srv/app/sub", "/srv/app/sub/src", "/etc/chat"].map(PathBuf::from);
        assert_eq!(app.watch, expected);
    }

    #[test]
    fn a_variable_counts_up_with_the_slots() {
        let mut raw = RawApp { increment_var: Some("METRICS".into()), ..script("a.js") };
        let app = raw.clone().resolve(&around(None)).expect("resolves");
        assert_eq!(app.incremented(3), Some(("METRICS", "3".to_owned())));
        raw.env.insert("METRICS".into(), "9100".into());
        let app = raw.clone().resolve(&around(None)).expect("resolves");
        assert_eq!(app.incremented(3), Some(("METRICS", "9103".to_owned())));
        assert_eq!(script("a.js").resolve(&around(None)).expect("resolves").incremented(3), None);
        raw.env.insert("METRICS".into(), "many".into());
        let error = raw.resolve(&around(None)).expect_err("it cannot count").to_string();
        assert_eq!(
            error,
            "app a: `increment_var` counts METRICS up, which is `many` in its environment; it must be a number"
        );
    }

    #[test]
    fn no_memory_limit_and_a_debugger_are_seen() {
        let raw = RawApp { max_memory_restart: Some(0), ..script("a.js") };
        assert_eq!(raw.resolve(&around(None)).expect("resolves").max_memory_restart, None);
        let mut app = App::fixture();
        assert!(!app.inspected());
        app.env.insert("NODE_OPTIONS".into(), "--enable-source-maps --inspect=0".into());
        assert!(app.inspected());
        app.env.clear();
        app.node_args = vec!["--inspect-brk".into()];
        assert!(app.inspected());
    }

    #[test]
    fn a_named_environment_lies_over_the_common_one() {
        let mut raw = RawApp { port: Some(3000), ..script("a.js") };
        raw.env.insert("MODE".into(), "dev".into());
        let production = BTreeMap::from([("MODE".to_owned(), "prod".to_owned())]);
        raw.env_named.insert("production".into(), production);
        let app = raw.clone().resolve(&around(Some("production"))).expect("resolves");
        assert_eq!((app.env["MODE"].as_str(), app.env["PORT"].as_str()), ("prod", "3000"));

        let error = raw.resolve(&around(Some("staging"))).expect_err("there is none").to_string();
        assert_eq!(error, "app a has no env_staging; it has env_production");
    }
}
