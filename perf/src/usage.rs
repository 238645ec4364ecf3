//! What processes have used, out of /proc.

use std::fs;

use anyhow::{Context, Result};

/// Of some processes together.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// Time on a core, in nanoseconds; of the threads that live.
    pub(crate) cpu: u64,
    /// Resident memory, in bytes; of a page that several processes have, each its part.
    pub(crate) resident: u64,
}

impl Usage {
    /// What these have used so far.
    pub(crate) fn of(pids: &[u32]) -> Result<Self> {
        let mut sum = Self::default();
        for pid in pids {
            sum.cpu += cpu(*pid).with_context(|| format!("process {pid}"))?;
            let smaps = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
            let line = smaps.lines().find_map(|line| line.strip_prefix("Pss:"));
            let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
            sum.resident += kib.context("a process has no Pss")? * 1024;
        }
        Ok(sum)
    }
}

/// Finer than the ticks of /proc/PID/stat: the scheduler's own account, thread by thread.
fn cpu(pid: u32) -> Result<u64> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let account = fs::read_to_string(task?.path().join("schedstat"))?;
        let on_core = account.split_whitespace().next().context("an empty schedstat")?;
        sum += on_core.parse::<u64>()?;
    }
    Ok(sum)
}

/// A process and its descendants, in the order in which they are found; without those that end
/// meanwhile.
pub(crate) fn tree(root: u32) -> Vec<u32> {
    let mut found = vec![root];
    let mut looked_at = 0;
    while let Some(pid) = found.get(looked_at).copied() {
        looked_at += 1;
        let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { continue };
        for task in tasks.flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            found.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        }
    }
    found
}

/// What a process calls itself; none: it has ended.
pub(crate) fn name(pid: u32) -> Option<String> {
    Some(fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim().to_owned())
}
