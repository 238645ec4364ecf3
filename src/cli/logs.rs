//! What the workers print, read from their log files: the last lines, and then what comes.
//!
//! Nobody but the disk is asked for it: however slowly it is read here, no worker and no router is
//! held up.

use std::collections::HashSet;
use std::fs::{File, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use jiff::Zoned;
use serde_json::json;

use super::commands::Logs;
use super::list::Found;
use crate::config;
use crate::control::apps::{AppState, Definition};

/// How much of the end of a file is looked at first for its last lines, in bytes; then twice as much,
/// until they are there.
const LAST_FIRST: u64 = 1 << 16;

/// How much of a file is read in one turn, in bytes: the others have theirs.
const TURN_MAX: u64 = 1 << 20;

/// A longer line is shown in pieces, in bytes.
const LINE_MAX: usize = 1 << 20;

/// A log of a worker's, or of a router's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Log {
    pub(super) path: PathBuf,
    app: String,
    /// The worker's number; none: several write there, or the router.
    id: Option<u32>,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Out,
    Error,
    Router,
}

/// Where a worker's file is.
pub(super) fn place(definition: &Definition, path: &Path) -> PathBuf {
    config::at_home(path, definition.environment.get("HOME").map(Path::new))
}

/// The logs of these workers of an app.
pub(super) fn worker_files(app: &AppState, ids: &[u32]) -> Vec<Log> {
    let definition = &app.definition;
    let mut logs: Vec<Log> = Vec::new();
    for id in ids {
        for file in definition.logs.files(*id) {
            let path = place(definition, &file.path);
            let kind = if file.out { Kind::Out } else { Kind::Error };
            match logs.iter_mut().find(|log| log.path == path) {
                Some(shared) => shared.id = None,
                None => logs.push(Log { path, app: definition.name.clone(), id: Some(*id), kind }),
            }
        }
    }
    logs
}

/// All logs: of the workers that are meant, and of their router.
pub(super) fn files(found: &Found<'_>) -> Vec<Log> {
    let definition = &found.app.definition;
    let router = Log {
        path: definition.router_log.clone(),
        app: definition.name.clone(),
        id: None,
        kind: Kind::Router,
    };
    let mut logs = worker_files(found.app, &found.ids());
    logs.push(router);
    logs
}

/// Files that are read as they grow.
#[derive(Debug)]
pub(super) struct Tail<'a> {
    wanted: &'a Logs,
    colored: bool,
    reading: Vec<Reading>,
    known: HashSet<PathBuf>,
    started: bool,
}

#[derive(Debug)]
struct Reading {
    log: Log,
    open: Option<(File, u64)>,
    /// A line that has not ended.
    rest: Vec<u8>,
}

impl<'a> Tail<'a> {
    pub(super) fn new(wanted: &'a Logs, colored: bool) -> Self {
        Self { wanted, colored, reading: Vec::new(), known: HashSet::new(), started: false }
    }

    /// Reads these logs, too.
    pub(super) fn add(&mut self, logs: Vec<Log>) -> Result<()> {
        for log in logs {
            let shown = match log.kind {
                Kind::Out => !self.wanted.err,
                Kind::Error => !self.wanted.out,
                Kind::Router => !self.wanted.out && !self.wanted.err,
            };
            if !shown || !self.known.insert(log.path.clone()) {
                continue;
            }
            let mut reading = Reading { log, open: None, rest: Vec::new() };
            if self.started {
                // All of it is new.
                reading.open()?;
            }
            self.reading.push(reading);
        }
        Ok(())
    }

    /// The last lines of all files, the oldest file's first.
    pub(super) fn last(&mut self) -> Result<Vec<u8>> {
        self.started = true;
        let mut shown = Vec::new();
        let modified = |reading: &Reading| {
            let found =
                reading.log.path.metadata().ok().map(|found| (found.mtime(), found.mtime_nsec()));
            found.unwrap_or_default()
        };
        self.reading.sort_by_key(modified);
        let (wanted, colored) = (self.wanted, self.colored);
        for reading in &mut self.reading {
            reading.open()?;
            let text = reading.last(wanted.lines)?;
            let lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
            let kept = &lines[lines.len().saturating_sub(wanted.lines)..];
            for line in kept {
                // When they were written is not known.
                label(&reading.log, wanted, colored, None, line.trim_ascii_end(), &mut shown);
            }
        }
        Ok(shown)
    }

