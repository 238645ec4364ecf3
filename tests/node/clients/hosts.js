// Several hosts as one: what the clients of each must see of what is done on any of them.
'use strict';
const assert = require('assert');
const { WEBSOCKET, ask, closeAll, ok, swarm, until } = require('./swarm');

const EVERYBODY = {};
const BYTES = Buffer.from([0, 1, 2, 253, 254, 255]);

// Clients of all hosts, in order, with their host's number; some on each server of each.
async function clients(hosts, nsp = '') {
  const all = [];
  for (const [number, host] of hosts.entries()) {
    const here = await swarm(host.url + nsp, 2 * host.servers, [WEBSOCKET], { auth: { name: 'me' } });
    assert.strictEqual(new Set(here.map((s) => s.pid)).size, host.servers, `all servers of ${host.url}`);
    for (const s of here) s.host = number;
    all.push(...here);
  }
  return all;
}

const ids = (all) => all.map((s) => s.id).sort();

// One client of each server: what is asked of its server.
const askers = (all) => all.filter((s, i) => all.findIndex((other) => other.pid === s.pid) === i);

async function everybodyKnown(all) {
  for (const s of askers(all)) {
    await until(`${s.pid} on host ${s.host} knows all`, async () => {
      const seen = await ask(s, 'fetch', EVERYBODY);
      return seen.ok && seen.ok.length === all.length;
    }, 20000);
  }
}

// After what was done everywhere has been seen everywhere, nothing is seen twice.
async function heard(all, what, mine) {
  await until(`all hear ${what}`, () => all.every((s) => s.news.some((n) => n[0] === what) === mine(s)));
}

// The whole vocabulary of the adapter, from every server of every host to all others.
exports.hosts = async (_, { hosts, binary = true }) => {
  const all = await clients(hosts);
  await everybodyKnown(all);
  const pids = askers(all).map((s) => s.pid);
  const told = new Map();
  for (const s of all) s.on('visited', (tag, pid) => told.set(`${tag} ${s.id}`, pid));
  for (const [at, s] of all.entries()) s.on('question', (payload, ack) => ack([at, payload]));

  for (const s of askers(all)) {
    const tag = (word) => `${word} of ${s.pid}`;
    const mates = [all.find((other) => other.host !== s.host), all.find((other) => other.pid !== s.pid)];
    for (const mate of mates) await ok(mate, 'join', tag('room'));

    const value = { n: 1.5, s: 'é€😀', no: null, list: [true, [], {}], big: 2 ** 40, neg: -7 };
    s.emit('emit', EVERYBODY, 'news', tag('all'), value, ...(binary ? [BYTES, { deep: [BYTES] }] : []));
    s.emit('emit', { to: [tag('room')] }, 'news', tag('room'));
    s.emit('emit', { except: [tag('room')] }, 'news', tag('except'));
    s.emit('emit', { from: 'socket' }, 'news', tag('others'));
    await heard(all, tag('all'), () => true);
    await heard(all, tag('room'), (other) => mates.includes(other));
    await heard(all, tag('except'), (other) => !mates.includes(other));
    await heard(all, tag('others'), (other) => other !== s);
    for (const other of all) {
      const [, seen, bytes, deep] = other.news.find((n) => n[0] === tag('all'));
      assert.deepStrictEqual(seen, value);
      if (!binary) continue;
      assert.ok(BYTES.equals(Buffer.from(bytes)) && BYTES.equals(Buffer.from(deep.deep[0])));
    }

    const payload = binary ? BYTES : 'text';
    const { error, answers } = await ask(s, 'ask', EVERYBODY, 8000, payload);
    assert.strictEqual(error, null);
    assert.deepStrictEqual(answers.map((a) => a[0]).sort((a, b) => a - b), all.map((_, i) => i));
    for (const [, echo] of answers) assert.deepStrictEqual(Buffer.from(echo), Buffer.from(payload));

    assert.deepStrictEqual(ids(await ok(s, 'fetch', EVERYBODY)), ids(all));
    const room = await ok(s, 'fetch', { to: [tag('room')] });
    assert.deepStrictEqual(ids(room), ids([...new Set(mates)]));
    for (const one of room) assert.deepStrictEqual([one.rooms.includes(tag('room')), one.data.name], [true, 'me']);

    s.emit('server side emit', 'visit', tag('visit'));
    // Each server but the one that says it tells its own clients.
    const others = all.filter((other) => other.pid !== s.pid);
    await until('all others are visited', () => others.every((other) => told.get(`${tag('visit')} ${other.id}`) === other.pid));
    const who = await ask(s, 'server side ask', 'hé');
    assert.strictEqual(who.error, null);
    assert.deepStrictEqual(who.answers.map((a) => a.pid).sort(), pids.filter((pid) => pid !== s.pid).sort());

    s.emit('sockets join', { to: [tag('room')] }, tag('second'));
    await until('they joined', async () => (await ok(s, 'fetch', { to: [tag('second')] })).length === room.length);
    s.emit('sockets leave', { to: [tag('room')] }, tag('second'));
    await until('they left', async () => (await ok(s, 'fetch', { to: [tag('second')] })).length === 0);
  }
  for (const s of all) {
    const seen = s.news.map((n) => n[0]);
    assert.strictEqual(new Set(seen).size, seen.length, `twice: ${seen}`);
  }

  // Each host disconnects a client of another.
  for (const [number] of hosts.entries()) {
    const s = all.find((other) => other.host === number && !other.reason);
    const victim = all.find((other) => other.host !== number && !other.reason && other.pid !== s.pid);
    await ok(victim, 'join', `victim of ${number}`);
    s.emit('disconnect sockets', { to: [`victim of ${number}`] }, true);
    await until('the victim is gone', () => victim.reason);
  }
  closeAll();
  return { clients: all.length, servers: pids.length };
};

