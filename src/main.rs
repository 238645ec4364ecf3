//! Entry point: command line, log, daemon, exit code. It decides nothing else.
//!
//! Exit codes: 0 as wished, 1 it could not go on, 2 it could not start as asked, 3 no worker of the
//! app is left.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::Signal;
use router::cli::Invocation;
use router::config::{LogFormat, Rotation, Verbosity};
use router::daemon::{DaemonError, Inheritance, log};
use router::supervisor::logs;
use router::supervisor::output::{self, Stream, printer};
use router::{cli, daemon, sys};

/// How long the last lines may take to be written.
const FLUSH: Duration = Duration::from_millis(300);

/// The exit code for what may be better next time.
const FAILURE: u8 = 1;
/// The exit code for what the operator has to put right.
const USAGE: u8 = 2;
/// The exit code for an app whose workers have all failed: another router would not help it.
const WORKERS_FAILED: u8 = 3;

fn main() -> ExitCode {
    // Before anything opens an fd that could land on 0, 1 or 2.
    if sys::process::ensure_standard_fds().is_err() {
        return ExitCode::FAILURE;
    }
    // Whoever moves logs away does not ask whether the router has come far enough for that.
    if sys::exec::outlive(Signal::SIGUSR1).is_err() {
        return ExitCode::FAILURE;
    }
    // And before any program is started that would have what was left open for this one.
    let inheritance = daemon::inherit();
    let words = match words() {
        Ok(words) => words,
        Err(error) => {
            let _closed = writeln!(io::stderr(), "router: {error:#}");
            return ExitCode::from(USAGE);
        }
    };
    let invocation = match cli::parse(words) {
        Ok(invocation) => invocation,
        Err(error) => {
            // The help goes to stdout and is no failure; a closed pipe there is none either.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    let code = match &invocation {
        Invocation::Run(options) => {
            let rotation = Rotation::by_size(options.log_max_size, options.log_keep);
            let log_file = options.log_file.as_deref().map(|path| (path, rotation));
            logged(options.log_format, options.verbosity(), log_file, || {
                start(options, inheritance)
            })
        }
        Invocation::Daemon(options) => {
            let rotation = Rotation::by_size(None, None);
            let log_file = options.log_file.as_deref().map(|path| (path, rotation));
            logged(LogFormat::Pretty, Verbosity::Normal, log_file, || keep(options))
        }
        Invocation::Command(command) => logged(LogFormat::Pretty, Verbosity::Normal, None, || {
            cli::run(command, sys::cpu::usable_cores())
                .map_err(|error| (format!("{error:#}"), FAILURE))
        }),
    };
    logs::flush(FLUSH);
    printer().flush(FLUSH);
    code
}

/// The words of the command line; of `--saved`, those that are saved, and what was around them is
/// around this process from now on.
fn words() -> anyhow::Result<Vec<OsString>> {
    let words: Vec<OsString> = std::env::args_os().collect();
    let Some(saved) = cli::saved(&words)? else { return Ok(words) };
    sys::exec::replace_environment(&[daemon::upgrade::VARIABLE], &saved.environment)?;
    std::env::set_current_dir(&saved.directory)
        .with_context(|| format!("cannot go to {}", saved.directory.display()))?;
    Ok(words.into_iter().take(1).chain(saved.words.into_iter().map(OsString::from)).collect())
}

/// Does it with a log; what it fails with is the last thing in it.
fn logged(
    format: LogFormat,
    verbosity: Verbosity,
    file: Option<(&Path, Rotation)>,
    act: impl FnOnce() -> Result<ExitCode, (String, u8)>,
) -> ExitCode {
    let opened = file.map_or(Ok(()), |(path, rotation)| open_log(path, rotation));
    log::start(format, verbosity);
    opened
        .map_err(|paragraph| (paragraph, USAGE))
        .and_then(|()| act())
        .unwrap_or_else(|(paragraph, code)| fail(format, &paragraph, ExitCode::from(code)))
}

/// Keeps apps.
fn keep(options: &cli::Daemon) -> Result<ExitCode, (String, u8)> {
    let home = cli::home().map_err(|error| (format!("{error:#}"), USAGE))?;
    router::manager::run(home, options.resurrect, log::change)
        .map_err(|error| (error.to_string(), FAILURE))
}

/// Runs the daemon; or says why not, and with which exit code.
fn start(
    options: &cli::Options,
    inheritance: Result<Inheritance, DaemonError>,
) -> Result<ExitCode, (String, u8)> {
    let paragraph = |error: DaemonError| {
        let code = match &error {
            DaemonError::Workers(_) => WORKERS_FAILED,
            error if error.is_usage() => USAGE,
            _ => FAILURE,
        };
        (error.to_string(), code)
    };
    let inheritance = inheritance.map_err(paragraph)?;
    let config = cli::resolve(options, sys::cpu::usable_cores())
        .map_err(|error| (format!("{error:#}"), USAGE))?;
    daemon::run(config, inheritance).map_err(paragraph)
}

/// Has everything go to this file from now on. What the trial of an upgrade says is for the router
/// that it may follow; but it must be able to open the file.
fn open_log(path: &Path, rotation: Rotation) -> Result<(), String> {
    let opened = if daemon::upgrade::is_trial() {
        output::append(path).map(drop)
    } else {
        output::log_to(path, rotation)
    };
    opened.map_err(|error| {
        let path = path.display();
        format!("the log file {path} cannot be opened: {error}. Choose another with --log-file")
    })
}

/// The last thing that is said. People get it as a paragraph of its own, machines as one more
/// line of the log.
fn fail(format: LogFormat, paragraph: &str, code: ExitCode) -> ExitCode {
    if output::goes_to_a_file() {
        // Whoever has started it looks here first; it may be closed, and that is no failure.
        let _ = writeln!(io::stderr(), "router: {paragraph}");
    }
    match format {
        LogFormat::Json => tracing::error!("{paragraph}"),
        LogFormat::Pretty => {
            let text = format!("router: {paragraph}\n");
            printer().print(Stream::Stderr, text.into_bytes(), 1);
        }
    }
    code
}
