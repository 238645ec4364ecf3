//! The little of a message that is ever looked at, and the little that is ever written.
//!
//! Owns the common ground of the two serializations: what their readers fill in ([`Top`], [`Fields`])
//! and what their writers take ([`Value`]). It refuses nesting on the way in: only the keys of
//! the outermost object mean anything to the router, and only when their values are scalars.

use std::borrow::Cow;

/// A message, as far as it is read.
#[derive(Debug, PartialEq)]
pub(super) enum Top<'a> {
    Text(Text<'a>),
    Object(Box<Fields<'a>>),
    /// Any other value: a number, an array, a Map, null.
    Opaque,
}

/// The value of one key.
#[derive(Debug, Default, PartialEq, Clone)]
pub(super) enum Scalar<'a> {
    /// No such key, or null, or undefined.
    #[default]
    Absent,
    Bool(bool),
    /// A number without a fraction, within the 53 bits that JavaScript keeps exact.
    Int(i64),
    Text(Text<'a>),
    /// Anything else.
    Opaque,
}

/// A string as it lies in the frame; decoded only once it is known to matter.
#[derive(Debug, PartialEq, Clone)]
pub(crate) enum Text<'a> {
    Latin1(&'a [u8]),
    Utf16(&'a [u8]),
    Utf8(Cow<'a, str>),
}

impl<'a> Scalar<'a> {
    /// A JavaScript number.
    pub(super) fn number(number: f64) -> Self {
        const EXACT: f64 = 9_007_199_254_740_992.0;
        if number.fract() == 0.0 && number.abs() <= EXACT {
            #[expect(clippy::cast_possible_truncation, reason = "checked on the line above")]
            return Self::Int(number as i64);
        }
        Self::Opaque
    }

    /// An integer as the frame has it.
    pub(super) fn integer(int: i64) -> Self {
        const EXACT: u64 = 1 << 53;
        if int.unsigned_abs() <= EXACT { Self::Int(int) } else { Self::Opaque }
    }

    pub(super) fn int(&self) -> Option<i64> {
        match self {
            Self::Int(int) => Some(*int),
            _ => None,
        }
    }

    pub(super) fn text(&self) -> Option<&Text<'a>> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn string(&self) -> Option<String> {
        self.text().map(|text| text.to_str().into_owned())
    }

    pub(super) fn is(&self, word: &str) -> bool {
        self.text().is_some_and(|text| text.is(word))
    }
}

impl<'a> Text<'a> {
    /// As [`Self::to_str`], for longer.
    pub(crate) fn into_str(self) -> Cow<'a, str> {
        match self {
            Self::Latin1(bytes) if bytes.is_ascii() => String::from_utf8_lossy(bytes),
            Self::Utf8(text) => text,
            other => Cow::Owned(other.to_str().into_owned()),
        }
    }
}

impl Text<'_> {
    /// The string in UTF-8; a lone surrogate becomes U+FFFD, as Node's own UTF-8 encoder has it.
    pub(crate) fn to_str(&self) -> Cow<'_, str> {
        match self {
            Self::Latin1(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) if bytes.is_ascii() => Cow::Borrowed(text),
                _ => Cow::Owned(bytes.iter().copied().map(char::from).collect()),
            },
            Self::Utf16(bytes) => Cow::Owned(
                char::decode_utf16(units(bytes))
                    .map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER))
                    .collect(),
            ),
            Self::Utf8(text) => Cow::Borrowed(text),
        }
    }

    /// One byte for each character; `None` if one of them needs more.
    pub(super) fn bytes(&self) -> Option<Cow<'_, [u8]>> {
        match self {
            Self::Latin1(bytes) => Some(Cow::Borrowed(bytes)),
            Self::Utf16(bytes) => units(bytes).map(|unit| u8::try_from(unit).ok()).collect(),
            Self::Utf8(text) => text.chars().map(|c| u8::try_from(c).ok()).collect(),
        }
    }

    /// Whether it is `word`, which is ASCII. Decides without decoding.
    pub(super) fn is(&self, word: &str) -> bool {
        match self {
            Self::Latin1(bytes) => *bytes == word.as_bytes(),
            Self::Utf16(bytes) => units(bytes).eq(word.encode_utf16()),
            Self::Utf8(text) => text == word,
        }
    }

    pub(super) fn starts_with(&self, word: &str) -> bool {
        match self {
            Self::Latin1(bytes) => bytes.starts_with(word.as_bytes()),
            Self::Utf16(bytes) => bytes
                .get(..word.len().saturating_mul(2))
                .is_some_and(|head| Text::Utf16(head).is(word)),
            Self::Utf8(text) => text.starts_with(word),
        }
    }
}

