//! What the supervisor and the shards have to do with each other: reports become events, and what is
//! asked of the data plane becomes mail.

use std::cell::RefCell;
use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

use super::attach::Awaited;
use super::listeners::Listeners;
use super::notify::Notify;
use super::roll::{self, Channels};
use super::shards::{clock, post};
use super::view::View;
use crate::config::{self, Config, Plan};
use crate::ipc::Serialization;
use crate::route::WorkerId;
use crate::route::roster::Standing;
use crate::shard::ring::Mail;
use crate::shard::{self, Report, Shared};
use crate::supervisor::{self, ChannelEnd, DataPlane, Estate, Event, LanePair, Ledger};
use crate::sys::socket;

/// Send buffer towards a Node that cannot read a frame's length in two pieces: what lies unread
/// then always fits one of its reads, so no length is ever cut by one.
const SMALL_SEND_BUFFER: usize = 16 << 10;

/// Different warnings of preloads that are logged, each once.
const MAX_WARNINGS: usize = 256;

/// Turns the shards' reports into the supervisor's events; requests to listen are answered here.
pub(super) async fn pass_on(
    mut reported: UnboundedReceiver<Report>,
    events: UnboundedSender<Event>,
    listeners: Rc<RefCell<Listeners>>,
    shared: Arc<Shared>,
    awaited: Rc<Awaited>,
) {
    let mut warned = HashSet::new();
    let mut resting = 0;
    while let Some(report) = reported.recv().await {
        let event = match report {
            Report::Online(worker) => Event::Online(worker),
            Report::Heartbeat(worker) => Event::Heartbeat(worker),
            Report::Ready(worker) => Event::Ready(worker),
            Report::Listening(worker) => Event::Listening(worker),
            Report::Listen(worker, request) => {
                let answer = listeners.borrow_mut().listen(worker, &request);
                let reply = Mail::ListenReply { worker, ack: request.seq, answer };
                post(&shared, shared.owner(worker.slot), reply);
                Event::Listens(worker)
            }
            Report::ServerClosed(worker, listener) => {
                listeners.borrow_mut().leave(worker, listener);
                continue;
            }
            Report::Preloaded { worker, lane } => {
                if shared.settings.lanes && !lane {
                    tracing::warn!(%worker, "the worker cannot read its lane: its sockets go by \
                        Node's IPC");
                }
                continue;
            }
            Report::SpeaksFirst(listener) => {
                for shard in 0..shared.mailboxes.len() {
                    post(&shared, shard, Mail::AcceptSilent(Arc::clone(&listener)));
                }
                continue;
            }
            Report::Rested => {
                resting += 1;
                if resting < shared.mailboxes.len() {
                    continue;
                }
                // Everything that was reported before has been passed on.
                Event::Freeze
            }
            Report::Drained(worker) => Event::Drained(worker),
            Report::Serves(worker, listener) => {
                listeners.borrow_mut().serves(worker, listener);
                continue;
            }
            Report::Attached(worker) => {
                // It has come once and for all.
                if !awaited.remove(worker) {
                    continue;
                }
                Event::Attached(worker)
            }
            Report::Warning(worker, text) => {
                if warned.len() < MAX_WARNINGS && warned.insert(text.clone()) {
                    tracing::warn!(%worker, "{text}");
                }
                continue;
            }
            Report::ChannelEnded(worker, end) => {
                listeners.borrow_mut().worker_gone(worker);
                let why = match end {
                    shard::End::Closed => ChannelEnd::Closed,
                    shard::End::Malformed(why) => ChannelEnd::Malformed(why),
                    shard::End::Stalled => ChannelEnd::Stalled,
                };
                Event::ChannelEnded { worker, why }
            }
        };
        if events.send(event).is_err() {
            return;
        }
    }
}

/// The data plane as the supervisor sees it.
pub(super) struct Plane {
    shared: Arc<Shared>,
    listeners: Rc<RefCell<Listeners>>,
    notify: Notify,
    default_port: u16,
    serialization: Serialization,
    whole_headers: bool,
    config: Config,
    awaited: Rc<Awaited>,
    channels: Channels,
    /// `None`: nobody outlives this router.
    roll: Option<roll::Writer>,
    view: Rc<RefCell<View>>,
    /// All workers have been ready at once.
    complete: bool,
}

impl Plane {
    pub(super) fn new(
        config: &Config,
        plan: &Plan,
        shared: &Arc<Shared>,
        listeners: &Rc<RefCell<Listeners>>,
        notify: &Notify,
        awaited: &Rc<Awaited>,
        roll: PathBuf,
    ) -> Self {
        Self {
            shared: Arc::clone(shared),
            listeners: Rc::clone(listeners),
            notify: Rc::clone(notify),
            default_port: config.default_port,
            serialization: serialization(plan.serialization),
            whole_headers: plan.whole_lengths,
            config: config.clone(),
            awaited: Rc::clone(awaited),
            channels: Channels::new(),
            roll: config.orphan_timeout.map(|_| roll::Writer::new(roll)),
            view: Rc::default(),
            complete: false,
        }
    }

    fn tell(&self, worker: WorkerId, mail: Mail) {
        post(&self.shared, self.shared.owner(worker.slot), mail);
    }

    fn tell_all(&self, mail: impl Fn() -> Mail) {
        for shard in 0..self.shared.mailboxes.len() {
            post(&self.shared, shard, mail());
        }
    }

