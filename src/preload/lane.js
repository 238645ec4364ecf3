// The lane: a Unix socket on which the router sends client sockets, one a message, nothing else.
// Owns the reading of it and the guard that stops reading before the descriptors run out: the kernel
// drops a socket for which there is no number left, and nobody would know whose it was.
'use strict';

const fs = require('fs');
const net = require('net');
const router = require('./router');

const IPC = 2; // The kind of Pipe that takes descriptors.
const MESSAGE_MAX = 128; // Bytes: the number, an IPv6 address with its zone, a port.
const LONG = 255; // First byte of a message whose number takes four more.
const HEADROOM_MAX = 32; // Descriptors that are left to the app when the lane stops.
const HEADROOM_MIN = 4;
const PROBE_EVERY = 100; // Milliseconds.

function open(fd) {
  const Pipe = pipeClass();
  const pipe = new Pipe(IPC);
  const error = pipe.open(fd);
  // Node before 20 throws; later ones return.
  if (error) throw new Error(`fd ${fd}: errno ${-error}`);
  pipe.unref();
  let leave = () => pipe.close();
  let reading = { ended: false };
  return {
    start(deliver) {
      reading = read(pipe, deliver);
      leave = reading.leave;
    },
    // Nothing more will come: what stood in it when the router died has been read.
    hasEnded: () => reading.ended,
    // Another lane is in its place: what still stands in this one is read, then it is closed.
    leave: () => leave(),
  };
}

// Node has no public name for it: a socket that is about to connect to a path has one inside.
function pipeClass() {
  const socket = new net.Socket();
  socket.on('error', () => {});
  socket.connect({ path: `\0router-none-${process.pid}` });
  const { constructor } = socket._handle;
  socket.destroy();
  return constructor;
}

function read(pipe, deliver) {
  const limit = descriptorLimit();
  const mark = limit - Math.min(HEADROOM_MAX, Math.max(HEADROOM_MIN, limit >> 3));

  // The bytes land in one buffer for good, instead of a fresh one of 64 KiB for each socket. How many
  // came is not told, nor whether any did: so the buffer is wiped before, to a number that no server has.
  const bytes = Buffer.alloc(MESSAGE_MAX);
  const blank = Buffer.alloc(MESSAGE_MAX);
  blank.fill(LONG, 0, 5);
  const wipe = () => bytes.set(blank);
  const isBlank = () => bytes[0] === LONG && bytes.readUInt32LE(1) === 0xffffffff;
  wipe();
  pipe.useUserBuffer(bytes);

  const reading = { ended: false, leave };
  let fresh = false; // A socket came since reading began, or since the end was told.
  let left = false;

  pipe.pendingHandle = null;
  pipe.onread = () => {
    const handle = pipe.pendingHandle;
    pipe.pendingHandle = null;
    if (!handle) {
      if (isBlank()) {
        // The router is gone. Libuv says so after the first of several sockets that are still there.
        if (fresh) {
          fresh = false;
          pipe.readStart();
          return;
        }
        reading.ended = true;
        pipe.readStop();
        if (left) pipe.close();
      } else {
        wipe();
        router.say('router:lost 1');
      }
      return;
    }
    fresh = true;
    if (handle.fd >= mark) full();
    let number = bytes[0];
    let start = 1;
    if (number === LONG) {
      number = bytes.readUInt32LE(1);
      start = 5;
    }
    let peer = '';
    // No peer, which is ASCII: what the wiping left stands there.
    if (bytes[start] === 0 || bytes[start] === LONG) {
      bytes[0] = LONG;
      bytes.fill(LONG, 1, 5);
    } else {
      peer = bytes.latin1Slice(start, bytes.indexOf(0, start));
      wipe();
    }
    deliver(handle, number, '', peer);
  };
  pipe.readStart();

  // The kernel gives the lowest free number, so the number of the newest socket says how full it is.
  function full() {
    pipe.readStop();
    router.say('router:full');
    const probe = setInterval(() => {
      if (nextDescriptor() >= mark) return;
      clearInterval(probe);
      router.say('router:room');
      pipe.readStart();
    }, PROBE_EVERY);
    probe.unref();
  }

  function leave() {
    left = true;
    if (reading.ended) pipe.close();
  }

  return reading;
}

// Node has raised the soft limit to the hard one before any script runs.
function descriptorLimit() {
  const limits = fs.readFileSync('/proc/self/limits', 'latin1');
  const found = /^Max open files\s+(\d+)/m.exec(limits);
  return found === null ? 2 ** 31 - 1 : Math.min(Number(found[1]), 2 ** 31 - 1);
}

function nextDescriptor() {
  try {
    const fd = fs.openSync('/dev/null', 'r');
    fs.closeSync(fd);
    return fd;
  } catch {
    return Infinity;
  }
}

module.exports = { open, pipeClass, IPC };
