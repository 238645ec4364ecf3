//! A place where connections arrive, and which workers serve it.
//!
//! Two kinds. The pool's (`--listen`, or the default port) speaks HTTP and any ready worker serves
//! it. One that an application opened by `listen()` is served by the workers that did so, and may
//! speak anything; a preload says what.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::ipc::message::Speaks;
use crate::route::{MAX_SEATS, WorkerId};

/// Names a listener in this run of the router.
pub type ListenerId = u32;

/// Whose the listener is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// The router's own: HTTP, all ready workers.
    Pool,
    /// Opened by the application: whatever it speaks, the workers that listen on it.
    App,
}

/// Shared by the shards; each has its own descriptor for it.
#[derive(Debug)]
pub struct Listener {
    id: ListenerId,
    kind: Kind,
    /// By seat: generation << 32 | number of the server in the worker; 0 for none.
    serving: Box<[AtomicU64]>,
    /// By seat: when its worker last gave a connection back for want of room, in milliseconds.
    refused: Box<[AtomicU64]>,
    /// What the servers speak, once a preload has said so.
    speaks: AtomicU8,
}

/// A listener as it crosses an upgrade.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Frozen {
    id: ListenerId,
    kind: Kind,
    serving: Vec<(usize, u64)>,
    speaks: u8,
}

impl Frozen {
    /// Its name.
    #[must_use]
    pub fn id(&self) -> ListenerId {
        self.id
    }
}

/// How long a worker that had no room is left alone, in milliseconds.
const REFUSED_WAIT: u64 = 100;

const HTTP: u8 = 0;
const TLS: u8 = 1;
const OTHER: u8 = 2;

impl Listener {
    /// A listener that nobody serves yet.
    #[must_use]
    pub fn new(id: ListenerId, kind: Kind) -> Self {
        let serving = (0..MAX_SEATS).map(|_| AtomicU64::new(0)).collect();
        let refused = (0..MAX_SEATS).map(|_| AtomicU64::new(0)).collect();
        Self { id, kind, serving, refused, speaks: AtomicU8::new(HTTP) }
    }

    /// Who serves here, for another process: see [`Self::thaw`].
    #[must_use]
    pub fn freeze(&self) -> Frozen {
        let words = self.serving.iter().map(|serving| serving.load(Ordering::Acquire));
        let serving = words.enumerate().filter(|(_, word)| *word != 0).collect();
        Frozen {
            id: self.id,
            kind: self.kind,
            serving,
            speaks: self.speaks.load(Ordering::Relaxed),
        }
    }

    /// The same, and nobody serves there.
    #[must_use]
    pub fn unserved(&self) -> Frozen {
        Frozen { serving: Vec::new(), ..self.freeze() }
    }

    /// The listener that an earlier process has frozen.
    #[must_use]
    pub fn thaw(frozen: &Frozen) -> Self {
        let listener = Self::new(frozen.id, frozen.kind);
        for (seat, word) in &frozen.serving {
            if let Some(serving) = listener.serving.get(*seat) {
                serving.store(*word, Ordering::Relaxed);
            }
        }
        listener.speaks.store(frozen.speaks, Ordering::Relaxed);
        listener
    }

    /// Its name.
    #[must_use]
    pub fn id(&self) -> ListenerId {
        self.id
    }

    /// Whose it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether `worker` takes connections that arrive here.
    #[must_use]
    pub fn is_served_by(&self, worker: WorkerId) -> bool {
        self.kind == Kind::Pool || self.server_of(worker).is_some()
    }

    /// The number of the server in `worker` that takes connections that arrive here.
    #[must_use]
    pub fn server_of(&self, worker: WorkerId) -> Option<u32> {
        let word = self.serving.get(worker.seat())?.load(Ordering::Acquire);
        (word >> 32 == u64::from(worker.generation))
            .then(|| u32::try_from(word & u64::from(u32::MAX)).unwrap_or(0))
    }

    /// `worker` has begun to serve here, by its server of this number.
    pub fn join(&self, worker: WorkerId, server: u32) {
        if let Some(serving) = self.serving.get(worker.seat()) {
            let word = u64::from(worker.generation) << 32 | u64::from(server);
            serving.store(word, Ordering::Release);
            self.refused_by(worker, 0);
        }
    }

    /// `worker` has given back a connection that it has no room for. It may be another connection
    /// each time, as far as anybody can tell: so it is the worker that is left alone for a while.
    pub fn refused_by(&self, worker: WorkerId, now: u64) {
        if let Some(refused) = self.refused.get(worker.seat()) {
            refused.store(now, Ordering::Relaxed);
        }
    }

    /// Whether `worker` had no room just now.
    #[must_use]
    pub fn is_refused_by(&self, worker: WorkerId, now: u64) -> bool {
        let refused = self.refused.get(worker.seat());
        let since = refused.map_or(0, |refused| refused.load(Ordering::Relaxed));
        since != 0 && now < since + REFUSED_WAIT
    }

    /// `worker` serves here no longer.
    pub fn leave(&self, worker: WorkerId) {
        if let Some(serving) = self.serving.get(worker.seat()) {
            // An error means that a successor serves already.
            let _successor = serving.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |word| {
                (word >> 32 == u64::from(worker.generation)).then_some(0)
            });
        }
    }

    /// A preload has said what its server here speaks.
    pub fn set_speaks(&self, speaks: Speaks) {
        let speaks = match speaks {
            Speaks::Http => HTTP,
            Speaks::Tls => TLS,
            Speaks::Other => OTHER,
        };
        self.speaks.store(speaks, Ordering::Relaxed);
    }

    /// Whether a client may have to be handed on before it has said anything.
    #[must_use]
    pub fn may_speak_first(&self) -> bool {
        self.speaks.load(Ordering::Relaxed) == OTHER
    }

    /// Whether a TLS hello is what belongs here.
    #[must_use]
    pub fn takes_tls(&self) -> bool {
        self.kind == Kind::App || self.speaks.load(Ordering::Relaxed) == TLS
    }
}
