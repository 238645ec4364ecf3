// The worker of the Socket.IO documentation: it does not listen, connections come from its primary.
'use strict';
const { createAdapter } = require('@socket.io/cluster-adapter');
const { setupWorker } = require('@socket.io/sticky');

const { io } = require('./serve').serve();
io.adapter(createAdapter());
setupWorker(io);
