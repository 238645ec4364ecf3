// The life of a worker whose router has died. Node and the app are not told: the channel looks open,
// what is sent waits, and the worker calls for the next router until it answers with another channel,
// or until the time is over and everything goes as it would have gone at once. Owns the guard at the
// channel, the calls, and what the new router is told of a worker that it has not started.
//
//   the channel ends ─► what is sent waits ─► a router answers ─► it is told how things stand
//        ▲                     └──► nobody came in time: Node hears of the end          │
//        └──────────────────────────────────────────────────────────────────────────────┘
'use strict';

const { errno } = require('os').constants;
const { performance } = require('perf_hooks');
const net = require('net');
const batch = require('./batch');
const channel = require('./channel');
const lanes = require('./lane');
const load = require('./load');
const outbox = require('./outbox');
const output = require('./output');
const router = require('./router');
const servers = require('./servers');
const sessions = require('./sessions');

const CALL_EVERY = 100; // Milliseconds.
const CALL_MAX = 5_000; // Milliseconds for one call.
const GONE = new Set([-errno.EPIPE, -errno.ECONNRESET]); // What a write says when nobody reads.

// The handles that came with a descriptor: one that is collected closes it, and somebody else has it open.
const received = [];

let part; // What the router told this worker at its start.
let lane; // Undefined without one.
let Pipe;
let node; // What Node has at the channel there is: { handle, onread, send, disconnect }.
let orphaned = false;
const waiting = new Set(); // What Node has written and the kernel has not: { data }, in order.
let until = 0;
let calls; // The timer; it is all that keeps an idle process alive meanwhile.
let hangUp; // Ends the call that is under way.

/** From here on the end of the channel is not the end of the worker. */
function guard(worker, first) {
  if (worker.mode !== 'advanced' && worker.mode !== 'json') throw new Error(`serialization ${worker.mode}`);
  part = worker;
  lane = first;
  Pipe = lanes.pipeClass();
  channel.find();
  output.watch();
  stand();
}

// Between Node and its channel; for each channel anew.
function stand() {
  const handle = channel.handle();
  const { onread } = handle;
  node = { handle, onread, send: process._send, disconnect: process._disconnect };
  process._send = send;
  let fresh = false; // Something came since the end was told.
  handle.onread = function (bytes) {
    if (bytes || isLeaving()) {
      fresh = true;
      return onread.apply(this, arguments);
    }
    // Libuv tells the end after the first of several messages with sockets that are still there.
    // Not after an error, which a router causes that dies without having read everything.
    const more = fresh && handle.readStart() === 0;
    fresh = false;
    if (!more) ended();
  };
  // Shows the end before it is read. Only messages without a socket fail at once; Node keeps the others.
  for (const name of ['writeBuffer', 'writeUtf8String']) {
    const write = handle[name];
    handle[name] = function (req, data, socket) {
      const error = write.apply(this, arguments);
      if (error === 0 && !socket && handle.writeQueueSize > 0) follow(req, data);
      if (socket || !GONE.has(error) || isLeaving()) return error;
      orphan();
      for (const message of outbox.read(data)) outbox.put(message, undefined, undefined, part.mode);
      return 0;
    };
  }
  batch.stand(handle);
}

// A write that waits for room in the kernel fails without a word to anybody. The kernel may keep the
// socket of a dead router open for a moment, so that there are such writes after its death.
function follow(req, data) {
  const entry = { data };
  waiting.add(entry);
  let complete;
  Object.defineProperty(req, 'oncomplete', {
    get: () => function (status) {
      // What has failed is taken with the rest, in its order, once the end is read.
      if (status === 0) waiting.delete(entry);
      if (complete !== undefined) return complete.apply(this, arguments);
    },
    set: (value) => { complete = value; },
  });
}

// The worker is on its way out by its own will or the router's: an end is just that.
function isLeaving() {
  const { worker } = require('cluster');
  return !process.connected || Boolean(worker && worker.exitedAfterDisconnect && !orphaned);
}

// In place of process._send, where all ways of sending meet.
function send(message, handle, options, callback) {
  servers.note(message);
  if (orphaned && outbox.takes(message, handle)) return keep(message, handle, options, callback);
  return node.send.call(this, message, handle, options, callback);
}

function keep(message, handle, options, callback) {
  outbox.put(message, handle, options, part.mode);
  if (typeof callback === 'function') process.nextTick(callback, null);
  // cluster.worker.disconnect() or kill(), which would wait for the answer.
  if (message !== null && message.cmd === 'NODE_CLUSTER' && message.act === 'exitedAfterDisconnect') {
    setImmediate(giveUp);
  }
  return true;
}

