//! `startup` and `unstartup`, with a systemctl that writes down what it is asked; and what is saved.

use crate::harness::Home;
use crate::harness::home::Said;
use nix::unistd::geteuid;
use std::fs;

/// Gives a command beside that systemctl.
fn give(home: &Home, line: &str) -> Said {
    home.here
        .write_script("bin/systemctl", "#!/bin/sh\necho \"$@\" >>\"$SYSTEMD_UNIT_PATH/asked\"\n");
    fs::create_dir_all(home.here.path().join("units")).unwrap();
    let path = std::env::var("PATH").unwrap();
    let path = format!("{}:{path}", home.here.path().join("bin").display());
    let mut command = home.command();
    command.args(line.split_whitespace()).env("PATH", path);
    home.give(command.env("SYSTEMD_UNIT_PATH", home.here.path().join("units")))
}

#[test]
fn a_unit_is_installed_for_this_home_or_for_the_host_and_taken_away() {
    let home = Home::new();
    let place = home.path().display().to_string();
    if !geteuid().is_root() {
        let words = ["only root can do that", "sudo env ROUTER_HOME=", &place];
        give(&home, "startup").fails(&words);
        return;
    }
    let asked = || fs::read_to_string(home.here.path().join("units/asked")).unwrap();
    let told = give(&home, "startup").well().out;
    // A daemon that runs has to end first.
    assert!(
        told.contains("`router kill`") && told.contains("systemctl start router-root"),
        "{told}"
    );
    let unit = home.here.path().join("units/router-root.service");
    let text = fs::read_to_string(&unit).unwrap();
    assert!(text.contains(&format!("Environment=\"ROUTER_HOME={place}\"")), "{text}");
    assert_eq!(asked(), "daemon-reload\nenable router-root.service\n");
    give(&home, "unstartup").well();
    assert!(!unit.exists());
    assert!(asked().ends_with("disable router-root.service\ndaemon-reload\n"));
    assert!(give(&home, "unstartup").well().out.contains("there is no"));

    assert!(give(&home, "startup --system").well().out.contains("systemctl start router.service"));
    let text = fs::read_to_string(home.here.path().join("units/router.service")).unwrap();
    for line in ["StateDirectory=router", "RuntimeDirectory=router", "LogsDirectory=router"] {
        assert!(text.lines().any(|found| found == line), "{line}: {text}");
    }
    assert!(!text.contains("ROUTER_HOME"), "{text}");
    give(&home, "unstartup --system").well();
    give(&home, "startup upstart").fails(&["`upstart` is not known here", "systemd"]);
}

#[test]
fn what_is_saved_is_forgotten_and_the_list_is_printed_for_people() {
    let home = Home::new();
    assert!(home.router("cleardump").well().out.contains("nothing was saved"));
    home.here.write("a.js", "setInterval(() => {}, 1e6)");
    home.router("start a.js -w 1").well();
    home.router("save").well();
    assert!(home.router("cleardump").well().out.contains("nothing is saved any more"));
    assert!(!home.path().join("dump.json").exists());
    let pretty = home.router("prettylist").well().out;
    let parsed: serde_json::Value = serde_json::from_str(&pretty).unwrap();
    assert!(pretty.lines().count() > 10 && parsed[0]["name"] == "a", "{pretty}");
}
