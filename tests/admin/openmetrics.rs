//! A reader of OpenMetrics text, as strict as its specification is for what is used here.

use std::collections::BTreeMap;

/// What such a text says.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Type and help of each family.
    pub families: BTreeMap<String, (String, String)>,
    /// By name and labels, as they were written.
    pub values: BTreeMap<String, f64>,
}

impl Metrics {
    #[track_caller]
    pub fn parse(text: &str) -> Self {
        let mut metrics = Self::default();
        let mut family = String::new();
        let body = text.strip_suffix("# EOF\n").expect("it ends as it must");
        for line in body.lines() {
            if let Some(rest) = line.strip_prefix("# ") {
                family = metrics.describe(rest, &family);
                continue;
            }
            let (name, value) = line.rsplit_once(' ').unwrap();
            let (bare, labels) = split(name);
            let suffixes: &[&str] = match metrics.families[&family].0.as_str() {
                "counter" => &["_total"],
                "gauge" => &[""],
                "histogram" => &["_bucket", "_sum", "_count"],
                other => panic!("{other}"),
            };
            let known = suffixes.iter().any(|suffix| bare == format!("{family}{suffix}"));
            assert!(known, "{line} is not of {family}");
            assert!(bare.chars().all(|c| c.is_ascii_lowercase() || "_".contains(c)), "{line}");
            assert_eq!(bare.ends_with("_bucket"), labels.contains_key("le"), "{line}");
            let value: f64 = value.parse().unwrap();
            assert!(value.is_finite() && (value >= 0.0 || suffixes == [""]), "{line}");
            let before = metrics.values.insert(name.to_owned(), value);
            assert!(before.is_none(), "{line} is there twice");
        }
        metrics.check_histograms(body);
        metrics
    }

    /// The same of Prometheus' text format 0.0.4: a counter's family is called as its value is, and
    /// there are no units.
    #[track_caller]
    pub fn parse_older(text: &str) -> Self {
        assert!(!text.contains("# UNIT") && !text.contains("# EOF"));
        let newer: Vec<String> = text
            .lines()
            .map(|line| match line.split(' ').collect::<Vec<_>>()[..] {
                ["#", "TYPE" | "HELP", name, ..] if name.ends_with("_total") => {
                    line.replacen("_total ", " ", 1)
                }
                _ => line.to_owned(),
            })
            .collect();
        let metrics = Self::parse(&format!("{}\n# EOF\n", newer.join("\n")));
        for (name, (kind, _)) in &metrics.families {
            let suffix = if kind == "counter" { "_total" } else { "" };
            let named = |what: &str| format!("# {what} {name}{suffix} ");
            assert!(text.contains(&named("TYPE")) && text.contains(&named("HELP")), "{name}");
        }
        metrics
    }

    /// One line about a family; gives its name.
    #[track_caller]
    fn describe(&mut self, rest: &str, current: &str) -> String {
        let mut words = rest.splitn(3, ' ');
        let (kind, name) = (words.next().unwrap(), words.next().unwrap().to_owned());
        let rest = words.next().unwrap().to_owned();
        // A family's lines are together: one that was left is not come back to.
        assert!(name == current || !self.families.contains_key(&name), "{name} comes again");
        let entry = self.families.entry(name.clone()).or_default();
        match kind {
            "HELP" => {
                assert!(entry.1.is_empty(), "{name} is explained twice");
                entry.1 = rest;
            }
            "TYPE" => {
                assert!(entry.0.is_empty(), "{name} has two types");
                entry.0 = rest;
            }
            "UNIT" => assert!(name.ends_with(&format!("_{rest}")), "{name} in {rest}"),
            _ => panic!("{kind} {name}"),
        }
        name
    }

    /// The buckets of each histogram come by bound, grow, and end with all there are.
    #[track_caller]
    fn check_histograms(&self, body: &str) {
        let mut last: BTreeMap<String, (f64, f64)> = BTreeMap::new();
        for line in body.lines().filter(|line| line.contains("_bucket{")) {
            let (name, count) = line.rsplit_once(' ').unwrap();
            let (bare, mut labels) = split(name);
            let le = labels.remove("le").unwrap();
            let (bound, count) = (le.parse().unwrap_or(f64::INFINITY), count.parse().unwrap());
            let series = format!("{}{labels:?}", bare.trim_end_matches("_bucket"));
            if let Some((before, below)) = last.insert(series, (bound, count)) {
                assert!(before < bound && below <= count, "{line}");
            }
        }
        for (name, all) in &self.values {
            let (bare, labels) = split(name);
            let Some(family) = bare.strip_suffix("_count") else { continue };
            let (bound, counted) = last[&format!("{family}{labels:?}")];
            assert!(bound.is_infinite() && (counted - all).abs() < 0.1, "{name}");
        }
    }

    #[track_caller]
    pub fn value(&self, name: &str) -> f64 {
        *self.values.get(name).unwrap_or_else(|| panic!("no {name} in {:#?}", self.values))
    }

    /// Of all values of this name, whatever their labels.
    #[track_caller]
    pub fn sum(&self, name: &str) -> f64 {
        let of: Vec<f64> = self
            .values
            .iter()
            .filter(|(full, _)| split(full).0 == name)
            .map(|(_, value)| *value)
            .collect();
        assert!(!of.is_empty(), "no {name} in {:#?}", self.values);
        of.iter().sum()
    }
}

/// A name and its labels; nothing here has a comma or a quote in a label's value.
fn split(name: &str) -> (&str, BTreeMap<String, String>) {
    let Some((bare, labels)) = name.split_once('{') else { return (name, BTreeMap::new()) };
    let labels = labels.strip_suffix('}').unwrap().split(',').map(|label| {
        let (name, value) = label.split_once('=').unwrap();
        let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap();
        (name.to_owned(), value.to_owned())
    });
    (bare, labels.collect())
}
