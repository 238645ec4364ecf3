//! The options that were given: by which words, and which of them by a variable.

use std::collections::BTreeSet;

use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, Args};

use super::Options;

/// See the module's text.
#[derive(Clone, Debug, Default)]
pub struct Given {
    /// On the command line, one word each.
    pub(super) words: Vec<String>,
    /// There or in the environment, by their long names.
    said: BTreeSet<String>,
}

impl Given {
    pub(super) fn of(matches: &ArgMatches) -> Self {
        let mut given = Self::default();
        for option in Options::augment_args(clap::Command::new("router")).get_arguments() {
            let (id, Some(long)) = (option.get_id().as_str(), option.get_long()) else { continue };
            if ["help", "version"].contains(&long) {
                continue;
            }
            let source = matches.value_source(id);
            let mut values = matches.get_raw(id).into_iter().flatten();
            // ROUTER_LISTEN= in a file of variables says nothing.
            if source == Some(ValueSource::EnvVariable) && values.any(|value| !value.is_empty()) {
                given.said.insert(long.to_owned());
            }
            if source != Some(ValueSource::CommandLine) {
                continue;
            }
            given.said.insert(long.to_owned());
            match option.get_action() {
                ArgAction::SetTrue => given.words.push(format!("--{long}")),
                ArgAction::Count => {
                    let times = 0..matches.get_count(id);
                    given.words.extend(times.map(|_| format!("--{long}")));
                }
                _ => {
                    let values = matches.get_raw(id).into_iter().flatten();
                    let word =
                        |value: &std::ffi::OsStr| format!("--{long}={}", value.to_string_lossy());
                    given.words.extend(values.map(word));
                }
            }
        }
        given
    }

    /// Whether the option of this long name was, and of more weight than a file.
    pub(super) fn says(&self, long: &str) -> bool {
        self.said.contains(long)
    }
}
