// A server that isn't HTTP and speaks first, then echoes: the parent can wait for no request line.
// PORT says where.
'use strict';
const net = require('net');

const server = net.createServer((socket) => {
  socket.on('error', () => {});
  socket.write(`hello from ${process.pid}\n`);
  socket.pipe(socket);
});
server.listen(+process.env.PORT || 0, '127.0.0.1');
