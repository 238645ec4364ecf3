//! Where it was measured.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result};
use serde::Serialize;

/// A description for the record.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    processor: String,
    cores: usize,
    memory_gib: u64,
    kernel: String,
    node: String,
    commit: String,
    date: String,
}

impl Machine {
    pub(crate) fn describe() -> Result<Self> {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo")?;
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let memory = field(&fs::read_to_string("/proc/meminfo")?, "MemTotal");
        let kib = memory.and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
        Ok(Self {
            processor: field(&cpuinfo, "model name").unwrap_or_else(|| "unknown".to_owned()),
            cores: std::thread::available_parallelism()?.get(),
            memory_gib: kib.context("no MemTotal")? >> 20,
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            node: said("node", &["--version"])?,
            commit: commit()?,
            date: said("date", &["+%F"])?,
        })
    }

    pub(crate) fn sentence(&self) -> String {
        format!(
            "{} ({} cores, {} GiB), Linux {}, Node {}, {}, commit {}",
            self.processor,
            self.cores,
            self.memory_gib,
            self.kernel,
            self.node,
            self.date,
            self.commit
        )
    }
}

/// What is measured; earlier records are no part of it.
fn commit() -> Result<String> {
    let commit = said("git", &["describe", "--always"])?;
    let elsewhere =
        ["status", "--porcelain", "--untracked-files=no", "--", ":/", ":(exclude,top)perf/record"];
    let changed = !said("git", &elsewhere)?.is_empty();
    Ok(if changed { commit + "-dirty" } else { commit })
}

fn said(program: &str, words: &[&str]) -> Result<String> {
    let output = Command::new(program).args(words).output().with_context(|| program.to_owned())?;
    anyhow::ensure!(output.status.success(), "{program} {words:?}: {}", output.status);
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
