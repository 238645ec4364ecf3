//! The ring between shards: how a packet, a socket or an order reaches another thread.
//!
//! One bounded lock-free queue per shard, many writers, one reader, and an eventfd that is written
//! once for a batch: a reader that has been told and has not yet looked is not told again. Bounded
//! twice, in mail and in bytes of packets; what does not fit stays with its sender, who then reads
//! no more from its workers until it does. The bus to other hosts has a ring of its own: what does not
//! fit there is not sent, and counted, since workers are never held back by what is far away.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam::queue::ArrayQueue;

use super::connection::Transit;
use super::listener::Listener;
use crate::ipc::Serialization;
use crate::ipc::message::Uid;
use crate::ipc::reply::SockName;
use crate::route::WorkerId;
use crate::sys::wake::Wake;

/// Pieces of mail in a ring.
const CAPACITY: usize = 8192;
/// Bytes of packets in a ring. One larger packet passes when the ring has none.
const CAPACITY_BYTES: usize = 16 << 20;
/// Packets in the bus's ring: what a worker says while the bus's thread is busy with a large one.
const BUS_CAPACITY: usize = 32_768;
/// Bytes in the bus's ring.
const BUS_CAPACITY_BYTES: usize = 128 << 20;

/// What one thread tells a shard.
#[derive(Debug)]
pub enum Mail {
    /// A packet for the workers of this shard.
    Packet(Packet),
    /// A connection for a worker of this shard.
    Connection {
        /// The client's socket.
        socket: OwnedFd,
        /// What is known of it.
        transit: Box<Transit>,
    },
    /// A client of a router that has died; nothing of its request has been read.
    Kept {
        /// Its socket.
        socket: OwnedFd,
        /// Where it arrived.
        listener: Arc<Listener>,
    },
    /// A worker has been started; its channel is this shard's from now on.
    Attach {
        /// The worker.
        worker: WorkerId,
        /// Our end of its channel.
        channel: OwnedFd,
        /// How it writes its frames.
        serialization: Serialization,
        /// Its Node stalls when a frame's length is split between two reads.
        whole_headers: bool,
    },
    /// What the worker has written to a router that died before it read it; comes after `Attach`.
    Unread(WorkerId, Bytes),
    /// Sockets for the worker may be sent on its lane; comes to every shard, before `Attach`.
    Lane {
        /// The worker.
        worker: WorkerId,
        /// Our end.
        ours: OwnedFd,
        /// A share of the worker's end, to read back what it has not read.
        theirs: OwnedFd,
    },
    /// The worker's lane is closed.
    LaneClosed(WorkerId),
    /// Clients of this listener may wait to be spoken to.
    AcceptSilent(Arc<Listener>),
    /// The worker's process is gone.
    Detach(WorkerId),
    /// Ask the worker's preload to drain it.
    Drain {
        /// The worker.
        worker: WorkerId,
        /// How long it has.
        within: Duration,
        /// The last part of that, in which the clients that are left are disconnected.
        over: Duration,
    },
    /// Write `'shutdown'` on the worker's channel.
    Shutdown(WorkerId),
    /// Connections of `listener` arrive on this descriptor from now on.
    Listen {
        /// The listener.
        listener: Arc<Listener>,
        /// This shard's descriptor for it.
        socket: OwnedFd,
    },
    /// Close this shard's descriptor of a listener.
    Unlisten(Arc<Listener>),
    /// Sockets of the sender's lie unread in this worker's lane since then: read them back.
    LaneLate(WorkerId, Instant),
    /// The answer to a worker's request to listen.
    ListenReply {
        /// The worker that asked.
        worker: WorkerId,
        /// The request's sequence number.
        ack: i64,
        /// What it got.
        answer: Answer,
    },
    /// Workers became ready: waiting connections may go.
    RosterChanged,
    /// Sessions were announced elsewhere: look again for those that are waited for.
    SessionsAnnounced,
    /// Nobody's queue is over its bound any more.
    FlowResumes,
    /// Accept no more; refuse who waits for a worker.
    StopAccepting,
    /// Answer, by [`super::Shared::beats`].
    Beat,
    /// End the thread, and give the shard back with its descriptors: see `rest.rs`.
    Rest,
    /// End the thread.
    Exit,
}

/// What a worker that asked to listen got.
#[derive(Debug)]
pub enum Answer {
    /// The router listens for it.
    Listening {
        /// Where its connections come from.
        listener: Arc<Listener>,
        /// What `address()` shall say; none for a Unix socket.
        name: Option<SockName>,
        /// As in [`crate::ipc::message::QueryServer`], of the first worker.
        ticket_keys: Option<String>,
    },
    /// It gets a socket of its own (UDP).
    Socket(OwnedFd),
    /// The same, once the engine keeps the socket.
    Granted,
    /// A negative errno.
    Refused(i32),
}

/// One end of a packet's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Party {
    /// A worker of this router.
    Worker(WorkerId),
    /// Other hosts.
    Bus,
}

/// An adapter packet for other hosts.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// The frame, as its sender wrote it.
    pub frame: Bytes,
    /// How.
    pub serialization: Serialization,
    /// Who sent it.
    pub from: WorkerId,
}

/// An adapter packet on its way.
#[derive(Clone, Debug)]
pub struct Packet {
    /// The frame, as its sender wrote it.
    pub frame: Bytes,
    /// Who sent it: it does not get it back.
    pub from: Party,
    /// Only this one gets it.
    pub to: Option<Party>,
    /// The sender answers to this uid.
    pub learn: Option<Uid>,
    /// Nobody answers to this uid any more.
    pub forget: Option<Uid>,
}

