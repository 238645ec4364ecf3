// Two Socket.IO servers that know nothing of each other on one HTTP server.
'use strict';
const { createServer } = require('http');
const { Server } = require('socket.io');
const behaviour = require('./behaviour');
const pages = require('./pages');

const server = createServer(pages);
behaviour(new Server(server, { path: '/first/' }));
behaviour(new Server(server, { path: '/second/' }));

server.listen(process.env.PORT || 3000);
