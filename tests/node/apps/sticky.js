// The worker most tests run: Socket.IO behind a sticky parent, as its documentation writes it
// (a server that never listens, cluster adapter, setupWorker), with an event for each cluster
// operation and plain HTTP routes that show or provoke what a test needs.
//
//   STICKY       1 or 2: the version of @socket.io/sticky (2 when unset)
//   GENERATE_ID  uuid (36 characters), latin1, unicode: the alphabet of the session ids; asked: the
//                handshake names it ("id" in its query)
//   READY_FILE   say 'ready' once this file exists (for --wait-ready); unset: never say it
//   IGNORE_SIGINT, CRASH_SLOT (the slot that throws at boot), MAX_BUFFER as named
'use strict';
const crypto = require('crypto');
const fs = require('fs');
const http = require('http');
const { Server } = require('socket.io');
const { createAdapter } = require('@socket.io/cluster-adapter');
const { setupWorker } = require(process.env.STICKY === '1' ? 'sticky1' : 'sticky2');
const misbehave = require('./misbehave');

if (process.env.CRASH_SLOT && process.env.CRASH_SLOT === process.env.NODE_APP_INSTANCE) {
  throw new Error('this slot crashes');
}
if (process.env.IGNORE_SIGINT) process.on('SIGINT', () => console.log('SIGINT ignored'));

const server = http.createServer(plain);
const io = new Server(server, { maxHttpBufferSize: 1 << 26 });
setGenerateId(process.env.GENERATE_ID);
io.adapter(createAdapter());
setupWorker(io);
io.on('connection', cluster);

// Answers from the other servers of io.serverSideEmit.
io.on('who', (payload, ack) => ack({ pid: process.pid, payload }));
io.on('never', () => {});

if (process.env.READY_FILE) {
  const timer = setInterval(() => {
    if (!fs.existsSync(process.env.READY_FILE)) return;
    clearInterval(timer);
    process.send('ready');
  }, 20);
}
console.log('worker is up');

function setGenerateId(kind) {
  let n = 0;
  const random = () => crypto.randomBytes(9).toString('hex');
  const kinds = {
    uuid: () => crypto.randomUUID(),
    // Characters that need percent-encoding in a query, and é, which is one byte in Latin-1 and
    // two in UTF-8: the two sides of the routing see it in different encodings.
    latin1: () => `é %&=+/?#${n++}-${random()}`,
    unicode: () => `✓日本 ${n++}-${random()}`,
    asked: (req) => new URL(req.url, 'http://x').searchParams.get('id'),
  };
  if (kind) io.engine.generateId = kinds[kind];
}

function cluster(socket) {
  const reply = (ack, promise) =>
    Promise.resolve(promise).then((v) => ack({ ok: v }), (e) => ack({ error: e.message }));
  socket.on('pid', (ack) => ack(process.pid));
  socket.on('echo', (value, ack) => ack(value));
  socket.on('join', (room, ack) => reply(ack, socket.join(room)));
  socket.on('leave', (room, ack) => reply(ack, socket.leave(room)));
  socket.on('emit all', (...args) => io.emit('news', ...args));
  socket.on('emit room', (room, ...args) => io.to(room).emit('news', ...args));
  socket.on('last words', (how) => {
    io.emit('news', how);
    if (how === 'exit') process.exit(0);
    if (how === 'disconnect') process.disconnect();
    if (how === 'kill') process.kill(process.pid, 'SIGTERM');
  });
  socket.on('emit others', (...args) => socket.broadcast.emit('news', ...args));
  socket.on('fetch', (room, ack) => {
    const target = room ? io.in(room) : io;
    const started = process.hrtime.bigint();
    reply(ack, target.fetchSockets().then((all) => ({
      ms: Number(process.hrtime.bigint() - started) / 1e6,
      sockets: all.map((s) => ({ id: s.id, rooms: [...s.rooms] })),
    })));
  });
  socket.on('server side emit', (event, payload, ack) => {
    const started = process.hrtime.bigint();
    io.serverSideEmit(event, payload, (err, responses) => ack({
      error: err ? err.message : null,
      responses,
      ms: Number(process.hrtime.bigint() - started) / 1e6,
    }));
  });
  socket.on('sockets join', (from, to) => io.in(from).socketsJoin(to));
  socket.on('sockets leave', (from, to) => io.in(from).socketsLeave(to));
  socket.on('disconnect sockets', (room, close) => io.in(room).disconnectSockets(close));
  socket.on('ask', (room, timeout, payload, ack) =>
    io.to(room).timeout(timeout).emit('question', payload, (err, answers) =>
      ack({ error: err ? err.message : null, answers })));
  socket.on('blast', (count, size, ack) => blast(socket.id, count, size, ack));
}

// Broadcasts `count` numbered packets as fast as the process can, yielding now and then so that
// answers and pings get through.
function blast(from, count, size, ack) {
  const payload = 'x'.repeat(size);
  let n = 0;
  (function some() {
    for (let i = 0; i < 50 && n < count; i++) io.emit('blast', from, n++, payload);
    if (n < count) setImmediate(some);
    else ack(n);
  })();
}

function plain(req, res) {
  const url = new URL(req.url, 'http://x');
  const routes = {
    '/pid': () => res.end(String(process.pid)),
    '/echo': () => echo(req, res),
    '/peer': () => {
      const { remoteAddress, remotePort, remoteFamily } = req.socket;
      res.end(JSON.stringify({ pid: process.pid, address: remoteAddress, port: remotePort, family: remoteFamily }));
    },
    '/line': () => res.end(JSON.stringify({ method: req.method, url: req.url, pid: process.pid })),
    '/slow': () => setTimeout(() => res.end(String(process.pid)), +url.searchParams.get('ms')),
    '/block': () => {
      console.log('blocks');
      for (const end = Date.now() + +url.searchParams.get('ms'); Date.now() < end;);
      res.end(String(process.pid));
    },
    '/fds': () => res.end(JSON.stringify(fds())),
    '/stop': () => process.kill(process.pid, 'SIGSTOP'),
    '/exit': () => process.exit(+url.searchParams.get('code')),
    '/misbehave': () => {
      res.end(String(process.pid));
      // After the answer is out: what follows may be the end of this process.
      res.on('finish', () => setTimeout(misbehave, 20, url.searchParams.get('how')));
    },
  };
  const route = routes[url.pathname];
  if (route) route();
  // A stale poll must not look like a plain 404 of the application.
  else res.writeHead(404).end(String(process.pid));
}

// The body comes back as it was received, after all of it was.
function echo(req, res) {
  const chunks = [];
  req.on('data', (chunk) => chunks.push(chunk));
  req.on('end', () => res.setHeader('x-url', encodeURIComponent(req.url)).end(Buffer.concat(chunks)));
}

function fds() {
  const out = {};
  for (const fd of fs.readdirSync('/proc/self/fd')) {
    try {
      out[fd] = fs.readlinkSync(`/proc/self/fd/${fd}`);
    } catch {
      // The descriptor of the directory listing itself is closed by now.
    }
  }
  return out;
}
