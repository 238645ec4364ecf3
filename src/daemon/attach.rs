//! Where the workers of a router that has died come back.
//!
//! Each has a channel and a lane from the start, so that what is sent to it waits there in order. It
//! connects, says in one line who it is, and gets its ends of them, each as a byte with a descriptor.
//! It has to know the secret that it was given when it was started, to run as this user, and to be
//! the very process that is awaited; and until it has said all it has to say on its channel, it may
//! come again.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use nix::unistd::Pid;
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::kept::Kept;
use super::plane::Plane;
use super::runtime::Runtime;
use crate::control::clients::attend_each;
use crate::route::WorkerId;
use crate::supervisor::{DataPlane, LanePair, Left};
use crate::sys::{private, process, scm};

/// How long a worker may take to say who it is.
const LINE_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes in which it says so.
const LINE_MAX: u64 = 1024;
/// Workers that say so at once: more than there can be.
const MAX_CALLERS: usize = 1100;

/// What goes with the channel, and what with the lane.
const CHANNEL: &[u8] = b"c";
const LANE: &[u8] = b"l";

/// Workers that may come back.
#[derive(Debug, Default)]
pub(super) struct Awaited {
    workers: RefCell<HashMap<WorkerId, Absent>>,
    changed: Notify,
}

/// What waits for one of them.
#[derive(Debug)]
struct Absent {
    process: Pid,
    channel: OwnedFd,
    lane: Option<OwnedFd>,
}

impl Awaited {
    /// Opens channels, and lanes where they are used, for the workers that a router has left.
    ///
    /// # Errors
    /// Out of descriptors.
    pub(super) fn open(&self, left: &[Left], lanes: bool, plane: &mut Plane) -> io::Result<()> {
        for Left { worker, pid, .. } in left {
            let (ours, channel) = process::channel_pair()?;
            let (lane, pair) = if lanes {
                let (ours, theirs) = process::channel_pair()?;
                (Some(theirs.try_clone()?), Some(LanePair { ours, theirs }))
            } else {
                (None, None)
            };
            plane.attach(*worker, ours, pair);
            let process = Pid::from_raw(*pid);
            self.workers.borrow_mut().insert(*worker, Absent { process, channel, lane });
        }
        Ok(())
    }

    /// It has come, or never will. `false`: so it had before.
    pub(super) fn remove(&self, worker: WorkerId) -> bool {
        let removed = self.workers.borrow_mut().remove(&worker).is_some();
        self.changed.notify_waiters();
        removed
    }

    /// Returns when nobody is awaited any more.
    pub(super) async fn are_none(&self) {
        let mut changed = pin!(self.changed.notified());
        // Before the look, or a change between the two would be missed.
        changed.as_mut().enable();
        while !self.workers.borrow().is_empty() {
            changed.as_mut().await;
            changed.set(self.changed.notified());
            changed.as_mut().enable();
        }
    }

    /// The processes of those that are.
    pub(super) fn processes(&self) -> Vec<Pid> {
        self.workers.borrow().values().map(|absent| absent.process).collect()
    }
}

/// What a worker says.
#[derive(Debug, Deserialize)]
struct Line {
    secret: String,
    slot: u16,
    generation: u32,
    pid: i32,
    lane: bool,
}

/// Answers workers that come back, until it is aborted.
///
/// # Errors
/// The socket cannot be made.
pub(super) fn serve(
    runtime: &Runtime,
    awaited: Rc<Awaited>,
    kept: Rc<RefCell<Kept>>,
) -> io::Result<JoinHandle<()>> {
    let listener = private::serve(&runtime.attach())?;
    let secret = runtime.secret().to_owned();
    let door = Rc::new(Door { secret, awaited, kept });
    Ok(tokio::task::spawn_local(async move {
        let accept = async || Ok(listener.accept().await?.0);
        let attend = |caller: UnixStream| {
            let door = Rc::clone(&door);
            async move {
                let pid = caller.peer_cred().ok().and_then(|peer| peer.pid());
                match timeout(LINE_TIMEOUT, door.answer(caller)).await {
                    Ok(Ok(worker)) => tracing::debug!(%worker, "attaching"),
                    Ok(Err(why)) => tracing::warn!(pid, why, "attach refused"),
                    Err(_) => tracing::warn!(pid, why = "it said nothing", "attach refused"),
                }
            }
        };
        match attend_each(MAX_CALLERS, accept, attend).await {}
    }))
}

struct Door {
    secret: String,
    awaited: Rc<Awaited>,
    kept: Rc<RefCell<Kept>>,
}

impl Door {
    async fn answer(&self, caller: UnixStream) -> Result<WorkerId, String> {
        let peer = caller.peer_cred().map_err(|error| error.to_string())?;
        if peer.uid() != nix::unistd::geteuid().as_raw() {
            return Err("it is another user's".to_owned());
        }
        let mut text = Vec::new();
        let mut caller = BufReader::new(caller);
        let read = (&mut caller).take(LINE_MAX).read_until(b'\n', &mut text).await;
        read.map_err(|error| error.to_string())?;
        let line: Line =
            serde_json::from_slice(&text).map_err(|_| "it did not say who it is".to_owned())?;
        if !is_same(line.secret.as_bytes(), self.secret.as_bytes()) {
            return Err("it does not know the secret".to_owned());
        }
        let worker = WorkerId { slot: line.slot, generation: line.generation };
        // In another pid namespace it has another number: then its own word must do.
        let pid = Pid::from_raw(peer.pid().filter(|pid| *pid > 0).unwrap_or(line.pid));
        let workers = self.awaited.workers.borrow();
        let absent = workers.get(&worker).filter(|absent| absent.process == pid);
        let absent =
            absent.ok_or_else(|| format!("worker {worker} of process {pid} is not awaited"))?;
        // It has read its lane to the end, and has not yet been told what to give back.
        self.kept.borrow_mut().claim(pid);
        absent
            .send(caller.get_ref(), line.lane)
            .map_err(|error| format!("its channel could not be sent: {error}"))?;
        Ok(worker)
    }
}

impl Absent {
    /// Gives the worker its ends.
    fn send(&self, caller: &UnixStream, lane: bool) -> io::Result<()> {
        scm::send_socket(caller.as_fd(), CHANNEL, self.channel.as_fd())?;
        match &self.lane {
            _ if !lane => Ok(()),
            Some(lane) => scm::send_socket(caller.as_fd(), LANE, lane.as_fd()),
            // It counts on one, and reads the end of this.
            None => scm::send_socket(caller.as_fd(), LANE, process::channel_pair()?.1.as_fd()),
        }
    }
}

/// Takes as long for any two of one length.
fn is_same(one: &[u8], other: &[u8]) -> bool {
    let differ = one.iter().zip(other).fold(0, |differ, (one, other)| differ | (one ^ other));
    one.len() == other.len() && differ == 0
}
