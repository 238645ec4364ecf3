//! An operator's day with PM2's words.

use crate::harness::http::free_port;
use crate::harness::load::Load;
use crate::harness::{Connection, Home, SOON, Session, fixture, until};
use serde_json::json;

/// The file of a home with one app of two workers, on a port of its own.
fn chat(home: &Home) -> u16 {
    let port = free_port();
    let script = fixture("steady");
    let text = format!(
        "module.exports = {{ apps: [{{ name: 'chat', script: '{}', instances: 2,
            env: {{ PORT: {port}, GREETING: 'hello' }}, env_night: {{ GREETING: 'good night' }} }}] }};",
        script.display()
    );
    home.here.write("ecosystem.config.js", &text);
    port
}

#[test]
fn from_start_to_resurrect() {
    let home = Home::new();
    let port = chat(&home);
    let started = home.router("start ecosystem.config.js").well();
    assert!(started.out.contains("[chat](0, 1) started"), "{}", started.out);
    assert_eq!(home.rows(), ["chat 0 online", "chat 1 online"]);

    let shown = home.router("ls").well().out;
    for word in ["id", "chat", "online", "cluster", "mb", "default"] {
        assert!(shown.contains(word), "{word}: {shown}");
    }
    let described = home.router("describe chat").well().out;
    let place = format!("127.0.0.1:{port}");
    for word in ["script path", "steady.js", "exec cwd", "online", "ids", "listening on", &place] {
        assert!(described.contains(word), "{word}: {described}");
    }
    let environment = home.router("env 0").well().out;
    for line in ["PATH: ", "GREETING: hello\n", &format!("PORT: {port}\n")] {
        assert!(environment.contains(line), "{line}: {environment}");
    }

    // Clients that must not notice what comes.
    let load = Load::start(&format!("http://127.0.0.1:{port}"), &json!({ "clients": 8 }));
    assert!(home.router("scale chat +1").well().out.contains("[chat](0, 1, 2) scaled"));
    assert_eq!(home.rows(), ["chat 0 online", "chat 1 online", "chat 2 online"]);
    let before = home.pids("chat");
    home.router("reload chat").well();
    let online = || home.rows().iter().filter(|row| row.ends_with("online")).count();
    assert_eq!(online(), 3);
    let after = home.pids("chat");
    assert_eq!(after.iter().filter(|pid| !before.contains(pid)).count(), 3, "{before:?} {after:?}");
    load.stop().nothing_failed().nobody_left();

    home.router("scale chat 2").well();
    home.router("restart chat").well();
    assert_eq!(home.rows(), ["chat 0 online", "chat 1 online"]);
    assert!(home.pids("chat").iter().all(|pid| !after.contains(pid)));
    assert!(home.router("save").well().out.contains("saved 1 apps"));

    home.router("stop chat").well();
    assert_eq!(home.rows(), ["chat 0 stopped", "chat 1 stopped"]);
    assert!(!Connection::connects(port));
    home.router("start chat").well();
    assert_eq!(home.rows(), ["chat 0 online", "chat 1 online"]);

    home.router("kill").well();
    assert!(!Connection::connects(port) && !home.path().join("daemon.sock").exists());
    assert!(home.router("resurrect").well().out.contains("[chat](0, 1) started"));
    Session::open(port).unwrap().join().unwrap();

    home.router("delete all").well();
    assert_eq!(home.rows(), Vec::<String>::new());
    assert!(!home.app("chat").exists());
    assert!(home.router("ping").well().out.starts_with("pong"));
}

