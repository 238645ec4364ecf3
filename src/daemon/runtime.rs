//! The runtime directory: what must outlive this process, for the next router of the same app.
//!
//! | name | what |
//! |---|---|
//! | `lock` | held for the router's life: one router to a directory |
//! | `secret` | what a worker that comes back must know |
//! | `attach` | the socket where it comes back |
//! | `control` | the socket where the router takes orders |
//! | `keeper` | the socket where the clients are to be had that a dead router had in hand |
//! | `roll` | the workers that live, and the places they serve |
//! | `preload/` | the script that they have loaded |
//! | `ids` | the workers' numbers, if somebody else gives them: see [`crate::supervisor::ids`] |
//!
//! A router that ends as it should takes everything along but the `ids`, which are not its own; one
//! that dies leaves it.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hasher};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};

use crate::config::Config;
use crate::sys::private::{self, Lock, NotPrivate};

/// Bytes of chance in a secret.
const SECRET_BYTES: usize = 16;
/// Between two tries to take a directory whose router has just died, and how many there are.
const DYING_PAUSE: Duration = Duration::from_millis(10);
const DYING_TRIES: u32 = 200;
/// Where all users can look and only root can write (hier(7)).
const PUBLIC: &str = "/run";
/// Routers of one app, each with a directory of its own, before the next is refused.
const SIBLINGS: usize = 10;

/// Why there is no runtime directory.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// Somebody else's, or open to others.
    #[error(
        "{directory} is not a directory that only this user may enter: {why}. Remove it, or name \
         another with --runtime-dir"
    )]
    Unsafe {
        /// Its path.
        directory: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Another router has it.
    #[error(
        "{directory} is another router's, of process {holder}: stop it, or name another directory \
         with --runtime-dir"
    )]
    Taken {
        /// Its path.
        directory: PathBuf,
        /// As it wrote it down.
        holder: String,
    },
    /// The system does not let it.
    #[error(
        "cannot use {directory}: {reason}. Name a directory that can be written with --runtime-dir"
    )]
    System {
        /// Its path.
        directory: PathBuf,
        /// Why.
        reason: io::Error,
    },
}

/// The directory, held.
#[derive(Debug)]
pub struct Runtime {
    directory: PathBuf,
    /// Keeps the lock; crosses an upgrade.
    lock: Flock<OwnedFd>,
    secret: String,
}

impl Runtime {
    /// Finds or makes the directory for this app, and takes it.
    ///
    /// # Errors
    /// It is not private to this user, another router has it, or the system does not let it.
    pub fn open(config: &Config) -> Result<Self, RuntimeError> {
        let named = config.runtime_dir.clone().or_else(services);
        if let Some(directory) = named {
            return Self::take(&directory);
        }
        let (parent, name) = own(config);
        // In a place where everybody may make directories it could be anybody's, who could then put
        // another in place of what is found safe below.
        private_directory(&parent)?;
        let own = parent.join(name);
        let mut last = Self::take(&own);
        for sibling in 1..SIBLINGS {
            if !matches!(last, Err(RuntimeError::Taken { .. })) {
                break;
            }
            last = Self::take(&own.with_extension(sibling.to_string()));
        }
        last
    }