    /// What came since.
    pub(super) fn more(&mut self) -> Result<Vec<u8>> {
        let mut shown = Vec::new();
        let (wanted, colored) = (self.wanted, self.colored);
        for reading in &mut self.reading {
            let grown = reading.more()?;
            reading.rest.extend_from_slice(&grown);
            let whole = match reading.rest.iter().rposition(|byte| *byte == b'\n') {
                Some(end) => end + 1,
                None if reading.rest.len() >= LINE_MAX => reading.rest.len(),
                None => continue,
            };
            let rest = reading.rest.split_off(whole);
            let lines = std::mem::replace(&mut reading.rest, rest);
            for line in lines.split_inclusive(|byte| *byte == b'\n') {
                let line = line.strip_suffix(b"\n").unwrap_or(line);
                let now = Some(Zoned::now());
                label(&reading.log, wanted, colored, now, line, &mut shown);
            }
        }
        Ok(shown)
    }
}

impl Reading {
    /// Opens it, if it is there.
    fn open(&mut self) -> Result<()> {
        match File::open(&self.log.path) {
            Ok(file) => self.open = Some((file, 0)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("cannot read {}", self.log.path.display()));
            }
        }
        Ok(())
    }

    /// The end of it, from the beginning of a line: so many lines at least, if there are as many.
    fn last(&mut self, lines: usize) -> Result<Vec<u8>> {
        let Some((file, offset)) = &mut self.open else { return Ok(Vec::new()) };
        let length = file.metadata()?.len();
        let mut much = LAST_FIRST;
        let (from, mut text) = loop {
            let from = length.saturating_sub(much);
            file.seek(SeekFrom::Start(from))?;
            let mut text = Vec::new();
            file.take(length - from).read_to_end(&mut text)?;
            // The first of them is perhaps not whole.
            if from == 0 || memchr::memchr_iter(b'\n', &text).nth(lines).is_some() {
                break (from, text);
            }
            much = much.saturating_mul(2);
        };
        *offset = length;
        if from > 0
            && let Some(end) = text.iter().position(|byte| *byte == b'\n')
        {
            text.drain(..=end);
        }
        Ok(text)
    }

    /// What was appended; of a file that took this one's place, all.
    fn more(&mut self) -> Result<Vec<u8>> {
        if self.open.is_none() {
            self.open()?;
        }
        let Some((file, offset)) = &mut self.open else { return Ok(Vec::new()) };
        let mut text = Vec::new();
        let length = file.metadata()?.len();
        if length < *offset {
            // It was emptied.
            *offset = 0;
        }
        file.seek(SeekFrom::Start(*offset))?;
        *offset += u64::try_from(file.take(TURN_MAX).read_to_end(&mut text)?).unwrap_or_default();
        let same =
            |one: &Metadata, other: &Metadata| one.ino() == other.ino() && one.dev() == other.dev();
        if text.is_empty() {
            // The old one is read to its end before the new one is begun.
            match self.log.path.metadata() {
                Ok(found) if same(&found, &file.metadata()?) => {}
                Ok(_) => self.open()?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(text)
    }
}

/// A line as it is shown; `read` is when, of one that has just come.
fn label(
    log: &Log,
    wanted: &Logs,
    colored: bool,
    read: Option<Zoned>,
    line: &[u8],
    shown: &mut Vec<u8>,
) {
    let who = log.id.map_or_else(
        || if log.kind == Kind::Router { "router".to_owned() } else { "all".to_owned() },
        |id| id.to_string(),
    );
    if wanted.json {
        let kind = match log.kind {
            Kind::Out => "out",
            Kind::Error => "err",
            Kind::Router => "router",
        };
        let mut object = json!({
            "message": String::from_utf8_lossy(line),
            "type": kind,
            "process_id": log.id,
            "app_name": log.app,
        });
        if let Some(read) = read {
            object["timestamp"] = read.timestamp().to_string().into();
        }
        shown.extend_from_slice(object.to_string().as_bytes());
    } else {
        if !wanted.raw {
            let time = read
                .filter(|_| wanted.timestamp)
                .map(|read| read.strftime("%Y-%m-%dT%H:%M:%S ").to_string())
                .unwrap_or_default();
            let (on, off) = match (colored, log.kind) {
                (false, _) => ("", ""),
                (true, Kind::Out) => ("\x1b[32m", "\x1b[0m"),
                (true, Kind::Error) => ("\x1b[31m", "\x1b[0m"),
                (true, Kind::Router) => ("\x1b[34m", "\x1b[0m"),
            };
            shown.extend_from_slice(format!("{on}{time}{who}|{} |{off} ", log.app).as_bytes());
        }
        shown.extend_from_slice(line);
    }
    shown.push(b'\n');
}
