//! The packets of Socket.IO's cluster adapter, known by their first and last bytes.
//!
//! The adapter writes the keys of every packet in one order: `type`, then `data` (an object) if there is
//! any, `uid`, `nsp`, `source`, and in an answer to one worker `requesterUid`. So everything but the
//! inside of `data` lies at places that follow from either end, and a broadcast of a megabyte is
//! classified by looking at some eighty bytes of it. Every one of these bytes is looked at; what is
//! not proven is that `data` is one value. In JSON the ends are real keys of the outermost object (a raw
//! quote behind a raw comma begins a key), but others could stand between them. In V8's format
//! the number of keys must fit, but a string that is last in the message could hold a copy of a
//! packet's end. Neither happens by chance, and all that an application wins by it is that its own
//! message is relayed, to adapters that look at its real `source` and drop it.
//!
//! Owns the kinds and the [`Uid`]. It refuses to guess: what does not fit is left to the full reader.

use std::fmt;

use memchr::{memmem, memrchr};

use super::frame::LENGTH_PREFIX;
use super::{Serialization, v8};

/// A packet of the cluster adapter, to be relayed verbatim.
#[derive(Debug, PartialEq, Eq, Clone)]
pub struct Packet {
    /// What the packet is.
    pub kind: PacketKind,
    /// The sender's id: always looked for in heartbeats and [`PacketKind::AdapterClose`], else maybe.
    pub uid: Option<Uid>,
    /// The namespace: as `uid`.
    pub nsp: Option<String>,
    /// Whose request this answers, in the kinds that answer one.
    pub requester: Option<Uid>,
}

/// The type of a packet.
#[derive(Debug, PartialEq, Eq, Hash, Clone, Copy)]
pub enum PacketKind {
    /// 1: a worker's adapter has started and asks the others to say who they are.
    InitialHeartbeat,
    /// 2: a worker's adapter is alive.
    Heartbeat,
    /// 3
    Broadcast,
    /// 4
    SocketsJoin,
    /// 5
    SocketsLeave,
    /// 6
    DisconnectSockets,
    /// 7
    FetchSockets,
    /// 8: to the requester only.
    FetchSocketsResponse,
    /// 9
    ServerSideEmit,
    /// 10: to the requester only.
    ServerSideEmitResponse,
    /// 11: an answer to a broadcast with acknowledgement.
    BroadcastClientCount,
    /// 12: an answer to a broadcast with acknowledgement.
    BroadcastAck,
    /// 13: a worker's adapter is gone.
    AdapterClose,
    /// A type this router does not know.
    Unknown(i64),
}

impl PacketKind {
    const KNOWN: [Self; 13] = [
        Self::InitialHeartbeat,
        Self::Heartbeat,
        Self::Broadcast,
        Self::SocketsJoin,
        Self::SocketsLeave,
        Self::DisconnectSockets,
        Self::FetchSockets,
        Self::FetchSocketsResponse,
        Self::ServerSideEmit,
        Self::ServerSideEmitResponse,
        Self::BroadcastClientCount,
        Self::BroadcastAck,
        Self::AdapterClose,
    ];

    /// The number on the wire.
    pub fn number(self) -> i64 {
        match self {
            Self::Unknown(number) => number,
            known => Self::KNOWN.iter().zip(1..).find(|(k, _)| **k == known).map_or(0, |(_, n)| n),
        }
    }

    /// Whether the packet says who its sender is, so that the router must know too.
    fn introduces(self) -> bool {
        matches!(self, Self::InitialHeartbeat | Self::Heartbeat | Self::AdapterClose)
    }
}

impl From<i64> for PacketKind {
    fn from(number: i64) -> Self {
        usize::try_from(number)
            .ok()
            .and_then(|number| Self::KNOWN.get(number.checked_sub(1)?))
            .copied()
            .unwrap_or(Self::Unknown(number))
    }
}

