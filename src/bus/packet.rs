//! A packet between a worker's frame and the bus: its four forms.
//!
//! | where | form |
//! |---|---|
//! | a worker's channel | a frame: `type`, `data`, `uid`, `nsp`, `source`, in an answer `requesterUid` |
//! | the stream | an entry: `uid`, `nsp`, `type`, and `data` in JSON, or in base64 of MessagePack where it holds a buffer |
//! | a namespace's channel | MessagePack of `type`, `data`, `uid`, `nsp`: what is worth nothing later, requests and signs of life |
//! | an adapter's channel | the same: an answer to it |
//!
//! An entry of a router's has one field more, [`MARK`], which no other reader looks at: who wrote it,
//! and as which of his. By it a host knows its own entries again, after a restart too.
//!
//! What comes from the bus is looked at before a worker gets it: the adapters there trust each other,
//! and end their process over a packet that lacks what they reach for.

use std::borrow::Cow;

use super::value::{Untranslatable, Value};
use super::{base64, json, msgpack, v8};
use crate::ipc::Serialization;
use crate::ipc::frame::MAX_FRAME;
use crate::ipc::message::{PacketKind, Uid};
use crate::ipc::packet::SOURCE;

/// The field of an entry that a router adds.
pub const MARK: &str = "router";
/// Whose uid the emitters write: nobody's.
pub const EMITTER: &str = "emitter";

/// A packet of an adapter's.
#[derive(Clone, Debug, PartialEq)]
pub struct Packet<'a> {
    /// What it is.
    pub kind: PacketKind,
    /// Who sends it.
    pub uid: Cow<'a, str>,
    /// In which namespace, by the name that it has on workers' channels.
    pub nsp: Cow<'a, str>,
    /// What it carries.
    pub data: Value<'a>,
    /// Whose request it answers.
    pub requester: Option<Cow<'a, str>>,
}

/// How a packet travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// As an entry of the stream.
    Stream,
    /// To all who listen now.
    Everyone,
    /// To the one that has asked.
    Requester,
}

impl<'a> Packet<'a> {
    /// Reads a worker's frame.
    ///
    /// # Errors
    /// It holds what cannot leave this host.
    pub fn of_frame(serialization: Serialization, frame: &'a [u8]) -> Result<Self, Untranslatable> {
        let value = match serialization {
            Serialization::Advanced => v8::read(frame)?,
            Serialization::Json => json::read(frame)?,
        };
        Self::of_value(value)
    }

    /// Reads what came on a channel.
    ///
    /// # Errors
    /// It is no packet, or one that would hurt a worker.
    pub fn of_payload(payload: &'a [u8]) -> Result<Self, Untranslatable> {
        bounded(payload)?;
        Self::of_value(msgpack::read(payload)?)?.proven()
    }

    /// Reads the fields of an entry. `data` must have gone through [`decoded`] first.
    ///
    /// # Errors
    /// It is no packet, or one that would hurt a worker.
    pub fn of_entry(
        uid: &'a [u8],
        nsp: &'a [u8],
        kind: &[u8],
        data: Option<&'a Data>,
    ) -> Result<Self, Untranslatable> {
        let kind: i64 = text(kind)?.parse().map_err(|_| Untranslatable::Unreadable)?;
        let data = match data {
            None => Value::Undefined,
            Some(Data::Json(text)) => json::read(text)?,
            Some(Data::MessagePack(bytes)) => msgpack::read(bytes)?,
        };
        let packet = Self {
            kind: PacketKind::from(kind),
            uid: text(uid)?.into(),
            nsp: text(nsp)?.into(),
            data,
            requester: None,
        };
        packet.proven()
    }

