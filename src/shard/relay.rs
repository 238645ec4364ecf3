//! Who answers to which uid: where an adapter's response goes.
//!
//! Every shard knows all uids. A uid first appears in a packet that its worker publishes, and that
//! packet passes through every shard before any worker there can answer it; so learning from the
//! packets as they pass needs no lock and is never late. A requester that nobody knows is answered
//! by sending to all, other hosts included: who has not asked ignores it. Requests from other hosts are
//! learnt in the same way, as the bus's.

use std::collections::HashMap;

use ahash::RandomState;

use super::ring::Party;
use crate::ipc::message::Uid;
use crate::route::WorkerId;

/// Uids one worker can have: an adapter has one for each namespace.
pub const MAX_UIDS: usize = 65_536;

/// The adapters of one worker, as it announced them: what has to be said when it dies.
#[derive(Debug, Default)]
pub struct Adapters {
    known: HashMap<Uid, String, RandomState>,
}

impl Adapters {
    /// Notes an adapter. `false` when it was known already, or there are too many.
    pub fn learn(&mut self, uid: Uid, nsp: &str) -> bool {
        if self.known.len() >= MAX_UIDS || self.known.contains_key(&uid) {
            return false;
        }
        self.known.insert(uid, nsp.to_owned()).is_none()
    }

    /// The worker closed this one itself.
    pub fn forget(&mut self, uid: &Uid) {
        self.known.remove(uid);
    }

    /// All of them, for their obituary.
    pub fn drain(&mut self) -> impl Iterator<Item = (Uid, String)> {
        self.known.drain()
    }
}

/// Uid to whom it is of.
#[derive(Debug, Default)]
pub struct Owners {
    owners: HashMap<Uid, Party, RandomState>,
}

impl Owners {
    /// Who answers to `uid`.
    #[must_use]
    pub fn of(&self, uid: &Uid) -> Option<Party> {
        self.owners.get(uid).copied()
    }

    /// All of the workers here that are known.
    pub fn iter(&self) -> impl Iterator<Item = (Uid, WorkerId)> {
        self.owners.iter().filter_map(|(uid, owner)| match owner {
            Party::Worker(worker) => Some((*uid, *worker)),
            Party::Bus => None,
        })
    }

    /// `uid` is `owner`'s.
    pub fn learn(&mut self, uid: Uid, owner: Party) {
        self.owners.insert(uid, owner);
    }

    /// Nobody answers to `uid` any more.
    pub fn forget(&mut self, uid: &Uid) {
        self.owners.remove(uid);
    }

    /// A worker is gone, and all its uids.
    pub fn forget_worker(&mut self, worker: WorkerId) {
        self.owners.retain(|_, owner| *owner != Party::Worker(worker));
    }
}
