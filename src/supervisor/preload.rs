//! The script that every Node worker loads before the application: written out, and told its part.
//!
//! `src/preload` has the script itself. It is embedded in this binary and written into the runtime
//! directory, which goes when the router goes; or beside it, where workers are another user's.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::Serialization;
use crate::route::WorkerId;
use crate::sys::private;
use crate::sys::process::LANE_FD;

/// The environment variable that tells the script its part; it deletes it.
pub(super) const VARIABLE: &str = "ROUTER_WORKER";

/// Every file of the script; the first is the one that is loaded.
const FILES: [(&str, &str); 16] = [
    ("index.js", include_str!("../preload/index.js")),
    ("adapter.js", include_str!("../preload/adapter.js")),
    ("batch.js", include_str!("../preload/batch.js")),
    ("channel.js", include_str!("../preload/channel.js")),
    ("delivery.js", include_str!("../preload/delivery.js")),
    ("drain.js", include_str!("../preload/drain.js")),
    ("keepalive.js", include_str!("../preload/keepalive.js")),
    ("lane.js", include_str!("../preload/lane.js")),
    ("load.js", include_str!("../preload/load.js")),
    ("modules.js", include_str!("../preload/modules.js")),
    ("orphan.js", include_str!("../preload/orphan.js")),
    ("outbox.js", include_str!("../preload/outbox.js")),
    ("output.js", include_str!("../preload/output.js")),
    ("router.js", include_str!("../preload/router.js")),
    ("servers.js", include_str!("../preload/servers.js")),
    ("sessions.js", include_str!("../preload/sessions.js")),
];

/// What the workers' preload shall do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Where the script is written.
    pub directory: PathBuf,
    /// Any user may read it.
    pub public: bool,
    /// Read sockets from a lane.
    pub lane: bool,
    /// Put the cluster adapter in place of Socket.IO's default.
    pub adapter: bool,
    /// Show that the event loop turns, this often.
    pub beat: Option<Duration>,
    /// Wait for the next router when this one has died.
    pub attach: Option<Attach>,
}

/// How a worker that has lost its router finds the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attach {
    /// The socket where it is awaited.
    pub path: PathBuf,
    /// What shows that it is one of the router's own.
    pub secret: String,
    /// How long it looks.
    pub within: Duration,
}

/// The script on disk.
#[derive(Debug)]
pub(super) struct Preload {
    entry: PathBuf,
    part: Part,
}

impl Preload {
    /// Writes the script, over what an earlier router may have left.
    pub(super) fn write(part: Part) -> io::Result<Self> {
        let entry = part.directory.join(FILES[0].0);
        private::directory(&part.directory)?;
        // Whatever the umask says.
        let (enter, read) = if part.public { (0o755, 0o644) } else { (0o700, 0o600) };
        for (name, text) in FILES {
            let file = part.directory.join(name);
            fs::write(&file, text)?;
            fs::set_permissions(&file, Permissions::from_mode(read))?;
        }
        fs::set_permissions(&part.directory, Permissions::from_mode(enter))?;
        Ok(Self { entry, part })
    }

    /// Whether workers wait for the next router when this one has died.
    pub(super) fn outlives(&self) -> bool {
        self.part.attach.is_some()
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
    pub(super) fn instruction(&self, id: WorkerId, mode: Serialization) -> String {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let attach = self.part.attach.as_ref().map(|attach| {
            serde_json::json!({
                "path": attach.path,
                "secret": attach.secret,
                "within": millis(attach.within),
            })
        });
        let lane = self.part.lane.then_some(LANE_FD);
        serde_json::json!({
            "slot": id.slot,
            "generation": id.generation,
            "lane": lane,
            "adapter": self.part.adapter,
            "mode": mode.as_str(),
            "beat": self.part.beat.map(millis),
            "attach": attach,
        })
        .to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_is_written_and_nobody_elses_and_each_worker_is_told_its_part() {
        let parent = nix::unistd::mkdtemp(&std::env::temp_dir().join("preload-XXXXXX"));
        let parent = parent.expect("writable");
        let part = Part {
            directory: parent.join("preload"),
            public: false,
            lane: true,
            adapter: false,
            beat: Some(Duration::from_secs(7)),
            attach: Some(Attach {
                path: "/run/a/attach".into(),
                secret: "5ec".into(),
                within: Duration::from_secs(30),
            }),
        };
        let preload = Preload::write(part.clone()).expect("writable");
        let mode = fs::metadata(&part.directory).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        assert!(preload.entry().is_file());
        let told = preload.instruction(WorkerId { slot: 3, generation: 9 }, Serialization::Json);
        let told: serde_json::Value = serde_json::from_str(&told).expect("JSON");
        assert_eq!(
            told,
            serde_json::json!({
                "slot": 3, "generation": 9, "lane": 4, "adapter": false, "beat": 7000,
                "mode": "json",
                "attach": { "path": "/run/a/attach", "secret": "5ec", "within": 30_000 },
            })
        );
        let public = Part { public: true, ..part };
        let preload = Preload::write(public.clone()).expect("it may be written again");
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!((mode(&public.directory), mode(preload.entry())), (0o755, 0o644));
        // Whoever may write there could have the workers run anything.
        fs::set_permissions(&public.directory, Permissions::from_mode(0o777)).expect("ours");
        Preload::write(public).expect_err("it is not safe");
        fs::remove_dir_all(parent).expect("ours");
    }

    #[test]
    fn every_file_of_the_script_is_embedded() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/src/preload");
        let mut there: Vec<String> = fs::read_dir(directory)
            .expect("there")
            .map(|entry| entry.expect("readable").file_name().into_string().expect("a name"))
            .collect();
        there.sort_unstable();
        let mut embedded = FILES.map(|(name, _)| name.to_owned());
        embedded.sort_unstable();
        assert_eq!(there, embedded);
    }
}
