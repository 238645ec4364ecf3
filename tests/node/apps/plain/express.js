// Express and Socket.IO on one port.
'use strict';
const express = require('express');
const { createServer } = require('node:http');
const { Server } = require('socket.io');
const behaviour = require('./behaviour');

const app = express();
const server = createServer(app);
const io = new Server(server);

app.use(express.text({ limit: '1mb' }));
app.get('/hello', (req, res) => {
  res.json({ hello: req.query.name, pid: process.pid, peer: req.socket.remotePort });
});
app.post('/length', (req, res) => {
  res.json({ length: Buffer.byteLength(req.body), pid: process.pid });
});

behaviour(io);

server.listen(process.env.PORT || 3000, () => {
  console.log(`listening on ${server.address().port}`);
});
