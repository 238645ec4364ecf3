// A worker: with REDIS it has the official adapter and its own port, without it is an unchanged
// application under the router. A client tells it to broadcast.
'use strict';
const { createServer } = require('http');
const { Server } = require('socket.io');

async function main() {
  const options = {};
  if (process.env.REDIS) {
    const { createAdapter } = require('@socket.io/redis-streams-adapter');
    const { createClient } = require('redis');
    options.adapter = createAdapter(await createClient({ url: process.env.REDIS }).connect());
  }
  const server = createServer((req, res) => res.end());
  const io = new Server(server, options);
  io.on('connection', (socket) => {
    socket.on('pid', (ack) => ack(process.pid));
    socket.on('blast', (perSecond, seconds, ack) => {
      const payload = 'x'.repeat(100);
      const began = Date.now();
      let sent = 0;
      const timer = setInterval(() => {
        const due = Math.min(perSecond * seconds, (Date.now() - began) / 1000 * perSecond);
        while (sent < due) io.emit('news', sent++, payload);
        if (sent >= perSecond * seconds) {
          clearInterval(timer);
          ack(sent);
        }
      }, 10);
    });
  });
  server.listen(process.env.PORT, process.env.ADDRESS);
}

main();
