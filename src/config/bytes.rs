//! Amounts of memory as PM2's users write them.

/// Bytes, or a number of `K`, `M` or `G` (of 1,024): `314572800`, `300M`, `1.5G`.
pub fn bytes(text: &str) -> Result<u64, String> {
    read(text).ok_or_else(|| {
        format!(
            "`{text}` is no amount of memory; write bytes (314572800) or a unit (300M; K, M, G)"
        )
    })
}

fn read(text: &str) -> Option<u64> {
    let text = text.trim();
    let (number, unit) = match text.as_bytes().last()?.to_ascii_uppercase() {
        b'K' => (&text[..text.len() - 1], 1 << 10),
        b'M' => (&text[..text.len() - 1], 1 << 20),
        b'G' => (&text[..text.len() - 1], 1_u64 << 30),
        _ => (text, 1),
    };
    let (whole, part) = number.split_once('.').map_or((number, ""), |(whole, part)| (whole, part));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    // A fraction of a byte means nothing, and more than three digits are no amount of anything.
    if whole.is_empty() || !digits(whole) || !digits(part) || part.len() > 3 {
        return None;
    }
    if number.contains('.') && (part.is_empty() || unit == 1) {
        return None;
    }
    let thousandths = u64::from(format!("{part:0<3}").parse::<u32>().ok()?);
    let whole = whole.parse::<u64>().ok()?.checked_mul(unit)?;
    whole.checked_add(unit / 1000 * thousandths + unit % 1000 * thousandths / 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts() {
        for (text, amount) in [
            ("0", 0),
            ("1024", 1024),
            ("1k", 1024),
            ("300M", 300 << 20),
            (" 2G ", 2 << 30),
            ("1.5G", 3 << 29),
            ("0.5K", 512),
        ] {
            assert_eq!(bytes(text), Ok(amount), "{text}");
        }
        for text in ["", "M", "300MB", "-1", "1.5", ".5G", "1.G", "1e9", "18446744073709551615K"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }
}