    fn of_value(value: Value<'a>) -> Result<Self, Untranslatable> {
        let Value::Object(pairs) = value else { return Err(Untranslatable::Unreadable) };
        let (mut kind, mut uid, mut nsp, mut requester) = (None, None, None, None);
        let mut data = Value::Undefined;
        for (key, value) in pairs {
            match (&*key, value) {
                ("type", value) => kind = value.integer().map(PacketKind::from),
                ("uid", Value::Text(text)) => uid = Some(text),
                ("nsp", Value::Text(text)) => nsp = Some(text),
                ("requesterUid", Value::Text(text)) => requester = Some(text),
                ("data", value) => data = value,
                _ => {}
            }
        }
        let (Some(kind), Some(uid), Some(nsp)) = (kind, uid, nsp) else {
            return Err(Untranslatable::Unreadable);
        };
        Ok(Self { kind, uid, nsp, data, requester })
    }

    /// The sender's id, if it is one that a router keeps.
    #[must_use]
    pub fn sender(&self) -> Option<Uid> {
        Uid::new(self.uid.as_bytes())
    }

    /// Whether somebody waits for an answer.
    #[must_use]
    pub fn asks(&self) -> bool {
        self.data.get("requestId") != &Value::Undefined
    }

    /// How it leaves this host.
    #[must_use]
    pub fn way(&self) -> Way {
        match self.kind {
            _ if self.requester.is_some() => Way::Requester,
            // Signs of life are of now. (The official adapter of these versions has none.)
            PacketKind::InitialHeartbeat
            | PacketKind::Heartbeat
            | PacketKind::AdapterClose
            | PacketKind::FetchSockets
            | PacketKind::ServerSideEmit => Way::Everyone,
            PacketKind::Broadcast if self.asks() => Way::Everyone,
            _ => Way::Stream,
        }
    }

    /// The frame for a worker.
    #[must_use]
    pub fn into_frame(self, serialization: Serialization) -> Vec<u8> {
        let mut pairs = vec![("type".into(), kind(self.kind))];
        if self.data != Value::Undefined {
            pairs.push(("data".into(), self.data));
        }
        pairs.push(("uid".into(), Value::Text(self.uid)));
        pairs.push(("nsp".into(), Value::Text(self.nsp)));
        pairs.push(("source".into(), SOURCE.into()));
        if let Some(requester) = self.requester {
            pairs.push(("requesterUid".into(), Value::Text(requester)));
        }
        let value = Value::Object(pairs);
        match serialization {
            Serialization::Advanced => v8::write(&value),
            Serialization::Json => {
                let mut line = json::write(&value);
                line.push(b'\n');
                line
            }
        }
    }

    /// What is published of it on a channel. `None`: it is too long.
    #[must_use]
    pub fn into_payload(self) -> Option<Vec<u8>> {
        let mut pairs = vec![("type".into(), kind(self.kind))];
        if self.data != Value::Undefined {
            pairs.push(("data".into(), self.data));
        }
        pairs.push(("uid".into(), Value::Text(self.uid)));
        pairs.push(("nsp".into(), Value::Text(self.nsp)));
        msgpack::write(&Value::Object(pairs))
    }

    /// The field `data` of its entry; `None` within: it has none. `None`: it is too long.
    #[must_use]
    pub fn entry_data(&self) -> Option<Option<Vec<u8>>> {
        if !self.data.is_some() {
            return Some(None);
        }
        // Only broadcasts are looked at for buffers, there as here.
        if self.kind == PacketKind::Broadcast && self.data.has_binary() {
            return msgpack::write(&self.data).map(|bytes| Some(base64::encode(&bytes)));
        }
        Some(Some(json::write(&self.data)))
    }

