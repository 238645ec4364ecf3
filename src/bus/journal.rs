//! How far a host has read the stream, kept in a file for the router that comes after one that died.
//!
//! The workers of a router that was killed keep their clients, and the next router reads on from here:
//! nobody misses what came meanwhile. It is written with one call, over itself, before an entry is
//! passed on to the shards: what a router had read and not passed to its workers when it died is lost
//! with it, as any packet is that it had in hand, and nothing comes twice.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::position::Position;

/// Longer than any of them; the rest is spaces.
const LENGTH: usize = 256;

/// What is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// What this host calls itself.
    pub host: String,
    /// The stream that was read.
    pub stream: String,
    /// How far.
    pub position: Position,
}

/// The file.
#[derive(Debug)]
pub struct Journal {
    file: File,
    failed: bool,
}

impl Journal {
    /// Opens it, for its owner alone.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let file = options.create(true).write(true).truncate(false).mode(0o600).open(path)?;
        Ok(Self { file, failed: false })
    }

    /// Writes over what was there.
    pub fn write(&mut self, mark: &Mark) {
        let written = serde_json::to_vec(mark).map_err(io::Error::from).and_then(|mut line| {
            if line.len() > LENGTH {
                return Err(io::Error::other("the mark is too long"));
            }
            line.resize(LENGTH, b' ');
            self.file.write_all_at(&line, 0)
        });
        if let Err(error) = written
            && !std::mem::replace(&mut self.failed, true)
        {
            tracing::warn!(%error, "a router after this one will not know how far the stream was read");
        }
    }

    /// What an earlier router has written; `None`: nothing of use.
    #[must_use]
    pub fn read(path: &Path) -> Option<Mark> {
        let text = std::fs::read(path).ok()?;
        serde_json::from_slice(&text).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_last_is_read() {
        let path = std::env::temp_dir().join(format!("router-bus-{}", std::process::id()));
        assert_eq!(Journal::read(&path), None);
        let mut mark = Mark {
            host: "a".repeat(40),
            stream: "socket.io".to_owned(),
            position: Position::default(),
        };
        let mut journal = Journal::open(&path).expect("ours");
        journal.write(&mark);
        "h".clone_into(&mut mark.host);
        journal.write(&mark);
        assert_eq!(Journal::read(&path), Some(mark));
        std::fs::remove_file(&path).expect("ours");
    }
}
