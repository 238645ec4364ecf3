//! The session table: which worker announced a session id.
//!
//! Shared by all shards. 256 partitions, each a small hash table behind a mutex held for one
//! lookup or insertion: shards rarely meet, and a partition that grows moves a 256th of the
//! sessions, so a million of them come without a stall. An id of up to 22 bytes (engine.io's has
//! 20) lies inside its entry: 32 bytes, under 80 with the table's spare room. An id is hashed once:
//! some bits choose the partition, others the place in it.
//!
//! A dead worker's entries are misses at once, because the caller asks the roster about every
//! answer; [`SessionTable::sweep`] takes them out later, a partition at a time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crossbeam::utils::CachePadded;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::{WorkerId, hash};

/// Sessions held at most; an announcement beyond that is refused and its requests go by hash.
pub const MAX_SESSIONS: usize = 8_000_000;
/// Longest id that is kept, in bytes: a longer one does not fit a request line either.
pub const MAX_SID: usize = 8192;

const PARTITIONS: usize = 256;
const INLINE: usize = 22;

type Partition = HashTable<(Sid, WorkerId)>;

/// Session id to worker.
#[derive(Debug)]
pub struct SessionTable {
    partitions: Box<[CachePadded<Mutex<Partition>>]>,
    count: AtomicUsize,
}

/// A session id as it is kept: up to 22 bytes without an allocation; the enum's tag takes the
/// byte that makes it 24.
#[derive(Clone, Debug, Eq)]
pub struct Sid(Stored);

#[derive(Clone, Debug, Eq, PartialEq)]
enum Stored {
    Inline { length: u8, bytes: [u8; INLINE] },
    Boxed(Box<[u8]>),
}

const _: () = assert!(size_of::<(Sid, WorkerId)>() == 32);

impl Sid {
    /// A copy of `sid`, inside itself when it is short enough.
    #[must_use]
    pub fn new(sid: &[u8]) -> Self {
        match u8::try_from(sid.len()) {
            Ok(length) if sid.len() <= INLINE => {
                let mut bytes = [0; INLINE];
                bytes[..sid.len()].copy_from_slice(sid);
                Self(Stored::Inline { length, bytes })
            }
            _ => Self(Stored::Boxed(sid.into())),
        }
    }

    /// The id, as it came.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Stored::Inline { length, bytes } => &bytes[..usize::from(*length)],
            Stored::Boxed(bytes) => bytes,
        }
    }
}

impl PartialEq for Sid {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

/// An announcement that was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// See [`MAX_SID`].
    #[error("session id too long: {got} > {MAX_SID} bytes")]
    TooLong {
        /// Length in bytes.
        got: usize,
    },
    /// See [`MAX_SESSIONS`].
    #[error("session table full: {MAX_SESSIONS} sessions")]
    Full,
}

impl SessionTable {
    /// An empty table.
    #[must_use]
    pub fn new() -> Self {
        let partition = || CachePadded::new(Mutex::new(Partition::new()));
        Self {
            partitions: (0..PARTITIONS).map(|_| partition()).collect(),
            count: AtomicUsize::new(0),
        }
    }

    /// Sessions held, dead workers' ones included until they are swept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Whether no session is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The worker that announced `sid`, dead or alive.
    #[must_use]
    pub fn get(&self, sid: &[u8]) -> Option<WorkerId> {
        let hash = hash(sid);
        self.partition(hash).find(hash, is(sid)).map(|(_, worker)| *worker)
    }

    /// Notes that `sid` is `worker`'s, and gives whose it was before: the later announcement of
    /// an id wins.
    ///
    /// # Errors
    /// The id or the table is at its bound; nothing was noted.
    pub fn insert(&self, sid: &[u8], worker: WorkerId) -> Result<Option<WorkerId>, Refused> {
        if sid.len() > MAX_SID {
            return Err(Refused::TooLong { got: sid.len() });
        }
        if self.len() >= MAX_SESSIONS {
            return Err(Refused::Full);
        }
        let hash = hash(sid);
        match self.partition(hash).entry(hash, is(sid), rehash) {
            Entry::Occupied(mut entry) => {
                Ok(Some(std::mem::replace(&mut entry.get_mut().1, worker)))
            }
            Entry::Vacant(entry) => {
                entry.insert((Sid::new(sid), worker));
                self.count.fetch_add(1, Ordering::Relaxed);
                Ok(None)
            }
        }
    }

