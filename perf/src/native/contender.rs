//! The least that hands connections to workers: accept, peek at the request, send the socket, close it.
//! Nothing is routed, counted or timed; what a router must do more is what it may cost more.

use std::io::IoSlice;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::process::{Child, Command};

use anyhow::{Context, Result};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, MsgFlags, SockFlag, SockType, listen, recv, sendmsg,
    setsockopt, socketpair,
};

use nix::{setsockopt_impl, sockopt_impl};

use crate::On;

/// Bytes of a request that are peeked at.
const PEEKED: usize = 1024;
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;
/// Seconds that the kernel keeps a connection which has not said anything.
const DEFER: u32 = 10;
/// Connections that are accepted for each time epoll has waited.
const ACCEPTS: usize = 64;

sockopt_impl!(
    /// A connection is accepted once its client has said something.
    TcpDeferAccept,
    SetOnly,
    libc::IPPROTO_TCP,
    libc::TCP_DEFER_ACCEPT,
    u32
);

struct Worker {
    lane: OwnedFd,
    _process: Child,
}

pub(crate) fn run(on: On, port: u16, count: usize) -> Result<()> {
    let workers: Vec<Worker> = (0..count).map(|_| start()).collect::<Result<_>>()?;
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    listen(&listener, Backlog::new(BACKLOG)?)?;
    setsockopt(&listener, TcpDeferAccept, &DEFER)?;
    listener.set_nonblocking(true)?;
    let mut next = 0;
    let hand_over = move |socket: RawFd| {
        next = (next + 1) % workers.len();
        hand_over(socket, workers[next].lane.as_raw_fd())
    };
    match on {
        On::Epoll => by_epoll(&listener, hand_over),
        On::Monoio => by_monoio(listener, hand_over),
        On::TokioUring => by_tokio_uring(listener, hand_over),
    }
}

fn start() -> Result<Worker> {
    let kind = SockType::Stream;
    let (lane, theirs) = socketpair(AddressFamily::Unix, kind, None, SockFlag::empty())?;
    // Theirs alone is inherited, under its number.
    fcntl(&lane, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    let number = theirs.as_raw_fd().to_string();
    let program = std::env::current_exe()?;
    let process = Command::new(program).args(["worker", "--lane", &number]).spawn()?;
    Ok(Worker { lane, _process: process })
}

fn hand_over(socket: RawFd, lane: RawFd) -> Result<()> {
    let mut head = [0; PEEKED];
    // Nobody speaks, nobody is answered: it is the kernel that waits for the first bytes.
    let peeked = recv(socket, &mut head, MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT);
    if !peeked.is_ok_and(|read| read > 0) {
        return Ok(());
    }
    let sockets = [socket];
    let rights = [ControlMessage::ScmRights(&sockets)];
    let flags = MsgFlags::MSG_NOSIGNAL;
    sendmsg::<()>(lane, &[IoSlice::new(&[0, 0])], &rights, flags, None).context("a lane")?;
    Ok(())
}

fn by_epoll(listener: &TcpListener, mut hand_over: impl FnMut(RawFd) -> Result<()>) -> Result<()> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(listener, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
    let mut events = [EpollEvent::empty()];
    loop {
        epoll.wait(&mut events, EpollTimeout::NONE)?;
        for _ in 0..ACCEPTS {
            match listener.accept() {
                Ok((socket, _)) => hand_over(socket.as_raw_fd())?,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn by_monoio(listener: TcpListener, mut hand_over: impl FnMut(RawFd) -> Result<()>) -> Result<()> {
    let mut runtime = monoio::RuntimeBuilder::<monoio::IoUringDriver>::new().build()?;
    runtime.block_on(async {
        let listener = monoio::net::TcpListener::from_std(listener)?;
        loop {
            let (socket, _) = listener.accept().await?;
            hand_over(socket.as_raw_fd())?;
        }
    })
}

fn by_tokio_uring(
    listener: TcpListener,
    mut hand_over: impl FnMut(RawFd) -> Result<()>,
) -> Result<()> {
    tokio_uring::start(async {
        let listener = tokio_uring::net::TcpListener::from_std(listener);
        loop {
            let (socket, _) = listener.accept().await?;
            hand_over(socket.as_raw_fd())?;
        }
    })
}
