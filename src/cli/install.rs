//! An app with a lockfile and without `node_modules`: `npm ci` is run before its first start.
//!
//! Other package managers are named, never guessed at: their lockfiles do not say how they are
//! run on this host.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::last_lines;

/// npm's lockfiles.
const NPM: [&str; 2] = ["package-lock.json", "npm-shrinkwrap.json"];
/// Other lockfiles and what installs from them.
const OTHERS: [(&str, &str); 2] = [
    ("yarn.lock", "yarn install --frozen-lockfile"),
    ("pnpm-lock.yaml", "pnpm install --frozen-lockfile"),
];

/// Installs what the script's package needs, if it is npm's to install and not there.
pub(super) fn install(script: &Path, npm: &str, forbidden: bool) -> Result<()> {
    let packages = script.ancestors().skip(1);
    let Some(package) = packages.into_iter().find(|at| at.join("package.json").is_file()) else {
        return Ok(());
    };
    if package.join("node_modules").is_dir() {
        return Ok(());
    }
    let directory = package.display();
    if NPM.iter().any(|lockfile| package.join(lockfile).is_file()) {
        if forbidden {
            tracing::warn!(%directory, "there is a lockfile but no node_modules, and --no-install: going on");
            return Ok(());
        }
        tracing::info!(%directory, "there is a lockfile but no node_modules: running npm ci");
        return npm_ci(npm, package);
    }
    for (lockfile, command) in OTHERS {
        if package.join(lockfile).is_file() {
            tracing::warn!(%directory, "there is a {lockfile} but no node_modules; run `{command}` there");
        }
    }
    Ok(())
}

fn npm_ci(npm: &str, package: &Path) -> Result<()> {
    let output = Command::new(npm)
        .args(["ci", "--no-audit", "--no-fund"])
        .current_dir(package)
        .stdin(Stdio::null())
        .output()
        .with_context(|| {
            format!("`{npm}` could not be started to install what {} needs; install it yourself, or use --no-install", package.display())
        })?;
    if !output.status.success() {
        bail!(
            "`npm ci` in {} failed ({}):{}",
            package.display(),
            output.status,
            last_lines(&output.stderr)
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::Scratch;
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    /// A package with this lockfile, and an "npm" that does this.
    fn package(lockfile: &str, npm: &str) -> (Scratch, String) {
        let scratch = Scratch::new();
        scratch.write("package.json", "{}");
        scratch.write(lockfile, "");
        scratch.write("src/app.js", "");
        scratch.write("npm", &format!("#!/bin/sh\n{npm}\n"));
        let npm = scratch.path().join("npm");
        fs::set_permissions(&npm, fs::Permissions::from_mode(0o755)).expect("ours");
        (scratch, npm.display().to_string())
    }

    #[test]
    fn npm_runs_once_in_the_package() {
        let (scratch, npm) = package("package-lock.json", "echo \"$@\" >>ran; mkdir node_modules");
        let script = scratch.path().join("src/app.js");
        install(&script, &npm, true).expect("it goes on");
        assert!(!scratch.path().join("ran").exists(), "--no-install forbids it");
        install(&script, &npm, false).expect("npm works");
        install(&script, &npm, false).expect("nothing to do");
        let ran = fs::read_to_string(scratch.path().join("ran")).expect("it ran");
        assert_eq!(ran, "ci --no-audit --no-fund\n");
    }

    #[test]
    fn npms_failure_is_shown() {
        let (scratch, npm) = package("npm-shrinkwrap.json", "echo npm ERR no network >&2; exit 1");
        let error = install(&scratch.path().join("src/app.js"), &npm, false).expect_err("it fails");
        assert!(error.to_string().ends_with("\n    npm ERR no network"), "{error}");
    }

    #[test]
    fn other_managers_are_left_to_the_operator() {
        let (scratch, npm) = package("yarn.lock", "exit 1");
        install(&scratch.path().join("src/app.js"), &npm, false).expect("only a warning");
    }
}