    /// Takes over the lock that an earlier program in this process has held.
    ///
    /// # Errors
    /// The secret cannot be read any more.
    pub fn inherit(directory: PathBuf, lock: OwnedFd) -> Result<Self, RuntimeError> {
        let system = |reason| RuntimeError::System { directory: directory.clone(), reason };
        // The lock belongs to the open file: asked for again, it is given again.
        let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock)
            .map_err(|(_, errno)| system(errno.into()))?;
        let secret = secret(&directory).map_err(system)?;
        Ok(Self { directory, lock, secret })
    }

    /// A share of the lock, for the next program in this process.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn share(&self) -> io::Result<OwnedFd> {
        self.lock.as_fd().try_clone_to_owned()
    }

    fn take(directory: &Path) -> Result<Self, RuntimeError> {
        private_directory(directory)?;
        let system = |reason| RuntimeError::System { directory: directory.to_owned(), reason };
        let mut tries = 0;
        let lock = loop {
            match private::lock(&directory.join("lock")).map_err(system)? {
                Lock::Taken(lock) => break lock,
                Lock::Held(holder) if tries < DYING_TRIES && private::has_ended(&holder) => pause(),
                Lock::Held(holder) => {
                    let directory = directory.to_owned();
                    return Err(RuntimeError::Taken { directory, holder });
                }
            }
            tries += 1;
        };
        let secret = secret(directory).map_err(system)?;
        Ok(Self { directory: directory.to_owned(), lock, secret })
    }

    /// Where it is.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// What is held for the router's life.
    #[must_use]
    pub fn lock(&self) -> BorrowedFd<'_> {
        self.lock.as_fd()
    }

    /// Where clients are kept.
    #[must_use]
    pub fn door(&self) -> PathBuf {
        self.directory.join("keeper")
    }

    /// Where workers come back.
    #[must_use]
    pub fn attach(&self) -> PathBuf {
        self.directory.join("attach")
    }

    /// Where orders are taken.
    #[must_use]
    pub fn control(&self) -> PathBuf {
        self.directory.join("control")
    }

    /// Who lives.
    #[must_use]
    pub fn roll(&self) -> PathBuf {
        self.directory.join("roll")
    }

    /// Where the workers' script lies. Workers of other users cannot enter the directory; theirs
    /// lies where all can look and only root can write, under a name that goes with the directory.
    #[must_use]
    pub fn preload(&self, public: bool) -> PathBuf {
        if !public {
            return self.directory.join("preload");
        }
        let mut digits = DefaultHasher::new();
        digits.write(self.directory.as_os_str().as_bytes());
        Path::new(PUBLIC).join(format!("router-preload-{:016x}", digits.finish()))
    }

    /// Where the workers' numbers may lie. Whoever has written them takes them away.
    #[must_use]
    pub fn ids(&self) -> PathBuf {
        self.directory.join("ids")
    }

    /// How far the bus's stream was read.
    #[must_use]
    pub fn bus(&self) -> PathBuf {
        self.directory.join("bus")
    }

    /// What a worker that comes back must know.
    #[must_use]
    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// Takes everything away: nobody is left who could come back. The directory itself goes too
    /// where nothing else lies in it.
    pub fn clear(self) {
        for name in ["attach", "bus", "control", "keeper", "roll", "secret", "lock"] {
            remove(fs::remove_file(self.directory.join(name)), &self.directory);
        }
        // Both: an upgrade may have changed whose the workers are.
        for public in [false, true] {
            remove(fs::remove_dir_all(self.preload(public)), &self.directory);
        }
        // Of the operator's it may hold other things.
        let _kept = fs::remove_dir(&self.directory);
    }
}

/// What is not there need not be removed.
fn remove(removed: io::Result<()>, directory: &Path) {
    if let Err(error) = removed
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(directory = %directory.display(), %error, "something stays behind");
    }
}

#[expect(clippy::disallowed_methods, reason = "nothing runs yet that would wait for it")]
fn pause() {
    std::thread::sleep(DYING_PAUSE);
}

fn private_directory(directory: &Path) -> Result<(), RuntimeError> {
    private::directory(directory).map_err(|error| match error {
        NotPrivate::System(reason) => {
            RuntimeError::System { directory: directory.to_owned(), reason }
        }
        NotPrivate::Unsafe(why) => RuntimeError::Unsafe { directory: directory.to_owned(), why },
    })
}

