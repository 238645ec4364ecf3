//! Keys of an ecosystem file, in real workers.

use crate::harness::{Home, SOON, until};
use serde_json::Value;
use std::fs;

const REPORT: &str =
    "console.log(JSON.stringify({ env: process.env, execArgv: process.execArgv }));
setInterval(() => {}, 1e6);
";

/// What the worker of this log file says.
fn report(home: &Home, log: &str) -> Value {
    until(log, SOON, || {
        let text = fs::read_to_string(home.path().join("logs").join(log)).ok()?;
        serde_json::from_str(text.lines().last()?).ok()
    })
}

#[test]
fn a_file_in_yaml_with_what_concerns_the_process() {
    let home = Home::new();
    home.here.write("report.js", REPORT);
    home.here.write("mapped.js", REPORT);
    home.here.write("mapped.js.map", "{}");
    home.here.write(
        "apps.yaml",
        "apps:
  - name: plain
    script: report.js
    exec_mode: fork
    instances: 2
    pid_file: pids/plain.pid
    append_env_to_name: true
    filter_env: [SECRET, OTHER]
    env: { SECRET_BUT_MINE: 1 }
    env_night: { LEVEL: low }
  - name: bare
    script: mapped.js
    exec_mode: fork
    filter_env: true
",
    );
    let mut start = home.command();
    start.args(["start", "apps.yaml", "--env", "night"]);
    start.env("MY_SECRET", "x").env("SECRET_BUT_MINE", "2").env("KEPT", "yes");
    home.give(&mut start).well();
    home.shows(&["plain-night 0 online", "plain-night 1 online", "bare 2 online"]);

    let seen = report(&home, "plain-night-out-0.log");
    let env = &seen["env"];
    assert_eq!((&env["KEPT"], &env["LEVEL"]), (&"yes".into(), &"low".into()));
    assert_eq!((&env["MY_SECRET"], &env["SECRET_BUT_MINE"]), (&Value::Null, &"1".into()));
    assert_eq!(seen["execArgv"], serde_json::json!([]));
    let seen = report(&home, "bare-out.log");
    let env = &seen["env"];
    assert_eq!(
        (&env["KEPT"], &env["PATH"], &env["pm_id"]),
        (&Value::Null, &Value::Null, &"2".into())
    );
    assert_eq!(seen["execArgv"], serde_json::json!(["--enable-source-maps"]));

    let pid = |id: u32| fs::read_to_string(home.here.path().join(format!("pids/plain-{id}.pid")));
    let pids = home.pids("plain-night");
    assert_eq!([pid(0).unwrap(), pid(1).unwrap()], [pids[0].to_string(), pids[1].to_string()]);
    home.router("restart plain-night").well();
    let pids = home.pids("plain-night");
    assert_eq!(pid(1).unwrap(), pids[1].to_string());
    home.router("stop plain-night").well();
    until("they are taken away", SOON, || (pid(0).is_err() && pid(1).is_err()).then_some(()));
}

#[test]
fn apps_are_chosen_by_the_names_in_the_file_whatever_env_adds() {
    let home = Home::new();
    home.here.write("report.js", REPORT);
    home.here.write(
        "apps.yaml",
        "apps:
  - { name: a, script: report.js, exec_mode: fork, append_env_to_name: true, env_night: {} }
  - { name: b, script: report.js, exec_mode: fork, append_env_to_name: true }
",
    );
    home.router("start apps.yaml --only b --env night").well();
    home.shows(&["b-night 0 online"]);
    home.router("start apps.yaml --only b --env day").fails(&["app b-day has no env_day"]);
}

#[test]
fn what_would_run_as_somebody_else_is_refused() {
    let home = Home::new();
    home.here.write("report.js", REPORT);
    for (key, words) in [
        ("uid: 'nobody'", ["app a: `uid` is nobody", "startup -u nobody"]),
        ("user: 'no-such-user'", ["app a: `uid`", "no user no-such-user"]),
        ("gid: 4294967294", ["app a: `gid`", "no group 4294967294"]),
        ("filter_env: 7", ["app a: `filter_env` is 7", "a list of parts of names"]),
    ] {
        let text = format!("module.exports = [{{ name: 'a', script: 'report.js', {key} }}]");
        home.here.write("ecosystem.config.js", &text);
        home.router("start").fails(&words);
    }
    // Whoever runs router may be named.
    let me = nix::unistd::geteuid();
    let text = format!(
        "module.exports = [{{ name: 'a', script: 'report.js', exec_mode: 'fork', uid: {me} }}]"
    );
    home.here.write("ecosystem.config.js", &text);
    home.router("start").well();
    home.here.write("bad.yaml", "apps: [unclosed");
    home.router("start bad.yaml").fails(&["bad.yaml is not YAML"]);
}
