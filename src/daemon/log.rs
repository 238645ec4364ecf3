//! The router's own log: how it looks, and how much it says, which can be changed while it runs.

use std::io::{self, IsTerminal};
use std::sync::{Mutex, OnceLock, PoisonError};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::config::{LogFormat, Verbosity};
use crate::supervisor::output::{self, LogWriter};

/// Takes a new filter in place of the old one.
type Change = dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync;

static CHANGE: OnceLock<Box<Change>> = OnceLock::new();

/// What it was changed to last.
static CHANGED: Mutex<Option<String>> = Mutex::new(None);

/// Starts it, on stderr or in the log file, by way of the thread that also prints the workers' lines.
/// Once in a process.
pub fn start(format: LogFormat, verbosity: Verbosity) {
    let level = match verbosity {
        Verbosity::Quiet => "warn",
        Verbosity::Normal => "info",
        Verbosity::Verbose => "debug",
        Verbosity::Trace => "trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(LogWriter::default);
    let ansi = io::stderr().is_terminal() && !output::goes_to_a_file();
    let change: Box<Change> = match format {
        LogFormat::Pretty => {
            let log = log.with_ansi(ansi).with_target(false).with_filter_reloading();
            let handle = log.reload_handle();
            log.init();
            Box::new(move |filter| handle.reload(filter).map_err(|error| error.to_string()))
        }
        LogFormat::Json => {
            let log = log.json().flatten_event(true).with_filter_reloading();
            let handle = log.reload_handle();
            log.init();
            Box::new(move |filter| handle.reload(filter).map_err(|error| error.to_string()))
        }
    };
    // A second start has panicked above.
    let _first = CHANGE.set(change);
}

/// Says more, or less, from now on: a level, or one for each target, as in `RUST_LOG`.
///
/// # Errors
/// It is no such filter.
pub fn change(filter: &str) -> Result<(), String> {
    let wrong = || format!("`{filter}` is no log level: write error, warn, info, debug or trace");
    // A word alone would be taken for a target's name.
    let level = |part: &str| part.contains('=') || part.parse::<LevelFilter>().is_ok();
    if !filter.split(',').all(level) {
        return Err(wrong());
    }
    let parsed = EnvFilter::builder().parse(filter).map_err(|_| wrong())?;
    let change = CHANGE.get().ok_or("the log has not started")?;
    change(parsed)?;
    *CHANGED.lock().unwrap_or_else(PoisonError::into_inner) = Some(filter.to_owned());
    tracing::info!(filter, "log level changed");
    Ok(())
}

/// What it was changed to, if it was: for the program that goes on in this process's place.
#[must_use]
pub fn changed() -> Option<String> {
    CHANGED.lock().unwrap_or_else(PoisonError::into_inner).clone()
}
