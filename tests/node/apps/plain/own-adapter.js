// An adapter of the application's own choice, in the options and by io.adapter().
'use strict';
const { createServer } = require('http');
const { Server } = require('socket.io');
const { Adapter } = require('socket.io-adapter');
const behaviour = require('./behaviour');
const pages = require('./pages');

class OwnAdapter extends Adapter {}

const server = createServer((req, res) => {
  if (req.url !== '/adapters') return pages(req, res);
  res.end(JSON.stringify([first, second].map((io) =>
    ['/', '/chat'].map((nsp) => io.of(nsp).adapter.constructor.name))));
});
const first = new Server(server, { path: '/first/', adapter: OwnAdapter });
const second = new Server(server, { path: '/second/' });
second.adapter(OwnAdapter);
behaviour(first);
behaviour(second);

server.listen(process.env.PORT || 3000);
