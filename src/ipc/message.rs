//! What a worker's frame means.
//!
//! Owns the vocabulary: Node's handles and cluster, the sticky sessions, the adapter's packets. The
//! order of the questions is Node's own: a message whose `cmd` starts with `NODE_` is internal, whatever
//! else it carries; only then may it be the application's. It refuses to fail: what it cannot understand
//! is [`Message::Other`], and the worker that sent it goes on.

use serde::{Deserialize, Serialize};

use super::Serialization;
use super::frame::LENGTH_PREFIX;
pub use super::packet::{Packet, PacketKind, Uid};
pub use super::preload::{Returned, Serving, Speaks, Word};
use super::value::{Fields, Scalar, Top};
use super::{json, packet, preload, reply, v8};

/// What a worker says to the router, or through it.
#[derive(Debug, PartialEq, Clone)]
pub enum Message {
    /// The worker took the socket of the oldest hand-off that it has not answered yet.
    HandleAck,
    /// It did not receive that socket.
    HandleNack,
    /// The worker sends a socket with this message; must be answered with an ACK.
    Handle {
        /// The server that the socket belongs to, if any.
        key: Option<String>,
        /// A connection that the preload gives back.
        returned: Option<Returned>,
    },
    /// The worker wants to know when all sockets of `key` are closed here.
    SocketNotifyClose {
        /// As in [`Self::Handle`].
        key: String,
    },
    /// The worker asks how many sockets of `key` are open here.
    SocketGetCount {
        /// As in [`Self::Handle`].
        key: String,
    },
    /// The worker's cluster module has started.
    Online,
    /// The worker wants to listen.
    QueryServer(QueryServer),
    /// The worker listens.
    Listening(Listening),
    /// The answer to a new connection.
    Accepted {
        /// The `seq` of the new connection.
        ack: i64,
        /// False: the worker is full, the connection is another's.
        accepted: bool,
    },
    /// The worker closed a server.
    Close {
        /// The key it was answered with.
        key: String,
    },
    /// The worker is about to leave; must be acknowledged.
    ExitedAfterDisconnect {
        /// What to acknowledge.
        seq: i64,
    },
    /// A session has begun.
    StickyConnection {
        /// Its id, in UTF-8.
        sid: Vec<u8>,
    },
    /// A session has ended.
    StickyDisconnection {
        /// Its id, in UTF-8.
        sid: Vec<u8>,
    },
    /// The application says that it is ready.
    Ready,
    /// A cluster adapter's packet, to be relayed verbatim.
    Packet(Packet),
    /// The preload speaks.
    Preload(Word),
    /// Anything else: the application's own messages, unknown commands, values that cannot be read.
    Other,
}

/// A worker's wish to listen.
#[derive(Debug, PartialEq, Eq, Clone, Serialize, Deserialize)]
pub struct QueryServer {
    /// What the answer must acknowledge.
    pub seq: i64,
    /// Tells apart servers of one address; 0 when absent.
    pub index: i64,
    /// Host or path; None for any address.
    pub address: Option<String>,
    /// -1 when there is none.
    pub port: i64,
    /// What kind of address.
    pub address_type: AddressType,
    /// A descriptor of the worker's to listen on.
    pub fd: Option<i64>,
    /// Flags of libuv's bind; 0 when absent.
    pub flags: i64,
    /// 0 when the worker leaves it to the router.
    pub backlog: i64,
    /// A TLS server's session ticket keys, in hex: all workers get those of the first, so that a
    /// client can resume its session at another.
    pub ticket_keys: Option<String>,
}

/// A worker's server, listening.
#[derive(Debug, PartialEq, Eq, Clone)]
pub struct Listening {
    /// As in [`QueryServer`].
    pub index: i64,
    /// As in [`QueryServer`].
    pub address: Option<String>,
    /// The port it got; -1 when there is none.
    pub port: i64,
    /// As in [`QueryServer`].
    pub address_type: AddressType,
}

/// The kind of address a worker wants to listen on.
#[derive(Debug, PartialEq, Eq, Hash, Clone, Copy, Serialize, Deserialize)]
pub enum AddressType {
    /// TCP over IPv4.
    V4,
    /// TCP over IPv6.
    V6,
    /// A Unix socket; the address is its path.
    Pipe,
    /// UDP over IPv4.
    Udp4,
    /// UDP over IPv6.
    Udp6,
    /// None of these, or none given.
    Other,
}

