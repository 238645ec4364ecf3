//! The first line of a client's request, judged while it is only peeked at.
//!
//! Owns one decision: is what has arrived a request line, not yet one, or never going to be one.
//! A verdict other than [`Head::Incomplete`] never changes when more bytes arrive, and it is given
//! at the first byte that proves it, because a client that does not speak HTTP may send nothing
//! more. Where Node's own parser is lenient (blank lines before the request, several spaces between
//! the parts), so is this one: the worker is the judge of HTTP, this file only has to find the
//! target. It refuses to look past the line, to allocate, and to normalise anything.

use std::fmt;

use memchr::memchr;

/// The longest request line, in bytes from the first byte received to the LF, both counted.
///
/// Blank lines before the request count too, so that a buffer of this size is always enough to
/// decide. Beyond it the verdict is [`Fault::TooLong`].
pub const MAX_REQUEST_LINE: usize = 8192;

/// The longest method, in bytes; the longest registered one has 17. Beyond it: [`Fault::NotHttp`].
const MAX_METHOD: usize = 32;

/// What the bytes received so far amount to.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Head<'a> {
    /// Not whole yet; wait for more than the bytes given.
    Incomplete,
    /// A whole request line.
    Line(RequestLine<'a>),
    /// Not a request this router can serve, whatever follows.
    Fault(Fault),
}

/// The two parts of a request line that matter, as the client wrote them.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub struct RequestLine<'a> {
    /// The method, in the client's case.
    pub method: &'a [u8],
    /// The target: origin form, absolute form, authority form or `*`; never empty.
    pub target: &'a [u8],
}

/// Why a connection's first bytes are refused. Displays as a line for operator and client alike.
#[derive(Debug, PartialEq, Eq, Hash, Clone, Copy)]
pub enum Fault {
    /// No line end within [`MAX_REQUEST_LINE`] bytes.
    TooLong,
    /// Bytes that no HTTP/1 request line starts with.
    NotHttp,
    /// An HTTP/2 client with prior knowledge.
    Http2Preface,
    /// A TLS handshake record.
    TlsHello,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => write!(f, "request line longer than {MAX_REQUEST_LINE} bytes"),
            Self::NotHttp => f.write_str("not an HTTP/1 request"),
            Self::Http2Preface => {
                f.write_str("HTTP/2 without TLS is not spoken here, use HTTP/1.1")
            }
            Self::TlsHello => f.write_str("this port speaks plain HTTP, not TLS"),
        }
    }
}

/// Judges the first bytes of a connection. Cheap enough to be called again on every arrival.
pub fn parse(bytes: &[u8]) -> Head<'_> {
    let window = bytes.get(..MAX_REQUEST_LINE).unwrap_or(bytes);
    match scan(window) {
        // A full window without a verdict will not get one.
        Head::Incomplete if window.len() == MAX_REQUEST_LINE => Head::Fault(Fault::TooLong),
        head => head,
    }
}

fn scan(window: &[u8]) -> Head<'_> {
    const NOT_HTTP: Head<'static> = Head::Fault(Fault::NotHttp);

    if let [TLS_HANDSHAKE, rest @ ..] = window {
        return match rest.first() {
            None => Head::Incomplete,
            Some(&TLS_MAJOR_VERSION) => Head::Fault(Fault::TlsHello),
            Some(_) => NOT_HTTP,
        };
    }

    let line = skip(window, |byte| matches!(byte, b'\r' | b'\n'));
    let name = line.get(..=MAX_METHOD).unwrap_or(line);
    let Some(length) = name.iter().position(|&byte| !is_token(byte)) else {
        return if line.len() > MAX_METHOD { NOT_HTTP } else { Head::Incomplete };
    };
    let Some((method, rest)) = line.split_at_checked(length) else { return Head::Incomplete };
    if method.is_empty() || rest.first() != Some(&b' ') {
        return NOT_HTTP;
    }

    let rest = skip(rest, |byte| byte == b' ');
    let length = memchr(b' ', rest).unwrap_or(rest.len());
    let Some((target, rest)) = rest.split_at_checked(length) else { return Head::Incomplete };
    // Among the control characters is LF: a line that ends here carries no version (HTTP/0.9).
    if has_control(target) {
        return NOT_HTTP;
    }
    // The target runs to the end of what has arrived, or only spaces follow it.
    let rest = skip(rest, |byte| byte == b' ');
    if rest.is_empty() {
        return Head::Incomplete;
    }

    match version(rest) {
        Version::Incomplete => Head::Incomplete,
        Version::Not => NOT_HTTP,
        Version::Major(b'2') if method == b"PRI" && target == b"*" => {
            Head::Fault(Fault::Http2Preface)
        }
        Version::Major(_) => Head::Line(RequestLine { method, target }),
    }
}

