//! A whole shard, without an engine: a connection from accept to hand-off, a packet from worker to
//! workers. What an engine adds are system calls.

use std::fs::File;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use router::ipc::Serialization::Advanced;
use router::route::balance::Balance;
use router::route::roster::Standing;
use router::shard::core::{Action, Shard};
use router::shard::listener::{Kind, Listener};
use router::shard::ring::{Mail, Mailbox};
use router::shard::{MAX_OUT_QUEUE, Settings, Shared};
use router::sys::wake::Wake;

use super::packets::broadcast;
use super::request::SELF_ROUTING;
use super::sessions::worker;
use super::{FREE, Judge, Terms};

const LISTENER: u32 = 1;

/// A shard with so many ready workers, each with a channel and a lane, and the time.
fn shard(workers: u16) -> (Shard, Instant) {
    #[expect(clippy::disallowed_methods, reason = "some time: none passes here")]
    let now = Instant::now();
    let settings = Settings {
        balance: Balance::LeastConnection,
        head_timeout: Duration::from_secs(10),
        out_queue: MAX_OUT_QUEUE,
        lanes: true,
        self_routing: true,
        by_address: false,
    };
    let mailbox = Mailbox::new(Arc::new(Wake::new().expect("an eventfd")));
    let shared = Shared::new(vec![mailbox], None, settings, None, now);
    let mut shard = Shard::new(0, Arc::clone(&shared), Box::new(drop), 1);
    let listener = Arc::new(Listener::new(LISTENER, Kind::Pool));
    let socket = File::open("/dev/null").expect("it is there").into();
    shard.mail(Mail::Listen { listener, socket }, now);
    for slot in 0..workers {
        shared.roster.set(worker(slot), Standing::Ready);
        shared.roster.open_lane(worker(slot));
        shard.attached(usize::from(slot), worker(slot), Advanced, false, now);
        shard.lane_opened(usize::from(slot), worker(slot));
    }
    (shard, now)
}

/// Ends a turn, and says that everything it asked for was done.
fn carry_out(shard: &mut Shard, actions: &mut Vec<Action>, now: Instant) {
    loop {
        shard.end_turn(now);
        shard.take_actions(actions);
        if actions.is_empty() {
            return;
        }
        for action in actions.drain(..) {
            match action {
                Action::SendOnLane { connection, .. } => {
                    shard.sent_on_lane(connection, Ok(()), now)
                }
                Action::Write { channel, frames, .. } => {
                    let bytes = frames.iter().map(bytes::Bytes::len).sum();
                    shard.wrote(channel, Ok(bytes), now);
                }
                _ => {}
            }
        }
    }
}

pub(super) fn all(judge: &mut impl Judge) {
    let mut actions = Vec::new();
    for workers in [2, 8, 64, 1024] {
        let (mut shard, now) = shard(workers);
        carry_out(&mut shard, &mut actions, now);
        let first = b"GET / HTTP/1.1\r\nHost: chat.example.com\r\n\r\n";
        for (what, head) in [("a session's", SELF_ROUTING), ("a first", first)] {
            let name = format!("shard of {workers}/{what} connection by lane");
            judge.judge(&name, FREE, || {
                shard.accepted(0, LISTENER, now);
                shard.peeked(0, black_box(head), false, now);
                carry_out(&mut shard, &mut actions, now);
                shard.tick(now);
            });
        }
    }
    for workers in [2_u16, 8, 64] {
        let receivers = u64::from(workers) - 1;
        for (size, packets) in [(100, 1), (100, 16), (4096, 1)] {
            let (mut shard, now) = shard(workers);
            carry_out(&mut shard, &mut actions, now);
            let chunk = broadcast(Advanced, size).repeat(packets);
            let packets = packets as u64;
            // Each packet is copied once and counted; each receiver gets one write.
            let terms = Terms::of(packets * receivers).allocating(packets * 2 + receivers);
            let name = format!("shard of {workers}/{packets} packets of {size} to all others");
            judge.judge(&name, terms, || {
                shard.received(0, black_box(&chunk), now);
                carry_out(&mut shard, &mut actions, now);
            });
        }
    }
}
