//! The packets of Socket.IO's cluster adapter, known by their first and last bytes.
//!
//! The adapter writes the keys of every packet in one order: `type`, then `data` if there is any, `uid`,
//! `nsp`, `source`, and in an answer to one worker `requesterUid`. So the kind stands at a fixed place
//! in front, the mark `source` and the addressee at fixed places before the end, and a broadcast of a
//! megabyte is classified by looking at some sixty bytes of it. In JSON this proves the structure: a
//! raw quote behind a raw comma begins a key. In V8's format the number of keys at the end must
//! fit too; a string could still be made to look so, by an application whose own message starts with
//! the keys of a packet, and all that it wins is that the message is relayed.
//!
//! Owns the kinds and the [`Uid`]. It refuses to guess: what does not fit is left to the full reader.

use std::fmt;

use memchr::memrchr;

use super::Serialization;
use super::frame::LENGTH_PREFIX;

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
#[derive(PartialEq, Eq, Hash, PartialOrd, Ord, Clone, Copy)]
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
pub(super) const SOURCE: &str = "_sio_adapter";

/// Classifies a frame by its ends alone; None when they do not suffice.
pub(super) fn classify(serialization: Serialization, frame: &[u8]) -> Option<Packet> {
    let (kind, requester) = match serialization {
        Serialization::Advanced => v8(frame.get(LENGTH_PREFIX..)?)?,
        Serialization::Json => json(frame)?,
    };
    let kind = PacketKind::from(kind);
    (!kind.introduces()).then_some(Packet { kind, uid: None, nsp: None, requester })
}

fn v8(payload: &[u8]) -> Option<(i64, Option<Uid>)> {
    let rest = match payload {
        [0xff, 15 | 16, rest @ ..] => rest.strip_prefix(b"o\"\x04typeI")?,
        _ => return None,
    };
    let (zigzag, rest) = rest.split_first()?;
    // One byte, not negative: the types up to 63.
    if zigzag & 0x81 != 0 {
        return None;
    }
    let kind = i64::from(zigzag >> 1);
    // Keys, and keys of an answer: the count at the end says whether there were others.
    let (keys, answer_keys) = if rest.starts_with(b"\"\x04data") {
        (5, 6)
    } else if rest.starts_with(b"\"\x03uid") {
        (4, 5)
    } else {
        return None;
    };
    let (body, [b'{', count]) = rest.split_last_chunk::<2>()? else { return None };
    const MARK: &[u8] = b"\"\x06source\"\x0c_sio_adapter";
    if *count == keys && body.ends_with(MARK) {
        return Some((kind, None));
    }
    if *count != answer_keys {
        return None;
    }
    const TYPICAL: usize = 16;
    std::iter::once(TYPICAL).chain(1..=Uid::MAX).find_map(|length| {
        let (head, uid) = body.split_at_checked(body.len().checked_sub(length)?)?;
        let (head, [b'"', written]) = head.split_last_chunk::<2>()? else { return None };
        let fits = usize::from(*written) == length
            && head.strip_suffix(b"\"\x0crequesterUid").is_some_and(|head| head.ends_with(MARK));
        fits.then(|| (kind, Uid::new(uid)))
    })
}

fn json(line: &[u8]) -> Option<(i64, Option<Uid>)> {
    let rest = line.strip_prefix(b"{\"type\":")?;
    let (kind, rest) = match rest {
        [a @ b'0'..=b'9', b',', rest @ ..] => (i64::from(a & 15), rest),
        [a @ b'1'..=b'9', b @ b'0'..=b'9', b',', rest @ ..] => {
            (i64::from(a & 15).saturating_mul(10).saturating_add(i64::from(b & 15)), rest)
        }
        _ => return None,
    };
    if !rest.starts_with(b"\"data\":") && !rest.starts_with(b"\"uid\":") {
        return None;
    }
    let body = rest.strip_suffix(b"\"}\n")?;
    if body.ends_with(b",\"source\":\"_sio_adapter") {
        return Some((kind, None));
    }
    let tail = body.get(body.len().saturating_sub(Uid::MAX.saturating_add(1))..)?;
    let length = tail.len().checked_sub(memrchr(b'"', tail)?.checked_add(1)?)?;
    let (head, uid) = body.split_at_checked(body.len().checked_sub(length)?)?;
    let fits = !uid.contains(&b'\\')
        && head.ends_with(b",\"source\":\"_sio_adapter\",\"requesterUid\":\"");
    fits.then(|| (kind, Uid::new(uid)))
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

    #[test]
    fn any_bytes_are_survived() {
        bolero::check!().with_type::<(bool, bool, Vec<u8>)>().for_each(|(json, answer, middle)| {
            let mut frame = Vec::new();
            let serialization = if *json { Serialization::Json } else { Serialization::Advanced };
            if *json {
                frame.extend(b"{\"type\":8,\"data\":");
                frame.extend(middle);
                frame.extend(b",\"source\":\"_sio_adapter\"");
                frame.extend(if *answer { &b",\"requesterUid\":\"a\"}\n"[..] } else { b"}\n" });
            } else {
                frame.extend(b"\0\0\0\0\xff\x0fo\"\x04typeI\x10\"\x04data");
                frame.extend(middle);
                frame.extend(b"\"\x06source\"\x0c_sio_adapter");
                frame.extend(if *answer {
                    &b"\"\x0crequesterUid\"\x01a{\x06"[..]
                } else {
                    b"{\x05"
                });
            }
            let packet = classify(serialization, &frame).unwrap();
            assert_eq!(packet.requester.is_some(), *answer);
            for cut in 0..frame.len() {
                classify(serialization, &frame[cut..]);
                classify(serialization, &frame[..cut]);
            }
            classify(serialization, middle);
        });
    }
}