fn units(bytes: &[u8]) -> impl Iterator<Item = u16> + '_ {
    bytes.as_chunks::<2>().0.iter().map(|unit| u16::from_le_bytes(*unit))
}

/// The keys of the outermost object that mean something to the router, whatever the message.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Fields<'a> {
    pub(super) ack: Scalar<'a>,
    pub(super) accepted: Scalar<'a>,
    pub(super) act: Scalar<'a>,
    pub(super) address: Scalar<'a>,
    pub(super) address_type: Scalar<'a>,
    pub(super) backlog: Scalar<'a>,
    pub(super) cmd: Scalar<'a>,
    pub(super) data: Scalar<'a>,
    pub(super) fd: Scalar<'a>,
    pub(super) flags: Scalar<'a>,
    pub(super) index: Scalar<'a>,
    pub(super) key: Scalar<'a>,
    pub(super) kind: Scalar<'a>,
    pub(super) msg: Scalar<'a>,
    pub(super) nsp: Scalar<'a>,
    pub(super) port: Scalar<'a>,
    pub(super) requester: Scalar<'a>,
    pub(super) seq: Scalar<'a>,
    pub(super) source: Scalar<'a>,
    pub(super) uid: Scalar<'a>,
}

impl<'a> Fields<'a> {
    /// Sets the value of `key`, if it is one that is kept. The last of several equal keys counts.
    pub(super) fn set(&mut self, key: &Text<'_>, value: Scalar<'a>) {
        let key = match key {
            Text::Latin1(bytes) => bytes,
            Text::Utf8(text) => text.as_bytes(),
            // Neither Node nor any other writer makes two bytes out of ASCII.
            Text::Utf16(_) => return,
        };
        let field = match key {
            b"ack" => &mut self.ack,
            b"accepted" => &mut self.accepted,
            b"act" => &mut self.act,
            b"address" => &mut self.address,
            b"addressType" => &mut self.address_type,
            b"backlog" => &mut self.backlog,
            b"cmd" => &mut self.cmd,
            b"data" => &mut self.data,
            b"fd" => &mut self.fd,
            b"flags" => &mut self.flags,
            b"index" => &mut self.index,
            b"key" => &mut self.key,
            b"type" => &mut self.kind,
            b"msg" => &mut self.msg,
            b"nsp" => &mut self.nsp,
            b"port" => &mut self.port,
            b"requesterUid" => &mut self.requester,
            b"seq" => &mut self.seq,
            b"source" => &mut self.source,
            b"uid" => &mut self.uid,
            _ => return,
        };
        *field = value;
    }
}

/// A message to be written: shapes are data, so that both serializations write the same one.
#[derive(Debug, PartialEq, Clone, Copy)]
pub(super) enum Value<'a> {
    Null,
    Int(i64),
    Text(&'a str),
    /// Keys in the order in which they are written.
    Object(&'a [(&'a str, Self)]),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_any_width_compare_and_decode_alike() {
        let wide: Vec<u8> = "NODE_x".encode_utf16().flat_map(u16::to_le_bytes).collect();
        for text in [Text::Latin1(b"NODE_x"), Text::Utf16(&wide), Text::Utf8("NODE_x".into())] {
            assert!(text.is("NODE_x") && !text.is("NODE_") && !text.is("NODE_xy"));
            assert!(text.starts_with("NODE_") && !text.starts_with("NODE_xy"));
            assert_eq!(text.to_str(), "NODE_x");
        }
        assert_eq!(Text::Latin1(b"\xe9").to_str(), "é");
        // Two bytes that happen to be UTF-8 are two characters all the same.
        assert_eq!(Text::Latin1(b"\xc3\xa9").to_str(), "Ã©");
        assert_eq!(Text::Utf16(&[0x00, 0xd8, 0xac, 0x20]).to_str(), "\u{fffd}€");
    }

    #[test]
    fn numbers_are_integers_when_they_say_so() {
        assert_eq!(Scalar::number(4e9), Scalar::Int(4_000_000_000));
        assert_eq!(Scalar::number(-0.0), Scalar::Int(0));
        for number in [1.5, f64::NAN, f64::INFINITY, 1e300] {
            assert_eq!(Scalar::number(number), Scalar::Opaque);
        }
    }
}
