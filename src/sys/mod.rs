//! The only unsafe code and the only libc. Thin, safe types over the kernel; no policy.
//!
//! | file | kernel object |
//! |---|---|
//! | `uring` | an io_uring, its operations in flight and its provided buffers |
//! | `watched` | a file descriptor registered with monoio's epoll |
//! | `scm` | `sendmsg`/`recvmsg` with SCM_RIGHTS |
//! | `socket` | listeners, accept, peek, socket options |
//! | `wake` | an eventfd |
//! | `process` | fork, exec, reap |
//! | `private` | what only this user may use: directories, files, sockets, locks |
//! | `pidfd` | one process, whatever becomes of its pid |
//! | `keeper` | a second process on the same descriptors |
//! | `exec` | one program after another in one process |
//! | `clock` | the clock that all programs on the host read |
//! | `cpu` | which cores there are, and pinning to one |
#![allow(unsafe_code, reason = "this is the room for it: each block states its obligation")]

pub mod clock;
pub mod cpu;
pub mod exec;
pub mod keeper;
pub mod pidfd;
pub mod private;
pub mod process;
pub mod scm;
pub mod socket;
pub mod uring;
pub mod wake;
pub mod watched;

/// Runs a libc call and turns -1 into the `errno` it left behind, so that a call reads like its
/// man page. Only for calls whose pointers are null or made of references in the same expression;
/// a comment beside each use says which.
macro_rules! syscall {
    ($name:ident ( $($arg:expr),* $(,)? )) => {{
        // SAFETY: every pointer among the arguments is null or to memory that the expanding
        // function borrows for the length of the call, as it says beside the use.
        let result = unsafe { libc::$name($($arg),*) };
        if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(result) }
    }};
}
pub(crate) use syscall;
