//! Options of the command line as keys of an ecosystem file: whatever can be said of one app there
//! can be said here, in the same words and by the same table. `--drain-timeout` is `drain_timeout`.
//!
//! Keys that PM2 has are none of them, even if an option is called the same: they are
//! [`crate::config`]'s.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::ffi::OsString;

use anyhow::{Context as _, Result, bail};
use clap::error::{ContextKind, ContextValue};
use clap::{Arg, ArgAction, Args, FromArgMatches};

use super::Options;
use super::given::Given;

/// What says which file is read and how, not how an app is run; and where its router's things are,
/// which the daemon says.
const NOT_OF_AN_APP: [&str; 6] = ["help", "version", "env", "only", "runtime-dir", "log-file"];

/// The keys.
pub(super) fn keys() -> Vec<String> {
    let options = table();
    let long = options.get_arguments().filter_map(Arg::get_long);
    long.filter(|long| !NOT_OF_AN_APP.contains(long)).map(|long| long.replace('-', "_")).collect()
}

/// The options, with what the file says of an app where nobody else says something.
///
/// # Errors
/// A value that will not do; the message names its key.
pub(super) fn under(options: &Options, keys: &BTreeMap<String, Vec<String>>) -> Result<Options> {
    if keys.is_empty() {
        return Ok(options.clone());
    }
    let table = table();
    let mut words: Vec<OsString> = vec!["router".into()];
    for (key, values) in keys {
        let long = key.replace('_', "-");
        let option = table.get_arguments().find(|option| option.get_long() == Some(&long));
        let option = option.with_context(|| format!("`{key}` is no option"))?;
        let said = said(key, option, values)?;
        // Looked at by itself: whose fault it is will be asked.
        let alone = clap::Command::new("router").arg(option.clone().env(None));
        let alone = alone
            .try_get_matches_from(std::iter::once("router").chain(said.iter().map(String::as_str)));
        if let Err(error) = alone {
            bail!("`{key}`{}", problem(&values.join(","), &error));
        }
        if !options.given.says(&long) {
            words.extend(said.into_iter().map(OsString::from));
        }
    }
    words.extend(options.given.words.iter().map(OsString::from));
    words.extend(options.apps.iter().map(OsString::from));
    if !options.app_args.is_empty() {
        words.push("--".into());
        words.extend(options.app_args.iter().map(OsString::from));
    }
    let matches = table.try_get_matches_from(words).map_err(|error| {
        let told = error.to_string();
        let told = told.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
        anyhow::anyhow!("{told}")
    })?;
    let mut all = Options::from_arg_matches(&matches)?;
    all.given = Given::of(&matches);
    // The file is read again whenever this is.
    all.given.words.clone_from(&options.given.words);
    Ok(all)
}

fn table() -> clap::Command {
    Options::augment_args(clap::Command::new("router"))
}

/// What would have been said on a command line.
fn said(key: &str, option: &Arg, values: &[String]) -> Result<Vec<String>> {
    let long = option.get_long().unwrap_or_default();
    let shown = values.join(",");
    Ok(match (option.get_action(), values) {
        (ArgAction::SetTrue | ArgAction::Count, [value]) if value == "true" => {
            vec![format!("--{long}")]
        }
        (ArgAction::SetTrue | ArgAction::Count, [value]) if value == "false" => vec![],
        (ArgAction::Count, [number]) if number.parse::<u8>().is_ok() => {
            vec![format!("--{long}"); number.parse::<u8>()?.into()]
        }
        (ArgAction::SetTrue | ArgAction::Count, _) => {
            bail!("`{key}` is {shown}; it must be true or false")
        }
        (ArgAction::Append, values) => {
            values.iter().map(|value| format!("--{long}={value}")).collect()
        }
        (_, [value]) => vec![format!("--{long}={value}")],
        _ => bail!("`{key}` is {shown}; it must be one value, and is {}", values.len()),
    })
}

/// What is wrong, in the words of the one who read the value, or with what would do.
fn problem(value: &str, error: &clap::Error) -> String {
    if let Some(ContextValue::Strings(known)) = error.get(ContextKind::ValidValue)
        && !known.is_empty()
    {
        return format!(" is {value}; it must be {}", known.join(", "));
    }
    let source = error.source().map(|source| format!(": {source}"));
    source.unwrap_or_else(|| format!(" is {value}; see --help for what it must be"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_are_the_options_of_one_app() {
        let keys = keys();
        for key in ["listen", "admin", "balance", "drain_timeout", "no_preload", "log_dir"] {
            assert!(keys.iter().any(|known| known == key), "{key}");
        }
        for key in ["env", "only", "help", "app"] {
            assert!(!keys.iter().any(|known| known == key), "{key}");
        }
    }
}
