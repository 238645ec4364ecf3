//! Worker processes: fork, exec, the fds a child gets, signals to it, its exit.
//!
//! A child gets four fds, or five, and nothing else: 0 is `/dev/null`, 1 and 2 are pipes to us, 3 is
//! the channel, 4 the lane if there is one. It starts with default signal dispositions, an empty
//! mask, and a session of its own: Ctrl-C in a terminal reaches only the router, and the kernel does
//! not hang up on a stopped child when the router dies. Whether and when to start or to end a
//! process is not decided here.

use std::ffi::{CStr, OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{self, SigSet, SigmaskHow, Signal};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::{Pid, setsid};

use super::syscall;

/// The fd number on which a child finds its channel; what `NODE_CHANNEL_FD` says.
pub const CHANNEL_FD: RawFd = 3;

/// The fd number on which a child finds its lane.
pub const LANE_FD: RawFd = 4;

/// How often a process's descendants are looked for once more, at most.
const TREE_TURNS: usize = 32;

/// The highest signal number Linux has.
const SIGNAL_MAX: i32 = 64;

/// What to start.
#[derive(Debug)]
pub struct Spawn<'a> {
    /// A path, or a name looked up in `PATH`.
    pub program: &'a OsStr,
    /// Arguments after the program's own name.
    pub args: &'a [OsString],
    /// Added to the router's own environment.
    pub env: &'a [(OsString, OsString)],
    /// Variables of the router's own that the child shall not see.
    pub unset: &'a [OsString],
    /// Where the child starts.
    pub cwd: &'a Path,
    /// The child's end of its channel; closed here once the child has it.
    pub channel: OwnedFd,
    /// The child's end of its lane.
    pub lane: Option<BorrowedFd<'a>>,
    /// Whose process it is to be, if not ours.
    pub identity: Option<Identity>,
    /// It may outlive us: its output pipes have a reader for as long as it lives, itself.
    pub outlives: bool,
}

/// A user and its groups, by their numbers.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The user.
    pub uid: u32,
    /// Its own group.
    pub gid: u32,
    /// All its groups.
    pub groups: Vec<u32>,
}

/// A started process and our ends of its output pipes, non-blocking.
#[derive(Debug)]
pub struct Spawned {
    /// Its process id, and its process group's.
    pub pid: Pid,
    /// What it writes to fd 1.
    pub stdout: OwnedFd,
    /// What it writes to fd 2.
    pub stderr: OwnedFd,
}

/// Starts a process. It must be reaped by [`reap`].
pub fn spawn(spawn: Spawn<'_>) -> io::Result<Spawned> {
    let Spawn { program, args, env, unset, cwd, channel, lane, identity, outlives } = spawn;
    // The standard library reports a failed exec through a pipe of its own. Were that pipe's fd
    // 3 or 4, placing the channel or the lane would close it; so both numbers are kept occupied
    // while the pipe is made.
    let _occupied =
        [duplicate(channel.as_fd(), CHANNEL_FD)?, duplicate(channel.as_fd(), CHANNEL_FD)?];
    // Beyond both, so that placing one cannot close the other.
    let channel = duplicate(channel.as_fd(), LANE_FD + 1)?;
    let lane = lane.map(|lane| duplicate(lane, LANE_FD + 1)).transpose()?;

    let mut command = Command::new(program);
    command
        .args(args)
        .envs(env.iter().map(|(name, value)| (name, value)))
        .current_dir(cwd)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    for name in unset {
        command.env_remove(name);
    }
    let channel_fd = channel.as_raw_fd();
    let lane_fd = lane.as_ref().map(AsRawFd::as_raw_fd);
    let prepare = move || {
        prepare_child(channel_fd, lane_fd, outlives)?;
        // Last: it gives away the rights that the rest may need.
        identity.as_ref().map_or(Ok(()), become_another)
    };
    // SAFETY: between fork and exec only async-signal-safe calls may be made. `prepare_child`,
    // `become_another` and their callees make bare system calls on integers and on a list that was
    // made before, and allocate and lock nothing.
    unsafe { command.pre_exec(prepare) };
    let mut child = command.spawn()?;

    let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
    let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(io::Error::other("a piped child has no pipes"));
    };
    let (stdout, stderr) = (OwnedFd::from(stdout), OwnedFd::from(stderr));
    set_nonblocking(&stdout)?;
    set_nonblocking(&stderr)?;
    Ok(Spawned { pid: Pid::from_raw(pid), stdout, stderr })
}

