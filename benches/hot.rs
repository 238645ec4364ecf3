//! What a request and a packet cost, without the kernel: `cargo bench`.
//!
//! The way of a request (its line, its session id, the table, the roster) is meant to take at
//! most 100 ns, which the reader compares, and must not allocate: the allocator below counts, and
//! nothing is measured if it does.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use router::http::request_line::{Head, parse};
use router::http::sid::sid;
use router::ipc::Serialization;
use router::ipc::frame::{Deframer, MAX_FRAME};
use router::ipc::message::{Message, read};
use router::ipc::reply;
use router::metrics::latency::Way;
use router::metrics::{Counter, Counters};
use router::route::WorkerId;
use router::route::balance::{Balance, pick_by_hash};
use router::route::roster::{Roster, Standing};
use router::route::self_routing::named;
use router::route::session_table::SessionTable;
use router::shard::ring::{Mail, Mailbox, Packet};
use router::sys::wake::Wake;

/// The system's allocator, and how often this thread asked it.
#[derive(Debug)]
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    ALLOCATIONS.set(ALLOCATIONS.get() + 1);
}

// SAFETY: every call is the system allocator's own, passed on as it came. The counter has no
// destructor and no lazy beginning, so that counting allocates nothing.
#[expect(unsafe_code, reason = "an allocator cannot be written without it")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are the ones asked for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How often `run` allocates.
fn allocations(run: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    run();
    ALLOCATIONS.get() - before
}

const REQUEST: &[u8] =
    b"GET /socket.io/?EIO=4&transport=polling&t=PVp1mQ8&sid=lv_VI97HAXpY6yYWAAAC HTTP/1.1\r\n\
    Host: chat.example.com\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\nAccept: */*\r\n\
    Accept-Encoding: gzip, deflate, br\r\nConnection: keep-alive\r\n\r\n";
const HANDSHAKE: &[u8] = b"GET /socket.io/?EIO=4&transport=polling&t=PVp1mQ8 HTTP/1.1\r\n\
    Host: chat.example.com\r\nConnection: keep-alive\r\n\r\n";

/// The same with an id that names slot 2, generation 1.
const SELF_ROUTING: &[u8] =
    b"GET /socket.io/?EIO=4&transport=polling&t=PVp1mQ8&sid=k3v8dVx1x5wrRwAIBinB HTTP/1.1\r\n\
    Host: chat.example.com\r\nConnection: keep-alive\r\n\r\n";

fn worker(slot: u16) -> WorkerId {
    WorkerId { slot, generation: 1 }
}

fn roster(workers: u16) -> Roster {
    let roster = Roster::new();
    (0..workers).for_each(|slot| roster.set(worker(slot), Standing::Ready));
    roster
}

/// An id of engine.io's length; any two numbers make two ids.
fn session(number: u64) -> [u8; 20] {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    std::array::from_fn(|_| {
        mixed = mixed.rotate_left(6);
        ALPHABET[usize::from(mixed.to_le_bytes()[0] & 63)]
    })
}

fn table(sessions: u64) -> SessionTable {
    let table = SessionTable::new();
    for number in 0..sessions {
        table
            .insert(&session(number), worker(u16::from(number.to_le_bytes()[0] & 3)))
            .expect("room");
    }
    table.insert(b"lv_VI97HAXpY6yYWAAAC", worker(2)).expect("room");
    table
}

fn line(head: &[u8]) -> router::http::request_line::RequestLine<'_> {
    match parse(head) {
        Head::Line(line) => line,
        head => panic!("not a request line: {head:?}"),
    }
}

/// A request's whole way to its worker.
fn route(head: &[u8], sessions: &SessionTable, roster: &Roster) -> Option<WorkerId> {
    match sid(line(head).target) {
        Some(sid) => match named(&sid) {
            Some(named) => roster.find(named).map(|(worker, _)| worker),
            None => {
                let owner = sessions.get(&sid);
                owner.filter(|worker| roster.standing(*worker) != Standing::Gone)
            }
        },
        None => Balance::LeastConnection.pick(roster, |_| true, 0, 0),
    }
}

