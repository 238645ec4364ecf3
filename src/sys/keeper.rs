//! A process that shares this one's descriptors and outlives it.
//!
//! What is killed loses its descriptors, and with them the clients it had in hand. The keeper is a
//! second process on the same descriptor table (`CLONE_FILES` of clone(2)): while this one lives it
//! only waits, and when this one has ended it closes what nobody needs any more and gives the rest,
//! connections, to the next process that comes and asks.
//!
//! It is made by clone without exec out of a process with several threads, so that from there on
//! it makes system calls on what it has on its stack, and allocates and locks nothing.

use std::ffi::{CStr, c_void};
use std::io::{self, IoSliceMut};
use std::mem::{ManuallyDrop, offset_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, Shutdown, SockType, SockaddrLike,
    SockaddrStorage, UnixAddr, getsockname, getsockopt, recvmsg, shutdown, sockopt,
};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use super::pidfd::PidFd;
use super::syscall;

/// What `ps` shows.
const NAME: &CStr = c"router-keeper";
/// Bytes of the keeper's stack.
const STACK: usize = 256 << 10;
/// Descriptors in one message; the kernel takes up to 253.
const BATCH: usize = 128;
/// Goes with a batch.
const SOME: u8 = b'+';
/// Goes behind the last one.
const ALL: u8 = b'.';
/// How long one side of a hand-over may keep the other waiting.
const HAND_OVER: Duration = Duration::from_secs(5);
/// Between two tries to send what the kernel has no room for yet.
const TRY_AGAIN: Duration = Duration::from_millis(1);

/// What the keeper is told.
#[derive(Debug)]
pub struct Charge<'a> {
    /// The listening Unix socket on which the next process asks.
    pub door: BorrowedFd<'a>,
    /// Closed when all that is not kept has been: the next process may have it then.
    pub lock: BorrowedFd<'a>,
    /// Connections to Unix sockets in this directory are nobody's clients.
    pub directory: &'a Path,
    /// How long it waits for the next process.
    pub patience: Duration,
}

/// A keeper that waits. It goes on when this is dropped, and ends by [`Keeper::end`].
#[derive(Debug)]
pub struct Keeper {
    pid: Pid,
    keeper: PidFd,
    /// This process. The keeper watches it by the same number, since the table is one and the same:
    /// so it is closed by nobody while there is a keeper.
    kept_for: ManuallyDrop<PidFd>,
}

/// The same as numbers, which is all that crosses.
#[derive(Clone, Copy)]
struct Numbers {
    door: RawFd,
    lock: RawFd,
    /// Readable when the process that is kept for has ended.
    process: RawFd,
    patience: Duration,
    directory: [u8; PATH],
    length: usize,
}

/// Bytes of a Unix socket's path.
const PATH: usize = size_of::<libc::sockaddr_un>() - offset_of!(libc::sockaddr_un, sun_path);

impl Keeper {
    /// Starts a keeper for this process.
    ///
    /// # Errors
    /// The path is longer than a Unix socket's can be; as clone(2).
    pub fn start(charge: &Charge<'_>) -> io::Result<Self> {
        let path = charge.directory.as_os_str().as_bytes();
        let mut directory = [0; PATH];
        let room = directory.get_mut(..path.len()).ok_or(io::ErrorKind::InvalidFilename)?;
        room.copy_from_slice(path);
        let kept_for = PidFd::open(Pid::this())?;
        let mut numbers = Numbers {
            door: charge.door.as_raw_fd(),
            lock: charge.lock.as_raw_fd(),
            process: kept_for.as_raw_fd(),
            patience: charge.patience,
            directory,
            length: path.len(),
        };
        // Signals for the process group, or an operator's Ctrl-C, are not for the keeper; it is
        // born deaf, since what it inherits of handlers is not made for it.
        let mut before = SigSet::empty();
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut before))?;
        let cloned = clone(&mut numbers);
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&before), None)?;
        let pid = cloned?;
        let keeper = PidFd::open(pid)?;
        Ok(Self { pid, keeper, kept_for: ManuallyDrop::new(kept_for) })
    }

    /// Ends it, and returns when it has let go of the descriptors.
    ///
    /// # Errors
    /// As `pidfd_send_signal`(2).
    pub fn end(self) -> io::Result<()> {
        if let Err(error) = self.keeper.send_signal(Signal::SIGKILL)
            && error.raw_os_error() != Some(libc::ESRCH)
        {
            return Err(error);
        }
        let mut ended = [PollFd::new(self.keeper.as_fd(), PollFlags::POLLIN)];
        poll(&mut ended, PollTimeout::NONE)?;
        // Whoever reaps every child may have been first.
        let _reaped = waitpid(self.pid, Some(WaitPidFlag::WNOHANG));
        drop(ManuallyDrop::into_inner(self.kept_for));
        Ok(())
    }
}

