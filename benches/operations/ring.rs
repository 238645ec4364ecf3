//! The ring between shards, on one thread: `benches/threads.rs` has it between two.

use std::sync::Arc;

use router::ipc::Serialization;
use router::shard::ring::Mailbox;
use router::sys::wake::Wake;

use super::packets::{broadcast, mail};
use super::{FREE, Judge, Terms};

const BATCH: u64 = 64;

pub(super) fn all(judge: &mut impl Judge) {
    let mailbox = Mailbox::new(Arc::new(Wake::new().expect("an eventfd")));
    let frame = broadcast(Serialization::Advanced, 100);
    // The first copy makes the counter that the others count in.
    let _counted = frame.clone();
    judge.judge("ring/post and take", FREE, || {
        mailbox.post(mail(&frame)).expect("room");
        mailbox.take()
    });
    judge.judge("ring/tell, look and take a batch of 64", Terms::of(BATCH), || {
        (0..BATCH).for_each(|_| mailbox.post(mail(&frame)).expect("room"));
        mailbox.tell();
        mailbox.looking();
        std::iter::from_fn(|| mailbox.take()).count()
    });
}
