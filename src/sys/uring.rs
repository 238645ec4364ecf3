//! An io_uring with its operations in flight and its provided buffers.
//!
//! **What the kernel may still touch stays here.** An operation owns its memory and a share of its
//! descriptor (`Rc<OwnedFd>`) from submission until its last completion: a descriptor cannot be
//! closed, nor a buffer freed, under an operation that uses it. Whoever loses interest cancels and
//! forgets; a socket that an accept delivers after that is an `OwnedFd` and closes itself.
//!
//! **Completions are collected, then acted on.** [`Ring::wait`] submits what was queued, waits and
//! returns everything that is done, in the kernel's order. Nothing runs inside the reap.
//!
//! Needs Linux 6.1: multishot accept and receive, buffer rings, SINGLE_ISSUER with DEFER_TASKRUN.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use bytes::Bytes;
use io_uring::types::{BufRingEntry, CancelBuilder, Fd, RecvMsgOut, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use slab::Slab;

use super::scm::MAX_RECEIVED;

/// Submissions queued between two waits; when it is full the queue is submitted early.
const SUBMISSIONS: u32 = 1024;
/// Completions the kernel keeps for us before it falls back to a slower list of its own.
const COMPLETIONS: u32 = 8192;
/// Provided buffers of a ring: a channel read takes one and gives it back in the same turn.
const BUFFERS: u16 = 128;
/// Bytes of one provided buffer.
const BUFFER_SIZE: usize = 16 << 10;
const BUFFER_GROUP: u16 = 0;
/// `user_data` of submissions whose completion says nothing.
const UNTRACKED: u64 = u64::MAX;
/// Room for the control message of one hand-off: a header and one descriptor, aligned.
const CONTROL: usize = 24;
const _: () = assert!(size_of::<libc::cmsghdr>() + size_of::<i32>() <= CONTROL);

/// Names an operation in flight, to cancel it. Valid until its last completion is returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpId(usize);

/// One finished step of an operation; `tag` is what the caller gave when it started it.
#[derive(Debug)]
pub struct Done<T> {
    /// The caller's name for the operation.
    pub tag: T,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of an operation. `armed` says that a multishot operation goes on by itself.
#[derive(Debug)]
pub enum Outcome {
    /// A connection: non-blocking, close-on-exec.
    Accepted {
        /// The socket, or why there is none.
        socket: io::Result<OwnedFd>,
        /// More will come without being asked.
        armed: bool,
    },
    /// The first `result` bytes of `buffer` are what has arrived and was left in place.
    Peeked {
        /// Bytes seen, 0 at the end of the stream.
        result: io::Result<usize>,
        /// The buffer that was lent to the kernel.
        buffer: Box<[u8]>,
    },
    /// A socket went, whole, or not at all.
    Handed(io::Result<()>),
    /// So many bytes of the frames went.
    Sent {
        /// Bytes written.
        result: io::Result<usize>,
        /// The frames, back.
        frames: Vec<Bytes>,
    },
    /// Bytes, and sockets beside them. Give the buffer back with [`Ring::recycle`].
    Received {
        /// The bytes lie in this provided buffer; `None` at the end of the stream.
        result: io::Result<Option<Received>>,
        /// More will come without being asked.
        armed: bool,
    },
    /// The descriptor is ready for what was polled for (or in error, which a try will show).
    Ready,
}

/// Where received bytes lie, and the sockets that came with them.
#[derive(Debug)]
pub struct Received {
    /// Sockets the worker sent along.
    pub sockets: Vec<OwnedFd>,
    /// The provided buffer.
    buffer: u16,
    start: usize,
    end: usize,
}

/// What an operation in flight keeps alive.
#[expect(dead_code, reason = "the fields are held for the kernel, not read")]
enum Held {
    Accept(Rc<OwnedFd>),
    Peek(Rc<OwnedFd>, Box<[u8]>),
    HandOff(Box<HandOff>),
    Send(Box<Send>),
    Receive(Rc<OwnedFd>),
    Poll(Rc<OwnedFd>),
}

/// A message of one frame and one socket. Boxed: the kernel is given its address.
#[expect(dead_code, reason = "the descriptors are held for the kernel, not read")]
struct HandOff {
    message: libc::msghdr,
    slice: libc::iovec,
    control: Control,
    frame: Bytes,
    socket: Rc<OwnedFd>,
    channel: Rc<OwnedFd>,
}

#[repr(align(8))]
struct Control([u8; CONTROL]);

/// A message of many frames. Boxed: the kernel is given its address.
#[expect(dead_code, reason = "the descriptor is held for the kernel, not read")]
struct Send {
    message: libc::msghdr,
    slices: Vec<libc::iovec>,
    frames: Vec<Bytes>,
    channel: Rc<OwnedFd>,
}

struct InFlight<T> {
    tag: T,
    held: Held,
}

/// The ring of one thread. `T` is the caller's name for an operation.
pub struct Ring<T: Copy> {
    // Dropped before what its operations point to; see `Drop`.
    ring: IoUring,
    in_flight: Slab<InFlight<T>>,
    buffers: Buffers,
    /// The shape of a multishot receive: no name, room for control messages.
    receive_shape: Box<libc::msghdr>,
    completions: Vec<cqueue::Entry>,
}

impl<T: Copy> fmt::Debug for Ring<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring").field("in_flight", &self.in_flight.len()).finish_non_exhaustive()
    }
}

