//! Queue, thread and disk together, with real files.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::AtomicU32;
use std::time::{Instant, SystemTime};

use super::*;
use crate::supervisor::output::Stream;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

const PATIENCE: Duration = Duration::from_secs(10);
const NEVER: Rotation = Rotation { size: None, age: None, keep: 3 };

/// A directory that goes with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let unique = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("router-logs-{}-{unique}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).expect("ours");
        Self(path)
    }

    /// Names and contents, by name.
    fn files(&self) -> Vec<(String, String)> {
        let entries = fs::read_dir(&self.0).expect("ours").flatten();
        let mut files: Vec<_> = entries
            .map(|entry| {
                let text = fs::read_to_string(entry.path()).expect("text");
                (entry.file_name().into_string().expect("text"), text)
            })
            .collect();
        files.sort();
        files
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

fn files() -> &'static Files {
    Box::leak(Box::default())
}

fn look(form: LogForm, date: Option<&str>) -> Look {
    let date = date.map(|date| date.parse().expect("a format"));
    Look { app: "chat".to_owned(), date, form }
}

fn plain() -> Look {
    look(LogForm::Raw, None)
}

fn chunk(text: &str) -> Chunk {
    Chunk {
        stream: Stream::Stdout,
        number: 4,
        at: "2026-11-23T04:05:06.789Z".parse().expect("a time"),
        text: text.to_owned().into(),
        lines: text.lines().count() as u64,
    }
}

fn settle(files: &Files) {
    let until = Timestamp::now() + PATIENCE;
    files.each(|queue| assert_eq!(queue.settle(until), 0));
}

