//! The bus, wired: with what it begins, and what of it the next program gets.

use std::sync::Arc;

use super::DaemonError;
use super::plane::serialization;
use super::runtime::Runtime;
use crate::bus::journal::Journal;
use crate::bus::{self, Bus, Frozen, Settings, Start};
use crate::config::{Config, Plan};
use crate::shard::Shared;

/// With what a bus begins.
pub(super) enum Before {
    /// A router that died, or none, was here.
    Dead,
    /// Another program had this in hand.
    Frozen(Option<Box<Frozen>>),
}

/// Asks Redis whether it would have this router. A password that is wrong from the start is put
/// right at once; but the workers that an earlier router has left are worth more than other hosts.
pub(super) fn probe(config: &Config, runtime: &Runtime) -> Result<(), DaemonError> {
    let Some(bus) = &config.app.bus else { return Ok(()) };
    match bus::probe(bus) {
        Err(refused) if runtime.roll().exists() => {
            tracing::error!("{refused}");
            Ok(())
        }
        probed => Ok(probed?),
    }
}

/// Starts it, where one was asked for.
pub(super) fn start(
    config: &Config,
    plan: &Plan,
    shared: &Arc<Shared>,
    runtime: &Runtime,
    before: Before,
) -> Result<Option<Bus>, DaemonError> {
    let Some(bus) = &config.app.bus else { return Ok(None) };
    let settings = Settings {
        bus: bus.clone(),
        serialization: serialization(plan.serialization),
        client: format!("router:{}", config.app.name.replace([' ', '\n'], "_")),
        journal: config.orphan_timeout.map(|_| runtime.bus()),
    };
    let start = match before {
        Before::Frozen(Some(frozen)) => Start::Thawed(frozen),
        // Only clients that were here before can have missed anything.
        Before::Dead if runtime.roll().exists() => {
            Journal::read(&runtime.bus()).map_or(Start::Fresh, Start::After)
        }
        Before::Dead | Before::Frozen(None) => Start::Fresh,
    };
    Bus::start(settings, Arc::clone(shared), start)
        .map(Some)
        .map_err(|reason| DaemonError::System { what: "the bus's thread", reason })
}
