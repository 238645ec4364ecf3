// Packets of the adapter that are sent in one turn of the event loop go to the router in one write. Each
// write wakes the router, and then all the workers that it is for; a burst of broadcasts is one of each
// instead of many. Everything else is written at once, and what waits goes before it.
'use strict';

const BYTES_MAX = 64 * 1024; // So many that wait are written without waiting for the end of the turn.
// At the end of every packet: the word, and a requester's id, whatever there is of JSON and V8 around them.
const MARK = '_sio_adapter';
const TAIL = 128;

let handle; // The channel's.
let write; // name of a method -> as it was
let leaving = false;
let waiting; // { name, requests, parts, bytes }, undefined without any

/** From here on packets that are written to this handle wait for the end of the turn. */
function stand(channel) {
  handle = channel;
  write = {};
  for (const name of ['writeBuffer', 'writeUtf8String']) {
    write[name] = channel[name];
    channel[name] = function (request, data, socket) {
      if (channel !== handle || socket || !isPacket(data)) {
        flush();
        return write[name].apply(this, arguments);
      }
      keep(name, request, data);
      return 0;
    };
  }
  const { close } = channel;
  channel.close = function () {
    if (channel === handle) flush();
    return close.apply(this, arguments);
  };
}

function isPacket(data) {
  const tail = typeof data === 'string' ? data.slice(-TAIL) : data.latin1Slice(Math.max(0, data.length - TAIL));
  return tail.includes(MARK);
}

function keep(name, request, data) {
  if (waiting === undefined) {
    waiting = { name, requests: [], parts: [], bytes: 0 };
    setImmediate(flush);
  }
  waiting.requests.push(request);
  waiting.parts.push(data);
  waiting.bytes += data.length;
  if (waiting.bytes >= BYTES_MAX || leaving) flush();
}

/** Writes what waits. */
function flush() {
  if (waiting === undefined) return;
  const { name, requests, parts } = waiting;
  waiting = undefined;
  const data = parts.length === 1 ? parts[0] : typeof parts[0] === 'string' ? parts.join('') : Buffer.concat(parts);
  const request = new requests[0].constructor();
  request.buffer = data; // As long as the kernel has not taken it all.
  // An end of the channel is for whoever reads it, or guards it, to notice.
  write[name].call(handle, request, data);
  // Node asks only whether the last of all its writes had to wait, and that was another one.
  for (const { oncomplete } of requests) {
    if (typeof oncomplete === 'function') oncomplete(0);
  }
}

// The last words of a process that ends itself.
process.on('exit', () => {
  leaving = true;
  flush();
});
for (const name of ['kill', 'abort']) {
  const end = process[name];
  process[name] = {
    [name](...words) {
      flush();
      return end.apply(this, words);
    },
  }[name];
}

module.exports = { stand, flush };
