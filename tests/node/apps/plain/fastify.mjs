// Fastify with Socket.IO as a plugin of its own, as a module.
import Fastify from 'fastify';
import { Server } from 'socket.io';
import behaviour from './behaviour.js';

const app = Fastify();

app.register(async (instance) => {
  const io = new Server(instance.server, { transports: ['polling', 'websocket'] });
  instance.decorate('io', io);
  behaviour(io);
});
app.get('/hello', async (request) => {
  return { hello: request.query.name, pid: process.pid, peer: request.socket.remotePort };
});
app.post('/length', async (request) => {
  return { length: Buffer.byteLength(request.body), pid: process.pid };
});

await app.listen({ port: Number(process.env.PORT) || 3000, host: '127.0.0.1' });
