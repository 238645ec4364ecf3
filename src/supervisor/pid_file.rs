//! `pid_file`: a worker's process id in a file, for programs that watch it.

use std::fs;
use std::io;
use std::path::Path;

use nix::unistd::Pid;

use super::logs;
use crate::config::PidFile;

/// Writes it down. That it cannot be written is said and keeps no worker from running.
pub(super) fn write(file: Option<&PidFile>, number: u32, pid: Pid) {
    let Some(path) = file.map(|file| logs::place(&file.of(number))) else { return };
    let written = path.parent().map_or(Ok(()), fs::create_dir_all);
    if let Err(error) = written.and_then(|()| fs::write(&path, pid.to_string())) {
        tracing::error!(path = %path.display(), %error, "the pid file cannot be written");
    }
}

/// One that has ended is no longer in it: another that has this number still, or nobody.
pub(super) fn replace(file: Option<&PidFile>, number: u32, ended: Pid, other: Option<Pid>) {
    let Some(path) = file.map(|file| logs::place(&file.of(number))) else { return };
    if let Err(error) = replace_own(&path, ended, other)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "the pid file stays behind");
    }
}

fn replace_own(path: &Path, ended: Pid, other: Option<Pid>) -> io::Result<()> {
    if fs::read_to_string(path)?.trim() != ended.to_string() {
        return Ok(());
    }
    match other {
        Some(other) => fs::write(path, other.to_string()),
        None => fs::remove_file(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_speaks_of_whoever_is_left() {
        let name = format!("router-pid-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let (old, successor) = (Pid::from_raw(7), Pid::from_raw(8));
        let text = || fs::read_to_string(&path).ok();
        fs::write(&path, "8").expect("room");
        replace_own(&path, old, Some(successor)).expect("ours");
        assert_eq!(text().as_deref(), Some("8"), "it speaks of the successor already");
        // A successor that did not prove as good: the old one serves on.
        replace_own(&path, successor, Some(old)).expect("ours");
        assert_eq!(text().as_deref(), Some("7"));
        replace_own(&path, old, None).expect("ours");
        assert_eq!(text(), None);
    }
}
