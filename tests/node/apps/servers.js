// Several servers in one worker, of any kind, each with its own number in the answers. SERVERS is a
// JSON array of { kind: 'http' | 'net' | 'echo', where: port or socket path, max }: `http` answers every
// request with who it is and whom it sees, `net` greets before the client has said anything, `echo`
// says only what was said to it. What happened is printed, one line of JSON each.
//   /reopen?index=N   closes the Nth server and opens it again, then answers
'use strict';
const http = require('http');
const net = require('net');

const say = (line) => console.log(JSON.stringify(line));
const all = JSON.parse(process.env.SERVERS);
const servers = all.map(({ kind, max }, index) => {
  const make = {
    http: () => http.createServer((req, res) => answer(index, req, res)),
    net: () => net.createServer((socket) => {
      socket.on('error', () => {});
      socket.write(`${JSON.stringify(seen(index, socket))}\n`);
      socket.pipe(socket);
    }),
    echo: () => net.createServer((socket) => {
      socket.on('error', () => {});
      socket.once('data', (first) => {
        socket.write(`${JSON.stringify(seen(index, socket))}\n`);
        socket.write(first);
        socket.pipe(socket);
      });
    }),
  };
  const server = make[kind]();
  if (max) server.maxConnections = max;
  server.on('error', (e) => say({ error: e.code, index }));
  return server;
});
servers.forEach(open);

function open(server, index) {
  server.listen(all[index].where, () => say({ open: index, pid: process.pid }));
}

function seen(index, socket) {
  return { index, pid: process.pid, address: socket.remoteAddress, port: socket.remotePort, family: socket.remoteFamily };
}

function answer(index, req, res) {
  const url = new URL(req.url, 'http://x');
  const end = () => res.end(JSON.stringify(seen(index, req.socket)));
  if (url.pathname !== '/reopen') return setTimeout(end, +url.searchParams.get('ms'));
  const which = +url.searchParams.get('index');
  servers[which].close(() => {
    servers[which].once('listening', end);
    open(servers[which], which);
  });
}
