//! The workers' log files: what they are called, how lines look there, and what becomes of workers
//! whose disk is full or stuck.

use crate::both_engines;
use crate::harness::{Builder, Connection, Engine, Router, SOON, TempDir, fixture, until};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::Value;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Lines a second that one worker writes while another answers, and for how long.
const FLOOD: u64 = 200_000;
const FLOOD_TIME: Duration = Duration::from_secs(3);

fn any_engine() -> Engine {
    if Engine::Uring.wanted() { Engine::Uring } else { Engine::Portable }
}

/// Two workers that print what they are asked to.
fn loggers(engine: Engine) -> Builder {
    Router::on(engine).app("logger")
}

/// The names in a directory, sorted.
fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// Waits until the file has this in it.
#[track_caller]
fn logged(path: &Path, words: &str) {
    until(words, SOON, || text(path).contains(words).then_some(()));
}

/// A kept-alive connection to the worker with this process id: each gets the next one.
#[track_caller]
fn to_worker(router: &Router, pid: u32) -> Connection {
    until("a connection to the worker", SOON, || {
        let mut connection = router.connect();
        (connection.get("/pid").text() == pid.to_string()).then_some(connection)
    })
}

/// Has each worker print its slot on both streams.
fn all_say(router: &Router) {
    for (slot, pid) in router.slots() {
        to_worker(router, pid).get(&format!("/say?out=out-of-{slot}&err=err-of-{slot}"));
    }
}

/// What the app's ecosystem file says, besides the script.
fn ecosystem(directory: &TempDir, keys: &str) -> Builder {
    let script = fixture("logger");
    let app = format!(
        "module.exports = {{ apps: [{{ name: 'my chat', script: {script:?}, cwd: {:?}, {keys} }}] }}",
        directory.path(),
    );
    let file = directory.write("ecosystem.config.js", &app);
    Router::on(any_engine()).path(&file).workers(0)
}

/// Started, with this many workers ready.
fn ready(builder: Builder, workers: usize) -> Router {
    let router = builder.start_early();
    router.ready(workers);
    router
}

#[test]
fn each_worker_has_its_own_files_in_the_directory_and_they_show_nothing_else() {
    let directory = TempDir::new();
    let logs = directory.path().join("new/logs");
    let router = loggers(any_engine()).option("--log-dir", logs.display()).start();
    all_say(&router);
    for slot in 0..2 {
        for (stream, word) in [("out", "out"), ("error", "err")] {
            let path = logs.join(format!("logger-{stream}-{slot}.log"));
            logged(&path, &format!("{word}-of-{slot}\n"));
            assert_eq!(text(&path).lines().count(), 1, "{}", text(&path));
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o137, 0, "{mode:o}");
        }
    }
    assert_eq!(names(&logs).len(), 4);
    assert!(!router.log.text().contains("out-of-"), "the router's own log alone");
}

#[test]
fn names_are_pm2s() {
    for (keys, workers, wanted) in [
        (
            "instances: 2, out_file: 'x.log', error: 'e.txt', log: 'both.log'",
            2,
            &["both-0.log", "both-1.log", "e.txt", "x-0.log", "x-1.log"][..],
        ),
        ("instances: 2, output: 'x.log', error_file: 'NULL', combine_logs: true", 2, &["x.log"]),
        ("instances: 1, out: 'deep/x-9.log', err_file: '/dev/null'", 1, &["deep"]),
        ("out_file: 'x.log', err_log: 'e.log'", 1, &["e.log", "x.log"]),
        ("out_file: 'x.log', exec_mode: 'cluster'", 1, &["x-0.log"]),
        ("out_file: 'x.log', disable_logs: true", 1, &[]),
    ] {
        let directory = TempDir::new();
        let router = ready(ecosystem(&directory, keys), workers);
        all_say(&router);
        let found = || {
            let mut names = names(directory.path());
            names.retain(|name| name != "ecosystem.config.js");
            names
        };
        until(keys, SOON, || (found() == wanted).then_some(()));
        if keys.contains("deep") {
            let deep = directory.path().join("deep");
            until("it is numbered", SOON, || (names(&deep) == ["x-0.log"]).then_some(()));
        }
        // Files that are named get the lines besides; --disable-logs has them nowhere.
        if keys.contains("disable_logs") {
            assert!(!router.log.text().contains("out-of-0"), "{keys}");
        } else {
            router.output("the line", |line| (line == "out-of-0").then_some(()));
        }
    }
}

