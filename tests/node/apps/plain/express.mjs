// Express and Socket.IO on one port, as a module with work to do before it starts.
import express from 'express';
import { createServer } from 'node:http';
import { setTimeout as pause } from 'node:timers/promises';
import { Server } from 'socket.io';
import behaviour from './behaviour.js';

const settings = await pause(20, { limit: '1mb' });

const app = express();
const server = createServer(app);
const io = new Server(server);

app.use(express.text(settings));
app.get('/hello', (req, res) => {
  res.json({ hello: req.query.name, pid: process.pid, peer: req.socket.remotePort });
});
app.post('/length', (req, res) => {
  res.json({ length: Buffer.byteLength(req.body), pid: process.pid });
});

behaviour(io);

server.listen(process.env.PORT || 3000);
