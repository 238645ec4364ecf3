// A whole application under real clients: everything an application of `apps/plain` does, seen
// from outside, and the same whether one process serves it or several.
//
//   workers  how many processes must be met (1)
//   cluster  false: only what concerns one client at a time (true)
//   pages    false: the application has no HTTP pages (true)
//   file     false: the application has no client file to give (true)
//   sid      what every session id must match, as a regular expression
//   path     of the Socket.IO server (/socket.io/)
//   clients  how many to begin with (12)
//   also     [{ port, path }] further servers, used at the same time as the first
'use strict';
const assert = require('assert');
const http = require('http');
const { Fetch } = require('engine.io-client');
const { POLLING, UPGRADING, WEBSOCKET, ask, byPid, connect, ok, until, upgraded, within } = require('./swarm');

const BIG = 200 * 1024;

exports.whole_app = async (url, { also = [], ...options }) => {
  const others = also.map(({ port, ...own }) => {
    const other = new URL(url);
    if (port) other.port = port;
    return run(other.origin, { ...options, pages: false, ...own });
  });
  const [seen] = await Promise.all([run(url, options), ...others]);
  return seen;
};

// With connection state recovery a client that comes back in time is the one it was.
exports.recovers = async (url) => {
  const [socket, watcher] = await Promise.all(
    ['a', 'b'].map((name) => connect(url, WEBSOCKET, { auth: { name } })));
  const id = socket.id;
  const left = new Promise((resolve) => watcher.once('left', resolve));
  // The offset the client resumes from comes with the first packet.
  const news = new Promise((resolve) => socket.once('news', resolve));
  socket.emit('emit', {}, 'news', 1);
  await within(10000, 'news', news);
  socket.io.engine.close();
  // There is something to recover once the server has noticed.
  await within(10000, 'left', left);
  const back = new Promise((resolve) => socket.once('connect', resolve));
  socket.connect();
  await within(10000, 'connect again', back);
  return { recovered: socket.recovered, same: socket.id === id };
};

async function run(url, options) {
  const { cluster = true, pages = true, file = true } = options;
  const app = await meet(url, options);
  const steps = [echoes, answers, ...(pages ? [plainHttp] : []), ...(file ? [clientFile] : []), refusals];
  if (cluster) {
    steps.unshift(settle);
    steps.push(emits, acknowledgements, rooms, serverSide, namespaces, departures);
  }
  for (const step of steps) {
    try {
      await step(app);
    } catch (e) {
      e.stack = `${step.name} (${url}${app.path}): ${e.stack}`;
      throw e;
    }
  }
  app.agent.destroy();
  return { pids: byPid(app.all), ids: app.all.map((s) => s.sid), steps: steps.map((s) => s.name) };
}

// Clients of every kind, until every process has some. Some kinds keep their connections, as
// browsers do, and so share them: one agent for a few, and that of `fetch` for others.
async function meet(url, { workers = 1, path = '/socket.io/', sid = '^[\\w-]{20}$', clients = 12 }) {
  const agent = new http.Agent({ keepAlive: true, maxSockets: 4 });
  const kinds = [[POLLING, { agent }], [UPGRADING, {}], [[Fetch], {}], [WEBSOCKET, {}], [POLLING, {}]];
  const app = { url, path, agent, workers, all: [] };
  const more = async (count) => {
    const from = app.all.length;
    app.all.push(...await Promise.all(Array.from({ length: count }, async (_, i) => {
      const n = from + i;
      const [transports, own] = kinds[n % kinds.length];
      const s = await connect(url, transports, { ...own, path, auth: { name: `c${n}` }, query: { colour: 'red' } });
      s.name = `c${n}`;
      s.kind = n % kinds.length;
      s.sid = s.io.engine.id;
      s.lefts = [];
      s.on('left', (left) => s.lefts.push(left));
      if (transports === UPGRADING) await upgraded(s);
      return s;
    })));
  };
  await more(clients);
  while (Object.keys(byPid(app.all)).length < workers && app.all.length < 60) await more(4);
  assert.strictEqual(Object.keys(byPid(app.all)).length, workers, JSON.stringify(byPid(app.all)));
  for (const s of app.all) assert.match(s.sid, new RegExp(sid));
  assert.strictEqual(new Set(app.all.map((s) => s.sid)).size, app.all.length);
  // One client of each process: who asks decides which process starts a thing.
  app.askers = () => [...new Map(app.all.map((s) => [s.pid, s])).values()];
  return app;
}

