//! What a load balancer says of the client before the client's own bytes: the PROXY protocol.
//!
//! Owns one decision, for version 1 (a line) and version 2 (binary) alike: where the header ends
//! and whose connection it is. A verdict other than [`Header::Incomplete`] never changes when more
//! bytes arrive. It is strict, because the header is believed: what two readers could take for two
//! different addresses is refused. It refuses to decide who may send one (that is the operator's
//! list of trusted peers), and to look past the header. The records after the addresses of version
//! 2 are skipped unread, its optional CRC32C among them: TCP has a checksum of its own, and the
//! sender is trusted or not read at all.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use memchr::memchr2;

/// The longest header of version 1, in bytes, its CR LF counted; the protocol's own bound.
pub const MAX_V1: usize = 107;

/// The longest header of version 2, in bytes from the signature to the last record, both counted.
///
/// The format would allow 65,551. What balancers send stays below 1,000, with a TLS client's
/// certificate name in it. Beyond it: [`Fault::TooLong`].
pub const MAX_V2: usize = 4096;

/// What the bytes received so far amount to.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Header {
    /// Not whole yet.
    Incomplete {
        /// A whole header has at least this many bytes, counted from the first: more than were
        /// given, and [`MAX_V2`] at most. A fault may be proved sooner.
        needed: usize,
    },
    /// A whole header.
    Complete {
        /// The header's bytes, to be taken off the connection; what follows is the client's.
        length: usize,
        /// The client. `None` where the sender names none: its own check of our health, or a
        /// client that has no TCP address. The connection's own peer is the client then.
        peer: Option<SocketAddr>,
    },
    /// Not a header this router believes, whatever follows.
    Fault(Fault),
}

/// Why a connection's first bytes are refused. Displays as a line for operator and client alike.
#[derive(Debug, PartialEq, Eq, Hash, Clone, Copy)]
pub enum Fault {
    /// They start no header.
    NotProxy,
    /// A header that breaks the format, or one for something other than a TCP connection.
    Malformed,
    /// Beyond [`MAX_V1`] or [`MAX_V2`].
    TooLong,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotProxy => f.write_str("no PROXY protocol header, and this port expects one"),
            Self::Malformed => f.write_str("malformed PROXY protocol header"),
            Self::TooLong => write!(
                f,
                "PROXY protocol header longer than {MAX_V1} (version 1) or {MAX_V2} bytes (version 2)"
            ),
        }
    }
}

/// Judges the first bytes of a connection that must begin with a header.
pub fn parse(bytes: &[u8]) -> Header {
    match bytes.first() {
        None => Header::Incomplete { needed: 1 },
        Some(b'P') => v1(bytes),
        Some(b'\r') => v2(bytes),
        Some(_) => Header::Fault(Fault::NotProxy),
    }
}

const MALFORMED: Header = Header::Fault(Fault::Malformed);

/// How a header of version 1 begins.
const V1_START: &[u8] = b"PROXY ";

/// `PROXY TCP4 192.0.2.1 192.0.2.2 4321 443` and CR LF.
fn v1(bytes: &[u8]) -> Header {
    let window = bytes.get(..MAX_V1).unwrap_or(bytes);
    let Some(rest) = window.strip_prefix(V1_START) else { return unless_begun(bytes, V1_START) };
    // A full window without a verdict will not get one.
    let more = || match window.len() {
        MAX_V1 => Header::Fault(Fault::TooLong),
        seen => Header::Incomplete { needed: seen.saturating_add(1) },
    };
    let Some((line, end)) = memchr2(b'\r', b'\n', rest).and_then(|at| rest.split_at_checked(at))
    else {
        return more();
    };
    match end {
        [b'\r', b'\n', ..] => match v1_peer(line) {
            Some(peer) => Header::Complete {
                length: V1_START.len().saturating_add(line.len()).saturating_add(2),
                peer,
            },
            None => MALFORMED,
        },
        [b'\r'] => more(),
        _ => MALFORMED,
    }
}

