//! `--log-date-format`: how a time is written before a line, in the letters that PM2's users know
//! from Moment.js and Day.js.

use std::fmt::Write;
use std::str::FromStr;

use jiff::Zoned;

/// A pattern, read once and written often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DateFormat(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(String),
    Token(Token),
}

macro_rules! tokens {
    ($($name:ident => $text:literal,)+) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        enum Token { $($name,)+ }

        /// As they are written.
        const TOKENS: &[(&str, Token)] = &[$(($text, Token::$name),)+];
    };
}

tokens! {
    Year => "YYYY",
    YearOfTwo => "YY",
    MonthOfTwo => "MM",
    Month => "M",
    DayOfTwo => "DD",
    Day => "D",
    HourOfTwo => "HH",
    Hour => "H",
    HourOfTwelveOfTwo => "hh",
    HourOfTwelve => "h",
    MinuteOfTwo => "mm",
    Minute => "m",
    SecondOfTwo => "ss",
    Second => "s",
    Milliseconds => "SSS",
    Hundredths => "SS",
    Tenths => "S",
    Meridiem => "A",
    SmallMeridiem => "a",
    Offset => "Z",
    BareOffset => "ZZ",
    UnixSeconds => "X",
    UnixMilliseconds => "x",
}

/// What stands between a date and a time in ISO 8601: the one letter that stands for itself.
const ISO_T: char = 'T';

impl DateFormat {
    /// `--time`: `2026-11-23T04:00:00`.
    #[must_use]
    pub fn iso() -> Self {
        use Token::{DayOfTwo, HourOfTwo, MinuteOfTwo, MonthOfTwo, SecondOfTwo, Year};
        let literal = |text: &str| Part::Literal(text.to_owned());
        let [dash, colon] = ["-", ":"].map(literal);
        let token = Part::Token;
        Self(vec![
            token(Year),
            dash.clone(),
            token(MonthOfTwo),
            dash,
            token(DayOfTwo),
            literal("T"),
            token(HourOfTwo),
            colon.clone(),
            token(MinuteOfTwo),
            colon,
            token(SecondOfTwo),
        ])
    }

    /// The time in this pattern, in the time's own zone.
    #[must_use]
    pub fn write(&self, time: &Zoned) -> String {
        let mut text = String::new();
        for part in &self.0 {
            match part {
                Part::Literal(literal) => text.push_str(literal),
                // To a string nothing fails.
                Part::Token(token) => drop(token.write(time, &mut text)),
            }
        }
        text
    }
}

impl Token {
    fn write(self, time: &Zoned, to: &mut String) -> std::fmt::Result {
        let twelve = match time.hour() % 12 {
            0 => 12,
            hour => hour,
        };
        let meridiem = if time.hour() < 12 { "AM" } else { "PM" };
        match self {
            Self::Year => write!(to, "{:04}", time.year()),
            Self::YearOfTwo => write!(to, "{:02}", time.year().rem_euclid(100)),
            Self::MonthOfTwo => write!(to, "{:02}", time.month()),
            Self::Month => write!(to, "{}", time.month()),
            Self::DayOfTwo => write!(to, "{:02}", time.day()),
            Self::Day => write!(to, "{}", time.day()),
            Self::HourOfTwo => write!(to, "{:02}", time.hour()),
            Self::Hour => write!(to, "{}", time.hour()),
            Self::HourOfTwelveOfTwo => write!(to, "{twelve:02}"),
            Self::HourOfTwelve => write!(to, "{twelve}"),
            Self::MinuteOfTwo => write!(to, "{:02}", time.minute()),
            Self::Minute => write!(to, "{}", time.minute()),
            Self::SecondOfTwo => write!(to, "{:02}", time.second()),
            Self::Second => write!(to, "{}", time.second()),
            Self::Milliseconds => write!(to, "{:03}", time.millisecond()),
            Self::Hundredths => write!(to, "{:02}", time.millisecond() / 10),
            Self::Tenths => write!(to, "{}", time.millisecond() / 100),
            Self::Meridiem => to.write_str(meridiem),
            Self::SmallMeridiem => to.write_str(&meridiem.to_lowercase()),
            Self::Offset => offset(time, ":", to),
            Self::BareOffset => offset(time, "", to),
            Self::UnixSeconds => write!(to, "{}", time.timestamp().as_second()),
            Self::UnixMilliseconds => write!(to, "{}", time.timestamp().as_millisecond()),
        }
    }
}

