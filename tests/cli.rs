//! The command line: what it takes, what it says when it can't, and that the README tells it.

use crate::harness::{Builder, Engine, Router, SOON, TempDir, repository};
use std::collections::BTreeMap;
use std::process::Command;

/// The command line is read before any engine exists: one of the two is enough.
fn router() -> Builder {
    Router::on(if Engine::Uring.wanted() { Engine::Uring } else { Engine::Portable })
}

#[track_caller]
fn says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word:?} is not in:\n{text}");
    }
    assert!(!text.contains("panicked"), "{text}");
    assert!(text.lines().filter(|l| !l.trim().is_empty()).count() <= 12, "too long:\n{text}");
}

#[test]
fn an_unknown_flag_is_named() {
    let (status, text) = router().arg("--wrokers").fails();
    assert_eq!(status.code(), Some(2));
    says(&text, &["--wrokers"]);
}

#[test]
fn values_that_make_no_sense_are_named() {
    for (flag, value) in [
        ("--workers", "many"),
        ("--threads", "-x"),
        ("--engine", "steam"),
        ("--balance", "best"),
        ("--serialization", "xml"),
        ("--listen", "nowhere"),
        ("--listen", "127.0.0.1:99999"),
        ("--kill-timeout", "soon"),
    ] {
        // Said by hand: the builder has its own values of some of these.
        let output = Command::new(crate::harness::binary())
            .arg(format!("{flag}={value}"))
            .arg(crate::harness::fixture("sticky"))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{flag} {value} was taken");
        says(&text, &[value]);
    }
}

#[test]
fn a_missing_script_is_named() {
    let dir = TempDir::new();
    let path = dir.path().join("nothing.js");
    let (status, text) = router().path(&path).fails();
    assert_ne!(status.code(), Some(0));
    says(&text, &["nothing.js"]);
}

#[test]
fn a_directory_with_nothing_to_run_lists_what_was_looked_for() {
    let dir = TempDir::new();
    for builder in [router().path(dir.path()), router().no_app().directory(dir.path())] {
        let (_, text) = builder.fails();
        says(&text, &["ecosystem.config", "package.json", "worker.js", "server.js", "index.js"]);
    }
}

#[test]
fn a_port_in_use_is_said_in_one_paragraph() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (_, text) = router().listen(&address).fails();
    says(&text, &[&address, "in use"]);
}

#[test]
fn an_interpreter_that_is_not_there_is_named() {
    let (_, text) = router()
        .interpreter(std::path::Path::new("/nonexistent/node"))
        .option("--max-restarts", 1)
        .fails();
    assert!(text.contains("/nonexistent/node"), "{text}");
}

#[test]
fn a_directory_is_run_by_its_package_json_or_its_usual_names() {
    let serve = "require('http').createServer((q, s) => s.end()).listen(0, '127.0.0.1');\n";
    let cases: [(&[&str], &str); 4] = [
        (&["index.js", "server.js", "worker.js", "main.js", "package.json"], "main.js"),
        (&["index.js", "server.js", "worker.js"], "worker.js"),
        (&["index.js", "server.js"], "server.js"),
        (&["index.js"], "index.js"),
    ];
    for (files, wanted) in cases {
        let dir = TempDir::new();
        for file in files {
            if *file == "package.json" {
                dir.write(file, "{\"main\": \"main.js\"}");
            } else {
                dir.write(file, &format!("{serve}console.log('this is {file}');\n"));
            }
        }
        let router = router().workers(1).path(dir.path()).no_listen().start();
        let line = format!("this is {wanted}");
        router.output(&line, |l| (l == line).then_some(()));
    }
}

