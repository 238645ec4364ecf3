// Which server of this process has which of the router's numbers. Owns the pairing: a server asks the
// router for its port through Node's cluster, the answer carries `<listener>:<number>`, and the server
// whose handle has just appeared is the one that was answered. Only such servers are the router's.
'use strict';

const net = require('net');
const http = require('http');
const router = require('./router');

const asking = new Set(); // Servers that called listen() and have no handle yet.
const open = new Map(); // number -> server, while it listens
const numbers = new WeakMap(); // server -> number, also while it closes

function watch() {
  const { listen } = net.Server.prototype;
  const wrapped = {
    listen(...args) {
      asking.add(this);
      return listen.apply(this, args);
    },
  }.listen;
  net.Server.prototype.listen = wrapped;
  // Cluster's own listener is older and has given the server its handle when this one runs.
  process.on('internalMessage', (message) => {
    if (message.cmd === 'NODE_CLUSTER' && message.ack !== undefined && typeof message.key === 'string') {
      answered(message.key);
    }
  });
}

function answered(key) {
  const number = Number(key.slice(key.lastIndexOf(':') + 1));
  if (!(number >= 1)) return;
  for (const server of asking) {
    const handle = server._handle;
    if (!handle) continue;
    asking.delete(server);
    // Cluster's stand-in is a plain object; a real handle belongs to a server that listens by itself.
    if (Object.getPrototypeOf(handle) !== Object.prototype) continue;
    enter(number, server, handle);
    return;
  }
}

function enter(number, server, handle) {
  open.set(number, server);
  numbers.set(server, number);
  const { close } = handle;
  handle.close = function (...args) {
    open.delete(number);
    return close.apply(this, args);
  };
  router.say(`router:server ${number} ${kind(server)}`);
}

function kind(server) {
  if (server instanceof http.Server) return 'http';
  // Loading tls takes long, and who has one has loaded it.
  if (typeof server.setSecureContext === 'function' && server instanceof require('tls').Server) return 'tls';
  return 'other';
}

/** The server that listens as `number`, or undefined. */
function get(number) {
  return open.get(number);
}

/** The number of a server that the router feeds, or undefined. */
function numberOf(server) {
  return numbers.get(server);
}

module.exports = { watch, get, numberOf };
