//! Wiring and stop order. (being built)

use std::process::ExitCode;

use crate::config::Config;

/// Why the router could not go on.
#[derive(Debug, thiserror::Error)]
#[error("the data plane is being built")]
pub struct DaemonError;

/// Runs the app until it is stopped.
pub fn run(_config: Config) -> Result<ExitCode, DaemonError> {
    Err(DaemonError)
}