const ids = (all) => all.map((s) => s.id).sort();
const every = (all, n) => all.filter((_, i) => i % n === 0);
const without = (all, out) => all.filter((s) => !out.includes(s));

let marks = 0;

// Does something that makes news and checks that exactly these clients heard it, once each. What
// comes after it from the same sender shows that nothing more is coming.
async function heard(all, sender, how, expected, ...news) {
  const mark = `mark ${process.pid} ${++marks}`;
  for (const s of all) {
    s.news = [];
    s.fence = null;
    s.once(mark, () => (s.fence = mark));
  }
  sender.emit('emit', how, 'news', ...(news.length ? news : [mark]));
  sender.emit('emit', {}, mark);
  await until(`all get past ${JSON.stringify(how)}`, () => all.every((s) => s.fence === mark));
  const heard = all.filter((s) => s.news.length);
  assert.deepStrictEqual(ids(heard), ids(expected), `hearers of ${JSON.stringify(how)} from ${sender.id}`);
  assert.ok(heard.every((s) => s.news.length === 1), JSON.stringify(how));
  if (!news.length) for (const s of heard) assert.deepStrictEqual(s.news[0], [mark]);
  return heard.map((s) => s.news[0]);
}

// Everybody sees everybody: from here on nothing may be missing. Several processes need a moment
// to find each other in a namespace.
async function settle({ all }) {
  await until('everybody sees everybody', async () =>
    (await Promise.all(all.map((s) => ok(s, 'fetch', {})))).every((seen) => seen.length === all.length), 20000);
  for (const s of all) {
    const seen = await ok(s, 'fetch', {});
    assert.deepStrictEqual(ids(seen), ids(all));
    for (const other of all) {
      const { data, rooms } = seen.find((o) => o.id === other.id);
      assert.deepStrictEqual(data, { name: other.name, colour: 'red' });
      assert.deepStrictEqual(rooms, [other.id]);
    }
  }
}

// What a client sends comes back: through every transport, small and large, text and bytes.
async function echoes({ all }) {
  const text = 'é€😀 '.repeat(BIG / 10);
  const bytes = Buffer.from(Array.from({ length: BIG }, (_, i) => (i * 7919) >> 3));
  await Promise.all(all.map(async (s, i) => {
    assert.strictEqual(await ask(s, 'echo', i), i);
    assert.deepStrictEqual(await ask(s, 'echo', { a: [null, true, 'é€😀', { b: 1.5 }] }), { a: [null, true, 'é€😀', { b: 1.5 }] });
    assert.strictEqual(await ask(s, 'echo', text), text);
    const back = await ask(s, 'echo', { deep: [bytes, 'x', Buffer.alloc(0)] });
    assert.ok(bytes.equals(Buffer.from(back.deep[0])));
    assert.strictEqual(back.deep[1], 'x');
    assert.strictEqual(back.deep[2].byteLength, 0);
  }));
  // Many at once stay in order.
  await Promise.all(all.map(async (s) => {
    const seen = [];
    await Promise.all(Array.from({ length: 30 }, (_, n) => ask(s, 'echo', n).then(() => seen.push(n))));
    assert.deepStrictEqual(seen, Array.from({ length: 30 }, (_, n) => n));
  }));
}

// The server asks one client.
async function answers({ all }) {
  await Promise.all(all.map(async (s) => {
    s.once('question', (payload, ack) => ack([s.name, payload]));
    assert.deepStrictEqual(await ok(s, 'ask me', 10000, 'how?'), [s.name, 'how?']);
    const { error } = await ask(s, 'ask me', 50, 'nobody listens');
    assert.match(error, /timed out/);
  }));
}

// The application's own pages, small and with a body, on kept connections and on new ones.
async function plainHttp({ url, agent, workers }) {
  const pids = new Set();
  for (const own of [agent, new http.Agent(), new http.Agent({ keepAlive: true, maxSockets: 1 })]) {
    for (let i = 0; i < 6; i++) {
      const hello = await request(url, 'GET', `/hello?name=n${i}`, '', own);
      assert.strictEqual(hello.hello, `n${i}`);
      pids.add(hello.pid);
      const { length } = await request(url, 'POST', '/length', 'x'.repeat(BIG + i), own);
      assert.strictEqual(length, BIG + i);
    }
    if (own !== agent) own.destroy();
  }
  assert.ok(pids.size <= workers);
}

