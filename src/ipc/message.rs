//! What a worker's frame means.
//!
//! Owns the vocabulary: Node's handles and cluster, the sticky sessions, the adapter's packets. The
//! order of the questions is Node's own: a message whose `cmd` starts with `NODE_` is internal, whatever
//! else it carries; only then may it be the application's. It refuses to fail: what it cannot understand
//! is [`Message::Other`], and the worker that sent it goes on.

use super::Serialization;
use super::frame::LENGTH_PREFIX;
pub use super::packet::{Packet, PacketKind, Uid};
use super::value::{Fields, Scalar, Top};
use super::{json, packet, reply, v8};

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
    /// Anything else: the application's own messages, unknown commands, values that cannot be read.
    Other,
}

/// A worker's wish to listen.
#[derive(Debug, PartialEq, Eq, Clone)]
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
#[derive(Debug, PartialEq, Eq, Hash, Clone, Copy)]
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
        Some(Top::Object(fields)) => meaning(fields),
        Some(Top::Text(text)) => text.is("ready").then_some(Message::Ready),
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
        reply::HANDLE => Message::Handle { key: fields.key.string() },
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
