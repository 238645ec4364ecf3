//! What an ecosystem file exports, found out by running it: it is a program, unless it is YAML.
//!
//! Node imports it and prints the value as JSON behind a marker line, so that whatever the file
//! itself prints does no harm. Functions in it are lost, as they are under PM2.

use std::fs;
use std::io::{self, Read};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::last_lines;

/// Stands on a line of its own before the JSON.
const MARKER: &str = "\u{1}router:ecosystem\u{1}";

/// The largest value a file may export, in bytes of JSON.
const JSON_MAX: usize = 4 * 1024 * 1024;

/// How long a file may take to export it: it may ask somebody else.
const PATIENCE: Duration = Duration::from_secs(30);

/// Run by `node -e`, with the file and the marker as arguments.
const PROGRAM: &str = r"
const [, file, marker] = process.argv;
const { readFileSync, writeSync } = require('node:fs');
const load = async () => file.endsWith('.json')
    ? JSON.parse(readFileSync(file, 'utf8').replace(/^\uFEFF/, ''))
    : await import(require('node:url').pathToFileURL(file).href);
load().then((module) => {
    const exported = module.default ?? module;
    if (typeof exported !== 'object')
        throw `it exports a ${typeof exported}; export an object: { apps: [{ script: … }] }`;
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
    evaluate_within(PATIENCE, node, file)
}

fn evaluate_within(patience: Duration, node: &str, file: &Path) -> Result<Value> {
    if is_yaml(file) {
        return read_yaml(file);
    }
    let mut command = Command::new(node);
    command.args(["-e", PROGRAM]).arg(file).arg(MARKER);
    let output = output_within(command, patience)
        .with_context(|| {
            format!("{} needs `{node}` to be read, and it could not be started", file.display())
        })?
        .with_context(|| {
            format!(
                "{} has exported nothing after {patience:?}: it awaits something, or turns for ever",
                file.display()
            )
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

/// What a program writes until it ends; none, if it has not by then, and is ended.
fn output_within(mut command: Command, patience: Duration) -> io::Result<Option<Output>> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let (sender, read) = channel();
    for (place, pipe) in [
        child.stdout.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>),
        child.stderr.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>),
    ]
    .into_iter()
    .enumerate()
    {
        let Some(mut pipe) = pipe else { continue };
        let sender = sender.clone();
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let whole = pipe.read_to_end(&mut bytes).map(|_| bytes);
            // Nobody waits any more for what comes too late.
            let _late = sender.send((place, whole));
        });
    }
    drop(sender);
    let mut written = [Vec::new(), Vec::new()];
    loop {
        match read.recv_timeout(patience) {
            Ok((place, bytes)) => written[place] = bytes?,
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                child.kill()?;
                child.wait()?;
                return Ok(None);
            }
        }
    }
    let [stdout, stderr] = written;
    Ok(Some(Output { status: child.wait()?, stdout, stderr }))
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
    fn what_is_no_object_and_what_never_comes_are_told() {
        let scratch = Scratch::new();
        scratch.write("a.config.js", "module.exports = () => ({ apps: [] })");
        scratch.write("b.config.mjs", "setInterval(() => {}, 1e6); await new Promise(() => {})");
        let said = |file: &str| {
            let patience = Duration::from_millis(1500);
            let error = evaluate_within(patience, "node", &scratch.path().join(file));
            format!("{:#}", error.expect_err(file))
        };
        let told = said("a.config.js");
        assert!(told.contains("a.config.js") && told.contains("exports a function"), "{told}");
        let told = said("b.config.mjs");
        assert!(told.contains("b.config.mjs") && told.contains("nothing after 1.5s"), "{told}");
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
