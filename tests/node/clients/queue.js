// A worker that is stopped while another one's broadcasts are queued for it:
//   node queue.js URL {"count": N, "size": BYTES}
// prints {"up":true,"victim":PID} when that worker is stopped and everybody else has every packet,
// and when "stop" comes on stdin (the worker goes on by then), once its client has every packet or
// is too late, one line: { count, got, disorder, closes }.
'use strict';
const { WEBSOCKET, ask, swarm, until } = require('./swarm');

const [url, text] = process.argv.slice(2);
const { count, size } = JSON.parse(text);
const CLIENTS = 6;
const EVERYTHING = 15000; // Milliseconds.

async function run() {
  const all = await swarm(url, CLIENTS, [WEBSOCKET]);
  const victim = all[0].pid;
  const sender = all.find((socket) => socket.pid !== victim);
  const third = all.find((socket) => socket.pid !== victim && socket.pid !== sender.pid);
  const seen = new Map(all.map((socket) => [socket, { got: 0, disorder: 0 }]));
  for (const [socket, counts] of seen) {
    socket.on('blast', (from, n) => {
      if (n !== counts.got) counts.disorder++;
      counts.got++;
    });
  }
  process.kill(victim, 'SIGSTOP');
  await ask(sender, 'blast', count, size);
  // What has come to the third worker was relayed to the stopped one as well.
  await until('every packet at the third', () => seen.get(third).got === count, EVERYTHING);
  console.log(JSON.stringify({ up: true, victim }));

  await new Promise((resolve) => process.stdin.once('data', resolve));
  const missing = () => [...seen.values()].some((counts) => counts.got < count);
  await until('every packet', () => !missing(), EVERYTHING).catch(() => {});
  const total = (name) => [...seen.values()].reduce((sum, counts) => sum + counts[name], 0);
  const closes = all.reduce((sum, socket) => sum + socket.closes, 0);
  console.log(JSON.stringify({ count: count * all.length, got: total('got'), disorder: total('disorder'), closes }));
  process.exit(0);
}

run().catch((error) => {
  console.error(error.stack);
  process.exit(1);
});
