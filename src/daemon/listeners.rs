//! Every place the router listens, and what a worker that asks to listen is told.
//!
//! Opening a socket may take its time, so it is done here, on the control thread; the shards get
//! descriptors. Each shard has its own socket on a TCP port (SO_REUSEPORT: the kernel spreads the
//! connections) and a duplicate of the same one on a Unix path. What a service manager has passed is
//! used as it is, by all shards, where it listens on what is asked for: see `activation.rs`.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::activation::{FrozenPassed, Passed};
use super::shards::post;
use crate::config::Address;
use crate::ipc::message::{AddressType, QueryServer};
use crate::ipc::reply::SockName;
use crate::route::WorkerId;
use crate::shard::listener::{self, Kind, Listener, ListenerId};
use crate::shard::ring::{Answer, Mail};
use crate::shard::{self, Descriptors, Shared};
use crate::sys::socket::{self, Local, TcpOptions};

/// libuv's UV_TCP_IPV6ONLY.
const IPV6_ONLY: i64 = 1;

/// A place that could not be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {place}: {reason}. {advice}")]
pub struct ListenError {
    place: String,
    reason: io::Error,
    advice: &'static str,
}

impl ListenError {
    fn new(place: String, reason: io::Error) -> Self {
        let advice = match reason.kind() {
            io::ErrorKind::AddrInUse => {
                "Another process listens there: stop it, or choose another address with --listen."
            }
            io::ErrorKind::PermissionDenied => {
                "Ports below 1024 need root or CAP_NET_BIND_SERVICE: \
                 choose another address with --listen."
            }
            io::ErrorKind::AddrNotAvailable => {
                "That address is none of this host's: choose another with --listen."
            }
            _ => "Choose another address with --listen.",
        };
        Self { place, reason, advice }
    }
}

/// What workers mean by one place: the same for all of them, except that servers on port 0 differ
/// by index.
type Key = (Option<String>, i64, AddressType, i64);

struct Place {
    listener: Arc<Listener>,
    /// What of the operator's settings it was opened for; `None`: an application's own.
    origin: Option<String>,
    /// What its address is; `None` on a Unix socket.
    address: Option<SocketAddr>,
    v6_only: bool,
    path: Option<PathBuf>,
    users: HashSet<WorkerId>,
    /// Of the first TLS server that listened here.
    ticket_keys: Option<String>,
    /// Shares of the shards' sockets. A port is closed when they are told so, not when the last
    /// shard has read its mail, since a worker may ask for it again at once.
    sockets: Vec<OwnedFd>,
    /// They are the service manager's: not ours to end.
    passed: bool,
}

/// Every place as it crosses an upgrade.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Frozen {
    places: Vec<FrozenPlace>,
    by_key: Vec<(Key, ListenerId)>,
    datagram: Vec<(Key, shard::frozen::Place)>,
    next_id: ListenerId,
    #[serde(default)]
    passed: Vec<FrozenPassed>,
}

#[derive(Debug, Serialize, Deserialize)]
struct FrozenPlace {
    listener: listener::Frozen,
    origin: Option<String>,
    address: Option<SocketAddr>,
    v6_only: bool,
    path: Option<PathBuf>,
    users: Vec<WorkerId>,
    ticket_keys: Option<String>,
    sockets: Vec<shard::frozen::Place>,
    #[serde(default)]
    passed: bool,
}

impl Place {
    fn end(&self) {
        // Whoever holds a share of a Unix socket that is ended could not listen on it again; its path
        // is free as soon as its file is gone. What was passed is to serve the next router.
        let ours = !self.passed && self.address.is_some();
        for socket in self.sockets.iter().filter(|_| ours) {
            socket::end(socket.as_fd());
        }
    }

    fn remove_file(&self) {
        if !self.passed {
            remove_socket(self.path.as_deref());
        }
    }

    /// The keys that all TLS servers here share; the first to ask brings them.
    fn ticket_keys(&mut self, request: &QueryServer) -> Option<String> {
        let theirs = request.ticket_keys.as_ref()?;
        Some(self.ticket_keys.get_or_insert_with(|| theirs.clone()).clone())
    }
}