#[test]
fn lines_may_have_the_time_or_be_json() {
    let directory = TempDir::new();
    let keys = "instances: 2, log_file: 'both.log', merge_logs: true, log_type: 'json'";
    let router = ready(ecosystem(&directory, keys), 2);
    all_say(&router);
    let path = directory.path().join("both.log");
    until("four lines", SOON, || (text(&path).lines().count() == 4).then_some(()));
    for line in text(&path).lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let id = line["process_id"].as_u64().unwrap();
        let (word, kind) = match line["type"].as_str().unwrap() {
            "out" => ("out", "out"),
            kind => ("err", kind),
        };
        assert_eq!((line["message"].as_str(), kind), (Some(&*format!("{word}-of-{id}")), word));
        assert_eq!(line["app_name"], "my chat");
        assert!(line["timestamp"].as_str().unwrap().ends_with('Z'), "{line}");
    }
    drop(router);
    let router = ecosystem(&directory, "instances: 1, out_file: 'dated.log'");
    let router = ready(router.option("--log-date-format", "[on] YYYY-MM-DD"), 1);
    all_say(&router);
    let path = directory.path().join("dated-0.log");
    logged(&path, "out-of-0");
    let line = text(&path);
    let date = line.strip_prefix("on 20").and_then(|rest| rest.strip_suffix(": out-of-0\n"));
    assert_eq!(date.map(str::len), Some("26-11-23".len()), "{line}");
    drop(router);
    let router =
        ready(loggers(any_engine()).workers(1).arg("--time").option("-o", path.display()), 1);
    all_say(&router);
    until("the time", SOON, || {
        let line = text(&path).lines().last()?.to_owned();
        let (time, rest) = line.split_once(": ")?;
        (time.as_bytes()[10] == b'T' && time.len() == 19 && rest == "out-of-0").then_some(())
    });
}

#[test]
fn numbers_may_be_given_from_outside() {
    let (directory, runtime) = (TempDir::new(), TempDir::new());
    fs::write(runtime.path().join("ids"), "[4, 5]").unwrap();
    let mut router = loggers(any_engine())
        .option("--log-dir", directory.path().display())
        .option("--runtime-dir", runtime.path().display())
        .start();
    let seen =
        |router: &Router, slot: u64| to_worker(router, router.slots()[&slot]).get("/id").text();
    assert_eq!((seen(&router, 0), seen(&router, 1)), ("4".to_owned(), "5".to_owned()));
    all_say(&router);
    logged(&directory.path().join("logger-out-5.log"), "out-of-1");
    // A worker keeps its number for as long as it lives, and a new one has the number of its time.
    fs::write(runtime.path().join("ids"), "[7, nonsense").unwrap();
    router.signal(Signal::SIGHUP);
    router.event("reload done");
    router.nobody_drains();
    assert_eq!((seen(&router, 0), seen(&router, 1)), ("0".to_owned(), "1".to_owned()));
    let complaints = router.log.text().matches("numbers cannot be read").count();
    assert_eq!(complaints, 1);
    assert!(router.stop().0.success());
    assert_eq!(names(runtime.path()), ["ids"], "it is not the router's to remove");
}

