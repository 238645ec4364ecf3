//! Node and its packages, fetched once: `npm ci` in tests/node; and into tests/.cache, out of the
//! packages that carry their binaries, the Node of ROUTER_TEST_NODE, Bun, Deno and a browser.

use super::repository;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// The release tested of each line.
const RELEASES: [(&str, &str); 5] =
    [("18", "18.20.8"), ("20", "20.20.2"), ("22", "22.23.3"), ("24", "24.21.0"), ("26", "26.10.0")];

/// The Bun and the Deno that are tested.
const BUN: &str = "1.4.5";
const DENO: &str = "2.9.6";

/// The Node the workers run on, when it isn't the one on PATH.
pub fn interpreter() -> Option<&'static Path> {
    static PATH: OnceLock<Option<PathBuf>> = OnceLock::new();
    PATH.get_or_init(|| {
        let line = std::env::var("ROUTER_TEST_NODE").ok().filter(|v| !v.is_empty())?;
        let release = RELEASES.iter().find(|(l, _)| *l == line);
        let (_, release) = release.unwrap_or_else(|| panic!("ROUTER_TEST_NODE={line}: no such"));
        Some(fetch_node(release))
    })
    .as_deref()
}

/// The Node under test if its line is this or a newer one, else one that is.
pub fn since(line: u32) -> Option<&'static Path> {
    static CURRENT: OnceLock<u32> = OnceLock::new();
    static NEWER: OnceLock<PathBuf> = OnceLock::new();
    let current = *CURRENT.get_or_init(|| {
        let output = Command::new(command()).arg("--version").output().expect("node is on PATH");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let major = text.trim_start_matches('v').split('.').next().and_then(|n| n.parse().ok());
        major.unwrap_or_else(|| panic!("no version: {text:?}"))
    });
    if current >= line {
        return interpreter();
    }
    let (_, release) = RELEASES.iter().find(|(l, _)| *l == "22").unwrap();
    Some(NEWER.get_or_init(|| fetch_node(release)))
}

/// An application and all its packages in one file of its own.
pub fn bundle(app: &Path, into: &Path) {
    packages();
    let esbuild = repository().join("tests/node/node_modules/.bin/esbuild");
    let output = Command::new(esbuild)
        .args(["--bundle", "--platform=node", "--log-level=warning"])
        .arg(app)
        .arg(format!("--outfile={}", into.display()))
        .output()
        .expect("esbuild is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The command that runs a worker: for tests that wrap it.
pub fn command() -> String {
    interpreter().map_or_else(|| "node".to_owned(), |p| p.display().to_string())
}

/// Makes sure the test workers' packages are there. Cheap after the first time.
pub fn packages() {
    static DONE: OnceLock<()> = OnceLock::new();
    DONE.get_or_init(|| {
        let dir = repository().join("tests/node");
        let lock = fs::read(dir.join("package-lock.json")).unwrap();
        let stamp = dir.join("node_modules/.installed-from");
        let _one_at_a_time = lock_cache();
        if fs::read(&stamp).is_ok_and(|s| s == lock) {
            return;
        }
        npm(&dir, &["ci"]);
        fs::write(stamp, lock).unwrap();
    });
}

pub fn bun() -> PathBuf {
    let package = format!("@oven/bun-linux-{}", arch("x64", "aarch64"));
    fetch(&format!("bun-{BUN}"), &package, BUN, "bin/bun")
}

pub fn deno() -> PathBuf {
    let package = format!("@deno/linux-{}-glibc", arch("x64", "arm64"));
    fetch(&format!("deno-{DENO}"), &package, DENO, "deno")
}

fn fetch_node(release: &str) -> PathBuf {
    let package = format!("node-linux-{}", arch("x64", "arm64"));
    fetch(&format!("node-{release}"), &package, release, "bin/node")
}

/// What a package calls this machine.
fn arch(intel: &'static str, arm: &'static str) -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => intel,
        "aarch64" => arm,
        other => panic!("no binaries for {other}"),
    }
}

/// Installs a package that carries a binary, if it isn't there yet, and gives the binary.
pub fn fetch(folder: &str, package: &str, release: &str, binary: &str) -> PathBuf {
    let dir = cache().join(folder);
    let binary = dir.join("node_modules").join(package).join(binary);
    let _one_at_a_time = lock_cache();
    if !binary.exists() {
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("package.json"), "{}").unwrap();
        npm(&dir, &["install", "--no-save", &format!("{package}@{release}")]);
    }
    binary
}

pub fn cache() -> PathBuf {
    let dir = repository().join("tests/.cache");
    fs::create_dir_all(&dir).unwrap();
    dir
}

/// Held while installing: another `cargo test` may be doing the same.
pub fn lock_cache() -> File {
    let file = File::create(cache().join("lock")).unwrap();
    file.lock().unwrap();
    file
}

fn npm(dir: &Path, args: &[&str]) {
    eprintln!("npm {} in {}", args.join(" "), dir.display());
    let output = Command::new("npm")
        .args(args)
        .args(["--no-audit", "--no-fund"])
        .current_dir(dir)
        .stdin(Stdio::null())
        .output()
        .expect("npm is on PATH");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "npm {args:?} in {}: {text}", dir.display());
}
