//! Apps of different kinds side by side: workers on ports of their own, and ordinary processes.

use crate::harness::http::free_port;
use crate::harness::process::{alive, signal};
use crate::harness::{Connection, Home, SOON, fixture, until};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::fs::{self, File};
use std::os::unix::net::UnixDatagram;
use std::process::Child;

/// A script of another language that says who it is, what it was told, and when it is asked to end.
const JOB: &str = "echo \"job $$ instance $NODE_APP_INSTANCE id $pm_id mode $exec_mode $COLOUR $1\"
trap 'echo ending; exit 0' INT
while :; do sleep 0.1; done
";

/// Node without a cluster: it opens its port itself.
const SOLO: &str = "const http = require('http');
http.createServer((req, res) => res.end(String(process.pid))).listen(process.env.PORT, '127.0.0.1',
  () => process.send('ready'));
";

fn file(home: &Home) -> [u16; 3] {
    let ports = [free_port(), free_port(), free_port()];
    let [one, other, solo] = ports;
    home.here.write("job.sh", JOB);
    home.here.write("solo.js", SOLO);
    let steady = fixture("steady");
    let steady = steady.display();
    let text = format!(
        "module.exports = {{ apps: [
            {{ name: 'one', script: '{steady}', instances: 2, port: {one}, namespace: 'web' }},
            {{ name: 'other', script: '{steady}', exec_mode: 'cluster', port: {other}, namespace: 'web' }},
            {{ name: 'job', script: 'job.sh', args: 'word', env: {{ COLOUR: 'red' }} }},
            {{ name: 'solo', script: 'solo.js', exec_mode: 'fork', port: {solo}, wait_ready: true }},
            {{ name: 'later', script: 'solo.js', exec_mode: 'fork', autostart: false }},
        ] }};"
    );
    home.here.write("ecosystem.config.js", &text);
    ports
}

#[test]
fn two_ports_and_a_script_in_one_daemon() {
    let home = Home::new();
    let [one, other, solo] = file(&home);
    home.router("start").well();
    let rows = [
        "one 0 online",
        "one 1 online",
        "other 2 online",
        "job 3 online",
        "solo 4 online",
        "later 5 stopped",
    ];
    assert_eq!(home.rows(), rows);
    for (port, name) in [(one, "one"), (other, "other"), (solo, "solo")] {
        let pids = home.pids(name);
        for _ in 0..10 {
            assert!(pids.contains(&Connection::tcp(port).get("/pid").pid()), "{name}");
        }
    }
    let job = home.pids("job")[0];
    let said = until("what the job says", SOON, || {
        let said = fs::read_to_string(home.path().join("logs/job-out.log")).unwrap_or_default();
        said.contains('\n').then_some(said)
    });
    assert_eq!(said, format!("job {job} instance 0 id 3 mode fork_mode red word\n"));

    // Ordinary processes end before the next of their kind begins.
    for line in ["reload job", "restart 3"] {
        let before = home.pids("job")[0];
        home.router(line).well();
        assert!(!alive(before));
        assert_eq!(home.rows(), rows);
    }
    let said = fs::read_to_string(home.path().join("logs/job-out.log")).unwrap();
    assert_eq!(said.matches("ending\n").count(), 2, "{said}");
    home.router("scale job 2").well();
    assert_eq!(home.rows()[4], "job 6 online");

    // A namespace, and a part of the file.
    home.router("stop web").well();
    assert_eq!(home.rows()[..3], ["one 0 stopped", "one 1 stopped", "other 2 stopped"]);
    home.router("start ecosystem.config.js --only one,other").well();
    assert_eq!(home.rows()[..3], ["one 0 online", "one 1 online", "other 2 online"]);
    home.router("delete ecosystem.config.js --only later").well();
    assert!(!home.rows().iter().any(|row| row.contains("later")));
}

/// They have no preload that would wait for another router; the router finds them all the same.
#[test]
fn an_ordinary_process_outlives_its_router() {
    let home = Home::new();
    home.here.write("job.sh", JOB);
    home.router("start job.sh").well();
    let (job, router) = (home.pids("job")[0], home.app_router("job"));
    signal(router.unwrap(), Signal::SIGKILL);
    let another = |pid: &Option<u32>| pid.is_some() && *pid != router;
    until("another router", SOON, || Some(home.app_router("job")).filter(another));
    home.shows(&["job 0 online"]);
    assert_eq!(home.pids("job"), [job]);
    home.router("stop job").well();
    until("its end", SOON, || (!alive(job)).then_some(()));
}

