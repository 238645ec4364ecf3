//! How far the stream has been read, and what was gone before it was.
//!
//! Redis counts all entries that were ever added to a stream and those it still has. Where the
//! reader is among them is known whenever it has read the last one; from there it counts itself. So
//! what was trimmed before it was read is told by a difference.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The id of an entry: when it was added, and which in that millisecond.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EntryId {
    millis: u64,
    sequence: u64,
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.millis, self.sequence)
    }
}

impl FromStr for EntryId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (millis, sequence) = text.split_once('-').unwrap_or((text, "0"));
        Ok(Self { millis: millis.parse()?, sequence: sequence.parse()? })
    }
}

/// What Redis says of a stream; all at zero: there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamInfo {
    /// The last id that was given.
    pub last: EntryId,
    /// Entries it has.
    pub length: u64,
    /// Entries that were ever added; Redis counts them since version 7.
    pub added: Option<u64>,
}

/// See the module's text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The last entry that was read.
    pub last: EntryId,
    /// Which entry of all that were ever added it is, from 1.
    index: u64,
}

impl Position {
    /// Behind everything there is.
    #[must_use]
    pub fn end(info: &StreamInfo) -> Self {
        Self { last: info.last, index: info.added.unwrap_or(0) }
    }

    /// One more has been read.
    pub const fn read(&mut self, id: EntryId) {
        self.last = id;
        self.index = self.index.saturating_add(1);
    }

    /// Compares with what Redis says, when all that it had at an earlier moment has been read. Gives
    /// the entries that were trimmed before.
    pub fn settle(&mut self, info: &StreamInfo) -> u64 {
        if info.last < self.last {
            // Another Redis, which has not got as far: what follows there comes behind what it has.
            *self = Self::end(info);
            return 0;
        }
        let Some(added) = info.added else { return 0 };
        let gone = if info.last == self.last { added } else { added.saturating_sub(info.length) };
        let missed = gone.saturating_sub(self.index);
        if info.last == self.last || missed > 0 {
            self.index = gone;
        }
        missed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(millis: u64) -> EntryId {
        EntryId { millis, sequence: 0 }
    }

    #[test]
    fn ids_are_read_as_they_are_written_and_are_in_order() {
        let id: EntryId = "1700000000000-12".parse().expect("an id");
        assert_eq!(id.to_string(), "1700000000000-12");
        assert!("1700000000000-9".parse::<EntryId>().expect("an id") < id);
        "x-1".parse::<EntryId>().expect_err("no id");
    }

    #[test]
    fn what_was_trimmed_is_told_by_the_difference() {
        let info = |last, length, added| StreamInfo { last: id(last), length, added: Some(added) };
        let mut position = Position::end(&info(10, 5, 10));
        position.read(id(11));
        assert_eq!(position.settle(&info(11, 6, 11)), 0);
        // Twenty more, of which the last five are there.
        assert_eq!(position.settle(&info(31, 5, 31)), 15);
        // They are counted once.
        assert_eq!(position.settle(&info(31, 5, 31)), 0);
        for at in 27..=31 {
            position.read(id(at));
        }
        assert_eq!(position.settle(&info(31, 5, 31)), 0);
        // Trimmed between two replies, and all of the rest read.
        position.read(id(40));
        assert_eq!(position.settle(&info(40, 1, 40)), 8);
        // The count of another Redis.
        assert_eq!(position.settle(&info(3, 3, 3)), 0);
        assert_eq!(position, Position::end(&info(3, 3, 3)));
        // An old one, which does not count.
        let old = StreamInfo { last: id(9), length: 1, added: None };
        assert_eq!(position.settle(&old), 0);
    }
}
