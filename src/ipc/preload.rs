//! What the preload says to the router: strings on the worker's channel that no application sees.
//!
//! Words with one space between, the first `router:` and a verb. The router's side of the talk is
//! in `reply.rs`; what the preload does is in `src/preload`. It refuses to fail: what cannot be
//! understood is nobody's word, like any string of the application's.

use std::net::SocketAddr;

use serde::{Deserialize, Deserializer};

use super::message::AddressType;
use super::value::Text;
use crate::route::load::LoadReport;

/// The version of this talk; the preload is of the same build, so another is a defect.
const VERSION: u32 = 1;
/// What every word starts with.
const MARK: &str = "router:";
/// Bytes of a warning that are kept.
const MAX_WARNING: usize = 1024;

/// What the preload says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// It is there, and reads the lane if there is one.
    Hello {
        /// Sockets may come by the lane.
        lane: bool,
    },
    /// A server that listens through the router is up.
    Server {
        /// Its number in the worker.
        number: u32,
        /// What it speaks.
        speaks: Speaks,
    },
    /// How the worker fares.
    Load(LoadReport),
    /// The worker is nearly out of descriptors and reads its lane no more.
    Full,
    /// It reads on.
    Room,
    /// So many messages of the lane came without their socket.
    Lost(u64),
    /// A server that has listened through an earlier router.
    Serving(Serving),
    /// It has lost an earlier router, and has told this one all it must know.
    Attached,
    /// Its event loop turns, and there is no other news.
    Beat,
    /// It was to drain, and has no session and no connection left.
    Drained,
    /// Something the operator must know.
    Warn(String),
    /// The socket that comes with this is for another worker, or for another process of this one.
    Return(Returned),
}

/// A server as an earlier router has known it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Serving {
    /// As that router has named it.
    pub key: String,
    /// As in [`super::message::QueryServer`], where the worker asked for it.
    #[serde(default)]
    pub index: i64,
    /// Likewise.
    #[serde(default)]
    pub address: Option<String>,
    /// Likewise.
    #[serde(default = "no_port")]
    pub port: i64,
    /// Likewise, as Node writes it.
    #[serde(rename = "addressType", deserialize_with = "address_type")]
    pub address_type: AddressType,
    /// The port it got.
    #[serde(default)]
    pub bound: Option<i64>,
    /// What it speaks.
    pub speaks: Speaks,
}

fn no_port() -> i64 {
    -1
}

fn address_type<'de, D: Deserializer<'de>>(deserializer: D) -> Result<AddressType, D::Error> {
    Ok(match serde_json::Value::deserialize(deserializer)? {
        serde_json::Value::Number(number) => match number.as_i64() {
            Some(4) => AddressType::V4,
            Some(6) => AddressType::V6,
            Some(-1) => AddressType::Pipe,
            _ => AddressType::Other,
        },
        _ => AddressType::Other,
    })
}

/// A connection that a worker gives back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Returned {
    /// The server it came from: [`Word::Server`], 0 for none.
    pub number: u32,
    /// Whom the worker took for the peer, if the PROXY protocol had said so.
    pub peer: Option<SocketAddr>,
    /// What was read of it and has to be read again by whoever gets it next.
    pub bytes: Vec<u8>,
}

/// What a server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Speaks {
    /// HTTP/1 in the clear.
    Http,
    /// TLS.
    Tls,
    /// Anything; it may have to speak first.
    Other,
}