/// See the module's text.
pub struct Listeners {
    shared: Arc<Shared>,
    places: HashMap<ListenerId, Place>,
    by_key: HashMap<Key, ListenerId>,
    /// UDP sockets, which the workers read themselves.
    datagram: HashMap<Key, OwnedFd>,
    /// `--listen` was given: applications' own ports are not opened.
    overridden: bool,
    next_id: ListenerId,
    /// Of the service manager's sockets, those that nobody has asked for.
    passed: Vec<Passed>,
}

impl std::fmt::Debug for Listeners {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listeners").field("places", &self.places.len()).finish_non_exhaustive()
    }
}

impl Listeners {
    /// Nothing is listened on yet.
    #[must_use]
    pub fn new(shared: Arc<Shared>, overridden: bool) -> Self {
        Self {
            shared,
            places: HashMap::new(),
            by_key: HashMap::new(),
            datagram: HashMap::new(),
            overridden,
            next_id: 0,
            passed: Vec::new(),
        }
    }

    /// The service manager's sockets, for the places that are asked for from now on.
    pub fn give(&mut self, passed: Vec<Passed>) {
        for socket in &passed {
            let name = socket.name();
            tracing::info!(address = socket.place(), name, "a socket was passed");
        }
        self.passed.extend(passed);
    }

    /// What was passed and serves nobody: its clients would wait for ever.
    pub fn unused(&self) -> impl Iterator<Item = &Passed> {
        self.passed.iter()
    }

    /// Opens a place of the router's own, for all workers.
    ///
    /// # Errors
    /// The address is in use, forbidden or not this host's.
    pub fn open_pool(&mut self, address: &Address) -> Result<(), ListenError> {
        match address {
            Address::Unix(path) => {
                let name = origins(address).concat();
                let listener = self.listener(Kind::Pool);
                let passed = self.find(|passed| passed.path() == Some(path));
                if !passed.is_empty() {
                    return self
                        .open_passed(listener, passed, Some(name.clone()))
                        .map_err(|error| ListenError::new(name, error));
                }
                self.open_unix(listener, path, Some(name.clone()))
                    .map_err(|error| ListenError::new(name, error))?;
            }
            Address::Tcp(addresses) => {
                for address in addresses {
                    let listener = self.listener(Kind::Pool);
                    let origin = Some(address.to_string());
                    let passed =
                        self.find(|passed| passed.address().is_some_and(|at| means(at, *address)));
                    let opened = if passed.is_empty() {
                        self.open_tcp(listener, *address, false, origin)
                    } else {
                        self.open_passed(listener, passed, origin)
                    };
                    opened.map_err(|error| ListenError::new(address.to_string(), error))?;
                }
            }
        }
        Ok(())
    }

    /// Opens the default port, unless `--listen` has said where, or the service manager has by what
    /// it passed.
    ///
    /// # Errors
    /// As [`Self::open_pool`].
    pub fn open_default(&mut self, port: u16) -> Result<(), ListenError> {
        if self.overridden {
            return Ok(());
        }
        let passed = std::mem::take(&mut self.passed);
        if passed.is_empty() {
            return self.open_pool(&Address::any(port));
        }
        for socket in passed {
            let (name, listener) = (socket.place(), self.listener(Kind::Pool));
            self.open_passed(listener, vec![socket], None)
                .map_err(|error| ListenError::new(name, error))?;
        }
        Ok(())
    }

    /// A worker asks to listen: opens the place if it is new, and says what to answer.
    pub fn listen(&mut self, worker: WorkerId, request: &QueryServer) -> Answer {
        tracing::debug!(%worker, address = ?request.address, port = request.port, "asks to listen");
        let answer = match request.address_type {
            AddressType::Udp4 | AddressType::Udp6 => self.bind_udp(request),
            AddressType::Other => Err(Errno::EINVAL.into()),
            // A descriptor of the worker's own number space means nothing here.
            _ if request.fd.is_some_and(|fd| fd >= 0) => Err(Errno::EINVAL.into()),
            _ if self.overridden => self.lend_pool(request),
            _ => self.join(worker, request),
        };
        answer.unwrap_or_else(|error| {
            let errno = error.raw_os_error().unwrap_or(Errno::EINVAL as i32);
            tracing::warn!(%worker, address = ?request.address, port = request.port, %error,
                "a worker asked to listen and cannot");
            Answer::Refused(-errno)
        })
    }

