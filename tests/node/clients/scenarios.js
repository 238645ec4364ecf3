// What real clients do and must see: each function one behaviour of a Socket.IO cluster, as a
// single process would show it.
'use strict';
const assert = require('assert');
const { POLLING, UPGRADING, WEBSOCKET, ask, byPid, closeAll, connect, ok, swarm, until } = require('./swarm');

Object.assign(exports, require('./addresses'), require('./hosts'), require('./page'), require('./whole'));

const KINDS = { polling: [POLLING], websocket: [WEBSOCKET], upgrading: [UPGRADING], mixed: [POLLING, UPGRADING] };

exports.connects = async (url, { clients = 16, kind = 'mixed', stay = 0 }) => {
  const all = await swarm(url, clients, KINDS[kind]);
  const echoes = await Promise.all(all.map((s, i) => ask(s, 'echo', i)));
  assert.deepStrictEqual(echoes, all.map((_, i) => i));
  // Long enough for a poll or two to go to the wrong worker, were there one.
  if (stay) await assert.rejects(until('stay', () => all.some((s) => s.closes), stay));
  assert.deepStrictEqual(all.map((s) => s.reason).filter(Boolean), []);
  return {
    pids: byPid(all),
    transports: all.map((s) => s.io.engine.transport.name),
    ids: all.map((s) => s.io.engine.id),
  };
};

exports.emit_reaches_all = async (url, { clients = 16, binary = true }) => {
  const all = await swarm(url, clients);
  all[0].emit('emit all', 'text', { n: 1, s: 'é€😀' });
  if (binary) all[1].emit('emit all', 'binary', Buffer.from([0, 1, 2, 253, 254, 255]), { deep: [Buffer.alloc(3000, 7)] });
  const expected = binary ? 2 : 1;
  await until('news for all', () => all.every((s) => s.news.length >= expected));
  for (const s of all) {
    assert.strictEqual(s.news.length, expected);
    const text = s.news.find((n) => n[0] === 'text');
    assert.deepStrictEqual(text[1], { n: 1, s: 'é€😀' });
    if (!binary) continue;
    const [, bytes, { deep }] = s.news.find((n) => n[0] === 'binary');
    assert.ok(Buffer.from([0, 1, 2, 253, 254, 255]).equals(Buffer.from(bytes)));
    assert.ok(Buffer.alloc(3000, 7).equals(Buffer.from(deep[0])));
  }
  return { pids: byPid(all) };
};

// What a worker says in the breath in which it goes is heard by the clients of the others.
exports.last_words = async (url, { how }) => {
  const all = await swarm(url, 4, [WEBSOCKET]);
  const others = all.filter((s) => s.pid !== all[0].pid);
  all[0].emit('last words', how);
  await until('they are heard', () => others.every((s) => s.news.some((n) => n[0] === how)));
  closeAll();
  return { pids: byPid(all) };
};

// Each of many senders numbers its packets; each receiver must see each sender's in order.
exports.order_is_kept = async (url, { clients = 8, count = 300, size = 100 }) => {
  const all = await swarm(url, clients, [WEBSOCKET]);
  const last = new Map();
  for (const s of all) {
    last.set(s, {});
    s.on('blast', (from, n) => {
      const seen = last.get(s);
      assert.strictEqual(n, (seen[from] ?? -1) + 1, `from ${from}`);
      seen[from] = n;
    });
  }
  await Promise.all(all.map((s) => ask(s, 'blast', count, size)));
  await until('every packet everywhere', () =>
    all.every((s) => all.every((from) => last.get(s)[from.id] === count - 1)), 30000);
  return { pids: byPid(all) };
};

exports.rooms = async (url) => {
  const all = await swarm(url, 8);
  const members = all.filter((_, i) => i % 3 === 0);
  await Promise.all(members.map((s) => ok(s, 'join', 'lounge')));
  all[1].emit('emit room', 'lounge', 'hello lounge');
  await until('members hear', () => members.every((s) => s.news.length === 1));
  all[0].emit('emit others', 'not to me');
  await until('others hear', () => all.every((s, i) => i === 0 || s.news.some((n) => n[0] === 'not to me')));
  await ok(members[1], 'leave', 'lounge');
  all[1].emit('emit room', 'lounge', 'again');
  const rest = members.filter((_, i) => i !== 1);
  await until('the rest hears', () => rest.every((s) => s.news.some((n) => n[0] === 'again')));
  for (const s of all) {
    const heard = s.news.map((n) => n[0]);
    assert.strictEqual(heard.includes('hello lounge'), members.includes(s));
    assert.strictEqual(heard.includes('again'), rest.includes(s));
    assert.strictEqual(heard.includes('not to me'), s !== all[0]);
  }
  return { pids: byPid(all) };
};

