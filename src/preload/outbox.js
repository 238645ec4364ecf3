// What is sent while nobody is there to take it. Owns the queue: a message is copied as it is sent, as
// on a channel that works, and goes out in order once there is a router again. What told the dead
// router how things stood is left out, since the new one is told anew; and what is left has a bound.
'use strict';

const net = require('net');
const v8 = require('v8');

// Half of what the router lets wait for a worker, so that what one had held back congests nobody.
const BYTES_MAX = 32 * 1024 * 1024;
const ENTRIES_MAX = 100_000;
const KEPT = /^router:(?:return|warn|server|drained)(?: |$)/; // Of our own words.
const SENT = new Set(['string', 'object', 'number', 'boolean']);
const RAW_HANDLES = new Set(['TCP', 'Pipe', 'UDP']);

let entries = []; // { data, bytes, plain, handle, options }, undefined where one was given up
let oldest = 0; // No plain entry stands before.
let count = 0;
let bytes = 0;
let dropped = 0;

/** Whether Node itself would send it; else it has an error to throw. */
function takes(message, handle) {
  return SENT.has(typeof message) && (!handle || handle instanceof net.Socket || handle instanceof net.Server ||
    RAW_HANDLES.has(handle.constructor && handle.constructor.name) || handle instanceof require('dgram').Socket);
}

/** Throws what `pack` throws. */
function put(message, handle, options, mode) {
  const entry = make(message, handle || undefined, options, mode);
  if (entry === undefined) return;
  entries.push(entry);
  add(entry);
}

/** Before all others; older than they are. */
function putFirst(list, mode) {
  const made = [];
  for (const { message, handle, options } of list) {
    const entry = make(message, handle || undefined, options, mode);
    if (entry !== undefined) made.push(entry);
  }
  entries = [...made, ...entries];
  oldest = 0;
  made.forEach(add);
}

function make(message, handle, options, mode) {
  if (isStale(message)) return undefined;
  const plain = handle === undefined && !isOurs(message) && !isInternal(message);
  const data = pack(message, mode);
  const size = typeof data === 'string' || data instanceof Uint8Array ? data.length : 8;
  return { data, bytes: size, packed: data !== message, plain, handle, options };
}

function add(entry) {
  count++;
  bytes += entry.bytes;
  while (count > ENTRIES_MAX || bytes > BYTES_MAX) {
    if (!giveUpOldest()) return;
  }
  if (entries.length > 2 * ENTRIES_MAX) {
    entries = entries.filter((one) => one !== undefined);
    oldest = 0;
  }
}

function giveUpOldest() {
  while (oldest < entries.length && !(entries[oldest] !== undefined && entries[oldest].plain)) oldest++;
  if (oldest === entries.length) return false;
  count--;
  bytes -= entries[oldest].bytes;
  entries[oldest] = undefined;
  dropped++;
  return true;
}

function isOurs(message) {
  return typeof message === 'string' && message.startsWith('router:');
}

function isInternal(message) {
  return message !== null && typeof message === 'object' && typeof message.cmd === 'string' &&
    message.cmd.startsWith('NODE_');
}

// It means something to the router that is dead, and nothing to another.
function isStale(message) {
  if (isOurs(message)) return !KEPT.test(message);
  if (!isInternal(message)) return false;
  if (message.cmd === 'NODE_HANDLE_ACK' || message.cmd === 'NODE_HANDLE_NACK') return true;
  // A question for a port is asked again by whoever keeps it.
  return message.cmd === 'NODE_CLUSTER' &&
    (message.ack !== undefined || message.act === 'close' || message.act === 'queryServer');
}

// ---- Copies, by the same rules as Node's channel ----

class Packer extends v8.DefaultSerializer {
  _writeHostObject(object) {
    if (ArrayBuffer.isView(object)) {
      this.writeUint32(0);
      super._writeHostObject(object);
    } else {
      // Some of Node's own objects: their properties, as JSON has them.
      this.writeUint32(1);
      this.writeValue({ ...object });
    }
  }
}

class Unpacker extends v8.DefaultDeserializer {
  _readHostObject() {
    return this.readUint32() === 0 ? super._readHostObject() : this.readValue();
  }
}

function pack(message, mode) {
  if (message === null || typeof message !== 'object') return message;
  if (mode === 'json') return String(JSON.stringify(message));
  const packer = new Packer();
  packer.writeHeader();
  packer.writeValue(message);
  return packer.releaseBuffer();
}

function unpack(entry) {
  if (!entry.packed) return entry.data;
  if (typeof entry.data === 'string') return JSON.parse(entry.data);
  const unpacker = new Unpacker(entry.data);
  unpacker.readHeader();
  return unpacker.readValue();
}

/** The messages in what is written to the channel: lines of JSON, or each a length and what V8 makes of it. */
function read(written) {
  if (typeof written === 'string') return written.split('\n').filter((line) => line !== '').map((line) => JSON.parse(line));
  const messages = [];
  for (let at = 0; at < written.length;) {
    const end = at + 4 + written.readUInt32BE(at);
    const unpacker = new Unpacker(written.subarray(at + 4, end));
    unpacker.readHeader();
    messages.push(unpacker.readValue());
    at = end;
  }
  return messages;
}

// ---- The end ----

/** Everything, in order, by `send(message, handle, options)`; says how many were given up. */
function flush(send) {
  const { all, lost } = empty();
  let failed = 0;
  for (const entry of all) {
    // A socket that has closed meanwhile: there is no word to say without it that would be ours.
    if (entry.handle instanceof net.Socket && entry.handle.destroyed && isOurs(entry.data)) continue;
    try {
      send(unpack(entry), entry.handle, entry.options);
    } catch {
      failed++;
    }
  }
  return lost + failed;
}

/** Nobody will ever take it: connections that nobody else has are closed. */
function discard() {
  for (const { handle } of empty().all) {
    if (handle instanceof net.Socket) handle.destroy();
  }
}

function empty() {
  const all = entries.filter((entry) => entry !== undefined);
  const lost = dropped;
  entries = [];
  oldest = 0;
  count = 0;
  bytes = 0;
  dropped = 0;
  return { all, lost };
}

module.exports = { takes, put, putFirst, read, flush, discard };
