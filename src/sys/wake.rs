//! An eventfd: how another thread interrupts a shard's wait.
//!
//! The counter carries no data; what there is to do stands in a mailbox. Writes add up, one read
//! takes them all, so any number of wake-ups before the shard looks cost it one.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// One end is enough: every thread writes, the owning shard reads.
#[derive(Debug)]
pub struct Wake(EventFd);

impl Wake {
    /// A counter at zero, non-blocking and closed on exec.
    ///
    /// # Errors
    /// The process is out of file descriptors.
    pub fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Self(EventFd::from_value_and_flags(0, flags)?))
    }

    /// Makes the owner's wait return. A full counter already does, so its error is no news.
    pub fn wake(&self) {
        let _full = self.0.write(1);
    }

    /// Back to zero. Not having been woken is fine too.
    pub fn clear(&self) {
        let _empty = self.0.read();
    }
}

/// Waits for a [`Wake`] on tokio's loop, where the owner runs on that.
#[derive(Debug)]
pub struct Waiter(AsyncFd<OwnedFd>);

impl Waiter {
    /// In the context of a tokio runtime.
    ///
    /// # Errors
    /// The process is out of file descriptors, or the kernel out of room for what epoll watches.
    pub fn new(wake: &Wake) -> io::Result<Self> {
        let share = wake.as_fd().try_clone_to_owned()?;
        // SAFETY: the descriptor stays open for as long as it is registered: its one owner is the
        // `AsyncFd`, which drops the registration first and gives the descriptor to nobody.
        let watched = unsafe { AsyncFd::register_with_interest(share, Interest::READABLE) }?;
        Ok(Self(watched))
    }

    /// Until it is woken; a wake-up that was there before counts.
    ///
    /// # Errors
    /// The runtime ends.
    pub async fn woken(&self) -> io::Result<()> {
        self.0.readable().await?.clear_ready();
        Ok(())
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
