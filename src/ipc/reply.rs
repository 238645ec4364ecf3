//! The frames the router writes to a worker.
//!
//! Owns their shapes, keys in the order in which Node's own primary writes them. Every function returns a
//! whole frame for either serialization; the ones said for every socket are constants. It refuses
//! to say when they are due: that is the channel's business.

use std::time::Duration;

use bytes::Bytes;

use super::Serialization;
use super::packet::{PacketKind, SOURCE, Uid};
use super::value::Value::{self, Int, Null, Object, Text};
use super::{json, v8};

/// The address a server got, as the worker's `server.address()` will give it.
#[derive(Debug, PartialEq, Eq, Clone)]
pub struct SockName {
    /// The host's address.
    pub address: String,
    /// `IPv4` or `IPv6`.
    pub family: &'static str,
    /// The port; the one asked for, unless that was 0.
    pub port: u16,
}

/// What no application sees, since Node keeps what starts so to itself.
const PRELOAD: Value<'static> = Text("NODE_ROUTER");
const CLUSTER: Value<'static> = Text("NODE_CLUSTER");
/// What a message is called that a socket comes with.
pub(super) const HANDLE: &str = "NODE_HANDLE";

#[cfg(test)]
const HANDLE_ACK: Value<'static> = Object(&[("cmd", Text("NODE_HANDLE_ACK"))]);
#[cfg(test)]
const HANDLE_NACK: Value<'static> = Object(&[("cmd", Text("NODE_HANDLE_NACK"))]);
#[cfg(test)]
const STICKY_CONNECTION: Value<'static> = Object(&[
    ("cmd", Text(HANDLE)),
    ("type", Text("net.Socket")),
    ("msg", Object(&[("type", Text("sticky:connection")), ("data", Text(""))])),
]);
const SHUTDOWN: Value<'static> = Text("shutdown");

/// The worker's socket was received.
pub fn handle_ack(serialization: Serialization) -> Bytes {
    Bytes::from_static(match serialization {
        Serialization::Advanced => b"\0\0\0\x1b\xff\x0fo\"\x03cmd\"\x0fNODE_HANDLE_ACK{\x01",
        Serialization::Json => b"{\"cmd\":\"NODE_HANDLE_ACK\"}\n",
    })
}

/// The worker's socket was not received; it will send it again.
pub fn handle_nack(serialization: Serialization) -> Bytes {
    Bytes::from_static(match serialization {
        Serialization::Advanced => b"\0\0\0\x1c\xff\x0fo\"\x03cmd\"\x10NODE_HANDLE_NACK{\x01",
        Serialization::Json => b"{\"cmd\":\"NODE_HANDLE_NACK\"}\n",
    })
}

/// A client's socket for a sticky worker. The empty `data` says that all its bytes are still unread.
pub fn sticky_connection(serialization: Serialization) -> Bytes {
    Bytes::from_static(match serialization {
        Serialization::Advanced => {
            b"\0\0\0\x52\xff\x0fo\"\x03cmd\"\x0bNODE_HANDLE\"\x04type\"\x0anet.Socket\"\x03msgo\
              \"\x04type\"\x11sticky:connection\"\x04data\"\0{\x02{\x03"
        }
        Serialization::Json => {
            b"{\"cmd\":\"NODE_HANDLE\",\"type\":\"net.Socket\",\
              \"msg\":{\"type\":\"sticky:connection\",\"data\":\"\"}}\n"
        }
    })
}

/// A client's socket for the worker's server `key`.
pub fn new_connection(serialization: Serialization, key: &str, seq: i64) -> Bytes {
    let message =
        [("cmd", CLUSTER), ("act", Text("newconn")), ("key", Text(key)), ("seq", Int(seq))];
    native_handle(serialization, &message)
}

/// A client's socket, explained to the preload: for the worker's server of this number (0: for a
/// sticky worker), after the bytes sent under `id` (0: none), from this peer (empty: as the kernel
/// has it).
pub fn explained_connection(
    serialization: Serialization,
    id: i64,
    server: u32,
    peer: &str,
) -> Bytes {
    let message = [
        ("cmd", PRELOAD),
        ("act", Text("connection")),
        ("id", Int(id)),
        ("server", Int(i64::from(server))),
        ("peer", Text(peer)),
    ];
    native_handle(serialization, &message)
}

