//! An eventfd: how another thread interrupts a shard's wait.
//!
//! The counter carries no data; what there is to do stands in a mailbox. Writes add up, one read
//! takes them all, so any number of wake-ups before the shard looks cost it one.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::eventfd::{EfdFlags, EventFd};

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

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
