//! What a router printed: kept line by line, searched with a deadline, shown when a test fails.

use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// One line of either stream; JSON when it is JSON.
#[derive(Clone)]
pub struct Line {
    pub text: String,
    pub json: Value,
}

impl Line {
    /// A field of an event, wherever the format puts it: at the top or under `fields`.
    pub fn field(&self, name: &str) -> Option<&Value> {
        self.json.get(name).or_else(|| self.json.get("fields")?.get(name))
    }

    pub fn number(&self, name: &str) -> Option<u64> {
        let value = self.field(name)?;
        value.as_u64().or_else(|| value.as_str()?.parse().ok())
    }

    pub fn string(&self, name: &str) -> Option<&str> {
        self.field(name)?.as_str()
    }

    /// Is this the router's own event of that name (not a worker's output)?
    pub fn is(&self, message: &str) -> bool {
        self.field("stream").is_none() && self.string("message") == Some(message)
    }

    /// The text a worker printed, when this line is a worker's.
    pub fn worker_output(&self) -> Option<&str> {
        self.string("stream")?;
        self.string("message")
    }
}

#[derive(Default)]
struct State {
    lines: Vec<Line>,
    open: usize,
}

/// Shared between the reading threads and the test.
#[derive(Clone, Default)]
pub struct Log(Arc<(Mutex<State>, Condvar)>);

impl Log {
    /// Reads a stream to its end on a thread of its own.
    pub fn follow(&self, stream: impl Read + Send + 'static) {
        self.state().open += 1;
        let log = self.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stream).split(b'\n') {
                let Ok(line) = line else { break };
                let text = String::from_utf8_lossy(&line).into_owned();
                let json = serde_json::from_str(&text).unwrap_or(Value::Null);
                log.state().lines.push(Line { text, json });
                log.0.1.notify_all();
            }
            log.state().open -= 1;
            log.0.1.notify_all();
        });
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn lines(&self) -> Vec<Line> {
        self.state().lines.clone()
    }

    pub fn text(&self) -> String {
        self.lines().iter().fold(String::new(), |all, line| all + &line.text + "\n")
    }

    /// Waits until `find` sees what it wants in all the lines so far. None at the deadline, or
    /// when the streams have ended without it.
    pub fn find<T>(
        &self,
        limit: Duration,
        mut find: impl FnMut(&[Line]) -> Option<T>,
    ) -> Option<T> {
        let deadline = Instant::now() + limit;
        let mut state = self.state();
        loop {
            if let Some(found) = find(&state.lines) {
                return Some(found);
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            if state.open == 0 {
                return None;
            }
            state = self.0.1.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits for the end of both streams, so that the last words are there.
    pub fn ended(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let mut state = self.state();
        while state.open > 0 {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { return };
            state = self.0.1.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
