//! One worker's lane, as one shard sees it: a socket pair that carries only sockets.
//!
//! A message is a server's number and a socket; no JSON, no acknowledgement. Every shard sends on
//! it, since `sendmsg` is atomic. The router keeps a share of the worker's end too: what the worker
//! has not read is *there*, in the kernel, and not in copies of ours. So when a worker dies, or
//! reads no more, its unread sockets are read back and go elsewhere, each exactly once, even
//! while the worker still reads; and how many there are is one question to the kernel.
//!
//! The bound is the kernel's: a lane holds some 270 sockets (its send buffer, 208 KiB unless the
//! host says otherwise), then it is full and sockets wait here.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;

use super::ConnectionId;
use crate::route::WorkerId;

/// Numbers below this are one byte; this byte announces a longer one.
const LONG: u8 = 255;

/// What this shard knows of it; the descriptors are the engine's.
#[derive(Debug)]
pub struct Lane {
    /// Whose it is.
    pub worker: WorkerId,
    /// Sockets that wait for room.
    pub waiting: VecDeque<ConnectionId>,
    /// The kernel's buffer is full: wait until it is not.
    pub full: bool,
    /// It is looked at in a while.
    pub watched: bool,
    /// Since when there was something unread at every look.
    pub unread_since: Option<Instant>,
    /// When it was last read back since then.
    pub relieved: Option<Instant>,
}

impl Lane {
    /// The lane of a worker that has just been started.
    #[must_use]
    pub fn new(worker: WorkerId) -> Self {
        Self {
            worker,
            waiting: VecDeque::new(),
            full: false,
            watched: false,
            unread_since: None,
            relieved: None,
        }
    }
}

/// A message of the lane, without its socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// The server's number in the worker; 0: as `sticky:connection`.
    pub server: u32,
    /// Whom the worker shall take for the peer; `None`: as the kernel has it.
    pub peer: Option<SocketAddr>,
}

impl Message {
    /// The bytes: `src/preload/lane.js` reads them.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        static NUMBERS: [u8; LONG as usize] = {
            let mut numbers = [0; LONG as usize];
            let mut number = 0;
            while number < LONG {
                numbers[number as usize] = number;
                number += 1;
            }
            numbers
        };
        let number = usize::try_from(self.server).unwrap_or(usize::MAX);
        let short = NUMBERS.get(number..=number);
        match (short, self.peer) {
            (Some(short), None) => Bytes::from_static(short),
            (short, peer) => {
                let mut bytes = match short {
                    Some(short) => short.to_vec(),
                    None => [&[LONG][..], &self.server.to_le_bytes()].concat(),
                };
                if let Some(peer) = peer {
                    bytes.extend_from_slice(peer_text(peer).as_bytes());
                }
                bytes.into()
            }
        }
    }

    /// What [`Self::encode`] has written; `None` for anything else.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (server, rest) = match bytes.split_first()? {
            (&LONG, rest) => {
                let (number, rest) = rest.split_first_chunk()?;
                (u32::from_le_bytes(*number), rest)
            }
            (number, rest) => (u32::from(*number), rest),
        };
        let peer = if rest.is_empty() { None } else { Some(peer_of(rest)?) };
        Some(Self { server, peer })
    }
}

/// An address and a port as the preload reads them, with a space between.
#[must_use]
pub fn peer_text(peer: SocketAddr) -> String {
    format!("{} {}", peer.ip(), peer.port())
}

/// What [`peer_text`] has written.
#[must_use]
pub fn peer_of(text: &[u8]) -> Option<SocketAddr> {
    let (ip, port) = std::str::from_utf8(text).ok()?.split_once(' ')?;
    Some(SocketAddr::new(ip.parse().ok()?, port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_back_as_they_went() {
        let peers = [None, Some("203.0.113.9:5432"), Some("[2001:db8::1]:1")];
        for server in [0, 1, 254, 255, 256, u32::MAX] {
            for peer in peers.map(|peer| peer.map(|text| text.parse().expect("an address"))) {
                let message = Message { server, peer };
                assert_eq!(Message::decode(&message.encode()), Some(message));
            }
        }
        assert_eq!(Message { server: 7, peer: None }.encode(), &b"\x07"[..]);
        assert_eq!(Message { server: 255, peer: None }.encode(), &b"\xff\xff\0\0\0"[..]);
    }

    #[test]
    fn what_is_no_message_is_none() {
        for bytes in [&b""[..], b"\xff", b"\xff\0\0\0", b"\x01x", b"\x01::1", b"\x01::1 65536"] {
            assert_eq!(Message::decode(bytes), None, "{bytes:?}");
        }
    }
}
