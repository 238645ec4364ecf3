// PORT ROUNDS RATE: request latencies at one of two workers while the other is idle, writes to
// /dev/null, or floods its log, in interleaved rounds.
'use strict';
const http = require('http');

const [port, rounds, rate] = process.argv.slice(2).map(Number);
const ROUND_MS = 3000;
const WAYS = ['idle', 'null', 'log'];
// Longer than the worker is silent between two portions, so that nobody is measured in their end.
const SETTLE_MS = 700;

const get = (agent, path) =>
  new Promise((resolve, reject) => {
    const request = http.get({ port, path, agent, host: '127.0.0.1' }, (response) => {
      let text = '';
      response.on('data', (chunk) => (text += chunk)).on('end', () => resolve(text));
    });
    request.on('error', reject);
  });
const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const at = (sorted, part) => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * part))];
const median = (values) => at([...values].sort((a, b) => a - b), 0.5);

// Agents of one kept-alive connection each, one to each worker.
async function agents() {
  const found = new Map();
  for (let tries = 0; found.size < 2 && tries < 100; tries++) {
    const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
    found.set(await get(agent, '/'), agent);
  }
  return [...found.values()];
}

async function round(way, busy, other) {
  if (way !== 'idle') await get(busy, `/flood?rate=${rate}&ms=${ROUND_MS}&to=${way}`);
  const latencies = [];
  const until = Date.now() + ROUND_MS;
  while (Date.now() < until) {
    const began = process.hrtime.bigint();
    await get(other, '/');
    latencies.push(Number(process.hrtime.bigint() - began) / 1000);
    await wait(1);
  }
  await wait(SETTLE_MS);
  latencies.sort((a, b) => a - b);
  return { p50: at(latencies, 0.5), p99: at(latencies, 0.99) };
}

(async () => {
  const [busy, other] = await agents();
  const seen = Object.fromEntries(WAYS.map((way) => [way, []]));
  for (let n = 0; n < rounds; n++) {
    for (const way of WAYS) {
      const { p50, p99 } = await round(way, busy, other);
      console.log(`${way} ${p50.toFixed(0)} ${p99.toFixed(0)}`);
      seen[way].push({ p50, p99 });
    }
  }
  console.log('\n| the other worker | p50 us | p99 us |\n|---|---|---|');
  for (const way of WAYS) {
    const part = (name) => median(seen[way].map((run) => run[name])).toFixed(0);
    console.log(`| ${way} | ${part('p50')} | ${part('p99')} |`);
  }
  for (const below of ['idle', 'null']) {
    const ratio = (name) => median(seen.log.map((run, n) => run[name] / seen[below][n][name])).toFixed(2);
    console.log(`log by ${below}: p50 ${ratio('p50')}, p99 ${ratio('p99')}, medians of rounds`);
  }
  process.exit();
})();