#[track_caller]
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    #[expect(clippy::disallowed_methods, reason = "a test waits")]
    let now = Instant::now;
    let began = now();
    while !holds() {
        assert!(now().duration_since(began) < PATIENCE, "{what}");
        #[expect(clippy::disallowed_methods, reason = "a test waits")]
        thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn lines_are_written_as_asked_and_the_file_is_private() {
    let scratch = Scratch::new();
    let files = files();
    let path = scratch.0.join("new/one.log");
    let handle = files.open(&path, plain(), NEVER);
    handle.push(chunk("a\nb\n"));
    let dated = scratch.0.join("dated.log");
    let dated_handle = files.open(&dated, look(LogForm::Raw, Some("[at] X")), NEVER);
    dated_handle.push(chunk("a\n\n"));
    let json = scratch.0.join("json.log");
    let json_handle = files.open(&json, look(LogForm::Json, None), NEVER);
    json_handle.push(Chunk { stream: Stream::Stderr, ..chunk("a \"b\"\n") });
    settle(files);
    let text = |path| fs::read_to_string(path).expect("it is there");
    assert_eq!(text(&path), "a\nb\n");
    assert_eq!(text(&dated), "at 1795406706: a\nat 1795406706: \n");
    assert_eq!(
        text(&json),
        "{\"message\":\"a \\\"b\\\"\",\"timestamp\":\"2026-11-23T04:05:06.789Z\",\"type\":\"err\",\
         \"process_id\":4,\"app_name\":\"chat\"}\n"
    );
    let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!(
        (mode(&path) & !FILE_MODE, mode(path.parent().expect("new")) & !DIRECTORY_MODE),
        (0, 0)
    );
    drop((handle, dated_handle, json_handle));
    until("the threads end with the last who pushes", || files.lock().is_empty());
}

#[test]
fn a_file_is_rotated_before_it_is_too_large_and_the_oldest_go() {
    let scratch = Scratch::new();
    let files = files();
    let path = scratch.0.join("a.log");
    fs::write(&path, "12345678\n").expect("ours");
    let handle = files.open(&path, plain(), Rotation { size: Some(10), ..NEVER });
    for n in 0..5 {
        handle.push(chunk(&format!("line {n}\nx\n")));
    }
    handle.push(chunk("longer than a file may be\n"));
    settle(files);
    let found = scratch.files();
    let texts: Vec<&str> = found.iter().map(|(_, text)| text.as_str()).collect();
    assert_eq!(
        texts,
        ["longer than a file may be\n", "line 2\nx\n", "line 3\nx\n", "line 4\nx\n"],
        "{found:?}"
    );
    assert!(found[1].0.starts_with("a__20"), "{found:?}");
}

#[test]
fn a_file_of_yesterday_is_rotated_at_once() {
    let scratch = Scratch::new();
    let files = files();
    let path = scratch.0.join("a.log");
    fs::write(&path, "old\n").expect("ours");
    let day = Duration::from_secs(86_400);
    let file = File::options().write(true).open(&path).expect("ours");
    file.set_modified(SystemTime::now() - day).expect("ours");
    let handle = files.open(&path, plain(), Rotation { age: Some(day), ..NEVER });
    handle.push(chunk("new\n"));
    settle(files);
    let found = scratch.files();
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!((found[0].1.as_str(), found[1].1.as_str()), ("new\n", "old\n"));
}

#[test]
fn time_alone_rotates() {
    let scratch = Scratch::new();
    let files = files();
    let path = scratch.0.join("a.log");
    let rotation = Rotation { age: Some(Duration::from_secs(1)), ..NEVER };
    let handle = files.open(&path, plain(), rotation);
    handle.push(chunk("one\n"));
    until("it is rotated", || scratch.files().len() == 2);
    assert_eq!(fs::read_to_string(&path).expect("it is there"), "");
    handle.push(chunk("two\n"));
    until("it is rotated again", || scratch.files().len() == 3);
}

#[test]
fn a_link_is_not_moved() {
    let scratch = Scratch::new();
    let files = files();
    let (link, path) = (scratch.0.join("a.log"), scratch.0.join("z"));
    fs::write(&path, "").expect("ours");
    std::os::unix::fs::symlink(&path, &link).expect("ours");
    let handle = files.open(&link, plain(), Rotation { size: Some(5), ..NEVER });
    handle.push(chunk("one\ntwo\nthree\n"));
    settle(files);
    assert_eq!(fs::read_to_string(&path).expect("it is there"), "one\ntwo\nthree\n");
    assert_eq!(scratch.files().len(), 2);
}

#[test]
fn a_file_that_was_moved_is_opened_again() {
    let scratch = Scratch::new();
    let files = files();
    let path = scratch.0.join("a.log");
    let handle = files.open(&path, plain(), NEVER);
    handle.push(chunk("one\n"));
    settle(files);
    fs::rename(&path, scratch.0.join("moved")).expect("ours");
    files.each(Queue::reopen);
    until("it is there again", || path.exists());
    handle.push(chunk("two\n"));
    settle(files);
    let texts: Vec<String> = scratch.files().into_iter().map(|(_, text)| text).collect();
    assert_eq!(texts, ["two\n", "one\n"]);
}

#[test]
fn what_cannot_be_written_is_tried_again_and_not_lost() {
    let scratch = Scratch::new();
    let files = files();
    let directory = scratch.0.join("d");
    fs::write(&directory, "no directory").expect("ours");
    let handle = files.open(&directory.join("a.log"), plain(), NEVER);
    handle.push(chunk("one\n"));
    until("it has failed", || files.totals.failed.load(Ordering::Relaxed) >= 2);
    fs::remove_file(&directory).expect("ours");
    let path = directory.join("a.log");
    until("it is written", || fs::read_to_string(&path).is_ok_and(|text| text == "one\n"));
    assert_eq!(files.totals.dropped.load(Ordering::Relaxed), 0);
}

#[test]
fn a_stuck_file_drops_and_counts_and_delays_no_other() {
    let scratch = Scratch::new();
    let files = files();
    let (stuck, other) = (scratch.0.join("stuck"), scratch.0.join("other"));
    mkfifo(&stuck, Mode::S_IRWXU).expect("ours");
    let line = "x".repeat(64 * 1024 - 1) + "\n";
    let (full, free) = (files.open(&stuck, plain(), NEVER), files.open(&other, plain(), NEVER));
    const PUSHED: u64 = 100;
    for _ in 0..PUSHED {
        full.push(chunk(&line));
        free.push(chunk("y\n"));
    }
    let dropped = files.totals.dropped.load(Ordering::Relaxed);
    assert!((30..50).contains(&dropped), "{dropped} of {PUSHED}");
    until("the other is written", || {
        fs::read_to_string(&other).is_ok_and(|text| text.lines().count() as u64 == PUSHED)
    });
    let mut reader = File::open(&stuck).expect("ours");
    let mut text = Vec::new();
    until("the drop is said", || {
        let mut buffer = vec![0; 1 << 20];
        let read = reader.read(&mut buffer).expect("ours");
        text.extend_from_slice(&buffer[..read]);
        text.ends_with(format!("router: {dropped} lines were dropped (worker 4)\n").as_bytes())
    });
    settle(files);
    assert_eq!(files.totals.waiting.load(Ordering::Relaxed), 0);
}
