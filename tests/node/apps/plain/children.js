// An application that starts processes and threads of its own and tells what they found.
'use strict';
const { execFile, fork } = require('child_process');
const { once } = require('events');
const { createServer } = require('http');
const { Worker } = require('worker_threads');
const { Server } = require('socket.io');
const report = require('./report');

const script = require.resolve('./report');
const reports = {
  '/self': async () => report(),
  '/fork': async () => (await once(fork(script, { stdio: ['ignore', 'ignore', 'inherit', 'ipc'] }), 'message'))[0],
  '/spawn': () => new Promise((resolve, reject) =>
    execFile(process.execPath, [script], (error, out) => (error ? reject(error) : resolve(JSON.parse(out))))),
  '/thread': async () => (await once(new Worker(script), 'message'))[0],
};

const server = createServer((req, res) => {
  const answer = reports[req.url];
  if (!answer) return res.writeHead(404).end();
  answer().then((found) => res.end(JSON.stringify(found)), (error) => res.writeHead(500).end(error.stack));
});
new Server(server);
server.listen(process.env.PORT || 3000);
