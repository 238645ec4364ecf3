//! wip
mod fleet;
mod table;
#[cfg(test)]
mod tests {
    use crate::config::{App, RawApp, Surroundings, Workers};
    use std::path::Path;

    /// An app with every default, and one worker.
    pub(super) fn app() -> App {
        let raw = RawApp { script: Some("/srv/app.js".into()), ..RawApp::default() };
        let workers = Workers::Exactly(1);
        raw.resolve(&Surroundings { base: Path::new("/srv"), cores: 2, workers, env: None })
            .expect("it has a script")
    }
}
