//! Base64, as Node writes it and reads it.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// The characters of some bytes, padded.
#[must_use]
pub fn encode(bytes: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(bytes.len().div_ceil(3).saturating_mul(4));
    for chunk in bytes.chunks(3) {
        let mut three = [0; 3];
        for (to, from) in three.iter_mut().zip(chunk) {
            *to = *from;
        }
        let [a, b, c] = three;
        let all = u32::from_be_bytes([0, a, b, c]);
        for (at, shift) in [18, 12, 6, 0].into_iter().enumerate() {
            let six = usize::try_from(all >> shift & 0x3f).unwrap_or_default();
            let character = ALPHABET.get(six).copied().unwrap_or(b'=');
            text.push(if at <= chunk.len() { character } else { b'=' });
        }
    }
    text
}

/// The bytes of a text; `None`: it is none. The other alphabet (`-`, `_`) and missing padding do.
#[must_use]
pub fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let end = text.iter().rposition(|c| *c != b'=').map_or(0, |last| last.saturating_add(1));
    let mut bytes = Vec::with_capacity(text.len().div_ceil(4).saturating_mul(3));
    for chunk in text.get(..end)?.chunks(4) {
        let mut all: u32 = 0;
        for at in 0..4 {
            let six = chunk.get(at).map_or(Some(0), |character| value(*character))?;
            all = all << 6 | u32::from(six);
        }
        let [_, three @ ..] = all.to_be_bytes();
        let whole = match chunk.len() {
            4 => 3,
            3 => 2,
            2 => 1,
            _ => return None,
        };
        bytes.extend(three.iter().take(whole));
    }
    Some(bytes)
}

const fn value(character: u8) -> Option<u8> {
    Some(match character {
        b'A'..=b'Z' => character - b'A',
        b'a'..=b'z' => character - b'a' + 26,
        b'0'..=b'9' => character - b'0' + 52,
        b'+' | b'-' => 62,
        b'/' | b'_' => 63,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_written_as_known_and_read_again() {
        for (bytes, text) in [
            (&b""[..], ""),
            (b"f", "Zg=="),
            (b"fo", "Zm8="),
            (b"foo", "Zm9v"),
            (b"foob", "Zm9vYg=="),
            (b"\xfb\xff\xfe", "+//+"),
        ] {
            assert_eq!(encode(bytes), text.as_bytes());
            assert_eq!(decode(text.trim_end_matches('=').as_bytes()).as_deref(), Some(bytes));
        }
        for no in [&b"A"[..], b"AAAAA", b"A A", b"\xff\xff"] {
            assert_eq!(decode(no), None);
        }
        bolero::check!().with_type::<Vec<u8>>().for_each(|bytes| {
            assert_eq!(decode(&encode(bytes)).as_ref(), Some(bytes));
            let _any = decode(bytes);
        });
    }
}
