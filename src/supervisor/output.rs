//! The router's own stdout and stderr, behind a thread and a bounded queue.
//!
//! Whoever prints never waits: a full disk or a stopped terminal must hold up neither a worker
//! nor the control thread. What does not fit is dropped, counted, and the count is printed when
//! there is room again. Workers' lines and the router's log go the same way, so they appear in
//! the order they were said. Both streams may be one file instead, which is opened again when it
//! has been moved away.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::mem;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use super::log_file::LogFile;
use crate::config::Rotation;
use crate::sys::exec;

/// How much may wait to be written, in bytes.
pub const QUEUE_MAX: usize = 8 * 1024 * 1024;

/// How soon a stream that would block is tried again. Only a terminal that another program has
/// made non-blocking does that.
const RETRY: Duration = Duration::from_millis(10);

/// Which of the router's streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// fd 1.
    Stdout,
    /// fd 2.
    Stderr,
}

impl Stream {
    /// "stdout" or "stderr".
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// The queue and its thread. Clones share both.
#[derive(Clone, Debug)]
pub struct Printer(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// Something to write.
    filled: Condvar,
    /// Everything is written.
    drained: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    chunks: VecDeque<(Stream, Vec<u8>)>,
    /// The sum of their lengths; at most [`QUEUE_MAX`].
    bytes: usize,
    /// Lines that did not fit since the last count was printed.
    dropped: u64,
    /// The thread has taken chunks and is writing them.
    writing: bool,
}

/// The printer of this process, started on first use.
pub fn printer() -> &'static Printer {
    static PRINTER: LazyLock<Printer> = LazyLock::new(|| match FILE.get() {
        Some(file) => Printer::start(Box::new(file), Box::new(file)),
        None => Printer::start(Box::new(io::stdout()), Box::new(io::stderr())),
    });
    &PRINTER
}

/// Where both streams go instead, if anywhere.
static FILE: OnceLock<LogFile> = OnceLock::new();

/// Opens a log. What an application says is not for everybody to read.
///
/// # Errors
/// As open(2).
pub fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

/// From now on everything goes to this file, which is rotated by its size. Must come before anything
/// is printed.
///
/// # Errors
/// It cannot be opened, or something has been printed.
pub fn log_to(path: &Path, rotation: Rotation) -> io::Result<()> {
    let taken = FILE.set(LogFile::open(path, rotation)?);
    taken.map_err(|_| io::Error::other("there is a log file already"))
}

/// Whether everything goes to a file.
#[must_use]
pub fn goes_to_a_file() -> bool {
    FILE.get().is_some()
}

/// Opens the file again, which may have been moved away. Without one there is nothing to do.
///
/// # Errors
/// It cannot be opened: the old one is written on.
pub fn reopen() -> io::Result<()> {
    FILE.get().map_or(Ok(()), LogFile::reopen)
}

impl Printer {
    /// Starts a thread that writes to these two.
    pub fn start(stdout: Box<dyn Write + Send>, stderr: Box<dyn Write + Send>) -> Self {
        let shared = Arc::new(Shared::default());
        let writer = Arc::clone(&shared);
        let thread = thread::Builder::new().name("output".to_owned());
        // Without the thread nothing is drained, so all is dropped: silent, but running.
        drop(thread.spawn(move || {
            // Signals are the control thread's: one that is caught here as another program takes
            // over would be lost with this one's handlers.
            if let Err(error) = exec::hold_signals() {
                tracing::debug!(%error, "signals are not held back");
            }
            write_all(&writer, stdout, stderr);
        }));
        Self(shared)
    }

    /// Queues whole lines; `count` of them. Returns at once.
    pub fn print(&self, stream: Stream, lines: Vec<u8>, count: u64) {
        let mut queue = self.0.lock();
        if queue.bytes + lines.len() > QUEUE_MAX {
            queue.dropped += count;
            return;
        }
        queue.bytes += lines.len();
        queue.chunks.push_back((stream, lines));
        drop(queue);
        self.0.filled.notify_one();
    }

    /// Waits until everything is written, but not longer than `patience`.
    pub fn flush(&self, patience: Duration) {
        let pending =
            |queue: &mut Queue| queue.writing || !queue.chunks.is_empty() || queue.dropped > 0;
        let waited = self.0.drained.wait_timeout_while(self.0.lock(), patience, pending);
        drop(waited);
    }
}

