// A host without router: one process of plain Node on the official adapter, with the events of the
// unchanged applications (plain/behaviour.js).
//
//   PORT, ADDRESS   where it listens
//   REDIS           the URL of the Redis that joins it to others; several: nodes of a Redis Cluster
'use strict';
const { createServer } = require('http');
const { createAdapter } = require('@socket.io/redis-streams-adapter');
const { createClient, createCluster } = require('redis');
const { Server } = require('socket.io');
const behaviour = require('./plain/behaviour');

const urls = process.env.REDIS.split(',');
const redis = urls.length > 1
  ? createCluster({ rootNodes: urls.map((url) => ({ url })) })
  : createClient({ url: urls[0] });
redis.on('error', (error) => console.log('redis:', error.message));
redis.connect().then(() => {
  const server = createServer((req, res) => res.end(String(process.pid)));
  const io = new Server(server, { adapter: createAdapter(redis) });
  behaviour(io);
  server.listen(process.env.PORT, process.env.ADDRESS || '127.0.0.1');
});