async function clientFile({ url, path }) {
  const text = await request(url, 'GET', `${path}socket.io.js`);
  assert.match(text, /Socket\.IO v\d/);
}

function request(url, method, target, body = '', agent = undefined) {
  return within(15000, `${method} ${target}`, new Promise((resolve, reject) => {
    const headers = { 'content-type': 'text/plain' };
    const req = http.request(url + target, { method, agent, headers }, (res) => {
      const chunks = [];
      res.on('data', (chunk) => chunks.push(chunk));
      res.on('error', reject);
      res.on('end', () => {
        const text = Buffer.concat(chunks).toString();
        try {
          assert.strictEqual(res.statusCode, 200, `${method} ${target}: ${text}`);
          resolve(/json/.test(res.headers['content-type']) ? JSON.parse(text) : text);
        } catch (e) {
          reject(e);
        }
      });
    });
    req.on('error', reject);
    req.end(body);
  }));
}

// Who is not let in learns why, and may stay where it was.
async function refusals({ all, url, path }) {
  for (const transports of [POLLING, WEBSOCKET]) {
    await assert.rejects(connect(url, transports, { path, auth: { name: 'nobody' } }), /not you/);
    await assert.rejects(connect(`${url}/nowhere`, transports, { path }), /Invalid namespace/);
  }
  for (const s of all.slice(0, 3)) {
    await assert.rejects(beside(s, '/nowhere', 'x'), /Invalid namespace/);
    await assert.rejects(beside(s, '/team-9', 'nobody'), (e) => e.data.code === 'E_NOBODY');
    assert.strictEqual(await ask(s, 'echo', 1), 1);
  }
}

// Another namespace over the same session.
async function beside(s, namespace, name) {
  const socket = s.io.socket(namespace, { auth: { name } });
  socket.on('news', (...args) => socket.news.push(args));
  socket.name = name;
  socket.pid = s.pid;
  await within(15000, `${namespace} for ${name}`, new Promise((resolve, reject) => {
    socket.once('connect', resolve);
    socket.once('connect_error', reject);
  }));
  return socket;
}

async function emits(app) {
  const { all } = app;
  for (const sender of app.askers()) {
    await heard(all, sender, {}, all);
    await heard(all, sender, { from: 'socket' }, without(all, [sender]));
    // Every socket is a room of its own.
    const [one, two] = [all[2], all[all.length - 1]];
    await heard(all, sender, { to: [one.id] }, [one]);
    await heard(all, sender, { to: [one.id, two.id] }, [one, two]);
    await heard(all, sender, { except: [one.id, two.id] }, without(all, [one, two]));
    const bytes = Buffer.from([0, 1, 2, 253, 254, 255]);
    for (const [text, { deep }, last] of await heard(all, sender, {}, all, 'é€😀', { deep: [bytes] }, Buffer.alloc(3000, 7))) {
      assert.strictEqual(text, 'é€😀');
      assert.ok(bytes.equals(Buffer.from(deep[0])));
      assert.ok(Buffer.alloc(3000, 7).equals(Buffer.from(last)));
    }
    const [[large]] = await heard(all, sender, {}, all, 'x'.repeat(BIG));
    assert.strictEqual(large.length, BIG);
  }
}

async function acknowledgements(app) {
  const { all } = app;
  all.forEach((s) => s.on('question', (payload, ack) => ack([s.name, payload])));
  const names = (some) => some.map((s) => s.name).sort();
  for (const sender of app.askers()) {
    const { error, answers } = await ask(sender, 'ask', {}, 10000, 'x');
    assert.strictEqual(error, null);
    assert.deepStrictEqual(answers.sort(), names(all).map((name) => [name, 'x']));
    // A packet may carry ten pieces of bytes, so not of all.
    const few = [all[0], all[1], all[4], all[7]];
    const some = await ask(sender, 'ask', { to: ids(few) }, 10000, Buffer.from([1, 2, 253]));
    assert.strictEqual(some.error, null);
    assert.deepStrictEqual(some.answers.map((a) => a[0]).sort(), names(few));
    for (const [, payload] of some.answers) assert.ok(Buffer.from([1, 2, 253]).equals(Buffer.from(payload)));
    // One says nothing: the error says so and the others' answers are there.
    const silent = all.find((s) => s !== sender);
    silent.off('question');
    const late = await ask(sender, 'ask', {}, 1000, 'x');
    assert.match(late.error, /timed out/);
    assert.deepStrictEqual(late.answers.map((a) => a[0]).sort(), names(without(all, [silent])));
    silent.on('question', (payload, ack) => ack([silent.name, payload]));
  }
  all.forEach((s) => s.off('question'));
}

