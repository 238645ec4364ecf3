//! Where the daemon and its apps keep their things.
//!
//! | place | what |
//! |---|---|
//! | `daemon.sock` | the control socket |
//! | `daemon.lock` | held for the daemon's life |
//! | `daemon.log` | what it says |
//! | `apps/NAME/` | the runtime directory of one app's router, with `record.json` and `start.json` in it |
//! | `logs/` | the workers' output, and `NAME-router.log` |
//! | `dump.json` | what `save` has written down; `dump.json.bak`: the time before |

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::sys::clock;
use crate::sys::private::{self, NotPrivate};

/// The most bytes of a path that a socket can be at: `sun_path` of unix(7), with its end.
const SOCKET_PATH_MAX: usize = 107;

/// The most characters of an app's name in its directory's.
const NAME_MAX: usize = 40;

/// The places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    state: PathBuf,
    run: PathBuf,
    logs: PathBuf,
}

/// A directory is not its user's alone, or cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot use {directory}: {why}. Remove it, or name another with ROUTER_HOME")]
pub struct NoHome {
    directory: PathBuf,
    why: NotPrivate,
}

impl Home {
    /// Everything in one directory.
    #[must_use]
    pub fn at(directory: PathBuf) -> Self {
        Self { run: directory.clone(), logs: directory.join("logs"), state: directory }
    }

    /// Of a system service: as systemd's `StateDirectory=`, `RuntimeDirectory=` and
    /// `LogsDirectory=` place them.
    #[must_use]
    pub fn service(state: PathBuf, run: PathBuf, logs: PathBuf) -> Self {
        Self { state, run, logs }
    }

    /// Makes the directories that must be there before anything else, private to this user.
    ///
    /// # Errors
    /// One is not, or cannot be had.
    pub fn make(&self) -> Result<(), NoHome> {
        for directory in [self.state.clone(), self.run.clone(), self.apps(), self.logs.clone()] {
            private::directory(&directory).map_err(|why| NoHome { directory, why })?;
        }
        Ok(())
    }

    /// The directory by which it is named.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.state
    }

    /// The control socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.run.join("daemon.sock")
    }

    /// Held for the daemon's life.
    #[must_use]
    pub fn lock(&self) -> PathBuf {
        self.run.join("daemon.lock")
    }

    /// What the daemon says.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.logs
            .parent()
            .filter(|_| self.state == self.run)
            .map_or_else(|| self.logs.join("daemon.log"), |directory| directory.join("daemon.log"))
    }

    /// Where the workers' output goes.
    #[must_use]
    pub fn logs(&self) -> &Path {
        &self.logs
    }

    /// What the router of an app says.
    #[must_use]
    pub fn router_log(&self, name: &str) -> PathBuf {
        self.logs.join(format!("{}-router.log", file_name(name)))
    }

    /// What was saved.
    #[must_use]
    pub fn dump(&self) -> PathBuf {
        self.state.join("dump.json")
    }

    /// What was saved before that.
    #[must_use]
    pub fn dump_before(&self) -> PathBuf {
        self.state.join("dump.json.bak")
    }

    /// Where the apps' directories are.
    #[must_use]
    pub fn apps(&self) -> PathBuf {
        self.run.join("apps")
    }

    /// One app's directory.
    #[must_use]
    pub fn app(&self, name: &str) -> PathBuf {
        self.apps().join(file_name(name))
    }

    /// Whether apps are kept here, since the host has started: a daemon that ends as it should
    /// leaves none.
    #[must_use]
    pub fn has_apps(&self) -> bool {
        /// Of what a daemon remembers of an app.
        #[derive(Deserialize)]
        struct Record {
            boot: String,
        }
        let kept = |directory: PathBuf| {
            let text = fs::read(directory.join("record.json")).ok()?;
            let record: Record = serde_json::from_slice(&text).ok()?;
            Some(record.boot == clock::boot())
        };
        let mut entries = fs::read_dir(self.apps()).into_iter().flatten().flatten();
        entries.any(|entry| kept(entry.path()) == Some(true))
    }

    /// Whether the sockets of an app of this name can be where they are to be.
    ///
    /// # Errors
    /// A path is too long; what to do.
    pub fn check(&self, name: &str) -> Result<(), String> {
        for socket in [self.socket(), self.app(name).join("control")] {
            let length = socket.as_os_str().len();
            if length > SOCKET_PATH_MAX {
                return Err(format!(
                    "{} is too long for a socket: {length} of {SOCKET_PATH_MAX} bytes. Choose a \
                     shorter ROUTER_HOME",
                    socket.display()
                ));
            }
        }
        Ok(())
    }
}

/// A name that any file may have, and no other app's file.
#[must_use]
pub fn file_name(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !name.is_empty()
        && name.len() <= NAME_MAX
        && name.chars().all(plain)
        && !name.starts_with('.')
    {
        return name.to_owned();
    }
    // FNV-1a: the same for every build of this program, unlike the standard library's.
    let digest = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |digest, byte| {
        (digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let kept: String = name
        .chars()
        .map(|c| if plain(c) && c != '.' { c } else { '_' })
        .take(NAME_MAX / 2)
        .collect();
    // A tilde is in no plain name.
    format!("{kept}~{digest:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_a_file_name_of_its_own() {
        assert_eq!(file_name("chat-2.x"), "chat-2.x");
        let odd = ["a/b", "a_b", "a b", "..", ".", "", "é", &"x".repeat(41), &"x".repeat(300)];
        let names: std::collections::BTreeSet<String> =
            odd.iter().map(|name| file_name(name)).collect();
        assert_eq!(names.len(), odd.len(), "{names:?}");
        for name in names {
            assert!(
                !name.is_empty()
                    && name.len() <= NAME_MAX
                    && !name.contains('/')
                    && !name.starts_with('.'),
                "{name}"
            );
        }
    }

    #[test]
    fn a_home_whose_sockets_cannot_be_is_refused() {
        Home::at("/root/.router".into()).check("chat").expect("short");
        let long = Home::at(format!("/{}", "x".repeat(90)).into());
        assert!(long.check("chat").expect_err("long").contains("shorter ROUTER_HOME"));
    }

    #[test]
    fn a_service_keeps_its_things_where_the_system_does() {
        let home = Home::service("/var/lib/r".into(), "/run/r".into(), "/var/log/r".into());
        assert_eq!(home.socket(), Path::new("/run/r/daemon.sock"));
        assert_eq!(home.log(), Path::new("/var/log/r/daemon.log"));
        assert_eq!(Home::at("/h".into()).log(), Path::new("/h/daemon.log"));
    }
}
