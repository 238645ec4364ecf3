//! JSON as [`Value`]s: as `JSON.stringify` writes and `JSON.parse` reads, on the bus and on the
//! channels of workers that speak it.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::value::{Budget, MAX_DEPTH, Pairs, Untranslatable, Value, integer, number};
use crate::ipc::json::mend;

/// Reads a text.
///
/// # Errors
/// It is no JSON, or more than is passed on.
pub fn read(text: &[u8]) -> Result<Value<'_>, Untranslatable> {
    match strict(text) {
        // Half a surrogate pair is no JSON for the strict, and yet JavaScript writes it.
        Err(Untranslatable::Unreadable) => strict(&mend(text)).map(into_owned),
        read => read,
    }
}

fn strict(text: &[u8]) -> Result<Value<'_>, Untranslatable> {
    let mut budget = Budget::full();
    let mut why = Untranslatable::Unreadable;
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let seed = Seed { budget: &mut budget, why: &mut why, depth: 0 };
    let read = seed.deserialize(&mut deserializer).and_then(|value| {
        deserializer.end()?;
        Ok(value)
    });
    read.map_err(|_| why)
}

fn into_owned(value: Value<'_>) -> Value<'static> {
    match value {
        Value::Undefined => Value::Undefined,
        Value::Null => Value::Null,
        Value::Bool(bool) => Value::Bool(bool),
        Value::Number(number) => Value::Number(number),
        Value::Date(millis) => Value::Date(millis),
        Value::Text(text) => Value::Text(text.into_owned().into()),
        Value::Binary(bytes) => Value::Binary(bytes.into_owned().into()),
        Value::List(list) => Value::List(list.into_iter().map(into_owned).collect()),
        Value::Object(pairs) => Value::Object(
            pairs
                .into_iter()
                .map(|(key, value)| (Cow::Owned(key.into_owned()), into_owned(value)))
                .collect(),
        ),
    }
}

struct Seed<'s> {
    budget: &'s mut Budget,
    why: &'s mut Untranslatable,
    depth: usize,
}

impl Seed<'_> {
    fn within(&mut self) -> Seed<'_> {
        let depth = self.depth.saturating_add(1);
        Seed { budget: &mut *self.budget, why: &mut *self.why, depth }
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value<'de>, D::Error> {
        let spent = match self.depth {
            0..=MAX_DEPTH => self.budget.spend(),
            _ => Err(Untranslatable::TooDeep),
        };
        spent.map_err(|why| {
            *self.why = why;
            D::Error::custom(why)
        })?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<Value<'de>, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, bool: bool) -> Result<Value<'de>, E> {
        Ok(Value::Bool(bool))
    }

    fn visit_i64<E>(self, int: i64) -> Result<Value<'de>, E> {
        Ok(Value::Number(number(int)))
    }

    #[expect(clippy::cast_precision_loss, reason = "it is a JavaScript number there anyway")]
    fn visit_u64<E>(self, int: u64) -> Result<Value<'de>, E> {
        Ok(Value::Number(int as f64))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value<'de>, E> {
        Ok(Value::Number(number))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Value<'de>, E> {
        Ok(Value::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value<'de>, E> {
        Ok(Value::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<Value<'de>, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = seq.next_element_seed(self.within())? {
            list.push(item);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Value<'de>, A::Error> {
        let mut pairs = Pairs::new();
        while let Some(key) = map.next_key_seed(Key)? {
            pairs.push((key, map.next_value_seed(self.within())?));
        }
        Ok(Value::object(pairs))
    }
}

struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Key {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(text.to_owned()))
    }
}

/// The text of a value. What has no form in JSON is null, or, in an object, left out.
#[must_use]
pub fn write(value: &Value<'_>) -> Vec<u8> {
    let mut text = Vec::new();
    write_value(&mut text, value);
    text
}

fn write_value(text: &mut Vec<u8>, value: &Value<'_>) {
    match value {
        Value::Undefined | Value::Null => text.extend(b"null"),
        Value::Bool(true) => text.extend(b"true"),
        Value::Bool(false) => text.extend(b"false"),
        Value::Number(number) => write_number(text, *number),
        Value::Text(string) => write_text(text, string),
        Value::Date(millis) => match iso(*millis) {
            Some(iso) => write_text(text, &iso),
            None => text.extend(b"null"),
        },
        Value::Binary(bytes) => {
            // As a Buffer says of itself.
            text.extend(b"{\"type\":\"Buffer\",\"data\":[");
            for (at, byte) in bytes.iter().enumerate() {
                comma(text, at);
                text.extend(byte.to_string().as_bytes());
            }
            text.extend(b"]}");
        }
        Value::List(list) => {
            text.push(b'[');
            for (at, item) in list.iter().enumerate() {
                comma(text, at);
                write_value(text, item);
            }
            text.push(b']');
        }
        Value::Object(pairs) => {
            text.push(b'{');
            let said = pairs.iter().filter(|(_, value)| *value != Value::Undefined);
            for (at, (key, value)) in said.enumerate() {
                comma(text, at);
                write_text(text, key);
                text.push(b':');
                write_value(text, value);
            }
            text.push(b'}');
        }
    }
}

fn comma(text: &mut Vec<u8>, at: usize) {
    if at > 0 {
        text.push(b',');
    }
}

fn write_text(text: &mut Vec<u8>, string: &str) {
    // Writing to memory has no way to fail.
    text.extend(serde_json::to_vec(string).unwrap_or_default());
}

