//! `list`, `describe` and `monit` in terminals that are not wide: what is shown is whole.

use crate::harness::Home;
use crate::harness::terminal::Terminal;

/// Longer than any column for it.
const LONG: &str = "the-chat-of-the-whole-company-and-its-guests";

/// Two workers of a long name, and an app whose process could not live.
fn apps(home: &Home) {
    home.here.write("idle.js", "setInterval(() => {}, 1e6)");
    home.here.write("gone.js", "process.exit(7)");
    let text = format!(
        "module.exports = {{ apps: [
            {{ name: '{LONG}', script: 'idle.js', exec_mode: 'fork', instances: 2 }},
            {{ name: 'gone', script: 'gone.js', exec_mode: 'fork', restart_delay: 600000 }},
        ] }};"
    );
    home.here.write("ecosystem.config.js", &text);
    home.router("start");
    home.shows(&[
        &format!("{LONG} 0 online"),
        &format!("{LONG} 1 online"),
        "gone 2 waiting restart",
    ]);
}

/// The lines that have this in them.
fn lines<'a>(picture: &'a str, word: &str) -> Vec<&'a str> {
    picture.lines().filter(|line| line.contains(word)).collect()
}

#[test]
fn the_list_leaves_columns_out_and_cuts_only_names() {
    let home = Home::new();
    apps(&home);
    let pids = home.pids(LONG);
    for (width, there, left_out) in [
        (132, &["namespace", "mode", "uptime", "sessions", "lag"][..], &[][..]),
        (80, &["uptime", "cpu", "mem"], &["namespace", "sessions"]),
        (60, &["cpu"], &["namespace", "mode", "lag", "sessions"]),
        (40, &[], &["mem", "uptime"]),
    ] {
        let terminal = Terminal::open(&home, &["ls"], (width, 24));
        let drawn = terminal.shows(&["ended with 0."]);
        let rows = lines(&drawn, "│");
        assert_eq!(rows.len(), 4, "{width}: a title and a line each\n{drawn}");
        let [titles, first, second, gone] = rows[..] else { unreachable!("counted") };
        for title in ["id", "name", "status"].iter().chain(there) {
            assert!(titles.contains(title), "{width}: {title}\n{drawn}");
        }
        for title in left_out {
            assert!(!titles.contains(title), "{width}: {title}\n{drawn}");
        }
        for (row, pid) in [(first, pids[0]), (second, pids[1])] {
            let name = row.contains("the-chat-o") && row.contains("online");
            assert!(name && (width < 60 || row.contains(&pid.to_string())), "{width}\n{drawn}");
        }
        assert!(gone.contains("gone") && gone.contains("waiting restart"), "{width}\n{drawn}");
        assert!(drawn.lines().all(|line| line.chars().count() <= width.into()), "{drawn}");
    }
    // What an app is called and where it is are told, however many lines that takes.
    let terminal = Terminal::open(&home, &["describe", "gone"], (60, 50));
    let drawn = terminal.shows(&["ended with 0."]);
    for what in ["runtime directory", "interpreter", "script path"] {
        assert_eq!(lines(&drawn, what).len(), 1, "{what}\n{drawn}");
    }
    assert!(drawn.contains("waiting restart"), "{drawn}");
}

#[test]
fn monit_tells_what_is_chosen_in_any_terminal() {
    let home = Home::new();
    apps(&home);
    let pids = home.pids(LONG);
    let terminal = Terminal::open(&home, &["monit"], (80, 24));
    for (size, there, left_out) in [
        ((80, 24), &["sess", "cpu", "mem"][..], &[][..]),
        ((60, 24), &["sess", "cpu"], &["lag"]),
        ((40, 24), &[], &["lag", "conn/s"]),
        ((40, 10), &[], &["lag", "conn/s"]),
    ] {
        terminal.resize(size);
        let frame = format!("┌ apps and workers {}┐", "─".repeat(usize::from(size.0) - 20));
        let drawn = terminal.shows(&[&frame, "the-chat-", "logs of the-chat"]);
        let titles = lines(&drawn, "status")[0];
        assert!(there.iter().all(|title| titles.contains(title)), "{size:?}\n{drawn}");
        assert!(left_out.iter().all(|title| !titles.contains(title)), "{size:?}\n{drawn}");
        let first = lines(&drawn, "0#1")[0];
        assert!(first.contains("online"), "{size:?}\n{drawn}");
        assert!(size.0 < 60 || first.contains(&pids[0].to_string()), "{size:?}\n{drawn}");
        // The frame of the log has something in it.
        let at = drawn.lines().position(|line| line.contains("logs of")).unwrap();
        let below: Vec<&str> = drawn.lines().skip(at + 1).take(1).collect();
        assert!(below[0].starts_with('│'), "{size:?}\n{drawn}");
        assert!(drawn.contains("q leave"), "{size:?}\n{drawn}");
    }
    // The keys act on what is seen to be chosen.
    terminal.press(&["Down", "Down", "s"]);
    terminal.shows(&["y/n: stop worker 1, and drop its cl"]);
    terminal.press(&["y"]);
    home.shows(&[
        &format!("{LONG} 0 online"),
        &format!("{LONG} 1 stopped"),
        "gone 2 waiting restart",
    ]);
    terminal.press(&["q"]);
    terminal.ended_with(0);
}