// ---- The end of the channel ----

function orphan() {
  if (orphaned) return;
  orphaned = true;
  batch.flush(); // Older than what is sent from here on.
  output.hold();
  // The app wants to be without a channel: it is.
  process._disconnect = () => {
    process.connected = true; // Node's own end begins with that.
    giveUp();
  };
}

function ended() {
  orphan();
  node.handle.readStop();
  takeUnsent();
  until = performance.now() + part.attach.within;
  calls = setInterval(() => {
    if (performance.now() >= until) giveUp();
    else if (hangUp === undefined && (lane === undefined || lane.hasEnded())) call();
  }, CALL_EVERY);
}

function takeUnsent() {
  const unsent = channel.takeUnsent();
  const unwritten = [...waiting].flatMap(({ data }) => outbox.read(data)).map((message) => ({ message }));
  waiting.clear();
  outbox.putFirst([...unwritten, ...unsent], part.mode);
  for (const { callback } of unsent) {
    if (typeof callback === 'function') process.nextTick(callback, null);
  }
}

function stopCalls() {
  clearInterval(calls);
  calls = undefined;
  if (hangUp !== undefined) hangUp();
}

/** As if there were no guard. */
function giveUp() {
  if (!orphaned) return;
  stopCalls();
  takeUnsent(); // Node would wait for what it still has.
  outbox.discard();
  output.release();
  orphaned = false;
  process._disconnect = node.disconnect;
  node.handle.onread = node.onread;
  node.onread.call(node.handle);
}

// ---- The call ----

// The router answers with a byte and a descriptor, `c` for the channel, then `l` for the lane.
function call() {
  const wanted = lane === undefined ? 'c' : 'cl';
  const got = [];
  const socket = new net.Socket({ handle: new Pipe(lanes.IPC), manualStart: true });
  const end = () => {
    if (hangUp !== end) return;
    hangUp = undefined;
    clearTimeout(limit);
    socket.destroy();
    for (const handle of got) handle.close();
  };
  hangUp = end;
  const limit = setTimeout(end, CALL_MAX);
  socket.on('error', end);
  socket.on('close', end);

  const take = (bytes, handle) => {
    if (handle) got.push(handle);
    if (hangUp !== end) return;
    // A descriptor is never read together with another's byte.
    if (!bytes || !handle || String.fromCharCode(new Uint8Array(bytes)[0]) !== wanted[got.length - 1]) {
      end();
    } else if (got.length === wanted.length) {
      const handles = got.splice(0);
      end();
      attach(handles);
    }
  };
  socket.connect({ path: part.attach.path }, () => {
    const { _handle: handle } = socket;
    handle.pendingHandle = null;
    handle.onread = (bytes) => {
      const { pendingHandle } = handle;
      handle.pendingHandle = null;
      take(bytes, pendingHandle);
    };
    const { slot, generation, attach: { secret } } = part;
    socket.write(`${JSON.stringify({ secret, slot, generation, pid: process.pid, lane: lane !== undefined })}\n`);
  });
}

// ---- The next router ----

function attach([link, sockets]) {
  for (const handle of [link, sockets]) {
    if (handle === undefined) continue;
    handle.unref();
    received.push(handle);
  }
  try {
    channel.renew(link.fd, part.mode);
  } catch {
    giveUp();
    return;
  }
  stopCalls();
  orphaned = false;
  const bytes = output.release();
  stand();
  if (lane !== undefined) {
    lane.leave();
    lane = reopen(sockets);
  }
  tell(bytes);
}

function reopen(sockets) {
  try {
    const next = lanes.open(sockets.fd);
    next.start(require('./delivery').deliver);
    return next;
  } catch {
    return undefined;
  }
}

// It may die while it is being told: what is left then waits for the one after it.
function tell(bytes) {
  router.hello(lane !== undefined);
  servers.tellAnew();
  sessions.tellAnew();
  load.tellAnew();
  router.say('router:attached');
  const again = (message, handle, options) => send.call(process, message, handle, options, () => {});
  for (const question of servers.questions()) again(question, undefined, {});
  const messages = outbox.flush(again);
  if (messages > 0) router.say(`router:warn ${messages} messages were dropped while no router was there`);
  if (bytes > 0) router.say(`router:warn ${bytes} bytes of output were dropped while no router was there`);
}

module.exports = { guard };
