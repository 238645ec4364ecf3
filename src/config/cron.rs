//! `--cron-restart`: a cron pattern, in local time.

use std::fmt;
use std::str::FromStr;

use croner::Cron;
use croner::parser::{CronParser, Seconds};
use jiff::Zoned;

/// Five fields, or six with seconds in front, as PM2 takes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CronPattern(Cron);

impl CronPattern {
    /// The first time after this one that it means; `None`: there is none.
    #[must_use]
    pub fn next(&self, after: &Zoned) -> Option<Zoned> {
        self.0.find_next_occurrence(after, false).ok()
    }
}

impl FromStr for CronPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parser = CronParser::builder().seconds(Seconds::Optional).build();
        parser.parse(text).map(Self).map_err(|error| {
            format!("`{text}` is no cron pattern: {error}; write five fields (0 4 * * *)")
        })
    }
}

impl fmt::Display for CronPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(pattern: &str, after: &str) -> Option<String> {
        let pattern: CronPattern = pattern.parse().expect("a pattern");
        let after: Zoned = after.parse().expect("a time");
        pattern.next(&after).map(|next| next.to_string())
    }

    #[test]
    fn the_next_time_is_a_local_one_and_never_now() {
        let next = |pattern, after| next(pattern, after).expect("there is one");
        assert_eq!(
            next("0 4 * * *", "2026-11-23T04:00+00:00[+00:00]"),
            "2026-11-24T04:00:00+00:00[UTC]"
        );
        assert_eq!(
            next("*/2 * * * * *", "2026-11-23T04:00:01+00:00[+00:00]"),
            "2026-11-23T04:00:02+00:00[UTC]"
        );
    }

    #[test]
    fn what_is_no_pattern_says_so() {
        for text in ["", "at noon", "61 * * * *", "* * *"] {
            let error = text.parse::<CronPattern>().expect_err(text);
            assert!(error.contains("cron pattern"), "{error}");
        }
    }
}
