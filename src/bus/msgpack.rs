//! MessagePack as [`Value`]s: byte for byte as `@msgpack/msgpack` writes it, and all that it reads.

use std::borrow::Cow;

use super::value::{Budget, MAX_DEPTH, Pairs, Untranslatable, Value, integer, number};

/// The extension that times are written in.
const TIMESTAMP: i8 = -1;

/// Reads one value, to the last byte.
///
/// # Errors
/// It is no MessagePack, or more than is passed on.
pub fn read(bytes: &[u8]) -> Result<Value<'_>, Untranslatable> {
    let mut reader = Reader { rest: bytes, budget: Budget::full() };
    let value = reader.value(0)?;
    reader.rest.is_empty().then_some(value).ok_or(Untranslatable::Unreadable)
}

struct Reader<'a> {
    rest: &'a [u8],
    budget: Budget,
}

type Read<'a> = Result<Value<'a>, Untranslatable>;

impl<'a> Reader<'a> {
    fn value(&mut self, depth: usize) -> Read<'a> {
        self.budget.spend()?;
        if depth > MAX_DEPTH {
            return Err(Untranslatable::TooDeep);
        }
        let [head] = self.array()?;
        Ok(match head {
            0x00..=0x7f => Value::Number(head.into()),
            0x80..=0x8f => return self.map(usize::from(head & 0x0f), depth),
            0x90..=0x9f => return self.list(usize::from(head & 0x0f), depth),
            0xa0..=0xbf => Value::Text(self.text(usize::from(head & 0x1f))?),
            0xc0 => Value::Null,
            0xc2 => Value::Bool(false),
            0xc3 => Value::Bool(true),
            0xc4..=0xc6 => {
                let length = self.length(head - 0xc4)?;
                Value::Binary(self.bytes(length)?.into())
            }
            0xc7..=0xc9 => {
                let length = self.length(head - 0xc7)?;
                return self.extension(length);
            }
            0xca => Value::Number(f32::from_be_bytes(self.array()?).into()),
            0xcb => Value::Number(f64::from_be_bytes(self.array()?)),
            0xcc => Value::Number(u8::from_be_bytes(self.array()?).into()),
            0xcd => Value::Number(u16::from_be_bytes(self.array()?).into()),
            0xce => Value::Number(u32::from_be_bytes(self.array()?).into()),
            #[expect(clippy::cast_precision_loss, reason = "JavaScript reads a number, too")]
            0xcf => Value::Number(u64::from_be_bytes(self.array()?) as f64),
            0xd0 => Value::Number(i8::from_be_bytes(self.array()?).into()),
            0xd1 => Value::Number(i16::from_be_bytes(self.array()?).into()),
            0xd2 => Value::Number(i32::from_be_bytes(self.array()?).into()),
            0xd3 => Value::Number(number(i64::from_be_bytes(self.array()?))),
            0xd4..=0xd8 => return self.extension(1 << (head - 0xd4)),
            0xd9..=0xdb => {
                let length = self.length(head - 0xd9)?;
                Value::Text(self.text(length)?)
            }
            0xdc | 0xdd => {
                let length = self.length(head - 0xdc + 1)?;
                return self.list(length, depth);
            }
            0xde | 0xdf => {
                let length = self.length(head - 0xde + 1)?;
                return self.map(length, depth);
            }
            0xe0..=0xff => Value::Number(head.cast_signed().into()),
            0xc1 => return Err(Untranslatable::Unreadable),
        })
    }

    /// A length of 1, 2 or 4 bytes.
    fn length(&mut self, width: u8) -> Result<usize, Untranslatable> {
        Ok(match width {
            0 => usize::from(u8::from_be_bytes(self.array()?)),
            1 => usize::from(u16::from_be_bytes(self.array()?)),
            _ => usize::try_from(u32::from_be_bytes(self.array()?))
                .map_err(|_| Untranslatable::Unreadable)?,
        })
    }

    fn list(&mut self, length: usize, depth: usize) -> Read<'a> {
        let mut list = Vec::new();
        for _ in 0..length {
            list.push(self.value(depth.saturating_add(1))?);
        }
        Ok(Value::List(list))
    }

    fn map(&mut self, length: usize, depth: usize) -> Read<'a> {
        let mut pairs = Pairs::new();
        for _ in 0..length {
            let key = match self.value(depth.saturating_add(1))? {
                Value::Text(text) if text != "__proto__" => text,
                Value::Number(number) => match integer(number) {
                    Some(integer) => Cow::Owned(integer.to_string()),
                    None => return Err(Untranslatable::Unreadable),
                },
                _ => return Err(Untranslatable::Unreadable),
            };
            pairs.push((key, self.value(depth.saturating_add(1))?));
        }
        Ok(Value::object(pairs))
    }

    fn extension(&mut self, length: usize) -> Read<'a> {
        let [kind] = self.array()?;
        let bytes = self.bytes(length)?;
        if kind.cast_signed() == TIMESTAMP {
            return time(bytes).map(Value::Date).ok_or(Untranslatable::Unreadable);
        }
        // What the official adapter's reader makes of one that it does not know.
        let data = Value::Binary(bytes.into());
        let kind = Value::from(i32::from(kind.cast_signed()));
        Ok(Value::Object(vec![("type".into(), kind), ("data".into(), data)]))
    }

    fn text(&mut self, length: usize) -> Result<Cow<'a, str>, Untranslatable> {
        Ok(String::from_utf8_lossy(self.bytes(length)?))
    }

    fn bytes(&mut self, length: usize) -> Result<&'a [u8], Untranslatable> {
        let split = self.rest.split_at_checked(length);
        let (bytes, rest) = split.ok_or(Untranslatable::Unreadable)?;
        self.rest = rest;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Untranslatable> {
        let (array, rest) = self.rest.split_first_chunk().ok_or(Untranslatable::Unreadable)?;
        self.rest = rest;
        Ok(*array)
    }
}

