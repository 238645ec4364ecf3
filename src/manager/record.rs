//! What the daemon remembers of an app, beyond its own life.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::control::apps::{Definition, Source};
use crate::sys::clock;
use crate::sys::private::{self, Draft};

/// What lies in an app's directory as `record.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) definition: Definition,
    /// The workers' numbers, by slot; as many as there shall be workers.
    pub(super) ids: Vec<u32>,
    /// It shall run.
    pub(super) runs: bool,
    /// Seconds since 1970.
    pub(super) created: u64,
    /// What ran before the host was started again does not run now.
    boot: String,
}

/// What a router is started from, as `start.json`: see [`crate::cli::saved`].
#[derive(Debug, Serialize)]
struct Start<'a> {
    directory: &'a Path,
    environment: Vec<(&'a String, &'a String)>,
    words: Vec<String>,
}

impl Record {
    pub(super) fn new(definition: Definition, ids: Vec<u32>) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { definition, ids, runs: false, created: since.as_secs(), boot: clock::boot() }
    }

    /// What lies in this directory; none if nothing does, or of another life of the host.
    pub(super) fn read(directory: &Path) -> io::Result<Option<Self>> {
        let text = match fs::read(directory.join("record.json")) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let record: Self = serde_json::from_slice(&text)?;
        Ok(Some(record).filter(|record| record.boot == clock::boot()))
    }

    /// Writes down what is remembered, and what the app's router and its workers read: all of it, or
    /// nothing where the disk is full.
    pub(super) fn write(&self, directory: &Path) -> io::Result<()> {
        let described = directory.join("app.json");
        let mut drafts = vec![
            // The numbers of the workers, by slot: read whenever one is started.
            private::draft(&directory.join("ids"), &serde_json::to_vec(&self.ids)?)?,
        ];
        if let Source::Described(app) = &self.definition.app {
            drafts.push(private::draft(&described, &serde_json::to_vec(app)?)?);
        }
        let start = self.start(directory, &described);
        drafts.push(private::draft(&directory.join("start.json"), &serde_json::to_vec(&start)?)?);
        drafts.push(private::draft(&directory.join("record.json"), &serde_json::to_vec(self)?)?);
        drafts.into_iter().try_for_each(Draft::put)
    }

    /// Takes it all away.
    pub(super) fn forget(directory: &Path) {
        for name in ["record.json", "ids", "app.json", "start.json", "last-words"] {
            if let Err(error) = fs::remove_file(directory.join(name))
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(directory = %directory.display(), name, %error, "it stays behind");
            }
        }
        // A router that was killed has left what its successor would need.
        let _kept = fs::remove_dir(directory);
    }

    fn start<'a>(&'a self, directory: &Path, described: &Path) -> Start<'a> {
        let Definition { options, environment, .. } = &self.definition;
        // It may have been scaled since.
        let others = options.iter().filter(|option| !option.starts_with("--workers="));
        let mut words: Vec<String> = others.cloned().collect();
        words.push(format!("--workers={}", self.ids.len()));
        // Nobody will see that the number was not asked for: the names of the logs are as they were
        // told.
        if self.definition.logs.merged && !words.iter().any(|word| word == "--merge-logs") {
            words.push("--merge-logs".to_owned());
        }
        words.push(format!("--runtime-dir={}", directory.display()));
        match &self.definition.app {
            Source::Path(path) => words.push(path.display().to_string()),
            Source::Described(_) => words.push(described.display().to_string()),
        }
        if !self.definition.app_args.is_empty() {
            words.push("--".to_owned());
            words.extend(self.definition.app_args.iter().cloned());
        }
        Start {
            directory: &self.definition.directory,
            environment: environment.iter().collect(),
            words,
        }
    }
}
