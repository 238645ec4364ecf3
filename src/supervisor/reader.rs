//! A worker's output pipes, read to their end on the control thread; lines go to the printer and to
//! the log files.
//!
//! The reading can be stopped between two reads and resumed by another process: what has been read
//! of an unfinished line goes along.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::net::unix::pipe;
use tokio::task::{self, JoinHandle};

use super::lines::{Lines, Tail};
use super::logs::{Chunk, Outlet};
use super::output::Stream;
use crate::config::LogFormat;
use crate::route::WorkerId;

/// How much of a worker's output is read at once, in bytes.
const READ_SIZE: usize = 16 * 1024;

/// Both pipes of one worker, being read.
#[derive(Debug)]
pub(super) struct Reader {
    streams: [Reading; 2],
    tail: Arc<Mutex<Tail>>,
}

#[derive(Debug)]
struct Reading {
    pipe: Rc<pipe::Receiver>,
    lines: Arc<Mutex<Lines>>,
    task: JoinHandle<()>,
}

/// What was read and not printed when the reading stopped.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Rest {
    /// Of stdout and stderr: the line that has not ended.
    open: [Vec<u8>; 2],
    /// The last lines on stderr.
    tail: Vec<String>,
}

impl Reader {
    /// Reads both pipes, stdout first; they are non-blocking.
    pub(super) fn start(
        pipes: [OwnedFd; 2],
        rest: Rest,
        format: LogFormat,
        app: &str,
        worker: WorkerId,
        outlets: [Outlet; 2],
    ) -> io::Result<Self> {
        let mut tail = Tail::default();
        rest.tail.iter().for_each(|line| tail.push(line.as_bytes()));
        let tail = Arc::new(Mutex::new(tail));
        let [out, err] = pipes;
        let [open_out, open_err] = rest.open;
        let [to_out, to_err] = outlets;
        let start = |stream, pipe: OwnedFd, open, outlet, tail| -> io::Result<Reading> {
            let pipe = Rc::new(pipe::Receiver::from_owned_fd(pipe)?);
            let lines = Arc::new(Mutex::new(Lines::resume(open)));
            let label = Label::new(format, app, worker.slot, stream);
            let reading = read(Rc::clone(&pipe), Arc::clone(&lines), label, outlet, tail);
            Ok(Reading { pipe, lines, task: task::spawn_local(reading) })
        };
        let out = start(Stream::Stdout, out, open_out, to_out, None)?;
        let err = start(Stream::Stderr, err, open_err, to_err, Some(Arc::clone(&tail)))?;
        Ok(Self { streams: [out, err], tail })
    }

    /// Waits until both pipes have ended.
    pub(super) async fn ended(&mut self) {
        for stream in &mut self.streams {
            // A task that was cut off has read what it could.
            let _ = (&mut stream.task).await;
        }
    }

    /// The last lines on stderr, for whoever has to explain an end.
    pub(super) fn tail(&self) -> Arc<Mutex<Tail>> {
        Arc::clone(&self.tail)
    }

    /// Stops between two reads, and gives the pipes and what was read away.
    pub(super) fn stop(self) -> io::Result<([OwnedFd; 2], Rest)> {
        let mut rest = Rest { tail: lock(&self.tail).lines(), ..Rest::default() };
        for (open, stream) in rest.open.iter_mut().zip(&self.streams) {
            stream.task.abort();
            *open = lock(&stream.lines).open();
        }
        let share = |stream: &Reading| stream.pipe.as_fd().try_clone_to_owned();
        let [out, err] = &self.streams;
        Ok(([share(out)?, share(err)?], rest))
    }
}

/// A thread that panicked with it locked has left it whole: every change is one line.
fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads a pipe to its end, passes its lines on. Between a read and the next wait nothing can stop it.
async fn read(
    pipe: Rc<pipe::Receiver>,
    lines: Arc<Mutex<Lines>>,
    label: Label,
    outlet: Outlet,
    tail: Option<Arc<Mutex<Tail>>>,
) {
    let mut buffer = vec![0; READ_SIZE];
    loop {
        // A worker that writes without a pause would have its pipe never run dry, and nobody else
        // would have a turn.
        task::yield_now().await;
        let read = match pipe.readable().await.and_then(|()| pipe.try_read(&mut buffer)) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(_) => 0,
        };
        let (mut printed, mut text, mut count) = (Vec::new(), Vec::new(), 0);
        let mut take = |line: &[u8]| {
            if outlet.printer.is_some() {
                label.render(line, &mut printed);
            }
            if !outlet.files.is_empty() {
                text.extend_from_slice(line);
                text.push(b'\n');
            }
            count += 1;
            if let Some(tail) = &tail {
                lock(tail).push(line);
            }
        };
        if read == 0 {
            lock(&lines).finish(&mut take);
        } else {
            lock(&lines).push(&buffer[..read], &mut take);
        }
        if count > 0 {
            outlet.pass_on(label.stream, printed, text, count);
        }
        if read == 0 {
            return;
        }
    }
}

impl Outlet {
    /// `printed` is for the printer, `text` for the files.
    fn pass_on(&self, stream: Stream, printed: Vec<u8>, text: Vec<u8>, lines: u64) {
        if let Some(printer) = &self.printer {
            printer.print(stream, printed, lines);
        }
        if !self.files.is_empty() {
            let (number, at, text) = (self.number, Timestamp::now(), Bytes::from(text));
            let chunk = Chunk { stream, number, at, text, lines };
            self.files.iter().for_each(|file| file.push(chunk.clone()));
        }
    }
}

/// What stands before a worker's line.
#[derive(Clone, Debug)]
struct Label {
    format: LogFormat,
    app: String,
    slot: u16,
    stream: Stream,
}

impl Label {
    fn new(format: LogFormat, app: &str, slot: u16, stream: Stream) -> Self {
        Self { format, app: app.to_owned(), slot, stream }
    }

    /// PM2's form, or a JSON object; with its line end.
    fn render(&self, line: &[u8], out: &mut Vec<u8>) {
        match self.format {
            LogFormat::Pretty => {
                out.extend_from_slice(format!("{}|{} | ", self.slot, self.app).as_bytes());
                out.extend_from_slice(line);
            }
            LogFormat::Json => {
                let object = serde_json::json!({
                    "app": self.app,
                    "slot": self.slot,
                    "stream": self.stream.name(),
                    "message": String::from_utf8_lossy(line),
                });
                out.extend_from_slice(object.to_string().as_bytes());
            }
        }
        out.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_labelled() {
        let render = |format, line: &[u8]| {
            let mut out = Vec::new();
            Label::new(format, "chat", 3, Stream::Stderr).render(line, &mut out);
            out
        };
        assert_eq!(render(LogFormat::Pretty, b"a \xff"), b"3|chat | a \xff\n");
        let json: serde_json::Value =
            serde_json::from_slice(&render(LogFormat::Json, b"a \"\xff")).expect("is JSON");
        assert_eq!(json["message"], "a \"\u{fffd}");
        assert_eq!(
            (&json["slot"], &json["stream"], &json["app"]),
            (&3.into(), &"stderr".into(), &"chat".into())
        );
    }
}