/// The id of one worker's adapter; 16 hex digits in practice.
#[derive(
    PartialEq, Eq, Hash, PartialOrd, Ord, Clone, Copy, serde::Serialize, serde::Deserialize,
)]
pub struct Uid {
    /// ASCII in front, zeroes behind.
    bytes: [u8; Self::MAX],
    length: u8,
}

impl Uid {
    /// The longest id, in bytes. A longer one is treated as absent.
    pub const MAX: usize = 32;

    /// An id of 1 to [`Self::MAX`] ASCII characters; None for anything else.
    pub fn new(text: &[u8]) -> Option<Self> {
        let mut bytes = [0; Self::MAX];
        bytes
            .get_mut(..text.len())
            .filter(|_| !text.is_empty() && text.is_ascii())?
            .copy_from_slice(text);
        Some(Self { bytes, length: u8::try_from(text.len()).ok()? })
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        let bytes = self.bytes.get(..usize::from(self.length)).unwrap_or_default();
        std::str::from_utf8(bytes).unwrap_or_default()
    }
}

impl fmt::Debug for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The value of `source` in every packet.
pub(crate) const SOURCE: &str = "_sio_adapter";

/// Classifies a frame by its ends alone; None when they do not suffice.
pub(super) fn classify(serialization: Serialization, frame: &[u8]) -> Option<Packet> {
    let (kind, requester) = match serialization {
        Serialization::Advanced => advanced(frame.get(LENGTH_PREFIX..)?)?,
        Serialization::Json => json(frame)?,
    };
    let kind = PacketKind::from(kind);
    (!kind.introduces()).then_some(Packet { kind, uid: None, nsp: None, requester })
}

/// How far from its end a namespace is looked for, in bytes; a longer one is the full reader's.
const MAX_NSP: usize = 256;

/// The kind and the addressee of a V8 payload.
fn advanced(payload: &[u8]) -> Option<(i64, Option<Uid>)> {
    let [0xff, 15 | 16, rest @ ..] = payload else { return None };
    let (zigzag, rest) = rest.strip_prefix(b"o\"\x04typeI")?.split_first()?;
    // One byte, not negative: the types up to 63.
    if zigzag & 0x81 != 0 {
        return None;
    }
    let (rest, [b'{', count]) = rest.split_last_chunk::<2>()? else { return None };

    const MARK: &[u8] = b"\"\x06source\"\x0c_sio_adapter";
    let (rest, requester) = match rest.strip_suffix(MARK) {
        Some(rest) => (rest, None),
        None => {
            let (rest, uid) = strip_v8_uid(rest, b"\"\x0crequesterUid")?;
            (rest.strip_suffix(MARK)?, Some(uid))
        }
    };
    let rest = strip_v8_nsp(rest)?;
    let (rest, _) = strip_v8_uid(rest, b"\"\x03uid")?;
    let data = match rest.strip_prefix(b"\"\x04datao") {
        // The end of an object, with a number of keys that fits into a byte.
        Some([.., b'{', 0..0x80]) => true,
        None if rest.is_empty() => false,
        _ => return None,
    };
    const ALWAYS: u8 = 4; // type, uid, nsp, source
    let keys = ALWAYS.saturating_add(data.into()).saturating_add(requester.is_some().into());
    (*count == keys).then(|| (i64::from(zigzag >> 1), requester.and_then(Uid::new)))
}

/// Takes `key` and its value, an id, from the end.
fn strip_v8_uid<'a>(bytes: &'a [u8], key: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    const TYPICAL: usize = 16;
    std::iter::once(TYPICAL).chain(1..=Uid::MAX).find_map(|length| {
        let (head, uid) = bytes.split_at_checked(bytes.len().checked_sub(length)?)?;
        let (head, [b'"', written]) = head.split_last_chunk::<2>()? else { return None };
        let head = head.strip_suffix(key)?;
        (usize::from(*written) == length).then_some((head, uid))
    })
}

