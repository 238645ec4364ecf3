// Many real socket.io clients at once and the small words the scenarios are told with.
'use strict';
const { io } = require('socket.io-client');

// Every wait ends: with the event, or with an error that says what was waited for.
function within(ms, what, promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: nothing within ${ms} ms`)), ms);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

const open = [];

const POLLING = ['polling'];
const UPGRADING = ['polling', 'websocket'];
const WEBSOCKET = ['websocket'];

function connect(url, transports, options = {}) {
  const socket = io(url, { transports, forceNew: true, reconnection: false, ...options });
  open.push(socket);
  socket.closes = 0;
  socket.news = [];
  socket.on('disconnect', (reason) => {
    socket.closes++;
    socket.reason = reason;
  });
  socket.on('news', (...args) => socket.news.push(args));
  const up = new Promise((resolve, reject) => {
    socket.on('connect', resolve);
    socket.on('connect_error', (e) =>
      reject(new Error(`connect_error: ${e.message} ${e.context ? e.context.status || '' : ''} ${e.description || ''}`)));
  });
  return within(20000, 'connect', up).then(async () => {
    socket.pid = await ask(socket, 'pid');
    return socket;
  });
}

// Settled means upgraded: an event that must be counted is sent after that.
function upgraded(socket) {
  if (socket.io.engine.transport.name === 'websocket') return Promise.resolve();
  return within(10000, 'upgrade', new Promise((resolve) => socket.io.engine.once('upgrade', resolve)));
}

// `count` clients at once; even ones as `transports[0]` says, odd ones `transports[1]`, and so on.
async function swarm(url, count, kinds = [POLLING, UPGRADING], options = {}) {
  const all = await Promise.all(
    Array.from({ length: count }, (_, i) => connect(url, kinds[i % kinds.length], options)));
  await Promise.all(all.map((s, i) => kinds[i % kinds.length] === UPGRADING && upgraded(s)));
  return all;
}

function ask(socket, ...args) {
  const event = args[0];
  return within(15000, `answer to ${event}`, new Promise((resolve) => socket.emit(...args, resolve)));
}

async function ok(socket, ...args) {
  const answer = await ask(socket, ...args);
  if (answer.error) throw new Error(`${args[0]}: ${answer.error}`);
  return answer.ok;
}

// Waits until `check` holds, looking again at each turn; a deadline, not a sleep.
async function until(what, check, ms = 10000) {
  const end = Date.now() + ms;
  while (!(await check())) {
    if (Date.now() > end) throw new Error(`${what}: not within ${ms} ms`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

function closeAll() {
  for (const socket of open.splice(0)) socket.close();
}

function byPid(all) {
  const count = {};
  for (const s of all) count[s.pid] = (count[s.pid] || 0) + 1;
  return count;
}

module.exports = { POLLING, UPGRADING, WEBSOCKET, ask, byPid, closeAll, connect, ok, swarm, until, upgraded, within };
