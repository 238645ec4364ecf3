//! Node's child as the router meets it: the bytes of its channel in order, descriptors attached
//! to messages, reads of at most 64 KiB that end behind a descriptor, and one slot for a received
//! handle. See the real one's `child_process`: a second handle overwrites the slot.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use super::world::World;
use crate::route::WorkerId;
use crate::route::self_routing::tests::made;
use crate::shard::handoff::READ_SIZE;
use crate::shard::lane::Message;

/// What it is for the router.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Sticky,
    /// It listens on a port of its own.
    App,
    /// It listens, and gets the pool's connections.
    Pooled,
}

/// One message in the channel, or what is left of it.
pub(super) struct Segment {
    pub(super) bytes: Vec<u8>,
    pub(super) socket: Option<usize>,
}

pub(super) struct Worker {
    pub(super) id: WorkerId,
    pub(super) kind: Kind,
    pub(super) uid: String,
    pub(super) alive: bool,
    /// The supervisor has seen its end.
    pub(super) reaped: bool,
    /// Its shard has its channel.
    pub(super) attached: bool,
    /// From the router; `queued` bytes of at most `room`.
    pub(super) inbound: VecDeque<Segment>,
    pub(super) queued: usize,
    pub(super) room: usize,
    /// To the router.
    pub(super) outbound: VecDeque<u8>,
    /// The channel's end at the router is closed.
    pub(super) cut: bool,
    pub(super) paused_until: Instant,
    pub(super) says: Vec<(Instant, String)>,
    pub(super) servers: Vec<String>,
    /// Announced and not ended: what its load must be in the end.
    pub(super) sessions: Vec<String>,
    pub(super) handles: VecDeque<usize>,
    /// It has the router's preload.
    preload: bool,
    /// Unread in its lane: messages and clients.
    pub(super) lane: VecDeque<(Vec<u8>, usize)>,
    /// Nobody can send on the lane any more.
    pub(super) lane_ended: bool,
    /// Sockets on their way back to the router, each with a line in `outbound`.
    pub(super) given_back: Vec<usize>,
    full: bool,
    /// It has been, or had no room, so that its sessions may have gone elsewhere.
    pub(super) was_full: bool,
    /// Sessions opened and closed that the preload has not reported.
    moved: [u32; 2],
    /// Bytes that came ahead of their connection, and connections whose bytes have not come.
    carried: HashMap<String, String>,
    pub(super) uncarried: HashMap<String, usize>,
    partial: Vec<u8>,
    pending: Option<usize>,
    /// Sockets that the kernel dropped, for lack of descriptors here.
    dropped: HashSet<usize>,
    asked: u32,
    pub(super) broadcasts: u32,
    unicasts: HashMap<String, u32>,
    /// By sender: the next broadcast and the next unicast.
    pub(super) heard: HashMap<String, u32>,
    heard_alone: HashMap<String, u32>,
    pub(super) closed: HashSet<String>,
}

impl Worker {
    pub(super) fn new(id: WorkerId, kind: Kind, room: usize, preload: bool, now: Instant) -> Self {
        Self {
            id,
            kind,
            uid: format!("{:08x}{:08x}", id.slot, id.generation),
            alive: true,
            reaped: false,
            attached: false,
            inbound: VecDeque::new(),
            queued: 0,
            room,
            outbound: VecDeque::new(),
            cut: false,
            paused_until: now,
            says: Vec::new(),
            servers: Vec::new(),
            sessions: Vec::new(),
            handles: VecDeque::new(),
            preload,
            lane: VecDeque::new(),
            lane_ended: false,
            given_back: Vec::new(),
            full: false,
            was_full: false,
            moved: [0; 2],
            carried: HashMap::new(),
            uncarried: HashMap::new(),
            partial: Vec::new(),
            pending: None,
            dropped: HashSet::new(),
            asked: 0,
            broadcasts: 0,
            unicasts: HashMap::new(),
            heard: HashMap::new(),
            heard_alone: HashMap::new(),
            closed: HashSet::new(),
        }
    }

    pub(super) fn say(&mut self, line: &str) {
        self.outbound.extend(line.bytes());
        self.outbound.push_back(b'\n');
    }

    fn packet(&mut self, kind: u32, data: &str, requester: Option<&str>) {
        let uid = &self.uid;
        let to = requester.map_or(String::new(), |to| format!(",\"requesterUid\":\"{to}\""));
        let line = format!(
            "{{\"type\":{kind},\"data\":\"{data}\",\"uid\":\"{uid}\",\"nsp\":\"/\",\
             \"source\":\"_sio_adapter\"{to}}}"
        );
        self.say(&line);
    }