both_engines! {
    fn files_are_rotated_by_size_and_the_oldest_go(engine) {
        let directory = TempDir::new();
        let router = loggers(engine)
            .workers(1)
            .option("--log-dir", directory.path().display())
            .option("--log-max-size", "2K")
            .option("--log-keep", 2)
            .start();
        let rotated = || {
            let mut names = names(directory.path());
            names.retain(|name| name.starts_with("logger-out-0__"));
            names
        };
        router.get("/repeat?line=abcdefghi&times=1000");
        router.get("/say?out=last");
        logged(&directory.path().join("logger-out-0.log"), "last");
        until("two are kept", SOON, || (rotated().len() == 2).then_some(()));
        // The newest two, each full of whole lines, and nothing is missing between them.
        let files = rotated().into_iter().map(|name| text(&directory.path().join(name)));
        let kept: Vec<String> = files.collect();
        assert!(kept.iter().all(|text| text.len() <= 2048 && text.len() > 2000), "{kept:?}");
        let all = kept.concat() + &text(&directory.path().join("logger-out-0.log"));
        let numbers = all.lines().filter_map(|line| line.split(' ').nth(1)?.parse::<u32>().ok());
        let numbers: Vec<u32> = numbers.collect();
        assert!(numbers.is_sorted() && numbers.last() == Some(&999), "{numbers:?}");
        assert_eq!(numbers.len() as u32, 1000 - numbers[0]);
    }

    fn an_upgrade_a_crash_and_logrotate_leave_workers_their_files(engine) {
        let (directory, runtime) = (TempDir::new(), TempDir::new());
        fs::write(runtime.path().join("ids"), "[3, 4]").unwrap();
        let start = || {
            loggers(engine)
                .option("--log-dir", directory.path().display())
                .option("--runtime-dir", runtime.path().display())
                .spawn()
        };
        let mut router = start();
        router.ready(2);
        let workers = router.slots();
        let path = directory.path().join("logger-out-4.log");
        // Workers that live keep their numbers, whatever others will have.
        fs::remove_file(runtime.path().join("ids")).unwrap();
        to_worker(&router, workers[&1]).get("/say?out=before");
        logged(&path, "before\n");
        router.signal(Signal::SIGUSR2);
        router.event("upgraded");
        to_worker(&router, workers[&1]).get("/say?out=upgraded");
        logged(&path, "before\nupgraded\n");
        router.crash();
        let router = start();
        router.event_number("adopted", 2);
        assert_eq!(router.slots(), workers);
        to_worker(&router, workers[&1]).get("/say?out=adopted");
        logged(&path, "before\nupgraded\nadopted\n");
        let moved = directory.path().join("moved");
        fs::rename(&path, &moved).unwrap();
        router.signal(Signal::SIGUSR1);
        until("the file is there again", SOON, || path.exists().then_some(()));
        to_worker(&router, workers[&1]).get("/say?out=rotated");
        logged(&path, "rotated\n");
        assert_eq!(text(&moved), "before\nupgraded\nadopted\n");
        assert_eq!(names(directory.path()).len(), 5);
    }

    fn a_full_disk_stops_no_worker_and_is_said(engine) {
        let router = loggers(engine)
            .workers(1)
            .option("--admin", "127.0.0.1:0")
            .option("--output", "/dev/full")
            .start();
        let mut worker = router.connect();
        // More than is kept for a disk that may have room again.
        for n in 0..40 {
            assert_eq!(worker.get("/repeat?line=abcdefghijklmnopqrstuvwxyz&times=5000").status, 200, "{n}");
        }
        let address = router.event("admin listens").string("address").unwrap().to_owned();
        let admin: u16 = address.rsplit_once(':').unwrap().1.parse().unwrap();
        until("it is counted", SOON, || {
            let status: Value =
                serde_json::from_str(&Connection::tcp(admin).get("/status").text()).unwrap();
            let count = |name: &str| status[name].as_u64().unwrap();
            (count("log_lines_dropped") > 0 && count("log_writes_failed") > 0).then_some(())
        });
        let line = router.event("log lines dropped");
        assert_eq!(line.string("file"), Some("/dev/full"));
        let line = router.event("the log file cannot be written; it is tried again");
        assert!(line.string("error").unwrap().contains("No space left"), "{}", line.text);
        assert_eq!(router.events("the log file cannot be written; it is tried again"), 1);
        router.lives();
    }

    fn a_stuck_file_stops_neither_its_worker_nor_the_others_files(engine) {
        let directory = TempDir::new();
        let stuck = directory.path().join("logger-out-0.log");
        mkfifo(&stuck, Mode::S_IRWXU).unwrap();
        let mut router = loggers(engine).option("--log-dir", directory.path().display()).start();
        let workers = router.slots();
        let mut worker = to_worker(&router, workers[&0]);
        for n in 0..40 {
            assert_eq!(worker.get("/repeat?line=abcdefghijklmnopqrstuvwxyz&times=5000").status, 200, "{n}");
        }
        worker.get("/say?err=still");
        to_worker(&router, workers[&1]).get("/say?out=free");
        logged(&directory.path().join("logger-out-1.log"), "free\n");
        logged(&directory.path().join("logger-error-0.log"), "still\n");
        let lines = router.event("log lines dropped").number("lines").unwrap();
        assert!(lines > 0);
        // Somebody reads it after all: what was dropped is said there.
        let file = fs::File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&stuck);
        let (mut file, mut read) = (file.unwrap(), Vec::new());
        until("the drop is said in the file", SOON, || {
            let mut buffer = [0; 1 << 16];
            let got = file.read(&mut buffer).unwrap_or(0);
            read.extend_from_slice(&buffer[..got]);
            let text = String::from_utf8_lossy(&read);
            text.contains(" lines were dropped (worker 0)").then_some(())
        });
        drop(file);
        // Nor is its end held up by it.
        worker.get("/repeat?line=abcdefghijklmnopqrstuvwxyz&times=9000");
        let (status, took) = router.stop();
        assert!(status.success() && took < Duration::from_secs(5), "{status} {took:?}");
    }

    fn a_worker_that_floods_its_log_holds_up_nobody(engine) {
        let directory = TempDir::new();
        let router = loggers(engine).option("--log-dir", directory.path().display()).start();
        let workers = router.slots();
        let (mut flooding, mut other) =
            (to_worker(&router, workers[&0]), to_worker(&router, workers[&1]));
        let path = directory.path().join("logger-out-0.log");
        let ms = FLOOD_TIME.as_millis();
        assert_eq!(flooding.get(&format!("/flood?rate={FLOOD}&ms={ms}")).status, 200);
        let began = Instant::now();
        let mut answered = 0;
        while began.elapsed() < FLOOD_TIME {
            assert_eq!(other.get("/say?out=answered").status, 200);
            answered += 1;
        }
        assert!(answered > 100, "{answered} answers");
        // Nor is the router deaf to signals meanwhile.
        assert_eq!(flooding.get(&format!("/flood?rate={FLOOD}&ms={ms}")).status, 200);
        router.signal(Signal::SIGTTIN);
        router.ready(3);
        logged(&path, "the flood is over\n");
        let own = text(&directory.path().join("logger-out-1.log"));
        assert_eq!(own.lines().count(), answered, "none of its lines is lost");
    }
}

#[test]
fn a_file_that_cannot_be_opened_is_named_with_its_setting() {
    let directory = TempDir::new();
    let file: PathBuf = directory.write("file", "");
    let below = file.join("x.log");
    for (option, path) in [("--output", &below), ("--error", &below), ("--log-dir", &file)] {
        let router = loggers(any_engine()).option(option, path.display());
        let (status, said) = router.fails();
        assert_eq!(status.code(), Some(2), "{said}");
        let named = said.contains(&file.display().to_string()) && said.contains(option);
        assert!(named && said.contains("/dev/null"), "{said}");
    }
}
