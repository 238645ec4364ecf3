//! Keys of an ecosystem file, in real workers.

use crate::harness::http::{Connection, free_port};
use crate::harness::{Home, SOON, until};
use nix::unistd::{User, geteuid};
use serde_json::{Value, json};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

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

/// Says who it is to whoever asks, and to its log by the name of the stream.
const WHO: &str = "const id = () => [process.getuid(), process.getgid(), ...process.getgroups()];
const who = JSON.stringify([id(), process.env.HOME, process.env.USER, process.env.LOGNAME]);
require('fs').writeFileSync('/dev/stdout', who + '\\n');
require('http').createServer((request, response) => response.end(who)).listen(process.env.PORT);
";

#[test]
fn workers_are_processes_of_whom_the_file_names_if_router_is_roots() {
    let home = Home::new();
    let port = free_port();
    let text = format!(
        "module.exports = [{{ name: 'a', script: 'who.js', instances: 2, uid: 'nobody',
            env: {{ PORT: {port}, LOGNAME: 'mine' }} }}]"
    );
    home.here.write("who.js", WHO);
    home.here.write("ecosystem.config.js", &text);
    if !geteuid().is_root() {
        home.router("start").fails(&["app a: `uid`", "only root may", "startup -u NAME"]);
        return;
    }
    let nobody = User::from_name("nobody").unwrap().unwrap();
    let (uid, gid) = (nobody.uid.as_raw(), nobody.gid.as_raw());
    fs::set_permissions(home.here.path(), Permissions::from_mode(0o755)).unwrap();
    home.router("start").well();
    let who = json!([[uid, gid, gid], nobody.dir, "nobody", "mine"]);
    let served = || serde_json::from_slice::<Value>(&Connection::tcp(port).get("/").body).unwrap();
    assert_eq!(served(), who);
    for id in 0..2 {
        assert_eq!(report(&home, &format!("a-out-{id}.log")), who);
    }
    // The preload is there for all to read, and for nobody to write, as long as the router is.
    let preloads = || {
        let pids = home.pids("a").into_iter();
        let line = pids.map(|pid| fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap());
        let file = |line: String| {
            line.split('\0').find(|word| word.ends_with("index.js")).map(PathBuf::from)
        };
        line.filter_map(file).collect::<Vec<_>>()
    };
    let preloads = preloads();
    assert_eq!(preloads.len(), 2, "{preloads:?}");
    let directory = preloads[0].parent().unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(directory), mode(&preloads[0])), (0o755, 0o644));

    // A new file changes whose they are without a client dropped.
    home.here.write("ecosystem.config.js", &text.replace("'nobody'", "'65533', gid: 65532"));
    home.router("reload ecosystem.config.js").well();
    until("the other user", SOON, || (served()[0] == json!([65533, 65532, 65532])).then_some(()));
    home.router("stop a").well();
    until("the preload is taken away", SOON, || (!directory.exists()).then_some(()));
}

#[test]
fn a_user_or_group_that_is_not_there_is_an_error() {
    let home = Home::new();
    home.here.write("report.js", REPORT);
    let mut wrong = vec![
        ("user: 'no-such-user'", ["app a: `uid`", "no user no-such-user"]),
        ("gid: 'no-such-group'", ["app a: `gid`", "no group no-such-group"]),
        ("filter_env: 7", ["app a: `filter_env` is 7", "a list of parts of names"]),
    ];
    if geteuid().is_root() {
        wrong.push(("uid: 4294967294", ["app a: no list of users has user 4294967294", "`gid`"]));
    }
    for (key, words) in wrong {
        let text = format!("module.exports = [{{ name: 'a', script: 'report.js', {key} }}]");
        home.here.write("ecosystem.config.js", &text);
        home.router("start").fails(&words);
    }
    // Whoever runs router may be named.
    let me = geteuid();
    let text = format!(
        "module.exports = [{{ name: 'a', script: 'report.js', exec_mode: 'fork', uid: {me} }}]"
    );
    home.here.write("ecosystem.config.js", &text);
    home.router("start").well();
    home.here.write("bad.yaml", "apps: [unclosed");
    home.router("start bad.yaml").fails(&["bad.yaml is not YAML"]);
}
