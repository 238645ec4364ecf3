// A plain HTTP application under Node's own cluster: it calls listen and the parent opens the
// port. LISTEN is a JSON array of what to listen on (port numbers, 0 for any, or socket paths);
// one server each. What happened is printed, one line of JSON each.
'use strict';
const http = require('http');
const cluster = require('cluster');

const say = (line) => console.log(JSON.stringify(line));
const servers = [];
JSON.parse(process.env.LISTEN || '[0]').forEach((where, index) => {
  const server = http.createServer((req, res) => {
    const url = new URL(req.url, 'http://x');
    res.setHeader('connection', 'close');
    if (url.pathname === '/close') {
      server.close(() => say({ closed: index }));
    } else if (url.pathname === '/disconnect') {
      // The answer goes out first: disconnect waits for open connections.
      res.on('finish', () => cluster.worker.disconnect());
    }
    if (url.searchParams.has('ms')) say({ holds: index });
    const answer = JSON.stringify({ pid: process.pid, index, url: req.url, worker: cluster.worker.id });
    setTimeout(() => res.end(answer), +url.searchParams.get('ms'));
  });
  if (process.env.MAX_CONNECTIONS) server.maxConnections = +process.env.MAX_CONNECTIONS;
  server.on('error', (e) => say({ error: e.code, index }));
  const where_ = process.env.HOST ? { port: where, host: process.env.HOST } : where;
  server.listen(where_, () => say({ listening: server.address(), index }));
  servers.push(server);
});
cluster.worker.on('disconnect', () => say({ disconnected: cluster.worker.exitedAfterDisconnect }));
