// The end of this worker's service: the router has another in its place, and asks it to come to an end
// that nobody notices. Owns the wait for what is still going on, the pace at which the sessions that are
// left are closed, and the word that nothing is left.
//
//   asked ─► sessions end by themselves ─► in the last part of the time: closed evenly ─► nothing is left
'use strict';

const net = require('net');
const { performance } = require('perf_hooks');
const keepalive = require('./keepalive');
const router = require('./router');
const sessions = require('./sessions');

const LOOK_EVERY = 50; // Milliseconds.
const GOODBYE = 500; // Milliseconds between the last closing and the end: its client has to hear of it.

let asked = false;

function listen() {
  process.on('internalMessage', (message) => {
    if (message.cmd !== 'NODE_ROUTER' || message.act !== 'drain' || asked) return;
    asked = true;
    begin(message.within, message.over);
  });
}

/** `within` milliseconds in all, the last `over` of them for those that do not end by themselves. */
function begin(within, over) {
  const span = Math.max(1, Math.min(over, within));
  const until = performance.now() + within - Math.min(GOODBYE, span / 4);
  let total = 0; // Sessions that were left when the last part began.
  keepalive.leaveHome();
  const timer = setInterval(() => {
    const left = sessions.count();
    if (left === 0) {
      if (serverSockets().filter((socket) => !keepalive.giveBackIdle(socket)).length > 0) return;
      clearInterval(timer);
      router.say('router:drained');
      return;
    }
    const part = 1 - (until - performance.now()) / span;
    if (part < 0) return;
    if (total === 0) total = left;
    // So many may be left by now; whoever ends meanwhile is one less to close.
    sessions.close(left - Math.floor(total * (1 - Math.min(1, part))));
  }, LOOK_EVERY);
  timer.unref();
}

// The connections that this worker serves. Looked for only now, so that none need be counted before.
function serverSockets() {
  return process._getActiveHandles().filter((handle) =>
    handle instanceof net.Socket && !handle.destroyed && Boolean(handle.server || handle._server));
}

module.exports = { listen };
