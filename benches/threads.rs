//! What threads cost each other: the session table read by several at once, and beside one that
//! writes; the ring between two. `cargo bench --bench threads`.
//!
//! All rows are measured in turn, round after round, so that a machine that slows down slows all
//! of them; printed are medians, with the least and the most.

#[path = "operations/packets.rs"]
mod packets;
#[path = "operations/sessions.rs"]
mod sessions;

use std::hint::black_box;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{UsageWho, getrusage};
use router::ipc::Serialization::Advanced;
use router::route::session_table::SessionTable;
use router::shard::ring::Mailbox;
use router::sys::wake::Wake;

use packets::{broadcast, mail};
use sessions::{scattered, session, table, worker};

/// How much each measurement does.
struct Extent {
    rounds: usize,
    sessions: u64,
    /// Look-ups of each reader.
    gets: usize,
    /// Packets through the ring.
    packets: u64,
}

/// One row: what is measured of it in each round.
struct Row {
    name: String,
    columns: &'static [&'static str],
    measure: Box<dyn Fn() -> Vec<f64>>,
    rounds: Vec<Vec<f64>>,
}

#[expect(clippy::disallowed_methods, reason = "a measurement")]
fn now() -> Instant {
    Instant::now()
}

/// Nanoseconds of one look-up of one reader, millions of look-ups per second of all of them, and
/// thousands of changes per second of the writer.
fn read(
    table: &SessionTable,
    ids: &[[u8; 20]],
    readers: usize,
    writes: bool,
    gets: usize,
) -> Vec<f64> {
    let done = AtomicBool::new(false);
    let (spent, changes): (Vec<Duration>, f64) = std::thread::scope(|scope| {
        let writer = || {
            let (began, mut changes) = (now(), 0_u32);
            while !done.load(Ordering::Relaxed) {
                changes += 2;
                let fresh = session(ids.len() as u64 + u64::from(changes));
                table.insert(&fresh, worker(1)).expect("room");
                assert!(table.remove(&fresh, worker(1)));
            }
            f64::from(changes) / began.elapsed().as_secs_f64()
        };
        let writer = writes.then(|| scope.spawn(writer));
        let reader = |reader: usize| {
            move || {
                // Each begins elsewhere.
                let mut ids = ids[reader * ids.len() / 7..].iter().chain(ids.iter().cycle());
                let began = now();
                for _ in 0..gets {
                    black_box(table.get(ids.next().expect("there are some")));
                }
                began.elapsed()
            }
        };
        let readers: Vec<_> = (0..readers).map(|n| scope.spawn(reader(n))).collect();
        let spent = readers.into_iter().map(|reader| reader.join().expect("no panic")).collect();
        done.store(true, Ordering::Relaxed);
        (spent, writer.map_or(0.0, |writer| writer.join().expect("no panic")))
    });
    let longest = spent.iter().max().copied().unwrap_or_default();
    let mean = spent.iter().sum::<Duration>().as_secs_f64() / readers as f64;
    let mut row = vec![mean * 1e9 / gets as f64];
    row.push((readers * gets) as f64 / longest.as_secs_f64() / 1e6);
    row.push(changes / 1e3);
    row
}

/// Thousands of packets per second from one thread to another that waits as an engine does,
/// packets per wake-up, and nanoseconds of processor time per packet of both threads.
fn ring(mailbox: &Mailbox, batch: u64, packets: u64) -> Vec<f64> {
    let frame = broadcast(Advanced, 100);
    let before = processor_time();
    let began = now();
    let wakes = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut left = packets;
            while left > 0 {
                let some = left.min(batch);
                for _ in 0..some {
                    let mut mail = mail(&frame);
                    while let Err(back) = mailbox.post(mail) {
                        mail = back;
                        mailbox.tell();
                        std::thread::yield_now();
                    }
                }
                mailbox.tell();
                left -= some;
            }
        });
        let (mut wakes, mut taken) = (0_u64, 0);
        while taken < packets {
            let mut waits = [PollFd::new(mailbox.wake().as_fd(), PollFlags::POLLIN)];
            poll(&mut waits, PollTimeout::NONE).expect("it waits");
            wakes += 1;
            mailbox.looking();
            while let Some(mail) = mailbox.take() {
                black_box(mail);
                taken += 1;
            }
        }
        wakes
    });
    let spent = began.elapsed().as_secs_f64();
    let processor = (processor_time() - before).as_secs_f64();
    let packets = packets as f64;
    vec![packets / spent / 1e3, packets / wakes as f64, processor * 1e9 / packets]
}

/// Of this process, in user and system mode.
fn processor_time() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("it is known");
    let time = |value: nix::sys::time::TimeVal| {
        let micros = value.tv_sec() * 1_000_000 + value.tv_usec();
        Duration::from_micros(u64::try_from(micros).expect("not negative"))
    };
    time(usage.user_time()) + time(usage.system_time())
}

fn rows(extent: &Extent) -> Vec<Row> {
    let mut rows = Vec::new();
    let sessions = Arc::new(table(extent.sessions));
    let ids = Arc::new(scattered(extent.sessions));
    for (readers, writes) in [(1, false), (2, false), (4, false), (1, true), (2, true), (4, true)] {
        let (sessions, ids, gets) = (Arc::clone(&sessions), Arc::clone(&ids), extent.gets);
        rows.push(Row {
            name: format!("{readers} readers{}", if writes { " beside a writer" } else { "" }),
            columns: &["ns/get", "million gets/s", "thousand changes/s"],
            measure: Box::new(move || read(&sessions, &ids, readers, writes, gets)),
            rounds: Vec::new(),
        });
    }
    for batch in [1, 16, 256] {
        let mailbox = Mailbox::new(Arc::new(Wake::new().expect("an eventfd")));
        let packets = extent.packets;
        rows.push(Row {
            name: format!("a ring, told after each {batch}"),
            columns: &["thousand packets/s", "packets/wake-up", "processor ns/packet"],
            measure: Box::new(move || ring(&mailbox, batch, packets)),
            rounds: Vec::new(),
        });
    }
    rows
}

#[expect(clippy::print_stdout, reason = "the result")]
fn main() {
    // As a test, each runs once: `cargo test` passes no argument, `cargo bench` this one.
    let extent = if std::env::args().any(|argument| argument == "--bench") {
        Extent { rounds: 11, sessions: 1_000_000, gets: 400_000, packets: 100_000 }
    } else {
        Extent { rounds: 1, sessions: 1_000, gets: 1_000, packets: 1_000 }
    };
    let mut rows = rows(&extent);
    for _ in 0..extent.rounds {
        for row in &mut rows {
            let round = (row.measure)();
            row.rounds.push(round);
        }
    }
    let mut header: &[&str] = &[];
    for row in &rows {
        if header != row.columns {
            header = row.columns;
            println!("\n| | {} |\n|---|{}", header.join(" | "), "---|".repeat(header.len()));
        }
        let columns = (0..row.columns.len()).map(|column| {
            let mut values: Vec<f64> = row.rounds.iter().map(|round| round[column]).collect();
            values.sort_by(f64::total_cmp);
            let (least, most) = (values[0], values[values.len() - 1]);
            format!("{:.1} ({least:.1}-{most:.1})", values[values.len() / 2])
        });
        println!("| {} | {} |", row.name, columns.collect::<Vec<_>>().join(" | "));
    }
}
