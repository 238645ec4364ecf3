// The primary of the Socket.IO documentation.
'use strict';
const cluster = require('cluster');
const http = require('http');
const { setupPrimary } = require('@socket.io/cluster-adapter');
const { setupMaster } = require('@socket.io/sticky');

if (cluster.isPrimary) {
  const server = http.createServer();
  setupMaster(server, { loadBalancingMethod: 'least-connection' });
  setupPrimary();
  cluster.setupPrimary({ serialization: 'advanced' });
  for (let n = 0; n < Number(process.env.WORKERS); n++) cluster.fork();
  server.listen(Number(process.env.PORT), '127.0.0.1');
} else {
  require('./sticky');
}
