// Session ids of the application's own making.
'use strict';
const { randomUUID } = require('crypto');
const { createServer } = require('http');
const { Server } = require('socket.io');
const behaviour = require('./behaviour');
const pages = require('./pages');

const server = createServer(pages);
const io = new Server(server);
io.engine.generateId = () => `mine-${randomUUID()}`;
behaviour(io);

server.listen(process.env.PORT || 3000);
