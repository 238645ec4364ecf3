//! A headless Chromium, out of a package that carries it with the libraries and fonts that it needs,
//! unpacked once into tests/.cache; where the package has none for the machine, the one on PATH.

use super::node;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

const PACKAGE: &str = "@sparticuz/chromium";
const RELEASE: &str = "147.0.0";

/// What the package holds, compressed, and how each is unpacked.
const UNPACK: &str = "
const { brotliDecompressSync } = require('zlib');
const { readFileSync, writeFileSync } = require('fs');
const [from, to] = process.argv.slice(1);
writeFileSync(to, brotliDecompressSync(readFileSync(from)));
";

/// Where its fonts are, which the package cannot know.
fn font_settings(directory: &Path) -> String {
    let directory = directory.display();
    format!(
        "<?xml version=\"1.0\"?><!DOCTYPE fontconfig SYSTEM \"fonts.dtd\"><fontconfig>\
         <dir>{directory}/fonts</dir><cachedir>{directory}/fonts-cache</cachedir></fontconfig>"
    )
}

/// For `tests/node/clients/browser.js`: the program, and where its libraries and fonts are.
pub fn browser() -> Value {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    if std::env::consts::ARCH != "x86_64" {
        return json!({ "program": "chromium" });
    }
    let directory = DIRECTORY.get_or_init(fetched);
    json!({
        "program": directory.join("chromium"),
        "libraries": directory.join("lib"),
        "fonts": directory,
    })
}

fn fetched() -> PathBuf {
    let fonts = node::fetch(&format!("chromium-{RELEASE}"), PACKAGE, RELEASE, "bin/fonts.tar.br");
    let packed = fonts.parent().unwrap();
    let directory = node::cache().join(format!("chromium-{RELEASE}"));
    let _one_at_a_time = node::lock_cache();
    let program = directory.join("chromium");
    if !program.exists() {
        for archive in ["al2023.tar", "fonts.tar"] {
            let whole = directory.join(archive);
            unpack(&packed.join(format!("{archive}.br")), &whole);
            let mut tar = Command::new("tar");
            succeeds(tar.arg("-xf").arg(&whole).arg("-C").arg(&directory));
            fs::remove_file(whole).unwrap();
        }
        // Under its name only when it is whole.
        let partial = directory.join("chromium.partial");
        unpack(&packed.join("chromium.br"), &partial);
        succeeds(Command::new("chmod").arg("755").arg(&partial));
        fs::rename(partial, program).unwrap();
    }
    fs::write(directory.join("fonts.conf"), font_settings(&directory)).unwrap();
    directory
}

fn unpack(from: &Path, to: &Path) {
    succeeds(Command::new("node").args(["-e", UNPACK]).arg(from).arg(to));
}

fn succeeds(command: &mut Command) {
    let output = command.output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
}
