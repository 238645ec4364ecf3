//! `sendmsg` and `recvmsg` on a worker's channel: bytes, and sockets beside them.
//!
//! Every call is non-blocking and made once; what a short or refused write means is the channel's
//! business. Received descriptors are closed on exec from birth.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use bytes::Bytes;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, sendmsg};

/// Sockets one received message can carry; Node sends one. More than that are closed by the kernel.
pub const MAX_RECEIVED: usize = 16;

/// `MSG_DONTWAIT | MSG_NOSIGNAL`: a full channel is an answer, a dead one an error.
const SEND: MsgFlags = MsgFlags::MSG_DONTWAIT.union(MsgFlags::MSG_NOSIGNAL);

/// Sends `frame` and `socket` as one message.
///
/// # Errors
/// `WouldBlock` when the channel is full: nothing was sent. The kernel takes a message this small
/// whole or not at all; should it ever take a part, that is reported as `InvalidData`, since the
/// channel is then unusable.
pub fn send_socket(
    channel: BorrowedFd<'_>,
    frame: &[u8],
    socket: BorrowedFd<'_>,
) -> io::Result<()> {
    let fds = [socket.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&fds)];
    let sent =
        sendmsg::<UnixAddr>(channel.as_raw_fd(), &[IoSlice::new(frame)], &rights, SEND, None)?;
    if sent == frame.len() {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidData, "a hand-off frame was cut by the kernel"))
    }
}

/// Sends as much of `frames`, from `offset` bytes into the first, as the channel takes.
///
/// # Errors
/// `WouldBlock` when it takes nothing; `BrokenPipe` or `ConnectionReset` when the worker is gone.
pub fn send_frames(channel: BorrowedFd<'_>, frames: &[Bytes], offset: usize) -> io::Result<usize> {
    let mut slices = Vec::with_capacity(frames.len());
    for (index, frame) in frames.iter().enumerate() {
        let from = if index == 0 { offset } else { 0 };
        slices.push(IoSlice::new(frame.get(from..).unwrap_or_default()));
    }
    Ok(sendmsg::<UnixAddr>(channel.as_raw_fd(), &slices, &[], SEND, None)?)
}

/// Receives what is there, up to `buffer`, and the sockets that came with it.
///
/// # Errors
/// `WouldBlock` when nothing is there; as recvmsg(2) otherwise.
pub fn receive(channel: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = nix::cmsg_space!([std::os::fd::RawFd; MAX_RECEIVED]);
    let mut slices = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<UnixAddr>(channel.as_raw_fd(), &mut slices, Some(&mut space), flags)?;
    let mut sockets = Vec::new();
    // An error here means truncated control data: the kernel closed what did not fit.
    for control in message.cmsgs().into_iter().flatten() {
        if let ControlMessageOwned::ScmRights(fds) = control {
            sockets.extend(fds.into_iter().map(|fd| {
                // SAFETY: the kernel has just made this descriptor for us and nobody else knows
                // its number.
                unsafe { OwnedFd::from_raw_fd(fd) }
            }));
        }
    }
    Ok((message.bytes, sockets))
}
