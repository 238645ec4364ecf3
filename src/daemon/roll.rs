//! The roll: the estate of a router and the places where it listens, written down for the next one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::listeners;
use crate::config::{Config, Serialization};
use crate::route::WorkerId;
use crate::supervisor::Estate;
use crate::sys::private;

/// The version of the file.
const VERSION: u32 = 1;

/// See the module's text.
#[derive(Debug, Serialize, Deserialize)]
pub struct Roll {
    version: u32,
    /// What the workers run: others are not theirs to join.
    script: PathBuf,
    serialization: String,
    /// The workers.
    pub estate: Estate,
    /// Our ends of their channels, by [`crate::sys::socket::number`].
    pub channels: Channels,
    /// Where they take connections.
    pub listeners: listeners::Frozen,
}

/// Sockets by whose channel they are.
pub type Channels = Vec<(WorkerId, u64)>;

/// Why a roll is of no use.
#[derive(Debug, thiserror::Error)]
pub enum RollError {
    /// It cannot be read, or is none.
    #[error(transparent)]
    Unreadable(#[from] io::Error),
    /// Another version of the router has written it.
    #[error("it is of version {0}, this router reads {VERSION}")]
    Version(u32),
    /// The settings have changed.
    #[error("the workers run {0} with other settings")]
    Other(PathBuf),
}

/// What the last router here has left; `None`: it ended as it should, or there was none.
///
/// # Errors
/// There is one, and it is of no use.
pub fn read(path: &Path, config: &Config) -> Result<Option<Roll>, RollError> {
    let text = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text?,
    };
    let version: Version = serde_json::from_slice(&text).map_err(io::Error::from)?;
    if version.version != VERSION {
        return Err(RollError::Version(version.version));
    }
    let mut roll: Roll = serde_json::from_slice(&text).map_err(io::Error::from)?;
    if roll.script != config.app.script || roll.serialization != codec(config) {
        return Err(RollError::Other(roll.script));
    }
    roll.estate.verify();
    Ok(Some(roll))
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

fn codec(config: &Config) -> &'static str {
    config.serialization.unwrap_or(Serialization::Advanced).as_str()
}

/// Writes the roll whenever it has changed.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    written: Vec<u8>,
    failed: bool,
}

impl Writer {
    /// Nothing is written yet.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path, written: Vec::new(), failed: false }
    }

    /// Replaces the roll as a whole, if it says anything new.
    ///
    /// It is not synced to the disk: when the host goes down no worker lives, so that an old roll
    /// names nobody.
    pub fn write(
        &mut self,
        config: &Config,
        estate: &Estate,
        channels: &Channels,
        listeners: listeners::Frozen,
    ) {
        let roll = Roll {
            version: VERSION,
            script: config.app.script.clone(),
            serialization: codec(config).to_owned(),
            estate: estate.clone(),
            channels: channels.clone(),
            listeners,
        };
        let written = serde_json::to_vec(&roll).map_err(io::Error::from).and_then(|text| {
            if text == self.written {
                return Ok(());
            }
            private::replace(&self.path, &text)?;
            self.written = text;
            Ok(())
        });
        if let Err(error) = written
            && !std::mem::replace(&mut self.failed, true)
        {
            tracing::error!(path = %self.path.display(), %error,
                "the roll cannot be written: workers will not outlive this router");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_as_it_was_written_and_by_nobody_else() {
        let name = format!("router-roll-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let config = Config::fixture(crate::config::App::fixture());
        assert!(read(&path, &config).expect("there is none").is_none());
        let channels = vec![(WorkerId { slot: 1, generation: 3 }, 77)];
        let mut writer = Writer::new(path.clone());
        writer.write(&config, &Estate::default(), &channels, listeners::Frozen::default());
        let roll = read(&path, &config).expect("it is ours").expect("it is there");
        assert_eq!((roll.channels, roll.estate), (channels, Estate::default()));

        let mut other = config.clone();
        other.app.script = "/elsewhere.js".into();
        assert!(matches!(read(&path, &other), Err(RollError::Other(_))));
        let text = fs::read_to_string(&path).expect("it is there");
        fs::write(&path, text.replace("\"version\":1", "\"version\":9")).expect("ours");
        assert!(matches!(read(&path, &config), Err(RollError::Version(9))));
        fs::write(&path, &text[..text.len() / 2]).expect("ours");
        assert!(matches!(read(&path, &config), Err(RollError::Unreadable(_))));
        fs::remove_file(&path).expect("ours");
    }
}