/// What is written there, or a new one.
fn secret(directory: &Path) -> io::Result<String> {
    let path = directory.join("secret");
    if let Ok(text) = fs::read_to_string(&path)
        && text.len() == SECRET_BYTES * 2
    {
        return Ok(text);
    }
    let mut chance = [0; SECRET_BYTES];
    File::open("/dev/urandom")?.read_exact(&mut chance)?;
    let text: String = chance.iter().map(|byte| format!("{byte:02x}")).collect();
    private::file(&path)?.write_all(text.as_bytes())?;
    Ok(text)
}

/// What systemd has made for the service; of several the first.
fn services() -> Option<PathBuf> {
    let listed = std::env::var_os("RUNTIME_DIRECTORY")?;
    let first = listed.as_bytes().split(|byte| *byte == b':').next()?;
    (!first.is_empty()).then(|| PathBuf::from(std::ffi::OsStr::from_bytes(first)))
}

/// A directory of this user's, and a name in it that the next router of the same app, started the
/// same way, finds again.
fn own(config: &Config) -> (PathBuf, String) {
    let parent = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let parent = parent.filter(|parent| parent.is_dir()).unwrap_or_else(std::env::temp_dir);
    let mut digits = DefaultHasher::new();
    digits.write(config.app.script.as_os_str().as_bytes());
    digits.write(config.app.cwd.as_os_str().as_bytes());
    for argument in std::env::args_os().skip(1) {
        digits.write(argument.as_bytes());
        digits.write_u8(0);
    }
    for address in &config.listen {
        digits.write(format!("{address:?}").as_bytes());
    }
    let user = nix::unistd::geteuid();
    (parent.join(format!("router-{user}")), format!("{:016x}", digits.finish()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    fn parent(test: &str) -> PathBuf {
        let name = format!("router-runtime-{test}-{}", std::process::id());
        let parent = std::env::temp_dir().join(name);
        fs::create_dir_all(&parent).expect("ours");
        parent
    }

    #[test]
    fn one_router_to_a_directory_and_the_secret_is_the_next_ones_too() {
        let parent = parent("lock");
        let directory = parent.join("own");
        let first = Runtime::take(&directory).expect("nobody has it");
        let secret = first.secret().to_owned();
        assert_eq!(secret.len(), SECRET_BYTES * 2);
        let mode = fs::metadata(&directory).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        match Runtime::take(&directory) {
            Err(RuntimeError::Taken { holder, .. }) => {
                assert_eq!(holder, std::process::id().to_string());
            }
            other => panic!("{other:?}"),
        }
        // Dead: what it has left stays.
        drop(first);
        let second = Runtime::take(&directory).expect("nobody has it");
        assert_eq!(second.secret(), secret);
        fs::write(second.roll(), "").expect("ours");
        second.clear();
        assert!(!directory.exists());
        fs::remove_dir_all(parent).expect("ours");
    }

    #[test]
    fn what_is_the_operators_stays() {
        let parent = parent("clear");
        fs::write(parent.join("theirs"), "").expect("ours");
        Runtime::take(&parent).expect("nobody has it").clear();
        let left: Vec<_> = fs::read_dir(&parent).expect("it is there").flatten().collect();
        assert_eq!(left.len(), 1, "{left:?}");
        fs::remove_dir_all(parent).expect("ours");
    }

    #[test]
    fn a_directory_that_others_may_write_to_is_refused() {
        let parent = parent("unsafe");
        fs::set_permissions(&parent, Permissions::from_mode(0o777)).expect("ours");
        let error = Runtime::take(&parent).expect_err("it is not private").to_string();
        assert!(error.contains("others may write") && error.contains("--runtime-dir"), "{error}");
        let file = parent.join("file");
        fs::write(&file, "").expect("ours");
        Runtime::take(&file).expect_err("it is no directory");
        let link = parent.join("link");
        std::os::unix::fs::symlink("/root", &link).expect("ours");
        Runtime::take(&link).expect_err("it leads elsewhere");
        fs::remove_dir_all(parent).expect("ours");
    }
}