impl Shared {
    /// A thread that panicked with the queue locked has left it whole: every change is one push.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread.
fn write_all(
    shared: &Shared,
    mut stdout: Box<dyn Write + Send>,
    mut stderr: Box<dyn Write + Send>,
) {
    loop {
        let mut queue = shared.lock();
        queue.writing = false;
        while queue.chunks.is_empty() && queue.dropped == 0 {
            shared.drained.notify_all();
            queue = shared.filled.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        queue.writing = true;
        let chunks = mem::take(&mut queue.chunks);
        let dropped = mem::take(&mut queue.dropped);
        drop(queue);
        for (stream, bytes) in chunks {
            match stream {
                Stream::Stdout => write_one(&mut stdout, &bytes),
                Stream::Stderr => write_one(&mut stderr, &bytes),
            }
            // Given back as it is written, not as it is taken: what is in this thread's hands
            // waits just as well.
            shared.lock().bytes -= bytes.len();
        }
        if dropped > 0 {
            let note = format!("router: output was too slow: {dropped} lines were dropped\n");
            write_one(&mut stderr, note.as_bytes());
        }
    }
}

/// Writes it all, or gives up: nobody is left to tell of an output that is gone.
fn write_one(stream: &mut dyn Write, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match stream.write(bytes) {
            Ok(0) => return,
            Ok(written) => bytes = &bytes[written..],
            Err(error) => match error.kind() {
                io::ErrorKind::Interrupted => {}
                io::ErrorKind::WouldBlock => thread::park_timeout(RETRY),
                _ => return,
            },
        }
    }
    // An error here would be the next write's, too.
    let _ = stream.flush();
}

/// Takes the router's log to stderr through [`printer`]; one `write` is one line.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogWriter;

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        printer().print(Stream::Stderr, bytes.to_vec(), 1);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    const PATIENCE: Duration = Duration::from_secs(10);

    /// Collects; waits for a permit before each write if there is a gate.
    struct Sink {
        written: Arc<Mutex<Vec<u8>>>,
        gate: Option<mpsc::Receiver<()>>,
    }

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if let Some(gate) = &self.gate {
                gate.recv().ok();
            }
            self.written.lock().expect("whole").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn sink(gate: Option<mpsc::Receiver<()>>) -> (Box<Sink>, Arc<Mutex<Vec<u8>>>) {
        let written = Arc::default();
        (Box::new(Sink { written: Arc::clone(&written), gate }), written)
    }

    #[test]
    fn lines_come_out_in_order_on_their_stream() {
        let ((out, out_text), (err, err_text)) = (sink(None), sink(None));
        let printer = Printer::start(out, err);
        for n in 0..1000 {
            let stream = if n % 2 == 0 { Stream::Stdout } else { Stream::Stderr };
            printer.print(stream, format!("{n}\n").into_bytes(), 1);
        }
        printer.flush(PATIENCE);
        let even: String = (0..1000).step_by(2).map(|n| format!("{n}\n")).collect();
        let odd: String = (1..1000).step_by(2).map(|n| format!("{n}\n")).collect();
        assert_eq!(*out_text.lock().expect("whole"), even.as_bytes());
        assert_eq!(*err_text.lock().expect("whole"), odd.as_bytes());
    }

    #[test]
    fn a_stuck_output_drops_and_counts_and_delays_nobody() {
        let (open, gate) = mpsc::channel();
        let ((out, out_text), (err, err_text)) = (sink(Some(gate)), sink(None));
        let printer = Printer::start(out, err);
        let line = vec![b'x'; QUEUE_MAX / 8];
        for _ in 0..20 {
            printer.print(Stream::Stdout, line.clone(), 1);
        }
        printer.flush(Duration::from_millis(1));
        drop(open);
        printer.flush(PATIENCE);
        assert_eq!(out_text.lock().expect("whole").len(), QUEUE_MAX);
        let told = String::from_utf8(err_text.lock().expect("whole").clone()).expect("ours");
        // Told in one sentence or two, by when the thread came to look.
        let counts = told.split(' ').filter_map(|word| word.parse::<u32>().ok());
        assert_eq!(counts.sum::<u32>(), 12, "{told}");
    }
}
