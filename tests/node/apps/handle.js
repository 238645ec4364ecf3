// A sticky worker that sends its parent a socket. Until the parent acknowledges it, Node queues
// every further message of this process: /send answers 200 only once those that followed went out.
'use strict';
const http = require('http');
const net = require('net');
const { Server } = require('socket.io');
const { createAdapter } = require('@socket.io/cluster-adapter');
const { setupWorker } = require('sticky2');

const server = http.createServer((req, res) => {
  if (req.url !== '/send') return res.end(String(process.pid));
  const guard = setTimeout(() => res.writeHead(500).end('messages after the handle are stuck'), 3000);
  const pair = net.createServer((socket) => {
    process.send({ here: 'is a socket' }, socket, (e) => e && res.writeHead(500).end(e.message));
    let out = 0;
    for (let i = 0; i < 5; i++) {
      process.send({ after: i }, () => {
        if (++out < 5) return;
        clearTimeout(guard);
        res.end('5 messages went out');
      });
    }
  });
  pair.listen({ port: 0, host: '127.0.0.1', exclusive: true }, () => {
    const client = net.connect(pair.address().port, '127.0.0.1');
    client.on('error', () => {});
    // The parent wants no such socket and closes it.
    client.on('close', () => console.log('the sent socket was closed'));
    client.resume();
  });
});
const io = new Server(server);
io.adapter(createAdapter());
setupWorker(io);
io.on('connection', (socket) => {
  socket.on('pid', (ack) => ack(process.pid));
  socket.on('emit all', (...args) => io.emit('news', ...args));
});
