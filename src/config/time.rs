//! Durations as operators write them. PM2's options count milliseconds; ours count seconds.

use std::time::Duration;

/// The longest duration anybody may ask for: a day and then some would only hide a typing error.
const DURATION_MAX: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// PM2's durations: `1600`, `"1600"`, `"3s"`, `"2.5s"`, `"1m"`, `"1h"`, `"500ms"`.
pub fn milliseconds(text: &str) -> Result<Duration, String> {
    read(text, 0.001).ok_or_else(|| {
        format!("`{text}` is no duration; write milliseconds (1600) or a unit (500ms, 3s, 1m, 1h)")
    })
}

/// Seconds, with fractions: `10`, `0.5`; a unit may be added.
pub fn seconds(text: &str) -> Result<Duration, String> {
    read(text, 1.0).ok_or_else(|| {
        format!("`{text}` is no duration; write seconds (10, 0.5) or a unit (500ms, 3s, 1m)")
    })
}

/// `unit` is what a number without a unit counts, in seconds.
fn read(text: &str, unit: f64) -> Option<Duration> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let unit = match suffix.trim() {
        "" => unit,
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return None,
    };
    let duration = Duration::try_from_secs_f64(number.parse::<f64>().ok()? * unit).ok()?;
    // f64 carries 1.6 s as 1.6000000000000001; nobody asks for nanoseconds here.
    let micros = u64::try_from((duration.as_nanos() + 500) / 1000).ok()?;
    Some(Duration::from_micros(micros)).filter(|duration| *duration <= DURATION_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read() {
        for (text, ms) in
            [("1600", 1600), ("0", 0), ("3s", 3000), ("2.5s", 2500), ("1m", 60_000), ("500ms", 500)]
        {
            assert_eq!(milliseconds(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for (text, ms) in [("10", 10_000), ("0.5", 500), ("250ms", 250), (" 1 s", 1000)] {
            assert_eq!(seconds(text), Ok(Duration::from_millis(ms)), "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "s", "-1", "1d", "1.2.3", "inf", "NaN", "1e9", "99999h", "."] {
            assert!(milliseconds(text).is_err(), "{text}");
            assert!(seconds(text).is_err(), "{text}");
        }
    }
}