/// The client of a line; the outer `None` is a line that breaks the format.
fn v1_peer(line: &[u8]) -> Option<Option<SocketAddr>> {
    if let Some(rest) = line.strip_prefix(b"UNKNOWN") {
        // What the sender adds after it is to be ignored.
        return (rest.is_empty() || rest.starts_with(b" ")).then_some(None);
    }
    let mut words = std::str::from_utf8(line).ok()?.split(' ');
    let mut word = || words.next();
    let (family, source, target) = (word()?, word()?, word()?);
    let (source_port, _target_port) = (v1_port(word()?)?, v1_port(word()?)?);
    if word().is_some() {
        return None;
    }
    let source = match family {
        "TCP4" => same_family::<Ipv4Addr>(source, target)?,
        "TCP6" => same_family::<Ipv6Addr>(source, target)?,
        _ => return None,
    };
    Some(Some(SocketAddr::new(source, source_port)))
}

/// The first of two addresses of one family.
fn same_family<A: FromStr + Into<IpAddr>>(source: &str, target: &str) -> Option<IpAddr> {
    target.parse::<A>().ok()?;
    Some(source.parse::<A>().ok()?.into())
}

/// 0 to 65535, in the one way it can be written: no sign, no leading zero.
fn v1_port(word: &str) -> Option<u16> {
    let canonical =
        word.bytes().all(|byte| byte.is_ascii_digit()) && (word == "0" || !word.starts_with('0'));
    if canonical { word.parse().ok() } else { None }
}

/// How a header of version 2 begins: bytes that no text protocol starts with.
const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Signature, version and command, family and transport, length: what every header has, in bytes.
const V2_FIXED: usize = 16;

/// The signature and the four bytes that say what follows.
fn v2(bytes: &[u8]) -> Header {
    let Some(rest) = bytes.strip_prefix(V2_SIGNATURE) else {
        return unless_begun(bytes, V2_SIGNATURE);
    };
    let kind = match rest {
        [command, ..] if !matches!(*command, V2_LOCAL | V2_PROXY) => return MALFORMED,
        // The kind of a connection that the sender made for itself is to be ignored.
        [V2_LOCAL, _, ..] => Kind::Unnamed { least: 0 },
        [_, family, ..] => match Kind::of(*family) {
            Some(kind) => kind,
            None => return MALFORMED,
        },
        _ => return Header::Incomplete { needed: V2_FIXED },
    };
    let [_, _, high, low, body @ ..] = rest else {
        return Header::Incomplete { needed: V2_FIXED };
    };
    let body_length = usize::from(u16::from_be_bytes([*high, *low]));
    let length = V2_FIXED.saturating_add(body_length);
    if body_length < kind.least() {
        return MALFORMED;
    }
    if length > MAX_V2 {
        return Header::Fault(Fault::TooLong);
    }
    match body.get(..body_length) {
        Some(body) => Header::Complete { length, peer: kind.source(body) },
        None => Header::Incomplete { needed: length },
    }
}

/// Version 2, about a connection that the sender made for itself.
const V2_LOCAL: u8 = 0x20;
/// Version 2, about a client's connection.
const V2_PROXY: u8 = 0x21;

/// What the addresses of a header of version 2 are.
#[derive(Clone, Copy)]
enum Kind {
    Tcp4,
    Tcp6,
    /// No address of a TCP client, in at least so many bytes.
    Unnamed {
        least: usize,
    },
}

impl Kind {
    /// By the byte of family (high half) and transport (low half). Datagrams are not connections.
    const fn of(byte: u8) -> Option<Self> {
        match byte {
            0x00 => Some(Self::Unnamed { least: 0 }),
            0x11 => Some(Self::Tcp4),
            0x21 => Some(Self::Tcp6),
            // Two paths of 108 bytes.
            0x31 => Some(Self::Unnamed { least: 216 }),
            _ => None,
        }
    }

    /// How long its addresses and ports are, in bytes; records may follow.
    const fn least(self) -> usize {
        match self {
            Self::Tcp4 => 12,
            Self::Tcp6 => 36,
            Self::Unnamed { least } => least,
        }
    }

    /// Source address, target address, source port, target port, in network order.
    fn source(self, body: &[u8]) -> Option<SocketAddr> {
        match self {
            Self::Tcp4 => {
                let (source, rest) = body.split_first_chunk::<4>()?;
                let (_target, rest) = rest.split_first_chunk::<4>()?;
                let (port, _) = rest.split_first_chunk::<2>()?;
                Some(SocketAddr::from((*source, u16::from_be_bytes(*port))))
            }
            Self::Tcp6 => {
                let (source, rest) = body.split_first_chunk::<16>()?;
                let (_target, rest) = rest.split_first_chunk::<16>()?;
                let (port, _) = rest.split_first_chunk::<2>()?;
                Some(SocketAddr::from((*source, u16::from_be_bytes(*port))))
            }
            Self::Unnamed { .. } => None,
        }
    }
}

