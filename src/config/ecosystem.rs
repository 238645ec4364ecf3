//! An ecosystem file's value, as JSON, into apps.
//!
//! It refuses values of the wrong kind, with file, app and key; it only warns of keys it does
//! not know or does not act on, so that a file written for PM2 runs unchanged.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde_json::{Map, Value};

use super::keys::{self, Use};
use super::{
    Combined, ConfigError, CronPattern, FilterEnv, LogForm, Mode, RawApp, age, bytes, glob,
    milliseconds, nearest, split_words,
};

/// The longest excerpt of a wrong value shown in an error, in characters.
const EXCERPT_MAX: usize = 60;

/// The apps of a file, and what to tell the operator about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ecosystem {
    /// In the file's order; at least one.
    pub apps: Vec<RawApp>,
    /// One line each.
    pub warnings: Vec<String>,
}

impl Ecosystem {
    /// Reads the value a file exports: `{apps: [...]}`, a list of apps, or one app. `own` are keys
    /// besides PM2's, which are only collected.
    pub fn from_json(file: &str, exported: &Value, own: &[String]) -> Result<Self, ConfigError> {
        let problem = |problem: &str| ConfigError::File {
            file: file.to_owned(),
            problem: problem.to_owned(),
        };
        let list = match exported {
            Value::Object(object) => object.get("apps").unwrap_or(exported),
            other => other,
        };
        let apps: Vec<&Value> = match list {
            Value::Array(apps) => apps.iter().collect(),
            // `module.exports` was not reached, or `exports` was given another value.
            Value::Object(object) if object.is_empty() => {
                return Err(problem(
                    "it exports nothing; write module.exports = { apps: [{ script: … }] }",
                ));
            }
            Value::Object(object) if !object.keys().any(|key| is_key(key)) => {
                let near = object.keys().find(|key| nearest(key, ["apps"]).is_some());
                return Err(problem(&near.map_or_else(
                    || "it exports no `apps`; export { apps: [{ script: … }] }".to_owned(),
                    |near| format!("it exports no `apps`; did you mean that by `{near}`?"),
                )));
            }
            Value::Object(_) => vec![list],
            _ => return Err(problem("it exports no `apps`; export { apps: [{ script: … }] }")),
        };
        if apps.is_empty() {
            return Err(problem("its `apps` is empty"));
        }
        let mut ecosystem = Self::default();
        for (place, app) in apps.into_iter().enumerate() {
            let Value::Object(app) = app else {
                return Err(problem(&format!("`apps[{place}]` is no object")));
            };
            let name = app.get("name").and_then(Value::as_str);
            let label = name.map_or_else(|| format!("apps[{place}]"), str::to_owned);
            let reader = Reader { file, app: label, own };
            let raw = reader.read(app, &mut ecosystem.warnings)?;
            ecosystem.apps.push(raw);
        }
        Ok(ecosystem)
    }

    /// As under PM2 some of the apps may have nothing of their own in `env_NAME`. That none has is
    /// left for [`RawApp::resolve`] to refuse.
    pub fn complete(&mut self, env: &str) {
        if self.apps.iter().any(|app| app.env_named.contains_key(env)) {
            for app in &mut self.apps {
                app.env_named.entry(env.to_owned()).or_default();
            }
        }
    }
}

/// Whether an app may have this key.
fn is_key(key: &str) -> bool {
    keys::find(key).is_some()
}

/// Each app's object in the value a file exports, in [`Ecosystem::apps`]' order.
pub fn app_values(exported: &Value) -> Vec<Value> {
    match exported.get("apps").unwrap_or(exported) {
        Value::Array(apps) => apps.clone(),
        one => vec![one.clone()],
    }
}

/// The app `--only` names, or the only one.
pub fn select(file: &str, apps: Vec<RawApp>, only: Option<&str>) -> Result<RawApp, ConfigError> {
    let names: Vec<String> = apps.iter().map(RawApp::label).collect();
    let mut chosen =
        apps.into_iter().zip(&names).filter(|(_, name)| only.is_none_or(|only| only == *name));
    match (chosen.next(), chosen.next()) {
        (Some((app, _)), None) => Ok(app),
        _ => Err(ConfigError::Choose {
            file: file.to_owned(),
            names: names.clone(),
            wanted: only.filter(|only| !names.iter().any(|name| name == only)).map(str::to_owned),
        }),
    }
}

