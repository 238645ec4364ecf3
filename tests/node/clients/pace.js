// Many bare WebSocket sessions in one process, which come back at once when they are closed:
//   node pace.js URL {"clients": N}
// prints {"up":true,"pids":{PID: COUNT}} when all are there, and when "stop" comes on stdin one
// line with each arrival since: { arrivals: [[ms since 1970, pid]], closes: [ms], failures }.
'use strict';
const crypto = require('crypto');
const net = require('net');

const [url, text] = process.argv.slice(2);
const { clients } = JSON.parse(text);
const { hostname, port } = new URL(url);
const AT_ONCE = 64;
const MASK = Buffer.from([1, 2, 3, 4]);

const seen = { arrivals: [], closes: [], failures: 0, why: [] };
const pids = {};
let started = 0;
let there = 0;
let up = false;

function frame(packet) {
  const body = Buffer.from(packet);
  for (let i = 0; i < body.length; i++) body[i] ^= MASK[i % 4];
  return Buffer.concat([Buffer.from([0x81, 0x80 | body.length]), MASK, body]);
}

// One session; packets are short text frames, or the end.
function open() {
  const socket = net.connect({ host: hostname, port: Number(port) });
  const key = crypto.randomBytes(16).toString('base64');
  socket.write('GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\n' +
    `Host: ${hostname}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: ${key}\r\n` +
    'Sec-WebSocket-Version: 13\r\n\r\n');
  let head = true;
  let arrived = false;
  let buffer = Buffer.alloc(0);
  const packets = {
    0: () => socket.write(frame('40')),
    2: () => socket.write(frame('3')),
    40: () => socket.write(frame('420["pid"]')),
    430: (rest) => {
      arrived = true;
      const [pid] = JSON.parse(rest);
      if (up) {
        seen.arrivals.push([Date.now(), pid]);
        return;
      }
      pids[pid] = (pids[pid] || 0) + 1;
      next();
      if (++there === clients) {
        up = true;
        console.log(JSON.stringify({ up, pids }));
      }
    },
  };
  socket.on('data', (chunk) => {
    buffer = buffer.length ? Buffer.concat([buffer, chunk]) : chunk;
    if (head) {
      const end = buffer.indexOf('\r\n\r\n');
      if (end < 0) return;
      if (!buffer.subarray(0, end).toString('latin1').startsWith('HTTP/1.1 101')) {
        socket.destroy(new Error(buffer.toString('latin1', 0, 100)));
        return;
      }
      head = false;
      buffer = buffer.subarray(end + 4);
    }
    while (buffer.length >= 2) {
      const short = buffer[1] & 0x7f;
      const offset = short === 126 ? 4 : 2;
      if (buffer.length < offset) return;
      const length = short === 126 ? buffer.readUInt16BE(2) : short;
      if (buffer.length < offset + length) return;
      const [code, body] = [buffer[0] & 0xf, buffer.toString('utf8', offset, offset + length)];
      buffer = buffer.subarray(offset + length);
      if (code === 8) {
        socket.end();
        return;
      }
      const kind = /^\d+/.exec(body)[0];
      if (packets[kind]) packets[kind](body.slice(kind.length));
    }
  });
  socket.on('error', (error) => {
    seen.failures++;
    if (seen.why.length < 20) seen.why.push(error.message);
  });
  socket.on('close', () => {
    if (arrived) seen.closes.push(Date.now());
    else seen.failures++;
    open();
  });
}

function next() {
  if (started++ < clients) open();
}

for (let n = 0; n < Math.min(AT_ONCE, clients); n++) next();
process.stdin.setEncoding('utf8').on('data', (word) => {
  if (word.trim() === 'stop') process.stdout.write(`${JSON.stringify(seen)}\n`, () => process.exit(0));
  else console.log(JSON.stringify(seen));
}).on('end', () => process.exit(0));
