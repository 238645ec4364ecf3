//! The packets that an adapter writes, byte by byte as its worker's Node does.

use bytes::Bytes;
use router::ipc::Serialization;
use router::shard::ring::{Mail, Packet, Party};

use super::sessions::worker;

/// A broadcast whose data holds a buffer of `size` bytes.
pub(crate) fn broadcast(serialization: Serialization, size: usize) -> Bytes {
    match serialization {
        Serialization::Advanced => {
            let mut payload = b"\xff\x0fo\"\x04typeI\x06\"\x04datao\"\x06packet\\\0\x0a".to_vec();
            let mut length = size;
            while length > 0x7f {
                payload.push(length.to_le_bytes()[0] | 0x80);
                length >>= 7;
            }
            payload.push(length.to_le_bytes()[0]);
            payload.extend(vec![b'x'; size]);
            payload.extend(b"{\x01\"\x03uid\"\x100123456789abcdef\"\x03nsp\"\x01/");
            payload.extend(b"\"\x06source\"\x0c_sio_adapter{\x05");
            framed(&payload)
        }
        Serialization::Json => {
            let mut line = b"{\"type\":3,\"data\":{\"packet\":\"".to_vec();
            line.extend(vec![b'x'; size]);
            line.extend(b"\"},\"uid\":\"0123456789abcdef\",\"nsp\":\"/\",");
            line.extend(b"\"source\":\"_sio_adapter\"}\n");
            Bytes::from(line)
        }
    }
}

/// A payload of V8's behind its length.
pub(crate) fn framed(payload: &[u8]) -> Bytes {
    let length = u32::try_from(payload.len()).expect("a short frame");
    Bytes::from([&length.to_be_bytes()[..], payload].concat())
}

/// A packet as it crosses a ring.
pub(crate) fn mail(frame: &Bytes) -> Mail {
    let from = worker(0);
    Mail::Packet(Packet {
        frame: frame.clone(),
        from: Party::Worker(from),
        to: None,
        learn: None,
        forget: None,
    })
}
