//! How many workers: `N`, `max`, or `-N`.

use std::str::FromStr;

use super::ConfigError;

/// The most workers one router runs; a slot is a `u16` and the roster is sized for this.
pub const WORKERS_MAX: u16 = 1024;

/// How many workers, before the cores are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workers {
    /// This many.
    Exactly(u64),
    /// One for every usable core, less this many; at least one.
    CoresLess(u64),
}

impl Workers {
    /// One for every usable core.
    pub const MAX: Self = Self::CoresLess(0);

    /// The number on a machine with this many usable cores.
    pub fn resolve(self, cores: usize) -> Result<u16, ConfigError> {
        let cores = u64::try_from(cores).unwrap_or(u64::MAX);
        let got = match self {
            Self::Exactly(count) => count,
            // A machine may have more cores than a router runs workers; "max" then means ours.
            Self::CoresLess(less) => cores.saturating_sub(less).clamp(1, u64::from(WORKERS_MAX)),
        };
        match u16::try_from(got) {
            Ok(count @ 1..=WORKERS_MAX) => Ok(count),
            _ => Err(ConfigError::Workers { got }),
        }
    }
}

impl FromStr for Workers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{text}` is no number of workers; write 1 to {WORKERS_MAX}, max, or -N for all cores but N"
            )
        };
        match text.trim() {
            "max" | "0" => Ok(Self::MAX),
            text => match text.strip_prefix('-') {
                Some(less) => Ok(Self::CoresLess(less.parse().map_err(|_| wrong())?)),
                None => match text.parse() {
                    Ok(count) if count <= u64::from(WORKERS_MAX) => Ok(Self::Exactly(count)),
                    _ => Err(wrong()),
                },
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_counted() {
        for (text, cores, workers) in [
            ("max", 8, 8),
            ("0", 8, 8),
            ("3", 8, 3),
            ("16", 8, 16),
            ("-1", 8, 7),
            ("-8", 8, 1),
            ("-99", 8, 1),
            ("max", 5000, 1024),
        ] {
            let parsed: Workers = text.parse().expect(text);
            assert_eq!(parsed.resolve(cores), Ok(workers), "{text} of {cores}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "many", "1.5", "-", "--1", "1025", "+-1"] {
            assert!(text.parse::<Workers>().is_err(), "{text}");
        }
    }
}