    /// A worker has closed its server; the last one closes the place.
    pub fn leave(&mut self, worker: WorkerId, id: ListenerId) {
        let Some(place) = self.places.get_mut(&id) else { return };
        place.users.remove(&worker);
        if place.users.is_empty() && place.listener.kind() == Kind::App {
            self.close(id);
        }
    }

    /// The places that were opened for this worker or for others like it.
    #[must_use]
    pub fn places_of(&self, worker: WorkerId) -> Vec<String> {
        let served = self.places.values().filter(|place| place.users.contains(&worker));
        let names = served.filter_map(|place| match (&place.address, &place.path) {
            (Some(address), _) => Some(address.to_string()),
            (None, Some(path)) => Some(format!("unix:{}", path.display())),
            (None, None) => None,
        });
        names.collect()
    }

    /// A worker is gone. Its places stay open: its successor will want them.
    pub fn worker_gone(&mut self, worker: WorkerId) {
        for place in self.places.values_mut() {
            place.users.remove(&worker);
        }
    }

    /// Nobody can connect any more. The shards have been told to stop accepting.
    pub fn stop(&mut self) {
        self.places.values().for_each(Place::end);
    }

    /// Where clients are accepted, in the words of `--listen`, in order.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        let name = |place: &Place| match (&place.address, &place.path) {
            (Some(address), _) => Some(address.to_string()),
            (None, path) => path.as_ref().map(|path| format!("unix:{}", path.display())),
        };
        let mut addresses: Vec<String> = self.places.values().filter_map(name).collect();
        addresses.sort_unstable();
        addresses
    }

    /// The places, for another process; their sockets go with them.
    #[must_use]
    pub fn freeze(self, descriptors: &mut Descriptors) -> Frozen {
        let mut add = |socket| descriptors.add(socket);
        let places = self.places.into_values().map(|place| FrozenPlace {
            listener: place.listener.freeze(),
            origin: place.origin,
            address: place.address,
            v6_only: place.v6_only,
            path: place.path,
            users: place.users.into_iter().collect(),
            ticket_keys: place.ticket_keys,
            sockets: place.sockets.into_iter().map(&mut add).collect(),
            passed: place.passed,
        });
        let places = places.collect();
        let datagram = self.datagram.into_iter().map(|(key, socket)| (key, add(socket)));
        let datagram = datagram.collect();
        let passed = self.passed.into_iter().map(|passed| passed.freeze(descriptors));
        Frozen {
            places,
            datagram,
            passed: passed.collect(),
            by_key: self.by_key.into_iter().collect(),
            next_id: self.next_id,
        }
    }

    /// The places as another router would have to open them.
    #[must_use]
    pub fn roll(&self) -> Frozen {
        let places = self.places.values().map(|place| FrozenPlace {
            listener: place.listener.unserved(),
            origin: place.origin.clone(),
            address: place.address,
            v6_only: place.v6_only,
            path: place.path.clone(),
            users: Vec::new(),
            ticket_keys: place.ticket_keys.clone(),
            sockets: Vec::new(),
            passed: place.passed,
        });
        let mut places: Vec<FrozenPlace> = places.collect();
        places.sort_unstable_by_key(|place| place.listener.id());
        let mut by_key: Vec<_> = self.by_key.iter().map(|(key, id)| (key.clone(), *id)).collect();
        by_key.sort_unstable_by_key(|(_, id)| *id);
        let (datagram, passed) = (Vec::new(), Vec::new());
        Frozen { places, by_key, datagram, passed, next_id: self.next_id }
    }

    /// Opens the places of a router that has died, under the names that its workers know. What
    /// cannot be opened is left out.
    pub fn reopen(&mut self, left: Frozen) {
        self.next_id = left.next_id;
        for place in left.places {
            let listener = Arc::new(Listener::thaw(&place.listener));
            let id = listener.id();
            let passed = self.find(|passed| match (&place.address, &place.path) {
                (Some(address), _) => passed.address() == Some(*address),
                (None, path) => path.is_some() && passed.path() == path.as_deref(),
            });
            let opened = match (&place.address, &place.path) {
                _ if !passed.is_empty() => self.open_passed(listener, passed, place.origin),
                (Some(address), _) => {
                    self.open_tcp(listener, *address, place.v6_only, place.origin)
                }
                (None, Some(path)) => self.open_unix(listener, path, place.origin),
                (None, None) => continue,
            };
            if let Err(error) = opened {
                let path = place.path.map(|path| path.display().to_string());
                tracing::error!(address = ?place.address, path, %error,
                    "what the workers listened on cannot be listened on again");
            } else if let Some(opened) = self.places.get_mut(&id) {
                opened.ticket_keys = place.ticket_keys;
            }
        }
        let places = &self.places;
        self.by_key = left.by_key.into_iter().filter(|(_, id)| places.contains_key(id)).collect();
    }

    /// A worker that has come back serves a place.
    pub fn serves(&mut self, worker: WorkerId, id: ListenerId) {
        if let Some(place) = self.places.get_mut(&id) {
            place.users.insert(worker);
        }
    }

    /// Takes over the places that another process has frozen, and gives the shards their sockets,
    /// if they are to accept at all.
    ///
    /// # Errors
    /// A socket could not be shared: the process is out of descriptors.
    pub fn thaw(
        &mut self,
        frozen: Frozen,
        descriptors: &mut Descriptors,
        accept: bool,
    ) -> io::Result<HashMap<ListenerId, Arc<Listener>>> {
        let shards = self.shared.mailboxes.len();
        let mut listeners = HashMap::new();
        for place in frozen.places {
            let listener = Arc::new(Listener::thaw(&place.listener));
            let sockets = place.sockets.into_iter().filter_map(|socket| descriptors.take(socket));
            let sockets: Vec<OwnedFd> = sockets.collect();
            // With fewer shards than sockets one shard gets several, with fewer sockets they share:
            // a socket that nobody accepts from would keep its share of the clients.
            let turns = if accept { sockets.len().max(shards) } else { 0 };
            for turn in 0..turns {
                let Some(socket) = sockets.get(turn % sockets.len().max(1)) else { break };
                let mail =
                    Mail::Listen { listener: Arc::clone(&listener), socket: socket.try_clone()? };
                post(&self.shared, turn % shards, mail);
            }
            listeners.insert(listener.id(), Arc::clone(&listener));
            self.places.insert(
                listener.id(),
                Place {
                    listener,
                    origin: place.origin,
                    address: place.address,
                    v6_only: place.v6_only,
                    path: place.path,
                    users: place.users.into_iter().collect(),
                    ticket_keys: place.ticket_keys,
                    sockets,
                    passed: place.passed,
                },
            );
        }
        self.by_key = frozen.by_key.into_iter().collect();
        let datagram = frozen.datagram.into_iter();
        self.datagram =
            datagram.filter_map(|(key, socket)| Some((key, descriptors.take(socket)?))).collect();
        self.next_id = frozen.next_id;
        let passed = frozen.passed.into_iter();
        self.passed = passed.filter_map(|passed| Passed::thaw(passed, descriptors)).collect();
        Ok(listeners)
    }

    /// Makes the router's own places those of `wanted`: opens what is new and closes what is no
    /// longer asked for. The default port stays where nothing else is, and so does what the service
    /// manager has passed: its clients would be let in by the manager and served by nobody.
    ///
    /// # Errors
    /// As [`Self::open_pool`]; what was open stays open.
    pub fn change_pool(&mut self, wanted: &[Address]) -> Result<(), ListenError> {
        let names: HashSet<String> = wanted.iter().flat_map(origins).collect();
        let held: HashSet<String> =
            self.places.values().filter_map(|place| place.origin.clone()).collect();
        for address in wanted {
            if origins(address).iter().any(|origin| !held.contains(origin)) {
                self.open_pool(address)?;
            }
        }
        if !wanted.is_empty() {
            let dropped = self.places.values().filter(|place| {
                let named = place.origin.as_ref().is_some_and(|origin| !names.contains(origin));
                named && !place.passed
            });
            let dropped: Vec<ListenerId> = dropped.map(|place| place.listener.id()).collect();
            dropped.into_iter().for_each(|id| self.close(id));
        }
        Ok(())
    }

    /// Where a connection with this address on our side has arrived.
    #[must_use]
    pub fn arrival(&self, local: &Local) -> Option<Arc<Listener>> {
        let is_there = |place: &&Place| match (local, place.address) {
            (Local::Unix(path), None) => path.is_some() && *path == place.path,
            (Local::Inet(local), Some(address)) => {
                let same = local.ip().to_canonical() == address.ip().to_canonical();
                local.port() == address.port() && (same || address.ip().is_unspecified())
            }
            _ => false,
        };
        // A place of its own is more than one of any address.
        let any =
            |place: &Place| place.address.is_some_and(|address| address.ip().is_unspecified());
        let places = self.places.values().filter(is_there);
        places.min_by_key(|place| any(place)).map(|place| Arc::clone(&place.listener))
    }

    /// Removes the files of Unix sockets.
    pub fn clean_up(&mut self) {
        self.places.values().for_each(Place::remove_file);
    }

    fn close(&mut self, id: ListenerId) {
        let Some(mut place) = self.places.remove(&id) else { return };
        tracing::debug!(address = ?place.address, path = ?place.path, "closed");
        self.by_key.retain(|_, listener| *listener != id);
        place.remove_file();
        for shard in 0..self.shared.mailboxes.len() {
            post(&self.shared, shard, Mail::Unlisten(Arc::clone(&place.listener)));
        }
        place.end();
        if place.passed {
            // For whoever asks for it next.
            for socket in place.sockets.drain(..) {
                match Passed::again(socket) {
                    Ok(passed) => self.passed.push(passed),
                    Err(error) => tracing::error!(%error, "a socket that was passed is lost"),
                }
            }
        }
    }

    /// Takes what was passed and is as `wanted`.
    fn find(&mut self, wanted: impl Fn(&Passed) -> bool) -> Vec<Passed> {
        self.passed.extract_if(.., |passed| wanted(passed)).collect()
    }

    /// `--listen` decides where: the worker gets the port's name and the pool's connections.
    fn lend_pool(&mut self, request: &QueryServer) -> io::Result<Answer> {
        let mut places = self.places.values_mut();
        let pool = places.find(|place| place.listener.kind() == Kind::Pool);
        let Some(pool) = pool else { return Err(Errno::EINVAL.into()) };
        let port = match u16::try_from(request.port) {
            Ok(0) | Err(_) => pool.address.map_or(0, |address| address.port()),
            Ok(port) => port,
        };
        let name = match request.address_type {
            AddressType::Pipe => None,
            _ => Some(sock_name(SocketAddr::new(requested_ip(request)?, port))),
        };
        let ticket_keys = pool.ticket_keys(request);
        Ok(Answer::Listening { listener: Arc::clone(&pool.listener), name, ticket_keys })
    }

    fn join(&mut self, worker: WorkerId, request: &QueryServer) -> io::Result<Answer> {
        let key = key(request);
        let id = match self.by_key.get(&key) {
            Some(id) => *id,
            None => {
                let listener = self.listener(Kind::App);
                let id = listener.id();
                match (request.address_type, &request.address) {
                    (AddressType::Pipe, Some(path)) => {
                        let path = Path::new(path);
                        let passed = self.find(|passed| passed.path() == Some(path));
                        if passed.is_empty() {
                            self.open_unix(listener, path, None)?;
                        } else {
                            self.open_passed(listener, passed, None)?;
                        }
                    }
                    _ => {
                        let port = u16::try_from(request.port).unwrap_or(0);
                        let address = SocketAddr::new(requested_ip(request)?, port);
                        let passed = self.find(|passed| serves(passed, address));
                        if passed.is_empty() {
                            let v6_only = request.flags & IPV6_ONLY != 0;
                            self.open_tcp(listener, address, v6_only, None)?;
                        } else {
                            self.open_passed(listener, passed, None)?;
                        }
                    }
                }
                self.by_key.insert(key, id);
                id
            }
        };
        let Some(place) = self.places.get_mut(&id) else { return Err(Errno::EINVAL.into()) };
        place.users.insert(worker);
        Ok(Answer::Listening {
            listener: Arc::clone(&place.listener),
            name: place.address.map(sock_name),
            ticket_keys: place.ticket_keys(request),
        })
    }

    fn bind_udp(&mut self, request: &QueryServer) -> io::Result<Answer> {
        let key = key(request);
        if !self.datagram.contains_key(&key) {
            let port = u16::try_from(request.port).unwrap_or(0);
            let socket = socket::bind_udp(SocketAddr::new(requested_ip(request)?, port))?;
            self.datagram.insert(key.clone(), socket);
        }
        let socket = self.datagram.get(&key).ok_or(Errno::EINVAL)?;
        Ok(Answer::Socket(socket.try_clone()?))
    }

    fn listener(&mut self, kind: Kind) -> Arc<Listener> {
        self.next_id += 1;
        Arc::new(Listener::new(self.next_id, kind))
    }

    fn open_tcp(
        &mut self,
        listener: Arc<Listener>,
        address: SocketAddr,
        v6_only: bool,
        origin: Option<String>,
    ) -> io::Result<()> {
        let shards = self.shared.mailboxes.len();
        let mut address = address;
        // Alone on the port first: with SO_REUSEPORT a second router would not be noticed.
        let alone = TcpOptions { reuse_port: false, v6_only };
        let probe = match socket::bind_tcp(address, alone) {
            Err(error) if is_no_ipv6(&error) && address.ip() == Ipv6Addr::UNSPECIFIED => {
                address.set_ip(Ipv4Addr::UNSPECIFIED.into());
                socket::bind_tcp(address, alone)?
            }
            bound => bound?,
        };
        let address = socket::local_address(probe.as_fd())?;
        drop(probe);
        let options = TcpOptions { reuse_port: shards > 1, v6_only };
        let sockets: io::Result<Vec<OwnedFd>> =
            (0..shards).map(|_| socket::listen_tcp(address, options)).collect();
        let id = listener.id();
        self.add(listener, origin, Some(address), None, sockets?);
        if let Some(place) = self.places.get_mut(&id) {
            place.v6_only = v6_only;
        }
        tracing::info!(%address, "listening");
        Ok(())
    }

    fn open_unix(
        &mut self,
        listener: Arc<Listener>,
        path: &Path,
        origin: Option<String>,
    ) -> io::Result<()> {
        let socket = socket::listen_unix(path)?;
        let sockets: io::Result<Vec<OwnedFd>> =
            self.shared.mailboxes.iter().map(|_| socket.try_clone()).collect();
        self.add(listener, origin, None, Some(path.to_owned()), sockets?);
        tracing::info!(address = format!("unix:{}", path.display()), "listening");
        Ok(())
    }

    /// One place for all of these: an application that asks for any address means each of them.
    fn open_passed(
        &mut self,
        listener: Arc<Listener>,
        passed: Vec<Passed>,
        origin: Option<String>,
    ) -> io::Result<()> {
        let Some(first) = passed.first() else { return Err(Errno::EINVAL.into()) };
        let (address, path) = (first.address(), first.path().map(Path::to_owned));
        let shards = 0..self.shared.mailboxes.len();
        let shares = shards.flat_map(|shard| passed.iter().map(move |one| (shard, one)));
        // All of them, before the first shard has one: who fails has opened nothing.
        let shares: io::Result<Vec<(usize, OwnedFd)>> =
            shares.map(|(shard, one)| Ok((shard, one.socket.try_clone()?))).collect();
        let shares = match shares {
            Ok(shares) => shares,
            Err(error) => {
                self.passed.extend(passed);
                return Err(error);
            }
        };
        for (shard, socket) in shares {
            post(&self.shared, shard, Mail::Listen { listener: Arc::clone(&listener), socket });
        }
        for one in &passed {
            tracing::info!(address = one.place(), passed = true, "listening");
        }
        let sockets = passed.into_iter().map(|one| one.socket).collect();
        let place = Place {
            listener,
            origin,
            address,
            v6_only: false,
            path,
            users: HashSet::new(),
            ticket_keys: None,
            sockets,
            passed: true,
        };
        self.places.insert(place.listener.id(), place);
        Ok(())
    }

    fn add(
        &mut self,
        listener: Arc<Listener>,
        origin: Option<String>,
        address: Option<SocketAddr>,
        path: Option<PathBuf>,
        sockets: Vec<OwnedFd>,
    ) {
        // Without a share of its own the place closes a moment later, and does not cross an upgrade.
        let shares = sockets.iter().filter_map(|socket| socket.try_clone().ok()).collect();
        for (shard, socket) in sockets.into_iter().enumerate() {
            let listener = Arc::clone(&listener);
            post(&self.shared, shard, Mail::Listen { listener, socket });
        }
        let id = listener.id();
        self.places.insert(
            id,
            Place {
                listener,
                origin,
                address,
                v6_only: false,
                path,
                users: HashSet::new(),
                ticket_keys: None,
                sockets: shares,
                passed: false,
            },
        );
    }
}

