//! Listening sockets that a service manager has opened and passed on (`LISTEN_FDS`).
//!
//! They stay the manager's: it goes on listening when this router has ended, for the next one. So
//! they are accepted from, never shut down, and the file of a Unix socket is not removed.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::shard::{self, Descriptors};
use crate::sys::exec;
use crate::sys::socket::{self, Local};

/// What a service manager says about them.
pub const VARIABLES: [&str; 4] = ["LISTEN_FDS", "LISTEN_PID", "LISTEN_PIDFDID", "LISTEN_FDNAMES"];

/// The first descriptor of them.
const FIRST: i32 = 3;

/// Why what was passed cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ActivationError {
    /// The number is none.
    #[error("LISTEN_FDS={0} is not a number of descriptors: the service manager sets it")]
    Count(String),
    /// Not a socket that the router can accept connections from.
    #[error(
        "descriptor {number}{name} that the service manager has passed cannot be listened on: \
         {reason}. Only listening stream sockets will do: see the socket unit's ListenStream="
    )]
    Socket {
        /// Which.
        number: i32,
        /// Its address, if it has one.
        name: String,
        /// What is wrong with it.
        reason: io::Error,
    },
}

/// One such socket.
#[derive(Debug)]
pub struct Passed {
    /// The only share of it that is kept; the shards have their own.
    pub socket: OwnedFd,
    local: Local,
}

/// The same, as it crosses an upgrade.
#[derive(Debug, Serialize, Deserialize)]
pub struct FrozenPassed {
    socket: shard::frozen::Place,
    local: Local,
}

impl Passed {
    fn new(number: i32) -> Result<Self, ActivationError> {
        let named = |name: String| move |reason| ActivationError::Socket { number, name, reason };
        let socket = exec::inherit(number).map_err(named(String::new()))?;
        let local = socket::local(socket.as_fd()).map_err(named(String::new()))?;
        let name = format!(" ({local})");
        socket::adopt_listener(socket.as_fd(), &local).map_err(named(name))?;
        Ok(Self { socket, local })
    }

    /// One that a place has given back.
    ///
    /// # Errors
    /// As getsockname(2).
    pub fn again(socket: OwnedFd) -> io::Result<Self> {
        let local = socket::local(socket.as_fd())?;
        Ok(Self { socket, local })
    }

    /// What it is called in logs.
    #[must_use]
    pub fn name(&self) -> String {
        self.local.to_string()
    }

    /// Where it listens, on TCP.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        match &self.local {
            Local::Inet(address) => Some(*address),
            Local::Unix(_) => None,
        }
    }

    /// Where it listens, on a Unix socket that has a file.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match &self.local {
            Local::Unix(path) => path.as_deref(),
            Local::Inet(_) => None,
        }
    }

    /// For another process.
    #[must_use]
    pub fn freeze(self, descriptors: &mut Descriptors) -> FrozenPassed {
        FrozenPassed { socket: descriptors.add(self.socket), local: self.local }
    }

    /// From another process; `None`: its descriptor is not there.
    pub fn thaw(frozen: FrozenPassed, descriptors: &mut Descriptors) -> Option<Self> {
        Some(Self { socket: descriptors.take(frozen.socket)?, local: frozen.local })
    }
}

/// Takes what was passed to this process. Must come before anything that opens descriptors, and
/// once: the numbers are taken for the sockets'.
///
/// # Errors
/// A descriptor is no listening socket.
pub fn take() -> Result<Vec<Passed>, ActivationError> {
    let variable = |name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
    let count = count(variable("LISTEN_PID"), variable("LISTEN_FDS"), std::process::id())?;
    (FIRST..FIRST.saturating_add(count)).map(Passed::new).collect()
}

/// How many were passed to the process of this id. What was meant for another process, an ancestor
/// say, is nothing to us.
fn count(pid: Option<String>, count: Option<String>, ours: u32) -> Result<i32, ActivationError> {
    if pid.and_then(|pid| pid.parse().ok()) != Some(ours) {
        return Ok(0);
    }
    let Some(count) = count else { return Ok(0) };
    match count.parse() {
        Ok(number @ 0..) => Ok(number),
        _ => Err(ActivationError::Count(count)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_meant_for_another_process_is_not_ours() {
        let asked = |pid: Option<&str>, fds: Option<&str>| {
            count(pid.map(str::to_owned), fds.map(str::to_owned), 7).ok()
        };
        assert_eq!(asked(Some("7"), Some("2")), Some(2));
        assert_eq!(asked(Some("7"), Some("0")), Some(0));
        assert_eq!(asked(Some("7"), None), Some(0));
        for other in [None, Some("8"), Some("self"), Some("")] {
            assert_eq!(asked(other, Some("2")), Some(0), "{other:?}");
        }
        for wrong in ["", "two", "-1", "99999999999"] {
            assert_eq!(asked(Some("7"), Some(wrong)), None, "{wrong}");
        }
    }
}