/// Takes the namespace from the end: a string of either width.
fn strip_v8_nsp(bytes: &[u8]) -> Option<&[u8]> {
    const KEY: &[u8] = b"\"\x03nsp";
    const TYPICAL: &[u8] = b"\"\x03nsp\"\x01/";
    if let Some(head) = bytes.strip_suffix(TYPICAL) {
        return Some(head);
    }
    let (head, tail) = bytes.split_at_checked(bytes.len().saturating_sub(MAX_NSP))?;
    let key = memmem::rfind(tail, KEY)?;
    let nsp = tail.get(key.checked_add(KEY.len())?..)?;
    if !v8::is_text(nsp) {
        return None;
    }
    bytes.get(..head.len().checked_add(key)?)
}

/// The kind and the addressee of a line.
fn json(line: &[u8]) -> Option<(i64, Option<Uid>)> {
    let rest = line.strip_prefix(b"{\"type\":")?;
    let (kind, rest) = match rest {
        [a @ b'0'..=b'9', b',', rest @ ..] => (i64::from(a & 15), rest),
        [a @ b'1'..=b'9', b @ b'0'..=b'9', b',', rest @ ..] => {
            (i64::from(a & 15).saturating_mul(10).saturating_add(i64::from(b & 15)), rest)
        }
        _ => return None,
    };

    const MARK: &[u8] = b",\"source\":\"_sio_adapter\"";
    let rest = rest.strip_suffix(b"}\n")?;
    let (rest, requester) = match rest.strip_suffix(MARK) {
        Some(rest) => (rest, None),
        None => {
            let (rest, uid) = strip_json_text(rest, b",\"requesterUid\":", Uid::MAX)?;
            (rest.strip_suffix(MARK)?, Some(uid))
        }
    };
    let (rest, _) = strip_json_text(rest, b",\"nsp\":", MAX_NSP)?;
    let (rest, _) = strip_json_text(rest, b"\"uid\":", Uid::MAX)?;
    let whole = match rest.strip_prefix(b"\"data\":{") {
        Some(data) => data.ends_with(b"},"),
        None => rest.is_empty(),
    };
    whole.then(|| (kind, requester.and_then(Uid::new)))
}

