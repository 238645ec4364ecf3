//! What waits to be written to one file: bounded, and never waited for by whoever fills it.

use std::collections::{BTreeMap, VecDeque};
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};

use super::Totals;
use crate::supervisor::output::Stream;

/// How much may wait for one file, in bytes.
pub const QUEUE_MAX: usize = 4 * 1024 * 1024;
/// How much may wait for all files together, in bytes.
pub const QUEUES_MAX: usize = 64 * 1024 * 1024;
/// How much may wait for one file in any case, in bytes: many that are stuck take nothing from the
/// others.
const QUEUE_LEAST: usize = 256 * 1024;
/// What a chunk counts besides its text, in bytes: many small ones are large.
const CHUNK_COST: usize = 128;

/// How much is written at once, in bytes.
const BATCH: usize = 256 * 1024;

/// How often the router's log says what one file drops.
const SAY_EVERY: SignedDuration = SignedDuration::from_secs(10);

/// A file that has been writing for so long is stuck: nobody waits for it.
const STUCK: SignedDuration = SignedDuration::from_secs(1);

/// Whole lines of one stream of a worker's, read at one time.
#[derive(Clone, Debug)]
pub(in crate::supervisor) struct Chunk {
    pub(in crate::supervisor) stream: Stream,
    /// The worker's number.
    pub(in crate::supervisor) number: u32,
    pub(in crate::supervisor) at: Timestamp,
    /// Each line with its end.
    pub(in crate::supervisor) text: Bytes,
    /// How many.
    pub(in crate::supervisor) lines: u64,
}

impl Chunk {
    /// In bytes.
    pub(super) fn cost(&self) -> usize {
        self.text.len() + CHUNK_COST
    }
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Queue {
    path: PathBuf,
    totals: Arc<Totals>,
    state: Mutex<State>,
    /// There is something for the writer to do.
    changed: Condvar,
    /// Everything is written.
    settled: Condvar,
}

#[derive(Debug, Default)]
struct State {
    chunks: VecDeque<Chunk>,
    /// What `chunks` costs, and what is in the writer's hands; at most [`QUEUE_MAX`] and a note.
    bytes: usize,
    /// Lines dropped since the file has been told, by the worker's number.
    dropped: BTreeMap<u32, u64>,
    /// The same since the router's log has been told, which was then.
    unsaid: u64,
    said: Option<Timestamp>,
    /// Handles there are.
    users: usize,
    /// The file may have been moved away.
    reopen: bool,
    /// Lines in the writer's hands, and since when.
    in_hand: Option<(u64, Timestamp)>,
    /// Nobody writes any more: the thread has ended.
    closed: bool,
}

impl State {
    fn is_settled(&self) -> bool {
        self.in_hand.is_none() && self.chunks.is_empty() && self.dropped.is_empty()
    }
}

/// What the writer is to do.
#[derive(Debug, Default)]
pub(super) struct Work {
    pub(super) chunks: Vec<Chunk>,
    pub(super) reopen: bool,
}

/// Why the writer need not wait any longer before it tries again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pause {
    /// It is over.
    Over,
    /// The file shall be opened again.
    Reopen,
}

/// A place to push to; the file is closed some time after the last one is gone.
#[derive(Debug)]
pub(in crate::supervisor) struct Handle(Arc<Queue>);

impl Handle {
    /// Of a file that nobody writes: all is dropped.
    pub(super) fn shut(queue: Arc<Queue>) -> Self {
        queue.lock().users += 1;
        Self(queue)
    }

    /// Queues a chunk, or drops it. Returns at once.
    pub(in crate::supervisor) fn push(&self, chunk: Chunk) {
        self.0.push(chunk);
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.lock().users -= 1;
        self.0.changed.notify_one();
    }
}

