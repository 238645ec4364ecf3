//! From `router start …` to what the daemon remembers of each app.
//!
//! Whatever can be wrong is found here, where somebody reads it; what is remembered is the command
//! line itself, so that an app in the background is run as it would be in the foreground.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde_json::{Map, Value};

use super::discover::{Found, discover};
use super::{Options, check_options, own, read_ecosystem, settle};
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

/// Every app that these words mean: files and directories.
pub(super) fn define(
    options: &Options,
    apps: &[PathBuf],
    context: Context<'_>,
) -> Result<Vec<Definition>> {
    if options.runtime_dir.is_some() {
        bail!(
            "--runtime-dir (ROUTER_RUNTIME_DIR) is the daemon's to choose: leave it away, or run the \
             app in the foreground"
        );
    }
    let mut defined = Vec::new();
    if apps.is_empty() {
        defined = define_one(options, None, context)?;
    }
    for app in apps {
        defined.extend(define_one(options, Some(app), context)?);
    }
    // What is one app's alone is said before anything is touched.
    if defined.len() > 1 {
        for (long, what) in [("name", "name"), ("listen", "address"), ("admin", "address")] {
            if options.given.says(long) {
                let variable = long.to_uppercase();
                bail!(
                    "--{long} (ROUTER_{variable}) is the {what} of one app, and {} are meant: give \
                     each app of the file a `{long}` of its own, or choose one with --only NAME",
                    defined.len()
                );
            }
        }
    }
    Ok(defined)
}

/// The apps of one file or directory.
fn define_one(
    options: &Options,
    app: Option<&Path>,
    context: Context<'_>,
) -> Result<Vec<Definition>> {
    let here = context.here;
    match discover(app, here)? {
        Found::Script { script, base, name } => {
            if options.env.is_some() || options.only.is_some() {
                bail!(
                    "--env and --only choose from an ecosystem file; {} is a script",
                    script.display()
                );
            }
            let raw = RawApp { script: Some(script), name, ..RawApp::default() };
            let source = Source::Path(app.unwrap_or_else(|| ".".as_ref()).to_owned());
            Ok(vec![definition(options, raw, &base, Workers::MAX, source, context)?])
        }
        Found::Ecosystem(file) => {
            let base = file.parent().unwrap_or(here).to_owned();
            let apps = chosen(&file, options.only.as_deref(), options.env.as_deref())?;
            apps.into_iter()
                .map(|(raw, value)| {
                    let value = anywhere(value, &raw, &base);
                    let label = raw.label();
                    let source = Source::Described(value);
                    own::under(options, &raw.own)
                        .with_context(|| format!("app {label}"))
                        .and_then(|options| {
                            let workers = Workers::Exactly(1);
                            definition(&options, raw, &base, workers, source, context)
                        })
                        .with_context(|| file.display().to_string())
                })
                .collect()
        }
    }
}

/// What is remembered of an app.
fn definition(
    options: &Options,
    raw: RawApp,
    base: &Path,
    workers: Workers,
    source: Source,
    context: Context<'_>,
) -> Result<Definition> {
    let Context { here, home, .. } = context;
    let (mut options, mut given) = (options.clone(), options.given.words.clone());
    // It has chosen already.
    given.retain(|word| !word.starts_with("--only="));
    if is_unsaid(options.log_dir.as_deref()) {
        options.log_dir = Some(home.logs().to_owned());
        given.push(format!("--log-dir={}", home.logs().display()));
    }
    let mut above = options.layer();
    above.cwd = options.cwd.as_ref().map(|cwd| here.join(cwd));
    let autostart = raw.autostart.unwrap_or(true);
    let app = settle(above.over(raw), base, workers, &options, context.cores, context.variable)?;
    check_options(&options).with_context(|| format!("app {}", app.name))?;
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
        app_args: options.app_args,
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
}

/// What each app in an ecosystem file may be called in the list: more than one name, if it depends on
/// the `--env` that it was started with and none is said now.
pub(super) fn names(
    file: &Path,
    only: Option<&str>,
    env: Option<&str>,
) -> Result<Vec<Vec<String>>> {
    let apps = chosen(file, only, None)?;
    let environments: BTreeSet<String> =
        apps.iter().flat_map(|(raw, _)| raw.env_named.keys().cloned()).collect();
    let called = |raw: RawApp, env: Option<&str>| {
        let mut raw = raw;
        raw.name_for(env);
        raw.label()
    };
    let names = apps.into_iter().map(|(raw, _)| match (env, raw.append_env_to_name) {
        (None, Some(true)) => {
            let mut names = vec![raw.label()];
            names.extend(environments.iter().map(|env| called(raw.clone(), Some(env))));
            names
        }
        (env, _) => vec![called(raw, env)],
    });
    Ok(names.collect())
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
    if env.is_some() {
        apps.iter_mut().for_each(|(app, _)| app.name_for(env));
    }
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
