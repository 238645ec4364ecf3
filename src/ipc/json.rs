//! JSON lines: a reader that keeps the outermost keys of a value, and a writer.
//!
//! Owns the mapping between a line and the room's values; the grammar is serde_json's. It refuses
//! to build what lies deeper: nested values are passed over without memory and without recursion.

use std::borrow::Cow;
use std::fmt;

use memchr::memchr;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};

use super::value::{Fields, Scalar, Text, Top, Value};

/// What a line says at the top; None when it cannot be read.
pub(super) fn read(line: &[u8]) -> Option<Top<'_>> {
    serde_json::from_slice(line).ok()
}

/// The line with every lone surrogate escaped in it, and every byte that is not UTF-8, as U+FFFD.
///
/// JavaScript takes such strings and Node writes them, so a line must not be lost to one. But they are
/// rare, and the grammar refuses them at once: only then is the line mended and read again.
pub(super) fn mend(line: &[u8]) -> Vec<u8> {
    let mut mended = String::from_utf8_lossy(line).into_owned().into_bytes();
    let mut rest = &mut mended[..];
    while let Some(at) = memchr(b'\\', rest) {
        let (_, escape) = std::mem::take(&mut rest).split_at_mut(at);
        let length = match (surrogate(escape), escape.get(ESCAPE..).and_then(surrogate)) {
            (Some(Half::High), Some(Half::Low)) => ESCAPE.saturating_mul(2),
            (Some(_), _) => {
                if let Some(lone) = escape.first_chunk_mut() {
                    *lone = REPLACEMENT;
                }
                ESCAPE
            }
            // Whatever is escaped, it escapes nothing itself.
            (None, _) => 2,
        };
        rest = escape.get_mut(length..).unwrap_or_default();
    }
    mended
}

/// Bytes of an escape in hex digits.
const ESCAPE: usize = REPLACEMENT.len();
const REPLACEMENT: [u8; 6] = *b"\\ufffd";

enum Half {
    High,
    Low,
}

/// The half of a character that an escape at the start of `bytes` stands for.
fn surrogate(bytes: &[u8]) -> Option<Half> {
    match bytes {
        [b'\\', b'u', b'd' | b'D', b'8' | b'9' | b'a' | b'b' | b'A' | b'B', ..] => Some(Half::High),
        [b'\\', b'u', b'd' | b'D', b'c'..=b'f' | b'C'..=b'F', ..] => Some(Half::Low),
        _ => None,
    }
}

/// A whole line, with its LF.
pub(super) fn write(value: &Value<'_>) -> Vec<u8> {
    // Writing strings and numbers to memory has no way to fail.
    let mut line = serde_json::to_vec(value).unwrap_or_default();
    line.push(b'\n');
    line
}

impl<'de> Deserialize<'de> for Top<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TopVisitor)
    }
}

struct TopVisitor;

impl<'de> Visitor<'de> for TopVisitor {
    type Value = Top<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<Top<'de>, E> {
        Ok(Top::Opaque)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Top<'de>, E> {
        Ok(Top::Opaque)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Top<'de>, E> {
        Ok(Top::Opaque)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Top<'de>, E> {
        Ok(Top::Opaque)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Top<'de>, E> {
        Ok(Top::Opaque)
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Top<'de>, E> {
        Ok(Top::Text(Text::Utf8(Cow::Borrowed(text))))
    }

    fn visit_str<E>(self, text: &str) -> Result<Top<'de>, E> {
        Ok(Top::Text(Text::Utf8(Cow::Owned(text.to_owned()))))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Top<'de>, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Top::Opaque)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Top<'de>, A::Error> {
        let mut fields = Box::<Fields<'_>>::default();
        while let Some((key, value)) = map.next_entry::<Scalar<'_>, Scalar<'_>>()? {
            if let Scalar::Text(key) = key {
                fields.set(&key, value);
            }
        }
        Ok(Top::Object(fields))
    }
}

impl<'de> Deserialize<'de> for Scalar<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarVisitor)
    }
}

struct ScalarVisitor;

impl<'de> Visitor<'de> for ScalarVisitor {
    type Value = Scalar<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Absent)
    }

    fn visit_bool<E>(self, bool: bool) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Bool(bool))
    }

    fn visit_i64<E>(self, int: i64) -> Result<Scalar<'de>, E> {
        Ok(Scalar::integer(int))
    }

    fn visit_u64<E>(self, int: u64) -> Result<Scalar<'de>, E> {
        Ok(i64::try_from(int).map_or(Scalar::Opaque, Scalar::integer))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Scalar<'de>, E> {
        Ok(Scalar::number(number))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Text(Text::Utf8(Cow::Borrowed(text))))
    }

    fn visit_str<E>(self, text: &str) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Text(Text::Utf8(Cow::Owned(text.to_owned()))))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Scalar<'de>, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Scalar::Opaque)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Scalar<'de>, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Scalar::Opaque)
    }
}

impl Serialize for Value<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Value::Null => serializer.serialize_unit(),
            Value::Int(int) => serializer.serialize_i64(*int),
            Value::Text(text) => serializer.serialize_str(text),
            Value::Object(pairs) => {
                let mut map = serializer.serialize_map(Some(pairs.len()))?;
                for (key, value) in *pairs {
                    map.serialize_entry(key, value)?;
                }
                map.end()
            }
        }
    }
}
