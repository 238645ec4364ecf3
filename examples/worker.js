// The worker of a Socket.IO cluster: an HTTP server that never listens (its connections come from
// the router), the cluster adapter (so that broadcasts reach the other workers' clients), and
// setupWorker (which takes the connections). Runs the same under `pm2` and under `router`.
'use strict';
const { createServer } = require('http');
const { createAdapter } = require('@socket.io/cluster-adapter');
const { setupWorker } = require('@socket.io/sticky');
const { Server } = require('socket.io');

const httpServer = createServer();
const io = new Server(httpServer);

io.adapter(createAdapter());
setupWorker(io);

io.on('connection', (socket) => {
  console.log(`${socket.id} connected to process ${process.pid}`);
  socket.on('hello', (name, ack) => {
    io.emit('hello', name);
    if (ack) ack(process.pid);
  });
});