fn request(c: &mut Criterion, few: bool) {
    let roster = roster(4);
    let sessions = table(if few { 1000 } else { 1_000_000 });
    assert_eq!(route(SELF_ROUTING, &sessions, &roster), Some(worker(2)));
    for head in [REQUEST, SELF_ROUTING, HANDSHAKE] {
        let count = allocations(|| {
            assert!(route(black_box(head), &sessions, &roster).is_some());
        });
        assert_eq!(count, 0, "the way of a request must not allocate");
    }

    let mut group = c.benchmark_group("request");
    group.bench_function("line", |b| b.iter(|| parse(black_box(REQUEST))));
    let target = line(REQUEST).target;
    group.bench_function("sid", |b| b.iter(|| sid(black_box(target)).is_some()));
    group.bench_function("line, sid, table, roster", |b| {
        b.iter(|| route(black_box(REQUEST), &sessions, &roster));
    });
    group.bench_function("line, self-routing sid, roster", |b| {
        b.iter(|| route(black_box(SELF_ROUTING), &sessions, &roster));
    });
    group.bench_function("line, no sid, least connection", |b| {
        b.iter(|| route(black_box(HANDSHAKE), &sessions, &roster));
    });
    group.finish();
}

/// What is written down of each hand-off.
fn count_hand_off(c: &mut Criterion) {
    let (roster, counters) = (roster(4), Counters::new());
    let hand_off = |micros| {
        let latency = Duration::from_micros(micros);
        counters.handed_off(Counter::HandedOffNamed, Way::Lane, latency);
        roster.took(worker(2));
    };
    assert_eq!(allocations(|| hand_off(black_box(30))), 0, "counting must not allocate");
    let mut group = c.benchmark_group("count");
    let mut micros = 0;
    group.bench_function("a hand-off and its latency", |b| {
        b.iter(|| {
            micros = (micros + 7_919) % 1_000_000;
            hand_off(black_box(micros));
        });
    });
    group.finish();
}

fn pick(c: &mut Criterion) {
    let mut group = c.benchmark_group("pick");
    for workers in [4, 64] {
        let roster = roster(workers);
        for balance in [Balance::LeastConnection, Balance::RoundRobin, Balance::Random] {
            group.bench_function(BenchmarkId::new(format!("{balance:?}"), workers), |b| {
                b.iter(|| balance.pick(&roster, |_| true, black_box(0x1234_5678), 50_000));
            });
        }
        group.bench_function(BenchmarkId::new("ByHash", workers), |b| {
            b.iter(|| pick_by_hash(&roster, |_| true, black_box(0x1234_5678)));
        });
    }
    group.finish();
}

fn sessions(c: &mut Criterion, few: bool) {
    const FULL: u64 = 1_000_000;
    let full = if few { 1000 } else { FULL };
    let sessions = table(full);
    let mut group = c.benchmark_group(format!("session table of {FULL}"));
    let mut number = 0;
    // Another session each time: what counts is the memory's latency.
    group.bench_function("get", |b| {
        b.iter(|| {
            number = (number + 7_919) % full;
            sessions.get(&session(number))
        });
    });
    group.bench_function("miss", |b| {
        b.iter(|| {
            number += 1;
            sessions.get(&session(number + FULL * 4))
        });
    });
    group.bench_function("insert again", |b| {
        b.iter(|| {
            number = (number + 7_919) % full;
            sessions.insert(&session(number), worker(1))
        });
    });
    let mut fresh = FULL;
    group.bench_function("insert", |b| {
        b.iter(|| {
            fresh += 1;
            sessions.insert(&session(fresh), worker(1))
        });
    });
    group.finish();
}

/// A broadcast whose data holds a buffer of `size` bytes, as an adapter writes it.
fn broadcast(serialization: Serialization, size: usize) -> Bytes {
    let mut frame = Vec::new();
    match serialization {
        Serialization::Advanced => {
            frame.extend(b"\0\0\0\0\xff\x0fo\"\x04typeI\x06\"\x04datao\"\x06packet\\\0\x0a");
            let mut length = size;
            while length > 0x7f {
                frame.push(length.to_le_bytes()[0] | 0x80);
                length >>= 7;
            }
            frame.push(length.to_le_bytes()[0]);
            frame.extend(vec![b'x'; size]);
            frame.extend(b"{\x01\"\x03uid\"\x100123456789abcdef\"\x03nsp\"\x01/");
            frame.extend(b"\"\x06source\"\x0c_sio_adapter{\x05");
            let length = u32::try_from(frame.len() - 4).expect("a short frame");
            frame[..4].copy_from_slice(&length.to_be_bytes());
        }
        Serialization::Json => {
            frame.extend(b"{\"type\":3,\"data\":{\"packet\":\"");
            frame.extend(vec![b'x'; size]);
            frame.extend(b"\"},\"uid\":\"0123456789abcdef\",\"nsp\":\"/\",");
            frame.extend(b"\"source\":\"_sio_adapter\"}\n");
        }
    }
    Bytes::from(frame)
}

