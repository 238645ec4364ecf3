// The Engine.IO sessions of this worker. Owns the ids that route themselves (they name slot and
// generation, so the router needs no table for them), the announcements of the ids that do not, and
// the counts of sessions opened and closed. It decides whether a session id is at home here.
'use strict';

const { randomFillSync } = require('crypto');
const { unescape } = require('querystring');
const modules = require('./modules');
const router = require('./router');

const ALPHABET = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_';
const RANDOM = 14; // Characters of chance: 84 bits.
const NAMED = 17; // Characters under the check: chance, then slot and generation.
const LENGTH = 20;
const POOL = RANDOM * 256; // Bytes of randomness fetched at a time.
const ANNOUNCED_MAX = 100_000; // Ids; at the bound the one unseen for longest is given up.
const SWEEP_EVERY = 30_000; // Milliseconds.
const IDLE_MAX = 600_000; // Milliseconds without a request or an open socket.
const HANDSHAKE_SCAN = 1024; // Bytes of a response in which the id stands.

const VALUES = new Int8Array(128).fill(-1);
for (let i = 0; i < 64; i++) VALUES[ALPHABET.charCodeAt(i)] = i;

const pool = Buffer.allocUnsafeSlow(POOL);
let pooled = POOL;
let home = -1; // Slot and generation of this worker, as the 18 bits of an id.
let homeText = '';

const engines = new Set();
const patched = new WeakSet(); // prototypes
// id -> who knows when it ends: { engine: true }, or, where no engine can be seen, when it was last
// seen and how many upgraded sockets it has. Ordered by last sight.
const announced = new Map();
let guests = 0; // Announced ids without an engine.
let sweeper;
let opened = 0;
let closed = 0;
let changed = () => {};

function install(slot, generation) {
  home = (slot << 8) | (generation & 255);
  homeText = triple(home);
  modules.onLoad('engine.io', intercept);
}

// ---- Engines that can be seen ----

function intercept(Server) {
  wrap(Server.prototype, 'generateId', () => function generateId(req) {
    return newId();
  });
  wrap(Server.prototype, 'handshake', (handshake) => function (...args) {
    if (!engines.has(this)) {
      engines.add(this);
      this.on('connection', enter);
    }
    return handshake.apply(this, args);
  });
}

// engine.io 6 has the method on a base class that all its servers share, 3 to 5 on the Server.
function wrap(prototype, name, make) {
  let owner = prototype;
  while (owner !== null && !Object.prototype.hasOwnProperty.call(owner, name)) owner = Object.getPrototypeOf(owner);
  if (owner === null) throw new Error(`no ${name}()`);
  if (patched.has(owner[name])) return;
  const wrapped = make(owner[name]);
  patched.add(wrapped);
  const descriptor = Object.getOwnPropertyDescriptor(owner, name);
  Object.defineProperty(owner, name, { ...descriptor, value: wrapped });
}

function enter(socket) {
  const { id } = socket;
  const record = announced.get(id);
  if (record !== undefined && record.engine === undefined) {
    // The response was watched before the engine spoke; it is counted.
    guests--;
    announced.set(id, { engine: true });
  } else {
    opened++;
    changed();
    // A response that went through a compressor shows nothing. A WebSocket never asks for its way again.
    if (record === undefined && !routesItself(id) && socket.transport.name === 'polling') {
      announced.set(id, { engine: true });
      router.say({ type: 'sticky:connection', data: id });
    }
  }
  socket.once('close', () => {
    closed++;
    changed();
    if (announced.delete(id)) router.say({ type: 'sticky:disconnection', data: id });
  });
}

// ---- Ids ----

function newId() {
  if (pooled === POOL) {
    randomFillSync(pool);
    pooled = 0;
  }
  let id = '';
  for (const end = pooled + RANDOM; pooled < end; pooled++) id += ALPHABET[pool[pooled] & 63];
  id += homeText;
  return id + triple(check(id));
}

function triple(bits) {
  return ALPHABET[bits >>> 12] + ALPHABET[(bits >>> 6) & 63] + ALPHABET[bits & 63];
}

function valueOf(text, at) {
  const high = VALUES[text.charCodeAt(at) & 127];
  const middle = VALUES[text.charCodeAt(at + 1) & 127];
  const low = VALUES[text.charCodeAt(at + 2) & 127];
  return (high | middle | low) < 0 ? -1 : (high << 12) | (middle << 6) | low;
}

// FNV-1a over the first 17 characters, folded, its top 18 bits.
function check(text) {
  let hash = 0x811c9dc5;
  for (let i = 0; i < NAMED; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193);
  hash ^= hash >>> 15;
  return hash >>> 14;
}

// The worker that a self-routing id names; -1 when it does not route itself.
function workerOf(id) {
  if (id.length !== LENGTH || valueOf(id, NAMED) !== check(id)) return -1;
  return valueOf(id, RANDOM);
}

function routesItself(id) {
  return typeof id === 'string' && workerOf(id) === home;
}