/// Runs in the child between fork and exec.
fn prepare_child(channel: RawFd, lane: Option<RawFd>, outlives: bool) -> io::Result<()> {
    if outlives {
        keep_readable(c"/proc/self/fd/1", libc::STDOUT_FILENO);
        keep_readable(c"/proc/self/fd/2", libc::STDERR_FILENO);
    }
    // SAFETY: dup2 touches no memory. What it closes at 3 is the copy `spawn` holds there or an fd
    // of the router's, both meaningless in the child; `spawn` keeps `channel` open.
    check(unsafe { libc::dup2(channel, CHANNEL_FD) })?;
    let mut last = CHANNEL_FD;
    if let Some(lane) = lane {
        // SAFETY: as above, with 4 and `lane`.
        check(unsafe { libc::dup2(lane, LANE_FD) })?;
        last = LANE_FD;
    }
    // Our own fds are close-on-exec at birth; this catches those the router itself inherited.
    // Kernels before 5.11 and some seccomp filters refuse the call: then those few stay open,
    // as they would under any shell, and the worker starts all the same.
    // SAFETY: the call takes three integers; the flag only marks fds, it closes none here.
    let _ = unsafe {
        libc::syscall(libc::SYS_close_range, last + 1, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC)
    };
    for signal in 1..=SIGNAL_MAX {
        // SIGKILL, SIGSTOP and the two libc keeps to itself refuse with EINVAL, which is as good as done.
        // SAFETY: SIG_DFL installs no handler, so no code of ours can run from it.
        let _ = unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    setsid()?;
    signal::sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
    Ok(())
}

/// Gives the output pipes to another user, as whoever opens /dev/stdout needs, and becomes it. Runs in
/// the child, which has one thread: so the kernel's own calls do, without libc's, which would tell
/// the other threads and wait for them.
fn become_another(Identity { uid, gid, groups }: &Identity) -> io::Result<()> {
    let (uid, gid) = (*uid, *gid);
    for pipe in [libc::STDOUT_FILENO, libc::STDERR_FILENO] {
        syscall!(fchown(pipe, uid, gid))?;
    }
    // The list is borrowed for the call, and as long as it is said to be.
    syscall!(syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()))?;
    syscall!(syscall(libc::SYS_setresgid, gid, gid, gid))?;
    syscall!(syscall(libc::SYS_setresuid, uid, uid, uid))?;
    Ok(())
}

/// Opens a pipe's end for reading as well, so that whoever writes there is never told that nobody
/// reads. Runs in the child. Without /proc it stays as it is.
fn keep_readable(path: &CStr, number: RawFd) {
    // SAFETY: the path ends in a zero and is static.
    let opened = unsafe { libc::open(path.as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) };
    if opened >= 0 {
        // SAFETY: two integers; what is closed at `number` is the same pipe's end.
        let _ = unsafe { libc::dup2(opened, number) };
    }
}

/// A copy of `fd` with the lowest free number from `least` on, closed on exec.
fn duplicate(fd: BorrowedFd<'_>, least: RawFd) -> io::Result<OwnedFd> {
    let copy = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(least))?;
    // SAFETY: the kernel has just made this descriptor for us and nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

fn check(returned: libc::c_int) -> io::Result<()> {
    if returned < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn set_nonblocking(fd: &OwnedFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// A worker's channel: our end, non-blocking, and the child's end, blocking as Node expects to
/// find it. Both close-on-exec; [`spawn`] places the child's.
pub fn channel_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) =
        socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)?;
    set_nonblocking(&ours)?;
    Ok((ours, theirs))
}

/// Every child that has ended since the last call. Where `ends_group` says so, whoever is left of
/// the child's process group is killed with it, while the group's number is still its own.
///
/// As process 1 of a container the router is handed orphans too; the caller ignores the pids it
/// does not know.
pub fn reap(ends_group: impl Fn(Pid) -> bool) -> Vec<(Pid, ExitStatus)> {
    let mut reaped = Vec::new();
    loop {
        let Some(child) = next_ended() else { return reaped };
        if ends_group(child) {
            // An error means that nobody is left.
            let _empty = signal::killpg(child, Signal::SIGKILL);
        }
        let mut status = 0;
        // SAFETY: the kernel writes one int through the pointer before the call returns, and
        // `status` lives until then.
        let waited = unsafe { libc::waitpid(child.as_raw(), &raw mut status, libc::WNOHANG) };
        if waited == child.as_raw() {
            reaped.push((child, ExitStatus::from_raw(status)));
        }
    }
}

