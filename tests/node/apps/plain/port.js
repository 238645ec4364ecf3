// Socket.IO alone: it makes its own HTTP server on a port.
'use strict';
const { Server } = require('socket.io');
const behaviour = require('./behaviour');

const io = new Server(Number(process.env.PORT) || 3000);
behaviour(io);
