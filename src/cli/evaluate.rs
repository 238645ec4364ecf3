//! What an ecosystem file exports, found out by running it: it is a program, unless it is YAML.
//!
//! Node imports it and prints the value as JSON behind a marker line, so that whatever the file
//! itself prints does no harm. Functions in it are lost, as they are under PM2.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::last_lines;

/// Stands on a line of its own before the JSON.
const MARKER: &str = "\u{1}router:ecosystem\u{1}";

/// The largest value a file may export, in bytes of JSON.
const JSON_MAX: usize = 4 * 1024 * 1024;

/// Run by `node -e`, with the file and the marker as arguments.
const PROGRAM: &str = r"
const [, file, marker] = process.argv;
const { readFileSync, writeSync } = require('node:fs');
const load = async () => file.endsWith('.json')
    ? JSON.parse(readFileSync(file, 'utf8').replace(/^\uFEFF/, ''))
    : await import(require('node:url').pathToFileURL(file).href);
load().then((module) => {
    const exported = module.default ?? module;
    const text = JSON.stringify(exported, (_, v) => typeof v === 'bigint' ? String(v) : v);
    let bytes = Buffer.from('\n' + marker + '\n' + text);
    while (bytes.length > 0) {
        try { bytes = bytes.subarray(writeSync(1, bytes)); }
        catch (error) { if (error.code !== 'EAGAIN') throw error; }
    }
    process.exit(0);
}).catch((error) => {
    console.error(error);
    process.exit(1);
});
";

/// Runs `file` with `node` and returns what it exports.
pub(super) fn evaluate(node: &str, file: &Path) -> Result<Value> {
    if is_yaml(file) {
        return read_yaml(file);
    }
    let output = Command::new(node)
        .args(["-e", PROGRAM])
        .arg(file)
        .arg(MARKER)
        .stdin(Stdio::null())
        .output()
        .with_context(|| {
            format!("{} needs `{node}` to be read, and it could not be started", file.display())
        })?;
    let text = String::from_utf8_lossy(&output.stdout);
    let value = text.rsplit_once(MARKER).map(|(_, json)| json.trim());
    let Some(json) = value.filter(|_| output.status.success()) else {
        bail!("{} could not be read:{}", file.display(), last_lines(&output.stderr));
    };
    if json.len() > JSON_MAX {
        bail!("{} exports too much: {} > {JSON_MAX} bytes", file.display(), json.len());
    }
    serde_json::from_str(json)
        .with_context(|| format!("{} exports what is not JSON", file.display()))
}

/// A file that is read, not run.
pub(super) fn is_yaml(file: &Path) -> bool {
    file.extension().is_some_and(|extension| extension == "yaml" || extension == "yml")
}

fn read_yaml(file: &Path) -> Result<Value> {
    let shown = file.display();
    let text = fs::read_to_string(file).with_context(|| format!("{shown} cannot be read"))?;
    if text.len() > JSON_MAX {
        bail!("{shown} is too large: {} > {JSON_MAX} bytes", text.len());
    }
    serde_saphyr::from_str(text.trim_start_matches('\u{feff}'))
        .with_context(|| format!("{shown} is not YAML"))
}

#[cfg(test)]
mod tests {
    use super::super::tests::Scratch;
    use super::*;

    #[test]
    fn every_kind_of_file_is_evaluated() {
        let scratch = Scratch::new();
        for (name, text) in [
            (
                "a.config.js",
                "console.log('{noise}'); module.exports = { apps: [{ script: 'x', f() {} }] }",
            ),
            (
                "b.config.cjs",
                "setInterval(() => {}, 1e6); module.exports = { apps: [{ script: 'x' }] }",
            ),
            ("c.config.mjs", "await 0; export default { apps: [{ script: 'x' }] }"),
            ("d.config.mjs", "export const apps = [{ script: 'x' }]"),
            ("f.yaml", "apps:\n  - script: x\n"),
            ("e.json", "\u{feff}{\"apps\":[{\"script\":\"x\"}]}"),
        ] {
            scratch.write(name, text);
            let value = evaluate("node", &scratch.path().join(name)).expect(name);
            assert_eq!(value, serde_json::json!({ "apps": [{ "script": "x" }] }), "{name}");
        }
    }

    #[test]
    fn the_files_own_error_is_shown() {
        let scratch = Scratch::new();
        scratch.write("a.config.js", "console.error('before'); nowhere.to.be.found");
        let error = evaluate("node", &scratch.path().join("a.config.js")).expect_err("it throws");
        let text = error.to_string();
        assert!(text.contains("nowhere is not defined") && text.contains("a.config.js"), "{text}");
        let error = evaluate("no-such-node", Path::new("a.config.js")).expect_err("no node");
        assert!(error.to_string().contains("no-such-node"), "{error}");
    }
}