async function rooms(app) {
  const { all } = app;
  const [blue, green] = [every(all, 3), every(all, 2)];
  await Promise.all(all.map((s) =>
    ok(s, 'join', [...(blue.includes(s) ? ['blue'] : []), ...(green.includes(s) ? ['green'] : [])])));
  const either = all.filter((s) => blue.includes(s) || green.includes(s));
  for (const sender of app.askers()) {
    await heard(all, sender, { to: ['blue'] }, blue);
    await heard(all, sender, { to: ['blue', 'green'] }, either);
    await heard(all, sender, { to: ['blue'], except: ['green'] }, without(blue, green));
    await heard(all, sender, { except: ['green'] }, without(all, green));
    await heard(all, sender, { from: 'socket', to: ['green'] }, without(green, [sender]));
    await heard(all, sender, { to: ['nobody here'] }, []);
    const seen = await ok(sender, 'fetch', { to: ['blue'], except: ['green'] });
    assert.deepStrictEqual(ids(seen), ids(without(blue, green)));
    for (const { id, rooms } of seen) assert.deepStrictEqual(rooms.sort(), [id, 'blue'].sort());
    // The server moves others' sockets.
    sender.emit('sockets join', { to: ['blue'] }, 'navy');
    await until('they have joined', async () => (await ok(sender, 'fetch', { to: ['navy'] })).length === blue.length);
    await heard(all, sender, { to: ['navy'] }, blue);
    for (const s of blue) assert.ok((await ask(s, 'rooms')).includes('navy'));
    sender.emit('sockets leave', { to: ['green'] }, 'navy');
    const stay = without(blue, green);
    await until('they have left', async () => (await ok(sender, 'fetch', { to: ['navy'] })).length === stay.length);
    await heard(all, sender, { to: ['navy'] }, stay);
    sender.emit('sockets leave', {}, 'navy');
    await until('all have left', async () => (await ok(sender, 'fetch', { to: ['navy'] })).length === 0);
  }
  await ok(blue[0], 'leave', 'blue');
  await heard(all, all[1], { to: ['blue'] }, blue.slice(1));
  await ok(blue[0], 'join', 'blue');
  await heard(all, all[1], { to: ['blue'] }, blue);
}

// The servers but the asker's hear it, each once; a single process has no others.
async function serverSide(app) {
  const { all, workers } = app;
  const visits = async (sockets, askers) => {
    for (const asker of askers) {
      const others = sockets.filter((s) => s.pid !== asker.pid);
      sockets.forEach((s) => {
        s.visits = [];
        s.off('visited').on('visited', (...visit) => s.visits.push(visit));
      });
      asker.emit('server side emit', 'visit', { by: asker.id });
      await until('the others are visited', () => others.every((s) => s.visits.length));
      await heard(sockets, asker, {}, sockets);
      for (const s of sockets) {
        assert.deepStrictEqual(s.visits, others.includes(s) ? [[{ by: asker.id }, s.pid]] : []);
      }
    }
  };
  await visits(all, app.askers());
  if (workers > 1) {
    // Without others the adapter of a single process never answers.
    for (const asker of app.askers()) {
      const { error, answers } = await ask(asker, 'server side ask', 'hé');
      assert.strictEqual(error, null);
      const pids = app.askers().map((s) => s.pid).filter((pid) => pid !== asker.pid);
      assert.deepStrictEqual(answers.map((a) => a.pid).sort(), pids.sort());
      assert.ok(answers.every((a) => a.payload === 'hé'));
    }
  }
  app.visits = visits;
}

