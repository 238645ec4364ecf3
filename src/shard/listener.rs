//! A place where connections arrive, and which workers serve it.
//!
//! Two kinds. The pool's (`--listen`, or the default port) speaks HTTP and any ready worker serves
//! it. One that an application opened by `listen()` is served by the workers that did so, and may
//! speak anything.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::route::WorkerId;
use crate::route::roster::MAX_SLOTS;

/// Names a listener in this run of the router.
pub type ListenerId = u32;

/// Whose the listener is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    /// By slot: the generation that serves here, 0 for none.
    serving: Box<[AtomicU32]>,
}

impl Listener {
    /// A listener that nobody serves yet.
    #[must_use]
    pub fn new(id: ListenerId, kind: Kind, slots: usize) -> Self {
        let slots = slots.min(MAX_SLOTS);
        Self { id, kind, serving: (0..slots).map(|_| AtomicU32::new(0)).collect() }
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
        self.kind == Kind::Pool
            || self
                .serving
                .get(usize::from(worker.slot))
                .is_some_and(|generation| generation.load(Ordering::Acquire) == worker.generation)
    }

    /// `worker` has begun to serve here.
    pub fn join(&self, worker: WorkerId) {
        if let Some(generation) = self.serving.get(usize::from(worker.slot)) {
            generation.store(worker.generation, Ordering::Release);
        }
    }

    /// `worker` serves here no longer.
    pub fn leave(&self, worker: WorkerId) {
        if let Some(generation) = self.serving.get(usize::from(worker.slot)) {
            // An error means that a successor serves already.
            let _successor = generation.compare_exchange(
                worker.generation,
                0,
                Ordering::AcqRel,
                Ordering::Relaxed,
            );
        }
    }
}
