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

/// Takes it away, unless it speaks of the next process by now.
pub(super) fn remove(file: Option<&PidFile>, number: u32, pid: Pid) {
    let Some(path) = file.map(|file| logs::place(&file.of(number))) else { return };
    if let Err(error) = remove_own(&path, pid)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "the pid file stays behind");
    }
}

fn remove_own(path: &Path, pid: Pid) -> io::Result<()> {
    if fs::read_to_string(path)?.trim() == pid.to_string() { fs::remove_file(path) } else { Ok(()) }
}