// What an emitter writes: by the source of @socket.io/redis-streams-emitter, which is in Socket.IO's
// repository and not (yet) in the registry.
async function emitter(url, stream) {
  const { createClient } = require('redis');
  const { encode } = require('@msgpack/msgpack');
  const redis = await createClient({ url }).connect();
  const say = (type, data, packed) =>
    redis.xAdd(stream, '*', {
      uid: 'emitter', nsp: '/', type: String(type),
      data: packed ? Buffer.from(encode(data)).toString('base64') : JSON.stringify(data),
    }, { TRIM: { strategy: 'MAXLEN', strategyModifier: '~', threshold: 10000 } });
  return { redis, say };
}

exports.emitter = async (_, { hosts, redis: url, stream }) => {
  const all = await clients(hosts);
  const { redis, say } = await emitter(url, stream);
  const opts = (rooms) => ({ rooms, except: [], flags: {} });
  const event = (...data) => ({ type: 2, data, nsp: '/' });
  await ok(all[0], 'join', 'some');
  await ok(all[all.length - 1], 'join', 'some');
  await say(3, { packet: event('news', 'from the emitter', { a: 1 }), opts: opts([]) });
  await say(3, { packet: event('news', 'bytes', BYTES), opts: opts(['some']) }, true);
  await heard(all, 'from the emitter', () => true);
  await heard(all, 'bytes', (s) => s === all[0] || s === all[all.length - 1]);
  for (const s of [all[0], all[all.length - 1]]) {
    assert.ok(BYTES.equals(Buffer.from(s.news.find((n) => n[0] === 'bytes')[1])));
  }
  await say(4, { opts: opts(['some']), rooms: ['more'] });
  await say(3, { packet: event('news', 'more'), opts: opts(['more']) });
  await heard(all, 'more', (s) => s === all[0] || s === all[all.length - 1]);
  await say(5, { opts: opts(['some']), rooms: ['more'] });
  const visited = new Map();
  for (const s of all) s.on('visited', (tag, pid) => visited.set(s.id, [tag, pid]));
  await say(9, { packet: ['visit', 'emitter'] });
  await until('all are visited', () => all.every((s) => visited.has(s.id)));
  for (const s of all) assert.deepStrictEqual(visited.get(s.id), ['emitter', s.pid]);
  await say(6, { opts: opts(['some']), close: true });
  await until('they are disconnected', () => all[0].reason && all[all.length - 1].reason);
  assert.strictEqual(all.filter((s) => s.reason).length, 2);
  redis.destroy();
  closeAll();
  return {};
};

