//! What rotated files are called, when a file's time has come, and which are deleted: after PM2's
//! module pm2-logrotate.
//!
//! `chat-out-0.log` becomes `chat-out-0__2026-11-23_04-00-00.log`, in local time. A second rotation
//! within a second has `_01` behind it. Deleted is only what is called exactly so.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Zoned;

/// Rotations of one file within one second. What comes then waits for the next second, and the file
/// grows over its size meanwhile.
const IN_ONE_SECOND: u32 = 100;

/// The end of a file's present period of this length. Periods are counted from midnight, in local
/// time, so that a day's ends with the day.
pub(super) fn period(time: &Zoned, age: Duration) -> i64 {
    local_seconds(time).div_euclid(length(age))
}

/// How long the period still lasts.
pub(super) fn left(time: &Zoned, age: Duration) -> Duration {
    let gone = local_seconds(time).rem_euclid(length(age));
    Duration::from_secs(u64::try_from(length(age) - gone).unwrap_or(1))
}

fn local_seconds(time: &Zoned) -> i64 {
    time.timestamp().as_second() + i64::from(time.offset().seconds())
}

/// In whole seconds, at least one.
fn length(age: Duration) -> i64 {
    i64::try_from(age.as_secs()).unwrap_or(i64::MAX).max(1)
}

/// What a file has been rotated to, so that the next name comes behind it: that of one that has been
/// deleted since may be free again.
#[derive(Debug, Default)]
pub(in crate::supervisor) struct Names {
    /// In seconds since 1970.
    second: i64,
    used: u32,
}

impl Names {
    /// The next name for the file that is free; `None`: there is none within this second.
    pub(in crate::supervisor) fn next(&mut self, path: &Path, time: &Zoned) -> Option<PathBuf> {
        let second = time.timestamp().as_second();
        if second != self.second {
            *self = Self { second, used: 0 };
        }
        while self.used < IN_ONE_SECOND {
            let name = rotated(path, time, self.used);
            self.used += 1;
            if !is_there(&name) {
                return Some(name);
            }
        }
        None
    }
}

fn is_there(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

fn rotated(path: &Path, time: &Zoned, nth: u32) -> PathBuf {
    let (stem, extension) = parts(path);
    let mut name = stem;
    name.push("__");
    name.push(time.strftime("%Y-%m-%d_%H-%M-%S").to_string());
    if nth > 0 {
        name.push(format!("_{nth:02}"));
    }
    name.push(extension);
    path.with_file_name(name)
}

/// The name without its extension, and the extension with its dot.
fn parts(path: &Path) -> (OsString, OsString) {
    let stem = path.file_stem().unwrap_or_default().to_owned();
    let mut extension = OsString::new();
    if let Some(written) = path.extension() {
        extension.push(".");
        extension.push(written);
    }
    (stem, extension)
}

/// Whether a file of this name is one that `path` has been rotated to.
fn is_rotated(path: &Path, name: &OsStr) -> bool {
    let (stem, extension) = parts(path);
    let stamp = name.as_bytes().strip_prefix(stem.as_bytes());
    let stamp = stamp.and_then(|rest| rest.strip_prefix(b"__"));
    let Some(stamp) = stamp.and_then(|rest| rest.strip_suffix(extension.as_bytes())) else {
        return false;
    };
    let matches = |pattern: &[u8]| {
        let fits = |(byte, wanted): (&u8, &u8)| match wanted {
            b'0' => byte.is_ascii_digit(),
            other => byte == other,
        };
        stamp.len() == pattern.len() && stamp.iter().zip(pattern).all(fits)
    };
    matches(b"0000-00-00_00-00-00") || matches(b"0000-00-00_00-00-00_00")
}

/// Deletes the oldest of what `path` has been rotated to, but for so many.
///
/// # Errors
/// The directory cannot be read, or a file not be deleted.
pub(in crate::supervisor) fn delete_oldest(path: &Path, keep: usize) -> io::Result<()> {
    let directory = path.parent().unwrap_or_else(|| Path::new("/"));
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        if is_rotated(path, &name) {
            names.push(name);
        }
    }
    // By name is by time.
    names.sort_unstable();
    let surplus = names.len().saturating_sub(keep);
    names.iter().take(surplus).try_for_each(|name| fs::remove_file(directory.join(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Zoned {
        text.parse().expect(text)
    }

    #[test]
    fn names_are_those_of_pm2_logrotate() {
        let time = at("2026-11-23T04:05:06+01:00[+01:00]");
        for (path, name) in [
            ("/l/chat-out-0.log", "chat-out-0__2026-11-23_04-05-06.log"),
            ("/l/chat", "chat__2026-11-23_04-05-06"),
            ("/l/a.b.txt", "a.b__2026-11-23_04-05-06.txt"),
        ] {
            let path = Path::new(path);
            let rotated = rotated(path, &time, 0);
            assert_eq!(rotated, path.with_file_name(name));
            assert!(is_rotated(path, OsStr::new(name)));
        }
        let path = Path::new("/l/a.log");
        assert!(is_rotated(path, rotated(path, &time, 7).file_name().expect("one")));
        for other in [
            "a.log",
            "a__.log",
            "a__2026-11-23.log",
            "a__2026-11-23_04-05-06.log.gz",
            "a-1__2026-11-23_04-05-06.log",
            "a__2026-11-23_04-05-0x.log",
        ] {
            assert!(!is_rotated(path, OsStr::new(other)), "{other}");
        }
    }

    #[test]
    fn a_days_period_ends_at_local_midnight() {
        const DAY: Duration = Duration::from_secs(86_400);
        let evening = at("2026-11-23T23:59:58+05:30[+05:30]");
        let night = at("2026-11-24T00:00:00+05:30[+05:30]");
        assert_eq!(period(&evening, DAY) + 1, period(&night, DAY));
        assert_eq!((left(&evening, DAY).as_secs(), left(&night, DAY)), (2, DAY));
        assert_eq!(left(&evening, Duration::ZERO).as_secs(), 1);
    }

    #[test]
    fn the_oldest_go_and_nothing_else_does() {
        let directory =
            std::env::temp_dir().join(format!("router-rotation-{}", std::process::id()));
        fs::create_dir_all(&directory).expect("ours");
        let path = directory.join("a.log");
        let time = at("2026-11-23T04:05:06+00:00[UTC]");
        let mut names = Names::default();
        for _ in 0..IN_ONE_SECOND {
            fs::write(names.next(&path, &time).expect("there is one"), "").expect("ours");
        }
        assert_eq!((names.next(&path, &time), Names::default().next(&path, &time)), (None, None));
        fs::write(directory.join("a__mine.log"), "").expect("ours");
        fs::write(directory.join("a__2026-11-22_23-00-00.log"), "").expect("ours");
        delete_oldest(&path, 2).expect("ours");
        let mut left: Vec<_> = fs::read_dir(&directory)
            .expect("ours")
            .flatten()
            .map(|entry| entry.file_name().into_string().expect("ours"))
            .collect();
        left.sort();
        let kept =
            ["a__2026-11-23_04-05-06_98.log", "a__2026-11-23_04-05-06_99.log", "a__mine.log"];
        assert_eq!(left, kept);
        fs::remove_dir_all(&directory).expect("ours");
    }
}
