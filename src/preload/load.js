'use strict';

// How busy this worker is, told to the router when it has changed: the share of time the event loop
// worked, how late a timer runs, and the sessions that opened and closed.

const { performance } = require('perf_hooks');
const router = require('./router');
const sessions = require('./sessions');

const EVERY = 250; // Milliseconds.
const ELU_STEP = 50; // Permille: less is no news.
const DELAY_STEP = 5; // Milliseconds: less is no news.

function start() {
  let before = performance.eventLoopUtilization();
  let due = performance.now() + EVERY;
  let toldElu = 0;
  let toldDelay = 0;
  const timer = setInterval(() => {
    const now = performance.now();
    const delay = Math.max(0, Math.round(now - due));
    due = now + EVERY;
    const current = performance.eventLoopUtilization();
    const elu = Math.round(performance.eventLoopUtilization(current, before).utilization * 1000) || 0;
    before = current;
    const { opened, closed } = sessions.takeCounts();
    if (opened === 0 && closed === 0 &&
        Math.abs(elu - toldElu) < ELU_STEP && Math.abs(delay - toldDelay) < DELAY_STEP) return;
    toldElu = elu;
    toldDelay = delay;
    router.say(`router:load ${Math.min(1000, Math.max(0, elu))} ${delay} ${opened} ${closed}`);
  }, EVERY);
  timer.unref();
}

module.exports = { start };