/// Reads a frame as [`super::frame::Deframer`] gives it.
///
/// Never fails and never panics: what cannot be understood is [`Message::Other`].
pub fn read(serialization: Serialization, frame: &[u8]) -> Message {
    if let Some(packet) = packet::classify(serialization, frame) {
        return Message::Packet(packet);
    }
    let mended;
    let top = match serialization {
        Serialization::Advanced => frame.get(LENGTH_PREFIX..).and_then(v8::read),
        Serialization::Json => match json::read(frame) {
            None => {
                mended = json::mend(frame);
                json::read(&mended)
            }
            top => top,
        },
    };
    let message = match &top {
        Some(Top::Object(fields)) => {
            let message = meaning(fields);
            if let Some(Message::QueryServer(request)) = message {
                let ticket_keys = ticket_keys(serialization, frame);
                return Message::QueryServer(QueryServer { ticket_keys, ..request });
            }
            message
        }
        Some(Top::Text(text)) if text.is("ready") => Some(Message::Ready),
        Some(Top::Text(text)) => preload::word(text).map(Message::Preload),
        Some(Top::Opaque) | None => None,
    };
    message.unwrap_or(Message::Other)
}

fn meaning(fields: &Fields<'_>) -> Option<Message> {
    // Node: a string, longer than the mark, that starts with it.
    let internal = fields.cmd.text().filter(|cmd| cmd.starts_with("NODE_") && !cmd.is("NODE_"));
    if internal.is_some() {
        return command(fields);
    }
    if fields.source.is(packet::SOURCE) {
        return Some(Message::Packet(Packet {
            kind: PacketKind::from(fields.kind.int()?),
            uid: uid(&fields.uid),
            nsp: fields.nsp.string(),
            requester: uid(&fields.requester),
        }));
    }
    let sid = || fields.data.string().map(String::into_bytes);
    if fields.kind.is("sticky:connection") {
        return Some(Message::StickyConnection { sid: sid()? });
    }
    if fields.kind.is("sticky:disconnection") {
        return Some(Message::StickyDisconnection { sid: sid()? });
    }
    None
}

fn command(fields: &Fields<'_>) -> Option<Message> {
    Some(match &*fields.cmd.text()?.to_str() {
        "NODE_HANDLE_ACK" => Message::HandleAck,
        "NODE_HANDLE_NACK" => Message::HandleNack,
        reply::HANDLE => Message::Handle {
            key: fields.key.string(),
            returned: match fields.msg.text().and_then(preload::word) {
                Some(Word::Return(returned)) => Some(returned),
                _ => None,
            },
        },
        "NODE_SOCKET_NOTIFY_CLOSE" => Message::SocketNotifyClose { key: fields.key.string()? },
        "NODE_SOCKET_GET_COUNT" => Message::SocketGetCount { key: fields.key.string()? },
        "NODE_CLUSTER" => cluster(fields)?,
        _ => return None,
    })
}

fn cluster(fields: &Fields<'_>) -> Option<Message> {
    // Only the answer to a new connection carries an `ack` in this direction.
    if let Some(ack) = fields.ack.int() {
        let Scalar::Bool(accepted) = fields.accepted else { return None };
        return Some(Message::Accepted { ack, accepted });
    }
    let index = fields.index.int().unwrap_or(0);
    let address = || fields.address.string();
    let port = fields.port.int().unwrap_or(-1);
    Some(match &*fields.act.text()?.to_str() {
        "online" => Message::Online,
        "queryServer" => Message::QueryServer(QueryServer {
            seq: fields.seq.int()?,
            index,
            address: address(),
            port,
            address_type: address_type(fields),
            fd: fields.fd.int(),
            flags: fields.flags.int().unwrap_or(0),
            backlog: fields.backlog.int().unwrap_or(0),
            ticket_keys: None,
        }),
        "listening" => Message::Listening(Listening {
            index,
            address: address(),
            port,
            address_type: address_type(fields),
        }),
        "close" => Message::Close { key: fields.key.string()? },
        "exitedAfterDisconnect" => Message::ExitedAfterDisconnect { seq: fields.seq.int()? },
        _ => return None,
    })
}

/// Most hex digits that are taken for a server's ticket keys; OpenSSL's have 96.
const MAX_TICKET_KEYS: usize = 512;