#[test]
fn an_ecosystem_file_says_how_many_workers_and_their_environment() {
    for (name, before, after) in [
        ("ecosystem.config.js", "module.exports = ", ";"),
        ("ecosystem.config.mjs", "export default ", ";"),
        ("ecosystem.config.json", "", ""),
    ] {
        let dir = TempDir::new();
        dir.write(
            "app.js",
            "require('http').createServer((q, s) => s.end()).listen(0, '127.0.0.1');\n\
             console.log('hello ' + process.env.GREETING + process.argv.slice(2));\n",
        );
        let app = "{\"name\": \"greeter\", \"script\": \"./app.js\", \"exec_mode\": \"cluster\", \
                   \"instances\": 2, \"args\": \"one two\", \"env\": {\"GREETING\": \"world \"}}";
        let file = dir.write(name, &format!("{before}{{\"apps\": [{app}]}}{after}\n"));
        let router = router().workers(0).path(&file).no_listen().spawn();
        router.event("listening");
        assert_eq!(router.ready(2).len(), 2, "{name}");
        router.output("the greeting", |l| (l == "hello world one,two").then_some(()));
        let named = router.log.find(SOON, |lines| {
            lines.iter().any(|l| l.string("app") == Some("greeter")).then_some(())
        });
        assert!(named.is_some(), "{name}: the app's name is on its output");
    }
}

#[test]
fn a_flag_is_stronger_than_the_ecosystem_file() {
    let dir = TempDir::new();
    dir.write("app.js", "require('http').createServer((q, s) => s.end()).listen(0, '127.0.0.1');");
    let file = dir.write(
        "ecosystem.config.js",
        "module.exports = { apps: [{ script: './app.js', exec_mode: 'cluster', instances: 3 }] };",
    );
    let router = router().workers(1).path(&file).no_listen().start();
    let seen = router.log.lines().iter().filter(|l| l.is("worker started")).count();
    assert_eq!(seen, 1);
}

#[test]
fn options_may_be_environment_variables() {
    let router = router().workers(0).env("ROUTER_WORKERS", 3).start_early();
    assert_eq!(router.ready(3).len(), 3);
}

#[test]
fn the_port_variable_is_honoured_for_an_app_that_never_listens() {
    let port = crate::harness::http::free_port();
    let router = router().no_listen().env("PORT", port).start();
    assert_eq!(router.port(), port);
}

#[test]
fn a_lockfile_without_node_modules_is_installed_first() {
    let dir = app_with_a_dependency();
    let router = router().workers(1).path(dir.path()).no_listen().start();
    router.output("its dependency", |l| (l == "tiny is installed").then_some(()));
    assert!(router.log.text().contains("npm ci"), "it says so");
}

#[test]
fn no_install_leaves_node_modules_alone() {
    let dir = app_with_a_dependency();
    let app = router().workers(1).path(dir.path()).no_listen().arg("--no-install");
    let (status, text) = app.option("--max-restarts", 0).fails();
    assert_eq!(status.code(), Some(3));
    assert!(text.contains("Cannot find module"), "node says what it misses:\n{text}");
    assert!(!dir.path().join("node_modules").exists());
}

/// An app with a lockfile and without its node_modules, whose dependency is a folder of its own.
fn app_with_a_dependency() -> TempDir {
    let dir = TempDir::new();
    dir.write(
        "package.json",
        r#"{"name":"app","version":"1.0.0","dependencies":{"tiny":"file:tiny"}}"#,
    );
    dir.write(
        "package-lock.json",
        r#"{"name":"app","version":"1.0.0","lockfileVersion":3,"requires":true,"packages":{
            "":{"name":"app","version":"1.0.0","dependencies":{"tiny":"file:tiny"}},
            "node_modules/tiny":{"resolved":"tiny","link":true},
            "tiny":{"version":"1.0.0"}}}"#,
    );
    dir.write("tiny/package.json", r#"{"name":"tiny","version":"1.0.0"}"#);
    dir.write("tiny/index.js", "module.exports = 'installed';\n");
    dir.write(
        "worker.js",
        "console.log('tiny is ' + require('tiny'));\n\
         require('http').createServer((q, s) => s.end()).listen(0, '127.0.0.1');\n",
    );
    dir
}

