//! The thread of one file: from its queue to the disk, and from one file to the next.
//!
//! It ends only when nobody pushes any more and all is written: an error is counted and said, and
//! what could not be written is tried again.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use jiff::{Timestamp, Zoned};

use super::queue::{Chunk, Pause, Queue, Work};
use super::rotation::Names;
use super::{Look, open, rotation};
use crate::config::{LogForm, Rotation};
use crate::supervisor::output::Stream;

/// How soon what failed is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How soon a file that would block is tried again: a terminal, or a pipe that somebody else has made
/// non-blocking.
const RETRY_SOON: Duration = Duration::from_millis(10);
/// For how long it is tried when nobody writes there any more; then the lines are given up.
const LAST_TRIES: Duration = Duration::from_secs(10);
/// How soon a rotation is tried again that has failed.
const ROTATE_AGAIN: Duration = Duration::from_secs(60);
/// How soon when the names of this second are used up.
const ROTATE_SOON: Duration = Duration::from_secs(1);
/// How often the clock is looked at to see whether a file's time has come: it may have been set.
const LOOK_AT_CLOCK: Duration = Duration::from_secs(60 * 60);
/// How often the router's log says that a file cannot be written.
const SAY_EVERY: Duration = Duration::from_secs(60);

/// Writes what comes, until nothing more will.
pub(super) fn run(queue: &Queue, look: &Look, rotation: Rotation) {
    let mut writer = Writer {
        queue,
        look,
        rotation,
        file: None,
        rotate_from: Timestamp::MIN,
        names: Names::default(),
        said: None,
        batch: Vec::new(),
        written: 0,
    };
    // Now, and not with the first line: who looks for the file shall find it.
    writer.opened();
    let mut done = 0;
    while let Some(work) = queue.work(done, writer.patience()) {
        done = writer.serve(&work);
    }
}

struct Writer<'a> {
    queue: &'a Queue,
    look: &'a Look,
    rotation: Rotation,
    file: Option<Opened>,
    /// There is no rotation before.
    rotate_from: Timestamp,
    names: Names,
    /// When it was last said that the file cannot be written; `None`: it can.
    said: Option<Timestamp>,
    /// What is being written, and how much of it has been.
    batch: Vec<u8>,
    written: usize,
}

/// The file as it is open.
struct Opened {
    file: File,
    /// Its device and number. `None`: it is no ordinary file, and not rotated.
    identity: Option<(u64, u64)>,
    /// In bytes.
    size: u64,
    /// When the last line came that was there before, or the first.
    since: Zoned,
}

impl Writer<'_> {
    /// How long nothing need be done without work.
    fn patience(&self) -> Option<Duration> {
        let file = self.file.as_ref()?;
        let age = self.rotation.age.filter(|_| file.identity.is_some() && file.size > 0)?;
        Some(rotation::left(&Zoned::now(), age).min(LOOK_AT_CLOCK))
    }

    /// Does the work; gives what it has cost.
    fn serve(&mut self, work: &Work) -> usize {
        if work.reopen {
            self.reopen();
        }
        self.rotate_if_old();
        self.batch.clear();
        self.written = 0;
        for chunk in &work.chunks {
            self.look.render(chunk, &mut self.batch);
        }
        if !self.write_out() {
            self.queue.lost(work.chunks.iter().map(|chunk| chunk.lines).sum());
        }
        work.chunks.iter().map(Chunk::cost).sum()
    }

    /// Writes the batch, however long that takes. False: it is given up.
    fn write_out(&mut self) -> bool {
        let mut left = LAST_TRIES;
        while self.written < self.batch.len() {
            let pause = match self.write_some() {
                Ok(()) => continue,
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted => continue,
                    io::ErrorKind::WouldBlock => RETRY_SOON,
                    _ => {
                        self.queue.failed();
                        self.complain(&error);
                        RETRY
                    }
                },
            };
            if !self.queue.is_used() {
                left = left.saturating_sub(pause);
            }
            if left.is_zero() {
                return false;
            }
            if self.queue.pause(pause) == Pause::Reopen {
                self.reopen();
            }
        }
        true
    }

    /// Writes as much as fits into the file, or goes on to the next one.
    fn write_some(&mut self) -> io::Result<()> {
        if self.file.is_none() {
            self.file = Some(Opened::new(self.queue)?);
        }
        let Some(file) = &mut self.file else { return Ok(()) };
        let rest = self.batch.get(self.written..).unwrap_or_default();
        let begins = self.written == 0 || self.batch.get(self.written - 1) == Some(&b'\n');
        let rotates = file.identity.is_some() && Timestamp::now() >= self.rotate_from;
        let piece = match self.rotation.size.filter(|_| rotates) {
            None => rest,
            Some(size) => match whole_lines(rest, size.saturating_sub(file.size)) {
                Some(piece) => piece,
                // The first line does not fit: into a new file it goes in any case.
                _ if begins && file.size > 0 => return self.rotate(),
                _ => first_line(rest),
            },
        };
        if file.size == 0 {
            file.since = Zoned::now();
        }
        let written = file.file.write(piece)?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        file.size += written as u64;
        self.written += written;
        if self.said.take().is_some() {
            tracing::info!(file = %self.queue.path().display(), "the log file can be written again");
        }
        Ok(())
    }

    /// Opens the file if it is not open.
    fn opened(&mut self) {
        if self.file.is_none() {
            match Opened::new(self.queue) {
                Ok(file) => self.file = Some(file),
                Err(error) => {
                    self.queue.failed();
                    self.complain(&error);
                }
            }
        }
    }

    /// Opens it again, where it should be. When that fails the old one is written on.
    fn reopen(&mut self) {
        match Opened::new(self.queue) {
            Ok(file) => {
                self.file = Some(file);
                // A line that was begun is not left in two halves.
                let before = self.batch.get(..self.written).unwrap_or_default();
                self.written = memchr::memrchr(b'\n', before).map_or(0, |end| end + 1);
            }
            Err(error) => {
                let file = self.queue.path().display();
                tracing::error!(%file, %error, "the log file cannot be opened again");
            }
        }
    }

    fn rotate_if_old(&mut self) {
        let (Some(age), Some(file)) = (self.rotation.age, &self.file) else { return };
        let now = Zoned::now();
        let old = rotation::period(&now, age) > rotation::period(&file.since, age);
        let rotates = file.identity.is_some() && now.timestamp() >= self.rotate_from;
        if old
            && file.size > 0
            && rotates
            && let Err(error) = self.rotate()
        {
            self.complain(&error);
        }
    }

    /// Goes on with a new file, if that can be had; an error is that of opening it. When the old one
    /// cannot be moved away it grows on.
    fn rotate(&mut self) -> io::Result<()> {
        let path = self.queue.path();
        let Some(file) = &self.file else { return Ok(()) };
        let now = Zoned::now();
        let put_off = |wait| now.timestamp().saturating_add(wait).unwrap_or(Timestamp::MAX);
        // Moved away or replaced by somebody else, or reached by a link: then it is not ours to move.
        let there = fs::symlink_metadata(path).ok().map(|found| (found.dev(), found.ino()));
        if there == file.identity {
            let Some(name) = self.names.next(path, &now) else {
                self.rotate_from = put_off(ROTATE_SOON);
                return Ok(());
            };
            if let Err(error) = fs::rename(path, name) {
                self.rotate_from = put_off(ROTATE_AGAIN);
                tracing::error!(file = %path.display(), %error, "the log file cannot be rotated");
                return Ok(());
            }
        }
        self.file = None;
        let opened = Opened::new(self.queue)?;
        // A link to what is open already would have it go round and round.
        if opened.size > 0 {
            self.rotate_from = put_off(ROTATE_AGAIN);
        }
        self.file = Some(opened);
        if let Err(error) = rotation::delete_oldest(path, self.rotation.keep) {
            tracing::error!(file = %path.display(), %error, "old log files cannot be deleted");
        }
        Ok(())
    }

    /// Says that the file cannot be written, but not all the time.
    fn complain(&mut self, error: &io::Error) {
        let now = Timestamp::now();
        let again = |said: Timestamp| now.duration_since(said).unsigned_abs() >= SAY_EVERY;
        if self.said.is_none_or(again) {
            self.said = Some(now);
            let file = self.queue.path().display();
            tracing::error!(%file, %error, "the log file cannot be written; it is tried again");
        }
    }
}

