//! One ecosystem file, run by `@socket.io/pm2` and by router: the same processes come of it.

use crate::harness::http::free_port;
use crate::harness::pm2::Pm2;
use crate::harness::{Home, SOON, TempDir, until};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Tells what it was started with, as JSON in a line.
const REPORT_JS: &str = "const say = { env: process.env, argv: process.argv.slice(2),
    execArgv: process.execArgv, cwd: process.cwd() };
console.log('REPORT ' + JSON.stringify(say));
console.error('trouble');
if (process.env.LISTENS)
    require('node:http').createServer().listen(process.env.PORT, '127.0.0.1');
else setInterval(() => {}, 1e6);
process.on('SIGINT', () => process.exit(0));
";

const REPORT_PY: &str = "import json, os, sys, time
say = {'env': dict(os.environ), 'argv': sys.argv[1:], 'cwd': os.getcwd()}
print('REPORT ' + json.dumps(say), flush=True)
while True: time.sleep(1)
";

const FILE: &str = "module.exports = { apps: [
    { name: 'web', script: 'report.js', instances: 2, exec_mode: 'cluster', namespace: 'shop',
      args: 'one \"two three\"', increment_var: 'COUNT',
      env: { LISTENS: 1, LEVEL: 'plain', COUNT: 5, OBJECT: { a: 1 }, FLAG: true },
      env_production: { LEVEL: 'high' } },
    { name: 'job', script: '../report.js', cwd: 'sub', exec_mode: 'fork', args: ['-x', '1'],
      node_args: '--no-warnings', time: true, out_file: 'job.out', error_file: 'job.err' },
    { name: 'twins', script: 'report.js', exec_mode: 'fork', instances: 2, merge_logs: true,
      instance_var: 'WHICH', log_date_format: 'YYYY' },
    { name: 'apart', script: './report.js', exec_mode: 'fork', instances: 2 },
    { name: 'snake', script: 'report.py', interpreter: 'python3' },
] };";

/// So many processes it describes.
const PROCESSES: usize = 8;

/// Variables that only PM2's workers see, each of them its God's own book-keeping: objects that
/// were made text, the state of a moment, and settings as they are in the file.
const PM2_ALONE: &[&str] = &[
    "NODE_CHANNEL_FD", // of Python: a channel that nothing there speaks on
    "NODE_CHANNEL_SERIALIZATION_MODE",
    "PM2_HOME",
    "PM2_INTERACTOR_PROCESSING",
    "PM2_JSON_PROCESSING",
    "PM2_PORT",
    "PM2_USAGE",
    "SILENT",
    "_pm2_version",
    "args",
    "automation",
    "autorestart",
    "autostart",
    "axm_actions",
    "axm_dynamic",
    "axm_monitor",
    "axm_options",
    "created_at",
    "cwd",
    "env",
    "env_production",
    "increment_var",
    "instance_var",
    "kill_retry_time",
    "km_link",
    "log_date_format",
    "merge_logs",
    "node_args",
    "pm_pid_path", // router writes the file, and says so, if it is asked to
    "pm_uptime",
    "pmx",
    "restart_time",
    "status",
    "time",
    "treekill",
    "unique_id",
    "unstable_restarts",
    "username",
    "vizion",
    "vizion_running",
    "windowsHide",
];

/// Variables that only router's see: what the test itself sets.
const ROUTER_ALONE: &[&str] = &["ROUTER_HOME", "ROUTER_INTERPRETER"];

/// Variables with a value of their own on each side.
const DIFFERENT: &[&str] = &[
    "PWD",   // PM2 writes the key `cwd` there, relative as it is
    "pm_id", // PM2 counts as its forks come back
    "pm_out_log_path",
    "pm_err_log_path",
];

/// What a process says of itself.
type Reports = BTreeMap<String, Value>;

/// Every report in the files of these directories, by name and slot.
fn reports(directories: [&Path; 2]) -> Reports {
    let files = directories.iter().flat_map(|directory| fs::read_dir(directory).unwrap());
    let texts = files.map(|file| fs::read_to_string(file.unwrap().path()).unwrap_or_default());
    let mut reports = Reports::new();
    for text in texts {
        for line in text.lines() {
            let Some((_, json)) = line.split_once("REPORT ") else { continue };
            let Ok(report) = serde_json::from_str::<Value>(json) else { continue };
            let env = |name: &str| report["env"][name].as_str().map(str::to_owned);
            let slot = env("NODE_APP_INSTANCE").or_else(|| env("WHICH")).unwrap();
            reports.insert(format!("{} {slot}", env("name").unwrap()), report);
        }
    }
    reports
}

/// Digits do not tell a time, or a number, from another.
fn shape(text: &str) -> String {
    let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    shape.replace("00", "0").replace("00", "0")
}

/// The names of the files in a directory.
fn names(directory: &Path) -> BTreeSet<String> {
    let files = fs::read_dir(directory).unwrap();
    files.map(|file| shape(file.unwrap().file_name().to_str().unwrap())).collect()
}