/// The bounds of the README's table, as the program has them.
#[test]
fn the_readme_tells_the_bounds_that_hold() {
    use router::bus;
    use router::supervisor::logs;
    use router::{http::request_line, ipc::frame, shard};
    let readme = std::fs::read_to_string(repository().join("README.md")).unwrap();
    let bounds = [
        ("request line", format!("{} KiB", request_line::MAX_REQUEST_LINE >> 10)),
        ("no worker ready", format!("{} s", shard::WORKER_WAIT.as_secs())),
        ("session not announced yet", format!("{} ms", shard::SESSION_WAIT.as_millis())),
        (
            "the same, while workers have first requests open",
            format!("{} ms", shard::SESSION_WAIT_BUSY.as_millis()),
        ),
        ("a frame from a worker", format!("{} MiB", frame::MAX_FRAME >> 20)),
        ("packets waiting for a worker", format!("{} MiB", shard::MAX_OUT_QUEUE >> 20)),
        ("a worker that takes nothing", format!("{} s", shard::STALL_WAIT.as_secs())),
        ("connections in one shard's hands", shard::MAX_CONNECTIONS.to_string()),
        ("connections that wait for a worker", shard::MAX_PARKED_WORKERS.to_string()),
        ("connections that wait for a session", shard::MAX_PARKED_SESSIONS.to_string()),
        ("sessions", router::route::session_table::MAX_SESSIONS.to_string()),
        ("workers", router::route::MAX_SLOTS.to_string()),
        ("lines that wait for one log file", format!("{} MiB", logs::QUEUE_MAX >> 20)),
        ("lines that wait for all log files", format!("{} MiB", logs::QUEUES_MAX >> 20)),
        ("packets waiting for Redis", bus::backlog::MAX_PACKETS.to_string()),
        (
            "bytes of the packets waiting for Redis",
            format!("{} MiB", bus::backlog::MAX_BYTES >> 20),
        ),
        ("how deep values nest in a packet for other hosts", bus::value::MAX_DEPTH.to_string()),
        ("values in a packet for other hosts", bus::value::MAX_VALUES.to_string()),
        ("a header of the PROXY protocol", format!("{} bytes", router::http::proxy::MAX_V2)),
        (
            "what is given back of a kept-alive connection",
            format!("{} MiB", preloads("keepalive", "BODY_MAX") >> 20),
        ),
        (
            "announced sessions of one worker that only the preload sees",
            preloads("sessions", "ANNOUNCED_MAX").to_string(),
        ),
    ];
    for (what, bound) in bounds {
        assert!(readme.contains(&format!("| {what} | {bound} |")), "{what}: {bound}");
    }
}

#[test]
fn where_io_uring_is_forbidden_auto_takes_portable_and_says_why() {
    let router = Router::on_any_engine().without_io_uring().start();
    router.lives();
    let text = router.log.text();
    assert!(text.contains("\"engine\":\"portable\""), "{text}");
    assert!(text.contains("io_uring cannot be used here"), "{text}");
    assert!(text.contains("Operation not permitted"), "{text}");
}

#[test]
fn where_io_uring_is_forbidden_uring_is_an_error_that_says_what_to_do() {
    let router = Router::on_any_engine().without_io_uring().option("--engine", "uring");
    let (status, text) = router.fails();
    assert_eq!(status.code(), Some(1));
    says(&text, &["io_uring", "Operation not permitted", "--engine portable"]);
}

/// The value of a constant of the preload's, which is a number or a product of numbers.
fn preloads(file: &str, name: &str) -> u64 {
    let path = repository().join(format!("src/preload/{file}.js"));
    let text = std::fs::read_to_string(path).unwrap();
    let value =
        text.lines().find_map(|line| line.strip_prefix(&format!("const {name} = "))).unwrap();
    let factors = value.split_once(';').unwrap().0.replace('_', "");
    factors.split('*').map(|factor| factor.trim().parse::<u64>().unwrap()).product()
}

/// One option as either page tells it.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    default: String,
    variable: String,
}

