// A UDP server under cluster: the parent sends the bound socket itself, every worker reads it.
// PORT says where. Each datagram is answered with the process id.
'use strict';
const dgram = require('dgram');

const socket = dgram.createSocket('udp4');
socket.on('message', (_, from) => socket.send(String(process.pid), from.port, from.address));
socket.on('error', (e) => console.log(JSON.stringify({ error: e.code })));
socket.bind(+process.env.PORT, '127.0.0.1', () => console.log(JSON.stringify({ bound: socket.address() })));