/** The first key of the query that is exactly `sid`, decoded; '' when there is none. */
function idOf(url) {
  let at = url.indexOf('?') + 1;
  if (at === 0) return '';
  while (!url.startsWith('sid=', at)) {
    at = url.indexOf('&', at) + 1;
    if (at === 0) return '';
  }
  const end = url.indexOf('&', at);
  const id = end < 0 ? url.slice(at + 4) : url.slice(at + 4, end);
  return id.includes('%') || id.includes('+') ? unescape(id.replaceAll('+', ' ')) : id;
}

/** Whether requests with this id are answered here: an id of this worker that has ended still is. */
function isHome(id) {
  for (const engine of engines) {
    if (Object.prototype.hasOwnProperty.call(engine.clients, id)) return true;
  }
  return announced.has(id) || workerOf(id) === home;
}

// ---- Ids that do not route themselves, seen in the response to the handshake ----

/** `res` answers a handshake: its id is announced before the bytes leave. */
function watch(res) {
  const { write, end } = res;
  const look = (chunk, encoding) => {
    delete res.write;
    delete res.end;
    const id = idIn(chunk, encoding);
    if (id !== '' && !routesItself(id) && !announced.has(id)) announce(id);
  };
  // Only of this response, and only up to its first bytes.
  res.write = function (chunk, encoding, callback) {
    look(chunk, encoding);
    return write.apply(this, arguments);
  };
  res.end = function (chunk, encoding, callback) {
    look(chunk, encoding);
    return end.apply(this, arguments);
  };
}

// `0{"sid":"…"` of protocol 4, `97:0{"sid":"…"` of 3, and both as a string inside JSONP.
function idIn(chunk, encoding) {
  let text = '';
  if (typeof chunk === 'string') text = chunk.slice(0, HANDSHAKE_SCAN);
  else if (chunk instanceof Uint8Array) {
    text = Buffer.from(chunk.buffer, chunk.byteOffset, Math.min(chunk.byteLength, HANDSHAKE_SCAN)).toString();
  }
  const found = /0\{(\\?)"sid\1":\1"(.*?)(?<!\\)\1"/s.exec(text);
  if (found === null) return '';
  try {
    let id = found[2];
    if (found[1] !== '') id = JSON.parse(`"${id}"`);
    return JSON.parse(`"${id}"`);
  } catch {
    return '';
  }
}

function announce(id) {
  if (announced.size >= ANNOUNCED_MAX) {
    for (const [oldest, record] of announced) {
      if (record.engine === undefined) {
        depart(oldest);
        break;
      }
    }
  }
  opened++;
  changed();
  guests++;
  announced.set(id, { engine: undefined, seen: Date.now(), sockets: 0 });
  router.say({ type: 'sticky:connection', data: id });
  if (sweeper === undefined) {
    sweeper = setInterval(sweep, SWEEP_EVERY);
    sweeper.unref();
  }
}

function depart(id) {
  announced.delete(id);
  guests--;
  closed++;
  changed();
  router.say({ type: 'sticky:disconnection', data: id });
}

function sweep() {
  const oldest = Date.now() - IDLE_MAX;
  for (const [id, record] of announced) {
    if (record.engine !== undefined) continue;
    if (record.seen > oldest) break; // In order of last sight.
    if (record.sockets === 0) depart(id);
  }
}

/** Whether `saw` has any use. */
function hasGuests() {
  return guests > 0;
}

/** A request with this id came; `socket` when it becomes a WebSocket. */
function saw(id, socket) {
  const record = announced.get(id);
  if (record === undefined || record.engine !== undefined) return;
  touch(id, record);
  if (socket === undefined) return;
  record.sockets++;
  socket.once('close', () => {
    record.sockets--;
    if (announced.get(id) === record) touch(id, record);
  });
}

function touch(id, record) {
  record.seen = Date.now();
  announced.delete(id);
  announced.set(id, record);
}

/** Sessions there are. */
function count() {
  let sum = guests;
  for (const engine of engines) sum += engine.clientsCount;
  return sum;
}

/** Closes so many of those an engine has, the oldest first; those that are closing already count. */
function close(most) {
  let left = most;
  for (const engine of engines) {
    for (const socket of Object.values(engine.clients)) {
      if (left-- <= 0) return;
      // The client takes it for a lost connection, and comes back by itself.
      if (socket.readyState === 'open') socket.close();
    }
  }
}

/** `see()` runs whenever a session opens or closes. */
function onChange(see) {
  changed = see;
}

function takeCounts() {
  const counts = { opened, closed };
  opened = 0;
  closed = 0;
  return counts;
}

/** To a router that knows nothing yet: the sessions whose ids do not name this worker. */
function tellAnew() {
  for (const id of announced.keys()) router.say({ type: 'sticky:connection', data: id });
}

module.exports = { install, idOf, isHome, watch, hasGuests, saw, onChange, takeCounts, count, close, tellAnew };
