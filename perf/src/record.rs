//! What is kept of a run: every sample as JSON; medians, spreads and ratios as a table; the same as a
//! plot.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::Result;
use serde::Serialize;

use crate::front::Kind;
use crate::machine::Machine;
use crate::plot;
use crate::scenario::{Sample, Scenario};

/// The samples of a scenario, front by front.
#[derive(Debug)]
pub(crate) struct Record {
    scenario: Scenario,
    rows: Vec<(Kind, Vec<Sample>)>,
    /// Who could not do it, and why.
    failures: Vec<(Kind, String)>,
}

/// Of one value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) least: f64,
    pub(crate) median: f64,
    pub(crate) most: f64,
}

impl Spread {
    /// None of nothing.
    pub(crate) fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len().is_multiple_of(2) {
            f64::midpoint(values[middle - 1], values[middle])
        } else {
            values[middle]
        };
        Some(Self { least, median, most })
    }
}

impl Record {
    pub(crate) fn new(scenario: Scenario, fronts: &[Kind]) -> Self {
        let rows = fronts.iter().map(|kind| (*kind, vec![])).collect();
        Self { scenario, rows, failures: vec![] }
    }

    pub(crate) fn add(&mut self, front: Kind, sample: Sample) {
        if let Some((_, samples)) = self.rows.iter_mut().find(|(kind, _)| *kind == front) {
            samples.push(sample);
        }
    }

    pub(crate) fn fail(&mut self, front: Kind, why: String) {
        self.failures.push((front, why));
    }

    /// What was measured, in the alphabet's order.
    fn measures(&self) -> Vec<&str> {
        let mut measures: Vec<&str> = Vec::new();
        for sample in self.rows.iter().flat_map(|(_, samples)| samples) {
            measures.extend(sample.keys().map(String::as_str));
        }
        measures.sort_unstable();
        measures.dedup();
        measures
    }

    /// Of each front that was measured.
    fn spreads(&self, measure: &str) -> Vec<(Kind, Spread)> {
        let spread = |samples: &[Sample]| {
            Spread::of(samples.iter().filter_map(|sample| sample.get(measure).copied()).collect())
        };
        self.rows.iter().filter_map(|(kind, samples)| Some((*kind, spread(samples)?))).collect()
    }

    /// Medians, with the spread, and as multiples of router's.
    pub(crate) fn table(&self) -> String {
        let measures = self.measures();
        let mut table = String::from("| |");
        for measure in &measures {
            let _infallible = write!(table, " {measure} |");
        }
        table.push_str("\n|---|");
        table.push_str(&"---|".repeat(measures.len()));
        table.push('\n');
        for (kind, samples) in &self.rows {
            if samples.is_empty() {
                continue;
            }
            let _infallible = write!(table, "| {} |", kind.name());
            for measure in &measures {
                let spreads = self.spreads(measure);
                let own = spreads.iter().find(|(other, _)| other == kind);
                let router = spreads.iter().find(|(other, _)| other.is_measure());
                let Some((_, spread)) = own else {
                    table.push_str(" |");
                    continue;
                };
                let _infallible = write!(
                    table,
                    " {} [{}-{}]",
                    number(spread.median),
                    number(spread.least),
                    number(spread.most)
                );
                if let Some((_, router)) = router
                    && !kind.is_measure()
                    && router.median > 0.0
                {
                    let _infallible = write!(table, " x{}", number(spread.median / router.median));
                }
                table.push_str(" |");
            }
            table.push('\n');
        }
        for (kind, why) in &self.failures {
            let _infallible = write!(table, "\n{} failed once: {why}.\n", kind.name());
        }
        table
    }

    /// Writes all three forms.
    pub(crate) fn write(&self, directory: &Path, machine: &Machine) -> Result<()> {
        #[derive(Serialize)]
        struct Kept<'a> {
            scenario: &'a str,
            machine: &'a Machine,
            samples: BTreeMap<&'a str, &'a [Sample]>,
            failures: Vec<(&'a str, &'a str)>,
        }
        fs::create_dir_all(directory)?;
        let samples = self.rows.iter().map(|(kind, samples)| (kind.name(), samples.as_slice()));
        let (scenario, title) = (self.scenario.name(), self.scenario.title());
        let failures = self.failures.iter().map(|(kind, why)| (kind.name(), why.as_str()));
        let kept =
            Kept { scenario, machine, samples: samples.collect(), failures: failures.collect() };
        let path = |end: &str| directory.join(format!("{scenario}.{end}"));
        fs::write(path("json"), serde_json::to_string_pretty(&kept)? + "\n")?;
        let rounds = self.rows.iter().map(|(_, samples)| samples.len()).max().unwrap_or(0);
        let text = format!(
            "# {title}\n\nMedians of {rounds} interleaved rounds, [least-most], and as multiples of \
             router's.\n{}.\n\n{}\n![{title}]({scenario}.svg)\n",
            machine.sentence(),
            self.table()
        );
        fs::write(path("md"), text)?;
        let panels: Vec<_> =
            self.measures().into_iter().map(|measure| (measure, self.spreads(measure))).collect();
        Ok(fs::write(path("svg"), plot::bars(title, &panels))?)
    }
}

/// A sample in a line.
pub(crate) fn line(sample: &Sample) -> String {
    let values = sample.iter().map(|(name, value)| format!("{name} {}", number(*value)));
    values.collect::<Vec<_>>().join(", ")
}

/// With three digits that mean something.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_medians_spreads_and_ratios() {
        let mut record = Record::new(Scenario::Requests, &[Kind::Router, Kind::Pm2, Kind::Nginx]);
        for (kind, value) in
            [(Kind::Router, 4.0), (Kind::Pm2, 80.0), (Kind::Router, 2.0), (Kind::Router, 9.0)]
        {
            record.add(kind, [("front us each".to_owned(), value)].into());
        }
        assert_eq!(
            record.table(),
            "| | front us each |\n|---|---|\n| router | 4.00 [2.00-9.00] |\n\
             | @socket.io/pm2 | 80.0 [80.0-80.0] x20.0 |\n"
        );
    }

    #[test]
    fn the_median_of_two_lies_between() {
        let spread = Spread { least: 1.0, median: 2.0, most: 3.0 };
        assert_eq!(Spread::of(vec![3.0, 1.0]), Some(spread));
        assert_eq!(Spread::of(vec![]), None);
    }
}