/// The one value of a request to listen that lies deeper: `data.ticketKeys`. It is looked for where
/// nothing else is written so; the other values are an address and numbers.
fn ticket_keys(serialization: Serialization, frame: &[u8]) -> Option<String> {
    let mark: &[u8] = match serialization {
        Serialization::Advanced => b"\"\x0aticketKeys\"",
        Serialization::Json => b"\"ticketKeys\":\"",
    };
    let start = memchr::memmem::find(frame, mark)?.checked_add(mark.len())?;
    let value = frame.get(start..)?;
    let value = match serialization {
        Serialization::Json => value,
        // A length of one or two bytes stands before it.
        Serialization::Advanced => match value {
            [length, rest @ ..] if *length < 0x80 => rest.get(..usize::from(*length))?,
            [low, high, rest @ ..] => {
                let length = usize::from(*low & 0x7f) | usize::from(*high) << 7;
                rest.get(..length)?
            }
            _ => return None,
        },
    };
    let digits = value.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let keys = value.get(..digits).filter(|keys| (1..=MAX_TICKET_KEYS).contains(&keys.len()))?;
    String::from_utf8(keys.to_vec()).ok()
}

fn address_type(fields: &Fields<'_>) -> AddressType {
    match &fields.address_type {
        Scalar::Int(4) => AddressType::V4,
        Scalar::Int(6) => AddressType::V6,
        Scalar::Int(-1) => AddressType::Pipe,
        word if word.is("udp4") => AddressType::Udp4,
        word if word.is("udp6") => AddressType::Udp6,
        _ => AddressType::Other,
    }
}

