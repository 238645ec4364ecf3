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

/// The first descriptor of them.
const FIRST: i32 = 3;

/// So many at most: an error at start.
const MAX_PASSED: usize = 256;

/// Why what was passed cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ActivationError {
    /// The number is none.
    #[error("LISTEN_FDS={0} is not a number of descriptors: the service manager sets it")]
    Count(String),
    /// More than anybody means.
    #[error("LISTEN_FDS={got} is too many: the router takes {MAX_PASSED} passed sockets at most")]
    TooMany {
        /// So many.
        got: u64,
    },
    /// Not a socket that the router can accept connections from.
    #[error(
        "{which} that the service manager has passed cannot be listened on: {reason}. Only \
         listening stream sockets will do: see the socket unit's ListenStream="
    )]
    Socket {
        /// Its number, and its name and its address, if it has them.
        which: String,
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
    /// What the manager calls it.
    name: Option<String>,
}

/// The same, as it crosses an upgrade.
#[derive(Debug, Serialize, Deserialize)]
pub struct FrozenPassed {
    socket: shard::frozen::Place,
    local: Local,
    #[serde(default)]
    name: Option<String>,
}

impl Passed {
    fn new(number: i32, name: Option<String>) -> Result<Self, ActivationError> {
        let which = name.as_ref().map_or_else(String::new, |name| format!(" {name:?}"));
        let which = format!("descriptor {number}{which}");
        let bad = |which| move |reason| ActivationError::Socket { which, reason };
        let socket = exec::inherit(number).map_err(bad(which.clone()))?;
        let local = socket::local(socket.as_fd()).map_err(bad(which.clone()))?;
        let which = format!("{which} ({local})");
        socket::adopt_listener(socket.as_fd(), &local).map_err(bad(which))?;
        Ok(Self { socket, local, name })
    }

    /// One that a place has given back.
    ///
    /// # Errors
    /// As getsockname(2).
    pub fn again(socket: OwnedFd) -> io::Result<Self> {
        let local = socket::local(socket.as_fd())?;
        Ok(Self { socket, local, name: None })
    }

    /// Where it listens, as logs say it.
    #[must_use]
    pub fn place(&self) -> String {
        self.local.to_string()
    }

    /// What the manager calls it, if anything.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
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
        let Self { socket, local, name } = self;
        FrozenPassed { socket: descriptors.add(socket), local, name }
    }

    /// From another process; `None`: its descriptor is not there.
    pub fn thaw(frozen: FrozenPassed, descriptors: &mut Descriptors) -> Option<Self> {
        let FrozenPassed { socket, local, name } = frozen;
        Some(Self { socket: descriptors.take(socket)?, local, name })
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
    let listed = variable("LISTEN_FDNAMES").unwrap_or_default();
    (FIRST..)
        .zip(names(&listed))
        .take(count)
        .map(|(number, name)| Passed::new(number, name))
        .collect()
}

/// How many were passed to the process of this id. What was meant for another process, an ancestor
/// say, is nothing to us.
fn count(pid: Option<String>, count: Option<String>, ours: u32) -> Result<usize, ActivationError> {
    if pid.and_then(|pid| pid.parse().ok()) != Some(ours) {
        return Ok(0);
    }
    let Some(count) = count else { return Ok(0) };
    let got: u64 = count.parse().map_err(|_| ActivationError::Count(count))?;
    let number = usize::try_from(got).ok().filter(|number| *number <= MAX_PASSED);
    number.ok_or(ActivationError::TooMany { got })
}

/// What the sockets are called, in their order; `None` without end behind the last.
fn names(listed: &str) -> impl Iterator<Item = Option<String>> {
    let names = listed.split(':').map(|name| (!name.is_empty()).then(|| name.to_owned()));
    names.chain(std::iter::repeat(None))
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

    #[test]
    fn too_many_are_an_error_that_says_how_many_would_do() {
        let asked = |fds: &str| count(Some("7".to_owned()), Some(fds.to_owned()), 7);
        assert_eq!(asked("256").ok(), Some(256));
        let error = asked("257").expect_err("one too many").to_string();
        assert!(error.contains("LISTEN_FDS=257") && error.contains("256"), "{error}");
    }

    #[test]
    fn each_socket_has_its_name_or_none() {
        let first = |listed: &str| {
            let all = names(listed).take(3).map(Option::unwrap_or_default);
            all.collect::<Vec<_>>()
        };
        assert_eq!(first("http:admin.socket:x:y"), ["http", "admin.socket", "x"]);
        assert_eq!(first(":admin"), ["", "admin", ""]);
        assert_eq!(first(""), ["", "", ""]);
    }
}