    /// Itself, if it has all that an adapter reaches for.
    fn proven(self) -> Result<Self, Untranslatable> {
        let data = &self.data;
        let list = |value: &Value<'_>| value.list().is_some();
        let absent_or_list = |value: &Value<'_>| !value.is_some() || list(value);
        let options = || {
            let opts = data.get("opts");
            let flags = opts.get("flags");
            matches!(opts, Value::Object(_))
                && absent_or_list(opts.get("rooms"))
                && absent_or_list(opts.get("except"))
                && (!flags.is_some() || matches!(flags, Value::Object(_)))
        };
        let answers = || matches!(data.get("requestId"), Value::Text(_));
        let sound = match self.kind {
            PacketKind::InitialHeartbeat | PacketKind::Heartbeat | PacketKind::AdapterClose => true,
            PacketKind::Broadcast => options() && list(data.get("packet").get("data")),
            PacketKind::SocketsJoin | PacketKind::SocketsLeave => {
                options() && list(data.get("rooms"))
            }
            PacketKind::DisconnectSockets => options(),
            PacketKind::FetchSockets => options() && answers(),
            PacketKind::FetchSocketsResponse => {
                let socket = |socket: &Value<'_>| list(socket.get("rooms"));
                answers() && data.get("sockets").list().is_some_and(|all| all.iter().all(socket))
            }
            PacketKind::ServerSideEmit => {
                let event = data.get("packet").list().and_then(<[_]>::first);
                event.is_some_and(|event| event.text().is_some())
            }
            PacketKind::ServerSideEmitResponse | PacketKind::BroadcastAck => answers(),
            PacketKind::BroadcastClientCount => {
                answers() && matches!(data.get("clientCount"), Value::Number(_))
            }
            // What a worker does not know it passes over.
            PacketKind::Unknown(_) => true,
        };
        let named = !self.uid.is_empty() && !self.nsp.is_empty();
        (sound && named).then_some(self).ok_or(Untranslatable::Unreadable)
    }
}

fn kind(kind: PacketKind) -> Value<'static> {
    Value::Number(super::value::number(kind.number()))
}

/// The field `data` of an entry, out of its outer form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// A text.
    Json(Vec<u8>),
    /// Bytes.
    MessagePack(Vec<u8>),
}

fn text(bytes: &[u8]) -> Result<&str, Untranslatable> {
    std::str::from_utf8(bytes).map_err(|_| Untranslatable::Unreadable)
}

/// What the field `data` holds: JSON if it begins as an object of it does, else base64.
///
/// # Errors
/// It is too long, or neither.
pub fn decoded(field: Vec<u8>) -> Result<Option<Data>, Untranslatable> {
    bounded(&field)?;
    match field.first() {
        None => Ok(None),
        Some(b'{') => Ok(Some(Data::Json(field))),
        Some(_) => match base64::decode(&field) {
            Some(bytes) => Ok(Some(Data::MessagePack(bytes))),
            None => Err(Untranslatable::Unreadable),
        },
    }
}

