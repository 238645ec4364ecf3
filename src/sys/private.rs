//! Directories, files and sockets that only this user may use, and locks on them.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::Pid;

use super::pidfd::PidFd;

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NotPrivate {
    /// It is not this user's alone.
    #[error("{0}")]
    Unsafe(&'static str),
    /// The system does not let it.
    #[error(transparent)]
    System(#[from] io::Error),
}

impl From<NotPrivate> for io::Error {
    fn from(error: NotPrivate) -> Self {
        match error {
            NotPrivate::Unsafe(why) => Self::new(io::ErrorKind::PermissionDenied, why),
            NotPrivate::System(error) => error,
        }
    }
}

/// Makes the directory, or finds one that nobody else can have changed.
///
/// # Errors
/// It is another's, others may write there, or the system does not let it.
pub fn directory(path: &Path) -> Result<(), NotPrivate> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    let found = fs::symlink_metadata(path)?;
    if !found.is_dir() {
        Err(NotPrivate::Unsafe("it is something else"))
    } else if found.uid() != nix::unistd::geteuid().as_raw() {
        Err(NotPrivate::Unsafe("it is another user's"))
    } else if found.mode() & 0o022 != 0 {
        Err(NotPrivate::Unsafe("others may write there"))
    } else {
        Ok(())
    }
}

/// An empty file that only this user may read.
///
/// # Errors
/// As open(2).
pub fn file(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

/// Puts a file with these contents in the place of what is there: whoever reads it finds the old
/// contents or the new ones, whole.
///
/// # Errors
/// As open(2), write(2) and rename(2).
pub fn replace(path: &Path, contents: &[u8]) -> io::Result<()> {
    draft(path, contents)?.put()
}

/// Writes what is to come in the place of a file, beside it.
///
/// # Errors
/// As open(2) and write(2).
pub fn draft(path: &Path, contents: &[u8]) -> io::Result<Draft> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let draft = Draft { beside: beside.into(), path: path.to_owned() };
    file(&draft.beside)?.write_all(contents)?;
    Ok(draft)
}

/// A file that is written, and not in its place yet. Dropped, it is none.
#[derive(Debug)]
pub struct Draft {
    beside: PathBuf,
    path: PathBuf,
}

impl Draft {
    /// Waits until it would survive the host's end.
    ///
    /// # Errors
    /// As fsync(2).
    pub fn sync(&self) -> io::Result<()> {
        File::open(&self.beside)?.sync_all()
    }

    /// Puts it in its place.
    ///
    /// # Errors
    /// As rename(2).
    pub fn put(self) -> io::Result<()> {
        fs::rename(&self.beside, &self.path)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // One that was put is not there any more.
        let _put = fs::remove_file(&self.beside);
    }
}

/// Listens on a socket, in place of what an earlier process has left of it. Only this user can
/// connect.
///
/// # Errors
/// As unlink(2), bind(2) and chmod(2).
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// The same, in the context of a tokio runtime.
///
/// # Errors
/// As [`listen`].
pub fn serve(path: &Path) -> io::Result<tokio::net::UnixListener> {
    let listener = listen(path)?;
    listener.set_nonblocking(true)?;
    tokio::net::UnixListener::from_std(listener)
}

/// A lock that was asked for.
#[derive(Debug)]
pub enum Lock {
    /// Ours, and its file, with this process's id in it.
    Taken(Flock<OwnedFd>),
    /// Another's, who has written this down: its pid.
    Held(String),
}

/// Takes the lock on this file, and writes down who has it.
///
/// # Errors
/// As open(2) and flock(2), but for a lock that another has.
pub fn lock(path: &Path) -> io::Result<Lock> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let mut file = options.open(path)?;
    match Flock::lock(OwnedFd::from(file.try_clone()?), FlockArg::LockExclusiveNonblock) {
        Ok(lock) => {
            file.set_len(0)?;
            writeln!(file, "{}", std::process::id())?;
            Ok(Lock::Taken(lock))
        }
        Err((_, Errno::EWOULDBLOCK)) => {
            let mut holder = String::new();
            file.read_to_string(&mut holder)?;
            Ok(Lock::Held(holder.trim().to_owned()))
        }
        Err((_, errno)) => Err(errno.into()),
    }
}

/// The directory on the way to this path that does not let this user through, if one does not.
#[must_use]
pub fn closed(path: &Path) -> Option<PathBuf> {
    let denied = |path: &Path| {
        let found = fs::symlink_metadata(path);
        found.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
    };
    // Whatever is below the first is as closed.
    path.ancestors().filter(|path| denied(path)).last()?.parent().map(Path::to_owned)
}

/// Whether the process that had written its pid so is no more, though its lock may still be.
#[must_use]
pub fn has_ended(holder: &str) -> bool {
    let Ok(pid) = holder.parse() else { return false };
    PidFd::open(Pid::from_raw(pid)).map_or(true, |process| process.has_ended())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_outlives_its_holder_for_a_moment_only() {
        assert!(!has_ended(&std::process::id().to_string()));
        assert!(!has_ended("") && !has_ended("no pid"));
        let mut child = std::process::Command::new("true").spawn().expect("it starts");
        let pid = child.id().to_string();
        child.wait().expect("it is our child");
        assert!(has_ended(&pid));
    }

    #[test]
    fn a_file_is_replaced_whole() {
        let path = std::env::temp_dir().join(format!("router-replace-{}", std::process::id()));
        replace(&path, b"one").expect("room");
        replace(&path, b"two").expect("room");
        assert_eq!(fs::read(&path).expect("it is there"), b"two");
        assert_eq!(fs::metadata(&path).expect("it is there").permissions().mode() & 0o777, 0o600);
        fs::remove_file(&path).expect("ours");
    }
}
