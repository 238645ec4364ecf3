//! How many cores this process may really use.
//!
//! Affinity (taskset, cpusets) says which cores; a cgroup's quota says how much of them. A
//! container with a quota of 1.5 cores on a 64-core host must not get 64 workers: it gets 2.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// Where cgroup v2 is mounted: alone, or beside v1.
const V2_MOUNTS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
/// Where the cpu controller of cgroup v1 is mounted.
const V1_MOUNTS: [&str; 2] = ["/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu,cpuacct"];

/// Keeps the calling thread on one of the cores this process may use, the `turn`-th of them.
///
/// # Errors
/// As sched_setaffinity(2).
pub fn pin(turn: usize) -> io::Result<()> {
    let allowed = sched_getaffinity(Pid::from_raw(0))?;
    let cores: Vec<usize> =
        (0..CpuSet::count()).filter(|core| allowed.is_set(*core).unwrap_or(false)).collect();
    let Some(core) = turn.checked_rem(cores.len()).and_then(|index| cores.get(index)) else {
        return Ok(());
    };
    let mut only = CpuSet::new();
    only.set(*core)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &only)?)
}

/// Cores this process may use, by affinity and by quota, rounded up; at least 1.
pub fn usable_cores() -> usize {
    let cores = affine_cores();
    let quota = cgroup_quota(&|path| fs::read_to_string(path).ok());
    quota.map_or(cores, |quota| cores.min(quota)).max(1)
}

fn affine_cores() -> usize {
    match sched_getaffinity(Pid::from_raw(0)) {
        Ok(set) => (0..CpuSet::count()).filter(|&cpu| set.is_set(cpu).unwrap_or(false)).count(),
        // More cores than a CpuSet has room for; the standard library asks with a larger one.
        Err(_) => std::thread::available_parallelism().map_or(1, usize::from),
    }
}

/// The tightest quota on the way from this process's cgroup to the root, in whole cores.
fn cgroup_quota(read: &dyn Fn(&Path) -> Option<String>) -> Option<usize> {
    let memberships = read(Path::new("/proc/self/cgroup"))?;
    memberships.lines().filter_map(|line| quota_of_membership(line, read)).min()
}

/// `line` is `ID:CONTROLLERS:PATH` of /proc/self/cgroup; v2's has no controllers.
fn quota_of_membership(line: &str, read: &dyn Fn(&Path) -> Option<String>) -> Option<usize> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (controllers, path) = (parts.next()?, parts.next()?);
    let v2 = controllers.is_empty();
    if !v2 && !controllers.split(',').any(|controller| controller == "cpu") {
        return None;
    }
    let mounts = if v2 { V2_MOUNTS } else { V1_MOUNTS };
    // Inside a container the path may be the host's, with no such directory under the mount;
    // climbing to the mount itself then finds the container's own limit.
    let directories = mounts.iter().flat_map(|mount| {
        let full = PathBuf::from(mount).join(path.trim_start_matches('/'));
        let levels = full.ancestors().take_while(|at| at.starts_with(mount));
        levels.map(Path::to_path_buf).collect::<Vec<_>>()
    });
    directories
        .filter_map(|at| {
            if v2 {
                parse_cpu_max(&read(&at.join("cpu.max"))?)
            } else {
                let quota = read(&at.join("cpu.cfs_quota_us"))?;
                whole_cores(quota.trim(), read(&at.join("cpu.cfs_period_us"))?.trim())
            }
        })
        .min()
}

/// `max 100000` (no limit) or `150000 100000`.
fn parse_cpu_max(text: &str) -> Option<usize> {
    let mut words = text.split_whitespace();
    whole_cores(words.next()?, words.next()?)
}

/// `None` when there is no limit: v1 says -1, v2 says "max", neither of which is a `u64`.
fn whole_cores(quota: &str, period: &str) -> Option<usize> {
    let (quota, period) = (quota.parse::<u64>().ok()?, period.parse::<u64>().ok()?);
    if quota == 0 || period == 0 {
        return None;
    }
    usize::try_from(quota.div_ceil(period)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota(files: &[(&str, &str)]) -> Option<usize> {
        cgroup_quota(&|path| {
            let found = files.iter().find(|(name, _)| Path::new(name) == path)?;
            Some(found.1.to_owned())
        })
    }

    #[test]
    fn there_is_always_a_core() {
        assert!(usable_cores() >= 1);
    }

    #[test]
    fn v2_takes_the_tightest_limit_on_the_way_up_and_rounds_up() {
        let files = [
            ("/proc/self/cgroup", "0::/a/b\n"),
            ("/sys/fs/cgroup/a/b/cpu.max", "max 100000\n"),
            ("/sys/fs/cgroup/a/cpu.max", "150000 100000\n"),
        ];
        assert_eq!(quota(&files), Some(2));
    }

    #[test]
    fn v1_in_a_container_is_found_at_the_mount() {
        let files = [
            ("/proc/self/cgroup", "4:memory:/docker/x\n3:cpu,cpuacct:/docker/x\n"),
            ("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "50000\n"),
            ("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
        ];
        assert_eq!(quota(&files), Some(1));
    }

    #[test]
    fn no_limit_is_no_limit() {
        assert_eq!(quota(&[]), None);
        let v1 = [
            ("/proc/self/cgroup", "1:cpu:/\n0::/\n"),
            ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n"),
            ("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"),
        ];
        assert_eq!(quota(&v1), None);
    }
}
