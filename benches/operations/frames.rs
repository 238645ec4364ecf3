//! Frames in, what they mean, frames out.
//!
//! What allocates: a frame is copied once out of the kernel's bytes (one allocation), and counted
//! by reference from its second owner on (another, small one). A message that the ends do not tell is
//! read in full, which allocates for its fields and for what of them is kept.

use std::hint::black_box;

use bytes::Bytes;
use router::ipc::Serialization::{self, Advanced, Json};
use router::ipc::frame::{Deframer, MAX_FRAME};
use router::ipc::message::{Message, read};
use router::ipc::reply;
use router::shard::MAX_OUT_QUEUE;
use router::shard::channel::{Channel, Write};

use super::packets::{broadcast, framed};
use super::sessions::worker;
use super::{FREE, Judge, Terms};

/// As much as one read of a channel gives.
const CHUNK: usize = 16 << 10;

pub(super) fn all(judge: &mut impl Judge) {
    for serialization in [Advanced, Json] {
        classify(judge, serialization);
        deframe(judge, serialization);
    }
    read_in_full(judge);
    write(judge);
}

fn classify(judge: &mut impl Judge, serialization: Serialization) {
    for size in [100, 4096] {
        let frame = broadcast(serialization, size);
        assert!(matches!(read(serialization, &frame), Message::Packet(_)));
        let name = format!("classify/broadcast of {size}, {serialization}");
        judge.judge(&name, FREE, || read(serialization, black_box(&frame)));
    }
}

/// What has no packet's ends.
fn read_in_full(judge: &mut impl Judge) {
    const ID: &[u8] =
        b"\"\x03uid\"\x100123456789abcdef\"\x03nsp\"\x01/\"\x06source\"\x0c_sio_adapter";
    let heartbeat = framed(&[b"\xff\x0fo\"\x04typeI\x04", ID, b"{\x04"].concat());
    let line =
        b"{\"type\":2,\"uid\":\"0123456789abcdef\",\"nsp\":\"/\",\"source\":\"_sio_adapter\"}\n";
    // A broadcast whose keys are in another order: its data holds an array of a hundred objects.
    let object = b"o\"\x02idI\x54\"\x04nameo\"\x05first\"\x05Grace\"\x04last\"\x06Hopper{\x02{\x02";
    let array = [&b"A\x64"[..], &object.repeat(100), b"$\0\x64"].concat();
    let data = [&b"\"\x04datao\"\x06packet"[..], &array, b"{\x01"].concat();
    let odd = framed(&[b"\xff\x0fo", ID, b"\"\x04typeI\x06", &data, b"{\x05"].concat());
    let sticky: &[u8] = b"\0\0\0\x3a\xff\x0fo\"\x04type\"\x11sticky:connection\"\x04data\"\x14\
        lv_VI97HAXpY6yYWAAAC{\x02";
    let packets: [(&str, Serialization, &[u8], u64); 3] = [
        ("heartbeat, advanced", Advanced, &heartbeat, 2),
        ("heartbeat, json", Json, line, 2),
        ("odd broadcast of 3,400, advanced", Advanced, &odd, 3),
    ];
    for (name, serialization, frame, allocations) in packets {
        assert!(matches!(read(serialization, frame), Message::Packet(_)), "{name}");
        judge.judge(&format!("read/{name}"), FREE.allocating(allocations), || {
            read(serialization, black_box(frame))
        });
    }
    assert!(matches!(read(Advanced, sticky), Message::StickyConnection { .. }));
    judge.judge("read/sticky connection, advanced", FREE.allocating(2), || {
        read(Advanced, black_box(sticky))
    });
    for serialization in [Advanced, Json] {
        let ack = reply::handle_ack(serialization);
        assert_eq!(read(serialization, &ack), Message::HandleAck);
        judge.judge(&format!("read/hand-off's ACK, {serialization}"), FREE.allocating(1), || {
            read(serialization, black_box(&ack))
        });
    }
}

fn deframe(judge: &mut impl Judge, serialization: Serialization) {
    let small = broadcast(serialization, 10);
    let frames = CHUNK / small.len();
    let chunk = small.repeat(frames);
    let mut deframer = Deframer::new(serialization, MAX_FRAME);
    let terms = Terms::of(frames as u64).allocating(frames as u64);
    judge.judge(&format!("deframe/{frames} frames in a chunk, {serialization}"), terms, || {
        let mut whole = 0;
        let fed = deframer.feed(black_box(&chunk), &mut |_| whole += 1);
        assert_eq!((fed, whole), (Ok(()), frames));
    });
    // By doubling up to its size; where that is announced, from 64 KiB on.
    let large = broadcast(serialization, 1 << 20);
    let terms = match serialization {
        Advanced => Terms::of(65).allocating(5),
        Json => Terms::of(65).allocating(9),
    };
    judge.judge(&format!("deframe/a frame of 1 MiB in 65 chunks, {serialization}"), terms, || {
        let mut whole = 0;
        for chunk in large.chunks(CHUNK) {
            let fed = deframer.feed(black_box(chunk), &mut |_| whole += 1);
            assert_eq!(fed, Ok(()));
        }
        assert_eq!(whole, 1);
    });
}

/// Frames that wait for a worker go in one write: a list of them is all it allocates.
fn write(judge: &mut impl Judge) {
    #[expect(clippy::disallowed_methods, reason = "some time: none passes here")]
    let now = std::time::Instant::now();
    let frame = broadcast(Advanced, 100);
    let _counted = frame.clone();
    for frames in [1, 64] {
        let mut channel = Channel::new(worker(0), Advanced, false, MAX_OUT_QUEUE, now);
        let terms = Terms::of(frames).allocating(1);
        judge.judge(&format!("write/a batch of {frames}"), terms, || {
            (0..frames).for_each(|_| channel.push(frame.clone(), now));
            let Write::Frames { frames, .. } = channel.next_write() else { panic!("nothing") };
            channel.wrote(frames.iter().map(Bytes::len).sum(), now);
        });
    }
}