/// First byte of a TLS record that carries a handshake.
const TLS_HANDSHAKE: u8 = 0x16;
/// Second byte of every TLS record, from SSL 3.0 to TLS 1.3.
const TLS_MAJOR_VERSION: u8 = 3;

enum Version {
    Incomplete,
    Not,
    /// The digit before the dot.
    Major(u8),
}

/// `HTTP/d.d` and the line end: CR LF, or LF alone.
fn version(bytes: &[u8]) -> Version {
    const NAME: &[u8] = b"HTTP/";
    match bytes.strip_prefix(NAME) {
        None if NAME.starts_with(bytes) => Version::Incomplete,
        None => Version::Not,
        Some(rest) => match rest {
            [major, b'.', minor, b'\n', ..] | [major, b'.', minor, b'\r', b'\n', ..]
                if major.is_ascii_digit() && minor.is_ascii_digit() =>
            {
                Version::Major(*major)
            }
            [] => Version::Incomplete,
            [major] | [major, b'.'] if major.is_ascii_digit() => Version::Incomplete,
            [major, b'.', minor] | [major, b'.', minor, b'\r']
                if major.is_ascii_digit() && minor.is_ascii_digit() =>
            {
                Version::Incomplete
            }
            _ => Version::Not,
        },
    }
}

/// What is left of `bytes` after the leading ones that `leave_out` names.
fn skip(bytes: &[u8], leave_out: impl Fn(u8) -> bool) -> &[u8] {
    let start = bytes.iter().position(|&byte| !leave_out(byte)).unwrap_or(bytes.len());
    bytes.get(start..).unwrap_or_default()
}

/// Whether a byte below space, or DEL, occurs. Without an early exit, so that it is vectorised.
fn has_control(bytes: &[u8]) -> bool {
    bytes.iter().fold(false, |found, &byte| found | (byte < b' ') | (byte == 0x7f))
}

