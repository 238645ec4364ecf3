//! What the workers of an app see: the environment of the command, less what is kept from them, and
//! over it what the app's own file says.

use anyhow::Result;

use crate::config::{self, Ecosystem, RawApp};
use crate::control::apps::{Definition, Environment, Source};

/// The app as its file describes it; none, if it has none.
///
/// # Errors
/// It was described to another version of router, which knew more.
pub(super) fn described(definition: &Definition) -> Result<Option<RawApp>> {
    let Source::Described(value) = &definition.app else { return Ok(None) };
    let mut ecosystem = Ecosystem::from_json(&definition.name, value, &[])?;
    if let Some(env) = env(definition) {
        ecosystem.complete(env);
    }
    Ok(ecosystem.apps.pop())
}

/// Of the worker in this slot. The router keeps the URL of its bus to itself, unless the app's file
/// names one; no password of it is shown.
pub(super) fn of(definition: &Definition, app: Option<&RawApp>, slot: u16) -> Environment {
    let mut all = definition.environment.clone();
    all.remove("ROUTER_BUS");
    if let Some(app) = app {
        complete(&mut all, definition, app, slot);
    }
    if let Some(url) = all.get_mut("ROUTER_BUS") {
        *url = config::presentable_url(url);
    }
    all
}

fn complete(all: &mut Environment, definition: &Definition, app: &RawApp, slot: u16) {
    if let Some(filter) = &app.filter_env {
        all.retain(|name, _| !filter.hides(name));
    }
    let own = app.environment(env(definition)).or_else(|| app.environment(None));
    all.extend(own.unwrap_or_default());
    if let Some(name) = &app.increment_var {
        let base: u64 = all.get(name).and_then(|base| base.trim().parse().ok()).unwrap_or(0);
        all.insert(name.clone(), base.saturating_add(slot.into()).to_string());
    }
}

/// What `--env` said, or its variable.
fn env(definition: &Definition) -> Option<&str> {
    let said = definition.options.iter().find_map(|option| option.strip_prefix("--env="));
    let variable = definition.environment.get("ROUTER_ENV").map(String::as_str);
    said.or_else(|| variable.filter(|name| !name.is_empty()))
}
