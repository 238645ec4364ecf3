// The shape of a framework that hides Socket.IO: an adapter is given the HTTP server, which
// listens later, and makes the Socket.IO server when the first gateway asks for it.
'use strict';
const { createServer } = require('http');
const { Server } = require('socket.io');
const behaviour = require('./behaviour');
const pages = require('./pages');

class IoAdapter {
  constructor(app) {
    this.httpServer = app.getHttpServer();
  }

  create(port, { namespace, server, ...options } = {}) {
    if (!server) return this.createIOServer(port, options);
    return namespace ? server.of(namespace) : server;
  }

  createIOServer(port, options) {
    if (this.httpServer && port === 0) return new Server(this.httpServer, options);
    return new Server(port, options);
  }

  bindClientConnect(server, callback) {
    server.on('connection', callback);
  }
}

class Application {
  #server = createServer(pages);
  #adapter;

  getHttpServer() {
    return this.#server;
  }

  useWebSocketAdapter(adapter) {
    this.#adapter = adapter;
  }

  async listen(port) {
    await new Promise((resolve) => setImmediate(resolve));
    const io = this.#adapter.create(0, { cors: { origin: true } });
    const chat = this.#adapter.create(0, { namespace: '/chat', server: io });
    this.#adapter.bindClientConnect(chat, (socket) => socket.emit('welcome', socket.id));
    behaviour(io);
    await new Promise((resolve) => this.#server.listen(port, resolve));
  }
}

async function bootstrap() {
  const app = new Application();
  app.useWebSocketAdapter(new IoAdapter(app));
  await app.listen(process.env.PORT ?? 3000);
}
bootstrap();