fn offset(time: &Zoned, between: &str, to: &mut String) -> std::fmt::Result {
    let seconds = time.offset().seconds();
    let (sign, minutes) = (if seconds < 0 { '-' } else { '+' }, seconds.abs() / 60);
    write!(to, "{sign}{:02}{between}{:02}", minutes / 60, minutes % 60)
}

impl FromStr for DateFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let (part, length) = if first == '[' {
                let Some(end) = rest.find(']') else {
                    return Err(format!("`{text}` is no date format: a `[` has no `]`"));
                };
                (Part::Literal(rest[1..end].to_owned()), end + 1)
            } else if first.is_ascii_alphabetic() {
                // What belongs together is the same letter: YYYYMMDD is three tokens.
                let length = rest.find(|letter| letter != first).unwrap_or(rest.len());
                let run = &rest[..length];
                let known = TOKENS.iter().find(|(name, _)| *name == run);
                let part = match known {
                    Some((_, token)) => Part::Token(*token),
                    None if run.len() == 1 && first == ISO_T => Part::Literal(run.to_owned()),
                    None => return Err(unknown(text, run)),
                };
                (part, length)
            } else {
                let ends = |letter: char| letter == '[' || letter.is_ascii_alphabetic();
                let length = rest.find(ends).unwrap_or(rest.len());
                (Part::Literal(rest[..length].to_owned()), length)
            };
            parts.push(part);
            rest = &rest[length..];
        }
        if parts.is_empty() || text.contains('\n') {
            return Err("a date format is one line and not empty".to_owned());
        }
        Ok(Self(parts))
    }
}

fn unknown(text: &str, run: &str) -> String {
    let known: Vec<&str> = TOKENS.iter().map(|(name, _)| *name).collect();
    format!(
        "`{text}` is no date format: `{run}` stands for nothing; write {}, or [{run}] for the \
         letters themselves",
        known.join(" ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(format: &str, time: &str) -> String {
        let format: DateFormat = format.parse().expect(format);
        format.write(&time.parse().expect(time))
    }

    #[test]
    fn every_token_is_written_as_moment_does() {
        const TIME: &str = "2026-03-04T15:06:07.089-03:30[-03:30]";
        for (format, text) in [
            ("YYYY YY MM M DD D", "2026 26 03 3 04 4"),
            ("HH H hh h mm m ss s", "15 15 03 3 06 6 07 7"),
            ("SSS SS S A a", "089 08 0 PM pm"),
            ("Z ZZ X x", "-03:30 -0330 1772649367 1772649367089"),
            ("YYYYMMDD-HHmmss", "20260304-150607"),
            ("[Y] YYYY [at T] HH[h]", "Y 2026 at T 15h"),
            ("YYYY-MM-DDTHH:mm:ss", "2026-03-04T15:06:07"),
            ("D.M. — H", "4.3. — 15"),
        ] {
            assert_eq!(written(format, TIME), text, "{format}");
        }
        assert_eq!(written("h A hh Z", "2026-01-01T00:00:00+00:00[UTC]"), "12 AM 12 +00:00");
    }

    #[test]
    fn time_is_its_own_pattern() {
        assert_eq!("YYYY-MM-DDTHH:mm:ss".parse(), Ok(DateFormat::iso()));
    }

    #[test]
    fn what_stands_for_nothing_is_named() {
        for (format, named) in [
            ("YYYY-MMM", "`MMM`"),
            ("HH at mm", "`t`"),
            ("yyyy", "`yyyy`"),
            ("SSSS", "`SSSS`"),
            ("TT", "`TT`"),
            ("[YYYY", "has no `]`"),
            ("", "not empty"),
            ("YYYY\n", "one line"),
        ] {
            let error = format.parse::<DateFormat>().expect_err(format);
            assert!(error.contains(named), "{format}: {error}");
        }
    }
}