    pub(super) fn query(&mut self, port: u16, address_type: &str) {
        self.asked += 1;
        let seq = self.asked;
        self.say(&format!(
            "{{\"cmd\":\"NODE_CLUSTER\",\"act\":\"queryServer\",\"seq\":{seq},\"address\":null,\
             \"port\":{port},\"addressType\":{address_type}}}"
        ));
    }

    /// Broadcasts the next number, in a frame of about so many bytes.
    pub(super) fn broadcast(&mut self, padding: usize, ask: bool) {
        let data = format!("{} {}", self.broadcasts, "x".repeat(padding));
        self.broadcasts += 1;
        self.packet(if ask { 7 } else { 3 }, &data, None);
    }

    pub(super) fn start(&mut self) {
        self.say("{\"cmd\":\"NODE_CLUSTER\",\"act\":\"online\",\"seq\":0}");
        if self.preload {
            self.say("\"router:hello 1 lane\"");
        }
        self.broadcasts = 1;
        self.packet(1, "0 ", None);
        match self.kind {
            Kind::Sticky => {}
            Kind::App => self.query(3000, "4"),
            Kind::Pooled => self.query(8080, "4"),
        }
    }
}

/// The scalar of a key in a line that the router wrote.
fn field<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    let mark = format!("\"{key}\":");
    let rest = &line[line.find(&mark)? + mark.len()..];
    Some(rest[..rest.find([',', '}'])?].trim_matches('"'))
}

