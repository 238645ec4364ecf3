// What every app here does: an echo, and a burst of broadcasts when told.
'use strict';
const { createServer } = require('http');
const { Server } = require('socket.io');

exports.serve = () => {
  const server = createServer((req, res) => res.end(`pid ${process.pid}`));
  const io = new Server(server, { transports: ['polling', 'websocket'] });
  io.on('connection', (socket) => {
    socket.on('echo', (text, done) => done(text));
    // So many broadcasts of so many bytes, so many a second; then one that says it is over.
    socket.on('burst', (count, bytes, rate) => {
      const text = 'x'.repeat(bytes);
      const began = process.hrtime.bigint();
      let sent = 0;
      const timer = setInterval(() => {
        const due = Math.min(count, Number(process.hrtime.bigint() - began) / 1e9 * rate);
        for (; sent < due; sent++) io.emit('tick', text);
        if (sent < count) return;
        clearInterval(timer);
        io.emit('over');
      }, 5);
    });
  });
  return { io, server };
};
