//! Who a client is: what the PROXY protocol says, and the worker that its address gets.
//!
//! Only asked for where it matters: with `--proxy-protocol`, and for a connection whose session
//! cannot be read (TLS, or what is not HTTP), so that a client that comes again finds its worker.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use super::ConnectionId;
use super::connection::State;
use super::core::{Action, Shard};
use crate::http::proxy::{self, Header};
use crate::metrics::Counter;
use crate::route;

impl Shard {
    /// The header of the PROXY protocol is expected: is its sender one to be believed?
    pub(super) fn expect_proxy(&mut self, id: ConnectionId) {
        self.connections[id].state = State::ExpectAddress { proxy: true };
        self.actions.push(Action::AskAddress(id));
    }

    /// The session of this connection cannot be read: its client's address decides, or balance.
    pub(super) fn route_unreadable(&mut self, id: ConnectionId, by_address: bool, now: Instant) {
        if !by_address {
            return self.route(id, now);
        }
        match self.connections[id].peer {
            Some(peer) => self.route_by_address(id, Some(peer.ip()), now),
            None => {
                self.connections[id].state = State::ExpectAddress { proxy: false };
                self.actions.push(Action::AskAddress(id));
            }
        }
    }

    /// The kernel says who the client is; `None` on a Unix socket.
    pub fn address_is(&mut self, id: ConnectionId, address: Option<SocketAddr>, now: Instant) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        let State::ExpectAddress { proxy } = connection.state else { return };
        let ip = address.map(|address| address.ip());
        if !proxy {
            return self.route_by_address(id, ip, now);
        }
        let trusted = self.shared.trusts.as_ref().is_some_and(|trusts| trusts(ip));
        if !trusted {
            self.count(Counter::ClosedUntrusted);
            return self.close(id);
        }
        connection.state = State::ExpectProxy { seen: 0 };
        self.actions.push(Action::Peek(id));
    }

    /// What has arrived where the PROXY protocol's header belongs.
    pub(super) fn proxy_peeked(
        &mut self,
        id: ConnectionId,
        bytes: &[u8],
        seen: usize,
        finished: bool,
        now: Instant,
    ) {
        let connection = &mut self.connections[id];
        match proxy::parse(bytes) {
            Header::Complete { length, peer } => {
                connection.peer = peer;
                self.actions.push(Action::Skip { connection: id, length });
            }
            Header::Incomplete { needed } if bytes.len() > seen && !finished => {
                connection.state = State::ExpectProxy { seen: bytes.len() };
                connection.tries = 0;
                let beyond = bytes.len().max(needed - 1);
                self.actions.push(Action::PeekBeyond { connection: id, beyond });
            }
            Header::Incomplete { .. } if !finished => self.peek_later(id, now),
            Header::Incomplete { .. } | Header::Fault(_) => {
                self.count(Counter::ClosedNoProxy);
                self.close(id);
            }
        }
    }

    /// The header has been taken out of the stream; the request comes next.
    pub fn skipped(&mut self, id: ConnectionId, now: Instant) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        if matches!(connection.state, State::ExpectProxy { .. }) {
            connection.tries = 0;
            self.expect_request(id, now);
        }
    }

    fn route_by_address(&mut self, id: ConnectionId, ip: Option<IpAddr>, now: Instant) {
        self.connections[id].address = ip.map(|ip| match ip.to_canonical() {
            IpAddr::V4(ip) => route::hash(&ip.octets()),
            IpAddr::V6(ip) => route::hash(&ip.octets()),
        });
        self.route(id, now);
    }
}
