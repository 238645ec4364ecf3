//! Options of router's own as keys of an ecosystem file: each app its own addresses and times.

use crate::harness::http::free_port;
use crate::harness::{Connection, Home, fixture};
use serde_json::Value;

/// Which app's metrics are there.
fn app_at(port: u16) -> Value {
    let status: Value = serde_json::from_slice(&Connection::tcp(port).get("/status").body).unwrap();
    status["app"].clone()
}

#[test]
fn each_app_of_a_file_has_its_own_addresses_and_metrics() {
    let home = Home::new();
    let [chat, api, chat_admin, api_admin] = [(); 4].map(|()| free_port());
    let steady = fixture("steady");
    let steady = steady.display();
    let file = format!(
        "module.exports = [
            {{ name: 'chat', script: '{steady}', port: 1, listen: '127.0.0.1:{chat}', balance: 'round-robin',
               admin: '127.0.0.1:{chat_admin}', drain_timeout: 2, no_install: true }},
            {{ name: 'api', script: '{steady}', port: 1, listen: ['127.0.0.1:{api}'], sticky: 'ip',
               admin: '127.0.0.1:{api_admin}' }},
        ]"
    );
    home.here.write("ecosystem.config.js", &file);
    home.router("start").well();
    for (name, port, admin) in [("chat", chat, chat_admin), ("api", api, api_admin)] {
        assert_eq!(Connection::tcp(port).get("/pid").pid(), home.pids(name)[0]);
        assert_eq!(app_at(admin), name);
    }
    // One address for both is refused, and both go on.
    let before = (home.pids("chat"), home.pids("api"));
    for option in ["admin", "listen"] {
        let line = format!("start ecosystem.config.js --{option} 127.0.0.1:{}", free_port());
        let option = format!("--{option}");
        home.router(&line).fails(&[&option, "one app", "--only"]);
    }
    assert_eq!((home.pids("chat"), home.pids("api")), before);

    // A changed address is taken over without another process.
    let (router, moved) = (home.app_router("api"), free_port());
    let text = file.replace(&format!(":{api_admin}'"), &format!(":{moved}'"));
    home.here.write("ecosystem.config.js", &text);
    home.router("reload ecosystem.config.js").well();
    assert_eq!(app_at(moved), "api");
    assert_eq!(home.app_router("api"), router);
    // The command line goes before the file.
    let line = "restart ecosystem.config.js --only chat";
    home.give(
        home.command().args(line.split(' ')).env("ROUTER_ADMIN", format!("127.0.0.1:{chat_admin}")),
    )
    .well();
}

#[test]
fn a_wrong_value_of_an_option_names_file_app_and_key() {
    let home = Home::new();
    home.here.write("a.js", "setInterval(() => {}, 1e6)");
    for (key, words) in [
        ("balance: 'best'", &["`balance` is best", "least-connection"][..]),
        ("drain_timeout: 'soon'", &["`drain_timeout`: `soon` is no duration"]),
        ("no_preload: 'no'", &["`no_preload` is no", "true or false"]),
        ("listen: 'nowhere'", &["nowhere", "has no port"]),
        ("admin: ['a', 'b']", &["`admin` is a,b", "one value"]),
    ] {
        let text = format!("module.exports = [{{ name: 'chat', script: 'a.js', {key} }}]");
        home.here.write("ecosystem.config.js", &text);
        let said = home.router("start").fails(words);
        said.fails(&["ecosystem.config.js", "app chat"]);
    }
    home.here.write("ecosystem.config.js", "module.exports = [{ script: 'a.js', amdin: ':1' }]");
    let told = home.router("start --only b");
    told.fails(&["unknown key `amdin`; did you mean `admin`?"]);
}
