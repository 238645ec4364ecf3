//! What `--bus` has in it that is for nobody's eyes.

use super::{HERE, on_bus_by_variable, status};
use crate::both_engines;
use crate::harness::{Home, Redis, SOON, fixture, until};
use nix::sys::signal::Signal;
use serde_json::json;

both_engines! {
    fn workers_do_not_see_where_the_bus_is(engine) {
        let redis = Redis::asking_for("hush");
        let listen = format!("{HERE}:0");
        let router = on_bus_by_variable(engine, &redis.url()).listen(&listen).start();
        let connected = || status(&router)["bus"]["connected"] == true;
        until("the bus is connected", SOON, || connected().then_some(()));
        let first = router.pids();
        first.iter().for_each(|pid| sees_nothing(*pid, "hush"));
        router.signal(Signal::SIGUSR2);
        router.event("upgraded");
        until("the bus is connected", SOON, || connected().then_some(()));
        // Those that the next program starts see no more.
        router.signal(Signal::SIGHUP);
        for pid in first {
            sees_nothing(router.replaced(pid), "hush");
        }
    }
}

fn environment(pid: u32) -> String {
    String::from_utf8_lossy(&std::fs::read(format!("/proc/{pid}/environ")).unwrap()).into_owned()
}

#[track_caller]
fn sees_nothing(pid: u32, secret: &str) {
    let environment = environment(pid);
    assert!(environment.contains("NODE_CHANNEL_FD="), "it is a worker's: {environment}");
    assert!(!environment.contains(secret), "{environment}");
}

#[test]
fn workers_of_the_daemon_see_it_if_their_file_says_so() {
    let redis = Redis::asking_for("hush");
    let home = Home::new();
    let app = |name: &str, env| {
        json!({
            "name": name, "script": fixture("sticky"), "instances": 1, "env": env, "bus_stream": name,
            "listen": "127.0.0.1:0",
        })
    };
    let own = "redis://:their-own@127.0.0.1:1";
    let apps = [app("plain", json!({})), app("told", json!({ "ROUTER_BUS": own }))];
    let file = home.here.write("ecosystem.config.json", &json!({ "apps": apps }).to_string());
    home.give(home.command().arg("start").arg(&file).env("ROUTER_BUS", redis.url())).well();
    let check = || {
        for name in ["plain", "told"] {
            let [pid] = home.pids(name)[..] else { panic!("not one worker") };
            sees_nothing(pid, "hush");
            assert_eq!(environment(pid).contains(own), name == "told");
            until("the app is on the bus", SOON, || {
                let list = redis.ask(&["CLIENT", "LIST"]);
                list.as_str().unwrap().contains(&format!("name=router:{name} ")).then_some(())
            });
        }
    };
    check();
    let shown = home.router("env told").well().out;
    assert!(shown.contains("ROUTER_BUS: redis://127.0.0.1:1") && !shown.contains("their-own"));
    assert!(!home.router("env plain").well().out.contains("ROUTER_BUS"));
    home.router("update").well();
    check();
    home.router("restart plain").well();
    check();
    home.router("delete all").well();
}

#[test]
fn a_password_is_shown_by_no_command() {
    let home = Home::new();
    let file = home.here.write(
        "ecosystem.config.json",
        &json!({ "apps": [{
            "name": "told", "script": fixture("sticky"), "instances": 1,
            "bus": "redis://me:hush@127.0.0.1:1/3", "bus_stream": "own",
        }] })
        .to_string(),
    );
    let by_variable = "redis://:hush@127.0.0.1:1";
    let start = ["start", "--listen", "127.0.0.1:0"];
    home.give(home.command().args(start).arg(&file).env("ROUTER_BUS", by_variable)).well();
    for command in ["list", "describe told", "jlist", "prettylist", "env told", "logs --nostream"] {
        let said = home.router(command).well();
        assert!(!said.out.contains("hush") && !said.err.contains("hush"), "{command}: {said:?}");
    }
    // A variable is stronger than the file, key by key.
    let told = home.router("describe told").well().out;
    assert!(told.contains("redis://127.0.0.1:1:") && told.contains("stream own"), "{told}");
    let router = home.app_router("told").unwrap();
    let words = std::fs::read_to_string(format!("/proc/{router}/cmdline")).unwrap();
    assert!(!words.contains("hush"), "{words}");
    home.router("delete all").well();
}