/// Reads a string of a worker's.
pub(super) fn word(text: &Text<'_>) -> Option<Word> {
    if !text.starts_with(MARK) {
        return None;
    }
    if text.starts_with("router:return ") {
        return returned(text).map(Word::Return);
    }
    let text = text.to_str();
    let text = text.strip_prefix(MARK)?;
    let (verb, rest) = text.split_once(' ').unwrap_or((text, ""));
    let mut words = rest.split(' ');
    let mut number = || words.next()?.parse::<u32>().ok();
    Some(match verb {
        "hello" => {
            (number()? == VERSION).then_some(())?;
            Word::Hello { lane: words.any(|word| word == "lane") }
        }
        "server" => {
            let number = number()?;
            let speaks = match words.next()? {
                "http" => Speaks::Http,
                "tls" => Speaks::Tls,
                _ => Speaks::Other,
            };
            Word::Server { number, speaks }
        }
        "load" => {
            let [utilisation, delay_ms] = [number()?, number()?];
            let [opened, closed] = [number()?, number()?];
            Word::Load(LoadReport { utilisation, delay_ms, opened, closed })
        }
        "serving" => Word::Serving(serde_json::from_str(rest).ok()?),
        "attached" => Word::Attached,
        "beat" => Word::Beat,
        "drained" => Word::Drained,
        "full" => Word::Full,
        "room" => Word::Room,
        "lost" => Word::Lost(u64::from(number()?)),
        "warn" => {
            let end =
                (0..=MAX_WARNING.min(rest.len())).rev().find(|end| rest.is_char_boundary(*end));
            Word::Warn(rest.get(..end?)?.replace(char::is_control, " "))
        }
        _ => return None,
    })
}

/// The number, the peer (address, comma, port; or a dash), and behind the space after them bytes,
/// one a character.
fn returned(text: &Text<'_>) -> Option<Returned> {
    let text = text.bytes()?;
    let rest = text.strip_prefix(b"router:return ")?;
    let mut words = rest.splitn(3, |byte| *byte == b' ');
    let mut word = || words.next().and_then(|word| std::str::from_utf8(word).ok());
    let number = word()?.parse().ok()?;
    let peer = match word()? {
        "-" => None,
        peer => {
            let (ip, port) = peer.split_once(',')?;
            Some(SocketAddr::new(ip.parse().ok()?, port.parse().ok()?))
        }
    };
    Some(Returned { number, peer, bytes: words.next()?.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<Word> {
        word(&Text::Utf8(text.into()))
    }

    #[test]
    fn every_word_is_read() {
        assert_eq!(read("router:hello 1 lane"), Some(Word::Hello { lane: true }));
        assert_eq!(read("router:hello 1"), Some(Word::Hello { lane: false }));
        assert_eq!(
            read("router:server 300 tls"),
            Some(Word::Server { number: 300, speaks: Speaks::Tls })
        );
        let report = LoadReport { utilisation: 430, delay_ms: 12, opened: 5, closed: 2 };
        assert_eq!(read("router:load 430 12 5 2"), Some(Word::Load(report)));
        assert_eq!(read("router:full"), Some(Word::Full));
        assert_eq!(read("router:room"), Some(Word::Room));
        assert_eq!(read("router:beat"), Some(Word::Beat));
        assert_eq!(read("router:drained"), Some(Word::Drained));
        assert_eq!(read("router:lost 3"), Some(Word::Lost(3)));
        assert_eq!(read("router:warn a b\nc"), Some(Word::Warn("a b c".into())));
    }

    #[test]
    fn what_is_no_word_is_nobodys() {
        for text in [
            "",
            "ready",
            "router:",
            "router:hello",
            "router:hello 2 lane",
            "router:load 1 2 3",
            "router:load 1 2 3 -4",
            "router:server x http",
            "router:return",
            "router:return 1",
            "router:return x - y",
            "router:return 1 ::1 y",
            "router:return 1 -",
            "router:dance",
            "routers:full",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
        let long = format!("router:warn {}", "€".repeat(1000));
        let Some(Word::Warn(kept)) = read(&long) else { panic!("a warning") };
        assert_eq!(kept.len(), 1023, "cut between characters");
    }

    #[test]
    fn returned_bytes_are_bytes_in_every_width() {
        let all: Vec<u8> = (0..=255).collect();
        let peer = Some("[::1]:80".parse().expect("an address"));
        let expected = Some(Word::Return(Returned { number: 7, peer, bytes: all.clone() }));
        let latin1 = [&b"router:return 7 ::1,80 "[..], &all].concat();
        assert_eq!(word(&Text::Latin1(&latin1)), expected);
        let text: String = latin1.iter().copied().map(char::from).collect();
        assert_eq!(read(&text), expected);
        let wide: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(word(&Text::Utf16(&wide)), expected);
        assert_eq!(read("router:return 7 - €"), None, "not one byte a character");
        let empty = Returned { number: 0, peer: None, bytes: vec![] };
        assert_eq!(read("router:return 0 - "), Some(Word::Return(empty)));
    }
}
