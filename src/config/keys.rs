//! The keys PM2 knows in an ecosystem file, their aliases, and which this version acts on.
//!
//! One table: what is read, what is warned about, and what a misspelt key is compared with.

/// What this version does with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// It is acted on.
    Honoured,
    /// PM2 acts on it, this version does not.
    Ignored,
}

/// A key and its aliases.
struct Key {
    name: &'static str,
    aliases: &'static [&'static str],
    usage: Use,
}

const fn honoured(name: &'static str, aliases: &'static [&'static str]) -> Key {
    Key { name, aliases, usage: Use::Honoured }
}

const fn ignored(name: &'static str, aliases: &'static [&'static str]) -> Key {
    Key { name, aliases, usage: Use::Ignored }
}

/// Every key; `env_NAME` besides, whatever NAME is.
const KEYS: &[Key] = &[
    honoured("script", &["exec"]),
    honoured("name", &[]),
    honoured("cwd", &[]),
    honoured("args", &[]),
    honoured("interpreter", &["exec_interpreter"]),
    honoured("node_args", &["interpreter_args"]),
    honoured("env", &[]),
    honoured("port", &[]),
    honoured("instances", &["i"]),
    honoured("exec_mode", &[]),
    honoured("instance_var", &[]),
    honoured("wait_ready", &[]),
    honoured("listen_timeout", &[]),
    honoured("kill_timeout", &[]),
    honoured("shutdown_with_message", &[]),
    honoured("autorestart", &[]),
    honoured("stop_exit_codes", &[]),
    honoured("min_uptime", &[]),
    honoured("max_restarts", &[]),
    honoured("restart_delay", &[]),
    honoured("exp_backoff_restart_delay", &[]),
    honoured("max_memory_restart", &[]),
    honoured("cron_restart", &["cron"]),
    honoured("watch", &[]),
    honoured("ignore_watch", &[]),
    honoured("watch_delay", &[]),
    honoured("increment_var", &[]),
    honoured("treekill", &[]),
    honoured("namespace", &[]),
    honoured("autostart", &[]),
    honoured("append_env_to_name", &[]),
    honoured("disable_source_map_support", &[]),
    honoured("filter_env", &[]),
    honoured("gid", &[]),
    honoured("pid_file", &["pid"]),
    honoured("source_map_support", &[]),
    honoured("uid", &["user"]),
    honoured("out_file", &["out", "output", "out_log"]),
    honoured("error_file", &["error", "err", "err_file", "err_log"]),
    honoured("log_file", &["log"]),
    honoured("merge_logs", &["combine_logs"]),
    honoured("log_date_format", &[]),
    honoured("time", &[]),
    honoured("log_type", &[]),
    honoured("disable_logs", &[]),
    // Of pm2-logrotate, where they are called max_size, rotateInterval and retain.
    honoured("log_max_size", &[]),
    honoured("log_max_age", &[]),
    honoured("log_keep", &[]),
    // Of this router alone: each app may have a stream of its own.
    honoured("bus", &[]),
    honoured("bus_stream", &[]),
    honoured("bus_channel_prefix", &[]),
    honoured("bus_max_len", &[]),
    ignored("automation", &[]),
    ignored("auto_exit", &[]),
    ignored("deep_monitoring", &[]),
    ignored("force", &[]),
    ignored("kill_retry_time", &[]),
    ignored("pmx", &[]),
    ignored("post_update", &[]),
    ignored("trace", &[]),
    ignored("vizion", &[]),
    ignored("watch_options", &[]),
];

/// The key's first name and its use.
pub(super) fn find(written: &str) -> Option<(&'static str, Use)> {
    let key = KEYS.iter().find(|key| key.name == written || key.aliases.contains(&written))?;
    Some((key.name, key.usage))
}

/// The first names of the keys that are acted on.
#[cfg(test)]
pub(super) fn honoured_names() -> impl Iterator<Item = &'static str> {
    KEYS.iter().filter(|key| key.usage == Use::Honoured).map(|key| key.name)
}

/// Every name of every key.
pub(super) fn names<'a>() -> impl Iterator<Item = &'a str> {
    KEYS.iter().flat_map(|key| std::iter::once(&key.name).chain(key.aliases)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliases_lead_to_the_first_name() {
        assert_eq!(find("exec"), Some(("script", Use::Honoured)));
        assert_eq!(find("cron"), Some(("cron_restart", Use::Honoured)));
        assert_eq!(find("user"), Some(("uid", Use::Honoured)));
        assert_eq!(find("nothing"), None);
    }

    #[test]
    fn the_readme_tells_every_key_that_is_acted_on() {
        let readme = include_str!("../../README.md");
        for key in honoured_names() {
            // By itself, or as the option of the same name.
            let option = key.replace('_', "-");
            let told = [format!("`{key}`"), format!("--{option}"), format!("--no-{option}`")];
            assert!(told.iter().any(|told| readme.contains(told.as_str())), "{key}");
        }
    }
}
