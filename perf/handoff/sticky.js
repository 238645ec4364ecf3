// The worker of the Socket.IO documentation: it does not listen, connections come from its primary.
'use strict';
const { createServer } = require('http');
const { Server } = require('socket.io');
const { createAdapter } = require('@socket.io/cluster-adapter');
const { setupWorker } = require('@socket.io/sticky');

const io = new Server(createServer((req, res) => res.end(`pid ${process.pid}`)));
io.adapter(createAdapter());
setupWorker(io);