/// Whether a socket at `passed` is what `--listen` means by `asked`: "any address" is IPv6's on one
/// host and IPv4's on another, and the manager may have chosen as the router would not.
fn means(passed: SocketAddr, asked: SocketAddr) -> bool {
    let any = |address: SocketAddr| address.ip().is_unspecified();
    passed == asked || passed.port() == asked.port() && any(passed) && any(asked)
}

/// Whether a socket that was passed is what an application means by this address.
fn serves(passed: &Passed, wanted: SocketAddr) -> bool {
    let any = wanted.ip().is_unspecified() && wanted.port() != 0;
    passed
        .address()
        .is_some_and(|address| address == wanted || (any && address.port() == wanted.port()))
}

/// What [`Place::origin`] is for the places of an address.
fn origins(address: &Address) -> Vec<String> {
    match address {
        Address::Unix(path) => vec![format!("unix:{}", path.display())],
        Address::Tcp(addresses) => addresses.iter().map(SocketAddr::to_string).collect(),
    }
}

fn key(request: &QueryServer) -> Key {
    let index = if request.port == 0 { request.index } else { 0 };
    (request.address.clone(), request.port, request.address_type, index)
}

/// Node asks for no address when it means any, IPv6 included.
fn requested_ip(request: &QueryServer) -> io::Result<IpAddr> {
    match (&request.address, request.address_type) {
        (None, AddressType::Udp4) => Ok(Ipv4Addr::UNSPECIFIED.into()),
        (None, _) => Ok(Ipv6Addr::UNSPECIFIED.into()),
        (Some(address), _) => address.parse().map_err(|_| Errno::EINVAL.into()),
    }
}

fn sock_name(address: SocketAddr) -> SockName {
    SockName {
        address: address.ip().to_string(),
        family: if address.is_ipv4() { "IPv4" } else { "IPv6" },
        port: address.port(),
    }
}

fn is_no_ipv6(error: &io::Error) -> bool {
    let errno = error.raw_os_error();
    errno == Some(Errno::EAFNOSUPPORT as i32) || errno == Some(Errno::EADDRNOTAVAIL as i32)
}

fn remove_socket(path: Option<&Path>) {
    if let Some(path) = path
        && let Err(error) = std::fs::remove_file(path)
    {
        tracing::debug!(path = %path.display(), %error, "socket file not removed");
    }
}
