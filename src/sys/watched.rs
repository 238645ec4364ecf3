//! A file descriptor that monoio's epoll driver watches.
//!
//! monoio has no type for "any descriptor, readiness only", and its own accept, receive and send
//! know neither flags nor control messages. A `Watched` borrows the readiness of its `UnixStream`
//! and leaves every read and write to `scm` and `socket`.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use monoio::net::UnixStream;

/// Owns the descriptor; closing and deregistering happen on drop.
pub struct Watched(UnixStream);

impl std::fmt::Debug for Watched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Watched").field(&self.0.as_raw_fd()).finish()
    }
}

impl Watched {
    /// Registers `fd` (any kind that epoll takes, already non-blocking) with this thread's driver.
    ///
    /// # Errors
    /// epoll refuses it: out of memory or watches, or a file that cannot be polled.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self(UnixStream::from_std(std::os::unix::net::UnixStream::from(fd))?))
    }

    /// Waits until a read would not block. Needs a driver on this thread.
    ///
    /// # Errors
    /// As poll(2).
    pub async fn readable(&self) -> io::Result<()> {
        self.0.readable(false).await
    }

    /// Waits until a write would not block.
    ///
    /// # Errors
    /// As poll(2).
    pub async fn writable(&self) -> io::Result<()> {
        self.0.writable(false).await
    }
}

impl AsFd for Watched {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: `self.0` owns the descriptor and closes it only when dropped, which the borrow
        // of `self` in the result forbids for as long as the result lives.
        unsafe { BorrowedFd::borrow_raw(self.0.as_raw_fd()) }
    }
}