/// Bytes of a connection that were read elsewhere; one character a byte.
pub fn carried_bytes(serialization: Serialization, id: i64, bytes: &[u8]) -> Bytes {
    let text: String = bytes.iter().copied().map(char::from).collect();
    let message =
        [("cmd", PRELOAD), ("act", Text("bytes")), ("id", Int(id)), ("data", Text(&text))];
    write(serialization, Object(&message))
}

/// The router listens for the worker. `sockname` is left out for Unix sockets; `ticket_keys` are
/// those of the first worker, for a TLS server (which takes no answer without them).
pub fn listen_reply(
    serialization: Serialization,
    ack: i64,
    seq: i64,
    key: &str,
    sockname: Option<&SockName>,
    ticket_keys: Option<&str>,
) -> Bytes {
    let keys = ticket_keys.map(|keys| [("ticketKeys", Text(keys))]);
    let data = keys.as_ref().map_or(Null, |keys| Object(keys));
    let head =
        [("cmd", CLUSTER), ("errno", Null), ("key", Text(key)), ("ack", Int(ack)), ("data", data)];
    let [cmd, errno, key, ack, data] = head;
    match sockname {
        None => write(serialization, Object(&[cmd, errno, key, ack, data, ("seq", Int(seq))])),
        Some(name) => {
            let name = [
                ("address", Text(&name.address)),
                ("family", Text(name.family)),
                ("port", Int(i64::from(name.port))),
            ];
            let name = ("sockname", Object(&name));
            write(serialization, Object(&[cmd, errno, key, ack, data, name, ("seq", Int(seq))]))
        }
    }
}

/// The router cannot listen for the worker: `errno` is negative, as libuv has it.
pub fn listen_error(
    serialization: Serialization,
    ack: i64,
    seq: i64,
    key: &str,
    errno: i32,
) -> Bytes {
    write(serialization, Object(&listen_outcome(errno, key, ack, seq)))
}

/// The worker shall listen itself, on the bound socket that goes with this frame.
pub fn shared_handle_reply(serialization: Serialization, ack: i64, seq: i64, key: &str) -> Bytes {
    native_handle(serialization, &listen_outcome(0, key, ack, seq))
}

/// The worker's request `ack` has been heard.
pub fn cluster_ack(serialization: Serialization, ack: i64, seq: i64) -> Bytes {
    write(serialization, Object(&[("cmd", CLUSTER), ("ack", Int(ack)), ("seq", Int(seq))]))
}

/// The worker shall close its servers, then its channel.
pub fn disconnect(serialization: Serialization, seq: i64) -> Bytes {
    write(
        serialization,
        Object(&[("cmd", CLUSTER), ("act", Text("disconnect")), ("seq", Int(seq))]),
    )
}

/// All sockets that the worker sent under `key` are closed.
pub fn socket_all_closed(serialization: Serialization, key: &str) -> Bytes {
    write(serialization, Object(&[("cmd", Text("NODE_SOCKET_ALL_CLOSED")), ("key", Text(key))]))
}

/// So many of the sockets that the worker sent under `key` are open.
pub fn socket_count(serialization: Serialization, key: &str, count: i64) -> Bytes {
    let cmd = Text("NODE_SOCKET_COUNT");
    write(serialization, Object(&[("cmd", cmd), ("key", Text(key)), ("count", Int(count))]))
}

/// The application shall finish, where it listens for this word rather than for a signal.
pub fn shutdown(serialization: Serialization) -> Bytes {
    write(serialization, SHUTDOWN)
}

/// Tells the other adapters that the one of `uid` is gone, so that none waits for its answers.
pub fn adapter_close(serialization: Serialization, uid: &Uid, nsp: &str) -> Bytes {
    introduction(serialization, PacketKind::AdapterClose, uid, nsp)
}

/// Tells the other adapters that the one of `uid` lives.
pub fn adapter_heartbeat(serialization: Serialization, uid: &Uid, nsp: &str) -> Bytes {
    introduction(serialization, PacketKind::Heartbeat, uid, nsp)
}

fn introduction(serialization: Serialization, kind: PacketKind, uid: &Uid, nsp: &str) -> Bytes {
    let packet = [
        ("type", Int(kind.number())),
        ("uid", Text(uid.as_str())),
        ("nsp", Text(nsp)),
        ("source", Text(SOURCE)),
    ];
    write(serialization, Object(&packet))
}

