//! The command line: what was asked for, found, evaluated and resolved into one [`Config`].
//!
//! This is where the environment is read, where node evaluates an ecosystem file and where npm
//! installs. An error is one paragraph: what was wrong and what to do.

mod accounts;
mod client;
mod columns;
mod commands;
mod define;
mod discover;
mod elsewhere;
mod environment;
mod evaluate;
mod given;
mod install;
mod languages;
mod list;
mod logs;
mod monit;
mod options;
mod own;
mod saved;
mod startup;

use std::env;
use std::ffi::OsString;
use std::io::{self, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};
use clap::FromArgMatches;
use nix::unistd::{AccessFlags, access};
use serde_json::Value;

pub use self::client::{home, run};
use self::commands::CommandLine;
pub use self::commands::{Command, Daemon};
use self::discover::{Found, discover};
use self::given::Given;
pub use self::options::{Options, Threads};
pub use self::saved::{Saved, saved};
use crate::config::{
    self, Address, App, Config, DEFAULT_PORT, Ecosystem, Handoff, Mode, RawApp, Surroundings,
    Trust, Workers,
};

/// How many lines of a failed program are shown.
const SHOWN_LINES: usize = 15;
/// How much of each, in characters.
const SHOWN_COLUMNS: usize = 400;

/// What the command line asks for.
#[derive(Debug)]
pub enum Invocation {
    /// Run an app in the foreground.
    Run(Box<Options>),
    /// Keep apps, in the foreground.
    Daemon(Daemon),
    /// Speak to the daemon.
    Command(Box<Command>),
}

/// Reads the command line. An "error" may be the help that was asked for.
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Invocation, clap::Error> {
    let words: Vec<OsString> = words.into_iter().collect();
    let matches = commands::table().try_get_matches_from(&words).map_err(|error| {
        // `router lgos --lines 5`: the option is what clap stumbles over, the first word is the
        // misunderstanding.
        let first = words.get(1).and_then(|word| word.to_str());
        let told = first
            .filter(|word| !word.starts_with('-') && !Path::new(word).exists())
            .and_then(|word| elsewhere::left_out(word).or_else(|| elsewhere::misspelt(word)))
            .or_else(|| elsewhere::other_option(first.unwrap_or_default(), &error));
        match told {
            Some(told) if error.use_stderr() => {
                clap::Error::raw(clap::error::ErrorKind::InvalidSubcommand, told + "\n")
            }
            _ => error,
        }
    })?;
    let line = CommandLine::from_arg_matches(&matches)?;
    Ok(match line.command {
        None => {
            let options = Options { given: Given::of(&matches), ..line.options };
            Invocation::Run(Box::new(options))
        }
        Some(Command::Daemon(daemon)) => Invocation::Daemon(daemon),
        Some(mut command) => {
            if let (Command::Start(start), Some(matches)) =
                (&mut command, matches.subcommand_matches("start"))
            {
                start.options.given = Given::of(matches);
            }
            Invocation::Command(Box::new(command))
        }
    })
}

/// Everything the options, the environment and an ecosystem file ask for, resolved on a host
/// with this many usable cores.
pub fn resolve(options: &Options, cores: usize) -> Result<Config> {
    let here = env::current_dir().context("the current directory is gone")?;
    resolve_in(options, cores, &here, &|name| env::var(name).ok())
}

