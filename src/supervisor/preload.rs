//! The script that every Node worker loads before the application: written out, and told its part.
//!
//! `src/preload` has the script itself. It is embedded in this binary and written to a private
//! directory, which goes when the router goes.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::route::WorkerId;
use crate::sys::process::LANE_FD;

/// The environment variable that tells the script its part; it deletes it.
pub(super) const VARIABLE: &str = "ROUTER_WORKER";

/// Every file of the script; the first is the one that is loaded.
const FILES: [(&str, &str); 11] = [
    ("index.js", include_str!("../preload/index.js")),
    ("adapter.js", include_str!("../preload/adapter.js")),
    ("delivery.js", include_str!("../preload/delivery.js")),
    ("drain.js", include_str!("../preload/drain.js")),
    ("keepalive.js", include_str!("../preload/keepalive.js")),
    ("lane.js", include_str!("../preload/lane.js")),
    ("load.js", include_str!("../preload/load.js")),
    ("modules.js", include_str!("../preload/modules.js")),
    ("router.js", include_str!("../preload/router.js")),
    ("servers.js", include_str!("../preload/servers.js")),
    ("sessions.js", include_str!("../preload/sessions.js")),
];

/// What the workers' preload shall do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Read sockets from a lane.
    pub lane: bool,
    /// Put the cluster adapter in place of Socket.IO's default.
    pub adapter: bool,
    /// Show that the event loop turns, this often.
    pub beat: Option<Duration>,
}

/// The script on disk.
#[derive(Debug)]
pub(super) struct Preload {
    /// Goes with this value, unless it was left.
    directory: Option<PathBuf>,
    entry: PathBuf,
    part: Part,
}

impl Preload {
    /// Writes the script into a new directory that only this user can read, or anew into the one
    /// that an earlier process has left.
    pub(super) fn write(part: Part, left: Option<PathBuf>) -> io::Result<Self> {
        let directory = match left.filter(|directory| directory.is_dir()) {
            Some(directory) => directory,
            None => private_directory(&runtime_directory())?,
        };
        let entry = directory.join(FILES[0].0);
        let preload = Self { entry, directory: Some(directory.clone()), part };
        for (name, text) in FILES {
            std::fs::write(directory.join(name), text)?;
        }
        Ok(preload)
    }

    /// Leaves the script to the next process.
    pub(super) fn leave(mut self) -> PathBuf {
        self.directory.take().unwrap_or_default()
    }

    /// What to load.
    pub(super) fn entry(&self) -> &Path {
        &self.entry
    }

    /// Whether workers get a lane.
    pub(super) fn lane(&self) -> bool {
        self.part.lane
    }

    /// What [`VARIABLE`] says to one worker; `lane` is null where there is none.
    pub(super) fn instruction(&self, id: WorkerId) -> String {
        let lane = self.part.lane.then_some(LANE_FD);
        serde_json::json!({
            "slot": id.slot,
            "generation": id.generation,
            "lane": lane,
            "adapter": self.part.adapter,
            "beat": self.part.beat.map(|beat| u64::try_from(beat.as_millis()).unwrap_or(u64::MAX)),
        })
        .to_string()
    }
}

impl Drop for Preload {
    fn drop(&mut self) {
        if let Some(directory) = &self.directory
            && let Err(error) = std::fs::remove_dir_all(directory)
        {
            let directory = directory.display();
            tracing::warn!(%directory, %error, "the preload's directory stays behind");
        }
    }
}

/// Where short-lived files go: what systemd gave this service, the user's own, else the
/// temporary directory.
pub(super) fn runtime_directory() -> PathBuf {
    ["RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR"]
        .iter()
        .filter_map(std::env::var_os)
        .map(PathBuf::from)
        .find(|directory| directory.is_dir())
        .unwrap_or_else(std::env::temp_dir)
}

/// A directory of a name nobody could foresee, mode 0700.
fn private_directory(parent: &Path) -> io::Result<PathBuf> {
    Ok(nix::unistd::mkdtemp(&parent.join("router-XXXXXX"))?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_script_is_there_while_it_is_needed_and_nobody_elses() {
        let part = Part { lane: true, adapter: false, beat: Some(Duration::from_secs(7)) };
        let preload = Preload::write(part, None).expect("writable");
        let directory = preload.directory.clone().expect("it was not left");
        let mode = std::fs::metadata(&directory).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        assert!(preload.entry().is_file());
        let told = preload.instruction(WorkerId { slot: 3, generation: 9 });
        let told: serde_json::Value = serde_json::from_str(&told).expect("JSON");
        assert_eq!(
            told,
            serde_json::json!({
                "slot": 3, "generation": 9, "lane": 4, "adapter": false, "beat": 7000
            })
        );
        let left = preload.leave();
        assert_eq!((&left, directory.exists()), (&directory, true));
        drop(Preload::write(part, Some(left)).expect("writable"));
        assert!(!directory.exists());
    }

    #[test]
    fn every_file_of_the_script_is_embedded() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/src/preload");
        let mut there: Vec<String> = std::fs::read_dir(directory)
            .expect("there")
            .map(|entry| entry.expect("readable").file_name().into_string().expect("a name"))
            .collect();
        there.sort_unstable();
        let mut embedded = FILES.map(|(name, _)| name.to_owned());
        embedded.sort_unstable();
        assert_eq!(there, embedded);
    }
}