exports.fetch_sockets = async (url) => {
  const all = await swarm(url, 8);
  await Promise.all([all[2], all[5]].map((s) => ok(s, 'join', 'pair')));
  for (const asker of [all[0], all.find((s) => s.pid !== all[0].pid) || all[1]]) {
    const everyone = await ok(asker, 'fetch', null);
    assert.deepStrictEqual(everyone.sockets.map((s) => s.id).sort(), all.map((s) => s.id).sort());
    const pair = await ok(asker, 'fetch', 'pair');
    assert.deepStrictEqual(pair.sockets.map((s) => s.id).sort(), [all[2].id, all[5].id].sort());
    for (const s of pair.sockets) assert.ok(s.rooms.includes('pair'));
  }
  return { pids: byPid(all) };
};

// The workers without the asker answer, each once.
exports.server_side_emit = async (url, { workers = 2 }) => {
  const all = await swarm(url, 4 * workers);
  const pids = Object.keys(byPid(all)).map(Number);
  assert.strictEqual(pids.length, workers);
  for (const asker of all.slice(0, workers)) {
    const { error, responses } = await ask(asker, 'server side emit', 'who', 'hé');
    assert.strictEqual(error, null);
    assert.deepStrictEqual(
      responses.map((r) => r.pid).sort(), pids.filter((p) => p !== asker.pid).sort());
    for (const r of responses) assert.strictEqual(r.payload, 'hé');
  }
  return { pids: byPid(all) };
};

exports.sockets_join_and_leave = async (url) => {
  const all = await swarm(url, 8);
  await Promise.all(all.slice(0, 4).map((s) => ok(s, 'join', 'a')));
  all[7].emit('sockets join', 'a', 'b');
  await until('joined', async () => (await ok(all[6], 'fetch', 'b')).sockets.length === 4);
  all[6].emit('emit room', 'b', 'to b');
  await until('b hears', () => all.slice(0, 4).every((s) => s.news.length === 1));
  all[7].emit('sockets leave', 'a', 'b');
  await until('left', async () => (await ok(all[6], 'fetch', 'b')).sockets.length === 0);
  assert.deepStrictEqual(all.map((s) => s.news.length), [1, 1, 1, 1, 0, 0, 0, 0]);
  return { pids: byPid(all) };
};

exports.disconnect_sockets = async (url) => {
  const all = await swarm(url, 8);
  const out = all.filter((_, i) => i % 2);
  await Promise.all(out.map((s) => ok(s, 'join', 'out')));
  all[0].emit('disconnect sockets', 'out', true);
  await until('they are out', () => out.every((s) => s.closes === 1));
  const rest = await ok(all[0], 'fetch', null);
  assert.deepStrictEqual(
    rest.sockets.map((s) => s.id).sort(), all.filter((s) => !out.includes(s)).map((s) => s.id).sort());
  assert.ok(all.every((s) => out.includes(s) || !s.closes));
  return { pids: byPid(all) };
};

exports.broadcast_with_ack = async (url, { binary = true }) => {
  const all = await swarm(url, 8);
  await Promise.all(all.map((s) => ok(s, 'join', 'quiz')));
  all.forEach((s, i) => s.on('question', (payload, ack) => ack([i, payload])));
  const payload = binary ? Buffer.from([1, 2, 3]) : 'text';
  const { error, answers } = await ask(all[3], 'ask', 'quiz', 5000, payload);
  assert.strictEqual(error, null);
  assert.deepStrictEqual(answers.map((a) => a[0]).sort(), all.map((_, i) => i));
  for (const [, echo] of answers) {
    if (binary) assert.ok(Buffer.from([1, 2, 3]).equals(Buffer.from(echo)));
    else assert.strictEqual(echo, payload);
  }
  // One that never answers: the error says so and the others' answers are there.
  all[6].off('question');
  const late = await ask(all[3], 'ask', 'quiz', 300, payload);
  assert.match(late.error, /timed out/);
  assert.strictEqual(late.answers.length, 7);
  return { pids: byPid(all) };
};

