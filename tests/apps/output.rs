//! `logs`, `flush` and `reloadLogs`.

use crate::harness::{Home, SOON, until};
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::mpsc::channel;

/// Says a number on both streams whenever it is asked to, and `count` of them at its start.
const SPEAKER: &str = "let n = 0;
const say = () => { console.log(`out ${n}`); console.error(`error ${n}`); n++; };
for (let i = 0; i < 20; i++) say();
process.on('SIGUSR2', say);
setInterval(() => {}, 1e6);
";

fn speakers(home: &Home) {
    home.here.write("speaker.js", SPEAKER);
    home.here.write(
        "ecosystem.config.js",
        "module.exports = [{ name: 'speaker', script: 'speaker.js', exec_mode: 'fork', instances: 2 }]",
    );
    home.router("start").well();
    let whole = |id| {
        let text = fs::read_to_string(home.path().join(format!("logs/speaker-error-{id}.log")));
        text.is_ok_and(|text| text.contains("error 19\n")).then_some(())
    };
    until("what they say", SOON, || whole(0).and_then(|()| whole(1)));
}

#[test]
fn the_one_process_of_an_app_that_asks_for_no_number_has_none_in_its_logs() {
    let home = Home::new();
    home.here.write("speaker.js", SPEAKER);
    home.here.write(
        "ecosystem.config.js",
        "module.exports = [{ name: 'alone', script: 'speaker.js', exec_mode: 'fork' }]",
    );
    home.router("start").well();
    assert!(home.path().join("logs/alone-out.log").exists());
    let shown = || home.router("logs alone --lines 1 --nostream --out").well().out;
    until("what it says", SOON, || (shown() == "0|alone | out 19\n").then_some(()));
    // The files are the same after it was started by its record, and scaled.
    home.router("restart alone").well();
    home.router("scale alone 2").well();
    until("all three processes", SOON, || {
        let said = fs::read_to_string(home.path().join("logs/alone-out.log")).unwrap();
        (said.matches("out 0\n").count() == 3).then_some(())
    });
}

#[test]
fn the_last_lines_and_what_comes() {
    let home = Home::new();
    speakers(&home);
    let last = home.router("logs speaker --lines 2 --nostream --out").well().out;
    let mut lines: Vec<&str> = last.lines().collect();
    lines.sort_unstable();
    let expected =
        ["0|speaker | out 18", "0|speaker | out 19", "1|speaker | out 18", "1|speaker | out 19"];
    assert_eq!(lines, expected);
    let raw = home.router("logs 0 --lines 1 --nostream --err --raw").well().out;
    assert_eq!(raw, "error 19\n", "of that worker alone");
    let json = home.router("logs speaker --lines 1 --nostream --err --json").well().out;
    let parsed: serde_json::Value = serde_json::from_str(json.lines().next().unwrap()).unwrap();
    assert_eq!((&parsed["message"], &parsed["type"]), (&"error 19".into(), &"err".into()));
    // Nobody has written down when that was.
    assert_eq!(parsed.get("timestamp"), None);
    let timed = home.router("logs 0 --lines 1 --nostream --err --timestamp").well().out;
    assert_eq!(timed, "0|speaker | error 19\n");

    let mut follower = home
        .command()
        .args(["logs", "speaker", "--lines", "0"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (sender, lines) = channel();
    let out = BufReader::new(follower.stdout.take().unwrap());
    let reader = std::thread::spawn(move || {
        for line in out.lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    let comes = |wanted: &str| {
        let found = until(wanted, SOON, || {
            let line = lines.recv_timeout(SOON).unwrap_or_else(|e| panic!("{wanted}: {e}"));
            (line == wanted).then_some(line)
        });
        assert_eq!(found, wanted);
    };
    // It says that it follows by what it shows.
    let mut n = 20;
    until("the first line", SOON, || {
        home.router("sendSignal SIGUSR2 0").well();
        n += 1;
        lines.recv_timeout(std::time::Duration::from_millis(500)).ok()
    });
    home.router("sendSignal SIGUSR2 0").well();
    comes(&format!("0|speaker | error {n}"));
    // Emptied, and moved away: it goes on.
    home.router("flush speaker").well();
    assert_eq!(fs::metadata(home.path().join("logs/speaker-out-1.log")).unwrap().len(), 0);
    home.router("sendSignal SIGUSR2 1").well();
    comes("1|speaker | error 20");
    let log = home.path().join("logs/speaker-out-1.log");
    fs::rename(&log, home.path().join("logs/moved")).unwrap();
    home.router("reloadLogs").well();
    until("the new file", SOON, || log.exists().then_some(()));
    home.router("sendSignal SIGUSR2 1").well();
    comes("1|speaker | out 21");
    follower.kill().unwrap();
    follower.wait().unwrap();
    reader.join().unwrap();
}

/// As `router logs | head -1` does, which is not to live on until another line comes.
#[test]
fn it_ends_when_nobody_reads_any_more() {
    let home = Home::new();
    speakers(&home);
    let mut follower =
        home.command().args(["logs", "speaker"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(follower.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    drop(out);
    let ended = until("its end", SOON, || follower.try_wait().unwrap());
    assert!(ended.success(), "{ended}");
}

#[test]
fn as_many_last_lines_are_shown_as_are_asked_for() {
    const LINES: usize = 200_000;
    let home = Home::new();
    home.here.write("idle.js", "setInterval(() => {}, 1e6)");
    home.router("start idle.js -w 1").well();
    let text: String = (0..LINES).map(|n| format!("line {n}\n")).collect();
    fs::write(home.path().join("logs/idle-out-0.log"), text).unwrap();
    let shown = home.router("logs idle --nostream --out --raw --lines 150000").well().out;
    assert_eq!(shown.lines().count(), 150_000);
    assert_eq!(shown.lines().next(), Some("line 50000"));
}