async function namespaces(app) {
  const chat = await Promise.all(app.all.map((s, i) => beside(s, '/chat', `chat ${i}`)));
  const team = await Promise.all(app.all.map((s, i) => beside(s, `/team-${i % 2}`, `team ${i}`)));
  const groups = [chat, team.filter((_, i) => i % 2 === 0), team.filter((_, i) => i % 2 === 1)];
  const everyone = [...app.all, ...chat, ...team];
  for (const group of groups) {
    await until(`all see all of ${group[0].nsp}`, async () =>
      (await Promise.all(group.map((s) => ok(s, 'fetch', {})))).every((seen) => seen.length === group.length), 20000);
    assert.deepStrictEqual(ids(await ok(group[0], 'fetch', {})), ids(group));
    const den = every(group, 2);
    await Promise.all(den.map((s) => ok(s, 'join', 'den')));
    const askers = [...new Map(group.map((s) => [s.pid, s])).values()];
    for (const sender of askers) {
      everyone.forEach((s) => (s.news = []));
      await heard(group, sender, { to: ['den'] }, den);
      await heard(group, sender, { from: 'socket' }, without(group, [sender]));
      for (const s of without(everyone, group)) assert.deepStrictEqual(s.news, [], `${s.nsp} of ${sender.nsp}`);
    }
    if (group === chat) await app.visits(chat, askers);
  }
  // Leaving a namespace leaves the session.
  const leaver = groups[0].shift();
  leaver.disconnect();
  await until('it has left', async () => (await ok(groups[0][0], 'fetch', {})).length === groups[0].length);
  assert.strictEqual(await ask(app.all[0], 'echo', 1), 1);
  for (const s of [...chat, ...team]) s.disconnect();
}

// Every way to go, seen by who goes and by everybody who stays.
async function departures(app) {
  const { all } = app;
  let stay = [...all];
  const gone = async (leavers, ends, reason) => {
    stay = without(stay, leavers.map((l) => l.socket));
    const seen = (s) => leavers.every(({ id }) => s.lefts.filter((left) => left.id === id).length === 1);
    await until(`all hear of ${reason}`, () => stay.every(seen));
    for (const s of stay) {
      for (const { id } of leavers) {
        const left = s.lefts.find((left) => left.id === id);
        assert.match(left.reason, reason);
        assert.ok(left.rooms.includes(id));
      }
    }
    await until('the leavers know', () => leavers.every(({ socket }) => socket.closes === 1));
    for (const { socket } of leavers) assert.match(socket.reason, ends);
    for (const s of stay) assert.strictEqual(s.closes, 0);
    const seenBy = await Promise.all(stay.slice(0, 4).map((s) => ok(s, 'fetch', {})));
    for (const seen of seenBy) assert.deepStrictEqual(ids(seen), ids(stay));
  };
  const take = (kind) => stay.filter((s) => s.kind === kind).slice(0, 1).map((socket) => ({ socket, id: socket.id }));

  for (const kind of [0, 3]) {
    const leavers = take(kind);
    for (const { socket } of leavers) socket.disconnect();
    await gone(leavers, /^io client disconnect$/, /^client namespace disconnect$/);
  }
  for (const kind of [1, 2]) {
    const leavers = take(kind);
    for (const { socket } of leavers) socket.emit('bye', true);
    await gone(leavers, /^io server disconnect$/, /^server namespace disconnect$/);
  }
  // A line that breaks, without a word; and the client comes back as somebody new.
  const broken = stay.find((s) => s.kind === 3);
  const was = broken.id;
  broken.io.engine.transport.ws.terminate();
  await gone([{ socket: broken, id: was }], /^transport (close|error)$/, /^transport (close|error)$/);
  await within(15000, 'connect again', new Promise((resolve, reject) => {
    broken.once('connect', resolve);
    broken.io.once('error', reject);
    broken.connect();
  }));
  assert.notStrictEqual(broken.id, was);
  broken.closes = 0;
  broken.pid = await ask(broken, 'pid');
  stay.push(broken);
  await until('it is seen', async () => (await ok(stay[0], 'fetch', {})).length === stay.length);
  await heard(stay, broken, {}, stay);
  // The server sends a room away, wherever its members are.
  const out = every(stay, 2).map((socket) => ({ socket, id: socket.id }));
  await Promise.all(out.map(({ socket }) => ok(socket, 'join', 'out')));
  without(stay, out.map((l) => l.socket))[0].emit('disconnect sockets', { to: ['out'] }, true);
  await gone(out, /^io server disconnect$/, /^server namespace disconnect$/);
}
