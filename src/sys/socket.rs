//! Client sockets and listeners: open, accept, peek, refuse.
//!
//! A socket that will be handed to a worker must be non-blocking (Node never sets it and a
//! blocking one freezes the worker's event loop) and closed on exec; both are set at birth.

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixDatagram};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, Shutdown, SockFlag, SockType, SockaddrIn, SockaddrIn6,
    SockaddrLike, SockaddrStorage, UnixAddr, bind, getpeername, getsockname, getsockopt, listen,
    recv, send, setsockopt, shutdown, socket, sockopt,
};
use nix::sys::stat::fstat;
use serde::{Deserialize, Serialize};

use super::syscall;

/// Connections the kernel queues before accept; it caps this at `net.core.somaxconn` itself.
const BACKLOG: i32 = 4096;
/// How long the kernel keeps a connection that has sent nothing from us, in seconds.
const DEFER_ACCEPT_SECONDS: i32 = 1;

/// How a TCP listener is opened.
#[derive(Clone, Copy, Debug)]
pub struct TcpOptions {
    /// Share the port with this process's other shards.
    pub reuse_port: bool,
    /// For an IPv6 address: leave IPv4 alone.
    pub v6_only: bool,
}

/// Opens a listening TCP socket: non-blocking, close-on-exec, and with `TCP_NODELAY` and
/// `TCP_DEFER_ACCEPT` that its connections inherit.
///
/// # Errors
/// As socket(2), bind(2) and listen(2): the port is taken, privileged, or the address not ours.
pub fn listen_tcp(address: SocketAddr, options: TcpOptions) -> io::Result<OwnedFd> {
    let fd = bind_tcp(address, options)?;
    set_inherited(fd.as_fd())?;
    listen(&fd, Backlog::new(BACKLOG).unwrap_or(Backlog::MAXCONN))?;
    Ok(fd)
}

/// Opens a TCP socket and binds it, without listening.
///
/// Without `reuse_port` this fails when anybody else listens there, even with SO_REUSEPORT set:
/// that is how a second router on the same port is noticed.
///
/// # Errors
/// As socket(2) and bind(2).
pub fn bind_tcp(address: SocketAddr, options: TcpOptions) -> io::Result<OwnedFd> {
    let fd = inet_socket(address, SockType::Stream)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    if options.reuse_port {
        setsockopt(&fd, sockopt::ReusePort, &true)?;
    }
    if address.is_ipv6() {
        setsockopt(&fd, sockopt::Ipv6V6Only, &options.v6_only)?;
    }
    bind_inet(&fd, address)?;
    Ok(fd)
}

/// Opens and binds a UDP socket for a worker that receives by itself.
///
/// # Errors
/// As socket(2) and bind(2).
pub fn bind_udp(address: SocketAddr) -> io::Result<OwnedFd> {
    let fd = inet_socket(address, SockType::Datagram)?;
    bind_inet(&fd, address)?;
    Ok(fd)
}

/// Opens a listening Unix socket. A socket file that nobody listens on any more is replaced.
///
/// # Errors
/// `AddrInUse` when somebody answers there or the path is something else than a socket; as
/// bind(2) otherwise.
pub fn listen_unix(path: &Path) -> io::Result<OwnedFd> {
    if let Ok(metadata) = std::fs::symlink_metadata(path) {
        let stale = metadata.file_type().is_socket()
            && std::os::unix::net::UnixStream::connect(path).is_err();
        if !stale {
            return Err(Errno::EADDRINUSE.into());
        }
        std::fs::remove_file(path)?;
    }
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    bind(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    listen(&fd, Backlog::new(BACKLOG).unwrap_or(Backlog::MAXCONN))?;
    Ok(fd)
}

/// What the connections of a TCP listener inherit from it.
fn set_inherited(listener: BorrowedFd<'_>) -> io::Result<()> {
    setsockopt(&listener, sockopt::TcpNoDelay, &true)?;
    set_int(listener, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, DEFER_ACCEPT_SECONDS)
}

/// Where a socket of somebody else's is bound.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Local {
    /// An internet address.
    Inet(SocketAddr),
    /// The file of a Unix socket; `None`: an abstract name, or none at all.
    Unix(Option<PathBuf>),
}

impl fmt::Display for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet(address) => address.fmt(f),
            Self::Unix(Some(path)) => write!(f, "unix:{}", path.display()),
            Self::Unix(None) => f.write_str("an abstract Unix socket"),
        }
    }
}

/// Where a socket is bound that may be of any kind.
///
/// # Errors
/// It is no socket, or neither an internet nor a Unix socket.
pub fn local(fd: BorrowedFd<'_>) -> io::Result<Local> {
    let address: SockaddrStorage = getsockname(fd.as_raw_fd())?;
    match address.as_unix_addr() {
        Some(unix) => Ok(Local::Unix(unix.path().map(Path::to_owned))),
        None => local_address(fd).map(Local::Inet),
    }
}

