//! The forms in which PM2 takes its arguments, and words that are none.

use crate::harness::Home;

/// Three files and nothing in the list.
fn home() -> Home {
    let home = Home::new();
    for name in ["a.js", "b.js"] {
        home.here.write(name, "setInterval(() => {}, 1e6)");
    }
    home.here.write(
        "ecosystem.config.js",
        "module.exports = [
            { name: 'one', script: 'a.js', exec_mode: 'fork' },
            { name: 'two', script: 'b.js', exec_mode: 'fork' },
            { name: 'named', script: 'b.js', exec_mode: 'fork', append_env_to_name: true,
              env_night: {} },
        ]",
    );
    home
}

#[test]
fn several_are_started_and_what_would_be_dropped_is_refused() {
    let home = home();
    home.router("start a.js b.js -w 1 --no-pmx -s").well();
    home.shows(&["a 0 online", "b 1 online"]);
    home.router("stop all").well();
    home.router("start a 1").well();
    home.shows(&["a 0 online", "b 1 online"]);
    home.router("start a gone").fails(&["gone"]);
    home.router("start aa").fails(&["there is no", "aa", "did you mean the app a?"]);

    home.router("stop a").well();
    home.router("start a -w 3").fails(&["router scale a N"]);
    home.router("start a --time").fails(&["--time", "would change nothing", "--force", "a.js"]);
    home.router("start a --env night").fails(&["--env and --only", "ecosystem file"]);
    home.router("start a --only x").fails(&["--env and --only", "ecosystem file"]);
    assert_eq!(home.rows(), ["a 0 stopped", "b 1 online"]);

    // An app of two workers is found by the id of one.
    home.router("scale a 2").well();
    home.router("scale 0 3").well();
    assert_eq!(home.list().iter().filter(|row| row["name"] == "a").count(), 3);
    home.router("scale default 2").fails(&["`default` means 2 apps (a, b)"]);
    home.router("start a.js b.js --name x").fails(&["--name (ROUTER_NAME)", "one app"]);
}

#[test]
fn what_is_in_the_list_of_a_file_is_stopped_and_the_rest_is_told() {
    let home = home();
    let file = "ecosystem.config.js";
    home.router(&format!("stop {file}")).fails(&[
        "no app of",
        file,
        "one, two, named or named-night",
    ]);
    home.router(&format!("startOrReload {file} --env night")).well();
    home.shows(&["one 0 online", "two 1 online", "named-night 2 online"]);
    home.router("delete one").well();
    let told = home.router(&format!("stop {file}")).well().out;
    assert!(told.contains("not in the list: one\n"), "{told}");
    assert_eq!(home.rows(), ["two 1 stopped", "named-night 2 stopped"]);
    home.router(&format!("startOrRestart {file} --only two")).well();
    home.router(&format!("reset {file} --only two")).well();
    home.router(&format!("delete {file} --env night --only named")).well();
    assert_eq!(home.rows(), ["two 1 online"]);
    home.router("delete two --env night").fails(&["--only and --env", "ecosystem file"]);
}

#[test]
fn a_word_that_is_no_command_is_answered_with_the_nearest() {
    let home = home();
    for (line, near) in [
        ("lst", "list"),
        ("restrat all", "restart"),
        ("lgos --nostream", "logs"),
        ("stpo a", "stop"),
    ] {
        home.router(line).fails(&[&format!("did you mean `router {near}`?")]);
    }
    home.router("a.js b.js").fails(&["one app is run", "router start a.js b.js"]);
    assert!(home.router("help").well().out.contains("Commands:"));
    assert!(home.router("help scale").well().out.contains("N|+N|-N"));
}

#[test]
fn what_pm2_takes_and_router_does_not_is_answered_with_what_to_use() {
    let home = home();
    for (line, words) in [
        ("start npm -- start", &["`npm` is no script", "package.json"][..]),
        ("start --no-daemon a.js", &["`router app.js`"]),
        ("start a.js --port 3000", &["`port`"]),
        ("start a.js --uid nobody", &["`uid`"]),
        ("logs --highlight x", &["grep"]),
        ("ls --sort cpu", &["jlist"]),
        ("restart one --name other", &["router reload FILE", "--force"]),
        ("restart one -i 3", &["router scale APP N"]),
        ("send 0 hello", &["leaves out", "sendSignal"]),
    ] {
        home.router(line).fails(words);
    }
    home.here
        .write("npm.config.js", "module.exports = [{ name: 'x', script: 'npm', args: 'start' }]");
    home.router("start npm.config.js").fails(&["npm.config.js: app x", "`npm` is no script"]);
}