#[test]
fn the_readme_tells_every_option_as_help_does() {
    let output = Command::new(crate::harness::binary()).arg("--help").output().unwrap();
    assert!(output.status.success());
    let help = options_in_help(&String::from_utf8(output.stdout).unwrap());
    assert!(help.len() > 5, "{help:?}");
    let readme = options_in_readme();
    let names = |m: &BTreeMap<String, Told>| m.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&help), names(&readme));
    for (name, told) in &help {
        assert_eq!(told, &readme[name], "{name}: left is --help, right is the README");
    }
}

#[test]
fn the_readme_tells_every_command() {
    let output = Command::new(crate::harness::binary()).arg("--help").output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let listed = help.split("Commands:").nth(1).unwrap();
    let lines = listed.lines().skip(1).take_while(|line| line.starts_with("  "));
    let names = lines.filter(|line| !line.starts_with("   "));
    let names: Vec<&str> = names.filter_map(|line| line.split_whitespace().next()).collect();
    assert!(names.len() > 20, "{names:?}");
    let readme = std::fs::read_to_string(repository().join("README.md")).unwrap();
    let section = readme.split("## Many apps").nth(1).unwrap().split("\n## ").next().unwrap();
    let first = section.lines().filter_map(|line| line.strip_prefix("| `")?.split('|').next());
    let told: Vec<&str> = first
        .flat_map(|cell| cell.split(['`', ',', ' ']))
        .filter(|word| !word.is_empty())
        .collect();
    for name in &names {
        assert!(told.contains(name), "{name} is not in the README");
    }
    for name in told {
        assert!(names.contains(&name), "{name} is no command");
    }
}

/// Every `--name` that starts an entry, with what its text says in brackets.
fn options_in_help(help: &str) -> BTreeMap<String, Told> {
    let mut entries: Vec<(String, String)> = Vec::new();
    for line in help.lines() {
        let start = line.trim_start();
        let name = start
            .strip_prefix("--")
            .or_else(|| start.strip_prefix('-')?.get(1..)?.strip_prefix(", --"))
            .filter(|_| line.starts_with("  "));
        if let Some(name) = name {
            let end = name.find(|c: char| !c.is_ascii_lowercase() && c != '-');
            entries.push((name[..end.unwrap_or(name.len())].to_owned(), String::new()));
        } else if !line.starts_with(' ') && !line.is_empty() {
            // Another heading's text belongs to no option.
            entries.push((String::new(), String::new()));
        }
        if let Some((_, text)) = entries.last_mut() {
            *text += start;
            *text += " ";
        }
    }
    let within = |text: &str, key: &str| {
        let rest = text.split_once(&format!("[{key}: "))?.1;
        Some(rest.split_once(']')?.0.to_owned())
    };
    entries
        .into_iter()
        .filter(|(name, _)| !name.is_empty() && name != "help" && name != "version")
        .map(|(name, text)| {
            let default = within(&text, "default").unwrap_or_default();
            let variable = within(&text, "env").unwrap_or_default();
            let variable = variable.split('=').next().unwrap_or_default().to_owned();
            (name, Told { default, variable })
        })
        .collect()
}

/// The rows of the README's table of options: option, default, variable, meaning. A default that
/// isn't in code font is a remark, for options that have none.
fn options_in_readme() -> BTreeMap<String, Told> {
    let readme = std::fs::read_to_string(repository().join("README.md")).unwrap();
    let code = |cell: &str| {
        let cell = cell.trim().strip_prefix('`')?;
        Some(cell.split_once('`')?.0.to_owned())
    };
    readme
        .lines()
        .filter(|line| line.starts_with("| `-"))
        .map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split('|').collect();
            let [option, default, variable, _meaning] = cells[..] else { panic!("{line}") };
            let name = option.split_once("--").unwrap().1;
            let end = name.find(|c: char| !c.is_ascii_lowercase() && c != '-').unwrap();
            let told = Told {
                default: code(default).unwrap_or_default(),
                variable: code(variable).unwrap_or_default(),
            };
            (name[..end].to_owned(), told)
        })
        .collect()
}
