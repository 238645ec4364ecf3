//! Clients that a router had in hand when it died, and who keeps them for the next.
//!
//! A router starts a keeper (`sys/keeper.rs`) before it accepts anybody. The next router fetches what
//! that has kept, and waits until the workers are back: a socket that was on its way to one when the
//! router died may be the worker's already. What no worker has is accepted as if it had just come;
//! nothing of its request has been read.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use nix::unistd::Pid;

use super::attach::Awaited;
use super::listeners::Listeners;
use super::runtime::Runtime;
use super::shards::post;
use crate::shard::Shared;
use crate::shard::ring::Mail;
use crate::sys::keeper::{self, Charge, Keeper};
use crate::sys::{private, process, scm, socket};

/// Starts a keeper for this router. Without one the router works all the same.
pub(super) fn keeper(runtime: &Runtime, patience: Duration) -> Option<(Keeper, UnixListener)> {
    let started = || {
        let door = private::listen(&runtime.door())?;
        let charge = Charge {
            door: door.as_fd(),
            lock: runtime.lock(),
            directory: runtime.directory(),
            patience,
        };
        Ok((Keeper::start(&charge)?, door))
    };
    started()
        .inspect_err(|error: &io::Error| {
            tracing::error!(%error, "no keeper: clients that wait here will not outlive this router");
        })
        .ok()
}

/// Ends it, so that what this router closes is closed.
pub(super) fn end(keeper: Option<(Keeper, UnixListener)>) {
    if let Some((keeper, _door)) = keeper
        && let Err(error) = keeper.end()
    {
        tracing::error!(%error, "the keeper cannot be ended");
    }
}

/// How long clients wait at most for workers that are to come back, who may have them already.
const SETTLE: Duration = Duration::from_secs(1);

/// Lets the clients in, once it is known which of them no worker has.
pub(super) async fn settle(
    kept: &RefCell<Kept>,
    awaited: &Awaited,
    shared: &Shared,
    listeners: &RefCell<Listeners>,
) {
    if kept.borrow().is_empty() {
        return;
    }
    if tokio::time::timeout(SETTLE, awaited.are_none()).await.is_err() {
        // What they have not read of their lanes is not seen so; the rest is.
        awaited.processes().into_iter().for_each(|pid| kept.borrow_mut().claim(pid));
    }
    kept.borrow_mut().admit(shared, &listeners.borrow());
}

/// Sockets by the number that is the same for every share of one.
#[derive(Debug, Default)]
pub(super) struct Kept(HashMap<u64, OwnedFd>);

impl Kept {
    /// Fetches what a router that has died here had in hand.
    pub(super) fn fetch(runtime: &Runtime) -> Self {
        let mut sockets = Vec::new();
        if let Err(error) = keeper::fetch(&runtime.door(), &mut sockets) {
            tracing::error!(%error, "not all that was kept has been handed over");
        }
        let numbered = sockets.into_iter().filter_map(|socket| {
            let number = socket::number(socket.as_fd()).ok()?;
            Some((number, socket))
        });
        Self(numbered.collect())
    }

    /// What stands in a channel of the dead router's that its worker has written to.
    pub(super) fn unread(&mut self, channel: u64) -> Bytes {
        let mut bytes = BytesMut::new();
        let Some(channel) = self.0.remove(&channel) else { return bytes.freeze() };
        let mut buffer = [0; 64 << 10];
        // The kernel's buffer bounds it. Sockets that come with it are the worker's until somebody
        // acknowledges them.
        while let Ok((length @ 1.., _)) = scm::receive(channel.as_fd(), &mut buffer) {
            bytes.extend_from_slice(&buffer[..length]);
        }
        bytes.freeze()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Leaves to a process what it has.
    pub(super) fn claim(&mut self, pid: Pid) {
        if self.is_empty() {
            return;
        }
        // One that has ended has none.
        for number in process::sockets(pid).unwrap_or_default() {
            self.0.remove(&number);
        }
    }

    /// Has the rest accepted, where it arrived; ends what did not arrive at any place there is.
    pub(super) fn admit(&mut self, shared: &Shared, listeners: &Listeners) {
        let mut clients = 0;
        for socket in std::mem::take(&mut self.0).into_values() {
            let place = socket::local(socket.as_fd()).ok();
            let Some(listener) = place.and_then(|local| listeners.arrival(&local)) else {
                continue;
            };
            post(shared, clients % shared.mailboxes.len(), Mail::Kept { socket, listener });
            clients += 1;
        }
        if clients > 0 {
            tracing::info!(clients, "clients of the router before this one taken over");
        }
    }
}