fn clone(numbers: &mut Numbers) -> io::Result<Pid> {
    let mut stack = vec![0_u8; STACK];
    let top = stack.as_mut_ptr_range().end;
    let top = top.map_addr(|address| address & !15).cast::<c_void>();
    let flags = libc::CLONE_FILES | libc::SIGCHLD;
    let numbers = (&raw mut *numbers).cast::<c_void>();
    // SAFETY: without CLONE_VM the child has memory of its own, a copy with the stack and the
    // numbers at the same addresses, whatever becomes of ours. `attend` keeps to what is allowed in
    // the child of a process with several threads: it neither allocates nor locks.
    let pid = unsafe { libc::clone(attend, top, flags, numbers) };
    if pid < 0 { Err(io::Error::last_os_error()) } else { Ok(Pid::from_raw(pid)) }
}

/// The keeper's life.
extern "C" fn attend(numbers: *mut c_void) -> libc::c_int {
    // SAFETY: `clone` passes a pointer to its `Numbers`, of which this process has its own copy.
    let numbers = unsafe { *numbers.cast::<Numbers>() };
    // A name is a convenience; the pointer is to a static text that ends in a zero.
    let _named = syscall!(prctl(libc::PR_SET_NAME, NAME.as_ptr()));
    while !is_readable(numbers.process, None) {}
    sweep(&numbers);
    close(numbers.lock);
    let end = now() + numbers.patience;
    while is_readable(numbers.door, Some(end)) {
        if hand_over(numbers.door) {
            break;
        }
    }
    0
}

/// Waits for a descriptor; `false` when the time has come before, or a signal.
fn is_readable(descriptor: RawFd, end: Option<Instant>) -> bool {
    let left = end.map(|end| end.saturating_duration_since(now()));
    let timeout = left.map_or(-1, |left| i32::try_from(left.as_millis()).unwrap_or(i32::MAX));
    let mut entry = libc::pollfd { fd: descriptor, events: libc::POLLIN, revents: 0 };
    // The pointer is to `entry`, one entry long as the count says.
    syscall!(poll(&raw mut entry, 1, timeout)).is_ok() && entry.revents & libc::POLLIN != 0
}

/// What becomes of a descriptor of a process that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// A client's connection.
    Kept,
    /// One end of a pair: the other side shall read its end now, and what it has written before
    /// may still be wanted.
    Ended,
    Closed,
}

fn sweep(numbers: &Numbers) {
    let directory = numbers.directory.get(..numbers.length).unwrap_or_default();
    each_descriptor(|descriptor| {
        if descriptor == numbers.door || descriptor == numbers.lock {
            return;
        }
        // SAFETY: it has just been listed as open, and nobody else closes any here.
        let borrowed = unsafe { BorrowedFd::borrow_raw(descriptor) };
        match fate(borrowed, directory) {
            Fate::Kept => {}
            Fate::Ended => _ = shutdown(descriptor, Shutdown::Both),
            Fate::Closed => close(descriptor),
        }
    });
}