    /// Forgets `sid` if it is `worker`'s. Tells whether it was.
    pub fn remove(&self, sid: &[u8], worker: WorkerId) -> bool {
        let hash = hash(sid);
        let mut partition = self.partition(hash);
        let known = partition.find_entry(hash, is(sid)).ok();
        let Some(entry) = known.filter(|entry| entry.get().1 == worker) else { return false };
        entry.remove();
        self.count.fetch_sub(1, Ordering::Relaxed);
        true
    }

    /// Takes dead entries out of one partition, `turn` choosing which; 256 turns in a row do all.
    pub fn sweep(&self, turn: usize, alive: impl Fn(WorkerId) -> bool) {
        let mut partition = lock(&self.partitions[turn % PARTITIONS]);
        let before = partition.len();
        partition.retain(|(_, worker)| alive(*worker));
        let gone = before - partition.len();
        if gone > 0 {
            let spare = partition.len() * 2;
            partition.shrink_to(spare, rehash);
            self.count.fetch_sub(gone, Ordering::Relaxed);
        }
    }

    /// Every session and its worker, a partition at a time.
    pub fn each(&self, mut see: impl FnMut(&[u8], WorkerId)) {
        for partition in &self.partitions {
            lock(partition).iter().for_each(|(sid, worker)| see(sid.as_bytes(), *worker));
        }
    }

    /// How many turns make a whole [`Self::sweep`].
    #[must_use]
    pub const fn sweep_turns() -> usize {
        PARTITIONS
    }

    fn partition(&self, hash: u64) -> MutexGuard<'_, Partition> {
        // The tables inside use the hash's low and high bits; the partition takes middle ones.
        let index = usize::try_from(hash >> 32 & 0xff).unwrap_or(0);
        lock(&self.partitions[index])
    }
}

/// Whether an entry is the one of this id.
fn is(sid: &[u8]) -> impl Fn(&(Sid, WorkerId)) -> bool {
    move |(known, _)| known.as_bytes() == sid
}

/// A table that grows asks for the hashes again.
fn rehash((sid, _): &(Sid, WorkerId)) -> u64 {
    hash(sid.as_bytes())
}

/// A shard that panics ends the process, so a poisoned lock is never seen in practice.
fn lock(partition: &Mutex<Partition>) -> MutexGuard<'_, Partition> {
    partition.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: WorkerId = WorkerId { slot: 0, generation: 1 };
    const B: WorkerId = WorkerId { slot: 1, generation: 1 };

    #[test]
    fn ids_of_any_length_and_alphabet_come_back() {
        let table = SessionTable::new();
        let ids: Vec<Vec<u8>> = (1..100_usize)
            .map(|n| vec![u8::try_from(n % 256).expect("small"); n * 7])
            .chain([vec![0], "\u{20ac} & = /".into(), b"k3v8dVx1x5wrRwnmAAAB".to_vec()])
            .collect();
        for (n, id) in ids.iter().enumerate() {
            table.insert(id, if n % 2 == 0 { A } else { B }).expect("in bounds");
        }
        for (n, id) in ids.iter().enumerate() {
            assert_eq!(table.get(id), Some(if n % 2 == 0 { A } else { B }));
        }
        assert_eq!(table.len(), ids.len());
        assert_eq!(table.get(b""), None);
    }

    #[test]
    fn only_the_owner_removes_and_the_last_announcement_wins() {
        let table = SessionTable::new();
        table.insert(b"sid", A).expect("in bounds");
        assert!(!table.remove(b"sid", B));
        table.insert(b"sid", B).expect("in bounds");
        assert_eq!((table.get(b"sid"), table.len()), (Some(B), 1));
        assert!(table.remove(b"sid", B));
        assert!(!table.remove(b"sid", B));
        assert!(table.is_empty());
    }

    #[test]
    fn a_sweep_leaves_the_living() {
        let table = SessionTable::new();
        for n in 0..10_000_u32 {
            table.insert(&n.to_le_bytes(), if n % 3 == 0 { A } else { B }).expect("in bounds");
        }
        for turn in 0..SessionTable::sweep_turns() {
            table.sweep(turn, |worker| worker == A);
        }
        assert_eq!(table.len(), 3334);
        assert_eq!(table.get(&3_u32.to_le_bytes()), Some(A));
        assert_eq!(table.get(&4_u32.to_le_bytes()), None);
    }

    #[test]
    fn the_bound_on_an_id_is_kept() {
        let table = SessionTable::new();
        assert_eq!(table.insert(&[b'x'; MAX_SID], A), Ok(None));
        let refused = table.insert(&[b'x'; MAX_SID + 1], A);
        assert_eq!(refused, Err(Refused::TooLong { got: MAX_SID + 1 }));
    }
}