/// A child that has ended and is still to be waited for.
///
/// Not nix's `waitid`: it has no name for a real-time signal and reports a child that one has
/// ended as an error. That child would be found first again and again, and no other ever.
fn next_ended() -> Option<Pid> {
    // SAFETY: a siginfo_t is integers and unions of such, for which zeroes are a value.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // The pointer is to `info`, which outlives the call. An error means that there are no children.
    syscall!(waitid(libc::P_ALL, 0, &raw mut info, flags)).ok()?;
    // SAFETY: the kernel has filled in a child's fields, or left the zeroes when none has ended.
    let pid = unsafe { info.si_pid() };
    (pid != 0).then(|| Pid::from_raw(pid))
}

/// When a process has started, in clock ticks since boot: with its pid a name that never comes
/// again. Field 22 of /proc/PID/stat.
///
/// # Errors
/// There is no such process, or no /proc.
pub fn started(pid: Pid) -> io::Result<u64> {
    let [_, _, started, _] = stat(pid)?;
    Ok(started)
}

/// What a process has used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Time since its start.
    pub age: Duration,
    /// Time on a core, its own and the kernel's for it; without its children's.
    pub cpu: Duration,
    /// Resident memory, in bytes.
    pub resident: u64,
}

/// What a process has used so far.
///
/// # Errors
/// There is no such process, or no /proc.
pub fn usage(pid: Pid) -> io::Result<Usage> {
    let [user, system, started, pages] = stat(pid)?;
    let second = setting(libc::_SC_CLK_TCK, 100);
    let time = |ticks: u64| {
        let part = ticks % second * 1_000_000_000 / second;
        Duration::from_secs(ticks / second) + Duration::from_nanos(part)
    };
    Ok(Usage {
        age: super::clock::since_boot()?.saturating_sub(time(started)),
        cpu: time(user + system),
        resident: pages * setting(libc::_SC_PAGESIZE, 4096),
    })
}

/// Of /proc/PID/stat: ticks in user mode, in the kernel, at its start; pages of memory.
fn stat(pid: Pid) -> io::Result<[u64; 4]> {
    /// Fields 14, 15, 22 and 24, counted from the one behind the name.
    const WANTED: [usize; 4] = [11, 12, 19, 21];
    let stat = std::fs::read(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = behind_name(&stat).unwrap_or_default().split_whitespace().collect();
    let mut found = [0; 4];
    for (place, at) in found.iter_mut().zip(WANTED) {
        let number = fields.get(at).and_then(|field| field.parse().ok());
        *place = number.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    }
    Ok(found)
}

/// The fields of a /proc/PID/stat from the third on. The second, the name in brackets, may hold
/// anything.
fn behind_name(stat: &[u8]) -> Option<&str> {
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    std::str::from_utf8(stat.get(end + 1..)?).ok()
}

/// A setting of the system's, or what nearly all have.
fn setting(name: libc::c_int, usual: u64) -> u64 {
    // SAFETY: sysconf takes an integer and touches no memory of ours.
    u64::try_from(unsafe { libc::sysconf(name) }).unwrap_or(usual).max(1)
}

/// The sockets that another process has, by [`super::socket::number`].
///
/// # Errors
/// It is gone, or it is another user's.
pub fn sockets(pid: Pid) -> io::Result<Vec<u64>> {
    let mut sockets = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))? {
        // Closed since it was listed: it is no more.
        let Ok(target) = std::fs::read_link(entry?.path()) else { continue };
        let number = target.to_str().and_then(|target| target.strip_prefix("socket:["));
        let number = number.and_then(|number| number.strip_suffix(']')?.parse::<u64>().ok());
        sockets.extend(number);
    }
    Ok(sockets)
}

/// What another process writes to one of its descriptors, if that is a pipe.
///
/// # Errors
/// It is gone, or it is another user's.
pub fn read_end(pid: Pid, descriptor: RawFd) -> io::Result<OwnedFd> {
    let path = format!("/proc/{pid}/fd/{descriptor}");
    let mut options = std::fs::OpenOptions::new();
    Ok(options.read(true).custom_flags(libc::O_NONBLOCK).open(path)?.into())
}

