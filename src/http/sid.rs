//! The session id in a request target.
//!
//! Owns the reading of the query string as Engine.IO reads it: `&` between pairs, the first key that
//! is literally `sid`, percent sequences and `+` decoded. It refuses every other key, headers and
//! cookies, and it never says an id is wrong: what nobody issued is simply unknown further on.

use std::borrow::Cow;

use memchr::{memchr, memchr2};

/// The value of the first `sid` key of the query of a request target; None when absent or EMPTY
/// (Engine.IO takes an empty id for none).
///
/// A malformed percent sequence is left as it is. Borrowed when there is nothing to decode, which
/// is every id that Engine.IO itself makes.
pub fn sid(target: &[u8]) -> Option<Cow<'_, [u8]>> {
    // A `?` inside the fragment starts no query.
    let target = before(target, b'#');
    let (_, mut query) = split_once(target, b'?')?;
    loop {
        match query.strip_prefix(b"sid") {
            Some([b'=', rest @ ..]) => {
                let value = before(rest, b'&');
                return (!value.is_empty()).then(|| decode(value));
            }
            Some([] | [b'&', ..]) => return None,
            _ => (_, query) = split_once(query, b'&')?,
        }
    }
}

fn before(bytes: &[u8], end: u8) -> &[u8] {
    memchr(end, bytes).and_then(|at| bytes.get(..at)).unwrap_or(bytes)
}

fn split_once(bytes: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let (head, rest) = bytes.split_at_checked(memchr(at, bytes)?)?;
    Some((head, rest.get(1..)?))
}

fn decode(value: &[u8]) -> Cow<'_, [u8]> {
    if memchr2(b'%', b'+', value).is_none() {
        return Cow::Borrowed(value);
    }
    let mut decoded = Vec::with_capacity(value.len());
    let mut rest = value;
    while let [first, tail @ ..] = rest {
        let (byte, after) = match (first, tail) {
            (b'+', _) => (b' ', tail),
            (b'%', [high, low, after @ ..]) => match (nibble(*high), nibble(*low)) {
                (Some(high), Some(low)) => ((high << 4) | low, after),
                _ => (b'%', tail),
            },
            (byte, _) => (*byte, tail),
        };
        decoded.push(byte);
        rest = after;
    }
    Cow::Owned(decoded)
}

fn nibble(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(target: &str) -> Option<String> {
        sid(target.as_bytes()).map(|id| String::from_utf8_lossy(&id).into_owned())
    }

    #[test]
    fn values() {
        let cases = [
            ("/", None),
            ("*", None),
            ("", None),
            ("/?", None),
            ("/?sid", None),
            ("/?sid=", None),
            ("/?sid&sid=b", None),
            ("/?sid=&sid=b", None),
            ("/?sid=a", Some("a")),
            ("/?sid=a&sid=b", Some("a")),
            (
                "/socket.io/?EIO=4&transport=polling&t=P1&sid=lv_VI97HAXpY6yYWAAAC",
                Some("lv_VI97HAXpY6yYWAAAC"),
            ),
            ("http://host/socket.io/?sid=a", Some("a")),
            ("/sid=a", None),
            ("/?xsid=a&sidx=b&SID=c", None),
            ("/?xsid=a&sid=d", Some("d")),
            ("/?s%69d=a", None),
            ("/?a=?sid=b", None),
            ("/?a=?&sid=b", Some("b")),
            ("/?sid=a#&sid=b", Some("a")),
            ("/?b=1#&sid=a", None),
            ("/#?sid=a", None),
            ("/?sid=a?b", Some("a?b")),
            ("/?sid=a=b", Some("a=b")),
            ("/?&&sid=a", Some("a")),
            ("/?sid=a;b", Some("a;b")),
            ("/?sid=%41+b%20", Some("A b ")),
            ("/?sid=%C3%a9", Some("é")),
            ("/?sid=%", Some("%")),
            ("/?sid=%4", Some("%4")),
            ("/?sid=%zz%41", Some("%zzA")),
            ("/?sid=%%41", Some("%A")),
            ("/?sid=%4%41", Some("%4A")),
            ("/?sid=%26", Some("&")),
            ("/?sid=%00", Some("\0")),
        ];
        for (target, expected) in cases {
            assert_eq!(text(target).as_deref(), expected, "{target}");
        }
    }

    #[test]
    fn borrows_what_needs_no_decoding() {
        assert!(matches!(sid(b"/?sid=abc-_"), Some(Cow::Borrowed(b"abc-_"))));
        assert!(matches!(sid(b"/?sid=a%62c"), Some(Cow::Owned(_))));
    }

    /// Says the same in as few words as possible.
    fn naive(target: &[u8]) -> Option<Vec<u8>> {
        let target = target.split(|&b| b == b'#').next().unwrap();
        let query = target.splitn(2, |&b| b == b'?').nth(1)?;
        let value = query.split(|&b| b == b'&').find_map(|pair| {
            let mut parts = pair.splitn(2, |&b| b == b'=');
            (parts.next() == Some(b"sid")).then(|| parts.next().unwrap_or(b""))
        })?;
        let mut decoded = Vec::new();
        let mut at = 0;
        while at < value.len() {
            let hex = value.get(at + 1..at + 3).filter(|hex| hex.iter().all(u8::is_ascii_hexdigit));
            match (value[at], hex) {
                (b'%', Some(hex)) => {
                    decoded
                        .push(u8::from_str_radix(std::str::from_utf8(hex).unwrap(), 16).unwrap());
                    at += 2;
                }
                (b'+', _) => decoded.push(b' '),
                (byte, _) => decoded.push(byte),
            }
            at += 1;
        }
        (!decoded.is_empty()).then_some(decoded)
    }

    #[test]
    fn agrees_with_its_naive_twin() {
        const PARTS: &[&[u8]] = &[
            b"?", b"&", b"=", b"#", b"%", b"+", b"sid", b"sid=", b"?sid=", b"&sid=", b"%41", b"a",
            b"4", b"%2", b"/", b"\xff",
        ];
        bolero::check!().with_type::<Vec<u8>>().for_each(|choices| {
            let assembled: Vec<u8> = choices
                .iter()
                .flat_map(|c| PARTS[usize::from(*c) % PARTS.len()])
                .copied()
                .collect();
            for target in [choices, &assembled] {
                assert_eq!(sid(target).map(Cow::into_owned), naive(target), "{target:?}");
            }
        });
    }
}