impl Queue {
    pub(super) fn new(path: PathBuf, totals: Arc<Totals>) -> Self {
        let (state, changed, settled) = Default::default();
        Self { path, totals, state, changed, settled }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// One more who pushes; `None`: the thread has ended.
    pub(super) fn enter(queue: &Arc<Self>) -> Option<Handle> {
        let mut state = queue.lock();
        if state.closed {
            return None;
        }
        state.users += 1;
        drop(state);
        Some(Handle(Arc::clone(queue)))
    }

    fn push(&self, chunk: Chunk) {
        let (cost, lines, number, at) = (chunk.cost(), chunk.lines, chunk.number, chunk.at);
        let mut state = self.lock();
        if state.closed || !self.has_room(&state, cost) {
            *state.dropped.entry(number).or_default() += lines;
            state.unsaid += lines;
            self.totals.dropped.fetch_add(lines, Ordering::Relaxed);
            let said = sayable(&mut state, at);
            drop(state);
            self.say(said);
            return;
        }
        self.note_drops(&mut state, at);
        self.put(&mut state, chunk);
        drop(state);
        self.changed.notify_one();
    }

    fn has_room(&self, state: &State, more: usize) -> bool {
        let all = self.totals.waiting.load(Ordering::Relaxed);
        // One long gap is read more easily than many short ones.
        let most = if state.dropped.is_empty() { QUEUE_MAX } else { QUEUE_MAX / 2 };
        let after = state.bytes + more;
        after <= QUEUE_LEAST || after <= most && all + more <= QUEUES_MAX
    }

    fn put(&self, state: &mut State, chunk: Chunk) {
        let cost = chunk.cost();
        state.bytes += cost;
        self.totals.waiting.fetch_add(cost, Ordering::Relaxed);
        state.chunks.push_back(chunk);
    }

    /// Has the file say what is missing, where it is missing.
    fn note_drops(&self, state: &mut State, at: Timestamp) {
        for (number, lines) in mem::take(&mut state.dropped) {
            let text = format!("router: {lines} lines were dropped (worker {number})\n").into();
            // No worker's line: nobody misses it.
            self.put(state, Chunk { stream: Stream::Stderr, number, at, text, lines: 0 });
        }
    }

    /// Waits for work, at most so long. `None`: there is none and will be none. What the work before
    /// has cost is given back.
    pub(super) fn work(&self, done: usize, patience: Option<Duration>) -> Option<Work> {
        let mut state = self.lock();
        state.bytes -= done;
        self.totals.waiting.fetch_sub(done, Ordering::Relaxed);
        state.in_hand = None;
        if state.is_settled() {
            self.settled.notify_all();
        }
        let idle = |state: &mut State| state.is_settled() && !state.reopen && state.users > 0;
        // What has not been said is said when its time has come.
        let unsaid = (state.unsaid > 0).then(|| SAY_EVERY.unsigned_abs());
        let patience = [patience, unsaid].into_iter().flatten().min();
        let mut state = match patience {
            None => self.changed.wait_while(state, idle).unwrap_or_else(PoisonError::into_inner),
            Some(patience) => {
                let waited = self.changed.wait_timeout_while(state, patience, idle);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
        };
        if state.users == 0 && state.is_settled() {
            state.closed = true;
            // Nobody will be there to say it later.
            let said = mem::take(&mut state.unsaid);
            drop(state);
            self.say(said);
            return None;
        }
        let mut work = Work { reopen: mem::take(&mut state.reopen), ..Work::default() };
        let now = Timestamp::now();
        if state.chunks.is_empty() {
            self.note_drops(&mut state, now);
        }
        let (mut bytes, mut lines) = (0, 0);
        while bytes < BATCH
            && let Some(chunk) = state.chunks.pop_front()
        {
            bytes += chunk.text.len();
            lines += chunk.lines;
            work.chunks.push(chunk);
        }
        if !work.chunks.is_empty() {
            state.in_hand = Some((lines, now));
        }
        let said = sayable(&mut state, now);
        drop(state);
        self.say(said);
        Some(work)
    }

    /// The wait before something is tried once more.
    pub(super) fn pause(&self, patience: Duration) -> Pause {
        let waits = |state: &mut State| !state.reopen;
        let waited = self.changed.wait_timeout_while(self.lock(), patience, waits);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner).0;
        if mem::take(&mut state.reopen) { Pause::Reopen } else { Pause::Over }
    }

    /// Whether anybody may still push.
    pub(super) fn is_used(&self) -> bool {
        self.lock().users > 0
    }

    /// The writer could not write these.
    pub(super) fn lost(&self, lines: u64) {
        self.totals.dropped.fetch_add(lines, Ordering::Relaxed);
        self.say(lines);
    }

    pub(super) fn failed(&self) {
        self.totals.failed.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn reopen(&self) {
        self.lock().reopen = true;
        self.changed.notify_one();
    }

    /// There is no thread, or none any more.
    pub(super) fn close(&self) {
        self.lock().closed = true;
    }

    /// Waits until everything is written, or until then; gives how many lines are not.
    pub(super) fn settle(&self, until: Timestamp) -> u64 {
        let mut state = self.lock();
        loop {
            let now = Timestamp::now();
            let stuck = |(_, since): &(u64, Timestamp)| now.duration_since(*since) >= STUCK;
            let left = Duration::try_from(until.duration_since(now)).unwrap_or_default();
            let gone = state.closed || state.is_settled();
            if gone || left.is_zero() || state.in_hand.as_ref().is_some_and(stuck) {
                let in_hand = state.in_hand.map_or(0, |(lines, _)| lines);
                return in_hand + state.chunks.iter().map(|chunk| chunk.lines).sum::<u64>();
            }
            let waited = self.settled.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Tells the router's log what was dropped.
    fn say(&self, lines: u64) {
        if lines > 0 {
            tracing::warn!(file = %self.path.display(), lines, "log lines dropped");
        }
    }

    /// Whoever panicked with it locked has left it whole: every change is a few numbers.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What may be said now of what has not been said. A clock that was set back must not silence it.
fn sayable(state: &mut State, now: Timestamp) -> u64 {
    let due = state.said.is_none_or(|said| now.duration_since(said).abs() >= SAY_EVERY);
    if state.unsaid == 0 || !due {
        return 0;
    }
    state.said = Some(now);
    mem::take(&mut state.unsaid)
}