/// Sends a signal to a process and to its descendants, those that have left its process group
/// included. They are looked for again until all have been told: they may be forking.
pub fn kill_tree(root: Pid, signal: Signal) -> io::Result<()> {
    let mut told = Vec::new();
    for _ in 0..TREE_TURNS {
        let new: Vec<Pid> =
            descendants(root).into_iter().filter(|child| !told.contains(child)).collect();
        if new.is_empty() {
            break;
        }
        for child in new {
            // An error means that it has ended meanwhile.
            let _ended = kill(child, signal);
            told.push(child);
        }
    }
    kill(root, signal)
}

/// The living descendants of a process, as of one look at /proc.
fn descendants(root: Pid) -> Vec<Pid> {
    let parents = parents();
    let mut found = vec![root];
    let mut looked_at = 0;
    while let Some(parent) = found.get(looked_at).copied() {
        found.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(child, _)| *child));
        looked_at += 1;
    }
    found.split_off(1)
}

/// Every process and its parent. Without /proc there are none.
fn parents() -> Vec<(Pid, Pid)> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return vec![] };
    let pair = |entry: std::fs::DirEntry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read(entry.path().join("stat")).ok()?;
        // State, parent.
        let parent = behind_name(&stat)?.split_whitespace().nth(1)?.parse().ok()?;
        Some((Pid::from_raw(pid), Pid::from_raw(parent)))
    };
    entries.flatten().filter_map(pair).collect()
}

/// Sends a signal to one process, not to its group.
pub fn kill(pid: Pid, signal: Signal) -> io::Result<()> {
    Ok(signal::kill(pid, signal)?)
}

/// Raises the soft limit of open fds to the hard limit and returns it; workers inherit it.
pub fn raise_fd_limit() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(hard)
}

