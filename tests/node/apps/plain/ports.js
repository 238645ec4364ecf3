// Two Socket.IO servers that know nothing of each other, each on its own port.
'use strict';
const { createServer } = require('http');
const { Server } = require('socket.io');
const behaviour = require('./behaviour');
const pages = require('./pages');

const server = createServer(pages);
behaviour(new Server(server));
behaviour(new Server(Number(process.env.PORT2) || 3001));

server.listen(process.env.PORT || 3000);
