//! From `router start …` to what the daemon remembers of each app.
//!
//! Whatever can be wrong is found here, where somebody reads it; what is remembered is the command
//! line itself, so that an app in the background is run as it would be in the foreground.

use std::path::Path;

use anyhow::{Result, bail};
use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, Args};
use serde_json::{Map, Value};

use super::discover::{Found, discover};
use super::{Options, read_ecosystem, settle};
use crate::config::service::{DIRECTORIES, LIFE, SOCKETS};
use crate::config::{self, RawApp, Workers};
use crate::control::apps::{Definition, Environment, Source};
use crate::control::home::Home;

/// What is around the command.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) here: &'a Path,
    pub(super) cores: usize,
    pub(super) variable: &'a dyn Fn(&str) -> Option<String>,
    pub(super) environment: &'a Environment,
    /// The daemon's.
    pub(super) home: &'a Home,
}

/// This process's environment, as far as it is text.
pub(super) fn environment() -> Environment {
    let variables = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let ours = |name: &str| {
        let mut all = SOCKETS.iter().chain(&LIFE).chain(&DIRECTORIES);
        all.any(|ours| *ours == name)
    };
    variables.filter(|(name, _)| !ours(name)).collect()
}

/// The options that were given on the command line, as one word each.
pub(super) fn given(matches: &ArgMatches) -> Vec<String> {
    let mut words = Vec::new();
    for option in Options::augment_args(clap::Command::new("router")).get_arguments() {
        let (id, Some(long)) = (option.get_id().as_str(), option.get_long()) else { continue };
        // It has chosen already.
        if ["help", "version", "only"].contains(&long)
            || matches.value_source(id) != Some(ValueSource::CommandLine)
        {
            continue;
        }
        match option.get_action() {
            ArgAction::SetTrue => words.push(format!("--{long}")),
            ArgAction::Count => {
                words.extend((0..matches.get_count(id)).map(|_| format!("--{long}")));
            }
            _ => {
                let values = matches.get_raw(id).into_iter().flatten();
                words.extend(values.map(|value| format!("--{long}={}", value.to_string_lossy())));
            }
        }
    }
    words
}

/// Every app that the command means.
pub(super) fn define(
    options: &Options,
    given: &[String],
    context: Context<'_>,
) -> Result<Vec<Definition>> {
    let Context { here, home, .. } = context;
    if options.runtime_dir.is_some() {
        bail!(
            "--runtime-dir (ROUTER_RUNTIME_DIR) is the daemon's to choose: leave it away, or run the \
             app in the foreground"
        );
    }
    let (mut options, mut given) = (options.clone(), given.to_vec());
    if is_unsaid(options.log_dir.as_deref()) {
        options.log_dir = Some(home.logs().to_owned());
        given.push(format!("--log-dir={}", home.logs().display()));
    }
    let one = |raw: RawApp, base: &Path, workers, source| -> Result<Definition> {
        let mut above = options.layer();
        above.cwd = options.cwd.as_ref().map(|cwd| here.join(cwd));
        let autostart = raw.autostart.unwrap_or(true);
        let app =
            settle(above.over(raw), base, workers, &options, context.cores, context.variable)?;
        let mut given = given.clone();
        let router_log = match options.log_file.as_deref() {
            Some(file) if !is_unsaid(Some(file)) => here.join(file),
            _ => {
                let file = home.router_log(&app.name);
                given.push(format!("--log-file={}", file.display()));
                file
            }
        };
        Ok(Definition {
            name: app.name,
            namespace: app.namespace,
            directory: here.to_owned(),
            environment: context.environment.clone(),
            options: given,
            app: source,
            app_args: options.app_args.clone(),
            args: app.args,
            node_args: app.node_args,
            instance_var: app.instance_var,
            workers: app.workers,
            mode: app.mode.as_str().to_owned(),
            script: app.script,
            cwd: app.cwd,
            interpreter: app.interpreter,
            autostart,
            kill_timeout: app.kill_timeout,
            logs: app.logs.targets,
            router_log,
        })
    };
    match discover(options.app.as_deref(), here)? {
        Found::Script { script, base } => {
            if options.env.is_some() || options.only.is_some() {
                bail!(
                    "--env and --only choose from an ecosystem file; {} is a script",
                    script.display()
                );
            }
            let raw = RawApp { script: Some(script), ..RawApp::default() };
            let source = Source::Path(options.app.clone().unwrap_or_else(|| ".".into()));
            Ok(vec![one(raw, &base, Workers::MAX, source)?])
        }
        Found::Ecosystem(file) => {
            let base = file.parent().unwrap_or(here).to_owned();
            let apps = chosen(&file, options.only.as_deref(), options.env.as_deref())?;
            if options.name.is_some() && apps.len() > 1 {
                bail!("--name is for one app, and {} describes {}", file.display(), apps.len());
            }
            apps.into_iter()
                .map(|(raw, value)| {
                    let value = anywhere(value, &raw, &base);
                    one(raw, &base, Workers::Exactly(1), Source::Described(value))
                })
                .collect()
        }
    }
}

/// The names of the apps in an ecosystem file.
pub(super) fn names(file: &Path, only: Option<&str>) -> Result<Vec<String>> {
    Ok(chosen(file, only, None)?.into_iter().map(|(raw, _)| raw.label()).collect())
}

/// The apps of a file that `--only` leaves: names with commas between them.
fn chosen(file: &Path, only: Option<&str>, env: Option<&str>) -> Result<Vec<(RawApp, Value)>> {
    let (name, exported, ecosystem) = read_ecosystem(file, env)?;
    let values = config::app_values(&exported);
    let mut apps: Vec<(RawApp, Value)> = ecosystem.apps.into_iter().zip(values).collect();
    if let Some(only) = only {
        let names: Vec<String> = apps.iter().map(|(app, _)| app.label()).collect();
        let wanted: Vec<&str> = only.split(',').map(str::trim).collect();
        if let Some(unknown) = wanted.iter().find(|name| !names.iter().any(|n| n == *name)) {
            bail!("{name} describes no app named {unknown}; it has {}", names.join(", "));
        }
        apps.retain(|(app, _)| wanted.contains(&app.label().as_str()));
    }
    apps.iter_mut().for_each(|(app, _)| app.name_for(env));
    Ok(apps)
}

/// The app's object, good wherever the file with it lies.
fn anywhere(mut value: Value, raw: &RawApp, base: &Path) -> Value {
    if let Value::Object(object) = &mut value {
        let cwd = raw.cwd.as_ref().map_or_else(|| base.to_owned(), |cwd| base.join(cwd));
        object.insert("cwd".to_owned(), Value::String(cwd.display().to_string()));
        object.insert("name".to_owned(), Value::String(raw.label()));
        // It has been.
        object.remove("append_env_to_name");
        for env in raw.env_named.keys() {
            object.entry(format!("env_{env}")).or_insert_with(|| Value::Object(Map::new()));
        }
    }
    value
}

/// ROUTER_LOG_FILE= in a file of variables says nothing.
fn is_unsaid(path: Option<&Path>) -> bool {
    path.is_none_or(|path| path.as_os_str().is_empty())
}
