// The parent the fixtures are checked against: Node's own cluster primary with
// @socket.io/sticky and the adapter's setupPrimary. `node primary.js APP WORKERS` prints
// the port it serves; what a test expects of router must hold here too.
'use strict';
const cluster = require('cluster');
const http = require('http');
const { setupMaster } = require(process.env.STICKY === '1' ? 'sticky1' : 'sticky2');
const { setupPrimary } = require('@socket.io/cluster-adapter');

const server = http.createServer();
setupMaster(server, { loadBalancingMethod: process.env.BALANCE || 'round-robin' });
setupPrimary();
cluster.setupPrimary({
  exec: require('path').resolve(process.argv[2]),
  serialization: process.env.SERIALIZATION || 'advanced',
});
for (let i = 0; i < +(process.argv[3] || 2); i++) cluster.fork({ NODE_APP_INSTANCE: i });
server.listen(0, '127.0.0.1', () => console.log(server.address().port));
