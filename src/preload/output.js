// What the app prints while nobody reads it. Owns the bound: the router keeps the pipes open from both
// sides, so nothing fails when it dies, and Node would let the text pile up in memory.
'use strict';

const PILE_MAX = 1024 * 1024; // Bytes for each stream.

let holding = false;
let dropped = 0;

/** Before the app runs. A stream that nobody has touched is not made by this. */
function watch() {
  for (const name of ['stdout', 'stderr']) {
    const lazy = Object.getOwnPropertyDescriptor(process, name);
    if (lazy === undefined || lazy.get === undefined || !lazy.configurable) continue;
    Object.defineProperty(process, name, {
      ...lazy,
      get() {
        Object.defineProperty(process, name, lazy);
        const stream = process[name];
        bound(stream);
        return stream;
      },
    });
  }
}

function bound(stream) {
  const { write } = stream;
  stream.write = function (chunk, encoding, callback) {
    if (!holding || !(this.writableLength > PILE_MAX)) return write.apply(this, arguments);
    dropped += chunk.length || 0;
    const done = typeof encoding === 'function' ? encoding : callback;
    if (typeof done === 'function') process.nextTick(done, null);
    return true;
  };
}

function hold() {
  holding = true;
}

/** Says how many bytes were dropped. */
function release() {
  const bytes = dropped;
  holding = false;
  dropped = 0;
  return bytes;
}

module.exports = { watch, hold, release };