fn native_handle(serialization: Serialization, message: &[(&str, Value<'_>)]) -> Bytes {
    let envelope = [("cmd", Text(HANDLE)), ("type", Text("net.Native")), ("msg", Object(message))];
    write(serialization, Object(&envelope))
}

fn listen_outcome(errno: i32, key: &str, ack: i64, seq: i64) -> [(&'static str, Value<'_>); 6] {
    [
        ("cmd", CLUSTER),
        ("errno", Int(i64::from(errno))),
        ("key", Text(key)),
        ("ack", Int(ack)),
        ("data", Null),
        ("seq", Int(seq)),
    ]
}

fn write(serialization: Serialization, value: Value<'_>) -> Bytes {
    Bytes::from(match serialization {
        Serialization::Advanced => v8::write(&value),
        Serialization::Json => json::write(&value),
    })
}

/// Asks the preload to end the worker's sessions: in the last part of the time it has those that
/// are left are disconnected.
pub fn drain(serialization: Serialization, within: Duration, over: Duration) -> Bytes {
    let millis = |time: Duration| Int(i64::try_from(time.as_millis()).unwrap_or(i64::MAX));
    write(
        serialization,
        Object(&[
            ("cmd", PRELOAD),
            ("act", Text("drain")),
            ("within", millis(within)),
            ("over", millis(over)),
        ]),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipc::Serialization::{Advanced, Json};
    use crate::ipc::javascript::unhex;
    use crate::ipc::message::{Message, read};

    #[test]
    fn constants_are_what_the_writers_write() {
        for s in [Advanced, Json] {
            assert_eq!(handle_ack(s), write(s, HANDLE_ACK));
            assert_eq!(handle_nack(s), write(s, HANDLE_NACK));
            assert_eq!(sticky_connection(s), write(s, STICKY_CONNECTION));
            assert_eq!(read(s, &handle_ack(s)), Message::HandleAck);
            assert_eq!(read(s, &handle_nack(s)), Message::HandleNack);
            assert_eq!(
                read(s, &new_connection(s, "k€", 1)),
                Message::Handle { key: None, returned: None }
            );
        }
        assert_eq!(sticky_connection(Advanced).len(), 86);
        let wide = write(Advanced, Object(&[("aa", Text("€"))]));
        assert_eq!(wide[4..], unhex("ff0f6f2202616100 6302ac207b01"));
    }

    #[test]
    fn the_end_of_an_adapter_is_read_as_it_is_written() {
        let uid = Uid::new(b"0123456789abcdef").unwrap();
        for s in [Advanced, Json] {
            for nsp in ["/", "/é", "/€"] {
                let Message::Packet(packet) = read(s, &adapter_close(s, &uid, nsp)) else {
                    panic!("not a packet");
                };
                assert_eq!(packet.kind, PacketKind::AdapterClose);
                assert_eq!((packet.uid, packet.nsp.as_deref()), (Some(uid), Some(nsp)));
            }
        }
    }

    /// A reply is right in both serializations if it is this line, and V8's bytes say the same.
    fn assert_reply(reply: impl Fn(Serialization) -> Bytes, line: &str) {
        assert_eq!(String::from_utf8_lossy(&reply(Json)), format!("{line}\n"));
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        let mut payload = vec![0xff, 0x0f];
        v8_of(&value, line, &mut payload);
        let length = u32::try_from(payload.len()).unwrap();
        assert_eq!(reply(Advanced), [&length.to_be_bytes()[..], &payload].concat(), "{line}");
    }

    /// What V8 would write of a value; its keys in the order in which they stand in the line.
    fn v8_of(value: &serde_json::Value, line: &str, payload: &mut Vec<u8>) {
        use serde_json::Value as J;
        let text = |text: &str, payload: &mut Vec<u8>| {
            payload.extend([b'"', u8::try_from(text.len()).unwrap()]);
            payload.extend(text.as_bytes());
        };
        match value {
            J::Null => payload.push(b'0'),
            J::Number(number) => {
                let zigzag = match number.as_i64().unwrap() {
                    below @ ..0 => below.unsigned_abs() * 2 - 1,
                    int => int.unsigned_abs() * 2,
                };
                payload.push(b'I');
                match zigzag {
                    0..0x80 => payload.push(u8::try_from(zigzag).unwrap()),
                    0x80..0x4000 => payload.extend(
                        [zigzag & 0x7f | 0x80, zigzag >> 7].map(|b| u8::try_from(b).unwrap()),
                    ),
                    _ => payload.extend(
                        [zigzag & 0x7f | 0x80, zigzag >> 7 & 0x7f | 0x80, zigzag >> 14]
                            .map(|b| u8::try_from(b).unwrap()),
                    ),
                }
            }
            J::String(string) => text(string, payload),
            J::Object(pairs) => {
                payload.push(b'o');
                let mut pairs: Vec<_> = pairs.iter().collect();
                pairs.sort_by_key(|(key, _)| line.find(&format!("\"{key}\":")));
                for (key, value) in &pairs {
                    text(key, payload);
                    v8_of(value, line, payload);
                }
                payload.extend([b'{', u8::try_from(pairs.len()).unwrap()]);
            }
            _ => panic!("{value} is not needed"),
        }
    }

    #[test]
    fn replies_have_the_shapes_of_nodes_primary() {
        let [within, over] = [30, 10].map(Duration::from_secs);
        assert_reply(
            |s| drain(s, within, over),
            r#"{"cmd":"NODE_ROUTER","act":"drain","within":30000,"over":10000}"#,
        );
        assert_reply(
            |s| new_connection(s, "k", 5),
            r#"{"cmd":"NODE_HANDLE","type":"net.Native","msg":{"cmd":"NODE_CLUSTER","act":"newconn","key":"k","seq":5}}"#,
        );
        let name = SockName { address: "0.0.0.0".to_owned(), family: "IPv4", port: 3000 };
        assert_reply(
            |s| listen_reply(s, 1, 100, "k", Some(&name), Some("0f")),
            r#"{"cmd":"NODE_CLUSTER","errno":null,"key":"k","ack":1,"data":{"ticketKeys":"0f"},"sockname":{"address":"0.0.0.0","family":"IPv4","port":3000},"seq":100}"#,
        );
        assert_reply(
            |s| listen_reply(s, 1, 0, "k", None, None),
            r#"{"cmd":"NODE_CLUSTER","errno":null,"key":"k","ack":1,"data":null,"seq":0}"#,
        );
        assert_reply(
            |s| listen_error(s, 1, 2, "k", -98),
            r#"{"cmd":"NODE_CLUSTER","errno":-98,"key":"k","ack":1,"data":null,"seq":2}"#,
        );
        assert_reply(
            |s| shared_handle_reply(s, 1, 2, "k"),
            r#"{"cmd":"NODE_HANDLE","type":"net.Native","msg":{"cmd":"NODE_CLUSTER","errno":0,"key":"k","ack":1,"data":null,"seq":2}}"#,
        );
        assert_reply(|s| cluster_ack(s, 63, 64), r#"{"cmd":"NODE_CLUSTER","ack":63,"seq":64}"#);
        assert_reply(|s| disconnect(s, 0), r#"{"cmd":"NODE_CLUSTER","act":"disconnect","seq":0}"#);
        assert_reply(
            |s| socket_all_closed(s, "4:a:1"),
            r#"{"cmd":"NODE_SOCKET_ALL_CLOSED","key":"4:a:1"}"#,
        );
        assert_reply(
            |s| socket_count(s, "k", 2),
            r#"{"cmd":"NODE_SOCKET_COUNT","key":"k","count":2}"#,
        );
        assert_reply(shutdown, r#""shutdown""#);
        let uid = Uid::new(b"0123456789abcdef").unwrap();
        assert_reply(
            |s| adapter_close(s, &uid, "/"),
            r#"{"type":13,"uid":"0123456789abcdef","nsp":"/","source":"_sio_adapter"}"#,
        );
        assert_reply(
            |s| adapter_heartbeat(s, &uid, "/"),
            r#"{"type":2,"uid":"0123456789abcdef","nsp":"/","source":"_sio_adapter"}"#,
        );
        assert_reply(
            sticky_connection,
            r#"{"cmd":"NODE_HANDLE","type":"net.Socket","msg":{"type":"sticky:connection","data":""}}"#,
        );
    }

    #[test]
    fn the_frames_of_every_socket_are_what_node_was_seen_to_write() {
        let cases = [
            (handle_ack(Advanced), "0000001b ff0f6f2203636d64220f4e4f44455f48414e444c455f41434b7b01"),
            (
                handle_nack(Advanced),
                "0000001c ff0f6f2203636d6422104e4f44455f48414e444c455f4e41434b7b01",
            ),
            (
                sticky_connection(Advanced),
                "00000052 ff0f6f2203636d64220b4e4f44455f48414e444c45220474797065220a6e65742e536f636b
                 657422036d73676f2204747970652211737469636b793a636f6e6e656374696f6e22046461746122
                 007b027b03",
            ),
        ];
        for (frame, hex) in cases {
            assert_eq!(frame, unhex(hex));
        }
    }
}