/// Gives fds 0, 1 and 2 something to be, should the router have been started without them:
/// otherwise a client's socket could become "stdout" and receive the log.
pub fn ensure_standard_fds() -> io::Result<()> {
    loop {
        let null = File::options().read(true).write(true).open("/dev/null")?;
        if null.as_raw_fd() > 2 {
            return Ok(());
        }
        // Kept for the life of the process, by design.
        let _ = std::os::fd::IntoRawFd::into_raw_fd(null);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::wait::{WaitStatus, waitpid};
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    const LISTING: &str = "for f in /proc/$$/fd/*; do [ -e $f ] && echo ${f##*/}; done; true";

    fn shell(script: &str, channel: OwnedFd) -> Spawned {
        spawn(Spawn {
            program: OsStr::new("sh"),
            args: &["-c".into(), script.into()],
            env: &[("SPAWN_TEST".into(), "yes".into())],
            unset: &[],
            cwd: Path::new("/"),
            channel,
            lane: None,
            identity: None,
            outlives: false,
        })
        .expect("sh starts")
    }

    /// Blocking read to the end of what a child wrote to stdout; the child is reaped.
    fn output(spawned: Spawned) -> String {
        // By its own pid: other tests of this process have children too.
        let status = waitpid(spawned.pid, None).expect("it is our child");
        assert!(matches!(status, WaitStatus::Exited(_, 0)), "{status:?}");
        // A test that forks at this moment holds the pipe open until it execs; wait for it.
        fcntl(&spawned.stdout, FcntlArg::F_SETFL(OFlag::empty())).expect("it is a pipe");
        let mut text = String::new();
        File::from(spawned.stdout).read_to_string(&mut text).expect("the pipe ends");
        text
    }

    #[test]
    fn a_child_has_exactly_four_fds_whatever_the_router_inherited() {
        let inherited = File::open("/dev/null").expect("opens");
        fcntl(&inherited, FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).expect("is ours");
        let (_ours, theirs) = channel_pair().expect("a pair");
        assert_eq!(output(shell(LISTING, theirs)), "0\n1\n2\n3\n");
    }

    #[test]
    fn fd_4_is_the_lane_whatever_numbers_the_two_have_here() {
        for _ in 0..2 {
            let (channel, theirs) = channel_pair().expect("a pair");
            let (lane, lane_theirs) = channel_pair().expect("a pair");
            let child = spawn(Spawn {
                program: OsStr::new("sh"),
                args: &["-c".into(), format!("{LISTING}; echo channel >&3; echo lane >&4").into()],
                env: &[],
                unset: &[],
                cwd: Path::new("/"),
                channel: theirs,
                lane: Some(lane_theirs.as_fd()),
                identity: None,
                outlives: false,
            });
            drop(lane_theirs);
            assert_eq!(output(child.expect("sh starts")), "0\n1\n2\n3\n4\n");
            for (ours, word) in [(channel, "channel\n"), (lane, "lane\n")] {
                let mut ours = UnixStream::from(ours);
                ours.set_nonblocking(false).expect("is a socket");
                let mut said = String::new();
                ours.read_to_string(&mut said).expect("the child is gone, so this ends");
                assert_eq!(said, word);
            }
        }
    }

    #[test]
    fn fd_3_is_the_channel_and_stdin_is_empty() {
        let (ours, theirs) = channel_pair().expect("a pair");
        let child =
            shell("cat; read line <&3; echo \"$line $SPAWN_TEST $PWD\"; echo back >&3", theirs);
        let mut ours = UnixStream::from(ours);
        ours.set_nonblocking(false).expect("is a socket");
        ours.write_all(b"there\n").expect("the child lives");
        assert_eq!(output(child), "there yes /\n");
        let mut back = String::new();
        ours.read_to_string(&mut back).expect("the child is gone, so this ends");
        assert_eq!(back, "back\n");
    }

    #[test]
    fn a_child_starts_with_default_signals_and_its_own_group() {
        let (_ours, theirs) = channel_pair().expect("a pair");
        let child = shell(
            "while read k v; do case $k in SigBlk:|SigIgn:|NSpgid:) echo $v;; esac; done < /proc/$$/status",
            theirs,
        );
        let pid = child.pid;
        let text = output(child);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines.contains(&pid.to_string().as_str()), "own group: {text}");
        // 32 and 33 are libc's own: it refuses to touch them, and some sandboxes ignore them.
        let clean = |line: &&&str| u64::from_str_radix(line, 16).is_ok_and(|set| set << 33 == 0);
        let masks = lines.iter().filter(|line| line.len() == 16);
        assert_eq!(masks.filter(clean).count(), 2, "nothing blocked, nothing ignored: {text}");
    }

    #[test]
    fn a_missing_program_is_an_error_here_not_an_exit_later() {
        for _ in 0..8 {
            let (_ours, theirs) = channel_pair().expect("a pair");
            let error = spawn(Spawn {
                program: OsStr::new("no-such-interpreter"),
                args: &[],
                env: &[],
                unset: &[],
                cwd: Path::new("/"),
                channel: theirs,
                lane: None,
                identity: None,
                outlives: false,
            })
            .expect_err("it is not there");
            assert_eq!(error.kind(), io::ErrorKind::NotFound);
        }
    }

    #[test]
    fn descendants_are_found_wherever_they_went() {
        let (ours, theirs) = channel_pair().expect("a pair");
        let up = "sh -c 'echo up >&3; exec sleep 60'";
        let child = shell(&format!("setsid {up} & ({up} & wait) & wait"), theirs);
        let mut ours = UnixStream::from(ours);
        ours.set_nonblocking(false).expect("is a socket");
        ours.read_exact(&mut [0; 6]).expect("both say that they are up");
        // A sleep in a session of its own, a subshell, and its sleep.
        let found = descendants(child.pid);
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(usage(child.pid).is_ok_and(|usage| usage.resident > 0));
        kill_tree(child.pid, Signal::SIGKILL).expect("it lives");
        waitpid(child.pid, None).expect("it is our child");
        // They are init's now, and whoever is process 1 here need not reap them.
        let ended = |pid: &Pid| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.rsplit(')').next().is_none_or(|rest| rest.is_empty() || rest.starts_with(" Z"))
        };
        // A signal that was sent is taken before the process runs again.
        let gone = (0..1_000_000).any(|_| {
            std::thread::yield_now();
            found.iter().all(ended)
        });
        assert!(gone, "{found:?}");
    }

    #[test]
    fn the_fd_limit_ends_at_the_hard_limit() {
        let hard = raise_fd_limit().expect("one may always raise to the hard limit");
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).expect("readable"), (hard, hard));
    }
}
