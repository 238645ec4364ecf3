// Opens WebSocket sessions, leaves them alone for a while, and prints what that cost a process.
//   node idle.js PORT PID CONNECTIONS SECONDS
'use strict';
const fs = require('fs');
const WebSocket = require('ws');

const [port, pid, connections, seconds] = process.argv.slice(2).map(Number);
const AT_ONCE = 64;
const SETTLE = 5000; // Milliseconds.
let started = 0;
let open = 0;

function ticks() {
  const stat = fs.readFileSync(`/proc/${pid}/stat`, 'latin1');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return Number(fields[11]) + Number(fields[12]);
}

function switches() {
  const of = (task) => /^voluntary_ctxt_switches:\s+(\d+)/m.exec(
    fs.readFileSync(`/proc/${pid}/task/${task}/status`, 'latin1'));
  return fs.readdirSync(`/proc/${pid}/task`).reduce((sum, task) => sum + Number(of(task)[1]), 0);
}

function connect() {
  if (started++ >= connections) return;
  const socket = new WebSocket(`ws://127.0.0.1:${port}/socket.io/?EIO=4&transport=websocket`);
  socket.on('message', (data) => {
    const text = data.toString();
    if (text[0] === '0') socket.send('40');
    else if (text[0] === '2') socket.send('3');
    else if (text.startsWith('40')) {
      connect();
      if (++open === connections) setTimeout(watch, SETTLE);
    }
  });
  socket.on('close', () => open--);
  socket.on('error', (error) => {
    console.error(error.message);
    process.exit(1);
  });
}

function watch() {
  const before = [ticks(), switches()];
  setTimeout(() => {
    console.log(`idle: ${open} of ${connections} WebSockets after ${seconds} s; router: ` +
      `${(ticks() - before[0]) * 10} ms CPU, ${switches() - before[1]} wake-ups`);
    process.exit();
  }, seconds * 1000);
}

for (let n = 0; n < AT_ONCE; n++) connect();
