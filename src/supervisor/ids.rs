//! The numbers of the workers: what their log files and their `pm_id` say.
//!
//! Alone, a router counts its workers by their slots. Where somebody runs several routers side by
//! side and counts all their workers in one sequence, it writes the numbers into a file of the
//! router's runtime directory, slot by slot: `[4,5,9]`. The file is read whenever a worker is
//! started, and belongs to whoever has written it.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

/// A longer file is not one of numbers, in bytes: eleven for each of 1024 workers, and room.
const FILE_MAX: u64 = 64 * 1024;

/// Where the numbers are looked up.
#[derive(Debug)]
pub struct Ids {
    /// `None`: slots are numbers.
    path: Option<PathBuf>,
    /// What is wrong with the file has been said.
    complained: bool,
}

impl Ids {
    /// Numbers from this file, which need not be there.
    #[must_use]
    pub const fn at(path: PathBuf) -> Self {
        Self { path: Some(path), complained: false }
    }

    /// Each worker's slot is its number.
    #[must_use]
    pub const fn slots() -> Self {
        Self { path: None, complained: false }
    }

    /// Whether somebody else counts the workers.
    #[must_use]
    pub fn are_given(&self) -> bool {
        self.path.as_ref().is_some_and(|path| path.exists())
    }

    /// The number of the worker in this slot: the slot itself where the file does not say.
    pub fn number(&mut self, slot: u16) -> u32 {
        let slot_itself = u32::from(slot);
        let Some(path) = &self.path else { return slot_itself };
        let numbers = match read(path) {
            Ok(numbers) => {
                self.complained = false;
                numbers
            }
            Err(error) => {
                if !std::mem::replace(&mut self.complained, true) {
                    tracing::error!(path = %path.display(), %error,
                        "the workers' numbers cannot be read: each has its slot's");
                }
                return slot_itself;
            }
        };
        numbers.get(usize::from(slot)).copied().unwrap_or(slot_itself)
    }
}

/// None where there is no file.
fn read(path: &PathBuf) -> io::Result<Vec<u32>> {
    let mut text = String::new();
    match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        file => file?.take(FILE_MAX + 1).read_to_string(&mut text)?,
    };
    if text.len() as u64 > FILE_MAX {
        return Err(io::Error::other(format!("it is longer than {FILE_MAX} bytes")));
    }
    Ok(serde_json::from_str(&text)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_file_decides_where_it_says_something() {
        let path = std::env::temp_dir().join(format!("router-ids-{}", std::process::id()));
        let mut ids = Ids::at(path.clone());
        assert_eq!((ids.number(0), Ids::slots().number(7)), (0, 7));
        fs::write(&path, " [4, 5,9]\n").expect("ours");
        let numbers: Vec<u32> = (0..4).map(|slot| ids.number(slot)).collect();
        assert_eq!(numbers, [4, 5, 9, 3]);
        let long = format!("[{}]", vec!["4294967295"; 10_000].join(","));
        for malformed in ["", "[4,", "{}", "[-1]", "[1.5]", "[99999999999]", "\u{fffd}", &long] {
            fs::write(&path, malformed).expect("ours");
            assert_eq!(ids.number(2), 2, "{malformed}");
            assert!(ids.complained);
        }
        fs::write(&path, "[]").expect("ours");
        assert_eq!((ids.number(2), ids.complained), (2, false));
        fs::remove_file(&path).expect("ours");
    }
}
