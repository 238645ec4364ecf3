//! What is found out of files: what is wrong in them, what an app is called, which port it has.

use crate::harness::http::free_port;
use crate::harness::{Home, SOON, until};

#[test]
fn what_is_wrong_in_a_file_is_told_with_its_name() {
    let home = Home::new();
    home.here.write("a.js", "setInterval(() => {}, 1e6)");
    for (text, words) in [
        (
            "[{ name: 'x', script: 'a.js', cwd: '/nonexistent' }]",
            &["app x: there is no directory /nonexistent", "`cwd`"][..],
        ),
        ("[{ name: 'x', script: 'b.js' }]", &["app x: there is no script", "b.js"]),
        ("[{ name: 'x' }]", &["app x names no script"]),
        ("[{ name: 'x', script: 'a.js', interpreter: 'node99' }]", &["app x: `node99`"]),
        ("{ app: [{ script: 'a.js' }] }", &["no `apps`", "by `app`?"]),
        ("{}", &["exports nothing", "module.exports"]),
        ("() => 1", &["exports a function"]),
    ] {
        home.here.write("wrong.config.js", &format!("module.exports = {text}"));
        for command in ["start wrong.config.js", "wrong.config.js"] {
            home.router(command).fails(&["wrong.config.js"]).fails(words);
        }
    }
}

#[test]
fn an_index_is_called_as_its_directory() {
    let home = Home::new();
    for name in ["chat", "api"] {
        home.here.write(&format!("{name}/index.js"), "setInterval(() => {}, 1e6)");
    }
    home.here.write("api/package.json", r#"{ "name": "@company/interface" }"#);
    home.router("start chat api -w 1").well();
    home.shows(&["chat 0 online", "interface 1 online"]);
    home.router("restart chat").well();
    assert!(home.path().join("logs/chat-out-0.log").exists());
}

/// Both would have the port of an app that asks for none.
#[test]
fn that_a_port_is_in_use_is_told_by_start_and_describe() {
    let home = Home::new();
    home.here.write("job.js", "setInterval(() => {}, 1e6)");
    let taken = free_port();
    let _holder = std::net::TcpListener::bind(("0.0.0.0", taken)).unwrap();
    let port = taken.to_string();
    let mut start = home.command();
    start.args(["start", "job.js", "-w", "1"]).env("PORT", &port);
    home.give(&mut start).well();
    until("describe", SOON, || {
        let told = home.router("describe job").out;
        let listening = told.lines().find(|line| line.contains("listening on"))?;
        (listening.contains("cannot listen on") && listening.contains(&port)).then_some(())
    });
    let again = home.router("restart job").well().out;
    assert!(again.contains("[job] has no port: cannot listen on"), "{again}");
}