/// `variable` reads the environment.
fn resolve_in(
    options: &Options,
    cores: usize,
    here: &Path,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Config> {
    let (options, below, base, workers, file) = match discover(only_app(options, here)?, here)? {
        Found::Script { script, base, name } => {
            if options.env.is_some() || options.only.is_some() {
                bail!(
                    "--env and --only choose from an ecosystem file; {} is a script",
                    script.display()
                );
            }
            let raw = RawApp { script: Some(script), name, ..RawApp::default() };
            (options.clone(), raw, base, Workers::MAX, None)
        }
        Found::Ecosystem(file) => {
            let env = options.env.as_deref();
            let (name, _, ecosystem) = read_ecosystem(&file, env)?;
            let mut app = config::select(&name, ecosystem.apps, options.only.as_deref())?;
            app.name_for(env);
            let base = file.parent().unwrap_or(here).to_owned();
            let options = own::under(options, &app.own)
                .with_context(|| format!("{name}: app {}", app.label()))?;
            (options, app, base, Workers::Exactly(1), Some(name))
        }
    };
    let options = &options;
    let Checked { listen, admin, proxy } = check_options(options)?;
    let mut above = options.layer();
    // Relative to where the command was given, not to the ecosystem file.
    above.cwd = options.cwd.as_ref().map(|cwd| here.join(cwd));
    let app = settle(above.over(below), &base, workers, options, cores, variable);
    let app = match file {
        Some(file) => app.context(file)?,
        None => app?,
    };

    let default_port = default_port(&app, variable)?;
    // A debugger may hold a worker still for as long as it likes.
    let inspected = app.inspected();
    let threads = match options.threads {
        None | Some(Threads::Auto) => None,
        Some(Threads::Max) => Some(cores),
        Some(Threads::Exactly(threads)) => Some(threads),
    };
    Ok(Config {
        app,
        listen,
        default_port,
        threads,
        engine: options.engine,
        balance: options.balance,
        serialization: options.serialization,
        handoff: options.handoff,
        preload: !options.no_preload,
        adapter: !options.no_adapter,
        sticky: options.sticky,
        proxy,
        head_timeout: options.head_timeout,
        drain_timeout: options.drain_timeout,
        disconnect_over: options.disconnect_over.min(options.drain_timeout),
        hang_timeout: Some(options.hang_timeout).filter(|timeout| !timeout.is_zero() && !inspected),
        orphan_timeout: Some(options.orphan_timeout).filter(|timeout| !timeout.is_zero()),
        runtime_dir: options.runtime_dir.as_ref().map(|directory| here.join(directory)),
        admin,
        log: options.log_format,
        verbosity: options.verbosity(),
    })
}

/// What is run in the foreground: one app.
fn only_app<'a>(options: &'a Options, here: &Path) -> Result<Option<&'a Path>> {
    let apps = &options.apps;
    // A command that was misspelt takes apps, too: its word is what is wrong.
    if let Some(first) = apps.first()
        && !here.join(first).exists()
        && let Some(told) = first
            .to_str()
            .and_then(|word| elsewhere::left_out(word).or_else(|| elsewhere::misspelt(word)))
    {
        bail!("{told}");
    }
    match apps.as_slice() {
        [] => Ok(None),
        [app] => Ok(Some(app)),
        [app, second, ..] => bail!(
            "in the foreground one app is run, and {} are named: `router start {} {} …` runs them in \
             the background; what is meant for the script comes after --",
            apps.len(),
            app.display(),
            second.display()
        ),
    }
}

/// What is to be parsed of the options, and is in order.
struct Checked {
    listen: Vec<Address>,
    admin: Option<Address>,
    proxy: Option<Trust>,
}

fn check_options(options: &Options) -> Result<Checked> {
    let listen = options
        .listen
        .iter()
        // ROUTER_LISTEN= in a file of variables says nothing.
        .filter(|address| !address.is_empty())
        .map(|address| Address::parse(address, &look_up))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| anyhow!("--listen: {error}"))?;
    let admin = options.admin.as_deref().filter(|address| !address.is_empty());
    let admin = admin
        .map(|address| Address::parse(address, &look_up))
        .transpose()
        .map_err(|error| anyhow!("--admin: {error}"))?;
    let proxy = proxy(options)?;
    if options.no_preload && options.handoff == Handoff::Lane {
        bail!(
            "--handoff lane is read by the preload, which --no-preload leaves out; drop one of them"
        );
    }
    Ok(Checked { listen, admin, proxy })
}

