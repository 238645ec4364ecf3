//! An upgrade, played: the shards come to rest, cross as bytes, and go on in other numbers.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::fstat;

use super::engine::{Engine, Lane, Line, hold};
use super::world::{World, shard};
use crate::shard::core::Shard;
use crate::shard::engine::Keeper;
use crate::shard::frozen::{Common, Descriptors, Frozen, freeze, thaw};
use crate::shard::listener::Listener;
use crate::shard::rest::Resting;
use crate::shard::ring::Mailbox;
use crate::shard::{ChannelId, ConnectionId, LaneId, Shared};
use crate::sys::wake::Wake;

/// A descriptor that its shares can be told by.
fn marked(marks: &mut HashMap<u64, usize>, stands_for: usize) -> OwnedFd {
    let descriptor = memfd_create("simulated", MFdFlags::MFD_CLOEXEC).expect("a descriptor");
    marks.insert(mark(&descriptor), stands_for);
    descriptor
}

fn mark(descriptor: &OwnedFd) -> u64 {
    fstat(descriptor.as_fd()).expect("open").st_ino
}

/// The engine of a shard that thaws.
struct Thawing<'a> {
    shard: &'a mut Shard,
    engine: &'a mut Engine,
    marks: &'a HashMap<u64, usize>,
}

impl Keeper for Thawing<'_> {
    fn shard(&mut self) -> &mut Shard {
        self.shard
    }

    fn keep_client(&mut self, socket: OwnedFd) -> ConnectionId {
        hold(self.engine, self.marks[&mark(&socket)])
    }

    fn keep_channel(&mut self, channel: OwnedFd) -> io::Result<ChannelId> {
        let worker = self.marks[&mark(&channel)];
        let line = Line { worker, read: false, ops: 0, room: false, closing: false };
        Ok(self.engine.lines.insert(line))
    }

    fn keep_lane(&mut self, ours: OwnedFd, _: OwnedFd) -> io::Result<LaneId> {
        let worker = self.marks[&mark(&ours)];
        Ok(self.engine.lanes.insert(Lane { worker, ops: 0, room: false, closing: false }))
    }
}

impl World {
    /// All shards at once, between two turns.
    pub(super) fn upgrade(&mut self) {
        self.come_to_rest();
        let (mut marks, mut descriptors) = (HashMap::new(), Descriptors::default());
        let common = Common::freeze(&self.shared, self.now);
        let engines = std::mem::take(&mut self.engines);
        let shards = std::mem::take(&mut self.shards);
        let resting = shards.into_iter().zip(engines);
        let resting = resting.map(|(shard, engine)| resting_with(shard, engine, &mut marks));
        let frozen = freeze(resting.collect(), &mut descriptors, self.now);
        let state = rmp_serde::to_vec_named(&(common, frozen)).expect("plain data");
        let (common, frozen): (Common, Frozen) = rmp_serde::from_slice(&state).expect("as written");

        let count = 1 + self.chance.below(3);
        let mailbox = || Mailbox::new(Arc::new(Wake::new().expect("an eventfd")));
        let mailboxes = (0..count).map(|_| mailbox()).collect();
        let epoch = common.epoch(self.now);
        self.shared = Shared::new(mailboxes, None, self.shared.settings, None, epoch);
        let hopes = common.thaw(&self.shared);
        self.pool = Arc::new(Listener::thaw(&self.pool.freeze()));
        self.app = self.app.take().map(|app| Arc::new(Listener::thaw(&app.freeze())));
        let listeners: HashMap<_, _> = [Some(&self.pool), self.app.as_ref()]
            .into_iter()
            .flatten()
            .map(|listener| (listener.id(), Arc::clone(listener)))
            .collect();
        for listener in listeners.values() {
            self.listen(listener);
        }
        let take = |place| descriptors.take(place);
        let portions = frozen.divide(take, &listeners, hopes, &self.shared);
        for (index, portion) in portions.into_iter().enumerate() {
            let mut shard = shard(index, &self.shared, &self.reporter, self.seed);
            let mut engine = Engine::default();
            let mut keeper = Thawing { shard: &mut shard, engine: &mut engine, marks: &marks };
            thaw(&mut keeper, portion, self.now);
            self.shards.push(shard);
            self.engines.push(engine);
        }
        assert!(descriptors.iter().next().is_none(), "a descriptor is nobody's");
    }

    /// What is under way ends; nothing is begun that would have to wait.
    fn come_to_rest(&mut self) {
        loop {
            let mut moved = false;
            for index in 0..self.shards.len() {
                moved |= self.read_some_mail(index, usize::MAX) > 0;
                while self.complete_a_send(index) {
                    moved = true;
                }
                self.shards[index].end_turn(self.now);
                let mut actions = Vec::new();
                self.shards[index].take_actions(&mut actions);
                for action in actions {
                    let waits = action.waits();
                    moved |= !waits;
                    if !waits {
                        self.carry_out(index, action);
                    }
                }
            }
            if !moved {
                return;
            }
        }
    }
}

fn resting_with(shard: Shard, engine: Engine, marks: &mut HashMap<u64, usize>) -> Resting {
    let mut resting = Resting::new(shard);
    for (id, held) in engine.clients.into_iter().filter(|(_, held)| !held.closing) {
        resting.keep_client_as(id, marked(marks, held.client));
    }
    for (id, line) in engine.lines.into_iter().filter(|(_, line)| !line.closing) {
        resting.keep_channel_as(id, marked(marks, line.worker));
    }
    for (id, lane) in engine.lanes.into_iter().filter(|(_, lane)| !lane.closing) {
        let (ours, theirs) = (marked(marks, lane.worker), marked(marks, lane.worker));
        resting.keep_lane_as(id, ours, theirs);
    }
    resting
}
