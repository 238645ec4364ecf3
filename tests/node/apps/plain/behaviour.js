// What every one of these applications does with its Socket.IO server: an event for each thing
// the documentation shows. `how` says to whom: { from: 'socket', to: [rooms], except: [rooms] }.
'use strict';

module.exports = function behaviour(io) {
  // A namespace, another, and those that come to be when somebody asks for them.
  for (const nsp of [io.of('/'), io.of('/chat'), io.of(/^\/team-\d+$/)]) {
    nsp.use(login);
    nsp.on('connection', connection);
  }
  // What the other servers say with serverSideEmit.
  for (const nsp of [io.of('/'), io.of('/chat')]) {
    nsp.on('visit', (tag) => nsp.local.emit('visited', tag, process.pid));
    nsp.on('who', (payload, ack) => ack({ pid: process.pid, payload }));
  }
};

function login(socket, next) {
  const { name } = socket.handshake.auth;
  if (name === 'nobody') {
    const error = new Error('not you');
    error.data = { code: 'E_NOBODY' };
    return next(error);
  }
  socket.data = { name, colour: socket.handshake.query.colour };
  next();
}

function connection(socket) {
  const nsp = socket.nsp;
  const target = ({ from, to = [], except = [] }) => {
    let target = from === 'socket' ? socket.broadcast : nsp;
    for (const room of to) target = target.to(room);
    for (const room of except) target = target.except(room);
    return target;
  };
  const reply = (ack, promise) =>
    Promise.resolve(promise).then((v) => ack({ ok: v }), (e) => ack({ error: e.message }));

  socket.on('pid', (ack) => ack(process.pid));
  socket.on('echo', (...args) => args.pop()(...args));
  socket.on('join', (rooms, ack) => reply(ack, socket.join(rooms)));
  socket.on('leave', (room, ack) => reply(ack, socket.leave(room)));
  socket.on('rooms', (ack) => ack([...socket.rooms]));
  socket.on('emit', (how, ...args) => target(how).emit(...args));
  socket.on('ask', (how, ms, payload, ack) =>
    target(how).timeout(ms).emit('question', payload, (error, answers) =>
      ack({ error: error ? error.message : null, answers })));
  socket.on('ask me', (ms, payload, ack) => reply(ack, socket.timeout(ms).emitWithAck('question', payload)));
  socket.on('fetch', (how, ack) => reply(ack, target(how).fetchSockets().then((all) =>
    all.map(({ id, rooms, data }) => ({ id, rooms: [...rooms], data })))));
  socket.on('sockets join', (how, room) => target(how).socketsJoin(room));
  socket.on('sockets leave', (how, room) => target(how).socketsLeave(room));
  socket.on('disconnect sockets', (how, close) => target(how).disconnectSockets(close));
  socket.on('server side emit', (...args) => nsp.serverSideEmit(...args));
  socket.on('server side ask', (payload, ack) => nsp.serverSideEmit('who', payload, (error, answers) =>
    ack({ error: error ? error.message : null, answers })));
  socket.on('bye', (close) => socket.disconnect(close));

  let rooms = [];
  socket.on('disconnecting', () => (rooms = [...socket.rooms]));
  socket.on('disconnect', (reason) => nsp.emit('left', { id: socket.id, reason, rooms }));
}
