// Node's IPC channel of this process, and what of it Node shows to nobody. Owns the knowledge of Node's
// insides: where the handle is, which listeners on process are the channel's own, and what has to be
// carried over when the process gets another channel in place of one that has ended.
'use strict';

// What a listener of the channel has in its text, and how many there are. Node adds new ones with each
// channel and never takes one away: left alone, everything would be handled twice.
const OWN = {
  internalMessage: { text: /NODE_HANDLE_ACK/, count: 1 },
  newListener: { text: /kPendingMessages|refCounted/, count: 2 },
  removeListener: { text: /unrefCounted/, count: 1 },
};
const native = Function.prototype.toString;

let own; // event -> the listeners of the channel there is

/** Throws when this Node is not as known here. */
function find() {
  const { _forkChild } = require('child_process');
  if (typeof _forkChild !== 'function') throw new Error('no _forkChild');
  if (!handle() || typeof handle().onread !== 'function') throw new Error('no channel handle');
  if (typeof process.channel.refCounted !== 'function') throw new Error('no refCounted');
  const found = {};
  for (const [event, { text, count }] of Object.entries(OWN)) {
    // The first: whoever put a listener there before this script came after Node.
    found[event] = process.rawListeners(event).filter((one) => text.test(native.call(one))).slice(0, count);
    if (found[event].length < count) throw new Error(`no ${event} listener`);
  }
  own = found;
}

function handle() {
  return process[symbolOf(process, 'kChannelHandle')];
}

function symbolOf(object, description) {
  return Object.getOwnPropertySymbols(object).find((symbol) => symbol.description === description);
}

/** The channel of this process is now `fd`; the old one, which has ended, is closed. */
function renew(fd, mode) {
  const old = { handle: handle(), control: process.channel };
  // They know the channel only by way of process, and the app may have put its own in their place.
  const { send, disconnect } = process;
  const listeners = {};
  for (const event of Object.keys(OWN)) listeners[event] = process.rawListeners(event);

  require('child_process')._forkChild(fd, mode); // When it throws, nothing has changed.

  for (const event of Object.keys(OWN)) {
    const added = process.rawListeners(event).filter((one) => !listeners[event].includes(one));
    for (const one of own[event]) process.removeListener(event, one);
    own[event] = added;
  }
  process.send = send;
  process.disconnect = disconnect;
  handle().sockets = old.handle.sockets; // Of connections whose server wants to know when they close.
  const pending = symbolOf(old.control, 'kPendingMessages'); // For a 'message' listener that is still to come.
  if (pending !== undefined) process.channel[pending] = old.control[pending];
  hold(old.handle.hasRef());

  old.handle.onread = () => {};
  old.handle.close();
}

// Whether the channel keeps the process alive goes by the listeners, unless the app has said otherwise.
function hold(held) {
  const count = process.listenerCount('message') + process.listenerCount('disconnect');
  for (let i = 0; i < count; i++) process.channel.refCounted();
  if (held && count === 0) process.channel.ref();
  if (!held && count > 0) process.channel.unref();
}

/**
 * Takes from Node what it still has to send: the socket that nobody has acknowledged, and what waits
 * behind it, as { message, handle, options, callback }.
 */
function takeUnsent() {
  const { _pendingMessage: pending, _handleQueue: waiting } = process;
  process._pendingMessage = null;
  process._handleQueue = null;
  const unsent = [];
  if (pending) {
    const net = require('net');
    // Taken off its socket already; a new one that never reads it.
    const socket = new net.Socket({ handle: pending.handle, pauseOnCreate: true, readable: true, writable: true });
    socket.on('error', () => {});
    unsent.push({ message: pending.message.msg, handle: socket, options: pending.options, callback: undefined });
  }
  if (waiting) unsent.push(...waiting);
  return unsent;
}

module.exports = { find, handle, renew, takeUnsent };
