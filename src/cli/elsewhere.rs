//! Words that are none of [`super::commands`]: PM2's that router leaves out, with what to use instead,
//! and misspelt ones.

use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::commands::table;
use crate::config::nearest;

/// PM2's commands that are left out, and what to use instead.
const LEFT_OUT: &[(&[&str], &str)] = &[
    (&["deploy"], "deploy with what you deploy everything with, and then `router reload`"),
    (
        &[
            "install",
            "uninstall",
            "module:install",
            "module:uninstall",
            "module:update",
            "module:generate",
            "module:publish",
            "publish",
            "package",
        ],
        "there are no modules: logs are rotated (--log-max-size) and metrics answered (--admin) by the router itself",
    ),
    (
        &["plus", "link", "unlink", "register", "login", "logout", "open", "monitor", "unmonitor"],
        "there is no cloud service: --admin answers /metrics for Prometheus and has a page to look at",
    ),
    (&["serve", "expose"], "serve files with nginx, or from the app"),
    (&["report"], "`router describe APP` and `router list` say all there is"),
    (
        &["trigger", "triggerStatus"],
        "there are no remote actions: `router sendSignal` reaches the workers",
    ),
    (
        &["set", "get", "multiset", "conf", "config", "unset"],
        "settings are options, ROUTER_ variables and keys of the ecosystem file",
    ),
    (
        &["profile:cpu", "profile:mem"],
        "run a worker with --node-args=--inspect and use Node's own profiler",
    ),
    (&["send"], "workers have no stdin that one could write to; `router sendSignal` reaches them"),
    (
        &["logrotate"],
        "logs are rotated by the router itself: --log-max-size, --log-max-age, --log-keep",
    ),
    (
        &["sysmonit"],
        "the host is for its own exporter to measure; --admin answers /metrics of the apps",
    ),
    (&["attach"], "workers have no terminal; `router logs APP` shows what they print"),
    (&["web"], "--admin has /status as JSON, and a page"),
    (
        &[
            "deepUpdate",
            "updatePM2",
            "forward",
            "backward",
            "pull",
            "autoinstall",
            "create",
            "examples",
            "slist",
            "sysinfos",
        ],
        "it has no counterpart here",
    ),
];

/// What to tell somebody who gives a command of PM2's that is left out.
pub(super) fn left_out(word: &str) -> Option<String> {
    let (_, instead) = LEFT_OUT.iter().find(|(words, _)| words.contains(&word))?;
    Some(format!("`{word}` is a command of PM2's that router leaves out: {instead}"))
}

/// The command that a word that is none was perhaps meant for.
pub(super) fn misspelt(word: &str) -> Option<String> {
    // A path is none, and of one letter or two anything is a misspelling.
    if word.len() < 3 || !word.chars().all(|c| c.is_ascii_alphabetic() || c == '-') {
        return None;
    }
    let table = table();
    let names: Vec<&str> = table
        .get_subcommands()
        .flat_map(|command| std::iter::once(command.get_name()).chain(command.get_all_aliases()))
        .collect();
    if names.contains(&word) {
        return None;
    }
    let meant = nearest(word, names)?;
    Some(format!(
        "there is no file or command `{word}`; did you mean `router {meant}`? (router help)"
    ))
}

/// PM2's options that are none here, and what to use instead.
const OTHER_OPTIONS: &[(&[&str], &str)] = &[
    (&["--no-daemon"], "`router app.js`, without start, runs in the foreground"),
    (&["--attach"], "`router logs APP` shows what comes"),
    (&["--port"], "set PORT in the environment, or `port` in the ecosystem file"),
    (&["--log"], "name the file `log_file` in the ecosystem file; -l is --listen"),
    (&["-p", "--pid"], "name the file `pid_file` in the ecosystem file"),
    (&["-u", "--uid"], "`uid` of the ecosystem file says whose processes the workers are"),
    (&["--gid"], "`gid` of the ecosystem file says of which group the workers are"),
    (&["--filter-env"], "it is `filter_env` of the ecosystem file"),
    (&["--watch-delay"], "it is `watch_delay` of the ecosystem file"),
    (&["--source-map-support"], "it is `source_map_support` of the ecosystem file"),
    (&["--disable-source-map-support"], "it is `disable_source_map_support` of the ecosystem file"),
    (&["--no-autostart"], "it is `autostart: false` of the ecosystem file"),
    (&["-x", "--execute-command"], "it is `exec_mode: \"fork\"` of the ecosystem file"),
    (&["--ext"], "--ignore-watch says what is not watched"),
    (&["--highlight"], "`router logs --raw | grep --color WORD` does it"),
    (&["--format"], "logs has --json, --raw and --timestamp"),
    (&["--sort", "-m", "--mini-list"], "`router jlist` is the list for other programs"),
    (
        &["--trace", "--v8", "--event-loop-inspector", "--deep-monitoring"],
        "--admin answers /metrics, with each worker's event-loop delay",
    ),
];

/// What to tell somebody who gives this command an option that it has not.
pub(super) fn other_option(command: &str, error: &clap::Error) -> Option<String> {
    let Some(ContextValue::String(given)) = error.get(ContextKind::InvalidArg) else { return None };
    if error.kind() != ErrorKind::UnknownArgument {
        return None;
    }
    let option = given.split(['=', ' ']).next().unwrap_or_default();
    if let Some((_, instead)) = OTHER_OPTIONS.iter().find(|(options, _)| options.contains(&option))
    {
        return Some(format!("{option} is an option of PM2's that router leaves out: {instead}"));
    }
    let table = table();
    let again = table.find_subcommand(command).map(clap::Command::get_name);
    let of_start = table.find_subcommand("start").is_some_and(|start| {
        start.get_arguments().any(|argument| {
            let longs = argument.get_long_and_visible_aliases().unwrap_or_default();
            let shorts = argument.get_short_and_visible_aliases().unwrap_or_default();
            longs.iter().any(|long| option == format!("--{long}"))
                || shorts.iter().any(|short| option == format!("-{short}"))
        })
    });
    (["restart", "reload"].contains(&again?) && of_start).then(|| {
        format!(
            "{command} leaves an app as it is defined, and {option} is an option of start: write it \
             into the ecosystem file and `router reload FILE`, or define the app anew with `router \
             start SCRIPT {option} … --force`; `router scale APP N` changes the number of workers"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_said_in_a_line() {
        for word in [
            "deploy",
            "install",
            "link",
            "plus",
            "serve",
            "report",
            "trigger",
            "send",
            "sysmonit",
            "logrotate",
            "create",
            "module:publish",
        ] {
            let told = left_out(word).expect(word);
            assert!(told.contains(word) && told.lines().count() == 1, "{told}");
        }
        assert_eq!(left_out("app.js"), None);
    }

    #[test]
    fn a_misspelt_command_is_known_again() {
        for (word, command) in [("lst", "list"), ("restrat", "restart"), ("stpo", "stop")] {
            let told = misspelt(word).expect(word);
            assert!(told.contains(&format!("`router {command}`")), "{told}");
        }
        for word in ["a", "app.js", "server", "list/x", "start"] {
            assert_eq!(misspelt(word), None, "{word}");
        }
    }
}
