//! A process by descriptor: it becomes readable when the process ends, whoever its parent is.
//!
//! A pid may be another process's by the time it is used; a pidfd never is.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// One process, alive or ended. Poll it for readability to learn of the end.
#[derive(Debug)]
pub struct PidFd(OwnedFd);

impl PidFd {
    /// Opens the process that has this pid now; closed on exec.
    ///
    /// Whoever means a certain process compares its start time after this call: before it, the
    /// pid could still change hands.
    ///
    /// # Errors
    /// As pidfd_open(2); `ESRCH` when there is no such process.
    pub fn open(pid: Pid) -> io::Result<Self> {
        const NO_FLAGS: libc::c_uint = 0;
        // SAFETY: the call takes two integers.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), NO_FLAGS) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
        // SAFETY: the kernel has just made this descriptor for us and nobody else knows its number.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Waits for the process's end, in the context of a tokio runtime. What it gives keeps a share of
    /// the descriptor, not a borrow.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn end(&self) -> io::Result<impl Future<Output = ()> + use<>> {
        let share = self.0.try_clone()?;
        // SAFETY: an `OwnedFd` has one descriptor for its life, and this one is moved in.
        let watched = unsafe { AsyncFd::register_with_interest(share, Interest::READABLE) }?;
        Ok(async move {
            // An error cannot be told from the end, and is looked at as one.
            let _ended = watched.readable().await;
        })
    }

    /// Whether it has ended, reaped or not.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        let mut watched = [PollFd::new(self.as_fd(), PollFlags::POLLIN)];
        poll(&mut watched, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }

    /// Whether it has not ended and been reaped.
    ///
    /// # Errors
    /// `ESRCH` when it has.
    pub fn probe(&self) -> io::Result<()> {
        self.signal(0)
    }

    /// Sends a signal to this very process.
    ///
    /// # Errors
    /// As pidfd_send_signal(2); `ESRCH` when it has ended and been reaped.
    pub fn send_signal(&self, signal: Signal) -> io::Result<()> {
        self.signal(signal as libc::c_int)
    }

    fn signal(&self, signal: libc::c_int) -> io::Result<()> {
        const NO_FLAGS: libc::c_uint = 0;
        // SAFETY: three integers and a null pointer, which the call takes for "as kill(2) does".
        let returned = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.0.as_raw_fd(),
                signal,
                std::ptr::null::<libc::siginfo_t>(),
                NO_FLAGS,
            )
        };
        if returned < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for PidFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use nix::errno::Errno;

    use super::*;

    fn ended(process: &PidFd, patience: PollTimeout) -> bool {
        let mut watched = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
        poll(&mut watched, patience).expect("it can be polled") == 1
    }

    #[test]
    fn it_is_readable_when_the_process_has_ended_and_signals_reach_nobody_else() {
        let mut child = Command::new("sleep").arg("60").spawn().expect("sleep starts");
        let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
        let process = PidFd::open(pid).expect("it lives");
        assert!(!ended(&process, PollTimeout::ZERO));
        process.send_signal(Signal::SIGTERM).expect("it lives");
        assert!(ended(&process, PollTimeout::from(10_000_u16)));
        let status = child.wait().expect("it is our child");
        assert_eq!(status.signal(), Some(Signal::SIGTERM as i32));
        assert!(ended(&process, PollTimeout::ZERO));
        let late = process.send_signal(Signal::SIGTERM).expect_err("it is gone");
        assert_eq!(late.raw_os_error(), Some(Errno::ESRCH as i32));
    }

    #[test]
    fn no_such_process_is_an_error() {
        // No process has a pid this high: the kernel's own limit is 2^22.
        let error = PidFd::open(Pid::from_raw(1 << 23)).expect_err("nobody's");
        assert_eq!(error.raw_os_error(), Some(Errno::ESRCH as i32));
    }
}