/// Every question about an app answered, and what would keep it from running found.
fn settle(
    raw: RawApp,
    base: &Path,
    workers: Workers,
    options: &Options,
    cores: usize,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<App> {
    options.check_bus().map_err(|error| anyhow!(error))?;
    let raw = languages::recognise(raw.over(pm2_variables(variable)?), base);
    // Of ordinary processes one is meant, unless somebody says so.
    let workers = if raw.exec_mode == Some(Mode::Fork) { Workers::Exactly(1) } else { workers };
    let mut app =
        raw.resolve(&Surroundings { base, cores, workers, env: options.env.as_deref() })?;
    let interpreter = check(&app, variable)?;
    app.account = accounts::find(&app)?;
    if app.filter_env.is_some()
        && let Some(found) = interpreter
    {
        // The path is perhaps among what the workers do not see.
        app.interpreter = found.display().to_string();
    }
    install::install(&app.script, "npm", options.no_install)?;
    Ok(app)
}

/// Whose PROXY protocol headers are read, if any are.
fn proxy(options: &Options) -> Result<Option<Trust>> {
    // ROUTER_TRUST= in a file of variables says nothing.
    let listed = options.trust.iter().any(|value| !value.is_empty());
    match (options.proxy_protocol, listed) {
        (true, _) if options.no_preload => bail!(
            "--proxy-protocol needs the preload, which tells a worker its client's address, and \
             --no-preload leaves it out; drop one of them"
        ),
        (true, true) => {
            Ok(Some(Trust::parse(&options.trust).map_err(|error| anyhow!("--trust: {error}"))?))
        }
        (true, false) => Ok(Some(Trust::default())),
        (false, true) => bail!(
            "--trust says whose PROXY protocol header is believed, and none is read; add \
             --proxy-protocol"
        ),
        (false, false) => Ok(None),
    }
}

/// What an ecosystem file is called in errors, what it exports, and the apps it describes.
fn read_ecosystem(file: &Path, env: Option<&str>) -> Result<(String, Value, Ecosystem)> {
    let exported = evaluate::evaluate("node", file)?;
    let name = file.display().to_string();
    let mut ecosystem = Ecosystem::from_json(&name, &exported, &own::keys())?;
    for warning in &ecosystem.warnings {
        tracing::warn!("{warning}");
    }
    if let Some(env) = env {
        ecosystem.complete(env);
    }
    Ok((name, exported, ecosystem))
}

/// PM2's own variables, which change its defaults: the lowest layer.
fn pm2_variables(variable: &dyn Fn(&str) -> Option<String>) -> Result<RawApp> {
    let duration = |name: &str| -> Result<_> {
        let text = variable(name).filter(|text| !text.is_empty());
        text.map(|text| config::milliseconds(&text)).transpose().map_err(|e| anyhow!("{name}: {e}"))
    };
    let kill_signal = match variable("PM2_KILL_SIGNAL").filter(|text| !text.is_empty()) {
        None => None,
        Some(name) => {
            let upper = name.to_uppercase();
            let full = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
            let known = full.parse().map_err(|_| {
                anyhow!("PM2_KILL_SIGNAL: `{name}` is no signal; write SIGINT, SIGTERM, …")
            })?;
            Some(known)
        }
    };
    Ok(RawApp {
        kill_signal,
        kill_timeout: duration("PM2_KILL_TIMEOUT")?,
        listen_timeout: duration("PM2_GRACEFUL_LISTEN_TIMEOUT")?,
        shutdown_with_message: variable("PM2_KILL_USE_MESSAGE")
            .map(|value| !["", "0", "false"].contains(&value.as_str())),
        ..RawApp::default()
    })
}

/// The port for an app that never listens: what its workers see in their environment, which is
/// the app's own over the router's.
fn default_port(app: &App, variable: &dyn Fn(&str) -> Option<String>) -> Result<u16> {
    for name in ["PM2_PORT", "PORT"] {
        let value = app.env.get(name).cloned().or_else(|| variable(name));
        let Some(value) = value.filter(|value| !value.is_empty()) else { continue };
        return match value.trim().parse() {
            Ok(port) => Ok(port),
            Err(_) => bail!("{name} is `{value}`; it must be a port, 1 to 65535"),
        };
    }
    Ok(DEFAULT_PORT)
}

/// What would otherwise fail once per worker, and again at each restart.
fn check(app: &App, variable: &dyn Fn(&str) -> Option<String>) -> Result<Option<PathBuf>> {
    // The script is looked for there.
    if !app.cwd.is_dir() {
        bail!("app {}: there is no directory {} to start in (`cwd`)", app.name, app.cwd.display());
    }
    if !app.script.is_file() {
        let runner = app.script.file_name().and_then(|name| discover::runner(name.as_ref()));
        let advice = runner.map_or_else(String::new, |runner| format!("; {runner}"));
        bail!("app {}: there is no script {}{advice}", app.name, app.script.display());
    }
    let path = app.env.get("PATH").cloned().or_else(|| variable("PATH")).unwrap_or_default();
    if app.runs_itself() {
        if access(&app.script, AccessFlags::X_OK).is_err() {
            bail!(
                "app {}: {} cannot be executed: chmod +x it, or name an interpreter",
                app.name,
                app.script.display()
            );
        }
        return Ok(None);
    }
    let found = find_program(&app.interpreter, &app.cwd, &path);
    if found.is_none() {
        bail!(
            "app {}: `{}` is not installed, or not in PATH ({path}); install it, or name another with --interpreter",
            app.name,
            app.interpreter
        );
    }
    Ok(found)
}

/// As exec would find it.
fn find_program(name: &str, cwd: &Path, path: &str) -> Option<PathBuf> {
    let runs = |file: &PathBuf| file.is_file() && access(file, AccessFlags::X_OK).is_ok();
    if name.contains('/') {
        return Some(cwd.join(name)).filter(runs);
    }
    env::split_paths(path).map(|directory| cwd.join(directory).join(name)).find(runs)
}

fn look_up(host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    let found = (host, port).to_socket_addrs().map_err(|error| error.to_string())?;
    Ok(found.collect())
}

/// Writes it all to stdout. A reader who has had enough is no failure.
fn print(text: &str) -> Result<ExitCode> {
    print_some(text.as_bytes()).map(|_read_or_not| ExitCode::SUCCESS)
}

/// The same; whether there is still somebody who reads.
fn print_some(bytes: &[u8]) -> Result<bool> {
    let mut stdout = io::stdout();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        written => Ok(written.map(|()| true)?),
    }
}

/// The end of what a program wrote, each line indented on a line of its own.
fn last_lines(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let shown = lines.iter().skip(lines.len().saturating_sub(SHOWN_LINES));
    shown
        .map(|line| format!("\n    {}", line.chars().take(SHOWN_COLUMNS).collect::<String>()))
        .collect()
}

#[cfg(test)]
mod tests;