/// Reads one app's keys, knowing what to call it in an error.
struct Reader<'a> {
    file: &'a str,
    app: String,
    own: &'a [String],
}

impl Reader<'_> {
    fn read(
        &self,
        app: &Map<String, Value>,
        warnings: &mut Vec<String>,
    ) -> Result<RawApp, ConfigError> {
        let mut raw = RawApp::default();
        let mut ignored = Vec::new();
        for (key, value) in app {
            // A null is what is left of `undefined`: PM2 takes it as not given.
            if value.is_null() {
                continue;
            }
            if let Some(name) = key.strip_prefix("env_") {
                raw.env_named.insert(name.to_owned(), self.environment(key, value)?);
                continue;
            }
            match keys::find(key) {
                Some((name, Use::Honoured)) => self.set(&mut raw, name, key, value)?,
                Some((_, Use::Ignored)) => ignored.push(key.as_str()),
                None if self.own.contains(key) => {
                    raw.own.insert(key.clone(), self.own(key, value)?);
                }
                None => warnings.push(format!(
                    "{}: app {}: unknown key `{key}`{}",
                    self.file,
                    self.app,
                    nearest(key, keys::names().chain(self.own.iter().map(String::as_str)))
                        .map_or_else(String::new, |near| format!("; did you mean `{near}`?")),
                )),
            }
        }
        if !ignored.is_empty() {
            warnings.push(format!(
                "{}: app {}: not acted on in this version: {}",
                self.file,
                self.app,
                ignored.join(", ")
            ));
        }
        Ok(raw)
    }

    fn set(
        &self,
        raw: &mut RawApp,
        name: &str,
        key: &str,
        value: &Value,
    ) -> Result<(), ConfigError> {
        match name {
            "script" => raw.script = Some(self.text(key, value)?.into()),
            // An empty one says nothing.
            "name" => raw.name = Some(self.scalar(key, value)?).filter(|name| !name.is_empty()),
            "cwd" => raw.cwd = Some(self.text(key, value)?.into()),
            "args" => raw.args = Some(self.words(key, value)?),
            "interpreter" => raw.interpreter = Some(self.text(key, value)?),
            "node_args" => raw.node_args = Some(self.words(key, value)?),
            "env" => raw.env = self.environment(key, value)?,
            "port" => raw.port = Some(self.parsed(key, value, "a port, 1 to 65535")?),
            "instances" => {
                raw.instances = Some(self.parsed(key, value, "1 to 1024, \"max\", or -N")?);
            }
            "exec_mode" => raw.exec_mode = Some(self.mode(key, value)?),
            "instance_var" => raw.instance_var = Some(self.text(key, value)?),
            "wait_ready" => raw.wait_ready = Some(self.flag(key, value)?),
            "listen_timeout" => raw.listen_timeout = Some(self.duration(key, value)?),
            "kill_timeout" => raw.kill_timeout = Some(self.duration(key, value)?),
            "shutdown_with_message" => raw.shutdown_with_message = Some(self.flag(key, value)?),
            "autorestart" => raw.autorestart = Some(self.flag(key, value)?),
            "stop_exit_codes" => raw.stop_exit_codes = Some(self.codes(key, value)?),
            "min_uptime" => raw.min_uptime = Some(self.duration(key, value)?),
            "max_restarts" => raw.max_restarts = Some(self.parsed(key, value, "a number")?),
            "restart_delay" => raw.restart_delay = Some(self.duration(key, value)?),
            "exp_backoff_restart_delay" => {
                raw.exp_backoff_restart_delay = Some(self.duration(key, value)?);
            }
            "max_memory_restart" => raw.max_memory_restart = Some(self.bytes(key, value)?),
            "cron_restart" => raw.cron_restart = self.cron(key, value)?,
            "watch" => raw.watch = Some(self.watch(key, value)?),
            "ignore_watch" => raw.ignore_watch = Some(self.ignored(key, value)?),
            "watch_delay" => raw.watch_delay = Some(self.duration(key, value)?),
            "increment_var" => raw.increment_var = Some(self.text(key, value)?),
            "treekill" => raw.treekill = Some(self.flag(key, value)?),
            "namespace" => {
                raw.namespace = Some(self.scalar(key, value)?).filter(|name| !name.is_empty());
            }
            "autostart" => raw.autostart = Some(self.flag(key, value)?),
            "out_file" => raw.logs.out_file = Some(self.text(key, value)?.into()),
            "error_file" => raw.logs.error_file = Some(self.text(key, value)?.into()),
            "log_file" => raw.logs.log_file = Some(self.combined(key, value)?),
            "merge_logs" => raw.logs.merge_logs = Some(self.flag(key, value)?),
            "log_date_format" => {
                const WANTED: &str = "a date format (\"YYYY-MM-DD HH:mm:ss Z\")";
                raw.logs.date_format = Some(self.parsed(key, value, WANTED)?);
            }
            "time" => raw.logs.time = Some(self.flag(key, value)?),
            "log_type" => raw.logs.form = Some(self.form(key, value)?),
            "disable_logs" => raw.logs.disabled = Some(self.flag(key, value)?),
            "log_max_size" => raw.logs.max_size = Some(self.bytes(key, value)?),
            "log_max_age" => raw.logs.max_age = Some(self.age(key, value)?),
            "log_keep" => raw.logs.keep = Some(self.parsed(key, value, "a number of files")?),
            "bus" => {
                const WANTED: &str = "a URL (redis://host:6379)";
                // It may hold a password, which is not repeated.
                let wrong = || self.wrong(key, &Value::from("(hidden)"), WANTED);
                let url = self.text(key, value).map_err(|_| wrong())?;
                raw.bus.redis = Some(url.parse().map_err(|_| wrong())?);
            }
            "bus_stream" => raw.bus.stream = Some(self.text(key, value)?),
            "bus_channel_prefix" => raw.bus.channel_prefix = Some(self.text(key, value)?),
            "bus_max_len" => {
                const WANTED: &str = "a number of entries";
                let length = self.parsed(key, value, WANTED)?;
                raw.bus.max_len = Some(length).filter(|length| *length > 0);
                raw.bus.max_len.ok_or_else(|| self.wrong(key, value, WANTED))?;
            }
            "pid_file" => raw.pid_file = Some(self.text(key, value)?.into()),
            "filter_env" => raw.filter_env = self.filter(key, value)?,
            // What PM2 reads of either is whether it is true.
            "source_map_support" => {
                raw.source_maps = self.flag(key, value)?.then_some(true).or(raw.source_maps);
            }
            "disable_source_map_support" => {
                raw.source_maps = self.flag(key, value)?.then_some(false).or(raw.source_maps);
            }
            "uid" => raw.user = Some(self.scalar(key, value)?),
            "gid" => raw.group = Some(self.scalar(key, value)?),
            "append_env_to_name" => raw.append_env_to_name = Some(self.flag(key, value)?),
            _ => debug_assert!(false, "`{name}` is honoured by the table alone"),
        }
        Ok(())
    }

    /// The words of one value, or of several.
    fn own(&self, key: &str, value: &Value) -> Result<Vec<String>, ConfigError> {
        const WANTED: &str = "a string, a number, true or false, or a list of strings";
        let one = |item: &Value| match item {
            Value::Bool(flag) => Ok(flag.to_string()),
            item => self.scalar(key, item).map_err(|_| self.wrong(key, value, WANTED)),
        };
        match value {
            Value::Array(items) => items.iter().map(one).collect(),
            item => Ok(vec![one(item)?]),
        }
    }

    fn wrong(&self, key: &str, value: &Value, wanted: &'static str) -> ConfigError {
        let mut got = value.to_string();
        if let Some((end, _)) = got.char_indices().nth(EXCERPT_MAX) {
            got.truncate(end);
            got.push('…');
        }
        ConfigError::Value {
            file: self.file.to_owned(),
            app: self.app.clone(),
            key: key.to_owned(),
            got,
            wanted,
        }
    }

    fn text(&self, key: &str, value: &Value) -> Result<String, ConfigError> {
        match value {
            Value::String(text) if !text.is_empty() => Ok(text.clone()),
            _ => Err(self.wrong(key, value, "a string")),
        }
    }

    /// A string, or a number written without quotes.
    fn scalar(&self, key: &str, value: &Value) -> Result<String, ConfigError> {
        match value {
            Value::Number(number) => Ok(number.to_string()),
            _ => self.text(key, value),
        }
    }

    fn parsed<T: FromStr>(
        &self,
        key: &str,
        value: &Value,
        wanted: &'static str,
    ) -> Result<T, ConfigError> {
        let text = self.scalar(key, value).map_err(|_| self.wrong(key, value, wanted))?;
        text.trim().parse().map_err(|_| self.wrong(key, value, wanted))
    }

    fn flag(&self, key: &str, value: &Value) -> Result<bool, ConfigError> {
        match value {
            Value::Bool(flag) => Ok(*flag),
            Value::String(text) if text == "true" => Ok(true),
            Value::String(text) if text == "false" => Ok(false),
            _ => Err(self.wrong(key, value, "true or false")),
        }
    }

    fn duration(&self, key: &str, value: &Value) -> Result<Duration, ConfigError> {
        const WANTED: &str = "milliseconds (1600) or a duration with a unit (\"3s\")";
        let text = self.scalar(key, value).map_err(|_| self.wrong(key, value, WANTED))?;
        milliseconds(&text).map_err(|_| self.wrong(key, value, WANTED))
    }

    fn bytes(&self, key: &str, value: &Value) -> Result<u64, ConfigError> {
        const WANTED: &str = "bytes (314572800) or a size with a unit (\"300M\"; K, M, G)";
        let text = self.scalar(key, value).map_err(|_| self.wrong(key, value, WANTED))?;
        bytes(&text).map_err(|_| self.wrong(key, value, WANTED))
    }

    fn age(&self, key: &str, value: &Value) -> Result<Duration, ConfigError> {
        const WANTED: &str = "seconds (3600) or a duration with a unit (\"12h\", \"30d\")";
        let text = self.scalar(key, value).map_err(|_| self.wrong(key, value, WANTED))?;
        age(&text).map_err(|_| self.wrong(key, value, WANTED))
    }

    fn combined(&self, key: &str, value: &Value) -> Result<Combined, ConfigError> {
        match value {
            Value::Bool(true) => Ok(Combined::Usual),
            Value::Bool(false) => Ok(Combined::Path("/dev/null".into())),
            Value::String(path) if !path.is_empty() => Ok(Combined::Path(path.into())),
            _ => Err(self.wrong(key, value, "a path, true or false")),
        }
    }

    fn form(&self, key: &str, value: &Value) -> Result<LogForm, ConfigError> {
        match value.as_str() {
            Some("json") => Ok(LogForm::Json),
            Some("raw") => Ok(LogForm::Raw),
            _ => Err(self.wrong(key, value, "\"json\" or \"raw\"")),
        }
    }

    fn filter(&self, key: &str, value: &Value) -> Result<Option<FilterEnv>, ConfigError> {
        const WANTED: &str = "true, false, the name of a variable, or a list of parts of names";
        Ok(match value {
            Value::Bool(false) => None,
            Value::Bool(true) => Some(FilterEnv::All),
            Value::String(name) if !name.is_empty() => Some(FilterEnv::Named(name.clone())),
            Value::Array(_) => Some(FilterEnv::Containing(self.listed(key, value, WANTED)?)),
            _ => return Err(self.wrong(key, value, WANTED)),
        })
    }

    /// 0 and false are PM2's ways to say never.
    fn cron(&self, key: &str, value: &Value) -> Result<Option<CronPattern>, ConfigError> {
        const WANTED: &str = "a cron pattern (\"0 4 * * *\")";
        match value {
            Value::Bool(false) => Ok(None),
            Value::Number(number) if number.as_u64() == Some(0) => Ok(None),
            Value::String(text) if text == "0" => Ok(None),
            _ => self.parsed(key, value, WANTED).map(Some),
        }
    }

    /// true is the app's own directory.
    fn watch(&self, key: &str, value: &Value) -> Result<Vec<PathBuf>, ConfigError> {
        const WANTED: &str = "true, false, a path or a list of paths";
        match value {
            Value::Bool(true) => Ok(vec![".".into()]),
            Value::Bool(false) => Ok(vec![]),
            _ => Ok(self.listed(key, value, WANTED)?.into_iter().map(PathBuf::from).collect()),
        }
    }

    fn ignored(&self, key: &str, value: &Value) -> Result<Vec<String>, ConfigError> {
        // A RegExp of a JavaScript file arrives here as {}.
        const WANTED: &str = "a path, a glob or a list of them, not a regular expression";
        let globs = self.listed(key, value, WANTED)?;
        if globs.iter().all(|pattern| glob(pattern).is_ok()) {
            Ok(globs)
        } else {
            Err(self.wrong(key, value, WANTED))
        }
    }

    /// One text or several; unlike [`Self::words`] a blank is part of a path.
    fn listed(
        &self,
        key: &str,
        value: &Value,
        wanted: &'static str,
    ) -> Result<Vec<String>, ConfigError> {
        let one = |item: &Value| match item {
            Value::String(text) if !text.is_empty() => Ok(text.clone()),
            _ => Err(self.wrong(key, value, wanted)),
        };
        match value {
            Value::Array(items) => items.iter().map(one).collect(),
            item => Ok(vec![one(item)?]),
        }
    }

    fn words(&self, key: &str, value: &Value) -> Result<Vec<String>, ConfigError> {
        const WANTED: &str = "a string or a list of strings";
        match value {
            Value::String(line) => Ok(split_words(line)),
            Value::Array(words) => words
                .iter()
                .map(|word| match word {
                    Value::String(word) => Ok(word.clone()),
                    Value::Number(_) | Value::Bool(_) => Ok(word.to_string()),
                    _ => Err(self.wrong(key, value, WANTED)),
                })
                .collect(),
            _ => Err(self.wrong(key, value, WANTED)),
        }
    }

    fn codes(&self, key: &str, value: &Value) -> Result<Vec<i32>, ConfigError> {
        const WANTED: &str = "an exit code or a list of exit codes";
        let one = |value: &Value| self.parsed::<i32>(key, value, WANTED);
        match value {
            Value::Array(codes) => codes.iter().map(one).collect(),
            Value::String(codes) => codes
                .split(',')
                .map(|code| code.trim().parse().map_err(|_| self.wrong(key, value, WANTED)))
                .collect(),
            code => Ok(vec![one(code)?]),
        }
    }

    fn mode(&self, key: &str, value: &Value) -> Result<Mode, ConfigError> {
        match value.as_str() {
            Some("fork" | "fork_mode") => Ok(Mode::Fork),
            Some("cluster" | "cluster_mode") => Ok(Mode::Cluster),
            _ => Err(self.wrong(key, value, "\"cluster\" or \"fork\"")),
        }
    }

    fn environment(
        &self,
        key: &str,
        value: &Value,
    ) -> Result<BTreeMap<String, String>, ConfigError> {
        let Value::Object(object) = value else {
            return Err(self.wrong(key, value, "an object of environment variables"));
        };
        let variables = object.iter().filter(|(_, value)| !value.is_null());
        variables
            .map(|(name, value)| {
                if name.is_empty() || name.contains(['=', '\0']) {
                    return Err(self.wrong(key, value, "under a name without `=`"));
                }
                // Objects become JSON, as under PM2.
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                if text.contains('\0') {
                    return Err(self.wrong(key, value, "without NUL bytes"));
                }
                Ok((name.clone(), text))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Workers;
    use serde_json::json;

    fn read(value: &Value) -> Result<Ecosystem, ConfigError> {
        Ecosystem::from_json("ecosystem.config.js", value, &["listen".to_owned()])
    }

    #[test]
    fn a_pm2_file_is_read() {
        let file = json!({ "apps": [{
            "name": "chat", "exec": "./server.js", "i": "max", "exec_mode": "cluster",
            "args": "--a 'b c'", "interpreter_args": ["--inspect", 1], "port": 3000,
            "env": { "A": 1, "B": true, "C": "x", "D": null, "E": { "f": [1] } },
            "env_production": { "NODE_ENV": "production" },
            "wait_ready": true, "listen_timeout": "5s", "kill_timeout": 3000, "min_uptime": "2000",
            "max_restarts": 5, "stop_exit_codes": [0, "3"], "autorestart": "false",
            "restart_delay": null, "max_memory_restart": "300M", "cron": "0 4 * * *",
            "watch": ["src", "my lib"], "ignore_watch": "*.log", "watch_delay": 1000,
            "increment_var": "PORT", "treekill": false,
            "out": "out.log", "err_file": "error.log", "log": true, "combine_logs": true,
            "time": true, "log_type": "json", "disable_logs": false,
            "log_date_format": "YYYY-MM-DD HH:mm Z", "log_max_size": "1M", "log_max_age": "7d",
            "log_keep": 3,
        }], "deploy": {} });
        let ecosystem = read(&file).expect("it is PM2's");
        assert_eq!(ecosystem.warnings, Vec::<String>::new());
        let app = &ecosystem.apps[0];
        assert_eq!(app.script.as_deref(), Some("./server.js".as_ref()));
        assert_eq!(app.instances, Some(Workers::MAX));
        assert_eq!(app.args.as_deref(), Some(&["--a".to_owned(), "b c".to_owned()][..]));
        assert_eq!(app.node_args.as_deref(), Some(&["--inspect".to_owned(), "1".to_owned()][..]));
        assert_eq!((app.env["A"].as_str(), app.env["B"].as_str()), ("1", "true"));
        assert_eq!((app.env["E"].as_str(), app.env.get("D")), (r#"{"f":[1]}"#, None));
        assert_eq!(app.env_named["production"]["NODE_ENV"], "production");
        assert_eq!(app.listen_timeout, Some(Duration::from_secs(5)));
        assert_eq!(app.min_uptime, Some(Duration::from_secs(2)));
        assert_eq!(app.stop_exit_codes.as_deref(), Some(&[0, 3][..]));
        assert_eq!((app.autorestart, app.restart_delay), (Some(false), None));
        assert_eq!(app.max_memory_restart, Some(300 * 1024 * 1024));
        assert_eq!(
            app.cron_restart.as_ref().map(ToString::to_string),
            Some("0 4 * * *".to_owned())
        );
        assert_eq!(app.watch.as_deref(), Some(&["src".into(), "my lib".into()][..]));
        assert_eq!(app.ignore_watch.as_deref(), Some(&["*.log".to_owned()][..]));
        assert_eq!(app.watch_delay, Some(Duration::from_secs(1)));
        assert_eq!((app.increment_var.as_deref(), app.treekill), (Some("PORT"), Some(false)));
        let logs = &app.logs;
        assert_eq!(logs.out_file.as_deref(), Some("out.log".as_ref()));
        assert_eq!(logs.error_file.as_deref(), Some("error.log".as_ref()));
        assert_eq!((&logs.log_file, logs.form), (&Some(Combined::Usual), Some(LogForm::Json)));
        assert_eq!(
            (logs.merge_logs, logs.time, logs.disabled),
            (Some(true), Some(true), Some(false))
        );
        assert!(logs.date_format.is_some());
        assert_eq!((logs.max_size, logs.keep), (Some(1 << 20), Some(3)));
        assert_eq!(logs.max_age, Some(Duration::from_secs(7 * 86_400)));
    }

    #[test]
    fn pm2s_ways_to_switch_off_are_read() {
        for (watch, cron, memory, paths) in [
            (json!(true), json!(0), json!(1024), Some(vec![".".into()])),
            (json!(false), json!("0"), json!("1K"), Some(vec![])),
        ] {
            let file =
                json!([{ "watch": watch, "cron_restart": cron, "max_memory_restart": memory }]);
            let app = read(&file).expect("fine").apps.remove(0);
            assert_eq!((app.watch, app.cron_restart), (paths, None));
            assert_eq!(app.max_memory_restart, Some(1024));
        }
    }

    #[test]
    fn other_shapes_hold_apps_too() {
        for file in [
            json!([{ "script": "a.js" }]),
            json!({ "script": "a.js" }),
            json!({ "apps": { "script": "a.js" } }),
        ] {
            assert_eq!(read(&file).expect("an app").apps.len(), 1, "{file}");
        }
        for (file, told) in [
            (json!({}), "it exports nothing"),
            (json!({ "app": [{ "script": "a.js" }] }), "did you mean that by `app`?"),
            (json!({ "services": [] }), "it exports no `apps`"),
        ] {
            let error = read(&file).expect_err("no app").to_string();
            assert!(error.starts_with("ecosystem.config.js: ") && error.contains(told), "{error}");
        }
        for file in [json!({ "apps": [] }), json!({ "apps": "a.js" }), json!(3), json!([1])] {
            assert!(read(&file).is_err(), "{file}");
        }
    }

    #[test]
    fn a_wrong_value_names_file_app_and_key() {
        for (key, value, wanted) in [
            ("wait_ready", json!("yes"), "true or false"),
            ("instances", json!("many"), "max"),
            ("instances", json!(1.5), "max"),
            ("kill_timeout", json!("soon"), "milliseconds"),
            ("port", json!(70000), "a port"),
            ("args", json!(5), "a string or a list"),
            ("env", json!(["A=1"]), "environment variables"),
            ("exec_mode", json!("thread"), "cluster"),
            ("stop_exit_codes", json!(["x"]), "exit code"),
            ("script", json!({}), "a string"),
            ("max_restarts", json!(-1), "a number"),
            ("max_memory_restart", json!("300MB"), "K, M, G"),
            ("max_memory_restart", json!(-5), "bytes"),
            ("max_memory_restart", json!(1.5), "bytes"),
            ("cron_restart", json!("at noon"), "cron pattern"),
            ("cron", json!("61 * * * *"), "cron pattern"),
            ("watch", json!(1), "a list of paths"),
            ("ignore_watch", json!([{}]), "not a regular expression"),
            ("ignore_watch", json!("a[b"), "a glob"),
            ("watch_delay", json!("soon"), "milliseconds"),
            ("treekill", json!("no"), "true or false"),
            ("out_file", json!(true), "a string"),
            ("log", json!(1), "a path, true or false"),
            ("log_date_format", json!("YYYY at HH"), "a date format"),
            ("log_type", json!("xml"), "json"),
            ("log_max_size", json!("10MB"), "K, M, G"),
            ("log_max_age", json!("soon"), "30d"),
            ("log_keep", json!(-1), "a number of files"),
            ("bus", json!("radis://:hush@h"), "(hidden)"),
            ("bus_max_len", json!(0), "a number of entries"),
        ] {
            let file = json!({ "apps": [{ "name": "chat", key: value }] });
            let error = read(&file).expect_err(key).to_string();
            for part in ["ecosystem.config.js", "app chat", key, wanted] {
                assert!(error.contains(part), "{part}: {error}");
            }
        }
    }

    #[test]
    fn keys_without_effect_are_told_in_one_line_each() {
        let file =
            json!({ "apps": [{ "script": "a.js", "vizion": "www", "pmx": "x", "instnaces": 2 }] });
        let warnings = read(&file).expect("warnings only").warnings;
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(
            warnings.iter().any(|line| line.contains("`instnaces`; did you mean `instances`?"))
        );
        assert!(warnings.iter().any(|line| line.contains("vizion") && line.contains("pmx")));
    }

    #[test]
    fn options_are_collected_in_the_words_of_a_command_line() {
        let file = json!([{ "listen": [":1", 2] }, { "listen": ":1" }, { "lsiten": ":1" }]);
        let read_well = read(&file).expect("they are known");
        let listen = |app: usize| read_well.apps[app].own.get("listen").cloned();
        assert_eq!(listen(0), Some(vec![":1".to_owned(), "2".to_owned()]));
        assert_eq!((listen(1), listen(2)), (Some(vec![":1".to_owned()]), None));
        assert!(read_well.warnings[0].contains("did you mean `listen`?"));
        let error = read(&json!([{ "listen": {} }])).expect_err("no word").to_string();
        assert!(error.contains("`listen` is {}; it must be a string"), "{error}");
    }

    #[test]
    fn every_honoured_key_is_read() {
        // The table says which keys are honoured; `set` must know each of them, or its debug
        // assertion fails here.
        for key in keys::honoured_names() {
            let refused = read(&json!({ "apps": [{ key: [[]] }] }));
            assert!(refused.is_err(), "{key}: a list of a list is no value for any key");
        }
    }

    #[test]
    fn of_several_apps_one_must_be_chosen() {
        let apps = || {
            let file = json!([{ "name": "a", "script": "x.js" }, { "script": "b.js" }]);
            read(&file).expect("two apps").apps
        };
        assert_eq!(select("f", apps(), Some("b")).expect("b is there").label(), "b");
        let error = select("f", apps(), None).expect_err("which?").to_string();
        assert_eq!(error, "f describes 2 apps: a, b; choose one with --only NAME");
        let error = select("f", apps(), Some("c")).expect_err("no c").to_string();
        assert!(error.ends_with("(there is no app named c)"), "{error}");
    }
}