/// Whether this process may use io_uring as the engine does: set a ring up with every flag,
/// register a buffer ring, run a no-op.
///
/// # Errors
/// The first step that fails: EPERM under a seccomp profile or the `io_uring_disabled` sysctl,
/// ENOSYS or EINVAL on an old kernel.
pub fn probe() -> io::Result<()> {
    let mut ring: Ring<()> = Ring::new()?;
    ring.push(&opcode::Nop::new().build().user_data(UNTRACKED));
    ring.ring.submit_and_wait(1)?;
    let result = ring.ring.completion().next().map_or(0, |entry| entry.result());
    if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(()) }
}

impl<T: Copy> Ring<T> {
    /// Sets the ring up for the calling thread, which must be the one that uses it.
    ///
    /// # Errors
    /// As io_uring_setup(2) and io_uring_register(2).
    pub fn new() -> io::Result<Self> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_cqsize(COMPLETIONS)
            .build(SUBMISSIONS)?;
        let buffers = Buffers::new();
        let entries = buffers.entries.as_ptr().expose_provenance() as u64;
        // SAFETY: the entries are page-aligned, `BUFFERS` long, and live in `self.buffers`, which
        // `Drop` frees only after no operation can use the group any more.
        unsafe {
            ring.submitter().register_buf_ring_with_flags(entries, BUFFERS, BUFFER_GROUP, 0)?;
        }
        // SAFETY: msghdr is plain data for which all zeroes is a valid value.
        let mut receive_shape: Box<libc::msghdr> = Box::new(unsafe { std::mem::zeroed() });
        receive_shape.msg_controllen = nix::cmsg_space!([i32; MAX_RECEIVED]).capacity();
        Ok(Self {
            ring,
            in_flight: Slab::new(),
            buffers,
            receive_shape,
            completions: Vec::with_capacity(COMPLETIONS as usize),
        })
    }

    /// Accepts until cancelled or until an error ends it.
    pub fn accept(&mut self, tag: T, listener: &Rc<OwnedFd>) -> OpId {
        let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        let entry = opcode::AcceptMulti::new(Fd(listener.as_raw_fd())).flags(flags).build();
        self.start(tag, Held::Accept(Rc::clone(listener)), &entry)
    }

    /// Copies what arrives into `buffer` and leaves it in the socket; waits for the first byte.
    pub fn peek(&mut self, tag: T, socket: &Rc<OwnedFd>, mut buffer: Box<[u8]>) -> OpId {
        let length = u32::try_from(buffer.len()).unwrap_or(u32::MAX);
        let entry = opcode::Recv::new(Fd(socket.as_raw_fd()), buffer.as_mut_ptr(), length)
            .flags(libc::MSG_PEEK)
            .build();
        self.start(tag, Held::Peek(Rc::clone(socket), buffer), &entry)
    }

    /// Sends `frame` with `socket` beside it, now or not at all.
    pub fn hand_off(
        &mut self,
        tag: T,
        channel: &Rc<OwnedFd>,
        frame: Bytes,
        socket: &Rc<OwnedFd>,
    ) -> OpId {
        let mut op = Box::new(HandOff {
            // SAFETY: msghdr is plain data for which all zeroes is a valid value.
            message: unsafe { std::mem::zeroed() },
            slice: libc::iovec { iov_base: frame.as_ptr().cast_mut().cast(), iov_len: frame.len() },
            control: Control::with(socket.as_raw_fd()),
            frame,
            socket: Rc::clone(socket),
            channel: Rc::clone(channel),
        });
        op.message.msg_iov = &raw mut op.slice;
        op.message.msg_iovlen = 1;
        op.message.msg_control = (&raw mut op.control.0).cast();
        op.message.msg_controllen = CONTROL;
        let flags = (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL).cast_unsigned();
        let entry = opcode::SendMsg::new(Fd(channel.as_raw_fd()), &raw const op.message)
            .flags(flags)
            .build();
        self.start(tag, Held::HandOff(op), &entry)
    }

    /// Sends `frames` from `offset` bytes into the first; waits until some of it can go.
    pub fn send(
        &mut self,
        tag: T,
        channel: &Rc<OwnedFd>,
        frames: Vec<Bytes>,
        offset: usize,
    ) -> OpId {
        let slices = frames.iter().enumerate().map(|(index, frame)| {
            let rest = frame.get(if index == 0 { offset } else { 0 }..).unwrap_or_default();
            libc::iovec { iov_base: rest.as_ptr().cast_mut().cast(), iov_len: rest.len() }
        });
        let mut op = Box::new(Send {
            // SAFETY: msghdr is plain data for which all zeroes is a valid value.
            message: unsafe { std::mem::zeroed() },
            slices: slices.collect(),
            frames,
            channel: Rc::clone(channel),
        });
        op.message.msg_iov = op.slices.as_mut_ptr();
        op.message.msg_iovlen = op.slices.len();
        let flags = libc::MSG_NOSIGNAL.cast_unsigned();
        let entry = opcode::SendMsg::new(Fd(channel.as_raw_fd()), &raw const op.message)
            .flags(flags)
            .build();
        self.start(tag, Held::Send(op), &entry)
    }

    /// Receives until cancelled, ended, or out of provided buffers.
    pub fn receive(&mut self, tag: T, channel: &Rc<OwnedFd>) -> OpId {
        let entry = opcode::RecvMsgMulti::new(
            Fd(channel.as_raw_fd()),
            &raw const *self.receive_shape,
            BUFFER_GROUP,
        )
        .flags(libc::MSG_CMSG_CLOEXEC.cast_unsigned())
        .build();
        self.start(tag, Held::Receive(Rc::clone(channel)), &entry)
    }

    /// Waits until `fd` can be read.
    pub fn poll_in(&mut self, tag: T, fd: &Rc<OwnedFd>) -> OpId {
        self.poll(tag, fd, libc::POLLIN | libc::POLLRDHUP)
    }

    /// Waits until `fd` can be written.
    pub fn poll_out(&mut self, tag: T, fd: &Rc<OwnedFd>) -> OpId {
        self.poll(tag, fd, libc::POLLOUT)
    }

    fn poll(&mut self, tag: T, fd: &Rc<OwnedFd>, events: i16) -> OpId {
        let events = u32::from(events.cast_unsigned());
        let entry = opcode::PollAdd::new(Fd(fd.as_raw_fd()), events).build();
        self.start(tag, Held::Poll(Rc::clone(fd)), &entry)
    }

    /// Asks for the end of an operation. Its last completion still comes.
    pub fn cancel(&mut self, op: OpId) {
        let entry = opcode::AsyncCancel::new(op.0 as u64).build().user_data(UNTRACKED);
        self.push(&entry);
    }

    /// Asks for the end of every operation. Their last completions still come.
    ///
    /// # Errors
    /// As io_uring_enter(2) and io_uring_register(2).
    pub fn cancel_all(&mut self) -> io::Result<()> {
        // What is only queued could not be cancelled.
        self.ring.submit()?;
        match self.ring.submitter().register_sync_cancel(None, CancelBuilder::any()) {
            // There was nothing to cancel.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            result => result,
        }
    }

    /// Whether no operation is in flight.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Closes the descriptor when this is its last share, in the same batch as everything else.
    pub fn close(&mut self, fd: Rc<OwnedFd>) {
        if let Ok(fd) = Rc::try_unwrap(fd) {
            use std::os::fd::IntoRawFd;
            let entry = opcode::Close::new(Fd(fd.into_raw_fd()))
                .build()
                .flags(squeue::Flags::SKIP_SUCCESS)
                .user_data(UNTRACKED);
            self.push(&entry);
        }
    }

    /// Submits what is queued, waits for a completion or the timeout, and appends everything that
    /// is done to `done`, oldest first.
    ///
    /// # Errors
    /// As io_uring_enter(2); an interrupted or timed-out wait is no error.
    pub fn wait(&mut self, timeout: Option<Duration>, done: &mut Vec<Done<T>>) -> io::Result<()> {
        let entered = match timeout {
            None => self.ring.submit_and_wait(1),
            Some(timeout) => {
                let timespec = Timespec::from(timeout);
                let args = SubmitArgs::new().timespec(&timespec);
                self.ring.submitter().submit_with_args(1, &args)
            }
        };
        if let Err(error) = entered {
            match error.raw_os_error() {
                // EBUSY: the completion queue must be emptied first, which is what comes next.
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => {}
                _ => return Err(error),
            }
        }
        self.reap(done);
        Ok(())
    }

    /// The bytes of a receive.
    #[must_use]
    pub fn bytes(&self, received: &Received) -> &[u8] {
        self.buffers.whole(received.buffer).get(received.start..received.end).unwrap_or_default()
    }

    /// Gives the buffer of a receive back to the kernel.
    pub fn recycle(&mut self, received: &Received) {
        self.buffers.provide(received.buffer);
    }

    fn reap(&mut self, done: &mut Vec<Done<T>>) {
        let mut completions = std::mem::take(&mut self.completions);
        completions.extend(self.ring.completion());
        for entry in completions.drain(..) {
            if entry.user_data() == UNTRACKED {
                continue;
            }
            let Ok(id) = usize::try_from(entry.user_data()) else { continue };
            if let Some(finished) = self.complete(id, &entry) {
                done.push(finished);
            }
        }
        self.completions = completions;
    }

    /// One completion: the operation ends unless the kernel says that more will come.
    fn complete(&mut self, id: usize, entry: &cqueue::Entry) -> Option<Done<T>> {
        let armed = cqueue::more(entry.flags());
        let result = match entry.result() {
            errno if errno < 0 => Err(io::Error::from_raw_os_error(-errno)),
            value => Ok(usize::try_from(value).unwrap_or(0)),
        };
        let tag = self.in_flight.get(id)?.tag;
        if armed {
            let outcome = match &self.in_flight.get(id)?.held {
                Held::Accept(_) => accepted(result, true),
                Held::Receive(_) => self.received(result, entry, true),
                _ => return None,
            };
            return Some(Done { tag, outcome });
        }
        let outcome = match self.in_flight.remove(id).held {
            Held::Accept(_) => accepted(result, false),
            Held::Peek(_, buffer) => Outcome::Peeked { result, buffer },
            Held::HandOff(op) => Outcome::Handed(match result {
                Ok(sent) if sent != op.frame.len() => Err(io::ErrorKind::InvalidData.into()),
                Ok(_) => Ok(()),
                Err(error) => Err(error),
            }),
            Held::Send(op) => Outcome::Sent { result, frames: op.frames },
            Held::Receive(_) => self.received(result, entry, false),
            Held::Poll(_) => Outcome::Ready,
        };
        Some(Done { tag, outcome })
    }

    fn received(
        &mut self,
        result: io::Result<usize>,
        entry: &cqueue::Entry,
        armed: bool,
    ) -> Outcome {
        let buffer = cqueue::buffer_select(entry.flags());
        let result = match (result, buffer) {
            (Ok(length), Some(buffer)) => Ok(self.received_in(buffer, length)),
            (Ok(_), None) => Ok(None),
            (Err(error), buffer) => {
                if let Some(buffer) = buffer {
                    self.buffers.provide(buffer);
                }
                Err(error)
            }
        };
        Outcome::Received { result, armed }
    }

    /// Reads the header the kernel put before the bytes. An empty message is the end.
    fn received_in(&mut self, buffer: u16, length: usize) -> Option<Received> {
        let whole = self.buffers.whole(buffer).get(..length).unwrap_or_default();
        let parsed = RecvMsgOut::parse(whole, &self.receive_shape).ok();
        let received = parsed.map(|out| {
            let sockets = sockets_of(out.control_data());
            let payload = out.payload_data().len();
            Received { sockets, buffer, start: length - payload, end: length }
        });
        let received = received.filter(|r| r.end > r.start);
        if received.is_none() {
            self.buffers.provide(buffer);
        }
        received
    }

    fn start(&mut self, tag: T, held: Held, entry: &squeue::Entry) -> OpId {
        let id = self.in_flight.insert(InFlight { tag, held });
        let entry = entry.clone().user_data(id as u64);
        self.push(&entry);
        OpId(id)
    }

    /// Queues a submission; a full queue is submitted first.
    fn push(&mut self, entry: &squeue::Entry) {
        loop {
            // SAFETY: what the entry points to is owned by `in_flight` (or nothing) until its
            // last completion is reaped.
            let pushed = unsafe { self.ring.submission().push(entry) };
            if pushed.is_ok() {
                return;
            }
            // With the queue full there is always something to submit; an error here repeats in
            // `wait`, which reports it.
            if self.ring.submit().is_err() {
                self.completions.extend(self.ring.completion());
            }
        }
    }
}

