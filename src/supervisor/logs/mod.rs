//! The workers' log files.
//!
//! Lines go from the reader, on the control thread, into the queue of a file, and from there to the
//! disk by a thread of the file's own. A thread for each because a disk that hangs, or a FIFO that
//! nobody reads, holds a thread in the kernel for as long as it likes: no flag makes writing to a
//! disk non-blocking, and any thread that several files shared would be lost to all of them. An idle
//! thread costs some kilobytes. A path has one queue and one thread, however many workers write
//! there, so that a file is rotated once.
//!
//! ```text
//!   reader ─► Handle::push ─► queue of one file ─► writer ─► file ─► rotated files
//!                 │ no room                          │ error
//!                 ▼                                  ▼
//!             dropped, counted, said            tried again, said
//! ```
//!
//! Nobody waits for a file: what does not fit into its queue is dropped and counted. What was taken
//! into the queue is written as soon as that can be done, however often it fails before.

mod queue;
mod rotation;
mod writer;

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use jiff::Timestamp;
use nix::unistd::{AccessFlags, access};

use self::queue::Queue;
pub(super) use self::queue::{Chunk, Handle};
pub use self::queue::{QUEUE_MAX, QUEUES_MAX};
pub(super) use self::rotation::{Names, delete_oldest};
use super::ids::Ids;
use super::output::Printer;
use crate::config::{self, Config, DateFormat, LogFile, LogForm, Rotation};
use crate::sys::exec;

/// How long opening all files may take at the start. They are opened again by their threads: a disk
/// that is only slow is no reason not to start.
const OPEN_PATIENCE: Duration = Duration::from_secs(2);

/// The stack of a file's thread, in bytes. It holds no buffers.
const STACK: usize = 256 * 1024;

/// A log file is for its owner, and for the group to read.
const FILE_MODE: u32 = 0o640;
/// So is a directory that is made for it.
const DIRECTORY_MODE: u32 = 0o750;

/// A log file that cannot be written.
#[derive(Debug, thiserror::Error)]
#[error(
    "the log file {path} ({setting}) cannot be opened: {reason}. Name another place, or /dev/null for none"
)]
pub struct LogError {
    path: String,
    setting: &'static str,
    reason: io::Error,
}

/// The files of this process.
static FILES: LazyLock<Files> = LazyLock::new(Files::default);

/// Lines that were dropped because their file was too slow, in this process and those it has taken
/// over from.
#[must_use]
pub fn dropped() -> u64 {
    FILES.totals.dropped.load(Ordering::Relaxed)
}

/// Writes that failed, each of which was tried again.
#[must_use]
pub fn failed_writes() -> u64 {
    FILES.totals.failed.load(Ordering::Relaxed)
}

/// Goes on counting where another program in this process has stopped; the same one loses nothing.
pub(super) fn count_from(dropped: u64, failed: u64) {
    FILES.totals.dropped.fetch_max(dropped, Ordering::Relaxed);
    FILES.totals.failed.fetch_max(failed, Ordering::Relaxed);
}

/// Has every file opened again, which may have been moved away. Returns at once: one that cannot be
/// opened is written on, and the log says so.
pub fn reopen() {
    FILES.each(Queue::reopen);
}

/// Waits until everything is written, but not longer than `patience`, and not for a file that has
/// long been stuck. What is left is said.
pub fn flush(patience: Duration) {
    let until = Timestamp::now().saturating_add(patience);
    // A time out of range is no time to wait for.
    let Ok(until) = until else { return };
    FILES.each(|queue| {
        let left = queue.settle(until);
        if left > 0 {
            let file = queue.path().display();
            tracing::warn!(%file, lines = left, "log lines were not written in time");
        }
    });
}

/// Tries whether all files of the app's workers can be written.
///
/// # Errors
/// The first that cannot.
pub fn check(config: &Config, ids: &mut Ids) -> Result<(), LogError> {
    let numbers = (0..config.app.workers).map(|slot| ids.number(slot));
    let files: Vec<LogFile> =
        numbers.flat_map(|number| config.app.logs.targets.files(number)).collect();
    if files.is_empty() {
        return Ok(());
    }
    // Elsewhere, because a disk may hang; what it says then nobody hears.
    let (told, tried) = mpsc::channel();
    let trial = thread::Builder::new().name("log files".to_owned()).spawn(move || {
        let _unheard = told.send(files.into_iter().try_for_each(|file| {
            let LogFile { path, setting, .. } = file;
            let tried = exec::hold_signals().and_then(|()| try_out(&path));
            tried.map_err(|reason| LogError { path: path.display().to_string(), setting, reason })
        }));
    });
    match trial.map(|_running| tried.recv_timeout(OPEN_PATIENCE)) {
        Ok(Ok(result)) => result,
        Ok(Err(_late)) => {
            tracing::warn!("the log files are slow to open; the workers do not wait for them");
            Ok(())
        }
        Err(error) => {
            tracing::warn!(%error, "the log files have not been tried");
            Ok(())
        }
    }
}

