// Which server of this process has which of the router's numbers. Owns the pairing: a server asks the
// router for its port through Node's cluster, the answer carries `<listener>:<number>`, and the server
// whose handle has just appeared is the one that was answered. Only such servers are the router's.
// It knows also what was asked for and what was answered, since the next router has to be told.
'use strict';

const net = require('net');
const http = require('http');
const router = require('./router');

const asking = new Set(); // Servers that called listen() and have no handle yet.
const open = new Map(); // number -> server, while it listens
const numbers = new WeakMap(); // server -> number, also while it closes
const unanswered = new Map(); // seq -> the question for a port, until the answer comes
const serving = new Map(); // key -> what `router:serving` says of it, until the server closes

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
  process.on('internalMessage', (message, handle) => {
    if (message.cmd !== 'NODE_CLUSTER' || message.ack === undefined) return;
    const question = unanswered.get(message.ack);
    unanswered.delete(message.ack);
    if (typeof message.key !== 'string') return;
    // With a handle the worker accepts by itself, and no router is needed for it.
    if (question !== undefined && !message.errno && !handle) serves(question, message);
    answered(message.key);
  });
}

/** To be called with everything that is sent, before it is. */
function note(message) {
  if (message === null || typeof message !== 'object' || message.cmd !== 'NODE_CLUSTER') return;
  if (message.act === 'queryServer') unanswered.set(message.seq, message);
  else if (message.act === 'close') serving.delete(message.key);
}

function serves({ index, address, port, addressType }, { key, sockname }) {
  const bound = sockname ? sockname.port : null;
  serving.set(key, { key, index, address, port, addressType, bound });
}

/** To a router that knows nothing yet: what is served here. */
function tellAnew() {
  for (const [key, what] of serving) {
    const server = open.get(numberIn(key));
    const speaks = server === undefined ? 'other' : kind(server);
    router.say(`router:serving ${JSON.stringify({ ...what, speaks })}`);
  }
}

/** The questions that nobody will answer who was asked. */
function questions() {
  return [...unanswered.values()];
}

function numberIn(key) {
  return Number(key.slice(key.lastIndexOf(':') + 1));
}

function answered(key) {
  const number = numberIn(key);
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

module.exports = { watch, note, tellAnew, questions, get, numberOf };
