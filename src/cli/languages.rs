//! What a script is written in, by its name: JavaScript runs as workers, everything else as ordinary
//! processes of its own interpreter, as under PM2.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::config::{Mode, RawApp};

/// What runs a script with this extension.
const INTERPRETERS: [(&str, &str); 5] =
    [("sh", "bash"), ("py", "python3"), ("rb", "ruby"), ("php", "php"), ("pl", "perl")];

/// What a program for this kernel begins with.
const ELF: [u8; 4] = *b"\x7fELF";

/// Whether a script with this extension is one of another language.
pub(super) fn is_foreign(extension: &str) -> bool {
    INTERPRETERS.iter().any(|(known, _)| *known == extension)
}

/// Whether this file is a program that needs no interpreter.
pub(super) fn is_program(path: &Path) -> bool {
    let mut start = [0; ELF.len()];
    File::open(path).and_then(|mut file| file.read_exact(&mut start)).is_ok() && start == ELF
}

/// Fills in what the script's name says, where nobody has said it.
pub(super) fn recognise(mut raw: RawApp, base: &Path) -> RawApp {
    let Some(script) = &raw.script else { return raw };
    let cwd = raw.cwd.as_ref().map_or_else(|| base.to_owned(), |cwd| base.join(cwd));
    let extension = script.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    let by_name = INTERPRETERS.iter().find(|(known, _)| *known == extension);
    if raw.interpreter.is_none() {
        if let Some((_, interpreter)) = by_name {
            raw.interpreter = Some((*interpreter).to_owned());
        } else if is_program(&cwd.join(script)) {
            raw.interpreter = Some("none".to_owned());
        }
    }
    let foreign = by_name.is_some() || raw.interpreter.as_deref() == Some("none");
    if foreign && raw.exec_mode.is_none() {
        raw.exec_mode = Some(Mode::Fork);
    }
    let python = raw.interpreter.as_deref().is_some_and(|program| program.contains("python"));
    if python {
        // What it prints is to be seen when it is printed.
        raw.env.entry("PYTHONUNBUFFERED".to_owned()).or_insert_with(|| "1".to_owned());
    }
    raw
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recognised(script: &str, interpreter: Option<&str>) -> (Option<String>, Option<Mode>) {
        let interpreter = interpreter.map(str::to_owned);
        let raw = RawApp { script: Some(script.into()), interpreter, ..RawApp::default() };
        let raw = recognise(raw, Path::new("/"));
        (raw.interpreter, raw.exec_mode)
    }

    #[test]
    fn a_script_is_what_its_name_says_unless_somebody_says_otherwise() {
        for (script, given, interpreter, mode) in [
            ("a.js", None, None, None),
            ("a.mjs", Some("bun"), Some("bun"), None),
            ("job.py", None, Some("python3"), Some(Mode::Fork)),
            ("job.py", Some("pypy3"), Some("pypy3"), Some(Mode::Fork)),
            ("job.sh", None, Some("bash"), Some(Mode::Fork)),
            ("bin/true", None, Some("none"), Some(Mode::Fork)),
            ("no/such", None, None, None),
        ] {
            let found = recognised(script, given);
            assert_eq!(found, (interpreter.map(str::to_owned), mode), "{script}");
        }
    }
}