/// Opens a log file, and makes it and its directory if they are not there.
fn open(path: &Path) -> io::Result<File> {
    make_directory(path)?;
    options(path).create(true).mode(FILE_MODE).open(path)
}

/// Whether a log file can be opened. It is not made: the worker may have another number.
fn try_out(path: &Path) -> io::Result<()> {
    let path = place(path);
    make_directory(&path)?;
    match (options(&path).open(&path), path.parent()) {
        (Err(error), Some(directory)) if error.kind() == io::ErrorKind::NotFound => {
            Ok(access(directory, AccessFlags::W_OK | AccessFlags::X_OK)?)
        }
        (opened, _) => opened.map(drop),
    }
}

fn options(path: &Path) -> OpenOptions {
    let mut options = OpenOptions::new();
    // Opened for writing only, a FIFO would hold us until somebody reads it.
    let is_fifo = fs::metadata(path).is_ok_and(|found| found.file_type().is_fifo());
    options.append(true).read(is_fifo);
    options
}

fn make_directory(path: &Path) -> io::Result<()> {
    let directory = path.parent().unwrap_or_else(|| Path::new("/"));
    let made = DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(directory);
    // `File exists` alone would puzzle whoever has put a file in the place of a directory.
    made.map_err(|error| {
        let text = format!("the directory {} cannot be made: {error}", directory.display());
        io::Error::new(error.kind(), text)
    })
}

/// Where a file really is.
pub(super) fn place(path: &Path) -> PathBuf {
    config::at_home(path, std::env::var_os("HOME").as_ref().map(Path::new))
}

/// Where the lines of one of a worker's streams go.
#[derive(Debug)]
pub(super) struct Outlet {
    /// The router's own output.
    pub(super) printer: Option<Printer>,
    /// Its files.
    pub(super) files: Vec<Handle>,
    /// The worker's number.
    pub(super) number: u32,
}

/// Where the lines of the worker with this number go: of stdout, and of stderr.
pub(super) fn outlets(config: &Config, number: u32, printer: &Printer) -> [Outlet; 2] {
    let logs = &config.app.logs;
    let printer = logs.shown.then(|| printer.clone());
    let outlet = || Outlet { printer: printer.clone(), files: Vec::new(), number };
    let mut outlets = [outlet(), outlet()];
    let [out, error] = &mut outlets;
    for file in logs.targets.files(number) {
        let look =
            || Look { app: config.app.name.clone(), date: logs.date.clone(), form: logs.form };
        if file.out {
            out.files.push(FILES.open(&file.path, look(), logs.rotation));
        }
        if file.error {
            error.files.push(FILES.open(&file.path, look(), logs.rotation));
        }
    }
    outlets
}

/// How lines look in a file.
#[derive(Clone, Debug)]
struct Look {
    app: String,
    date: Option<DateFormat>,
    form: LogForm,
}

/// What all files have in common.
#[derive(Debug, Default)]
struct Totals {
    /// Bytes in all queues.
    waiting: AtomicUsize,
    dropped: AtomicU64,
    failed: AtomicU64,
}

/// Files by their path, each while somebody writes there or something is left to be written.
#[derive(Debug, Default)]
struct Files {
    queues: Mutex<BTreeMap<PathBuf, Arc<Queue>>>,
    totals: Arc<Totals>,
}

impl Files {
    /// A file, for one more who writes there. How it looks and is rotated the first one decides.
    fn open(&'static self, path: &Path, look: Look, rotation: Rotation) -> Handle {
        let path = place(path);
        let mut queues = self.lock();
        if let Some(handle) = queues.get(&path).and_then(Queue::enter) {
            return handle;
        }
        let queue = Arc::new(Queue::new(path.clone(), Arc::clone(&self.totals)));
        let handle = Queue::enter(&queue);
        let (run, at) = (Arc::clone(&queue), path.clone());
        let thread = thread::Builder::new().name("log".to_owned()).stack_size(STACK);
        let started = thread.spawn(move || {
            // Signals are the control thread's: see `output.rs`.
            if let Err(error) = exec::hold_signals() {
                tracing::debug!(%error, "signals are not held back");
            }
            writer::run(&run, &look, rotation);
            self.forget(&at, &run);
        });
        if let Err(error) = started {
            tracing::error!(file = %path.display(), %error, "there is no thread for a log file");
            // Whoever comes next tries again; what comes meanwhile is dropped and counted.
            queue.close();
        } else {
            queues.insert(path, Arc::clone(&queue));
        }
        handle.unwrap_or_else(|| Handle::shut(queue))
    }

    /// Its thread has ended.
    fn forget(&self, path: &Path, queue: &Arc<Queue>) {
        let mut queues = self.lock();
        if queues.get(path).is_some_and(|present| Arc::ptr_eq(present, queue)) {
            queues.remove(path);
        }
    }

    fn each(&self, mut act: impl FnMut(&Queue)) {
        let queues: Vec<_> = self.lock().values().cloned().collect();
        queues.iter().for_each(|queue| act(queue));
    }

    /// Whoever panicked with it locked has left it whole: every change is one entry.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Arc<Queue>>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