/// The milliseconds that a timestamp of any of its three forms stands for.
fn time(bytes: &[u8]) -> Option<f64> {
    let (seconds, nanos) = match bytes.len() {
        4 => (i64::from(u32::from_be_bytes(bytes.try_into().ok()?)), 0),
        8 => {
            let both = u64::from_be_bytes(bytes.try_into().ok()?);
            let nanos = u32::try_from(both >> 34).ok()?;
            (i64::try_from(both & 0x3_ffff_ffff).ok()?, nanos)
        }
        12 => {
            let (nanos, seconds) = bytes.split_first_chunk()?;
            (i64::from_be_bytes(seconds.try_into().ok()?), u32::from_be_bytes(*nanos))
        }
        _ => return None,
    };
    Some(number(seconds) * 1e3 + f64::from(nanos) / 1e6)
}

/// The bytes of a value. `None`: it is longer than MessagePack can say.
#[must_use]
pub fn write(value: &Value<'_>) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    write_value(&mut bytes, value)?;
    Some(bytes)
}

fn write_value(bytes: &mut Vec<u8>, value: &Value<'_>) -> Option<()> {
    match value {
        Value::Undefined | Value::Null => bytes.push(0xc0),
        Value::Bool(false) => bytes.push(0xc2),
        Value::Bool(true) => bytes.push(0xc3),
        Value::Number(number) => write_number(bytes, *number),
        Value::Text(text) => write_text(bytes, text)?,
        Value::Date(millis) => write_time(bytes, *millis),
        Value::Binary(binary) => {
            head(bytes, binary.len(), None, [Some(0xc4), Some(0xc5), Some(0xc6)])?;
            bytes.extend_from_slice(binary);
        }
        Value::List(list) => {
            head(bytes, list.len(), Some((0x90, 16)), [None, Some(0xdc), Some(0xdd)])?;
            for item in list {
                write_value(bytes, item)?;
            }
        }
        Value::Object(pairs) => {
            head(bytes, pairs.len(), Some((0x80, 16)), [None, Some(0xde), Some(0xdf)])?;
            for (key, value) in pairs {
                write_text(bytes, key)?;
                write_value(bytes, value)?;
            }
        }
    }
    Some(())
}

fn write_text(bytes: &mut Vec<u8>, text: &str) -> Option<()> {
    head(bytes, text.len(), Some((0xa0, 32)), [Some(0xd9), Some(0xda), Some(0xdb)])?;
    bytes.extend_from_slice(text.as_bytes());
    Some(())
}

/// A length, in the shortest of the forms that there are: in the head itself, or in 1, 2, 4 bytes.
fn head(
    bytes: &mut Vec<u8>,
    length: usize,
    short: Option<(u8, usize)>,
    [one, two, four]: [Option<u8>; 3],
) -> Option<()> {
    if let Some((head, _)) = short.filter(|(_, below)| length < *below) {
        bytes.push(head | u8::try_from(length).ok()?);
    } else if let (Some(head), Ok(length)) = (one, u8::try_from(length)) {
        bytes.extend([head, length]);
    } else if let (Some(head), Ok(length)) = (two, u16::try_from(length)) {
        bytes.push(head);
        bytes.extend(length.to_be_bytes());
    } else {
        bytes.push(four?);
        bytes.extend(u32::try_from(length).ok()?.to_be_bytes());
    }
    Some(())
}

