//! One process after another under the same pid: exec, and the descriptors that live through it.
//!
//! Every descriptor of the router is closed on exec from birth. Those that shall cross are marked
//! at the last moment, and taken over by number on the other side.

use std::convert::Infallible;
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{
    SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, sigaction, sigprocmask,
};
use nix::unistd::execve;

/// Signals that tell a process that it has failed: they are never held back.
const FAULTS: [Signal; 5] =
    [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGILL, Signal::SIGFPE, Signal::SIGABRT];

/// Whether `descriptor` stays open across an exec.
///
/// # Errors
/// As fcntl(2).
pub fn keep_across_exec(descriptor: BorrowedFd<'_>, keep: bool) -> io::Result<()> {
    let flags = if keep { FdFlag::empty() } else { FdFlag::FD_CLOEXEC };
    fcntl(descriptor, FcntlArg::F_SETFD(flags))?;
    Ok(())
}

/// Takes over a descriptor that the process before this one has left under this number; it is
/// closed on exec from now on. Each number once: two owners would close it twice.
///
/// # Errors
/// There is none, or it is one of the standard three.
pub fn inherit(number: RawFd) -> io::Result<OwnedFd> {
    if number <= 2 {
        return Err(io::Error::other(format!("descriptor {number} is not one that is left")));
    }
    // SAFETY: fcntl only looks the number up, and `borrowed` does not outlive this function.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    keep_across_exec(borrowed, false)?;
    // SAFETY: it is open (just seen), and its owner was the process image that exec has replaced;
    // the caller names each number once.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Removes variables from this process's environment: no program that it starts has them.
///
/// # Errors
/// This process has other threads, which might be reading them; or /proc is not there.
pub fn forget(variables: &[&str]) -> io::Result<()> {
    if variables.iter().all(|name| std::env::var_os(name).is_none()) {
        return Ok(());
    }
    alone()?;
    for name in variables {
        // SAFETY: nobody else may read or write the environment meanwhile, and nobody does: this
        // is the only thread, as just counted, and no other could be started but by this one.
        unsafe { std::env::remove_var(name) };
    }
    Ok(())
}

/// Gives this process another environment, but for the variables that are to stay.
///
/// # Errors
/// As [`forget`]; a name or value that no environment can hold.
#[expect(clippy::disallowed_methods, reason = "the only thread of a process that has just begun")]
pub fn replace_environment(stay: &[&str], variables: &[(String, String)]) -> io::Result<()> {
    let impossible = |(name, value): &&(String, String)| {
        name.is_empty() || name.contains(['=', '\0']) || value.contains('\0')
    };
    if let Some((name, _)) = variables.iter().find(impossible) {
        return Err(io::Error::other(format!("no environment can hold {name:?}")));
    }
    alone()?;
    let stays = |name: &OsStr| stay.iter().any(|stay| name == *stay);
    for (name, _) in std::env::vars_os().filter(|(name, _)| !stays(name)) {
        // SAFETY: this is the only thread, as just counted: see `forget`.
        unsafe { std::env::remove_var(name) };
    }
    for (name, value) in variables.iter().filter(|(name, _)| !stays(OsStr::new(name))) {
        // SAFETY: as above.
        unsafe { std::env::set_var(name, value) };
    }
    Ok(())
}

/// An error unless this is the only thread.
fn alone() -> io::Result<()> {
    match std::fs::read_dir("/proc/self/task")?.count() {
        1 => Ok(()),
        threads => Err(io::Error::other(format!("{threads} threads may be reading them"))),
    }
}

/// Replaces this process. Returns only when that was not possible.
///
/// # Errors
/// As execve(2); an argument with a zero byte inside.
pub fn exec(
    program: &Path,
    arguments: &[OsString],
    environment: &[(OsString, OsString)],
) -> io::Result<Infallible> {
    let text = |bytes: &OsStr| CString::new(bytes.as_bytes()).map_err(io::Error::other);
    let arguments: io::Result<Vec<CString>> =
        arguments.iter().map(|argument| text(argument)).collect();
    let environment: io::Result<Vec<CString>> = environment
        .iter()
        .map(|(name, value)| {
            let mut pair = name.clone();
            pair.push("=");
            pair.push(value);
            text(&pair)
        })
        .collect();
    Ok(execve(&text(program.as_os_str())?, &arguments?, &environment?)?)
}

/// Holds signals back, in this thread and whatever it becomes by exec, until [`release_signals`]:
/// one that came before the next process has its handlers would end it.
///
/// # Errors
/// As sigprocmask(2).
pub fn hold_signals() -> io::Result<()> {
    let mut all = SigSet::all();
    FAULTS.into_iter().for_each(|fault| all.remove(fault));
    Ok(sigprocmask(SigmaskHow::SIG_SETMASK, Some(&all), None)?)
}

/// Has a signal do nothing until there is a handler for it, instead of ending the process. Programs
/// that this one starts have it as before: a handler, unlike `SIG_IGN`, ends with the exec.
///
/// # Errors
/// As sigaction(2).
pub fn outlive(signal: Signal) -> io::Result<()> {
    extern "C" fn nothing(_: i32) {}
    let action = SigAction::new(SigHandler::Handler(nothing), SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handler does nothing, which is safe at any point of any thread.
    unsafe { sigaction(signal, &action) }?;
    Ok(())
}

/// Lets all signals through again.
///
/// # Errors
/// As sigprocmask(2).
pub fn release_signals() -> io::Result<()> {
    Ok(sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?)
}

/// Bytes in memory that another process can be given as a descriptor.
///
/// # Errors
/// Out of memory or descriptors.
pub fn memory() -> io::Result<File> {
    Ok(File::from(memfd_create("router-upgrade", MFdFlags::MFD_CLOEXEC)?))
}

/// Writes the whole of such a file.
///
/// # Errors
/// Out of memory.
pub fn fill(memory: &mut File, bytes: &[u8]) -> io::Result<()> {
    memory.set_len(0)?;
    memory.seek(SeekFrom::Start(0))?;
    memory.write_all(bytes)
}

/// Reads the whole of such a file, whoever has read or written it before.
///
/// # Errors
/// As read(2).
pub fn contents(memory: &mut File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    memory.seek(SeekFrom::Start(0))?;
    memory.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The number of a descriptor, for the process that is to come.
#[must_use]
pub fn number(descriptor: &impl AsFd) -> RawFd {
    descriptor.as_fd().as_raw_fd()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::IntoRawFd;
    use std::process::{Command, Stdio};

    #[test]
    fn what_is_marked_crosses_and_nothing_else() {
        let mut memory = memory().expect("memory");
        fill(&mut memory, b"longer than the next").expect("memory");
        fill(&mut memory, b"state").expect("memory");
        let read = |number: RawFd| {
            let script = format!("cat /proc/self/fd/{number}");
            let child = Command::new("sh").args(["-c", &script]).stderr(Stdio::null()).output();
            String::from_utf8(child.expect("sh runs").stdout).expect("ours")
        };
        assert_eq!(read(number(&memory)), "");
        keep_across_exec(memory.as_fd(), true).expect("ours");
        assert_eq!(read(number(&memory)), "state");
        assert_eq!(contents(&mut memory).expect("memory"), b"state");
        let taken = inherit(memory.into_raw_fd()).expect("it is open, and nobody's");
        assert_eq!(read(number(&taken)), "");
        for number in [1, 1 << 20] {
            inherit(number).expect_err("nobody has left it");
        }
    }

    #[test]
    fn variables_are_not_removed_where_other_threads_may_read_them() {
        let wait = std::sync::Barrier::new(2);
        std::thread::scope(|scope| {
            scope.spawn(|| wait.wait());
            forget(&["PATH", "NOT_SET"]).expect_err("there is another thread");
            wait.wait();
        });
        assert!(std::env::var_os("PATH").is_some());
        forget(&["NOT_SET"]).expect("there is nothing to do");
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error_and_nothing_has_changed() {
        let error = exec(Path::new("/no/such/router"), &["router".into()], &[]);
        assert_eq!(error.expect_err("not there").kind(), io::ErrorKind::NotFound);
        let zero = exec(Path::new("/bin/true"), &["a\0b".into()], &[]);
        assert_eq!(zero.expect_err("no such name").kind(), io::ErrorKind::Other);
    }
}
