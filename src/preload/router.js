// The worker's word to the router. Owns the sending side of the IPC channel as it was at boot, so that
// what the app does to process.send later touches nothing of ours. A closed channel is never an error
// here: the worker is on its way out, and nobody is left to be told.
'use strict';

const { performance } = require('perf_hooks');

const send = process.send;
const warned = new Set();
let last = 0; // When something was said last.

function ignore() {}

/** A string or an object; a handle goes along with `give`. */
function say(message) {
  last = performance.now();
  send.call(process, message, ignore);
}

/** The first word to each router. */
function hello(lane) {
  say(lane ? 'router:hello 1 lane' : 'router:hello 1');
}

/** As `say`, with the socket; `failed` is called when it could not be sent and is still ours. */
function give(message, socket, failed) {
  send.call(process, message, socket, undefined, (error) => {
    if (error) failed();
  });
}

/** What the operator must know, said once. */
function warn(text) {
  if (warned.has(text)) return;
  warned.add(text);
  say(`router:warn ${text}`);
}

/** Says `router:beat` whenever nothing else was said for half of `every` milliseconds. */
function beat(every) {
  const timer = setInterval(() => {
    if (performance.now() - last >= every / 2) say('router:beat');
  }, every / 2);
  timer.unref();
}

module.exports = { say, hello, give, warn, beat };