fn classify(c: &mut Criterion) {
    let mut group = c.benchmark_group("classify");
    for serialization in [Serialization::Advanced, Serialization::Json] {
        for size in [100, 4096] {
            let frame = broadcast(serialization, size);
            assert!(matches!(read(serialization, &frame), Message::Packet(_)));
            let name = format!("broadcast of {size}, {serialization}");
            group.bench_function(name, |b| b.iter(|| read(serialization, black_box(&frame))));
        }
        let ack = reply::handle_ack(serialization);
        assert_eq!(read(serialization, &ack), Message::HandleAck);
        group.bench_function(format!("hand-off's ACK, {serialization}"), |b| {
            b.iter(|| read(serialization, black_box(&ack)));
        });
    }
    let sticky: &[u8] = b"\0\0\0\x3a\xff\x0fo\"\x04type\"\x11sticky:connection\"\x04data\"\x14\
        lv_VI97HAXpY6yYWAAAC{\x02";
    assert!(matches!(read(Serialization::Advanced, sticky), Message::StickyConnection { .. }));
    group.bench_function("sticky connection, advanced", |b| {
        b.iter(|| read(Serialization::Advanced, black_box(sticky)));
    });
    group.finish();
}

fn deframe(c: &mut Criterion) {
    const CHUNK: usize = 16 << 10;
    let mut group = c.benchmark_group("deframe");
    for serialization in [Serialization::Advanced, Serialization::Json] {
        let small = broadcast(serialization, 10);
        let frames = CHUNK / small.len();
        let chunk = small.repeat(frames);
        group.throughput(Throughput::Elements(frames as u64));
        group.bench_function(format!("{frames} frames in a chunk, {serialization}"), |b| {
            let mut deframer = Deframer::new(serialization, MAX_FRAME);
            b.iter(|| {
                let mut whole = 0;
                let fed = deframer.feed(black_box(&chunk), &mut |_| whole += 1);
                assert_eq!((fed, whole), (Ok(()), frames));
            });
        });
        let large = broadcast(serialization, 1 << 20);
        group.throughput(Throughput::Bytes(large.len() as u64));
        group.bench_function(format!("one frame in many chunks, {serialization}"), |b| {
            let mut deframer = Deframer::new(serialization, MAX_FRAME);
            b.iter(|| {
                let mut whole = 0;
                for chunk in large.chunks(CHUNK) {
                    let fed = deframer.feed(black_box(chunk), &mut |_| whole += 1);
                    assert_eq!(fed, Ok(()));
                }
                assert_eq!(whole, 1);
            });
        });
    }
    group.finish();
}

fn ring(c: &mut Criterion) {
    let mailbox = Mailbox::new(Arc::new(Wake::new().expect("an eventfd")));
    let frame = broadcast(Serialization::Advanced, 100);
    let packet = || {
        let from = worker(0);
        let frame = frame.clone();
        Mail::Packet(Packet { frame, from, to: None, learn: None, forget: None })
    };
    let mut group = c.benchmark_group("ring");
    group.bench_function("post and take", |b| {
        b.iter(|| {
            mailbox.post(packet()).expect("room");
            mailbox.take()
        });
    });
    const BATCH: usize = 64;
    group.throughput(Throughput::Elements(BATCH as u64));
    group.bench_function("tell, look and take a batch", |b| {
        b.iter_batched(
            || std::iter::repeat_with(packet).take(BATCH).collect::<Vec<_>>(),
            |batch| {
                batch.into_iter().for_each(|mail| mailbox.post(mail).expect("room"));
                mailbox.tell();
                mailbox.looking();
                while let Some(mail) = mailbox.take() {
                    black_box(mail);
                }
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

fn main() {
    // As a test, each runs once: `cargo test` passes no argument, `cargo bench` this one.
    let few = !std::env::args().any(|argument| argument == "--bench");
    let mut c = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    request(&mut c, few);
    count_hand_off(&mut c);
    pick(&mut c);
    sessions(&mut c, few);
    classify(&mut c);
    deframe(&mut c);
    ring(&mut c);
    c.final_summary();
}