fn bounded(bytes: &[u8]) -> Result<(), Untranslatable> {
    /// Base64 makes four characters of three bytes, and JSON may escape.
    const MAX: usize = MAX_FRAME * 2;
    match bytes.len() {
        got if got > MAX => Err(Untranslatable::TooLong { got, max: MAX }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::value::Pairs;
    use super::*;
    use crate::ipc::message::{self, Message};

    fn object(pairs: &[(&'static str, Value<'static>)]) -> Value<'static> {
        let pairs: Pairs<'_> = pairs.iter().map(|(k, v)| ((*k).into(), v.clone())).collect();
        Value::Object(pairs)
    }

    fn opts() -> Value<'static> {
        object(&[("rooms", Value::List(vec!["a".into()])), ("except", Value::List(vec![]))])
    }

    fn broadcast(more: &[(&'static str, Value<'static>)]) -> Packet<'static> {
        let packet = object(&[("type", 2.into()), ("data", Value::List(vec!["hi".into()]))]);
        let pairs = [&[("packet", packet), ("opts", opts())][..], more].concat();
        packet_of(PacketKind::Broadcast, object(&pairs))
    }

    fn packet_of(kind: PacketKind, data: Value<'static>) -> Packet<'static> {
        let uid = "0123456789abcdef".into();
        Packet { kind, uid, nsp: "/".into(), data, requester: None }
    }

    #[test]
    fn a_frame_is_what_the_router_knows_from_its_workers() {
        for serialization in [Serialization::Advanced, Serialization::Json] {
            for requester in [None, Some("fedcba9876543210".into())] {
                let packet = Packet { requester: requester.clone(), ..broadcast(&[]) };
                let frame = packet.clone().into_frame(serialization);
                assert_eq!(Packet::of_frame(serialization, &frame), Ok(packet));
                let Message::Packet(read) = message::read(serialization, &frame) else {
                    panic!("not a packet");
                };
                assert_eq!(read.kind, PacketKind::Broadcast);
                let asker = requester.and_then(|uid: Cow<'_, str>| Uid::new(uid.as_bytes()));
                assert_eq!(read.requester, asker);
            }
        }
    }

    #[test]
    fn an_entry_is_json_or_messagepack_by_what_it_holds() {
        for (more, json) in [
            (object(&[("a", 1.into())]), true),
            (Value::Binary(vec![1, 2].into()), false),
            (object(&[("deep", Value::List(vec![Value::Binary(vec![].into())]))]), false),
        ] {
            let packet = broadcast(&[("more", more)]);
            let field = packet.entry_data().expect("short").expect("there is some");
            assert_eq!(field.starts_with(b"{"), json);
            let data = decoded(field).expect("sound");
            let (uid, nsp) = (packet.uid.as_bytes(), packet.nsp.as_bytes());
            assert_eq!(Packet::of_entry(uid, nsp, b"3", data.as_ref()), Ok(packet.clone()));
        }
    }

    #[test]
    fn ways_are_those_of_the_official_adapter() {
        assert_eq!(broadcast(&[]).way(), Way::Stream);
        assert_eq!(broadcast(&[("requestId", "x".into())]).way(), Way::Everyone);
        for (kind, way) in [
            (PacketKind::SocketsJoin, Way::Stream),
            (PacketKind::SocketsLeave, Way::Stream),
            (PacketKind::DisconnectSockets, Way::Stream),
            (PacketKind::FetchSockets, Way::Everyone),
            (PacketKind::ServerSideEmit, Way::Everyone),
        ] {
            assert_eq!(packet_of(kind, Value::Undefined).way(), way);
        }
        let answer = Packet { requester: Some("a".into()), ..broadcast(&[]) };
        assert_eq!(answer.way(), Way::Requester);
    }

    #[test]
    fn what_would_hurt_a_worker_is_refused() {
        let whole = [
            packet_of(PacketKind::Heartbeat, Value::Undefined),
            broadcast(&[]),
            packet_of(
                PacketKind::SocketsJoin,
                object(&[("opts", opts()), ("rooms", Value::List(vec![]))]),
            ),
            packet_of(PacketKind::DisconnectSockets, object(&[("opts", opts())])),
            packet_of(
                PacketKind::ServerSideEmit,
                object(&[("packet", Value::List(vec!["e".into()]))]),
            ),
        ];
        for packet in whole {
            let payload = packet.clone().into_payload().expect("short");
            assert_eq!(Packet::of_payload(&payload), Ok(packet.clone()));
            let Value::Object(pairs) = &packet.data else { continue };
            // Each key of it is needed.
            for without in 0..pairs.len() {
                let mut pairs = pairs.clone();
                pairs.remove(without);
                let lacking = Packet { data: Value::Object(pairs), ..packet.clone() };
                let payload = lacking.into_payload().expect("short");
                assert_eq!(Packet::of_payload(&payload), Err(Untranslatable::Unreadable));
            }
        }
        for (uid, nsp, kind) in [("", "/", "2"), ("a", "", "2"), ("a", "/", ""), ("a", "/", "x")] {
            let entry = Packet::of_entry(uid.as_bytes(), nsp.as_bytes(), kind.as_bytes(), None);
            assert_eq!(entry, Err(Untranslatable::Unreadable));
        }
        assert_eq!(decoded(b"{".to_vec()).map(|data| data.is_some()), Ok(true));
        assert_eq!(decoded(b"!!".to_vec()), Err(Untranslatable::Unreadable));
        assert_eq!(decoded(vec![]), Ok(None));
    }

    #[test]
    fn any_bytes_are_survived() {
        bolero::check!().with_type::<(Vec<u8>, u8)>().for_each(|(bytes, kind)| {
            let _any = Packet::of_payload(bytes);
            let kind = kind.to_string();
            if let Ok(data) = decoded(bytes.clone()) {
                let _any = Packet::of_entry(b"uid", b"/", kind.as_bytes(), data.as_ref());
            }
        });
    }
}
