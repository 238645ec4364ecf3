//! Which file APP means: a script, an ecosystem file, or what a directory holds.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail};

use super::commands::left_out;
use super::evaluate::is_yaml;
use super::languages::{is_foreign, is_program};

/// What an app may be written in.
const SCRIPTS: [&str; 4] = ["js", "cjs", "mjs", "ts"];
/// The ecosystem files a directory is searched for, in this order.
const ECOSYSTEMS: [&str; 6] = [
    "ecosystem.config.js",
    "ecosystem.config.cjs",
    "ecosystem.config.mjs",
    "ecosystem.config.json",
    "ecosystem.config.yaml",
    "ecosystem.config.yml",
];
/// The scripts a directory without either is searched for, in this order.
const DEFAULTS: [&str; 3] = ["worker.js", "server.js", "index.js"];

/// An app's file; absolute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Run this; `base` is where its workers start.
    Script { script: PathBuf, base: PathBuf },
    /// It describes the app.
    Ecosystem(PathBuf),
}

/// Finds what `app` means, seen from `here`.
pub(super) fn discover(app: Option<&Path>, here: &Path) -> Result<Found> {
    let Some(app) = app else { return in_directory(here) };
    let path = here.join(app);
    if path.is_dir() {
        return in_directory(&path);
    }
    if !path.is_file() {
        if let Some(told) = app.to_str().and_then(left_out) {
            bail!("{told}");
        }
        bail!("there is no {}; give a script, an ecosystem file, or a directory", path.display());
    }
    if is_ecosystem(&path) {
        return Ok(Found::Ecosystem(path));
    }
    let extension = path.extension().and_then(|extension| extension.to_str());
    match extension {
        Some(known) if SCRIPTS.contains(&known) => {
            Ok(Found::Script { script: path, base: here.to_owned() })
        }
        Some(other) if is_foreign(other) => {
            Ok(Found::Script { script: path, base: here.to_owned() })
        }
        _ if is_program(&path) => Ok(Found::Script { script: path, base: here.to_owned() }),
        _ => bail!(
            "{} is neither a script (.js .cjs .mjs .ts .py .sh .rb .php .pl) nor an ecosystem file (*.config.js, .cjs, .mjs, .json, .yaml)",
            path.display()
        ),
    }
}

/// `ecosystem.config.js`, or another `*.config.js` or `.json` that was given explicitly.
pub(super) fn is_ecosystem(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let config = SCRIPTS.iter().any(|extension| name.ends_with(&format!(".config.{extension}")));
    config || is_yaml(path) || name.ends_with(".json") && name != "package.json"
}

fn in_directory(directory: &Path) -> Result<Found> {
    let file = |name: &str| Some(directory.join(name)).filter(|path| path.is_file());
    if let Some(path) = ECOSYSTEMS.iter().find_map(|name| file(name)) {
        return Ok(Found::Ecosystem(path));
    }
    let script = match main_of(directory)? {
        Some(main) => Some(main),
        None => DEFAULTS.iter().find_map(|name| file(name)),
    };
    let base = directory.to_owned();
    script.map(|script| Found::Script { script, base }).ok_or_else(|| {
        anyhow!(
            "there is no app in {}; looked for {}, \"main\" of package.json, {}",
            directory.display(),
            ECOSYSTEMS.join(", "),
            DEFAULTS.join(", ")
        )
    })
}

/// `main` of package.json, found as Node finds it: the name itself, with .js, or an index.js.
fn main_of(directory: &Path) -> Result<Option<PathBuf>> {
    let manifest = directory.join("package.json");
    let Ok(text) = fs::read(&manifest) else { return Ok(None) };
    let package: serde_json::Value = serde_json::from_slice(&text)
        .map_err(|error| anyhow!("{} is not JSON: {error}", manifest.display()))?;
    let Some(main) = package.get("main").and_then(serde_json::Value::as_str) else {
        return Ok(None);
    };
    let path = directory.join(main);
    let candidates = [path.clone(), directory.join(format!("{main}.js")), path.join("index.js")];
    // A "main" that is a build's product, not built: one of the defaults may still be there.
    Ok(candidates.into_iter().find(|path| path.is_file()))
}

#[cfg(test)]
mod tests {
    use super::super::tests::Scratch;
    use super::*;

    fn found(scratch: &Scratch, app: Option<&str>) -> Result<String, String> {
        match discover(app.map(Path::new), scratch.path()) {
            Ok(Found::Ecosystem(path) | Found::Script { script: path, .. }) => {
                let path = path.strip_prefix(scratch.path()).expect("inside");
                Ok(path.display().to_string())
            }
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn a_directory_is_searched_in_order() {
        let scratch = Scratch::new();
        let error = found(&scratch, None).expect_err("nothing there");
        assert!(error.contains("ecosystem.config.mjs") && error.contains("worker.js"), "{error}");
        for (file, text, expected) in [
            ("index.js", "", "index.js"),
            ("server.js", "", "server.js"),
            ("worker.js", "", "worker.js"),
            ("package.json", r#"{"main":"dist/app"}"#, "worker.js"),
            ("dist/app.js", "", "dist/app.js"),
            ("ecosystem.config.json", "{}", "ecosystem.config.json"),
            ("ecosystem.config.js", "", "ecosystem.config.js"),
        ] {
            scratch.write(file, text);
            assert_eq!(found(&scratch, None).as_deref(), Ok(expected), "with {file}");
            assert_eq!(found(&scratch, Some(".")).as_deref(), Ok(expected), "with {file}");
        }
    }

    #[test]
    fn a_file_is_what_its_name_says() {
        let scratch = Scratch::new();
        for name in ["a.ts", "b.config.cjs", "apps.json", "binary"] {
            scratch.write(name, "");
        }
        let here = scratch.path();
        let script = discover(Some(Path::new("a.ts")), here).expect("a script");
        assert_eq!(script, Found::Script { script: here.join("a.ts"), base: here.to_owned() });
        for name in ["b.config.cjs", "apps.json"] {
            let ecosystem = discover(Some(Path::new(name)), here).expect(name);
            assert_eq!(ecosystem, Found::Ecosystem(here.join(name)));
        }
        assert!(found(&scratch, Some("binary")).expect_err("unknown").contains("neither a script"));
    }

    #[test]
    fn a_command_that_is_left_out_is_answered_unless_it_is_a_file() {
        let scratch = Scratch::new();
        assert!(found(&scratch, Some("deploy")).expect_err("no file").contains("leaves out"));
        assert!(found(&scratch, Some("gone.js")).expect_err("no file").contains("there is no"));
        scratch.write("deploy/index.js", "");
        assert_eq!(found(&scratch, Some("deploy")).as_deref(), Ok("deploy/index.js"));
    }

    #[test]
    fn a_broken_manifest_is_told() {
        let scratch = Scratch::new();
        scratch.write("package.json", "{");
        assert!(found(&scratch, None).expect_err("broken").contains("is not JSON"));
    }
}
