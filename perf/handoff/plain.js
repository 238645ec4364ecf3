// An ordinary server, as `node plain.js` runs it.
'use strict';
const { createServer } = require('http');
const { Server } = require('socket.io');

const server = createServer((req, res) => res.end(`pid ${process.pid}`));
new Server(server);
server.listen(Number(process.env.PORT), '127.0.0.1');