impl World {
    /// One read callback of a worker.
    pub(super) fn worker_reads(&mut self, index: usize) {
        let mut left = usize::try_from(READ_SIZE).expect("small");
        let worker = &mut self.workers[index];
        while let Some(segment) = worker.inbound.front_mut() {
            let socket = segment.socket.take();
            let taken = left.min(segment.bytes.len());
            worker.partial.extend(segment.bytes.drain(..taken));
            worker.queued -= taken;
            left -= taken;
            if segment.bytes.is_empty() {
                worker.inbound.pop_front();
            }
            if let Some(socket) = socket {
                if !self.draining && self.chance.one_in(12) {
                    worker.dropped.insert(socket);
                } else if worker.pending.replace(socket).is_some() {
                    panic!("a handle was overwritten in {}", worker.id);
                }
            }
            if socket.is_some() || left == 0 {
                break;
            }
        }
        while let Some(end) = self.workers[index].partial.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.workers[index].partial.drain(..=end).collect();
            let line = String::from_utf8(line).expect("JSON");
            self.worker_hears(index, &line);
        }
    }

    fn worker_hears(&mut self, index: usize, line: &str) {
        let worker = &mut self.workers[index];
        if line.contains("\"NODE_HANDLE\"") {
            let meant = worker.handles.pop_front().expect("a handle was sent");
            let Some(socket) = worker.pending.take() else {
                assert!(worker.dropped.remove(&meant), "a NACK that nobody injected");
                self.clients[meant].refusals.push(worker.id);
                return worker.say("{\"cmd\":\"NODE_HANDLE_NACK\"}");
            };
            assert_eq!(socket, meant, "{} got another message's socket", worker.id);
            worker.say("{\"cmd\":\"NODE_HANDLE_ACK\"}");
            if self.clients[socket].grant {
                return self.taken(socket, index);
            }
            if line.contains("NODE_ROUTER") {
                let id = field(line, "id").expect("id");
                assert_ne!(id, "0", "nothing is explained here but what is carried");
                match worker.carried.remove(id) {
                    Some(bytes) => self.carried(socket, index, &bytes),
                    None => _ = worker.uncarried.insert(id.to_owned(), socket),
                }
                return;
            }
            if !line.contains("newconn") {
                assert!(
                    !self.clients[socket].on_app,
                    "client {socket} of an application's port came to {} as sticky",
                    worker.id
                );
                return self.serve(socket, index);
            }
            let (key, seq) = (field(line, "key").expect("key"), field(line, "seq").expect("seq"));
            let refuses = !self.draining && self.chance.one_in(10);
            let accepted = worker.servers.iter().any(|own| own == key) && !refuses;
            worker.say(&format!(
                "{{\"cmd\":\"NODE_CLUSTER\",\"ack\":{seq},\"accepted\":{accepted}}}"
            ));
            if accepted {
                self.serve(socket, index);
            } else {
                self.clients[socket].refusals.push(worker.id);
            }
        } else if line.contains("NODE_ROUTER") {
            let (id, data) = (field(line, "id").expect("id"), field(line, "data").expect("data"));
            match worker.uncarried.remove(id) {
                Some(socket) => self.carried(socket, index, data),
                None => _ = worker.carried.insert(id.to_owned(), data.to_owned()),
            }
        } else if line.contains("_sio_adapter") {
            self.packet_heard(index, line);
        } else if line.contains("\"errno\":null") {
            let key = field(line, "key").expect("key").to_owned();
            worker.servers.push(key);
            let port = if worker.kind == Kind::App { 3000 } else { 8080 };
            worker.say(&format!(
                "{{\"cmd\":\"NODE_CLUSTER\",\"act\":\"listening\",\"address\":null,\
                 \"port\":{port},\"addressType\":4}}"
            ));
        } else if line.contains("\"errno\":-98") {
            worker.query(if worker.kind == Kind::App { 3000 } else { 8080 }, "4");
        }
    }

    /// A worker reads its lane.
    fn lane_reads(&mut self, index: usize) {
        for _ in 0..self.chance.below(6) {
            let worker = &mut self.workers[index];
            if worker.full {
                return;
            }
            let Some((message, client)) = worker.lane.pop_front() else { return };
            self.clients[client].on_lane = false;
            let message = Message::decode(&message).expect("the router wrote it");
            let number = message.server.to_string();
            let known = worker.servers.iter().any(|key| key.ends_with(&format!(":{number}")));
            let refuses = !self.draining && self.chance.one_in(10);
            if message.server == 0 {
                assert!(!self.clients[client].on_app, "client {client} came as sticky");
            } else if !known || refuses {
                let id = self.workers[index].id;
                self.clients[client].refusals.push(id);
                self.workers[index].was_full = true;
                self.give_back(client, index, &number, "");
                continue;
            }
            let sids = self.workers.iter().flat_map(|worker| &worker.sessions);
            let next = sids.clone().nth(self.chance.below(40)).cloned();
            match next.filter(|_| !self.draining && self.chance.one_in(3)) {
                // Answered; the next request on the same connection is another session's.
                Some(sid) => {
                    let bytes = format!("GET /s?sid={sid} HTTP/1.1\\r\\n");
                    self.clients[client].carried = Some(bytes.clone());
                    self.clients[client].owner = None;
                    self.give_back(client, index, &number, &bytes);
                }
                None => self.serve(client, index),
            }
        }
    }

    fn give_back(&mut self, client: usize, index: usize, number: &str, bytes: &str) {
        let worker = &mut self.workers[index];
        self.clients[client].on_lane = true;
        self.clients[client].back_from = Some(index);
        worker.given_back.push(client);
        worker.say(&format!(
            "{{\"cmd\":\"NODE_HANDLE\",\"type\":\"net.Socket\",\
             \"msg\":\"router:return {number} - {bytes}\"}}"
        ));
    }

    /// A connection has come with what another worker had read of it.
    fn carried(&mut self, client: usize, index: usize, bytes: &str) {
        // Not for the first time, if the router has not heard of that from a worker that died.
        assert_eq!(self.clients[client].carried.as_deref(), Some(bytes), "client {client}");
        self.taken(client, index);
    }

    /// A worker answers its client: perhaps a session begins, and its client comes back with it.
    fn serve(&mut self, client: usize, index: usize) {
        self.taken(client, index);
        if self.clients[client].sid.is_some() || self.draining || self.chance.one_in(3) {
            return;
        }
        self.sids += 1;
        let own = self.workers[index].preload && self.chance.one_in(2);
        let sid = if own {
            let random = format!("{:014}", self.sids).into_bytes();
            let random = random.as_slice().try_into().expect("14 digits");
            String::from_utf8(made(random, self.workers[index].id)).expect("ASCII")
        } else {
            format!("sid{:017}", self.sids)
        };
        let announced = self.later(30);
        self.workers[index].moved[0] += u32::from(self.workers[index].preload);
        let line = format!("{{\"type\":\"sticky:connection\",\"data\":\"{sid}\"}}");
        if !own {
            self.workers[index].says.push((announced, line));
        }
        self.workers[index].sessions.push(sid.clone());
        if self.chance.one_in(2) {
            let at = announced + Duration::from_millis(5) + (self.later(300) - self.now);
            let line = format!("{{\"type\":\"sticky:disconnection\",\"data\":\"{sid}\"}}");
            self.workers[index].says.push((at, line));
        }
        for _ in 0..1 + self.chance.below(2) {
            let at = self.later(60);
            let on_app = self.clients[client].on_app != self.chance.one_in(10);
            self.add_client(Some(sid.clone()), on_app, at);
        }
    }

    fn packet_heard(&mut self, index: usize, line: &str) {
        let from = field(line, "uid").expect("uid").to_owned();
        let kind = field(line, "type").expect("type");
        let sender = self.workers.iter().position(|worker| worker.uid == from).expect("a worker");
        let me = self.workers[index].id;
        assert!(sender != index, "{me} heard itself");
        let worker = &mut self.workers[index];
        if kind == "13" {
            assert!(worker.closed.insert(from), "{me} heard of one death twice");
            return;
        }
        assert!(!worker.closed.contains(&from), "{me} heard from the dead {from}");
        let data = field(line, "data").expect("data");
        let number: u32 = data.split(' ').next().and_then(|n| n.parse().ok()).expect("number");
        if kind == "8" {
            let to = field(line, "requesterUid").expect("requester");
            if to != worker.uid {
                let owner = self.workers.iter().find(|w| w.uid == to).expect("a worker");
                assert!(owner.cut || !owner.alive, "{me} heard what was for the living {to}");
                return;
            }
            let next = worker.heard_alone.entry(from.clone()).or_insert(0);
            assert_eq!(number, *next, "unicast from {from} to {me}");
            *next += 1;
            return;
        }
        let first = worker.heard.get(&from).copied();
        if let Some(next) = first {
            assert_eq!(number, next, "broadcast from {from} to {me}");
        }
        worker.heard.insert(from.clone(), number + 1);
        if kind == "7" {
            let number = worker.unicasts.entry(from.clone()).or_insert(0);
            let data = format!("{number} ");
            *number += 1;
            worker.packet(8, &data, Some(&from));
        }
    }

    /// What a worker does of its own accord.
    pub(super) fn worker_acts(&mut self, index: usize) {
        let now = self.now;
        if !self.workers[index].alive {
            return;
        }
        let due: Vec<String> = {
            let worker = &mut self.workers[index];
            worker.says.sort_by_key(|(at, _)| *at);
            let count = worker.says.iter().take_while(|(at, _)| *at <= now).count();
            worker.says.drain(..count).map(|(_, line)| line).collect()
        };
        for line in due {
            if line.contains("disconnection") {
                let sid = field(&line, "data").expect("sid");
                let worker = &mut self.workers[index];
                worker.sessions.retain(|own| own != sid);
                worker.moved[1] += u32::from(worker.preload);
            }
            self.workers[index].say(&line);
        }
        if self.workers[index].paused_until <= now {
            self.worker_reads(index);
            self.lane_reads(index);
        }
        let worker = &mut self.workers[index];
        if worker.moved != [0; 2] && (self.draining || self.chance.one_in(8)) {
            let [opened, closed] = std::mem::take(&mut worker.moved);
            worker.say(&format!("\"router:load 100 3 {opened} {closed}\""));
        }
        if worker.full && (self.draining || self.chance.one_in(8)) {
            worker.full = false;
            worker.say("\"router:room\"");
        }
        if self.draining {
            return;
        }
        let (act, padding) = (self.chance.below(120), self.chance.below(self.padding));
        match act {
            0..=9 => self.workers[index].broadcast(padding, act == 0),
            10 => self.workers[index].paused_until = self.later(400),
            11 if self.chance.one_in(4) => self.workers[index].paused_until = self.later(6000),
            12 if self.chance.one_in(3) => self.kill(index),
            13 if self.chance.one_in(6) => self.workers[index].say("\u{1}{]}"),
            14 if self.chance.one_in(4) => self.workers[index].query(9, "\"udp4\""),
            15 if self.chance.one_in(3) && self.workers[index].kind == Kind::App => {
                if let Some(key) = self.workers[index].servers.pop() {
                    let line =
                        format!("{{\"cmd\":\"NODE_CLUSTER\",\"act\":\"close\",\"key\":\"{key}\"}}");
                    self.workers[index].say(&line);
                    self.workers[index].query(3000, "4");
                }
            }
            17 if self.workers[index].preload => {
                self.workers[index].full = true;
                self.workers[index].was_full = true;
                self.workers[index].say("\"router:full\"");
            }
            16 if self.chance.one_in(20) => {
                self.workers[index].packet(13, "0 ", None);
                self.kill(index);
            }
            _ => {}
        }
    }
}
