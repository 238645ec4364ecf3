// A client's raw handle becomes a connection of the app: of the server that has its number, or, as
// number 0, of whoever listens for sticky's messages. Owns also the way back, for what nobody here
// takes, and the halves of connections that come in two messages.
'use strict';

const net = require('net');
const router = require('./router');
const servers = require('./servers');

const HALF_TIMEOUT = 10_000; // Milliseconds that a half waits for its other.
const [MAJOR] = process.versions.node.split('.', 1).map(Number);

const peers = new WeakMap(); // handle -> 'address,port' that the router told
const halves = new Map(); // id -> { bytes, connection, timer }
const ourListeners = new Set(); // on process 'message', deaf to sockets

/** Takes NODE_ROUTER messages, which Node never shows to the app. */
function listen() {
  process.on('internalMessage', (message, handle) => {
    if (message.cmd !== 'NODE_ROUTER') return;
    if (message.act === 'bytes') {
      join(message.id, 'bytes', message.data);
    } else if (message.act === 'connection' && handle) {
      const connection = { handle, number: message.server, peer: message.peer || '' };
      if (message.id === 0) deliver(handle, connection.number, '', connection.peer);
      else join(message.id, 'connection', connection);
    }
  });
}

function join(id, part, value) {
  let half = halves.get(id);
  if (half === undefined) {
    half = { bytes: undefined, connection: undefined, timer: undefined };
    half.timer = setTimeout(() => {
      halves.delete(id);
      if (half.connection !== undefined) half.connection.handle.close();
    }, HALF_TIMEOUT);
    half.timer.unref();
    halves.set(id, half);
  }
  half[part] = value;
  if (half.bytes === undefined || half.connection === undefined) return;
  clearTimeout(half.timer);
  halves.delete(id);
  const { handle, number, peer } = half.connection;
  deliver(handle, number, half.bytes, peer);
}

/** `bytes` (latin1) were read from the connection and come first; `peer` is 'address port' or ''. */
function deliver(handle, number, bytes, peer) {
  if (peer !== '') setPeer(handle, peer);
  if (number === 0) {
    inject(handle, bytes);
    return;
  }
  const server = servers.get(number);
  if (server === undefined || refuses(server)) {
    giveBack(handle, number, bytes);
  } else if (bytes === '') {
    server._handle.onconnection(0, handle);
  } else {
    carry(server, handle, bytes);
  }
}

// What Node's cluster child answers `accepted: false` to, in this Node's version.
function refuses(server) {
  const max = server.maxConnections;
  if (MAJOR < 22) return Boolean(max) && server._connections >= max;
  return max != null && server._connections >= max && !server.dropMaxConnection;
}

function carry(server, handle, bytes) {
  const unshift = (socket) => {
    socket.unshift(Buffer.from(bytes, 'latin1'));
  };
  // Before http's own listener, which starts to read.
  server.prependOnceListener('connection', unshift);
  try {
    server._handle.onconnection(0, handle);
  } finally {
    // The server may have dropped the connection without a word.
    server.removeListener('connection', unshift);
  }
}

// As Node delivers a socket that the primary sends. Version 2 of sticky un-shifts the data, version 1 emits it.
function inject(handle, bytes) {
  if (process.listenerCount('message') <= ourListeners.size) {
    handle.close();
    router.warn('a socket came for a sticky worker, and nobody listens for it: call setupWorker(io) or listen()');
    return;
  }
  const data = bytes === '' ? '' : Buffer.from(bytes, 'latin1');
  const socket = new net.Socket({ handle, readable: true, writable: true });
  process.emit('message', { type: 'sticky:connection', data }, socket);
}

/** Listens on process 'message' without being taken for somebody who takes sockets. */
function onMessage(listener) {
  ourListeners.add(listener);
  process.on('message', listener);
}

function setPeer(handle, peer) {
  const space = peer.indexOf(' ');
  if (space < 0) return;
  const address = peer.slice(0, space);
  const port = Number(peer.slice(space + 1));
  const family = address.includes(':') ? 'IPv6' : 'IPv4';
  handle.getpeername = (out) => {
    out.address = address;
    out.family = family;
    out.port = port;
    return 0;
  };
  peers.set(handle, `${address},${port}`);
}

/** To the router, for another worker: the handle, and everything that was read from it. */
function giveBack(handle, number, bytes) {
  const peer = peers.get(handle) || '-';
  // Never read from here: what the client sends next stays in the kernel and goes along.
  const socket = new net.Socket({ handle, pauseOnCreate: true, readable: true, writable: true });
  socket.on('error', () => {});
  router.give(`router:return ${number} ${peer} ${bytes}`, socket, () => socket.destroy());
}

module.exports = { listen, deliver, giveBack, onMessage };
