//! Entry point: command line, log, daemon, exit code. It decides nothing else.
//!
//! Exit codes: 0 as wished, 1 it could not go on, 2 it could not start as asked.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use nix::sys::signal::Signal;
use router::config::{LogFormat, Verbosity};
use router::daemon::{DaemonError, Inheritance};
use router::supervisor::logs;
use router::supervisor::output::{self, LogWriter, Stream, printer};
use router::{cli, daemon, sys};
use tracing_subscriber::EnvFilter;

/// How long the last lines may take to be written.
const FLUSH: Duration = Duration::from_millis(300);

/// The exit code for what may be better next time.
const FAILURE: u8 = 1;
/// The exit code for what the operator has to put right.
const USAGE: u8 = 2;

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
    let options = match cli::parse(std::env::args_os()) {
        Ok(options) => options,
        Err(error) => {
            // The help goes to stdout and is no failure; a closed pipe there is none either.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    let format = options.log_format;
    let log_file = options.log_file.as_deref().map_or(Ok(()), open_log);
    start_log(format, options.verbosity());
    if let Err(paragraph) = log_file {
        let code = fail(format, &paragraph, ExitCode::from(USAGE));
        printer().flush(FLUSH);
        return code;
    }
    let code = start(&options, inheritance).unwrap_or_else(|(paragraph, code)| {
        let code = ExitCode::from(code);
        fail(format, &paragraph, code)
    });
    logs::flush(FLUSH);
    printer().flush(FLUSH);
    code
}

/// Runs the daemon; or says why not, and with which exit code.
fn start(
    options: &cli::Options,
    inheritance: Result<Inheritance, DaemonError>,
) -> Result<ExitCode, (String, u8)> {
    let paragraph =
        |error: DaemonError| (error.to_string(), if error.is_usage() { USAGE } else { FAILURE });
    let inheritance = inheritance.map_err(paragraph)?;
    let config = cli::resolve(options, sys::cpu::usable_cores())
        .map_err(|error| (format!("{error:#}"), USAGE))?;
    daemon::run(config, inheritance).map_err(paragraph)
}

/// Has everything go to this file from now on. What the trial of an upgrade says is for the router
/// that it may follow; but it must be able to open the file.
fn open_log(path: &Path) -> Result<(), String> {
    let opened = if daemon::upgrade::is_trial() {
        output::append(path).map(drop)
    } else {
        output::log_to(path)
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

/// The log goes to stderr, by way of the thread that also prints the workers' lines.
fn start_log(format: LogFormat, verbosity: Verbosity) {
    let level = match verbosity {
        Verbosity::Quiet => "warn",
        Verbosity::Normal => "info",
        Verbosity::Verbose => "debug",
        Verbosity::Trace => "trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(LogWriter::default);
    let ansi = io::stderr().is_terminal() && !output::goes_to_a_file();
    match format {
        LogFormat::Pretty => log.with_ansi(ansi).with_target(false).init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
}