fn write_number(bytes: &mut Vec<u8>, number: f64) {
    let Some(integer) = integer(number) else {
        bytes.push(0xcb);
        return bytes.extend(number.to_be_bytes());
    };
    if let Ok(byte) = u8::try_from(integer) {
        if byte >= 0x80 {
            bytes.push(0xcc);
        }
        bytes.push(byte);
    } else if let Ok(short) = u16::try_from(integer) {
        bytes.push(0xcd);
        bytes.extend(short.to_be_bytes());
    } else if let Ok(word) = u32::try_from(integer) {
        bytes.push(0xce);
        bytes.extend(word.to_be_bytes());
    } else if let Ok(long) = u64::try_from(integer) {
        bytes.push(0xcf);
        bytes.extend(long.to_be_bytes());
    } else if let Ok(byte) = i8::try_from(integer) {
        if byte < -0x20 {
            bytes.push(0xd0);
        }
        bytes.push(byte.cast_unsigned());
    } else if let Ok(short) = i16::try_from(integer) {
        bytes.push(0xd1);
        bytes.extend(short.to_be_bytes());
    } else if let Ok(word) = i32::try_from(integer) {
        bytes.push(0xd2);
        bytes.extend(word.to_be_bytes());
    } else {
        bytes.push(0xd3);
        bytes.extend(integer.to_be_bytes());
    }
}

fn write_time(bytes: &mut Vec<u8>, millis: f64) {
    const SECONDS_34_BITS: i64 = (1 << 34) - 1;
    // A Date that is none is no time at all; the official writer makes of it what happens to be there.
    let Some(millis) = integer(millis.trunc()) else { return bytes.push(0xc0) };
    let (seconds, rest) = (millis.div_euclid(1000), millis.rem_euclid(1000));
    let nanos = rest.saturating_mul(1_000_000);
    match (u32::try_from(seconds), nanos) {
        (Ok(seconds), 0) => {
            bytes.extend([0xd6, TIMESTAMP.cast_unsigned()]);
            bytes.extend(seconds.to_be_bytes());
        }
        _ if (0..=SECONDS_34_BITS).contains(&seconds) => {
            bytes.extend([0xd7, TIMESTAMP.cast_unsigned()]);
            bytes.extend(((nanos << 34) | seconds).to_be_bytes());
        }
        _ => {
            bytes.extend([0xc7, 12, TIMESTAMP.cast_unsigned()]);
            // Less than a billion.
            bytes.extend(u32::try_from(nanos).unwrap_or(0).to_be_bytes());
            bytes.extend(seconds.to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::value::testing::Any;
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        bolero::check!().with_type::<Any>().for_each(|any| {
            let value = any.value();
            let bytes = write(&value).expect("short");
            assert_eq!(read(&bytes), Ok(value));
        });
    }

    #[test]
    fn lengths_have_every_form() {
        for length in [0, 15, 16, 31, 32, 255, 256, 65_535, 65_536] {
            let text = Value::Text("x".repeat(length).into());
            let binary = Value::Binary(vec![7; length].into());
            let list = Value::List(vec![Value::Null; length]);
            let keys = (0..length).map(|n| (Cow::from(n.to_string()), Value::Bool(true)));
            for value in [text, binary, list, Value::Object(keys.collect())] {
                assert_eq!(read(&write(&value).expect("short")), Ok(value));
            }
        }
    }

    #[test]
    fn what_is_no_messagepack_or_too_much_is_refused() {
        for bytes in [
            &b""[..],
            b"\xc1",
            b"\x92\x01",
            b"\xd9\x05abc",
            b"\xdd\xff\xff\xff\xff",
            b"\x01\x01",
            b"\x81\xc0\x01",
            b"\x81\xa9__proto__\x01",
            b"\xd4\xff\x00",
        ] {
            assert_eq!(read(bytes), Err(Untranslatable::Unreadable), "{bytes:?}");
        }
        assert_eq!(read(&[0x91; 1 << 20]), Err(Untranslatable::TooDeep));
        let many = [&b"\xdd\x7f\xff\xff\xff"[..], &vec![0xc0; 2 << 20]].concat();
        assert_eq!(read(&many), Err(Untranslatable::TooMany));
        let unknown = read(b"\xd4\x05\x07").expect("a value of the reader's own");
        assert_eq!(unknown.get("type").integer(), Some(5));
    }

    #[test]
    fn any_bytes_are_survived() {
        bolero::check!().with_type::<Vec<u8>>().for_each(|bytes| {
            let _any = read(bytes);
        });
    }
}