/// Makes a socket that another program has opened one as [`listen_tcp`] and [`listen_unix`] open.
///
/// # Errors
/// It is not a stream socket that listens.
pub fn adopt_listener(fd: BorrowedFd<'_>, local: &Local) -> io::Result<()> {
    if getsockopt(&fd, sockopt::SockType)? != SockType::Stream {
        return Err(io::Error::other("it is not a stream socket"));
    }
    if !getsockopt(&fd, sockopt::AcceptConn)? {
        return Err(io::Error::other("it does not listen"));
    }
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    match local {
        Local::Inet(_) => set_inherited(fd),
        Local::Unix(_) => Ok(()),
    }
}

/// The kernel's number of a socket: the same for every share of it, in any process.
///
/// # Errors
/// As fstat(2).
pub fn number(fd: BorrowedFd<'_>) -> io::Result<u64> {
    Ok(fstat(fd)?.st_ino)
}

/// The address a TCP or UDP socket is bound to.
///
/// # Errors
/// The socket is not an internet socket.
pub fn local_address(fd: BorrowedFd<'_>) -> io::Result<SocketAddr> {
    let address: SockaddrStorage = getsockname(fd.as_raw_fd())?;
    if let Some(v4) = address.as_sockaddr_in() {
        return Ok(SocketAddr::from((IpAddr::V4(v4.ip()), v4.port())));
    }
    if let Some(v6) = address.as_sockaddr_in6() {
        return Ok(SocketAddr::from((IpAddr::V6(v6.ip()), v6.port())));
    }
    Err(Errno::EAFNOSUPPORT.into())
}

/// The address at the other end; `None` on a Unix socket, or when it has gone.
pub fn peer_address(fd: BorrowedFd<'_>) -> Option<SocketAddr> {
    let address: SockaddrStorage = getpeername(fd.as_raw_fd()).ok()?;
    let v4 = address.as_sockaddr_in().map(|v4| (IpAddr::V4(v4.ip()), v4.port()));
    let v6 = || address.as_sockaddr_in6().map(|v6| (IpAddr::V6(v6.ip()), v6.port()));
    v4.or_else(v6).map(SocketAddr::from)
}

/// Has connections accepted whose client says nothing: it may be waiting to be spoken to.
///
/// # Errors
/// As setsockopt(2): a Unix socket.
pub fn accept_silent(listener: BorrowedFd<'_>) -> io::Result<()> {
    set_int(listener, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, 0)
}

/// Takes one waiting connection: non-blocking and close-on-exec.
///
/// # Errors
/// `WouldBlock` when none waits; as accept4(2) otherwise.
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let none = std::ptr::null_mut();
    let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // The pointers are null: nobody asks for the peer's address.
    let fd = syscall!(accept4(listener.as_raw_fd(), none, none.cast(), flags))?;
    // SAFETY: accept4 has just made this descriptor and nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Copies what has arrived without taking it. 0 is the end of the stream.
///
/// # Errors
/// `WouldBlock` when nothing has arrived; as recv(2) otherwise.
pub fn peek(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    Ok(recv(socket.as_raw_fd(), buffer, flags)?)
}

/// Takes `length` bytes out of what has arrived, and throws them away.
///
/// # Errors
/// As recv(2); `UnexpectedEof` when fewer were there.
pub fn skip(socket: BorrowedFd<'_>, length: usize) -> io::Result<()> {
    let mut sink = [0_u8; 4096];
    let mut left = length;
    while left > 0 {
        let piece = &mut sink[..left.min(4096)];
        match recv(socket.as_raw_fd(), piece, MsgFlags::MSG_DONTWAIT)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            taken => left -= taken,
        }
    }
    Ok(())
}

/// Bytes that have arrived and nobody has read.
///
/// # Errors
/// As ioctl(2).
pub fn unread(socket: BorrowedFd<'_>) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // The pointer is to `bytes`, an int as FIONREAD wants it.
    syscall!(ioctl(socket.as_raw_fd(), libc::FIONREAD, &raw mut bytes))?;
    Ok(usize::try_from(bytes).unwrap_or(0))
}

/// Readable from now on means: at least this many bytes (SO_RCVLOWAT). Must be back at 1 before
/// the socket is handed on. Unix sockets ignore it.
///
/// # Errors
/// As setsockopt(2).
pub fn set_low_water(socket: BorrowedFd<'_>, bytes: usize) -> io::Result<()> {
    let bytes = i32::try_from(bytes).unwrap_or(i32::MAX);
    set_int(socket, libc::SOL_SOCKET, libc::SO_RCVLOWAT, bytes)
}