fn fate(descriptor: BorrowedFd<'_>, directory: &[u8]) -> Fate {
    // The standard three may be sockets that others share.
    if descriptor.as_raw_fd() <= libc::STDERR_FILENO
        || getsockopt(&descriptor, sockopt::SockType) != Ok(SockType::Stream)
        || getsockopt(&descriptor, sockopt::AcceptConn) != Ok(false)
    {
        return Fate::Closed;
    }
    let Ok(local) = getsockname::<SockaddrStorage>(descriptor.as_raw_fd()) else {
        return Fate::Closed;
    };
    match local.family() {
        // One with a bound on what goes unheard this process has made itself, to a server.
        Some(AddressFamily::Inet | AddressFamily::Inet6) => {
            match getsockopt(&descriptor, sockopt::TcpUserTimeout) {
                Ok(0) => Fate::Kept,
                _ => Fate::Closed,
            }
        }
        Some(AddressFamily::Unix) => {
            let local = local.as_unix_addr();
            let path = local.and_then(UnixAddr::path).map(|path| path.as_os_str().as_bytes());
            match path {
                Some(path) if path.starts_with(directory) => Fate::Closed,
                Some(_) => Fate::Kept,
                None if local.is_some_and(|local| local.as_abstract().is_some()) => Fate::Kept,
                None => Fate::Ended,
            }
        }
        _ => Fate::Closed,
    }
}

/// Gives everything that is left to whoever asks. `false`: it was not to have it, or went away.
fn hand_over(door: RawFd) -> bool {
    let none = std::ptr::null_mut();
    // The pointers are null: nobody asks for the peer's address.
    let Ok(caller) = syscall!(accept4(door, none, none.cast(), libc::SOCK_CLOEXEC)) else {
        return false;
    };
    // SAFETY: accept4 has just made this descriptor and nobody else knows its number.
    let caller = unsafe { OwnedFd::from_raw_fd(caller) };
    let peer = getsockopt(&caller, sockopt::PeerCredentials);
    if !peer.is_ok_and(|peer| peer.uid() == nix::unistd::geteuid().as_raw()) {
        return false;
    }
    let mut batch = [0; BATCH];
    let mut count = 0;
    let mut sent = true;
    each_descriptor(|descriptor| {
        if descriptor == door || descriptor == caller.as_raw_fd() {
            return;
        }
        if let Some(place) = batch.get_mut(count) {
            *place = descriptor;
            count += 1;
        }
        if count == BATCH {
            sent = sent && send(caller.as_raw_fd(), SOME, &batch);
            count = 0;
        }
    });
    let rest = batch.get(..count).unwrap_or_default();
    sent && (rest.is_empty() || send(caller.as_raw_fd(), SOME, rest))
        && send(caller.as_raw_fd(), ALL, &[])
}

/// Control data as cmsg(3) lays it out: the header is as long as its alignment asks for.
#[repr(C)]
struct Control {
    header: libc::cmsghdr,
    descriptors: [RawFd; BATCH],
}

/// One message.
fn send(to: RawFd, word: u8, descriptors: &[RawFd]) -> bool {
    let mut word = word;
    let mut piece = libc::iovec { iov_base: (&raw mut word).cast(), iov_len: 1 };
    // SAFETY: a cmsghdr is integers, for which zeroes are a value.
    let header: libc::cmsghdr = unsafe { std::mem::zeroed() };
    let mut control = Control { header, descriptors: [0; BATCH] };
    // SAFETY: a msghdr is integers and pointers, for which zeroes are a value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut piece;
    message.msg_iovlen = 1;
    if !descriptors.is_empty() {
        let Some(room) = control.descriptors.get_mut(..descriptors.len()) else { return false };
        room.copy_from_slice(descriptors);
        let length = offset_of!(Control, descriptors) + size_of_val(descriptors);
        control.header.cmsg_level = libc::SOL_SOCKET;
        control.header.cmsg_type = libc::SCM_RIGHTS;
        control.header.cmsg_len = length;
        message.msg_control = (&raw mut control).cast();
        message.msg_controllen = length;
    }
    let end = now() + HAND_OVER;
    loop {
        // The pointers are to `message`, and in it to what lives as long.
        let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
        match syscall!(sendmsg(to, &raw const message, flags)) {
            Ok(_) => return true,
            // The kernel bounds what is on its way, by bytes and by descriptors.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::EAGAIN | libc::ETOOMANYREFS | libc::EINTR)
                ) && now() < end =>
            {
                pause();
            }
            Err(_) => return false,
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "it reads the kernel's clock and allocates nothing")]
fn now() -> Instant {
    Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "the keeper has nothing else to do")]
