//! Which file APP means: a script, an ecosystem file, or what a directory holds.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail};
use serde_json::Value;

use super::elsewhere::left_out;
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

/// What under PM2 is often named in place of a script.
const RUNNERS: [&str; 8] = ["npm", "npx", "yarn", "pnpm", "node", "bun", "deno", "tsx"];

/// An app's file; absolute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Run this; `base` is where its workers start, and `name` what it is called if its own says
    /// nothing.
    Script { script: PathBuf, base: PathBuf, name: Option<String> },
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
        bail!(
            "there is no {}; {}",
            path.display(),
            runner(app)
                .unwrap_or_else(|| "give a script, an ecosystem file, or a directory".to_owned())
        );
    }
    if is_ecosystem(&path) {
        return Ok(Found::Ecosystem(path));
    }
    let extension = path.extension().and_then(|extension| extension.to_str());
    match extension {
        Some(known) if SCRIPTS.contains(&known) => {
            Ok(Found::Script { script: path, base: here.to_owned(), name: None })
        }
        Some(other) if is_foreign(other) => {
            Ok(Found::Script { script: path, base: here.to_owned(), name: None })
        }
        _ if is_program(&path) => {
            Ok(Found::Script { script: path, base: here.to_owned(), name: None })
        }
        _ => bail!(
            "{} is neither a script (.js .cjs .mjs .ts .py .sh .rb .php .pl) nor an ecosystem file (*.config.js, .cjs, .mjs, .json, .yaml)",
            path.display()
        ),
    }
}

/// What to do, if this is what starts scripts where one expects a script.
pub(super) fn runner(app: &Path) -> Option<String> {
    let word = app.to_str().filter(|word| RUNNERS.contains(word))?;
    Some(format!(
        "`{word}` is no script but starts one, and a worker behind it would get no connections: name \
         the script itself (what \"start\" in package.json runs), with --interpreter if it is not Node's"
    ))
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
    let manifest = manifest(directory)?;
    let script = match main_of(directory, &manifest) {
        Some(main) => Some(main),
        None => DEFAULTS.iter().find_map(|name| file(name)),
    };
    let base = directory.to_owned();
    let named = |script: PathBuf| {
        let name = name_of(directory, &script, &manifest);
        Found::Script { script, base, name }
    };
    script.map(named).ok_or_else(|| {
        anyhow!(
            "there is no app in {}; looked for {}, \"main\" of package.json, {}",
            directory.display(),
            ECOSYSTEMS.join(", "),
            DEFAULTS.join(", ")
        )
    })
}

/// What package.json says; null if there is none.
fn manifest(directory: &Path) -> Result<Value> {
    let manifest = directory.join("package.json");
    let Ok(text) = fs::read(&manifest) else { return Ok(Value::Null) };
    serde_json::from_slice(&text)
        .map_err(|error| anyhow!("{} is not JSON: {error}", manifest.display()))
}

/// What an app is called that was found in a directory: every directory's `index.js` would be of
/// the same name.
fn name_of(directory: &Path, script: &Path, manifest: &Value) -> Option<String> {
    if script.file_stem().is_none_or(|stem| stem != "index") {
        return None;
    }
    // Of `@company/chat` what is its own.
    let package = manifest.get("name").and_then(Value::as_str);
    let package = package.and_then(|name| name.rsplit('/').next()).filter(|name| !name.is_empty());
    let directory = || Some(fs::canonicalize(directory).ok()?.file_name()?.to_str()?.to_owned());
    package.map(str::to_owned).or_else(directory)
}

/// `main` of package.json, found as Node finds it: the name itself, with .js, or an index.js.
fn main_of(directory: &Path, manifest: &Value) -> Option<PathBuf> {
    let main = manifest.get("main").and_then(Value::as_str)?;
    let path = directory.join(main);
    let candidates = [path.clone(), directory.join(format!("{main}.js")), path.join("index.js")];
    // A "main" that is a build's product, not built: one of the defaults may still be there.
    candidates.into_iter().find(|path| path.is_file())
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
        let (path, base) = (here.join("a.ts"), here.to_owned());
        assert_eq!(script, Found::Script { script: path, base, name: None });
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
    fn an_index_in_a_directory_is_called_as_the_package_or_the_directory() {
        let scratch = Scratch::new();
        let name = |app: &str| match discover(Some(Path::new(app)), scratch.path()) {
            Ok(Found::Script { name, .. }) => name,
            other => panic!("{app}: {other:?}"),
        };
        scratch.write("chat/index.js", "");
        scratch.write("api/server.js", "");
        assert_eq!(name("chat").as_deref(), Some("chat"));
        assert_eq!((name("chat/index.js"), name("api")), (None, None), "the script's own");
        scratch.write("chat/package.json", r#"{"name":"@company/talk"}"#);
        assert_eq!(name("chat").as_deref(), Some("talk"));
    }

    #[test]
    fn a_broken_manifest_is_told() {
        let scratch = Scratch::new();
        scratch.write("package.json", "{");
        assert!(found(&scratch, None).expect_err("broken").contains("is not JSON"));
    }
}