    /// What there is to be seen from outside.
    pub(super) fn view(&self) -> &Rc<RefCell<View>> {
        &self.view
    }

    /// The channels of an earlier program's.
    pub(super) fn inherit(&mut self, channels: Channels) {
        self.channels = channels;
    }

    /// The channels there are.
    pub(super) fn channels(self) -> Channels {
        self.channels
    }

    /// What a worker has written to a router that has died goes to the others before what it writes
    /// from now on.
    pub(super) fn pass_unread(&self, worker: WorkerId, bytes: Bytes) {
        if !bytes.is_empty() {
            self.tell(worker, Mail::Unread(worker, bytes));
        }
    }

    /// Gives every shard its share of both ends.
    fn lend_lane(&self, worker: WorkerId, lane: &LanePair) -> io::Result<()> {
        for shard in 0..self.shared.mailboxes.len() {
            let (ours, theirs) = (lane.ours.try_clone()?, lane.theirs.try_clone()?);
            post(&self.shared, shard, Mail::Lane { worker, ours, theirs });
        }
        Ok(())
    }
}

impl DataPlane for Plane {
    fn attach(&mut self, worker: WorkerId, channel: OwnedFd, lane: Option<LanePair>) {
        if self.whole_headers
            && let Err(error) = socket::set_send_buffer(channel.as_fd(), SMALL_SEND_BUFFER)
        {
            tracing::warn!(%worker, %error, "the channel's send buffer stays as it is");
        }
        if let Ok(number) = socket::number(channel.as_fd()) {
            self.channels.push((worker, number));
        }
        self.shared.roster.set(worker, Standing::Starting);
        if let Some(lane) = lane
            && let Err(error) = self.lend_lane(worker, &lane)
        {
            // Its sockets go by its channel then.
            tracing::warn!(%worker, %error, "the worker's lane cannot be used");
        }
        let (serialization, whole_headers) = (self.serialization, self.whole_headers);
        self.tell(worker, Mail::Attach { worker, channel, serialization, whole_headers });
    }

    fn set_ready(&mut self, worker: WorkerId, ready: bool) {
        // A channel that has ended meanwhile has taken the worker off the roster already.
        if self.shared.roster.standing(worker) != Standing::Gone {
            if ready {
                self.shared.roster.set_ready(worker, self.shared.millis(clock()));
            } else {
                self.shared.roster.set(worker, Standing::Draining);
            }
        }
        self.tell_all(|| Mail::RosterChanged);
    }

    fn drain(&mut self, worker: WorkerId, within: Duration, over: Duration) {
        if self.shared.roster.standing(worker) != Standing::Gone {
            self.shared.roster.set(worker, Standing::Draining);
        }
        self.tell(worker, Mail::Drain { worker, within, over });
        self.tell_all(|| Mail::RosterChanged);
    }

    fn sessions(&self, worker: WorkerId) -> u32 {
        self.shared.roster.load(worker)
    }

    fn says_when_drained(&self, worker: WorkerId) -> bool {
        self.shared.roster.has_preload(worker)
    }

    fn places(&self, worker: WorkerId) -> Vec<String> {
        self.listeners.borrow().places_of(worker)
    }

    fn silence(&self, worker: WorkerId) -> Option<Duration> {
        let heard = self.shared.roster.last_heard(worker)?;
        let silent = self.shared.millis(clock()).saturating_sub(heard);
        Some(Duration::from_millis(silent))
    }

    fn detach(&mut self, worker: WorkerId) {
        self.shared.roster.set_gone(worker);
        self.awaited.remove(worker);
        self.channels.retain(|(other, _)| *other != worker);
        self.tell(worker, Mail::Detach(worker));
    }

    fn shutdown_message(&mut self, worker: WorkerId) {
        self.tell(worker, Mail::Shutdown(worker));
    }

    fn open_default_listener(&mut self) -> Result<(), String> {
        let port = self.default_port;
        let opened = self.listeners.borrow_mut().open_default(port);
        let opened = opened.map_err(|error| error.to_string());
        self.view.borrow_mut().unopened = opened.as_ref().err().cloned();
        opened
    }

    fn bequeath(&mut self, estate: Estate, ledger: Ledger) {
        if let Some(roll) = &mut self.roll {
            let listeners = self.listeners.borrow().roll();
            roll.write(&self.config, &estate, &self.channels, listeners);
        }
        let mut view = self.view.borrow_mut();
        (view.workers, view.ledger) = (estate.into_left(), ledger);
    }

    fn stop_accepting(&mut self) {
        self.notify.borrow_mut().stops(clock());
        self.tell_all(|| Mail::StopAccepting);
        self.listeners.borrow_mut().stop();
    }

    fn stands(&mut self, standing: supervisor::Standing) {
        self.view.borrow_mut().standing = Some(standing);
        self.notify.borrow_mut().stands(standing, clock());
        // By now everybody has asked for what he wants.
        if standing.ready == standing.wanted && !std::mem::replace(&mut self.complete, true) {
            for socket in self.listeners.borrow().unused() {
                tracing::warn!(
                    address = socket.place(),
                    name = socket.name(),
                    "nobody listens on a socket that was passed: its clients wait"
                );
            }
        }
    }
}

pub(super) const fn serialization(serialization: config::Serialization) -> Serialization {
    match serialization {
        config::Serialization::Advanced => Serialization::Advanced,
        config::Serialization::Json => Serialization::Json,
    }
}