/// For bytes that are not (yet) a header with this beginning.
fn unless_begun(bytes: &[u8], start: &[u8]) -> Header {
    if start.starts_with(bytes) {
        // The shortest header of either version is longer than how it begins.
        Header::Incomplete { needed: start.len().saturating_add(1) }
    } else {
        Header::Fault(Fault::NotProxy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOT_PROXY: Header = Header::Fault(Fault::NotProxy);
    const TOO_LONG: Header = Header::Fault(Fault::TooLong);

    /// A header of version 2: command, family, and the bytes after the length.
    fn binary(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).expect("a test's own").to_be_bytes();
        [V2_SIGNATURE, &[command, family], &length, body].concat()
    }

    const TCP4: [u8; 12] = [192, 0, 2, 1, 192, 0, 2, 2, 0x10, 0xe1, 1, 0xbb];

    fn tcp6() -> Vec<u8> {
        let address = |last| Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last).octets();
        [&address(1)[..], &address(2), &[0x10, 0xe1, 1, 0xbb]].concat()
    }

    /// Whole headers of every kind, with the client each names.
    fn valid() -> Vec<(Vec<u8>, Option<&'static str>)> {
        let record = [4, 0, 5, 1, 2, 3, 4, 5];
        let longest = format!("PROXY UNKNOWN {}\r\n", "f".repeat(MAX_V1 - 16));
        let full_ipv6 = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
        let longest_tcp6 = format!("PROXY TCP6 {full_ipv6} {full_ipv6} 65535 65535\r\n");
        let lines: [(&str, Option<&str>); 8] = [
            ("PROXY TCP4 192.0.2.1 192.0.2.2 4321 443\r\n", Some("192.0.2.1:4321")),
            ("PROXY TCP4 0.0.0.0 255.255.255.255 0 65535\r\n", Some("0.0.0.0:0")),
            ("PROXY TCP6 2001:db8::1 2001:db8::2 4321 443\r\n", Some("[2001:db8::1]:4321")),
            ("PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n", Some("[::ffff:192.0.2.1]:1")),
            (&longest_tcp6, Some("[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535")),
            ("PROXY UNKNOWN\r\n", None),
            ("PROXY UNKNOWN anything \0 at all\r\n", None),
            (&longest, None),
        ];
        let binaries = [
            (binary(V2_PROXY, 0x11, &TCP4), Some("192.0.2.1:4321")),
            (binary(V2_PROXY, 0x11, &[&TCP4[..], &record].concat()), Some("192.0.2.1:4321")),
            (
                binary(V2_PROXY, 0x11, &[&TCP4[..], &[7; MAX_V2 - 28]].concat()),
                Some("192.0.2.1:4321"),
            ),
            (binary(V2_PROXY, 0x21, &tcp6()), Some("[2001:db8::1]:4321")),
            (binary(V2_PROXY, 0x21, &[&tcp6()[..], &record].concat()), Some("[2001:db8::1]:4321")),
            (binary(V2_PROXY, 0x00, &[]), None),
            (binary(V2_PROXY, 0x00, &record), None),
            (binary(V2_PROXY, 0x31, &[b'/'; 216]), None),
            (binary(V2_LOCAL, 0x00, &[]), None),
            (binary(V2_LOCAL, 0x11, &TCP4), None),
            // The family of a connection the sender made for itself is to be ignored.
            (binary(V2_LOCAL, 0xff, &[]), None),
        ];
        let lines = lines.into_iter().map(|(line, peer)| (line.as_bytes().to_vec(), peer));
        lines.chain(binaries).collect()
    }

    #[test]
    fn whole_headers_name_the_client_and_where_its_bytes_begin() {
        for (header, peer) in valid() {
            let peer = peer.map(|peer| peer.parse().expect("a test's own"));
            let expected = Header::Complete { length: header.len(), peer };
            let text = String::from_utf8_lossy(&header);
            assert_eq!(parse(&header), expected, "{text:?}");
            for after in [&b"GET / HTTP/1.1\r\n"[..], b"\r\n", b"PROXY ", b"\0"] {
                assert_eq!(parse(&[&header, after].concat()), expected, "{text:?} and {after:?}");
            }
        }
    }

    #[test]
    fn every_beginning_of_a_header_is_incomplete_and_says_a_bounded_need() {
        for (header, _) in valid() {
            for end in 0..header.len() {
                let Header::Incomplete { needed } = parse(&header[..end]) else {
                    panic!("{end} of {:?}", String::from_utf8_lossy(&header));
                };
                assert!(needed > end && needed <= header.len(), "{needed} at {end}");
            }
        }
    }

    #[test]
    fn one_line_of_version_1_has_one_meaning() {
        for line in [
            "PROXY TCP4 192.0.2.1 192.0.2.2 4321 443\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 4321 443\rX",
            "PROXY TCP4 192.0.2.1 192.0.2.2 4321\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 4321 443 \r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 4321 443 1\r\n",
            "PROXY TCP4  192.0.2.1 192.0.2.2 4321 443\r\n",
            "PROXY  TCP4 192.0.2.1 192.0.2.2 4321 443\r\n",
            "PROXY TCP4\t192.0.2.1 192.0.2.2 4321 443\r\n",
            "PROXY tcp4 192.0.2.1 192.0.2.2 4321 443\r\n",
            "PROXY TCP5 192.0.2.1 192.0.2.2 4321 443\r\n",
            "PROXY UDP4 192.0.2.1 192.0.2.2 4321 443\r\n",
            "PROXY TCP6 192.0.2.1 192.0.2.2 4321 443\r\n",
            "PROXY TCP4 2001:db8::1 2001:db8::2 4321 443\r\n",
            "PROXY TCP4 192.0.2.1 2001:db8::2 4321 443\r\n",
            "PROXY TCP4 192.0.2.01 192.0.2.2 4321 443\r\n",
            "PROXY TCP4 192.0.2.256 192.0.2.2 4321 443\r\n",
            "PROXY TCP4 3221225985 192.0.2.2 4321 443\r\n",
            "PROXY TCP6 fe80::1%eth0 ::1 4321 443\r\n",
            "PROXY TCP6 [::1] ::1 4321 443\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 04321 443\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 4321 00\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 +4321 443\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 -1 443\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 65536 443\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 99999999999 443\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 4321 \r\n",
            "PROXY UNKNOWNX\r\n",
            "PROXY \r\n",
            "PROXY é\r\n",
        ] {
            assert_eq!(parse(line.as_bytes()), MALFORMED, "{line:?}");
        }
    }

    #[test]
    fn version_2_is_refused_at_the_byte_that_proves_it_wrong() {
        let signature = |rest: &[u8]| [V2_SIGNATURE, rest].concat();
        for (bytes, fault) in [
            (signature(&[0x11]), MALFORMED),
            (signature(&[0x31]), MALFORMED),
            (signature(&[0x22]), MALFORMED),
            (signature(&[0x2f]), MALFORMED),
            // Datagrams, families nobody knows, and transports without a family.
            (signature(&[V2_PROXY, 0x12]), MALFORMED),
            (signature(&[V2_PROXY, 0x22]), MALFORMED),
            (signature(&[V2_PROXY, 0x32]), MALFORMED),
            (signature(&[V2_PROXY, 0x41]), MALFORMED),
            (signature(&[V2_PROXY, 0x10]), MALFORMED),
            (signature(&[V2_PROXY, 0x01]), MALFORMED),
            // Too short for the addresses of its family.
            (signature(&[V2_PROXY, 0x11, 0, 11]), MALFORMED),
            (signature(&[V2_PROXY, 0x21, 0, 35]), MALFORMED),
            (signature(&[V2_PROXY, 0x31, 0, 215]), MALFORMED),
            (signature(&[V2_PROXY, 0x11, 0xff, 0xff]), TOO_LONG),
            (signature(&[V2_LOCAL, 0x00, 0x10, 0x00]), TOO_LONG),
        ] {
            assert_eq!(parse(&bytes), fault, "{bytes:?}");
            let before = parse(&bytes[..bytes.len() - 1]);
            assert!(matches!(before, Header::Incomplete { .. }), "{bytes:?}: {before:?}");
        }
    }

    #[test]
    fn what_is_no_header_is_told_at_once() {
        for bytes in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"POST / HTTP/1.1\r\n",
            b"\x16\x03\x01",
            b"PROXYTCP4",
            b"PROXX",
            b"proxy ",
            b"\r\n\r\nG",
            b"\n",
            b"\0",
        ] {
            assert_eq!(parse(bytes), NOT_PROXY, "{bytes:?}");
        }
    }

    #[test]
    fn the_bounds_are_exact_and_a_full_buffer_always_decides() {
        let line = |length: usize| format!("PROXY UNKNOWN {}\r\n", "x".repeat(length - 16));
        assert!(matches!(parse(line(MAX_V1).as_bytes()), Header::Complete { length: MAX_V1, .. }));
        let longer = line(MAX_V1 + 1);
        assert_eq!(parse(longer.as_bytes()), TOO_LONG);
        assert_eq!(parse(&longer.as_bytes()[..MAX_V1]), TOO_LONG);
        let before = parse(&longer.as_bytes()[..MAX_V1 - 1]);
        assert_eq!(before, Header::Incomplete { needed: MAX_V1 });

        let longest = binary(V2_LOCAL, 0, &[0; MAX_V2 - V2_FIXED]);
        assert_eq!(parse(&longest), Header::Complete { length: MAX_V2, peer: None });
        assert_eq!(parse(&binary(V2_LOCAL, 0, &[0; MAX_V2 - V2_FIXED + 1])), TOO_LONG);
    }

    #[test]
    fn reasons_are_one_line() {
        for fault in [Fault::NotProxy, Fault::Malformed, Fault::TooLong] {
            let reason = fault.to_string();
            assert!(!reason.is_empty() && !reason.contains('\n'), "{reason:?}");
        }
    }

    /// What must hold of any bytes, at whatever place they are cut.
    fn keeps_its_word(bytes: &[u8]) {
        let whole = parse(bytes);
        for end in 0..bytes.len() {
            match parse(&bytes[..end]) {
                Header::Incomplete { needed } => {
                    assert!(needed > end && needed <= MAX_V2, "{needed} at {end} of {bytes:?}");
                    // It was said that no whole header is shorter.
                    if let Some(sooner) = bytes.get(..needed - 1)
                        && let Header::Complete { .. } = parse(sooner)
                    {
                        panic!("whole before {needed}: {bytes:?}");
                    }
                }
                verdict => assert_eq!(verdict, whole, "{end} of {bytes:?}"),
            }
        }
        if let Header::Complete { length, .. } = whole {
            assert!(length <= bytes.len() && length <= MAX_V2);
            assert_eq!(parse(&bytes[..length]), whole);
        }
    }

    #[test]
    fn any_one_byte_may_be_wrong() {
        for (header, _) in valid() {
            // Beyond the addresses nothing is read: the longest headers would only take time.
            for at in 0..header.len().min(300) {
                for byte in 0..=u8::MAX {
                    let mut wrong = header.clone();
                    wrong[at] = byte;
                    if let Header::Complete { length, .. } = parse(&wrong) {
                        assert!(length <= wrong.len(), "{wrong:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn random_pieces_of_headers_keep_its_word() {
        const PIECES: &[&[u8]] = &[
            b"PROXY ",
            b"TCP4 ",
            b"TCP6 ",
            b"UNKNOWN",
            b" ",
            b"192.0.2.1 ",
            b"2001:db8::1 ",
            b"443",
            b"0",
            b"65535 ",
            b"\r\n",
            b"\r",
            b"\n",
            V2_SIGNATURE,
            b"\x21\x11\0\x0c",
            b"\x20\0\0\0",
            b"\x21\x21\0\x24",
            b"\x21\x31\0\xd8",
            b"\x0f\xf0",
            b"xxxxxxxxxxxx",
            b"\xff",
            b"GET /",
        ];
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let asked = std::env::var("ROUTER_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = asked.unwrap_or_else(|| now.expect("after 1970").as_secs());
        println!("ROUTER_TEST_SEED={seed}");
        let mut state: u64 = seed;
        let mut below = |n: usize| {
            // splitmix64
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            usize::try_from((z ^ (z >> 31)) % n as u64).expect("less than n")
        };
        let headers = valid();
        for _ in 0..20_000 {
            let mut bytes = if below(2) == 0 {
                let mut header = headers[below(headers.len())].0.clone();
                header.truncate(300);
                let at = below(header.len());
                header[at] = u8::try_from(below(256)).expect("below 256");
                header
            } else {
                Vec::new()
            };
            for _ in 0..below(10) {
                bytes.extend_from_slice(PIECES[below(PIECES.len())]);
            }
            keeps_its_word(&bytes);
        }
    }
}
