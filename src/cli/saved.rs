//! A command line from a file: how the daemon starts the router of an app, and how that router finds
//! what it is to do now when it is upgraded.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;

/// A command line and what is around it.
#[derive(Debug, Deserialize)]
pub struct Saved {
    /// Where it is given.
    pub directory: PathBuf,
    /// Around it.
    pub environment: Vec<(String, String)>,
    /// The words after the program's name.
    pub words: Vec<String>,
}

/// What is saved in the file of `router --saved FILE`; none if these are other words.
///
/// # Errors
/// The file cannot be read, or holds something else.
pub fn saved(words: &[OsString]) -> Result<Option<Saved>> {
    let [_, flag, file] = words else { return Ok(None) };
    if flag != "--saved" {
        return Ok(None);
    }
    let file = Path::new(file);
    let text = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let saved = serde_json::from_slice(&text)
        .with_context(|| format!("{} is no saved command line", file.display()))?;
    Ok(Some(saved))
}