/// A `tchar` of RFC 9110, section 5.6.2.
fn is_token(byte: u8) -> bool {
    const TOKEN: [bool; 256] = {
        let mut table = [false; 256];
        let mut byte = 0;
        #[expect(
            clippy::indexing_slicing,
            clippy::cast_possible_truncation,
            reason = "evaluated by the compiler, which refuses a bad index"
        )]
        while byte < 256 {
            table[byte] = (byte as u8).is_ascii_alphanumeric()
                || matches!(
                    byte as u8,
                    b'!' | b'#'
                        | b'$'
                        | b'%'
                        | b'&'
                        | b'\''
                        | b'*'
                        | b'+'
                        | b'-'
                        | b'.'
                        | b'^'
                        | b'_'
                        | b'`'
                        | b'|'
                        | b'~'
                );
            byte += 1;
        }
        table
    };
    TOKEN.get(usize::from(byte)).copied().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line<'a>(method: &'a str, target: &'a str) -> Head<'a> {
        Head::Line(RequestLine { method: method.as_bytes(), target: target.as_bytes() })
    }

    const NOT_HTTP: Head<'static> = Head::Fault(Fault::NotHttp);

    #[test]
    fn verdicts() {
        let cases: &[(&[u8], Head<'_>)] = &[
            (b"", Head::Incomplete),
            (b"GET / HTTP/1.1\r\n", line("GET", "/")),
            (b"GET / HTTP/1.1\r\nHost: x\r\n\r\nbody", line("GET", "/")),
            (b"GET / HTTP/1.1\n", line("GET", "/")),
            (b"GET / HTTP/1.0\n", line("GET", "/")),
            (b"\r\n\n\rGET / HTTP/1.1\r\n", line("GET", "/")),
            (b"GET   /a   HTTP/1.1\r\n", line("GET", "/a")),
            (b"OPTIONS * HTTP/1.1\r\n", line("OPTIONS", "*")),
            (b"GET http://h:1/p?q HTTP/1.1\r\n", line("GET", "http://h:1/p?q")),
            (b"CONNECT h:443 HTTP/1.1\r\n", line("CONNECT", "h:443")),
            (b"M-SEARCH /? HTTP/1.1\r\n", line("M-SEARCH", "/?")),
            (b"GET / HTTP/1.1", Head::Incomplete),
            (b"GET / HTTP/1.1\r", Head::Incomplete),
            (b"GET /", Head::Incomplete),
            (b"GET / ", Head::Incomplete),
            (b"\r\n\r\n", Head::Incomplete),
            // The target may carry what RFC 3986 forbids; the worker will say so.
            (b"GET /\xc3\xa9\"<> HTTP/1.1\r\n", line_bytes(b"GET", b"/\xc3\xa9\"<>")),
            // Not HTTP, each at the byte that proves it.
            (b" ", NOT_HTTP),
            (b"\0", NOT_HTTP),
            (b"G(", NOT_HTTP),
            (b"GET\r", NOT_HTTP),
            (b"GET\t/", NOT_HTTP),
            (b"GET /\n", NOT_HTTP),
            (b"GET /\r\n", NOT_HTTP),
            (b"GET /\0", NOT_HTTP),
            (b"GET /\x7f", NOT_HTTP),
            (b"GET / X", NOT_HTTP),
            (b"GET / HTTP/x", NOT_HTTP),
            (b"GET / HTTP/1,", NOT_HTTP),
            (b"GET / HTTP/1.x", NOT_HTTP),
            (b"GET / HTTP/1.10", NOT_HTTP),
            (b"GET / HTTP/1.1 ", NOT_HTTP),
            (b"GET / HTTP/1.1\rX", NOT_HTTP),
            (b"GET / http/1.1\r\n", NOT_HTTP),
            (b"GET  \r\n", NOT_HTTP),
            (b"SSH-2.0-OpenSSH_9.6\r\n", NOT_HTTP),
            (b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", Head::Incomplete),
            (b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", NOT_HTTP),
            (
                b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA / HTTP/1.1\n",
                line("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "/"),
            ),
            // Other protocols that clients take for this one.
            (b"\x16", Head::Incomplete),
            (b"\x16\x03", Head::Fault(Fault::TlsHello)),
            (b"\x16\x03\x01\x02\x00\x01", Head::Fault(Fault::TlsHello)),
            (b"\x16\x04", NOT_HTTP),
            (b"\n\x16\x03", NOT_HTTP),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Head::Fault(Fault::Http2Preface)),
            (b"PRI * HTTP/2.0", Head::Incomplete),
            (b"PRI /x HTTP/1.1\r\n", line("PRI", "/x")),
        ];
        for (bytes, expected) in cases {
            assert_eq!(parse(bytes), *expected, "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    fn line_bytes<'a>(method: &'a [u8], target: &'a [u8]) -> Head<'a> {
        Head::Line(RequestLine { method, target })
    }

    #[test]
    fn the_bound_is_exact_and_a_full_buffer_always_decides() {
        let fits = |target: usize| {
            let mut bytes = b"GET /".to_vec();
            bytes.resize(4 + target, b'a');
            bytes.extend(b" HTTP/1.1\r\n");
            bytes
        };
        let longest = fits(MAX_REQUEST_LINE - 4 - 11);
        assert_eq!(longest.len(), MAX_REQUEST_LINE);
        assert!(matches!(parse(&longest), Head::Line(_)));
        let longer = fits(MAX_REQUEST_LINE - 4 - 10);
        assert_eq!(parse(&longer), Head::Fault(Fault::TooLong));
        assert_eq!(parse(&longer[..MAX_REQUEST_LINE]), Head::Fault(Fault::TooLong));
        assert_eq!(parse(&longer[..MAX_REQUEST_LINE - 1]), Head::Incomplete);
        assert_eq!(parse(&[b'\n'; MAX_REQUEST_LINE]), Head::Fault(Fault::TooLong));
        assert_eq!(parse(&[b'\n'; MAX_REQUEST_LINE - 1]), Head::Incomplete);
    }

    #[test]
    fn reasons_are_one_line() {
        for fault in [Fault::TooLong, Fault::NotHttp, Fault::Http2Preface, Fault::TlsHello] {
            let reason = fault.to_string();
            assert!(!reason.is_empty() && !reason.contains('\n'), "{reason:?}");
        }
    }

    /// Random bytes are rarely a request; random choices among its parts often are.
    fn assemble(choices: &[u8]) -> Vec<u8> {
        const PARTS: &[&[u8]] = &[
            b"GET",
            b"POST",
            b" ",
            b"/",
            b"/socket.io/?sid=1",
            b"*",
            b"HTTP/",
            b"1.1",
            b"1.0",
            b"2.0",
            b"\r\n",
            b"\n",
            b"\r",
            b"PRI",
            b"http://x",
            b"\x16\x03",
            b"\0",
            b" HTTP/1.1\r\n",
            b"GET /",
            b"\xff",
            b"\t",
            b"Host: x\r\n",
        ];
        let mut bytes = Vec::new();
        for choice in choices {
            match PARTS.get(usize::from(*choice)) {
                Some(part) => bytes.extend_from_slice(part),
                None if *choice < 128 => bytes.extend_from_slice(b" / HTTP/1.1\r\n"),
                None => bytes.push(*choice),
            }
        }
        bytes
    }

    #[test]
    fn a_verdict_never_changes_with_more_bytes() {
        bolero::check!().with_type::<Vec<u8>>().for_each(|choices| {
            for bytes in [choices.clone(), assemble(choices)] {
                let whole = parse(&bytes);
                for end in 0..bytes.len() {
                    let part = parse(&bytes[..end]);
                    assert!(part == Head::Incomplete || part == whole, "{end} of {bytes:?}");
                }
            }
        });
    }

    #[test]
    fn agrees_with_httparse() {
        let mut config = httparse::ParserConfig::default();
        config.allow_multiple_spaces_in_request_line_delimiters(true);
        bolero::check!().with_type::<Vec<u8>>().for_each(|choices| {
            for bytes in [choices.clone(), assemble(choices)] {
                let mut headers = [httparse::EMPTY_HEADER; 16];
                let mut oracle = httparse::Request::new(&mut headers);
                let verdict = config.parse_request(&mut oracle, &bytes);
                match (parse(&bytes), oracle.method, oracle.path, oracle.version) {
                    // It came as far as the version: both must have seen the same line. (The one
                    // difference: httparse reads the version before it looks for the line end.)
                    (Head::Line(line), Some(method), Some(path), Some(_)) => {
                        assert_eq!(line.method, method.as_bytes());
                        assert_eq!(line.target, path.as_bytes());
                    }
                    (verdict_here, Some(method), Some(_), Some(_)) => {
                        assert!(
                            verdict.is_err()
                                || method.len() > MAX_METHOD
                                || verdict_here == Head::Incomplete,
                            "{verdict_here:?} {bytes:?}"
                        );
                    }
                    // It refused a whole line of ours: a version it does not know, or a character
                    // of the target that it leaves to nobody.
                    (Head::Line(line), ..) => {
                        assert!(
                            bytes.windows(5).any(|w| w == b"HTTP/")
                                && (verdict.is_err() || !line.target.is_ascii()),
                            "{bytes:?}"
                        );
                    }
                    (Head::Incomplete | Head::Fault(_), ..) => {}
                }
            }
        });
    }
}