impl Opened {
    fn new(queue: &Queue) -> io::Result<Self> {
        let file = open(queue.path())?;
        let found = file.metadata()?;
        let identity = found.is_file().then(|| (found.dev(), found.ino()));
        let last = found.modified().ok().and_then(|last| Timestamp::try_from(last).ok());
        let now = Zoned::now();
        let since = last.map(|last| last.to_zoned(now.time_zone().clone()));
        Ok(Self { file, identity, size: found.len(), since: since.unwrap_or(now) })
    }
}

/// As many whole lines as fit into so many bytes; `None`: not even one.
fn whole_lines(text: &[u8], room: u64) -> Option<&[u8]> {
    let room = usize::try_from(room).unwrap_or(usize::MAX);
    if text.len() <= room {
        return Some(text);
    }
    let end = memchr::memrchr(b'\n', text.get(..room)?)?;
    text.get(..=end)
}

fn first_line(text: &[u8]) -> &[u8] {
    let end = memchr::memchr(b'\n', text).map_or(text.len(), |end| end + 1);
    text.get(..end).unwrap_or(text)
}

impl Look {
    /// The lines as PM2 writes them: as they are, behind the time, or as JSON.
    fn render(&self, chunk: &Chunk, to: &mut Vec<u8>) {
        let zoned = || chunk.at.to_zoned(jiff::tz::TimeZone::system());
        let date = self.date.as_ref().map(|date| date.write(&zoned()));
        match (self.form, date) {
            (LogForm::Raw, None) => to.extend_from_slice(&chunk.text),
            (LogForm::Raw, Some(date)) => {
                for line in lines(&chunk.text) {
                    to.extend_from_slice(date.as_bytes());
                    to.extend_from_slice(b": ");
                    to.extend_from_slice(line);
                    to.push(b'\n');
                }
            }
            (LogForm::Json, date) => {
                let timestamp = date.unwrap_or_else(|| format!("{:.3}", chunk.at));
                for line in lines(&chunk.text) {
                    let record = Record {
                        message: &String::from_utf8_lossy(line),
                        timestamp: &timestamp,
                        r#type: match chunk.stream {
                            Stream::Stdout => "out",
                            Stream::Stderr => "err",
                        },
                        process_id: chunk.number,
                        app_name: &self.app,
                    };
                    // Neither texts nor numbers can fail to be JSON, nor memory to be written.
                    drop(serde_json::to_writer(&mut *to, &record));
                    to.push(b'\n');
                }
            }
        }
    }
}

/// PM2's fields, in its order.
#[derive(serde::Serialize)]
struct Record<'a> {
    message: &'a str,
    timestamp: &'a str,
    r#type: &'a str,
    process_id: u32,
    app_name: &'a str,
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split_inclusive(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\n").unwrap_or(line))
}
