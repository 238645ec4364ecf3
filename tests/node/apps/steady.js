// An ordinary Socket.IO server on a port of its own (PORT), for tests that replace, upgrade and
// crash what is around it. What it does at its start is in a file that the test can change:
//
//   MODE_FILE   one line: "throw", "exit CODE", "never" (get ready), "port N" (listen there
//               instead), "late MS" (listen that much later); anything else, or no file: serve
//   LEAK_SLOT   the slot that keeps LEAK_BYTES of memory for each plain request
//   VERSION     what /version answers with
'use strict';
const fs = require('fs');
const { createServer } = require('http');
const net = require('net');
const { spawn } = require('child_process');
const { Server } = require('socket.io');

const kept = [];
const leaks = process.env.LEAK_SLOT !== undefined && process.env.LEAK_SLOT === process.env.NODE_APP_INSTANCE;
if (process.env.IGNORE_SIGINT) process.on('SIGINT', () => console.log('SIGINT ignored'));

const routes = {
  '/pid': () => process.pid,
  '/version': () => process.env.VERSION,
  '/environment': (query) => process.env[query.get('name')] || '',
  // Never comes back: the answer is not sent.
  '/hang': () => {
    console.log('hangs');
    for (;;);
  },
  '/say': (query) => {
    console.log('x'.repeat(Number(query.get('bytes'))));
    return process.pid;
  },
  // So many broadcasts of that size at once.
  '/emit': (query) => {
    const filling = 'x'.repeat(Number(query.get('bytes')));
    for (let n = Number(query.get('messages')); n > 0; n--) io.emit('filled', filling);
    return process.pid;
  },
  // What a router's attach socket answers to this line from this process.
  '/attach': (query) => new Promise((resolve) => {
    let answer = '';
    const socket = net.connect(query.get('path'), () => socket.write(`${query.get('line')}\n`));
    socket.setEncoding('latin1').on('data', (chunk) => (answer += chunk));
    socket.on('error', () => {}).on('close', () => resolve(JSON.stringify(answer)));
  }),
  '/child': (query) => {
    const child = spawn('sleep', ['600'], { stdio: 'ignore', detached: query.get('detached') === '1' });
    child.unref();
    return child.pid;
  },
};

const server = createServer((req, res) => {
  const url = new URL(req.url, 'http://x');
  const route = routes[url.pathname];
  if (!route) return res.writeHead(404).end();
  if (leaks) kept.push(Buffer.alloc(Number(process.env.LEAK_BYTES), 1));
  return Promise.resolve(route(url.searchParams)).then((answer) => res.end(String(answer)));
});
const io = new Server(server);
io.on('connection', (socket) => {
  socket.on('pid', (ack) => ack(process.pid));
  socket.on('echo', (value, ack) => ack(value));
  socket.on('emit all', (...args) => io.emit('news', ...args));
  // Numbered broadcasts, one after the other, for as long as the test has them come.
  socket.on('count', (from, to, ms) => {
    let n = from;
    const timer = setInterval(() => (n < to ? io.emit('counted', n++) : clearInterval(timer)), ms);
  });
  socket.on('burst', (from, to, size) => {
    const filling = 'x'.repeat(size);
    for (let n = from; n < to; n++) io.emit('counted', n, filling);
  });
});

function mode() {
  try {
    return fs.readFileSync(process.env.MODE_FILE || '', 'utf8').trim().split(' ');
  } catch {
    return [''];
  }
}

const [word, value] = mode();
const starts = {
  throw: () => {
    throw new Error('this version is broken');
  },
  exit: () => process.exit(Number(value)),
  never: () => setInterval(() => {}, 1000),
  port: () => server.listen(Number(value), '127.0.0.1'),
  late: () => setTimeout(() => server.listen(Number(process.env.PORT), '127.0.0.1'), Number(value)),
};
(starts[word] || (() => server.listen(Number(process.env.PORT), '127.0.0.1')))();