fn pause() {
    std::thread::sleep(TRY_AGAIN);
}

/// Calls `each` with the number of every open descriptor. Closing the one it is called with is
/// allowed: the kernel lists them by number.
fn each_descriptor(mut each: impl FnMut(RawFd)) {
    const NAME_AT: usize = offset_of!(libc::dirent64, d_name);
    const LENGTH_AT: usize = offset_of!(libc::dirent64, d_reclen);
    let path = c"/proc/self/fd";
    // The pointer is to a static text that ends in a zero.
    let Ok(list) = syscall!(open(path.as_ptr(), libc::O_DIRECTORY | libc::O_CLOEXEC)) else {
        return;
    };
    let mut entries = [0_u8; 4096];
    loop {
        let (room, length) = (entries.as_mut_ptr(), entries.len());
        // The pointer is to `entries`, of the length given.
        let read = syscall!(syscall(libc::SYS_getdents64, list, room, length));
        let read = read.ok().and_then(|read| usize::try_from(read).ok()).unwrap_or(0);
        let mut rest = entries.get(..read).unwrap_or_default();
        if rest.is_empty() {
            break;
        }
        while let Some([low, high]) = rest.get(LENGTH_AT..LENGTH_AT + 2) {
            let length = usize::from(u16::from_ne_bytes([*low, *high]));
            let name = rest.get(NAME_AT..length).unwrap_or_default();
            if let Some(descriptor) = number(name).filter(|number| *number != list) {
                each(descriptor);
            }
            rest = rest.get(length.max(1)..).unwrap_or_default();
        }
    }
    close(list);
}

