// Fastify and Socket.IO on one port.
'use strict';
const fastify = require('fastify');
const { Server } = require('socket.io');
const behaviour = require('./behaviour');

const app = fastify();
const io = new Server(app.server);
behaviour(io);

app.get('/hello', async (request) => {
  return { hello: request.query.name, pid: process.pid, peer: request.socket.remotePort };
});
app.post('/length', async (request) => {
  return { length: Buffer.byteLength(request.body), pid: process.pid };
});

app.listen({ port: Number(process.env.PORT) || 3000 }, (error) => {
  if (error) throw error;
});
