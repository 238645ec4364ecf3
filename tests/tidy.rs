//! Rules over the source text: who may import whom, where unsafe code lives, how long a file is,
//! and that each file says what it is for.

use crate::harness::repository;
use std::fs;
use std::path::{Path, PathBuf};

const LONGEST_FILE: usize = 900;

/// All files below a directory, without what is built or installed.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    let Ok(entries) = fs::read_dir(dir) else { return all };
    for entry in entries.map(Result::unwrap) {
        let (path, name) = (entry.path(), entry.file_name());
        if ["target", "node_modules", ".git", ".cache"].iter().any(|skip| name == *skip) {
            continue;
        }
        if path.is_dir() {
            all.extend(files(&path));
        } else {
            all.push(path);
        }
    }
    all.sort();
    all
}

fn sources() -> Vec<(String, String)> {
    let src = repository().join("src");
    files(&src)
        .into_iter()
        .filter(|p| p.extension().is_some_and(|e| e == "rs"))
        .map(|p| {
            (p.strip_prefix(&src).unwrap().display().to_string(), fs::read_to_string(&p).unwrap())
        })
        .collect()
}

/// The lines that are code: no comment lines, and nothing from the file's tests on.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .take_while(|(_, line)| !line.starts_with("#[cfg(test)]"))
        .map(|(n, line)| (n + 1, line.split_once("//").map_or(line, |(code, _)| code)))
        .filter(|(_, line)| !line.trim().is_empty())
}

fn room(file: &str) -> &str {
    file.split(['/', '.']).next().unwrap_or(file)
}

/// `a` in `crate::a::b`, and each of `a`, `b` in `crate::{a::x, b::y}`.
fn imports(line: &str) -> Vec<String> {
    let mut all = Vec::new();
    for (at, _) in line.match_indices("crate::") {
        let rest = &line[at + "crate::".len()..];
        let names: Vec<&str> = match rest.strip_prefix('{') {
            Some(group) => group.split(',').collect(),
            None => vec![rest],
        };
        for name in names {
            let name = name.trim();
            let end = name.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(name.len());
            if name.starts_with(|c: char| c.is_ascii_lowercase()) {
                all.push(name[..end].to_owned());
            }
        }
    }
    all
}

const ROOMS: [&str; 12] = [
    "bus",
    "cli",
    "config",
    "control",
    "daemon",
    "http",
    "ipc",
    "manager",
    "metrics",
    "route",
    "shard",
    "supervisor",
];

#[test]
fn imports_follow_the_arrows_of_the_map_in_lib_rs() {
    let may = |from: &str, to: &str| match from {
        "main" | "lib" | "daemon" => true,
        "shard" => ["sys", "http", "ipc", "route", "metrics"].contains(&to),
        "bus" => ["shard", "ipc", "route", "config", "metrics", "sys"].contains(&to),
        "supervisor" => ["sys", "ipc", "route", "config", "metrics"].contains(&to),
        "cli" => ["config", "control", "metrics"].contains(&to),
        "control" => !["bus", "cli", "daemon", "manager", "shard"].contains(&to),
        "manager" => ["control", "metrics", "supervisor", "config", "sys"].contains(&to),
        // The pure rooms and the lowest ones know nobody above them.
        _ => !["bus", "shard", "supervisor", "sys", "daemon", "manager", "cli", "control"]
            .contains(&to),
    };
    let mut wrong = Vec::new();
    for (file, text) in sources() {
        let from = room(&file);
        for (line, code) in code(&text) {
            for to in imports(code) {
                let known = to == "sys" || ROOMS.contains(&&*to);
                if known && to != from && !may(from, &to) {
                    wrong.push(format!("src/{file}:{line}: {from} may not use {to}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn pure_rooms_know_no_descriptor_no_clock_and_no_randomness() {
    let words = [
        "Instant::now",
        "SystemTime",
        "OwnedFd",
        "BorrowedFd",
        "RawFd",
        "std::fs",
        "std::net::Tcp",
    ];
    let mut wrong = Vec::new();
    for (file, text) in sources() {
        if ["http", "ipc", "route"].contains(&room(&file)) {
            for (line, code) in code(&text) {
                if let Some(word) = words.iter().find(|w| code.contains(**w)) {
                    wrong.push(format!("src/{file}:{line}: {word}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn unsafe_code_and_libc_live_in_sys_only() {
    let mut wrong = Vec::new();
    for (file, text) in sources() {
        if room(&file) == "sys" {
            continue;
        }
        for (line, code) in code(&text) {
            let unsafe_code =
                code.split(|c: char| !c.is_alphanumeric() && c != '_').any(|w| w == "unsafe");
            if unsafe_code || code.contains("libc::") {
                wrong.push(format!("src/{file}:{line}: {}", code.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn no_source_file_is_longer_than_a_reader_can_hold() {
    for dir in ["src", "tests", "benches"] {
        for path in files(&repository().join(dir)) {
            if path.extension().is_some_and(|e| e == "rs" || e == "js") {
                let lines = fs::read_to_string(&path).unwrap().lines().count();
                assert!(lines <= LONGEST_FILE, "{}: {lines} lines", path.display());
            }
        }
    }
}

#[test]
fn every_file_says_first_what_it_is_for() {
    let mut silent = Vec::new();
    for dir in ["src", "tests", "benches", "perf", "examples", ".ci"] {
        for path in files(&repository().join(dir)) {
            let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
            let text = fs::read_to_string(&path).unwrap_or_default();
            let first = text.lines().find(|l| !l.starts_with("#!/")).unwrap_or_default();
            let says = match extension {
                "rs" => first.starts_with("//!"),
                "js" | "mjs" | "cjs" | "ts" => first.starts_with("//"),
                "html" => text.lines().take(3).any(|l| l.contains("<!--")),
                "" if path.ends_with(".ci/run") => first.starts_with('#'),
                _ => true,
            };
            if !says {
                silent.push(path);
            }
        }
    }
    assert!(silent.is_empty(), "{silent:?}");
}

#[test]
fn lockfiles_name_no_registry() {
    for path in files(repository()) {
        if path.file_name().is_some_and(|n| n == "package-lock.json") {
            let text = fs::read_to_string(&path).unwrap();
            assert!(!text.contains("\"resolved\": \"http"), "{}", path.display());
        }
    }
}

#[test]
fn the_top_level_holds_only_what_belongs_there() {
    let known = [
        "Cargo.toml",
        "Cargo.lock",
        "src",
        "benches",
        "perf",
        "tests",
        "examples",
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
        "target",
    ];
    for entry in fs::read_dir(repository()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(name.starts_with('.') || known.contains(&&*name), "{name}");
    }
}
