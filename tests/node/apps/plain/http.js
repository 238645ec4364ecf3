// Socket.IO on an HTTP server of Node's own.
'use strict';
const { createServer } = require('http');
const { Server } = require('socket.io');
const behaviour = require('./behaviour');
const pages = require('./pages');

const server = createServer(pages);
const io = new Server(server);
behaviour(io);

server.listen(process.env.PORT || 3000);
