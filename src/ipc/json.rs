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
pub(crate) fn mend(line: &[u8]) -> Vec<u8> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(line: &[u8]) -> Option<Box<Fields<'_>>> {
        match read(line) {
            Some(Top::Object(fields)) => Some(fields),
            _ => None,
        }
    }

    #[test]
    fn values_at_the_top() {
        for line in ["null\n", "true\n", "1\n", "-1\n", "1.5\n", "[1,{\"a\":[]}]\n", "1e300\n"] {
            assert_eq!(read(line.as_bytes()), Some(Top::Opaque), "{line}");
        }
        for line in ["\"ready\"\n", "\"r\\u0065ady\"\n", " \"ready\" \r\n", "\"ready\""] {
            let Some(Top::Text(text)) = read(line.as_bytes()) else { panic!("{line}") };
            assert!(text.is("ready"), "{line}");
        }
        for line in ["", "\n", "{", "{}{}\n", "{\"a\":}\n", "{a:1}\n", "nul\n", "\"a\n", "\x02{}\n"]
        {
            assert_eq!(read(line.as_bytes()), None, "{line}");
        }
    }

    #[test]
    fn values_of_keys() {
        let cases = [
            ("null", Scalar::Absent),
            ("true", Scalar::Bool(true)),
            ("0", Scalar::Int(0)),
            ("-0", Scalar::Int(0)),
            ("1e3", Scalar::Int(1000)),
            ("9007199254740992", Scalar::Int(1 << 53)),
            ("9007199254740994", Scalar::Opaque),
            ("18446744073709551615", Scalar::Opaque),
            ("123456789012345678901234567890", Scalar::Opaque),
            ("1.5", Scalar::Opaque),
            ("[[],{\"seq\":1}]", Scalar::Opaque),
            ("{\"seq\":{\"seq\":1}}", Scalar::Opaque),
            ("\"a\\\"b\"", Scalar::Text(Text::Utf8("a\"b".into()))),
            ("\"\\ud83d\\ude00\"", Scalar::Text(Text::Utf8("😀".into()))),
        ];
        for (value, expected) in cases {
            let line = format!("{{\"x\":{value},\"seq\":{value},\"y\":[{value}]}}\n");
            assert_eq!(fields(line.as_bytes()).unwrap().seq, expected, "{value}");
        }
        assert_eq!(fields(b"{\"seq\":1,\"s\\u0065q\":2}").unwrap().seq, Scalar::Int(2));
        assert_eq!(fields(b"{}\n"), Some(Box::default()));
    }

    #[test]
    fn a_hostile_depth_costs_neither_stack_nor_time() {
        for open in ["[", "{\"a\":"] {
            let line = format!("{{\"x\":{}", open.repeat(1 << 20));
            assert_eq!(read(line.as_bytes()), None);
            assert_eq!(read(open.repeat(1 << 20).as_bytes()), None);
        }
        let (open, close) = ("[".repeat(1 << 20), "]".repeat(1 << 20));
        let line = format!("{{\"x\":{open}{close},\"seq\":1}}");
        assert_eq!(fields(line.as_bytes()).unwrap().seq, Scalar::Int(1));
    }

    #[test]
    fn lone_surrogates_are_mended_and_nothing_else() {
        let cases = [
            (r#"{"data":"\ud800"}"#, r#"{"data":"\ufffd"}"#),
            (r#"{"data":"\uDFFFx\ud800"}"#, r#"{"data":"\ufffdx\ufffd"}"#),
            (r#"{"data":"\ud800\ud83d\ude00"}"#, r#"{"data":"\ufffd\ud83d\ude00"}"#),
            (r#"{"data":"\ud83d\ude00\ude00"}"#, r#"{"data":"\ud83d\ude00\ufffd"}"#),
            (r#"{"data":"\\ud800"}"#, r#"{"data":"\\ud800"}"#),
            (r#"{"data":"\\\ud800"}"#, r#"{"data":"\\\ufffd"}"#),
            (r#"{"data":"\ud800\\ude00"}"#, r#"{"data":"\ufffd\\ude00"}"#),
            (r#"{"data":"\ud7ff\ue000\n"}"#, r#"{"data":"\ud7ff\ue000\n"}"#),
            (r#"{"\udc00":1}"#, r#"{"\ufffd":1}"#),
        ];
        for (line, expected) in cases {
            let mended = mend(line.as_bytes());
            assert_eq!(String::from_utf8_lossy(&mended), expected);
            assert!(fields(&mended).is_some(), "{expected}");
        }
        // A broken end is left to the reader to refuse.
        for line in [r"\", r"\u", r"\ud8", r"\ud800", r"\ud800\", r"\ud800\udc", r"\udc0"] {
            assert_eq!(read(&mend(format!("{{\"data\":\"{line}").as_bytes())), None);
        }
        assert_eq!(mend(b"{\"data\":\"\xff\"}"), "{\"data\":\"\u{fffd}\"}".as_bytes());
    }

    #[test]
    fn what_is_written_is_read() {
        bolero::check!().with_type::<(i32, String)>().for_each(|(int, text)| {
            let inner = [("a", Value::Text(text))];
            let object = [
                ("cmd", Value::Text(text)),
                ("seq", Value::Int((*int).into())),
                ("ack", Value::Null),
                ("data", Value::Object(&inner)),
            ];
            let line = write(&Value::Object(&object));
            assert_eq!(memchr(b'\n', &line), Some(line.len() - 1));
            let fields = fields(&line).unwrap();
            assert_eq!(fields.cmd.string().as_ref(), Some(text));
            assert_eq!(fields.seq, Scalar::Int((*int).into()));
            assert_eq!((&fields.ack, &fields.data), (&Scalar::Absent, &Scalar::Opaque));
        });
    }

    #[test]
    fn any_bytes_are_survived() {
        const PARTS: &[&[u8]] = &[
            b"{",
            b"}",
            b"[",
            b"]",
            b",",
            b":",
            b"\"",
            b"\\",
            b"\\ud800",
            b"\\udc00",
            b"\"cmd\":",
            b"\"a\"",
            b"1",
            b"-",
            b"e",
            b".",
            b"null",
            b"\xff",
            b"\\u",
            b"\xe2\x82\xac",
        ];
        bolero::check!().with_type::<Vec<u8>>().for_each(|choices| {
            let assembled: Vec<u8> = choices
                .iter()
                .flat_map(|c| PARTS[usize::from(*c) % PARTS.len()])
                .copied()
                .collect();
            for line in [choices, &assembled] {
                let strict = read(line);
                let mended = mend(line);
                if strict.is_some() {
                    assert_eq!(read(&mended), strict);
                }
            }
        });
    }
}
