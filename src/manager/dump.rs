//! Which apps there shall be, beyond the host's own life: written down by `save`, run by `resurrect`.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::rc::Rc;

use serde::{Deserialize, Serialize};

use super::Manager;
use crate::control::apps::{Anew, Definition, Outcome};
use crate::sys::private;

/// What `save` writes of an app.
#[derive(Serialize, Deserialize)]
struct Saved {
    #[serde(flatten)]
    definition: Definition,
    runs: bool,
}

impl Manager {
    /// Writes down which apps there are; the daemon need not live for them to be found again.
    pub(super) fn save(&self) -> Result<usize, String> {
        let apps = self.apps.borrow();
        let dump: Vec<_> = apps
            .iter()
            .map(|app| {
                let record = app.record.borrow();
                Saved { definition: record.definition.clone(), runs: record.runs }
            })
            .collect();
        let path = self.home.dump();
        let told = |error: io::Error| format!("cannot write {}: {error}", path.display());
        let text = serde_json::to_vec_pretty(&dump).map_err(|error| error.to_string())?;
        self.replace_dump(&text).map_err(told)?;
        Ok(dump.len())
    }

    /// What was saved before stays beside it, as PM2 keeps it. At every moment, whatever the host does
    /// then, one of the two is whole and in its place.
    fn replace_dump(&self, text: &[u8]) -> io::Result<()> {
        let (path, before) = (self.home.dump(), self.home.dump_before());
        let draft = private::draft(&path, text)?;
        draft.sync()?;
        let unless_missing = |done: io::Result<()>| match done {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        };
        unless_missing(fs::remove_file(&before))?;
        unless_missing(fs::hard_link(&path, &before))?;
        draft.put()?;
        File::open(self.home.directory())?.sync_all()
    }

    /// What was saved last, or before that where the last is not whole.
    fn saved(&self) -> Result<Vec<Saved>, String> {
        let read = |path: &Path| -> Result<Option<Vec<Saved>>, String> {
            let text = match fs::read(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                read => read.map_err(|error| format!("cannot read {}: {error}", path.display()))?,
            };
            let dump = serde_json::from_slice(&text);
            dump.map_err(|error| format!("{} is no list of apps: {error}", path.display()))
        };
        let (path, before) = (self.home.dump(), self.home.dump_before());
        let last = read(&path);
        if let Ok(Some(dump)) = last {
            return Ok(dump);
        }
        let wrong = last.err();
        match (read(&before), &wrong) {
            (Ok(Some(dump)), _) => {
                let wrong = wrong.unwrap_or_else(|| format!("there is no {}", path.display()));
                tracing::warn!(wrong, instead = %before.display(), "what was saved before is run");
                Ok(dump)
            }
            (_, Some(wrong)) => Err(wrong.clone()),
            (before, None) => Err(before.err().unwrap_or_else(|| {
                format!("nothing was saved: there is no {} (router save)", path.display())
            })),
        }
    }

    /// Runs what was saved, but for what is there.
    pub(super) async fn resurrect(self: &Rc<Self>) -> Result<Vec<Outcome>, String> {
        let dump = self.saved()?;
        let missing = dump.into_iter().filter(|saved| self.named(&saved.definition.name).is_none());
        let missing: Vec<Definition> = missing
            .map(|Saved { definition, runs }| Definition { autostart: runs, ..definition })
            .collect();
        self.run(missing, Anew::Refuse).await
    }

    /// What was saved, if anything was: as the host starts.
    pub(super) async fn bring_back(self: &Rc<Self>) {
        if !self.home.dump().exists() && !self.home.dump_before().exists() {
            tracing::info!("nothing was saved");
            return;
        }
        match self.resurrect().await {
            Ok(outcomes) => {
                for Outcome { name, error, .. } in outcomes {
                    match error {
                        None => tracing::info!(app = name, "runs again"),
                        Some(error) => tracing::error!(app = name, error, "does not run again"),
                    }
                }
            }
            Err(error) => tracing::error!(error, "what was saved does not run"),
        }
    }
}
