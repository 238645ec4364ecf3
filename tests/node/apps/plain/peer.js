// Socket.IO on an HTTP server, or on an HTTPS server if TLS_KEY and TLS_CERT name its files, with a
// page that says who answers and whom it sees.
'use strict';
const fs = require('fs');
const http = require('http');
const https = require('https');
const { Server } = require('socket.io');
const behaviour = require('./behaviour');

const page = (req, res) => {
  const { remoteAddress, remotePort, remoteFamily } = req.socket;
  const peer = { address: remoteAddress, port: remotePort, family: remoteFamily };
  res.setHeader('content-type', 'application/json');
  res.end(JSON.stringify({ pid: process.pid, ...peer }));
};
const { TLS_KEY, TLS_CERT } = process.env;
const server = TLS_KEY
  ? https.createServer({ key: fs.readFileSync(TLS_KEY), cert: fs.readFileSync(TLS_CERT) }, page)
  : http.createServer(page);
behaviour(new Server(server));

server.listen(process.env.PORT || 3000);
