//! The file of a router's own log, or of the daemon's: appended to, opened again when somebody has
//! moved it away, and rotated before it is too large.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Zoned;

use super::logs::{Names, delete_oldest};
use super::output::append;
use crate::config::Rotation;

/// See the module's text.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    rotation: Rotation,
    /// Never locked while it is written to: a disk that is stuck must not stop who opens it again.
    file: Mutex<Arc<File>>,
    /// What has been written there; of a file that cannot be rotated now, since that was tried.
    size: AtomicU64,
    names: Mutex<Names>,
}

impl LogFile {
    /// Its age does not count.
    pub(super) fn open(path: &Path, rotation: Rotation) -> io::Result<Self> {
        let file = append(path)?;
        let size = AtomicU64::new(file.metadata()?.len());
        let file = Mutex::new(Arc::new(file));
        Ok(Self { path: path.to_owned(), rotation, file, size, names: Mutex::default() })
    }

    pub(super) fn reopen(&self) -> io::Result<()> {
        let file = append(&self.path)?;
        self.size.store(file.metadata()?.len(), Ordering::Relaxed);
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(file);
        Ok(())
    }

    /// Begins a new one. What is no regular file, such as a pipe, is never too large.
    fn rotate(&self) -> io::Result<()> {
        if !fs::symlink_metadata(&self.path)?.is_file() {
            return Ok(());
        }
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        // So many within a second: it waits for the next time.
        let Some(name) = names.next(&self.path, &Zoned::now()) else { return Ok(()) };
        fs::rename(&self.path, name)?;
        self.reopen()?;
        delete_oldest(&self.path, self.rotation.keep)
    }
}

impl Write for &LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let size = self.size.load(Ordering::Relaxed);
        let too_large = |most| size > 0 && size.saturating_add(bytes.len() as u64) > most;
        if self.rotation.size.is_some_and(too_large) {
            self.size.store(0, Ordering::Relaxed);
            if let Err(error) = self.rotate() {
                // It goes into the queue that is being written.
                tracing::warn!(path = %self.path.display(), %error, "the log is not rotated");
            }
        }
        let file = Arc::clone(&self.file.lock().unwrap_or_else(PoisonError::into_inner));
        let written = (&*file).write(bytes)?;
        self.size.fetch_add(written as u64, Ordering::Relaxed);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEPT: usize = 5;

    fn scratch(name: &str) -> PathBuf {
        let name = format!("router-log-{name}-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir_all(&directory).expect("room");
        directory
    }

    #[test]
    fn a_file_that_was_moved_is_opened_again() {
        let directory = scratch("moved");
        let (path, moved) = (directory.join("log"), directory.join("log.1"));
        fs::write(&path, "before\n").expect("room");
        let file = LogFile::open(&path, Rotation::by_size(None, None)).expect("it is there");
        (&file).write_all(b"one\n").expect("room");
        fs::rename(&path, &moved).expect("ours");
        (&file).write_all(b"two\n").expect("room");
        file.reopen().expect("room");
        (&file).write_all(b"three\n").expect("room");
        let text = |path| fs::read_to_string(path).expect("it is there");
        assert_eq!(text(&moved), "before\none\ntwo\n");
        assert_eq!(text(&path), "three\n");
        fs::remove_dir_all(&directory).expect("ours");
        file.reopen().expect_err("there is no such directory");
        (&file).write_all(b"four\n").expect("the old one is there still");
    }

    #[test]
    fn a_file_that_is_large_is_put_aside_and_the_oldest_go() {
        let directory = scratch("large");
        let path = directory.join("log");
        fs::write(&path, "before\n").expect("room");
        let file =
            LogFile::open(&path, Rotation::by_size(Some(8), Some(KEPT))).expect("it is there");
        for n in 0..40 {
            (&file).write_all(format!("line {n}\n").as_bytes()).expect("room");
        }
        let mut names: Vec<PathBuf> = fs::read_dir(&directory)
            .expect("ours")
            .map(|entry| entry.expect("ours").path())
            .filter(|name| *name != path)
            .collect();
        names.sort();
        assert_eq!(names.len(), KEPT, "{names:?}");
        let text = |path: &PathBuf| fs::read_to_string(path).expect("it is there");
        let kept: String = names.iter().chain([&path]).map(text).collect();
        let lines: Vec<&str> = kept.lines().collect();
        // The last ones, in order, none missing.
        let expected: Vec<String> = (40 - lines.len()..40).map(|n| format!("line {n}")).collect();
        assert_eq!(lines, expected);
        assert_eq!(lines.len(), KEPT + 1, "one has room in each");
        fs::remove_dir_all(&directory).expect("ours");
    }
}
