// How busy this worker is, told to the router when it has changed: the share of time the event loop
// worked, how late a timer runs, and the sessions that opened and closed; those soon, since the router
// balances by them.
'use strict';

const { performance } = require('perf_hooks');
const router = require('./router');
const sessions = require('./sessions');

const EVERY = 250; // Milliseconds.
const SOON = 10; // Milliseconds in which sessions that open or close are gathered.
const ELU_STEP = 50; // Permille: less is no news.
const DELAY_STEP = 5; // Milliseconds: less is no news.
const BUSY = 500; // Permille: so busy a worker shows by every report that it still turns.

let toldElu = 0;
let toldDelay = 0;

function start() {
  let before = performance.eventLoopUtilization();
  let due = performance.now() + EVERY;
  let soon;
  sessions.onChange(() => {
    if (soon !== undefined) return;
    soon = setTimeout(() => {
      soon = undefined;
      tell(toldElu, 0);
    }, SOON);
    soon.unref();
  });
  const tell = (elu, delay) => {
    const { opened, closed } = sessions.takeCounts();
    router.say(`router:load ${Math.min(1000, Math.max(0, elu))} ${delay} ${opened} ${closed}`);
  };
  const timer = setInterval(() => {
    const now = performance.now();
    const delay = Math.max(0, Math.round(now - due));
    due = now + EVERY;
    const current = performance.eventLoopUtilization();
    const elu = Math.round(performance.eventLoopUtilization(current, before).utilization * 1000) || 0;
    before = current;
    if (elu < BUSY && Math.abs(elu - toldElu) < ELU_STEP && Math.abs(delay - toldDelay) < DELAY_STEP) return;
    toldElu = elu;
    toldDelay = delay;
    tell(elu, delay);
  }, EVERY);
  timer.unref();
}

/** To a router that knows nothing yet: all sessions there are, as if they had just opened. */
function tellAnew() {
  toldElu = 0;
  toldDelay = 0;
  sessions.takeCounts();
  router.say(`router:load 0 0 ${sessions.count()} 0`);
}

module.exports = { start, tellAnew };
