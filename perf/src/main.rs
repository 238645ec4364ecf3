//! Measures router beside its peers, in one run: the same clients, the same workers' code, a front after
//! the other in interleaved rounds. `perf/run` builds and starts it.

mod front;
mod load;
mod machine;
mod plot;
mod record;
mod scenario;
mod targets;
mod usage;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::signal::ctrl_c;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::LocalSet;

use crate::front::{Front, Kind};
use crate::machine::Machine;
use crate::record::Record;
use crate::scenario::{Measure, Sample, Scenario};

/// Of a proxy to a connection: the client's and the worker's.
const PROXY_DESCRIPTORS: u64 = 2;
/// What everything else needs.
const SPARE_DESCRIPTORS: u64 = 4000;

/// Measure router beside its peers; tables and plots are written to perf/record.
#[derive(Debug, Parser)]
#[command(name = "perf/run")]
struct Arguments {
    /// What is done; all of it, if nothing is named
    scenarios: Vec<Scenario>,
    /// Measurements of each front
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// How long each lasts, in seconds
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Sessions of the idle scenario
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    idle: u32,
    /// Only these fronts
    #[arg(long, value_delimiter = ',')]
    only: Vec<Kind>,
    /// Where the record is written
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/record"))]
    record: PathBuf,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    raise_descriptor_limit(u64::from(arguments.idle) * PROXY_DESCRIPTORS + SPARE_DESCRIPTORS)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(LocalSet::new().run_until(async {
        let mut told = signal(SignalKind::terminate())?;
        tokio::select! {
            ended = run(arguments) => ended,
            // What was started ends with what is dropped here.
            _ = told.recv() => bail!("told to end"),
            interrupted = ctrl_c() => {
                interrupted?;
                bail!("interrupted")
            }
        }
    }))
}

async fn run(arguments: Arguments) -> Result<()> {
    let machine = Machine::describe()?;
    say(&machine.sentence());
    let measure = Measure {
        lasts: Duration::from_secs(arguments.seconds),
        idle: usize::try_from(arguments.idle)?,
    };
    let scenarios = if arguments.scenarios.is_empty() {
        Scenario::value_variants().to_vec()
    } else {
        arguments.scenarios
    };
    for scenario in scenarios {
        say(&format!("{}: {}", scenario.name(), scenario.title()));
        let wanted = |kind: &&Kind| arguments.only.is_empty() || arguments.only.contains(kind);
        let fronts: Vec<Kind> = scenario.fronts().iter().filter(wanted).copied().collect();
        let mut record = Record::new(scenario, &fronts);
        for round in 0..arguments.rounds {
            for kind in &fronts {
                let of = format!("  {} {}", round + 1, kind.name());
                match measured(scenario, *kind, measure).await {
                    Ok(sample) => {
                        say(&format!("{of}: {}", record::line(&sample)));
                        record.add(*kind, sample);
                    }
                    // The others go on: that it cannot do this is a result.
                    Err(error) => {
                        say(&format!("{of}: failed: {error:#}"));
                        record.fail(*kind, format!("{error:#}"));
                    }
                }
            }
        }
        say(&record.table());
        record.write(Path::new(&arguments.record), &machine)?;
    }
    targets::write(&arguments.record)?;
    Ok(())
}

async fn measured(scenario: Scenario, kind: Kind, measure: Measure) -> Result<Sample> {
    let mut front = Front::start(kind, scenario.workers()).await?;
    scenario.measure(&mut front, measure).await
}

/// The clients', the fronts' and the workers', which inherit it.
fn raise_descriptor_limit(wanted: u64) -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let limit = wanted.max(hard);
    setrlimit(Resource::RLIMIT_NOFILE, limit, limit)
        .with_context(|| format!("{limit} descriptors are needed, and {hard} allowed: ulimit -Hn"))
}

#[expect(clippy::print_stdout, reason = "what is measured is printed as it comes")]
fn say(text: &str) {
    println!("{text}");
}