#[test]
fn one_worker_of_several_is_stopped_started_and_restarted() {
    let home = Home::new();
    chat(&home);
    home.router("start ecosystem.config.js").well();
    let before = home.pids("chat");
    home.router("stop 1").well();
    assert_eq!(home.rows(), ["chat 0 online", "chat 1 stopped"]);
    home.router("start 1").well();
    home.router("restart 0").well();
    assert_eq!(home.rows(), ["chat 0 online", "chat 1 online"]);
    assert!(home.pids("chat").iter().all(|pid| !before.contains(pid)));
    let counted = |home: &Home| {
        let counts = home.list().into_iter().map(|row| row["pm2_env"]["restart_time"].clone());
        counts.collect::<Vec<_>>()
    };
    assert_eq!(counted(&home), [json!(1), json!(1)]);
    home.router("reset chat").well();
    assert_eq!(counted(&home), [json!(0), json!(0)]);
    let pid = home.router("pid 1").well().out;
    assert_eq!(pid.trim(), home.pids("chat")[1].to_string());
    assert_eq!(home.router("id 1").well().out.trim(), "1");
    home.router("delete 1").fails(&["router scale chat -1"]);
    let signalled = home.router("sendSignal SIGKILL 0").well();
    assert!(signalled.out.contains("[chat](0) sent SIGKILL"), "{}", signalled.out);
    until("its end is counted", SOON, || (counted(&home)[0] == json!(1)).then_some(()));
    home.shows(&["chat 0 online", "chat 1 online"]);
}

/// What PM2 restarts for, an upgrade and a reload do without a gap.
#[test]
fn a_changed_file_is_taken_over_without_dropping_a_client() {
    let home = Home::new();
    let port = chat(&home);
    home.router("start ecosystem.config.js").well();
    let greeting = || Connection::tcp(port).get("/environment?name=GREETING").text();
    assert_eq!(greeting(), "hello");
    let router = home.app_router("chat");
    let load = Load::start(&format!("http://127.0.0.1:{port}"), &json!({ "clients": 8 }));
    home.router("reload ecosystem.config.js --env night").well();
    assert!(home.router("env chat").well().out.contains("GREETING: good night\n"));
    assert_eq!(home.list()[0]["pm2_env"]["env"]["GREETING"], "good night");
    assert_eq!(greeting(), "good night");
    assert_eq!(home.app_router("chat"), router, "the same process");
    load.stop().nothing_failed().nobody_left();
    home.router("restart ecosystem.config.js").well();
    assert_eq!(greeting(), "hello");
    // An environment of the command, not of the file.
    home.give(home.command().args(["restart", "chat", "--update-env"]).env("MOOD", "good")).well();
    assert_eq!(Connection::tcp(port).get("/environment?name=MOOD").text(), "good");
}

#[test]
fn what_is_wrong_is_said_before_anything_is_touched() {
    let home = Home::new();
    home.here.write("a.js", "setInterval(() => {}, 1e6)");
    home.router("stop chat").fails(&["no daemon keeps apps", "router start app.js"]);
    home.router("start nothing.js").fails(&["there is no", "nothing.js"]);
    home.router("start a.js --workers many").fails(&["max, or -N"]);
    home.router("start a.js --runtime-dir x").fails(&["--runtime-dir", "the daemon's to choose"]);
    home.router("deploy production").fails(&["leaves out", "router reload"]);
    home.here.write("two.config.js", "module.exports = [{ script: 'a.js' }, { script: 'a.js' }]");
    home.router("start two.config.js").fails(&["two apps are called a", "`name`"]);
    home.router("start two.config.js --only b").fails(&["no app named b", "a, a"]);
    assert_eq!(home.rows(), Vec::<String>::new());
    assert!(home.router("ls").well().out.contains("status"));

    home.router("start a.js -w 1 --name one").well();
    home.router("start a.js -w 1 --name one").fails(&["one runs already", "--force", "--name"]);
    home.router("start a.js -w 2 --name one --force").well();
    assert_eq!(home.rows(), ["one 0 online", "one 1 online"]);
    home.router("restart tow").fails(&["`tow`", "there are one"]);
    home.router("scale one -2").fails(&["0 workers asked for"]);
    home.router("sendSignal NOSUCH one").fails(&["SIGUSR2"]);
    home.router("logLevel loud one").fails(&["`loud` is no log level"]);
    home.router("logLevel debug one").well();
    assert_eq!(home.rows(), ["one 0 online", "one 1 online"]);
}