/// Takes `key` and its value, a string of at most `max` bytes without escapes, from the end.
fn strip_json_text<'a>(line: &'a [u8], key: &[u8], max: usize) -> Option<(&'a [u8], &'a [u8])> {
    let line = line.strip_suffix(b"\"")?;
    let (_, tail) = line.split_at_checked(line.len().saturating_sub(max.saturating_add(1)))?;
    let length = tail.len().checked_sub(memrchr(b'"', tail)?.checked_add(1)?)?;
    let (head, text) = line.split_at_checked(line.len().checked_sub(length)?)?;
    // The quote itself is not escaped: a colon stands before it.
    let head = head.strip_suffix(b"\"")?.strip_suffix(key)?;
    (!text.contains(&b'\\')).then_some((head, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_the_numbers_of_the_wire() {
        for number in -2..20 {
            assert_eq!(PacketKind::from(number).number(), number);
        }
        assert_eq!(PacketKind::from(13), PacketKind::AdapterClose);
        assert_eq!(PacketKind::from(0), PacketKind::Unknown(0));
    }

    #[test]
    fn uids_are_short_and_plain() {
        assert_eq!(Uid::new(b"0123456789abcdef").unwrap().as_str(), "0123456789abcdef");
        assert_eq!(Uid::new(&[b'x'; 32]).unwrap().as_str(), "x".repeat(32));
        assert_eq!(Uid::new(&[b'x'; 33]), None);
        assert_eq!(Uid::new(b""), None);
        assert_eq!(Uid::new(b"\xe9"), None);
    }

    /// The two halves of a packet, around what its data holds.
    fn halves(serialization: Serialization, answer: bool) -> (&'static [u8], &'static [u8]) {
        match (serialization, answer) {
            (Serialization::Advanced, false) => (
                b"\0\0\0\0\xff\x0fo\"\x04typeI\x06\"\x04datao",
                b"{\x02\"\x03uid\"\x03abc\"\x03nsp\"\x01/\"\x06source\"\x0c_sio_adapter{\x05",
            ),
            (Serialization::Advanced, true) => (
                b"\0\0\0\0\xff\x0fo\"\x04typeI\x10\"\x04datao",
                b"{\x02\"\x03uid\"\x03abc\"\x03nsp\0c\x04/\0\xac\x20\"\x06source\"\x0c_sio_adapter\
                  \"\x0crequesterUid\"\x01a{\x06",
            ),
            (Serialization::Json, false) => (
                b"{\"type\":3,\"data\":{",
                b"},\"uid\":\"abc\",\"nsp\":\"/\",\"source\":\"_sio_adapter\"}\n",
            ),
            (Serialization::Json, true) => (
                b"{\"type\":8,\"data\":{",
                b"},\"uid\":\"abc\",\"nsp\":\"/\xe2\x82\xac\",\"source\":\"_sio_adapter\",\
                  \"requesterUid\":\"a\"}\n",
            ),
        }
    }

    #[test]
    fn every_byte_of_the_ends_counts() {
        for answer in [false, true] {
            let (head, tail) = halves(Serialization::Advanced, answer);
            let frame = [head, b"x", tail].concat();
            assert!(classify(Serialization::Advanced, &frame).is_some());
            for at in LENGTH_PREFIX..frame.len() {
                let mut frame = frame.clone();
                // Padding is nothing, and the data's inside is not looked at.
                if frame.remove(at) != 0 && at != head.len() {
                    assert_eq!(classify(Serialization::Advanced, &frame), None, "{at}");
                }
            }
        }
        for answer in [false, true] {
            let (head, tail) = halves(Serialization::Json, answer);
            let frame = [head, b"x", tail].concat();
            assert!(classify(Serialization::Json, &frame).is_some());
            for at in (0..frame.len()).filter(|at| b"{}\":,".contains(&frame[*at])) {
                let mut frame = frame.clone();
                frame.remove(at);
                assert_eq!(classify(Serialization::Json, &frame), None, "{at}");
            }
        }
    }

    #[test]
    fn what_only_ends_like_a_packet_is_none() {
        // Each a message of the application's, as its worker would write it: five keys, and a string at
        // the end that holds the mark, the mark and a namespace, and all but one byte of the rest.
        const MARK: &str = "\"\x06source\"\x0c_sio_adapter";
        for ending in [
            MARK.to_owned(),
            format!("\"\x03nsp\"\x01/{MARK}"),
            format!("\"\x03uid\"\x03ab\"\x03nsp\"\x01/{MARK}"),
            format!("{{\"\x03uid\"\x03abc\"\x03nsp\"\x01/{MARK}"),
        ] {
            let mut frame = b"\0\0\0\0\xff\x0fo\"\x04typeI\x06\"\x04datao{\0".to_vec();
            frame.extend(b"\"\x01aI\x02\"\x01bI\x02\"\x01c\"");
            frame.push(u8::try_from(ending.len()).unwrap());
            frame.extend(ending.as_bytes());
            frame.extend(b"{\x05");
            assert_eq!(classify(Serialization::Advanced, &frame), None, "{ending:?}");
        }
    }

    #[test]
    fn any_bytes_are_survived() {
        bolero::check!().with_type::<(bool, bool, Vec<u8>)>().for_each(|(json, answer, middle)| {
            let serialization = if *json { Serialization::Json } else { Serialization::Advanced };
            let (head, tail) = halves(serialization, *answer);
            let frame = [head, middle, tail].concat();
            let packet = classify(serialization, &frame).unwrap();
            assert_eq!(packet.requester, answer.then(|| Uid::new(b"a").unwrap()));
            for cut in 0..frame.len() {
                classify(serialization, &frame[cut..]);
                classify(serialization, &frame[..cut]);
            }
            classify(serialization, middle);
        });
    }
}