/// What a ring carries.
pub trait Piece: Sized {
    /// Pieces in a ring.
    const CAPACITY: usize;
    /// Bytes of packets in a ring.
    const CAPACITY_BYTES: usize;

    /// Bytes of the packet that it is, or 0.
    fn packet_bytes(&self) -> usize;
}

impl Piece for Mail {
    const CAPACITY: usize = CAPACITY;
    const CAPACITY_BYTES: usize = CAPACITY_BYTES;

    fn packet_bytes(&self) -> usize {
        match self {
            Self::Packet(packet) => packet.frame.len(),
            _ => 0,
        }
    }
}

impl Piece for Outgoing {
    const CAPACITY: usize = BUS_CAPACITY;
    const CAPACITY_BYTES: usize = BUS_CAPACITY_BYTES;

    fn packet_bytes(&self) -> usize {
        self.frame.len()
    }
}

/// A thread's end of the rings: everybody posts, the thread takes.
#[derive(Debug)]
pub struct Mailbox<M = Mail> {
    queue: ArrayQueue<M>,
    packet_bytes: AtomicUsize,
    told: AtomicBool,
    wake: Arc<Wake>,
}

impl<M: Piece> Mailbox<M> {
    /// An empty mailbox whose reader waits on `wake`.
    #[must_use]
    pub fn new(wake: Arc<Wake>) -> Self {
        Self {
            queue: ArrayQueue::new(M::CAPACITY),
            packet_bytes: AtomicUsize::new(0),
            told: AtomicBool::new(false),
            wake,
        }
    }

    /// The eventfd its reader waits on.
    #[must_use]
    pub fn wake(&self) -> &Wake {
        &self.wake
    }

    /// Pieces in it, and bytes of their packets.
    #[must_use]
    pub fn depth(&self) -> (usize, usize) {
        (self.queue.len(), self.packet_bytes.load(Ordering::Relaxed))
    }

    /// Puts one piece in, without waking the reader: [`Self::tell`] does, once for a batch.
    ///
    /// # Errors
    /// The ring is full; the mail is given back.
    pub fn post(&self, mail: M) -> Result<(), M> {
        let bytes = mail.packet_bytes();
        if bytes > 0 {
            let held = self.packet_bytes.fetch_add(bytes, Ordering::AcqRel);
            if held > 0 && held + bytes > M::CAPACITY_BYTES {
                self.packet_bytes.fetch_sub(bytes, Ordering::AcqRel);
                return Err(mail);
            }
        }
        self.queue.push(mail).inspect_err(|_| {
            self.packet_bytes.fetch_sub(bytes, Ordering::AcqRel);
        })
    }

    /// Wakes the reader, unless it has been woken and has not looked since.
    pub fn tell(&self) {
        if !self.told.swap(true, Ordering::AcqRel) {
            self.wake.wake();
        }
    }

    /// The reader is looking: whoever posts from now on tells again. Comes before the first
    /// [`Self::take`] of a turn, so that nothing posted after the last one stays unseen.
    pub fn looking(&self) {
        self.wake.clear();
        self.told.swap(false, Ordering::AcqRel);
    }

    /// Takes the oldest piece.
    pub fn take(&self) -> Option<M> {
        let mail = self.queue.pop()?;
        self.packet_bytes.fetch_sub(mail.packet_bytes(), Ordering::AcqRel);
        Some(mail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mailbox() -> Mailbox<Mail> {
        Mailbox::new(Arc::new(Wake::new().expect("an eventfd")))
    }

    fn packet(bytes: usize) -> Mail {
        Mail::Packet(Packet {
            frame: Bytes::from(vec![0; bytes]),
            from: Party::Worker(WorkerId { slot: 0, generation: 1 }),
            to: None,
            learn: None,
            forget: None,
        })
    }

    #[test]
    fn a_full_ring_gives_the_mail_back_and_takes_it_later() {
        let mailbox = mailbox();
        for _ in 0..CAPACITY {
            mailbox.post(Mail::RosterChanged).expect("room");
        }
        assert!(mailbox.post(Mail::Exit).is_err());
        assert!(mailbox.take().is_some());
        mailbox.post(Mail::Exit).expect("room again");
    }

    #[test]
    fn bytes_are_bounded_but_one_large_packet_always_passes() {
        let mailbox = mailbox();
        mailbox.post(packet(CAPACITY_BYTES * 2)).expect("the ring held nothing");
        let back = mailbox.post(packet(1)).expect_err("full of bytes");
        assert!(mailbox.take().is_some());
        mailbox.post(back).expect("room again");
        for _ in 0..15 {
            mailbox.post(packet(1 << 20)).expect("room");
        }
        assert!(mailbox.post(packet(1 << 20)).is_err());
    }

    #[test]
    fn order_is_kept_between_threads_and_none_is_lost() {
        const EACH: u32 = 20_000;
        let mailbox = Arc::new(mailbox());
        std::thread::scope(|scope| {
            for slot in 0..2_u16 {
                let mailbox = &mailbox;
                scope.spawn(move || {
                    for generation in 1..=EACH {
                        let mut mail = Mail::Detach(WorkerId { slot, generation });
                        while let Err(back) = mailbox.post(mail) {
                            mail = back;
                            std::thread::yield_now();
                        }
                        mailbox.tell();
                    }
                });
            }
            let mut last = [0; 2];
            while last != [EACH, EACH] {
                mailbox.looking();
                while let Some(mail) = mailbox.take() {
                    let Mail::Detach(worker) = mail else { panic!("not what was posted") };
                    let before = &mut last[usize::from(worker.slot)];
                    assert_eq!(worker.generation, *before + 1);
                    *before = worker.generation;
                }
                std::thread::yield_now();
            }
        });
    }
}