/// Bounds what may lie unread on its way to the other end, in bytes as the kernel counts them.
///
/// # Errors
/// As setsockopt(2).
pub fn set_send_buffer(socket: BorrowedFd<'_>, bytes: usize) -> io::Result<()> {
    Ok(setsockopt(&socket, sockopt::SndBuf, &bytes)?)
}

/// Whether the other side will send nothing more.
pub fn peer_has_finished(socket: BorrowedFd<'_>) -> bool {
    // nix's PollFlags lacks POLLRDHUP.
    let mut entry = libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLRDHUP, revents: 0 };
    // The pointer is to `entry`, one entry long as the count says.
    let answered = syscall!(poll(&raw mut entry, 1, 0));
    let end = libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR;
    answered.is_ok() && entry.revents & end != 0
}

/// What is left to do for a refused connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lingering {
    /// The client has closed its side: close ours.
    Over,
    /// The client may still be sending. Closing now would reset the connection and could destroy
    /// the response before it is read.
    Open,
}

/// Says why and half-closes. The response is a few bytes into an empty send buffer; a client that
/// cannot take them gets none.
pub fn refuse(socket: BorrowedFd<'_>, response: &[u8]) -> Lingering {
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    let said = send(socket.as_raw_fd(), response, flags);
    let closed = shutdown(socket.as_raw_fd(), Shutdown::Write);
    if said.is_err() || closed.is_err() { Lingering::Over } else { discard(socket) }
}

/// Ends a channel in both directions: the other side reads its end, operations in flight complete.
pub fn end(socket: BorrowedFd<'_>) {
    // An error means that the other side has ended it already.
    let _ended = shutdown(socket.as_raw_fd(), Shutdown::Both);
}

/// Lets nothing more be sent, by any share of the socket; what was sent stays to be read.
pub fn end_sending(socket: BorrowedFd<'_>) {
    // An error means that it has ended already.
    let _ended = shutdown(socket.as_raw_fd(), Shutdown::Write);
}

/// Throws away what a refused client goes on sending, a bounded piece per call.
pub fn discard(socket: BorrowedFd<'_>) -> Lingering {
    const PIECES: usize = 16;
    let mut sink = [0_u8; 4096];
    for _ in 0..PIECES {
        match recv(socket.as_raw_fd(), &mut sink, MsgFlags::MSG_DONTWAIT) {
            Ok(0) => return Lingering::Over,
            Ok(_) => {}
            Err(Errno::EAGAIN | Errno::EINTR) => return Lingering::Open,
            Err(_) => return Lingering::Over,
        }
    }
    Lingering::Open
}

fn inet_socket(address: SocketAddr, kind: SockType) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    Ok(socket(family, kind, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?)
}

fn bind_inet(fd: &OwnedFd, address: SocketAddr) -> io::Result<()> {
    let bind_to = |address: &dyn SockaddrLike| {
        // SAFETY: `address` is a whole socket address of the length it states, alive for the call.
        let result = unsafe { libc::bind(fd.as_raw_fd(), address.as_ptr(), address.len()) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    };
    match address {
        SocketAddr::V4(v4) => bind_to(&SockaddrIn::from(v4)),
        SocketAddr::V6(v6) => bind_to(&SockaddrIn6::from(v6)),
    }
}

fn set_int(socket: BorrowedFd<'_>, level: i32, name: i32, value: i32) -> io::Result<()> {
    let pointer = (&raw const value).cast();
    let length = libc::socklen_t::try_from(size_of::<i32>()).unwrap_or(4);
    // The pointer is to `value`, of the length given.
    syscall!(setsockopt(socket.as_raw_fd(), level, name, pointer, length))?;
    Ok(())
}
/// How long is waited for a service manager that does not read.
const MANAGER_PATIENCE: Duration = Duration::from_millis(100);

/// The service manager of this process (`NOTIFY_SOCKET`), and a socket to tell it things with.
///
/// # Errors
/// It cannot be reached; the error names it.
pub fn service_manager() -> io::Result<Option<(UnixDatagram, UnixAddress)>> {
    let named = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty());
    let Some(name) = named else { return Ok(None) };
    let told = |error: io::Error| io::Error::other(format!("{}: {error}", name.to_string_lossy()));
    reach_manager(&name).map(Some).map_err(told)
}

/// The manager at `/path`, or `@name` for an abstract one.
///
/// # Errors
/// It is neither, or too long; out of descriptors.
pub fn reach_manager(name: &OsStr) -> io::Result<(UnixDatagram, UnixAddress)> {
    let address = match name.as_bytes() {
        [b'@', name @ ..] => UnixAddress::from_abstract_name(name)?,
        [b'/', ..] => UnixAddress::from_pathname(name)?,
        _ => return Err(io::Error::other("it is neither a path nor an abstract name")),
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(MANAGER_PATIENCE))?;
    Ok((socket, address))
}
