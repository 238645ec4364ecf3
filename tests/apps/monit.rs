//! `monit`, by somebody at a terminal.

use crate::harness::http::free_port;
use crate::harness::process::signal;
use crate::harness::terminal::Terminal;
use crate::harness::{Home, SOON, Session, fixture, until};
use nix::sys::signal::Signal;

/// Says ten lines a second, in color.
const SPEAKER: &str = "let n = 0;
setInterval(() => console.log(`\\x1b[31mline\\x1b[0m ${n++}`), 100);
";

#[test]
fn apps_and_workers_are_watched_and_led_by_keys() {
    let home = Home::new();
    let port = free_port();
    home.here.write("speaker.js", SPEAKER);
    let text = format!(
        "module.exports = {{ apps: [
            {{ name: 'chat', script: '{}', instances: 2, env: {{ PORT: {port} }} }},
            {{ name: 'speaker', script: 'speaker.js', exec_mode: 'fork' }},
        ] }};",
        fixture("steady").display()
    );
    home.here.write("ecosystem.config.js", &text);
    home.router("start").well();

    let terminal = Terminal::open(&home, &["monit"], (80, 24));
    terminal.shows(&[
        "2 apps",
        "3 of 3 workers online",
        "0#1",
        "1#1",
        "logs of chat (its router: ",
    ]);
    terminal.shows(&["hand-offs/s 0", "event-loop lag ", "memory ", "r reload", "q leave"]);

    // What clients do is seen.
    let sessions: Vec<Session> = (0..3).map(|_| Session::open(port).unwrap()).collect();
    sessions.iter().for_each(|session| session.join().unwrap());
    terminal.shows(&["sessions 3"]);
    until("hand-offs", SOON, || {
        sessions[0].post("2").unwrap();
        (!terminal.picture().contains("hand-offs/s 0 ")).then_some(())
    });

    // The old workers have sessions yet.
    terminal.resize((100, 40));
    terminal.press(&["r"]);
    terminal.shows(&["chat reloaded", "0#2", "1#2", "draining"]);
    terminal.press(&["+"]);
    terminal.shows(&["chat scaled", "2#1", "4 of 4 workers online"]);

    // The lines of the other app, without the colors that would draw over the rest.
    terminal.press(&["Tab"]);
    terminal.shows(&["logs of speaker", "|speaker | line "]);
    terminal.press(&["s"]);
    terminal.shows(&["y/n: stop speaker, and drop its clients?"]);
    terminal.press(&["n"]);
    terminal.shows(&["r reload"]);
    terminal.press(&["s"]);
    terminal.shows(&["y/n"]);
    terminal.press(&["y"]);
    terminal.shows(&["speaker stopped"]);
    until("the list says so, too", SOON, || {
        home.rows().contains(&"speaker 2 stopped".to_owned()).then_some(())
    });

    // A wide terminal has plots in the table, too.
    terminal.press(&["Home"]);
    terminal.resize((140, 40));
    let wide = terminal.shows(&["relayed packets/s", "logs of chat"]);
    let chat = wide.lines().find(|line| line.contains("chat ") && line.contains("online")).unwrap();
    assert!(chat.contains(['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█']), "{wide}");

    // Without its daemon it waits for the next one.
    let daemon = home.daemon().unwrap();
    signal(daemon, Signal::SIGKILL);
    terminal.shows(&["no answer: nobody answers at"]);
    home.router("ping").well();
    // The numbers of before stand there meanwhile.
    until("an answer", SOON, || {
        let picture = terminal.picture();
        let answered = !picture.contains("no answer") && picture.contains("3 of 3 workers online");
        answered.then_some(())
    });

    terminal.press(&["q"]);
    terminal.ended_with(0);
}

#[test]
fn without_a_terminal_or_a_daemon_it_says_what_to_do() {
    let home = Home::new();
    home.router("monit").fails(&["no daemon keeps apps", "router start"]);
    home.router("ping").well();
    home.router("monit").fails(&["draws on a terminal", "router list"]);
}