exports.big_packets = async (url, { size = 3 << 20, binary = true }) => {
  const all = await swarm(url, 6, [WEBSOCKET]);
  const big = binary ? Buffer.alloc(size, 'é€') : 'é€'.repeat(size / 5);
  all[0].emit('emit all', big);
  await until('all have it', () => all.every((s) => s.news.length === 1), 20000);
  for (const s of all) {
    if (binary) assert.ok(big.equals(Buffer.from(s.news[0][0])));
    else assert.strictEqual(s.news[0][0], big);
  }
  return { pids: byPid(all) };
};

// A worker dies while the others' fetchSockets and serverSideEmit wait for its answer. It is
// stopped first, so that they do wait, then killed.
exports.questions_in_flight_when_a_worker_dies = async (url) => {
  const all = await swarm(url, 9, [WEBSOCKET]);
  const victim = all[0].pid;
  const asker = all.find((s) => s.pid !== victim);
  process.kill(victim, 'SIGSTOP');
  // socket.io's own deadline is 5 s: without the parent's help that is how long both take.
  const fetch = ask(asker, 'fetch', null);
  const emit = ask(asker, 'server side emit', 'who', 1);
  // The question is out when a later one to another worker has been answered.
  await ask(asker, 'echo', 1);
  await new Promise((resolve) => setTimeout(resolve, 100));
  process.kill(victim, 'SIGKILL');
  const killed = process.hrtime.bigint();
  const since = () => Number(process.hrtime.bigint() - killed) / 1e6;
  const times = {};
  const [fetched, emitted] = await Promise.all([
    fetch.then((v) => ((times.fetch = since()), v)),
    emit.then((v) => ((times.emit = since()), v)),
  ]);
  return { victim, times, fetched, emitted };
};

// One worker is stopped while the others' clients broadcast; the healthy ones lose nothing.
exports.one_worker_stops_while_others_blast = async (url, { clients = 3, count = 20000, size = 1024 }) => {
  const all = await swarm(url, clients, [WEBSOCKET]);
  const victim = all[0].pid;
  const healthy = all.filter((s) => s.pid !== victim);
  const senders = [healthy[0], healthy.find((s) => s.pid !== healthy[0].pid) || healthy[1]];
  const got = new Map(healthy.map((s) => [s, {}]));
  for (const s of healthy) {
    s.on('blast', (from, n) => {
      const seen = got.get(s);
      assert.strictEqual(n, (seen[from] ?? -1) + 1, `a packet of ${from} is lost or out of order`);
      seen[from] = n;
    });
  }
  process.kill(victim, 'SIGSTOP');
  await Promise.all(senders.map((s) => new Promise((resolve) => s.emit('blast', count, size, resolve))));
  await until('every packet at every healthy client', () =>
    healthy.every((s) => senders.every((from) => got.get(s)[from.id] === count - 1)), 120000);
  assert.deepStrictEqual(healthy.map((s) => s.closes), healthy.map(() => 0));
  return { victim, pids: byPid(all) };
};

// The same few checks as one process: enough to say that a Node version works.
exports.everything = async (url, options) => {
  const names = ['emit_reaches_all', 'rooms', 'fetch_sockets', 'server_side_emit',
    'sockets_join_and_leave', 'disconnect_sockets', 'broadcast_with_ack', 'order_is_kept'];
  for (const name of names) {
    try {
      await exports[name](url, options);
    } catch (e) {
      e.stack = `${name}: ${e.stack}`;
      throw e;
    }
    // The next one counts every socket of the cluster.
    await leave(url);
  }
  return { ran: names };
};

// Closes every client and waits until the servers have noticed.
async function leave(url) {
  closeAll();
  const probe = await connect(url, WEBSOCKET);
  await until('all others gone', async () => (await ok(probe, 'fetch', null)).sockets.length === 1);
  closeAll();
  await new Promise((resolve) => setTimeout(resolve, 50));
}