fn write_number(text: &mut Vec<u8>, number: f64) {
    // Where JavaScript begins to write an exponent.
    const SMALL: f64 = 1e-6;
    const LARGE: f64 = 1e21;
    if number == 0.0 {
        text.push(b'0'); // -0, too.
    } else if !number.is_finite() {
        text.extend(b"null");
    } else if (SMALL..LARGE).contains(&number.abs()) {
        text.extend(number.to_string().as_bytes());
    } else {
        let written = format!("{number:e}");
        let written = if number.abs() < 1.0 { written } else { written.replace('e', "e+") };
        text.extend(written.as_bytes());
    }
}

/// What `toISOString` makes of a time; `None` beyond what a Date can hold.
fn iso(millis: f64) -> Option<String> {
    const LAST: f64 = 8.64e15;
    if !millis.is_finite() || millis.abs() > LAST {
        return None;
    }
    let millis = integer(millis.trunc())?;
    let (days, rest) = (millis.div_euclid(86_400_000), millis.rem_euclid(86_400_000));
    let (year, month, day) = civil(days);
    let year = match year {
        0..=9999 => format!("{year:04}"),
        _ if year < 0 => format!("-{:06}", year.unsigned_abs()),
        _ => format!("+{year:06}"),
    };
    let (hour, minute) = (rest / 3_600_000, rest / 60_000 % 60);
    let (second, milli) = (rest / 1000 % 60, rest % 1000);
    Some(format!("{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z"))
}

/// Year, month and day of a day that is counted from 1970: years begin in March here, so that the day
/// that is sometimes there is the last.
fn civil(days: i64) -> (i64, i64, i64) {
    const DAYS_IN_400_YEARS: i64 = 146_097;
    const FROM_YEAR_0: i64 = 719_468;
    let days = days.saturating_add(FROM_YEAR_0);
    let (era, day) = (days.div_euclid(DAYS_IN_400_YEARS), days.rem_euclid(DAYS_IN_400_YEARS));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let date = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (year + era * 400 + next, month, date)
}

#[cfg(test)]
mod tests {
    use super::super::value::testing::Any;
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        bolero::check!().with_type::<Any>().for_each(|any| {
            let value = any.value();
            let text = write(&value);
            let again = read(&text).expect("it was just written");
            assert_eq!(write(&again), text);
            if !value.has_binary() && !matches!(value, Value::Date(_)) {
                assert_eq!(again, value);
            }
        });
    }

    #[test]
    fn values_are_written_as_stringify_does() {
        let object = |pairs: &[(&'static str, Value<'static>)]| {
            Value::Object(pairs.iter().map(|(key, value)| ((*key).into(), value.clone())).collect())
        };
        for (value, text) in [
            (Value::Undefined, "null"),
            (Value::Number(-0.0), "0"),
            (Value::Number(f64::NAN), "null"),
            (Value::Number(f64::NEG_INFINITY), "null"),
            (Value::Number(1e21), "1e+21"),
            (Value::Number(0.1), "0.1"),
            (Value::Number(4e9), "4000000000"),
            (Value::List(vec![Value::Undefined, 1.into()]), "[null,1]"),
            (object(&[("a", Value::Undefined), ("b", Value::Null)]), r#"{"b":null}"#),
            (Value::from("a\"\u{7}€"), "\"a\\\"\\u0007€\""),
            (Value::Binary(vec![1, 255].into()), r#"{"type":"Buffer","data":[1,255]}"#),
        ] {
            assert_eq!(String::from_utf8_lossy(&write(&value)), text);
        }
    }

    #[test]
    fn times_are_written_as_javascript_does() {
        for (millis, text) in [
            (0.0, "1970-01-01T00:00:00.000Z"),
            (-1.0, "1969-12-31T23:59:59.999Z"),
            (951_782_400_000.0, "2000-02-29T00:00:00.000Z"),
            (1_790_000_000_123.9, "2026-09-21T14:13:20.123Z"),
            (253_402_300_800_000.0, "+010000-01-01T00:00:00.000Z"),
            (-62_198_755_200_000.0, "-000001-01-01T00:00:00.000Z"),
            (8.64e15, "+275760-09-13T00:00:00.000Z"),
        ] {
            assert_eq!(iso(millis).as_deref(), Some(text));
        }
        assert_eq!((iso(f64::NAN), iso(8.64e15 + 1.0)), (None, None));
    }

    #[test]
    fn what_is_no_json_or_too_much_is_refused() {
        for text in ["", "{", "{}{}", "nul", "{\"a\":}", "[1,]", "\u{2}{}"] {
            assert_eq!(read(text.as_bytes()), Err(Untranslatable::Unreadable), "{text}");
        }
        let deep = ["[".repeat(110), "]".repeat(110)].concat();
        assert_eq!(read(deep.as_bytes()), Err(Untranslatable::TooDeep));
        let endless = "[".repeat(1 << 20);
        assert_eq!(read(endless.as_bytes()), Err(Untranslatable::TooDeep));
        let many = format!("[{}1]", "1,".repeat(super::super::value::MAX_VALUES));
        assert_eq!(read(many.as_bytes()), Err(Untranslatable::TooMany));
        let half = read(br#"["\ud800"]"#);
        assert_eq!(half, Ok(Value::List(vec!["\u{fffd}".into()])));
        let twice = read(br#"{"a":1,"b":2,"a":3}"#).expect("JavaScript takes it");
        assert_eq!(String::from_utf8_lossy(&write(&twice)), r#"{"a":3,"b":2}"#);
    }

    #[test]
    fn any_bytes_are_survived() {
        bolero::check!().with_type::<Vec<u8>>().for_each(|bytes| {
            let _any = read(bytes);
        });
    }
}