// One client of each server hears what the client of one says, everywhere once and in order.
// Prints a line whenever it is told to say more on stdin (`N`), or to wait until all has been heard
// (`heard`); ends with how many each has, and with those that it has not.
exports.numbered = async (_, { hosts, count }) => {
  const all = await clients(hosts);
  await everybodyKnown(all);
  const receivers = askers(all);
  const [sender] = receivers;
  const seen = new Map(receivers.map((s) => [s, []]));
  for (const s of receivers) s.on('number', (n) => seen.get(s).push(n));
  let sent = 0;
  const told = require('readline').createInterface({ input: process.stdin });
  const has = (s) => seen.get(s).length;
  const heardAll = (n) => until(`${n} are everywhere`, () => receivers.every((s) => n === 0 || seen.get(s).includes(n - 1)), 60000)
    .catch((error) => { throw new Error(`${error.message}: ${receivers.map(has)}`); });
  for await (const line of told) {
    if (line === 'heard') {
      await heardAll(sent);
      console.log(JSON.stringify({ heard: sent }));
      continue;
    }
    const upTo = Math.min(count, +line);
    while (sent < upTo) {
      for (let i = 0; i < 250 && sent < upTo; i++) sender.emit('emit', EVERYBODY, 'number', sent++);
      await ask(sender, 'pid');
    }
    console.log(JSON.stringify({ sent }));
    if (sent === count) break;
  }
  await heardAll(count);
  for (const s of receivers) {
    const numbers = seen.get(s);
    numbers.forEach((n, at) => assert.ok(at === 0 || n > numbers[at - 1], `${n} after ${numbers[at - 1]} at ${s.host}`));
  }
  // Gaps, as their first and last.
  const missing = receivers.map((s) => {
    const gaps = [];
    let next = 0;
    for (const n of [...seen.get(s), count]) {
      if (n > next) gaps.push([next, n - 1]);
      next = n + 1;
    }
    return gaps;
  });
  return { received: receivers.map(has), missing, hosts: receivers.map((s) => s.host) };
};

// A broadcast on one host is heard by the other's clients, both ways; `alone`: by its own only.
exports.broadcast = async (_, { hosts, nsp = '', alone = false, tag = 'x' }) => {
  const all = await clients(hosts, nsp);
  if (!alone) await everybodyKnown(all);
  for (const [number] of hosts.entries()) {
    const s = all.find((other) => other.host === number);
    s.emit('emit', EVERYBODY, 'news', `${tag}${number}`);
    await heard(all.filter((other) => !alone || other.host === number), `${tag}${number}`, () => true);
  }
  closeAll();
  return {};
};


// What one client says to those of its own host, as fast as it can; how much each server's heard.
exports.blast = async (_, { hosts, count }) => {
  const all = await clients(hosts);
  const receivers = askers(all);
  const heardBy = receivers.map(() => 0);
  receivers.forEach((s, at) => s.on('number', () => heardBy[at]++));
  for (let n = 0; n < count; n++) receivers[0].emit('emit', EVERYBODY, 'number', n);
  await until('all of it', () => heardBy.every((n) => n === count), 15000);
  closeAll();
  return { heard: heardBy };
};

// The workers of the documentation, whose events are those of sticky.js.
exports.sticky_hosts = async (_, { urls }) => {
  const all = [];
  for (const url of urls) all.push(...(await swarm(url, 4, [WEBSOCKET])));
  const pids = [...new Set(all.map((s) => s.pid))];
  assert.strictEqual(pids.length, 2 * urls.length);
  for (const s of askers(all)) {
    await until('all are known', async () => (await ask(s, 'fetch', null)).ok?.sockets.length === all.length);
    s.emit('emit all', 'news', s.pid, BYTES);
    await until('all hear it', () => all.every((other) => other.news.some((n) => n[1] === s.pid)));
    const { error, responses } = await ask(s, 'server side emit', 'who', 'x');
    assert.strictEqual(error, null);
    assert.deepStrictEqual(responses.map((r) => r.pid).sort(), pids.filter((pid) => pid !== s.pid).sort());
  }
  for (const s of all) assert.strictEqual(s.news.length, pids.length);
  closeAll();
  return {};
};
