//! Which apps there shall be, beyond the host's own life: written down by `save`, run by `resurrect`.

use std::fs;
use std::io;
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
        // What was saved before stays beside it, as PM2 keeps it.
        match fs::rename(&path, path.with_extension("json.bak")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(told(error)),
            _ => {}
        }
        let text = serde_json::to_vec_pretty(&dump).map_err(|error| error.to_string())?;
        private::replace(&path, &text).map_err(told)?;
        Ok(dump.len())
    }

    /// Runs what was saved, but for what is there.
    pub(super) async fn resurrect(self: &Rc<Self>) -> Result<Vec<Outcome>, String> {
        let path = self.home.dump();
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(format!(
                    "nothing was saved: there is no {} (router save)",
                    path.display()
                ));
            }
            read => read.map_err(|error| format!("cannot read {}: {error}", path.display()))?,
        };
        let dump: Vec<Saved> = serde_json::from_slice(&text)
            .map_err(|error| format!("{} is no list of apps: {error}", path.display()))?;
        let missing = dump.into_iter().filter(|saved| self.named(&saved.definition.name).is_none());
        let missing: Vec<Definition> = missing
            .map(|Saved { definition, runs }| Definition { autostart: runs, ..definition })
            .collect();
        self.run(missing, Anew::Refuse).await
    }

    /// What was saved, if anything was: as the host starts.
    pub(super) async fn bring_back(self: &Rc<Self>) {
        if !self.home.dump().exists() {
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