impl<T: Copy> Drop for Ring<T> {
    /// Ends every operation before the memory it uses goes.
    fn drop(&mut self) {
        const PATIENCE: Duration = Duration::from_millis(100);
        const TURNS: u32 = 20;
        // An error shows as operations that stay in flight.
        let _cancelled = self.cancel_all();
        let mut done = Vec::new();
        for _ in 0..TURNS {
            if self.in_flight.is_empty() || self.wait(Some(PATIENCE), &mut done).is_err() {
                break;
            }
            done.clear();
        }
        if !self.in_flight.is_empty() {
            // The kernel may still write to it: leaking is the lesser evil.
            #[expect(clippy::mem_forget, reason = "memory the kernel may still write to")]
            std::mem::forget(std::mem::take(&mut self.in_flight));
            self.buffers.leaked = true;
        }
    }
}

fn accepted(result: io::Result<usize>, armed: bool) -> Outcome {
    let socket = result.and_then(|fd| {
        let fd = i32::try_from(fd).map_err(io::Error::other)?;
        // SAFETY: the kernel has just made this descriptor for us and nobody else knows its
        // number.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    });
    Outcome::Accepted { socket, armed }
}

impl Control {
    /// A control message that carries one descriptor.
    fn with(fd: i32) -> Self {
        let mut control = Self([0; CONTROL]);
        let header = libc::cmsghdr {
            // SAFETY: CMSG_LEN only computes.
            cmsg_len: unsafe { libc::CMSG_LEN(4) } as usize,
            cmsg_level: libc::SOL_SOCKET,
            cmsg_type: libc::SCM_RIGHTS,
        };
        let start: *mut libc::cmsghdr = control.0.as_mut_ptr().cast();
        // SAFETY: `Control` is aligned for cmsghdr and larger than it (asserted above).
        unsafe { start.write(header) };
        let after = size_of::<libc::cmsghdr>();
        control.0[after..after + 4].copy_from_slice(&fd.to_ne_bytes());
        control
    }
}

/// Takes ownership of the descriptors in received control data.
fn sockets_of(control: &[u8]) -> Vec<OwnedFd> {
    const HEADER: usize = size_of::<libc::cmsghdr>();
    let mut sockets = Vec::new();
    let mut rest = control;
    while rest.len() >= HEADER {
        // SAFETY: at least a header's bytes are there, and `read_unaligned` needs no alignment.
        let header = unsafe { rest.as_ptr().cast::<libc::cmsghdr>().read_unaligned() };
        let length = header.cmsg_len.clamp(HEADER, rest.len());
        if header.cmsg_level == libc::SOL_SOCKET && header.cmsg_type == libc::SCM_RIGHTS {
            for fd in rest[HEADER..length].chunks_exact(4) {
                let fd = i32::from_ne_bytes([fd[0], fd[1], fd[2], fd[3]]);
                // SAFETY: the kernel has just made this descriptor for us and nobody else knows
                // its number.
                sockets.push(unsafe { OwnedFd::from_raw_fd(fd) });
            }
        }
        rest = &rest[length.next_multiple_of(align_of::<usize>()).min(rest.len())..];
    }
    sockets
}

/// The provided buffers and the ring in which they are offered, page-aligned as the kernel wants.
struct Buffers {
    entries: NonNull<BufRingEntry>,
    memory: NonNull<u8>,
    tail: u16,
    leaked: bool,
}

impl Buffers {
    const PAGE: usize = 4096;

    fn entries_layout() -> Layout {
        Self::layout(size_of::<BufRingEntry>() * usize::from(BUFFERS))
    }

    fn memory_layout() -> Layout {
        Self::layout(BUFFER_SIZE * usize::from(BUFFERS))
    }

    fn layout(size: usize) -> Layout {
        Layout::from_size_align(size, Self::PAGE).unwrap_or(Layout::new::<[u64; 512]>())
    }

    fn new() -> Self {
        let entries = Self::allocate(Self::entries_layout()).cast();
        let memory = Self::allocate(Self::memory_layout());
        let mut buffers = Self { entries, memory, tail: 0, leaked: false };
        for buffer in 0..BUFFERS {
            buffers.provide(buffer);
        }
        buffers
    }

    fn allocate(layout: Layout) -> NonNull<u8> {
        // SAFETY: the layouts are of non-zero size (constants above).
        let memory = unsafe { alloc_zeroed(layout) };
        NonNull::new(memory).unwrap_or_else(|| handle_alloc_error(layout))
    }

    /// The memory of one buffer. It is ours from the completion that names it until `provide`.
    fn whole(&self, buffer: u16) -> &[u8] {
        let offset = usize::from(buffer % BUFFERS) * BUFFER_SIZE;
        // SAFETY: `offset` is inside the allocation of `BUFFERS` times `BUFFER_SIZE` bytes.
        let start = unsafe { self.memory.add(offset) };
        // SAFETY: the bytes were zeroed at allocation, and the kernel does not write to a buffer
        // between its completion and `provide`, which needs `&mut self`.
        unsafe { std::slice::from_raw_parts(start.as_ptr(), BUFFER_SIZE) }
    }

    /// Offers a buffer to the kernel.
    fn provide(&mut self, buffer: u16) {
        let offset = usize::from(buffer % BUFFERS) * BUFFER_SIZE;
        // SAFETY: `offset` is inside the allocation.
        let start = unsafe { self.memory.add(offset) };
        // SAFETY: the index is below `BUFFERS`, the length of the entries.
        let mut entry = unsafe { self.entries.add(usize::from(self.tail % BUFFERS)) };
        // SAFETY: the kernel reads an entry only once the tail has passed it, below; until then
        // this is its only reference.
        let entry = unsafe { entry.as_mut() };
        entry.set_addr(start.as_ptr().expose_provenance() as u64);
        entry.set_len(u32::try_from(BUFFER_SIZE).unwrap_or(0));
        entry.set_bid(buffer % BUFFERS);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: `entries` is the first entry of the ring, initialised and alive.
        let tail = unsafe { BufRingEntry::tail(self.entries.as_ptr()) };
        // SAFETY: the tail is a u16 that the kernel reads and only this thread writes.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        if self.leaked {
            return;
        }
        // SAFETY: allocated by `new` with this layout; `Ring::drop` has ended every operation.
        unsafe { dealloc(self.entries.as_ptr().cast(), Self::entries_layout()) };
        // SAFETY: the same.
        unsafe { dealloc(self.memory.as_ptr(), Self::memory_layout()) };
    }
}
