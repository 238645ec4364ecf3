// The chat's server: serves the page, and keeps rooms whose members may be on any worker.
// Everything below is plain Socket.IO; that it runs in several processes shows nowhere.
'use strict';
const { createServer } = require('http');
const { readFileSync } = require('fs');
const { join } = require('path');
const { createAdapter } = require('@socket.io/cluster-adapter');
const { setupWorker } = require('@socket.io/sticky');
const { Server } = require('socket.io');

const LONGEST_NAME = 24;
const LONGEST_TEXT = 1000;

const page = readFileSync(join(__dirname, 'index.html'));
const server = createServer((req, res) => {
  if (req.url.split('?')[0] !== '/') return res.writeHead(404).end('not found\n');
  res.writeHead(200, { 'content-type': 'text/html; charset=utf-8' }).end(page);
});
const io = new Server(server);
io.adapter(createAdapter());
setupWorker(io);

const text = (value, longest) => String(value ?? '').trim().slice(0, longest);

io.on('connection', (socket) => {
  socket.emit('welcome', { worker: process.pid });

  socket.on('join', async (wanted, ack) => {
    const room = text(wanted && wanted.room, LONGEST_NAME) || 'lobby';
    const nick = text(wanted && wanted.nick, LONGEST_NAME) || 'somebody';
    await leave(socket);
    socket.data.nick = nick;
    socket.data.worker = process.pid;
    socket.data.room = room;
    socket.join(room);
    io.to(room).emit('notice', `${nick} is here, on worker ${process.pid}`);
    if (typeof ack === 'function') ack({ room, nick });
    await tellMembers(room);
  });

  socket.on('say', (words) => {
    const { room, nick } = socket.data;
    const said = text(words, LONGEST_TEXT);
    if (!room || !said) return;
    io.to(room).emit('message', { from: socket.id, nick, worker: process.pid, text: said, at: Date.now() });
  });

  socket.on('disconnect', () => leave(socket));
});

async function leave(socket) {
  const { room, nick } = socket.data;
  if (!room) return;
  socket.data.room = null;
  socket.leave(room);
  io.to(room).emit('notice', `${nick} has left`);
  await tellMembers(room);
}

// fetchSockets asks every worker; its answer is the whole room.
async function tellMembers(room) {
  try {
    const sockets = await io.in(room).fetchSockets();
    const members = sockets.map((s) => ({ id: s.id, nick: s.data.nick, worker: s.data.worker }));
    io.to(room).emit('members', members);
  } catch (error) {
    // A worker did not answer in time; the next join or leave asks again.
    console.error(`members of ${room}: ${error.message}`);
  }
}