/// What an order is not about does not make it fail.
#[test]
fn one_worker_that_is_errored_does_not_stand_for_the_others() {
    let home = Home::new();
    let text = "if (process.env.NODE_APP_INSTANCE === '1') throw new Error('never');
        process.on('SIGUSR2', () => console.log('told')); setInterval(() => {}, 1e6);";
    home.here.write("half.js", text);
    home.router("start half.js -w 2 --max-restarts 0").fails(&["worker 1 is errored"]);
    home.shows(&["half 0 online", "half 1 errored"]);
    home.router("sendSignal SIGUSR2 half").well();
    home.router("reset half").well();
    home.router("restart 0").well();
    home.router("restart 1").fails(&["worker 1 is errored"]);
    home.router("restart half").fails(&["worker 1 is errored"]);
}

#[test]
fn one_worker_has_the_environment_of_all() {
    let home = Home::new();
    let port = chat(&home);
    home.router("start ecosystem.config.js").well();
    let mood = || Connection::tcp(port).get("/environment?name=MOOD").text();
    let mut command = home.command();
    command.args(["restart", "1", "--update-env"]).env("MOOD", "good");
    home.give(&mut command).fails(&["router restart chat --update-env"]);
    // Nor is it remembered for the next restart.
    let before = mood();
    home.router("restart chat").well();
    assert_eq!(mood(), before);
}

#[test]
fn an_app_is_called_what_can_be_said_of_it() {
    let home = Home::new();
    home.here.write("idle.js", "setInterval(() => {}, 1e6)");
    for name in ["all", "a\nb", "\u{1b}[31mred"] {
        let mut command = home.command();
        command.args(["start", "idle.js", "-w", "1", "--name", name]);
        let said = home.give(&mut command).fails(&["no app can be called", "--name"]);
        assert!(!said.err.contains('\u{1b}'), "{said:?}");
    }
    assert!(home.rows().is_empty());
    home.give(home.command().args(["start", "idle.js", "-w1"]).env("ROUTER_NAME", "")).well();
    home.give(home.command().args(["start", "idle.js", "-w1", "--name", "7"])).well();
    assert_eq!(home.rows(), ["idle 0 online", "7 1 online"]);
    let warned = home.router("restart 7").well().out;
    assert!(warned.contains("[7](1) the name is a number"), "{warned}");
}

#[test]
fn what_the_logs_say_is_changed_until_it_is_changed_again() {
    let home = Home::new();
    home.here.write("idle.js", "setInterval(() => {}, 1e6)");
    home.router("start idle.js -w 1 --name q").well();
    let log = |name: &str| std::fs::read_to_string(home.path().join(name)).unwrap();
    let lines = |name: &str, word: &str| log(name).matches(word).count();
    home.router("logLevel error q").well();
    let before = lines("logs/q-router.log", " INFO ");
    home.router("update").well();
    home.router("reload q").well();
    assert_eq!(lines("logs/q-router.log", " INFO "), before, "{}", log("logs/q-router.log"));
    // The daemon is one of all.
    assert_eq!(lines("daemon.log", "DEBUG"), 0);
    home.router("logLevel debug").well();
    home.router("ping").well();
    let said = "order=\"ping\"";
    until("the order", SOON, || (lines("daemon.log", said) > 0).then_some(()));
    home.router("reload q").well();
    for word in ["order=\"reload\"", "Spawn(", "Drain("] {
        until(word, SOON, || (lines("logs/q-router.log", word) > 0).then_some(()));
    }
    home.router("update").well();
    let before = lines("daemon.log", said);
    home.router("ping").well();
    until("the order", SOON, || (lines("daemon.log", said) > before).then_some(()));
}

/// By signal a router would have a worker that the daemon has no number for.
#[test]
fn how_many_workers_there_are_is_for_the_daemon_to_say() {
    use crate::harness::process::signal;
    let home = Home::new();
    home.here.write("idle.js", "setInterval(() => {}, 1e6)");
    home.router("start idle.js -w 1").well();
    signal(home.app_router("idle").unwrap(), nix::sys::signal::Signal::SIGTTIN);
    let log = home.path().join("logs/idle-router.log");
    until("it is told", SOON, || {
        std::fs::read_to_string(&log).unwrap().contains("router scale NAME +1").then_some(())
    });
    assert_eq!(home.rows(), ["idle 0 online"]);
}