#[test]
fn the_daemon_and_the_routers_become_the_next_program() {
    let home = Home::new();
    let [one, ..] = file(&home);
    home.router("start ecosystem.config.js --only one,job").well();
    let before = (home.daemon(), home.app_router("one"), home.pids("one"), home.pids("job"));
    let client = Connection::tcp(one);
    home.router("update").well();
    home.router("ping").well();
    let after = (home.daemon(), home.app_router("one"), home.pids("one"), home.pids("job"));
    assert_eq!(before, after, "the same processes");
    drop(client);
    assert_eq!(home.rows(), ["one 0 online", "one 1 online", "job 2 online"]);
    // The daemon knows their ends still.
    signal(before.1.unwrap(), Signal::SIGKILL);
    let another = |pid: &Option<u32>| pid.is_some() && *pid != before.1;
    until("another router", SOON, || Some(home.app_router("one")).filter(another));
    let log = fs::read_to_string(home.path().join("daemon.log")).unwrap();
    assert_eq!(log.matches("daemon ready").count(), 2, "{log}");
}

/// A daemon that nothing finds by its home. Dropping it ends it, and its apps with it.
struct Service(Child);

impl Drop for Service {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            signal(self.0.id(), Signal::SIGTERM);
            let _ended = self.0.wait();
        }
    }
}

/// As a unit with `StateDirectory=` and its like has it, that is told when everything runs.
#[test]
fn a_system_service_keeps_its_things_where_systemd_says() {
    let home = Home::new();
    home.here.write("idle.js", "setInterval(() => {}, 1e6)");
    home.router("start idle.js --interpreter node -w 1 -l 127.0.0.1:0").well();
    home.router("save").well();
    home.router("kill").well();
    let [state, run, logs] = ["state", "run", "log"].map(|name| home.path().join(name));
    fs::create_dir(&state).unwrap();
    fs::rename(home.path().join("dump.json"), state.join("dump.json")).unwrap();
    let told = UnixDatagram::bind(home.path().join("notify")).unwrap();
    told.set_read_timeout(Some(SOON)).unwrap();
    let hears = |wanted: &str| {
        let mut text = [0; 256];
        let length = told.recv(&mut text).unwrap_or_else(|e| panic!("{wanted}: {e}"));
        assert_eq!(std::str::from_utf8(&text[..length]), Ok(wanted));
    };
    // Where a failed test shows it.
    let log = File::create(home.path().join("daemon.log")).unwrap();
    let mut command = home.command();
    command
        .args(["daemon", "--resurrect"])
        .env_remove("ROUTER_HOME")
        .env("STATE_DIRECTORY", &state)
        .env("RUNTIME_DIRECTORY", &run)
        .env("LOGS_DIRECTORY", &logs)
        .env("NOTIFY_SOCKET", home.path().join("notify"))
        .stderr(log);
    let mut daemon = Service(command.spawn().unwrap());
    hears("READY=1");
    assert!(run.join("daemon.sock").exists() && run.join("apps/idle/control").exists());
    assert!(logs.exists() && !home.path().join("daemon.sock").exists());
    signal(daemon.0.id(), Signal::SIGTERM);
    hears("STOPPING=1");
    assert!(daemon.0.wait().unwrap().success());
    assert!(!run.join("apps/idle").exists(), "its app has ended with it");
}

#[test]
fn a_unit_for_systemd_is_written_as_it_should_be() {
    let home = Home::new();
    let unit = home.router("startup systemd --print -u root --hp /srv/apps").well().out;
    for line in [
        "Type=notify",
        "User=root",
        "KillMode=process",
        "Environment=\"ROUTER_HOME=/srv/apps/.router\"",
        "WantedBy=multi-user.target",
    ] {
        assert!(unit.lines().any(|found| found == line), "{line}: {unit}");
    }
    assert!(unit.contains("daemon --resurrect"), "{unit}");
    home.router("startup upstart").fails(&["`upstart` is not known", "systemd"]);
    home.router("startup -u nobody-of-this-name").fails(&["there is no user"]);
    let completions = home.router("completions bash").well().out;
    let manual = home.router("man").well().out;
    for word in ["resurrect", "sendSignal"] {
        assert!(completions.contains(word) && manual.contains(word), "{word}");
    }
    home.router("init").well();
    let text = fs::read_to_string(home.here.path().join("ecosystem.config.js")).unwrap();
    assert!(text.contains("instances: 'max'"), "{text}");
    home.router("init").fails(&["ecosystem.config.js"]);
    let _value: Vec<Value> = home.list();
}