/// Of each process in the list what both sides say of it.
fn rows(list: &[Value]) -> BTreeMap<String, Value> {
    let file = |path: &Value| {
        let path = Path::new(path.as_str().unwrap_or_default());
        shape(path.file_name().unwrap_or_default().to_str().unwrap())
    };
    list.iter()
        .map(|row| {
            let env = &row["pm2_env"];
            let slot = env.get("NODE_APP_INSTANCE").or_else(|| env.get("WHICH")).unwrap();
            let mut told: BTreeMap<&str, Value> = [
                "name",
                "namespace",
                "status",
                "exec_mode",
                "exec_interpreter",
                "instances",
                "node_args",
                "autorestart",
                "pm_exec_path",
                "pm_cwd",
                "restart_time",
            ]
            .map(|key| (key, env[key].clone()))
            .into();
            // PM2 leaves it out where there are none.
            told.insert("args", env.get("args").cloned().unwrap_or_else(|| json!([])));
            // Of the app's own variables, which the file names; PM2 counts one of them for all.
            let own = ["LISTENS", "LEVEL", "OBJECT", "FLAG", "PORT"];
            let text =
                |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let own = own.map(|name| (name, env["env"].get(name).map(text)));
            told.insert("env", json!(BTreeMap::from(own)));
            told.insert("out", file(&env["pm_out_log_path"]).into());
            told.insert("error", file(&env["pm_err_log_path"]).into());
            (format!("{} {slot}", row["name"].as_str().unwrap()), json!(told))
        })
        .collect()
}

/// What a side has come to: its list, and what its workers say.
fn outcome(list: &[Value], logs: &Path, sub: &Path) -> (BTreeMap<String, Value>, Reports) {
    let found = until("all have reported", SOON, || {
        let found = reports([logs, sub]);
        (found.len() == PROCESSES).then_some(found)
    });
    (rows(list), found)
}

#[test]
fn the_same_file_gives_the_same_processes() {
    let home = Home::new();
    let here = &home.here;
    here.write("report.js", REPORT_JS);
    here.write("report.py", REPORT_PY);
    here.write("ecosystem.config.js", FILE);
    let sub = here.path().join("sub");
    let port = free_port();

    fs::create_dir(&sub).unwrap();
    let kept = TempDir::new();
    let (pm2_rows, pm2_reports, pm2_files, pm2_line) = {
        let pm2 = Pm2::new(here.path(), port);
        pm2.give("start ecosystem.config.js --env production");
        let online = || {
            let list = pm2.list();
            let online = list.iter().filter(|row| row["pm2_env"]["status"] == "online").count();
            (online == PROCESSES).then_some(list)
        };
        let list = until("all of PM2's are online", SOON, online);
        let (rows, reports) = outcome(&list, &pm2.logs(), &sub);
        let line = fs::read_to_string(sub.join("job.out")).unwrap();
        (rows, reports, names(&pm2.logs()), line)
    };
    fs::rename(&sub, kept.path().join("sub")).unwrap();

    fs::create_dir(&sub).unwrap();
    let mut start = home.command();
    start
        .args(["start", "ecosystem.config.js", "--env", "production"])
        .env("PORT", port.to_string());
    home.give(&mut start).well();
    let logs = home.path().join("logs");
    let (rows, reports) = outcome(&home.list(), &logs, &sub);

    assert_eq!(rows, pm2_rows, "router's list, PM2's list");

    let mut own = names(&logs);
    own.retain(|name| !name.ends_with("-router.log"));
    assert_eq!(own, pm2_files, "router's log files, PM2's");
    let line = fs::read_to_string(sub.join("job.out")).unwrap();
    let before = |line: &str| shape(line.split("REPORT").next().unwrap());
    assert_eq!(before(&line), before(&pm2_line), "the time before a line");

    for (name, report) in &reports {
        let pm2 = &pm2_reports[name];
        for what in ["argv", "execArgv", "cwd"] {
            assert_eq!(report[what], pm2[what], "{what} of {name}: router's, PM2's");
        }
        let environment = |report: &Value| report["env"].as_object().unwrap().clone();
        let (ours, theirs) = (environment(report), environment(pm2));
        // It has a variable of the app's name, for modules of its own.
        let app = name.split(' ').next().unwrap();
        for (variable, value) in &theirs {
            match ours.get(variable) {
                None => assert!(
                    PM2_ALONE.contains(&variable.as_str()) || variable == app,
                    "{name} has no {variable} ({value}) with router"
                ),
                Some(_) if DIFFERENT.contains(&variable.as_str()) => {}
                Some(own) => assert_eq!(own, value, "{variable} of {name}: router's, PM2's"),
            }
        }
        for variable in ours.keys().filter(|variable| !theirs.contains_key(*variable)) {
            assert!(
                ROUTER_ALONE.contains(&variable.as_str()),
                "{name} has {variable} with router alone"
            );
        }
    }
}
