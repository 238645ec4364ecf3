//! Test help: values as a Node worker sends them, written by other code than the router's own.

use super::Serialization;

/// Frames are quoted as Node wrote them.
pub(super) fn unhex(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

/// A JavaScript value.
#[derive(Debug, Clone, bolero::TypeGenerator)]
pub(super) enum Js {
    Undefined,
    Null,
    Bool(bool),
    Int(i32),
    Double(f64),
    Text(String),
    Buffer(Vec<u8>),
    Array(Vec<Leaf>),
    Object(Vec<(String, Leaf)>),
}

/// A value in a value: enough nesting for any message of Node's.
#[derive(Debug, Clone, bolero::TypeGenerator)]
pub(super) enum Leaf {
    Undefined,
    Int(i32),
    Text(String),
    Buffer(Vec<u8>),
}

impl From<&Leaf> for Js {
    fn from(leaf: &Leaf) -> Self {
        match leaf {
            Leaf::Undefined => Self::Undefined,
            Leaf::Int(int) => Self::Int(*int),
            Leaf::Text(text) => Self::Text(text.clone()),
            Leaf::Buffer(bytes) => Self::Buffer(bytes.clone()),
        }
    }
}

impl From<&str> for Js {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<i32> for Js {
    fn from(int: i32) -> Self {
        Self::Int(int)
    }
}

impl From<bool> for Js {
    fn from(bool: bool) -> Self {
        Self::Bool(bool)
    }
}

/// `process.send` of an object: the frame.
pub(super) fn send(serialization: Serialization, pairs: &[(&str, Js)]) -> Vec<u8> {
    match serialization {
        Serialization::Advanced => {
            let mut payload = vec![0xff, 0x0f];
            object(&mut payload, pairs.iter().map(|(key, value)| (*key, value.clone())));
            let length = u32::try_from(payload.len()).unwrap();
            [&length.to_be_bytes()[..], &payload].concat()
        }
        Serialization::Json => {
            let members: Vec<String> = pairs
                .iter()
                .filter_map(|(key, value)| Some(format!("{}:{}", quote(key), stringify(value)?)))
                .collect();
            format!("{{{}}}\n", members.join(",")).into_bytes()
        }
    }
}

fn object(out: &mut Vec<u8>, pairs: impl ExactSizeIterator<Item = (impl AsRef<str>, Js)>) {
    let count = pairs.len();
    out.push(b'o');
    for (key, value) in pairs {
        text(out, key.as_ref());
        write(out, &value);
    }
    out.push(b'{');
    varint(out, count);
}

fn write(out: &mut Vec<u8>, value: &Js) {
    match value {
        Js::Undefined => out.push(b'_'),
        Js::Null => out.push(b'0'),
        Js::Bool(bool) => out.push(if *bool { b'T' } else { b'F' }),
        Js::Int(int) => {
            out.push(b'I');
            varint(out, usize::try_from(((int << 1) ^ (int >> 31)).cast_unsigned()).unwrap());
        }
        Js::Double(number) => {
            out.push(b'N');
            out.extend(number.to_le_bytes());
        }
        Js::Text(string) => text(out, string),
        Js::Buffer(bytes) => {
            out.extend(b"\\\0\x0a");
            varint(out, bytes.len());
            out.extend(bytes);
        }
        Js::Array(values) => {
            out.push(b'A');
            varint(out, values.len());
            values.iter().for_each(|value| write(out, &value.into()));
            out.extend(b"$\0");
            varint(out, values.len());
        }
        Js::Object(pairs) => object(out, pairs.iter().map(|(key, value)| (key, value.into()))),
    }
}

fn text(out: &mut Vec<u8>, text: &str) {
    if text.chars().all(|c| c <= 'ÿ') {
        out.push(b'"');
        varint(out, text.chars().count());
        out.extend(text.chars().map(|c| u8::try_from(c).unwrap()));
        return;
    }
    let units: Vec<u16> = text.encode_utf16().collect();
    let mut length = Vec::new();
    varint(&mut length, 2 * units.len());
    if (out.len() + 1 + length.len()) % 2 == 1 {
        out.push(0);
    }
    out.push(b'c');
    out.extend(length);
    out.extend(units.into_iter().flat_map(u16::to_le_bytes));
}

fn varint(out: &mut Vec<u8>, mut value: usize) {
    while value > 0x7f {
        out.push(u8::try_from(value & 0x7f).unwrap() | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).unwrap());
}

/// `JSON.stringify`.
fn stringify(value: &Js) -> Option<String> {
    let list = |bytes: &[u8]| bytes.iter().map(u8::to_string).collect::<Vec<_>>().join(",");
    Some(match value {
        Js::Undefined => return None,
        Js::Double(number) if !number.is_finite() => "null".to_owned(),
        Js::Null => "null".to_owned(),
        Js::Bool(bool) => bool.to_string(),
        Js::Int(int) => int.to_string(),
        Js::Double(number) => number.to_string(),
        Js::Text(text) => quote(text),
        Js::Buffer(bytes) => format!(r#"{{"type":"Buffer","data":[{}]}}"#, list(bytes)),
        Js::Array(values) => {
            let values =
                values.iter().map(|v| stringify(&v.into()).unwrap_or_else(|| "null".to_owned()));
            format!("[{}]", values.collect::<Vec<_>>().join(","))
        }
        Js::Object(pairs) => {
            let members = pairs
                .iter()
                .filter_map(|(k, v)| Some(format!("{}:{}", quote(k), stringify(&v.into())?)));
            format!("{{{}}}", members.collect::<Vec<_>>().join(","))
        }
    })
}

fn quote(text: &str) -> String {
    serde_json::to_string(text).unwrap()
}
