// Two hosts of four workers on one Redis: every worker with the official adapter, or a router for each
// host. Prints for each round what a broadcast cost whom, then medians and spreads.
//   node measure.js ROUTER REDIS_SERVER ROUNDS [BROADCASTS A SECOND OF EACH WORKER] [SECONDS]
'use strict';
const fs = require('fs');
const net = require('net');
const { execFileSync, spawn } = require('child_process');
const { io } = require('socket.io-client');

const [router, server, rounds, rate = 50, seconds = 8] = process.argv.slice(2);
const HOSTS = 2;
const WORKERS = 4;
const TICK = 1e6 / execFileSync('getconf', ['CLK_TCK']); // microseconds
const started = [];

function start(command, args, env = {}) {
  const child = spawn(command, args, { cwd: __dirname, env: { ...process.env, ...env }, stdio: 'ignore' });
  started.push(child);
  return child;
}

async function end(children) {
  await Promise.all(children.map((child) => new Promise((done) => {
    if (child.exitCode !== null || child.signalCode !== null) return done();
    child.once('exit', done);
    child.kill('SIGTERM');
  })));
}

const freePort = () => new Promise((done) => {
  const probe = net.createServer().listen(0, '127.0.0.1', () => {
    const { port } = probe.address();
    probe.close(() => done(port));
  });
});

async function until(what, check) {
  for (const limit = Date.now() + 20000; Date.now() < limit;) {
    if (await check()) return;
    await new Promise((next) => setTimeout(next, 20));
  }
  throw new Error(`${what}: not in time`);
}

const listens = (port, host) => new Promise((done) => {
  const socket = net.connect(port, host, () => { socket.destroy(); done(true); }).on('error', () => done(false));
});

// Time on a core, in microseconds.
function cpu(pid) {
  const fields = fs.readFileSync(`/proc/${pid}/stat`, 'latin1').split(') ')[1].split(' ');
  return (+fields[11] + +fields[12]) * TICK;
}

function redisAsk(port, ...words) {
  return new Promise((done, fail) => {
    let said = '';
    const socket = net.connect(port, '127.0.0.1', () => socket.write(words.join(' ') + '\r\n'));
    socket.on('data', (chunk) => {
      said += chunk;
      const length = /^\$(\d+)\r\n/.exec(said);
      if (length && said.length >= length[0].length + +length[1] + 2) socket.end();
    });
    socket.on('close', () => done(said)).on('error', fail);
  });
}

async function connect(url) {
  const socket = io(url, { transports: ['websocket'], forceNew: true });
  socket.heard = 0;
  socket.on('news', () => socket.heard++);
  await new Promise((done, fail) => socket.on('connect', done).on('connect_error', fail));
  socket.pid = await socket.emitWithAck('pid');
  return socket;
}

async function round(name) {
  const redisPort = await freePort();
  const redis = start(server, ['--port', redisPort, '--bind', '127.0.0.1', '--save', '']);
  await until('Redis', () => listens(redisPort, '127.0.0.1'));
  const url = `redis://127.0.0.1:${redisPort}`;
  const [children, urls] = [[], []];
  for (let host = 1; host <= HOSTS; host++) {
    const address = `127.0.0.${host}`;
    if (name === 'router') {
      const port = await freePort();
      children.push(start(router, ['-w', WORKERS, '-l', `${address}:${port}`, '--bus', url, 'worker.js']));
      await until('the router', () => listens(port, address));
      for (let n = 0; n < WORKERS; n++) urls.push(`http://${address}:${port}`);
    } else {
      for (let n = 0; n < WORKERS; n++) {
        const port = await freePort();
        children.push(start(process.execPath, ['worker.js'], { PORT: port, ADDRESS: address, REDIS: url }));
        await until('a worker', () => listens(port, address));
        urls.push(`http://${address}:${port}`);
      }
    }
  }
  // All workers of a router are ready before the first client comes.
  await new Promise((ready) => setTimeout(ready, 2000));
  const clients = [];
  for (const url of urls) clients.push(await connect(url));
  const workers = [...new Set(clients.map((client) => client.pid))];
  if (workers.length !== HOSTS * WORKERS) throw new Error(`clients on ${workers.length} workers`);
  const lines = (await redisAsk(redisPort, 'CLIENT', 'LIST')).split('\n').filter((line) => line.startsWith('id='));
  const connections = lines.length - 1; // Without the one that asks.

  const blast = () => Promise.all(clients.map((client) => client.emitWithAck('blast', +rate, 1)));
  await blast(); // What is compiled late is compiled now.
  const all = clients.length * rate;
  await until('the first second', () => clients.every((client) => client.heard === all));
  const routers = name === 'router' ? children.map((child) => child.pid) : [];
  const sum = (pids) => pids.reduce((sum, pid) => sum + cpu(pid), 0);
  const before = [workers, routers, [redis.pid]].map(sum);
  await Promise.all(clients.map((client) => client.emitWithAck('blast', +rate, +seconds)));
  const total = all + all * seconds;
  await until('every packet everywhere', () => clients.every((client) => client.heard >= total));
  const after = [workers, routers, [redis.pid]].map(sum);
  if (clients.some((client) => client.heard !== total)) throw new Error('some packets came twice');
  const [worker, routing, server_] = after.map((cpu, n) => (cpu - before[n]) / (all * seconds));
  clients.forEach((client) => client.close());
  await end([...children, redis]);
  return { connections, redis: server_, workers: worker, routers: routing };
}

async function main() {
  const rows = { official: [], router: [] };
  console.log('name connections, us of CPU a broadcast: redis workers routers');
  for (let n = 0; n < rounds; n++) {
    for (const name of n % 2 ? ['router', 'official'] : ['official', 'router']) {
      const row = await round(name);
      rows[name].push(row);
      console.log(name, row.connections, ...['redis', 'workers', 'routers'].map((key) => row[key].toFixed(1)));
    }
  }
  const spread = (values) => {
    const sorted = [...values].sort((a, b) => a - b);
    return [sorted[sorted.length >> 1], sorted[0], sorted.at(-1)];
  };
  const shown = ([median, least, most], digits = 1) => `${median.toFixed(digits)} (${least.toFixed(digits)}-${most.toFixed(digits)})`;
  console.log('\n| | connections to Redis | Redis, us of CPU a broadcast | the 8 workers | the 2 routers |\n|---|---|---|---|---|');
  for (const [name, all] of Object.entries(rows)) {
    const cells = ['redis', 'workers', 'routers'].map((key) => shown(spread(all.map((row) => row[key]))));
    console.log(`| ${name} | ${spread(all.map((row) => row.connections))[0]} | ${cells.join(' | ')} |`);
  }
  for (const key of ['connections', 'redis', 'workers']) {
    const ratios = rows.router.map((row, n) => row[key] / rows.official[n][key]);
    console.log(`${key}: ${shown(spread(ratios), 2)} of official, by rounds`);
  }
  const whole = rows.router.map((row, n) => (row.workers + row.routers) / rows.official[n].workers);
  console.log(`workers and routers: ${shown(spread(whole), 2)} of official, by rounds`);
}

main().then(() => process.exit(0), async (error) => {
  console.error(error);
  await end(started);
  process.exit(1);
});
