//! The clock that other programs on this host read, too, and the host's life that it counts.

use std::io;
use std::time::Duration;

use super::syscall;

/// The time since some moment that all programs on this host share (`CLOCK_MONOTONIC`).
///
/// # Errors
/// As clock_gettime(2).
pub fn monotonic() -> io::Result<Duration> {
    read(libc::CLOCK_MONOTONIC)
}

/// The time since the host's start, as /proc counts it (`CLOCK_BOOTTIME`).
///
/// # Errors
/// As clock_gettime(2).
pub fn since_boot() -> io::Result<Duration> {
    read(libc::CLOCK_BOOTTIME)
}

/// Which life of the host this is; empty without /proc.
#[must_use]
pub fn boot() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

fn read(clock: libc::clockid_t) -> io::Result<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // The pointer is to `time`.
    syscall!(clock_gettime(clock, &raw mut time))?;
    let seconds = u64::try_from(time.tv_sec).map_err(io::Error::other)?;
    let nanoseconds = u32::try_from(time.tv_nsec).map_err(io::Error::other)?;
    Ok(Duration::new(seconds, nanoseconds))
}