fn uid(field: &Scalar<'_>) -> Option<Uid> {
    Uid::new(field.text()?.to_str().as_bytes())
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;
    use std::process::{Command, Stdio};
    use std::time::Duration;

    use super::super::frame::{Deframer, MAX_FRAME};
    use super::super::javascript::{Js, Leaf, send, unhex};
    use super::*;
    use crate::ipc::Serialization::{Advanced, Json};

    /// What the object means that Node would send; the same in both serializations.
    fn meaning_of(pairs: &[(&str, Js)]) -> Message {
        let [advanced, json] = [Advanced, Json].map(|s| read(s, &send(s, pairs)));
        assert_eq!(advanced, json, "{pairs:?}");
        json
    }

    fn cluster(act: &str, more: &[(&'static str, Js)]) -> Message {
        let head = [("cmd", "NODE_CLUSTER".into()), ("act", act.into())];
        meaning_of(&[&head, more].concat())
    }

    #[test]
    fn handles() {
        assert_eq!(meaning_of(&[("cmd", "NODE_HANDLE_ACK".into())]), Message::HandleAck);
        assert_eq!(meaning_of(&[("cmd", "NODE_HANDLE_NACK".into())]), Message::HandleNack);
        let ack = unhex("0000001b ff0f6f2203636d64220f4e4f44455f48414e444c455f41434b7b01");
        assert_eq!(read(Advanced, &ack), Message::HandleAck);
        let nack = unhex("0000001c ff0f6f2203636d6422104e4f44455f48414e444c455f4e41434b7b01");
        assert_eq!(read(Advanced, &nack), Message::HandleNack);
        let sticky = unhex(
            "00000052 ff0f6f2203636d64220b4e4f44455f48414e444c45220474797065220a6e65742e536f636b65
             7422036d73676f2204747970652211737469636b793a636f6e6e656374696f6e2204646174612200
             7b027b03",
        );
        assert_eq!(sticky.len(), 86);
        assert_eq!(read(Advanced, &sticky), Message::Handle { key: None, returned: None });

        let msg = Js::Object(vec![("key".to_owned(), Leaf::Text("not this".to_owned()))]);
        let socket = [
            ("cmd", "NODE_HANDLE".into()),
            ("type", "net.Socket".into()),
            ("msg", msg),
            ("key", "4:127.0.0.1:3000".into()),
        ];
        let key = || "4:127.0.0.1:3000".to_owned();
        assert_eq!(meaning_of(&socket[..3]), Message::Handle { key: None, returned: None });
        assert_eq!(meaning_of(&socket), Message::Handle { key: Some(key()), returned: None });
        for (cmd, expected) in [
            ("NODE_SOCKET_NOTIFY_CLOSE", Message::SocketNotifyClose { key: key() }),
            ("NODE_SOCKET_GET_COUNT", Message::SocketGetCount { key: key() }),
        ] {
            assert_eq!(meaning_of(&[("cmd", cmd.into()), ("key", (&*key()).into())]), expected);
            assert_eq!(meaning_of(&[("cmd", cmd.into())]), Message::Other);
        }
    }

    #[test]
    fn a_socket_is_known_whatever_its_message_holds() {
        // process.send('\ud800', socket) and its like: no JSON for the strict, and yet Node's.
        for msg in [r#""\ud800""#, r#"{"\udc00":"\ud800"}"#, "[1e999]"] {
            for key in ["", r#","key":"\ud800""#] {
                let line = format!(
                    "{{\"cmd\":\"NODE_HANDLE\",\"type\":\"net.Socket\",\"msg\":{msg}{key}}}\n"
                );
                let message = read(Json, line.as_bytes());
                assert!(matches!(message, Message::Handle { .. }), "{message:?} of {line}");
            }
        }
        assert_eq!(read(Json, b"{\"cmd\":\"NODE_HANDLE_ACK\",\"x\":\"\xff\"}"), Message::HandleAck);
    }

    #[test]
    fn a_tls_servers_ticket_keys_are_read_out_of_its_request() {
        let keys = "0123456789abcdef".repeat(6);
        let v8 = |digits: &str| {
            let mut payload =
                b"\xff\x0fo\"\x03cmd\"\x0cNODE_CLUSTER\"\x03act\"\x0bqueryServer".to_vec();
            payload.extend(b"\"\x04datao\"\x0aticketKeys\"");
            let length = u8::try_from(digits.len() & 0x7f).expect("7 bits");
            match digits.len() >> 7 {
                0 => payload.push(length),
                high => payload.extend([length | 0x80, u8::try_from(high).expect("small")]),
            }
            payload.extend(digits.as_bytes());
            payload.extend(b"{\x01\"\x03seqI\x02{\x04");
            let length = u32::try_from(payload.len()).expect("small").to_be_bytes();
            [&length[..], &payload].concat()
        };
        let json = |digits: &str| {
            let data = format!("{{\"ticketKeys\":\"{digits}\"}}");
            let head = "{\"cmd\":\"NODE_CLUSTER\",\"act\":\"queryServer\"";
            format!("{head},\"data\":{data},\"seq\":1}}\n").into_bytes()
        };
        let read_keys = |serialization, frame: &[u8]| match read(serialization, frame) {
            Message::QueryServer(request) => request.ticket_keys,
            other => panic!("{other:?}"),
        };
        for digits in [&keys, &keys.repeat(3)] {
            assert_eq!(read_keys(Advanced, &v8(digits)).as_ref(), Some(digits));
            assert_eq!(read_keys(Json, &json(digits)).as_ref(), Some(digits));
        }
        for none in ["", "no hex", &keys.repeat(9)] {
            assert_eq!(read_keys(Advanced, &v8(none)), None, "{none}");
            assert_eq!(read_keys(Json, &json(none)), None, "{none}");
        }
    }

    #[test]
    fn the_cluster() {
        assert_eq!(cluster("online", &[("seq", 0.into())]), Message::Online);
        for accepted in [true, false] {
            let answer = [
                ("cmd", "NODE_CLUSTER".into()),
                ("ack", 7.into()),
                ("accepted", accepted.into()),
                ("seq", 3.into()),
            ];
            assert_eq!(meaning_of(&answer), Message::Accepted { ack: 7, accepted });
        }
        let close = cluster("close", &[("key", ":3000:4:undefined:0".into()), ("seq", 3.into())]);
        assert_eq!(close, Message::Close { key: ":3000:4:undefined:0".to_owned() });
        let leave = cluster("exitedAfterDisconnect", &[("seq", 9.into())]);
        assert_eq!(leave, Message::ExitedAfterDisconnect { seq: 9 });
        for act in ["", "newconn", "onlin", "suicide"] {
            assert_eq!(cluster(act, &[("seq", 0.into())]), Message::Other);
        }
        // What must be answered cannot be, without its number.
        for act in ["queryServer", "exitedAfterDisconnect", "close"] {
            assert_eq!(cluster(act, &[]), Message::Other);
        }
        assert_eq!(meaning_of(&[("cmd", "NODE_CLUSTER".into())]), Message::Other);
        let unclear = [("cmd", "NODE_CLUSTER".into()), ("ack", 1.into()), ("seq", 1.into())];
        assert_eq!(meaning_of(&unclear), Message::Other);
    }

    #[test]
    fn wishes_to_listen() {
        // Address, port, its type, descriptor, flags, backlog: as Node sends them and what they say.
        type Sent = (Js, i32, Js, Js, Js, Js);
        type Said = (Option<&'static str>, AddressType, Option<i64>, i64, i64);
        let undefined = || Js::Undefined;
        let cases: [(Sent, Said); 9] = [
            (
                (Js::Null, 3000, 4.into(), undefined(), undefined(), 0.into()),
                (None, AddressType::V4, None, 0, 0),
            ),
            (
                ("127.0.0.1".into(), 0, 4.into(), undefined(), 0.into(), 511.into()),
                (Some("127.0.0.1"), AddressType::V4, None, 0, 511),
            ),
            (
                ("::".into(), 3000, 6.into(), undefined(), 1.into(), false.into()),
                (Some("::"), AddressType::V6, None, 1, 0),
            ),
            (
                ("/run/a é €.sock".into(), -1, (-1).into(), undefined(), undefined(), Js::Null),
                (Some("/run/a é €.sock"), AddressType::Pipe, None, 0, 0),
            ),
            (
                (Js::Null, 5353, "udp4".into(), undefined(), 4.into(), undefined()),
                (None, AddressType::Udp4, None, 4, 0),
            ),
            (
                ("::1".into(), 5353, "udp6".into(), Js::Null, 0.into(), undefined()),
                (Some("::1"), AddressType::Udp6, None, 0, 0),
            ),
            (
                (Js::Null, -1, undefined(), 17.into(), undefined(), 0.into()),
                (None, AddressType::Other, Some(17), 0, 0),
            ),
            (
                (Js::Null, 1, "udp5".into(), (-1).into(), Js::Double(1.5), Js::Double(2.0)),
                (None, AddressType::Other, Some(-1), 0, 2),
            ),
            (
                (5.into(), 65535, 5.into(), "3".into(), "0".into(), true.into()),
                (None, AddressType::Other, None, 0, 0),
            ),
        ];
        for ((sent_address, sent_port, sent_type, sent_fd, sent_flags, sent_backlog), said) in cases
        {
            let (address, address_type, fd, flags, backlog) = said;
            let (address, port) = (address.map(str::to_owned), i64::from(sent_port));
            let object = [
                ("index", 2.into()),
                ("data", Js::Null),
                ("address", sent_address),
                ("port", sent_port.into()),
                ("addressType", sent_type),
                ("fd", sent_fd),
                ("flags", sent_flags),
                ("backlog", sent_backlog),
                ("readableAll", Js::Undefined),
                ("writableAll", false.into()),
                ("seq", 1.into()),
            ];
            let listening = Listening { index: 2, address: address.clone(), port, address_type };
            assert_eq!(cluster("listening", &object), Message::Listening(listening));
            let wish = QueryServer {
                seq: 1,
                index: 2,
                address,
                port,
                address_type,
                fd,
                flags,
                backlog,
                ticket_keys: None,
            };
            assert_eq!(cluster("queryServer", &object), Message::QueryServer(wish));
        }
        let Message::QueryServer(least) = cluster("queryServer", &[("seq", 5.into())]) else {
            panic!("not a wish");
        };
        assert_eq!((least.seq, least.index, least.port, least.fd), (5, 0, -1, None));
    }

    #[test]
    fn sessions() {
        let long = "s".repeat(300);
        for sid in ["lv_VI97HAXpY6yYWAAAC", "", "é", "a\"b\\\n", "€", "😀 and more", "\0", &long]
        {
            let id = || sid.as_bytes().to_vec();
            let sticky = |kind: &str| meaning_of(&[("type", kind.into()), ("data", sid.into())]);
            assert_eq!(sticky("sticky:connection"), Message::StickyConnection { sid: id() });
            assert_eq!(sticky("sticky:disconnection"), Message::StickyDisconnection { sid: id() });
            assert_eq!(sticky("sticky:connections"), Message::Other);
        }
        // In either order, and among others.
        let shuffled = [
            ("x", Js::Array(vec![Leaf::Int(1), Leaf::Undefined])),
            ("data", "a".into()),
            ("y", Js::Buffer(vec![0; 200])),
            ("type", "sticky:connection".into()),
        ];
        assert_eq!(meaning_of(&shuffled), Message::StickyConnection { sid: b"a".to_vec() });
        for data in [Js::Undefined, Js::Null, 5.into(), true.into(), Js::Buffer(vec![1])] {
            for kind in ["sticky:connection", "sticky:disconnection", "sticky:http-response"] {
                let message = meaning_of(&[("type", kind.into()), ("data", data.clone())]);
                assert_eq!(message, Message::Other);
            }
        }
        // A lone surrogate is the same in both: U+FFFD.
        let sid = "\u{fffd}".as_bytes().to_vec();
        let line = br#"{"type":"sticky:connection","data":"\ud800"}"#;
        assert_eq!(read(Json, line), Message::StickyConnection { sid: sid.clone() });
        let frame = unhex(
            "00000027 ff0f6f 2204 74797065 2211 737469636b793a636f6e6e656374696f6e 2204 64617461
             00 63 02 00d8 7b02",
        );
        assert_eq!(read(Advanced, &frame), Message::StickyConnection { sid });
    }

    #[test]
    fn ready_is_a_bare_word() {
        assert_eq!(read(Advanced, &unhex("00000009 ff0f 22 05 7265616479")), Message::Ready);
        let wide = unhex("0000000e ff0f 63 0a 7200 6500 6100 6400 7900");
        assert_eq!(read(Advanced, &wide), Message::Ready);
        assert_eq!(read(Json, b"\"ready\"\n"), Message::Ready);
        for line in ["\"Ready\"", "\"ready \"", "[\"ready\"]", "{\"ready\":true}", "null", "1"] {
            assert_eq!(read(Json, line.as_bytes()), Message::Other, "{line}");
        }
        assert_eq!(meaning_of(&[("type", "ready".into())]), Message::Other);
        for hex in ["", "00", "00000000", "00000002 ff0f", "00000003 ff0f 30", "00000003 ff0f 99"] {
            assert_eq!(read(Advanced, &unhex(hex)), Message::Other, "{hex}");
        }
        assert_eq!(read(Json, b""), Message::Other);
    }

    const UID: &str = "0123456789abcdef";
    const ASKER: &str = "fedcba9876543210";

    /// A packet in the adapter's order of keys.
    fn packet(
        kind: i32,
        data: Option<Js>,
        nsp: &str,
        asker: Option<&str>,
    ) -> Vec<(&'static str, Js)> {
        let mut pairs = vec![("type", kind.into())];
        pairs.extend(data.map(|data| ("data", data)));
        pairs.extend([("uid", UID.into()), ("nsp", nsp.into()), ("source", "_sio_adapter".into())]);
        pairs.extend(asker.map(|asker| ("requesterUid", asker.into())));
        pairs
    }

    fn data() -> Js {
        Js::Object(vec![
            ("requestId".to_owned(), Leaf::Text("00ff".to_owned())),
            ("packet".to_owned(), Leaf::Buffer(vec![0x7b; 40])),
            ("wide".to_owned(), Leaf::Text("€".to_owned())),
        ])
    }

    #[test]
    fn packets_of_all_kinds() {
        for kind in 1..=13 {
            let introduces = [1, 2, 13].contains(&kind);
            for nsp in ["/", "/chat", "/é", "/€", "/odd€", "/\"quoted\\", &*"/long".repeat(80)]
            {
                for asker in [None, Some(ASKER)] {
                    let pairs = packet(kind, (!introduces).then(data), nsp, asker);
                    // The same with its keys in another order is the full reader's.
                    let mut shuffled = pairs.clone();
                    shuffled.rotate_left(1);
                    for pairs in [&pairs, &shuffled] {
                        let Message::Packet(packet) = by_ends_or_whole(pairs) else {
                            panic!("not a packet: {pairs:?}");
                        };
                        assert_eq!(packet.kind, PacketKind::from(i64::from(kind)));
                        assert_eq!(packet.requester.map(|u| u.to_string()).as_deref(), asker);
                        if introduces {
                            assert_eq!(packet.uid.map(|u| u.to_string()).as_deref(), Some(UID));
                            assert_eq!(packet.nsp.as_deref(), Some(nsp));
                        }
                    }
                    if nsp.len() < 10 && !introduces {
                        let frame = send(Advanced, &pairs);
                        assert!(packet::classify(Advanced, &frame).is_some(), "{pairs:?}");
                        let frame = send(Json, &pairs);
                        let fast = packet::classify(Json, &frame).is_some();
                        assert_eq!(fast, !nsp.contains('"'), "{pairs:?}");
                    }
                }
            }
        }
    }

    /// Reads the packet in both serializations, which agree but for what only the full reader looks for.
    fn by_ends_or_whole(pairs: &[(&str, Js)]) -> Message {
        let [advanced, json] = [Advanced, Json].map(|s| read(s, &send(s, pairs)));
        if let (Message::Packet(a), Message::Packet(b)) = (&advanced, &json) {
            assert_eq!((a.kind, a.requester), (b.kind, b.requester), "{pairs:?}");
        } else {
            assert_eq!(advanced, json, "{pairs:?}");
        }
        advanced
    }

    #[test]
    fn packets_that_are_odd() {
        let unknown = packet(14, Some(data()), "/", None);
        assert!(matches!(
            by_ends_or_whole(&unknown),
            Message::Packet(Packet { kind: PacketKind::Unknown(14), .. })
        ));
        // A kind beyond one byte, below zero, or none at all.
        for (kind, known) in [
            (Js::Int(64), true),
            (Js::Int(-1), true),
            (Js::Double(3.0), true),
            (Js::Double(3.5), false),
            ("3".into(), false),
            (Js::Null, false),
        ] {
            let mut pairs = packet(0, Some(data()), "/", None);
            pairs[0].1 = kind;
            assert_eq!(matches!(by_ends_or_whole(&pairs), Message::Packet(_)), known);
        }
        // Ids that are no ids, and data that is no object.
        for asker in ["", "é", "€", &*"u".repeat(33)] {
            let pairs = packet(8, Some(data()), "/", Some(asker));
            let Message::Packet(packet) = by_ends_or_whole(&pairs) else { panic!("no packet") };
            assert_eq!(packet.requester, None);
        }
        for data in [Js::Undefined, Js::Null, 1.into(), "x".into(), Js::Buffer(vec![1; 300])] {
            let pairs = packet(3, Some(data), "/", None);
            assert!(matches!(by_ends_or_whole(&pairs), Message::Packet(_)), "{pairs:?}");
        }
    }

    #[test]
    fn what_is_internal_is_internal_whatever_else_it_carries() {
        for cmd in ["NODE_HANDLE_ACK", "NODE_x", "NODE_", "NODE", "node_handle_ack"] {
            let mut pairs = packet(3, None, "/", None);
            pairs.push(("cmd", cmd.into()));
            let expected = match cmd {
                "NODE_HANDLE_ACK" => Message::HandleAck,
                "NODE_x" => Message::Other,
                _ => by_ends_or_whole(
                    &packet(3, None, "/", None).into_iter().rev().collect::<Vec<_>>(),
                ),
            };
            assert_eq!(meaning_of(&pairs), expected, "{cmd}");
            let sticky = [("type", "sticky:connection".into()), ("data", "a".into())];
            let pairs = [&[("cmd", cmd.into())], &sticky[..]].concat();
            let expected = match cmd {
                "NODE_HANDLE_ACK" => Message::HandleAck,
                "NODE_x" => Message::Other,
                _ => Message::StickyConnection { sid: b"a".to_vec() },
            };
            assert_eq!(meaning_of(&pairs), expected, "{cmd}");
        }
        // Only a string is a command.
        let pairs = [("cmd", 5.into()), ("type", "sticky:connection".into()), ("data", "a".into())];
        assert_eq!(meaning_of(&pairs), Message::StickyConnection { sid: b"a".to_vec() });
    }

    #[test]
    fn what_only_speaks_of_packets_is_the_applications() {
        let endings = [
            "_sio_adapter",
            "\"\u{6}source\"\u{c}_sio_adapter",
            "\"\u{6}source\"\u{c}_sio_adapter{\u{5}",
            ",\"source\":\"_sio_adapter\"}\n",
            "\",\"uid\":\"a\",\"nsp\":\"/\",\"source\":\"_sio_adapter",
            "\"\u{3}nsp\"\u{1}/\"\u{6}source\"\u{c}_sio_adapter",
            "\"\u{6}source\"\u{c}_sio_adapter\"\u{c}requesterUid\"\u{1}a",
        ];
        for ending in endings {
            for keys in 0..5 {
                let mut pairs = vec![("type", 3.into()), ("data", data())];
                pairs.extend(["a", "b", "c", "d"].iter().take(keys).map(|key| (*key, 1.into())));
                pairs.push(("e", ending.into()));
                assert_eq!(meaning_of(&pairs), Message::Other, "{ending:?}");
                pairs.push(("source", "_sio".into()));
                assert_eq!(meaning_of(&pairs), Message::Other, "{ending:?}");
            }
            // And what a packet carries does not make it another.
            let inner = Js::Object(vec![("e".to_owned(), Leaf::Text(ending.to_owned()))]);
            let Message::Packet(packet) = by_ends_or_whole(&packet(4, Some(inner), "/", None))
            else {
                panic!("not a packet");
            };
            assert_eq!((packet.kind, packet.requester), (PacketKind::SocketsJoin, None));
        }
    }

    #[test]
    fn both_ways_to_a_packet_agree() {
        type Generated = (u8, Option<Vec<(String, Leaf)>>, String, String, Option<String>);
        bolero::check!().with_type::<Generated>().for_each(|(kind, data, uid, nsp, asker)| {
            let mut pairs: Vec<(&str, Js)> = vec![("type", Js::Int((kind % 70).into()))];
            // A key that Node would write once is written once.
            let mut data = data.clone();
            if let Some(data) = &mut data {
                data.sort_by(|a, b| a.0.cmp(&b.0));
                data.dedup_by(|a, b| a.0 == b.0);
            }
            pairs.extend(data.map(|data| ("data", Js::Object(data))));
            pairs.extend([
                ("uid", Js::Text(uid.clone())),
                ("nsp", Js::Text(nsp.clone())),
                ("source", "_sio_adapter".into()),
            ]);
            pairs.extend(asker.clone().map(|asker| ("requesterUid", Js::Text(asker))));
            for serialization in [Advanced, Json] {
                let frame = send(serialization, &pairs);
                let shuffled: Vec<(&str, Js)> = pairs.iter().rev().cloned().collect();
                let shuffled = read(serialization, &send(serialization, &shuffled));
                let (Message::Packet(fast), Message::Packet(slow)) =
                    (read(serialization, &frame), shuffled)
                else {
                    panic!("not a packet: {pairs:?}");
                };
                assert_eq!((fast.kind, fast.requester), (slow.kind, slow.requester));
                assert_eq!(slow.nsp.as_ref(), Some(nsp));
                assert_eq!(slow.uid, Uid::new(uid.as_bytes()));
            }
        });
    }

    #[test]
    fn messages_of_any_shape_mean_the_same_in_both() {
        const KEYS: &[&str] =
            &["cmd", "type", "data", "source", "seq", "ack", "act", "key", "x", "€"];
        const WORDS: &[&str] = &[
            "NODE_CLUSTER",
            "NODE_HANDLE",
            "NODE_HANDLE_ACK",
            "sticky:connection",
            "_sio_adapter",
            "close",
            "online",
            "exitedAfterDisconnect",
            "ready",
        ];
        bolero::check!().with_type::<Vec<(u8, Result<u8, Js>)>>().for_each(|choices| {
            let mut pairs: Vec<(&str, Js)> = Vec::new();
            for (key, value) in choices {
                let key = KEYS[usize::from(*key) % KEYS.len()];
                let value = match value {
                    Ok(word) => WORDS[usize::from(*word) % WORDS.len()].into(),
                    // JSON has no such numbers; an integer that is one is written in many ways.
                    Err(Js::Double(number)) => Js::Double(number.fract()),
                    Err(value) => value.clone(),
                };
                if pairs.iter().all(|(other, _)| *other != key) {
                    pairs.push((key, value));
                }
            }
            by_ends_or_whole(&pairs);
        });
    }

    #[test]
    fn any_bytes_are_survived() {
        bolero::check!().with_type::<Vec<u8>>().for_each(|bytes| {
            read(Json, bytes);
            read(Advanced, bytes);
            read(Advanced, &[b"\0\0\0\0\xff\x0fo", &bytes[..]].concat());
            read(Json, &[b"{\"cmd\":", &bytes[..]].concat());
        });
    }

    /// All that a real worker sends when it runs a script, or None when there is no Node here.
    fn from_node(serialization: Serialization, script: &str) -> Option<Vec<Vec<u8>>> {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut node = Command::new("node")
            .args(["-e", script])
            .env("NODE_CHANNEL_FD", "0")
            .env("NODE_CHANNEL_SERIALIZATION_MODE", serialization.as_str())
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()
            .ok()?;
        let mut frames = Vec::new();
        let mut deframer = Deframer::new(serialization, MAX_FRAME);
        let mut chunk = [0; 4096];
        loop {
            let length = ours.read(&mut chunk).unwrap();
            if length == 0 {
                break;
            }
            deframer.feed(&chunk[..length], &mut |frame| frames.push(frame.to_vec())).unwrap();
        }
        assert!(node.wait().unwrap().success());
        assert_eq!(deframer.buffered(), 0);
        Some(frames)
    }

    #[test]
    fn every_value_of_a_live_node_is_passed_over() {
        for (serialization, least) in [(Advanced, 53), (Json, 48)] {
            let Some(frames) = from_node(serialization, include_str!("every_value.js")) else {
                return eprintln!("skipped: no node to ask");
            };
            let mut sessions = 0;
            for frame in &frames {
                let shown = String::from_utf8_lossy(frame);
                let mark =
                    if serialization == Advanced { "\"\u{6}before\"" } else { "\"before\":\"" };
                let Some((_, name)) = shown.split_once(mark) else {
                    let ready = shown.contains("ready");
                    let expected = if ready { Message::Ready } else { Message::Other };
                    assert_eq!(read(serialization, frame), expected, "{shown}");
                    continue;
                };
                // Behind the mark comes the length of the name, in V8's.
                let name = name.trim_start_matches(|c: char| c.is_control());
                let Message::StickyConnection { sid } = read(serialization, frame) else {
                    panic!("not a session: {shown}");
                };
                let sid = String::from_utf8(sid).unwrap();
                assert!(name.starts_with(sid.strip_prefix("end-").unwrap()), "{sid}: {shown}");
                sessions += 1;
            }
            assert!(sessions >= least && frames.len() >= sessions + 7, "{sessions} sessions");
        }
    }
}