/// Digits up to a zero byte.
fn number(name: &[u8]) -> Option<RawFd> {
    let digits = name.split(|byte| *byte == 0).next()?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn close(descriptor: RawFd) {
    // SAFETY: the keeper alone has the table when it closes something, by numbers it has listed, and
    // nothing in it uses a number after.
    let _closed = unsafe { libc::close(descriptor) };
}

/// Asks the keeper of a process that has ended for what it keeps; what has come is there after an
/// error too. Nobody there: nothing is kept.
///
/// # Errors
/// It has not given everything.
pub fn fetch(door: &Path, kept: &mut Vec<OwnedFd>) -> io::Result<()> {
    let keeper = match UnixStream::connect(door) {
        Ok(keeper) => keeper,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    keeper.set_read_timeout(Some(HAND_OVER))?;
    let mut space = nix::cmsg_space!([RawFd; BATCH]);
    loop {
        let mut word = [0];
        let mut slices = [IoSliceMut::new(&mut word)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message =
            recvmsg::<UnixAddr>(keeper.as_raw_fd(), &mut slices, Some(&mut space), flags)?;
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(descriptors) = control {
                kept.extend(descriptors.into_iter().map(|descriptor| {
                    // SAFETY: the kernel has just made this descriptor for us and nobody else
                    // knows its number.
                    unsafe { OwnedFd::from_raw_fd(descriptor) }
                }));
            }
        }
        match (message.bytes, word) {
            (1, [SOME]) => {}
            (1, [ALL]) => return Ok(()),
            _ => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::unix::net::UnixListener;

    use super::*;

    fn directory(test: &str) -> std::path::PathBuf {
        let directory = std::env::temp_dir().join(format!("router-keeper-{test}-{}", Pid::this()));
        std::fs::create_dir_all(&directory).expect("ours");
        directory
    }

    #[test]
    fn clients_are_kept_pairs_ended_and_the_rest_closed() {
        let ours = directory("fates");
        let theirs = directory("elsewhere");
        let of = |descriptor: BorrowedFd<'_>| fate(descriptor, ours.as_os_str().as_bytes());
        let tcp = TcpListener::bind("127.0.0.1:0").expect("a port");
        let client = TcpStream::connect(tcp.local_addr().expect("bound")).expect("it listens");
        let (accepted, _) = tcp.accept().expect("it has come");
        assert_eq!(of(tcp.as_fd()), Fate::Closed);
        assert_eq!((of(client.as_fd()), of(accepted.as_fd())), (Fate::Kept, Fate::Kept));
        for (directory, kept) in [(&ours, Fate::Closed), (&theirs, Fate::Kept)] {
            let path = directory.join("socket");
            let unix = UnixListener::bind(&path).expect("nobody's");
            let _client = UnixStream::connect(&path).expect("it listens");
            let (accepted, _) = unix.accept().expect("it has come");
            assert_eq!((of(unix.as_fd()), of(accepted.as_fd())), (Fate::Closed, kept));
            std::fs::remove_dir_all(directory).expect("ours");
        }
        // A connection to a server is as good as gone with the one that spoke on it.
        let bounded = nix::sys::socket::setsockopt(&client, sockopt::TcpUserTimeout, &1000);
        bounded.expect("Linux has it");
        assert_eq!(of(client.as_fd()), Fate::Closed);
        let (one, other) = UnixStream::pair().expect("descriptors");
        assert_eq!((of(one.as_fd()), of(other.as_fd())), (Fate::Ended, Fate::Ended));
        let udp = UdpSocket::bind("127.0.0.1:0").expect("a port");
        assert_eq!(of(udp.as_fd()), Fate::Closed);
        let file = std::fs::File::open("/dev/null").expect("it is there");
        assert_eq!(of(file.as_fd()), Fate::Closed);
        assert_eq!(of(io::stdin().as_fd()), Fate::Closed);
    }

    #[test]
    fn a_keeper_waits_and_ends_and_nothing_is_closed() {
        let ours = directory("life");
        let door = UnixListener::bind(ours.join("keeper")).expect("nobody's");
        let lock = std::fs::File::create(ours.join("lock")).expect("ours");
        let charge = Charge {
            door: door.as_fd(),
            lock: lock.as_fd(),
            directory: &ours,
            patience: Duration::ZERO,
        };
        let keeper = Keeper::start(&charge).expect("it may be made");
        assert!(!keeper.keeper.has_ended());
        keeper.end().expect("it lives");
        std::fs::metadata(ours.join("lock")).expect("nothing is removed");
        std::fs::remove_dir_all(ours).expect("ours");
    }

    #[test]
    fn nobody_at_the_door_keeps_nothing() {
        let ours = directory("nobody");
        let path = ours.join("keeper");
        let mut kept = Vec::new();
        fetch(&path, &mut kept).expect("there is no door");
        drop(UnixListener::bind(&path).expect("nobody's"));
        fetch(&path, &mut kept).expect("there is nobody behind it");
        assert!(kept.is_empty());
        // One that dies while it gives has not given all.
        std::fs::remove_file(&path).expect("ours");
        let listener = UnixListener::bind(&path).expect("nobody's");
        let dying = std::thread::spawn(move || listener.accept().map(drop));
        fetch(&path, &mut kept).expect_err("it has said nothing");
        dying.join().expect("it does not panic").expect("it has accepted");
        std::fs::remove_dir_all(ours).expect("ours");
    }
}
