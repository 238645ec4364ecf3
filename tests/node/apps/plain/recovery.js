// Socket.IO with connection state recovery.
'use strict';
const { createServer } = require('http');
const { Server } = require('socket.io');
const behaviour = require('./behaviour');
const pages = require('./pages');

const server = createServer(pages);
const io = new Server(server, {
  connectionStateRecovery: { maxDisconnectionDuration: 60000 },
});
behaviour(io);

server.listen(process.env.PORT || 3000);
