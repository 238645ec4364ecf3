// A steady load, and everything that goes wrong with it:
//   node load.js URL [OPTIONS AS JSON]
// runs until "stop" comes on stdin (or stdin ends) and then prints one line of JSON. Before that
// it prints {"up":true} when every client has had its first answer, and an interim summary for
// each "report"; "say N" has N broadcasts sent. A third of the clients are WebSockets, a third only poll, a third are short
// sessions that come and go; beside them plain requests, each on a connection of its own, and some
// on connections that are kept.
//
//   clients     how many (64)
//   path        what the plain requests ask for ('/pid')
//   echo        ms between two echoes of one client (500)
//   rest        ms between two short sessions of one client (1500)
//   plain       ms between two plain requests of one loop (100); 0: none
//   broadcasts  ms between two numbered broadcasts that everybody who stays must see (0: none,
//               "asked": those that "say" asks for)
'use strict';
const diagnostics = require('diagnostics_channel');
const http = require('http');
const { io } = require('socket.io-client');
const { POLLING, UPGRADING, WEBSOCKET } = require('./swarm');

const [url, text = '{}'] = process.argv.slice(2);
const options = { clients: 64, path: '/pid', echo: 500, rest: 1500, plain: 100, broadcasts: 0, ...JSON.parse(text) };
const TOO_LATE = 10000; // Milliseconds without an answer after which a request counts as failed.
const LISTED = 200; // Of each kind of mishap; all are counted.

const seen = {
  gets: 0, kept: 0, echoes: 0, sessions: 0, reconnects: 0, broadcasts: 0, connections: 0,
  failed: [], failures: 0, disconnects: [], ended: { websocket: 0, polling: 0, session: 0 },
  lost: 0, disorder: 0, missed: 0, pids: {},
};
let running = true;

// Connections that were opened, to compare with what the router counts.
diagnostics.subscribe('net.client.socket', ({ socket }) => socket.once('connect', () => seen.connections++));

function list(all, entry) {
  if (all.length < LISTED) all.push({ at: Date.now(), ...entry });
}

function failed(what, detail) {
  seen.failures++;
  list(seen.failed, { what, detail });
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// The transports hide what was answered in here.
function words(error) {
  if (!error) return '';
  const { message, description, context } = error;
  const cause = description && (description.message || (description.error && description.error.message) || description);
  return [message, typeof cause === 'object' ? '' : cause, context && context.status, context && context.responseText]
    .filter((word) => word !== undefined && word !== '' && word !== null).join(' ').slice(0, 300);
}

// A client that stays, and comes back when it was disconnected: counted, both.
class Steady {
  constructor(n, kind, transports, agent) {
    this.n = n;
    this.kind = kind;
    this.sent = 0;
    this.waiting = new Map(); // Number of an echo -> when it was sent.
    this.heard = null; // The last broadcast of the speaker.
    this.connected = 0;
    this.socket = io(url, {
      transports, agent, forceNew: true, reconnectionDelay: 50, reconnectionDelayMax: 500, timeout: TOO_LATE,
    });
    this.up = new Promise((resolve) => (this.first = resolve));
    this.socket.on('connect', () => {
      if (this.connected++) seen.reconnects++;
      this.expected = this.sent;
      this.heard = null;
      this.echo();
      this.socket.emit('pid', (pid) => {
        this.pid = pid;
        seen.pids[pid] = (seen.pids[pid] || 0) + 1;
        if (this.connected > 1) return;
        this.first();
      });
    });
    this.socket.on('connect_error', (error) => failed(`${kind} ${n} connects`, words(error)));
    this.socket.on('disconnect', (reason, details) => {
      if (!running) return;
      // What the server closed is no failed request; what broke is one.
      if (reason === 'transport error') failed(`${kind} ${n}`, words(details));
      seen.ended[kind]++;
      list(seen.disconnects, { kind, n, reason, pid: this.pid, detail: words(details), cut: this.waiting.size });
      this.waiting.clear();
    });
    this.socket.on('news', (number) => this.hears(number));
  }

  echo() {
    if (!running || !this.socket.connected) return;
    const [n, connection] = [this.sent++, this.connected];
    this.waiting.set(n, Date.now());
    this.socket.emit('echo', n, (back) => {
      // An answer to somebody who has been disconnected since is no answer.
      if (connection !== this.connected || !this.waiting.delete(n)) return;
      seen.echoes++;
      if (back !== n || n !== this.expected) seen.disorder++;
      this.expected = n + 1;
    });
  }

  hears(number) {
    seen.broadcasts++;
    if (this.heard !== null && number !== this.heard + 1) {
      if (number > this.heard) seen.missed += number - this.heard - 1;
      else seen.disorder++;
    }
    this.heard = number;
  }

  overdue() {
    const now = Date.now();
    for (const [n, since] of this.waiting) {
      if (now - since < TOO_LATE) continue;
      seen.lost++;
      this.waiting.delete(n);
      this.expected = n + 1;
      failed(`${this.kind} ${this.n}`, `echo ${n} has no answer after ${TOO_LATE} ms`);
    }
  }
}

// Sessions that open, say a word and close, one after the other.
async function sessions(n) {
  const kinds = [WEBSOCKET, POLLING, UPGRADING];
  await pause((n * 97) % Math.max(1, options.rest));
  for (let round = n; running; round++) {
    const socket = io(url, { transports: kinds[round % 3], forceNew: true, reconnection: false, timeout: TOO_LATE });
    const what = `session ${n}.${round} (${kinds[round % 3]})`;
    let closing = false;
    await new Promise((resolve) => {
      const timer = setTimeout(() => {
        failed(what, `not over after ${TOO_LATE} ms`);
        resolve();
      }, TOO_LATE);
      const over = () => {
        clearTimeout(timer);
        resolve();
      };
      socket.on('connect_error', (error) => {
        if (!closing) failed(`${what} opens`, words(error));
        over();
      });
      socket.on('disconnect', (reason, details) => {
        if (!closing) {
          if (reason === 'transport error') failed(what, words(details));
          seen.ended.session++;
          list(seen.disconnects, { kind: 'session', n, reason, detail: words(details) });
        }
        over();
      });
      socket.on('connect', () => socket.emit('echo', round, (back) => {
        if (back !== round) seen.disorder++;
        seen.sessions++;
        closing = true;
        over();
      }));
    });
    closing = true;
    socket.close();
    await pause(options.rest);
  }
}

// Plain requests, one after the other: all on one connection that is kept, or each on its own.
async function plain(n, agent) {
  while (running) {
    await new Promise((resolve) => {
      const request = http.get(url + options.path, { agent, timeout: TOO_LATE }, (response) => {
        let body = '';
        response.setEncoding('utf8').on('data', (chunk) => (body += chunk)).on('end', () => {
          if (response.statusCode !== 200) failed(`plain ${n}`, `${response.statusCode} ${body.slice(0, 200)}`);
          else agent ? seen.kept++ : seen.gets++;
          resolve();
        }).on('error', (error) => {
          failed(`plain ${n}`, `within the answer: ${error.message}`);
          resolve();
        });
      });
      request.on('timeout', () => request.destroy(new Error(`no answer within ${TOO_LATE} ms`)));
      request.on('error', (error) => {
        failed(`plain ${n}`, `${error.code || ''} ${error.message}${request.reusedSocket ? ' (kept)' : ''}`);
        resolve();
      });
    });
    await pause(options.plain);
  }
}

// Connected by WebSocket, so that nothing lies between two of its packets.
function speaker(up) {
  let n = 0;
  const socket = io(url, { transports: WEBSOCKET, forceNew: true, reconnection: false });
  socket.once('connect', up);
  socket.on('connect_error', (error) => failed('the speaker connects', words(error)));
  socket.on('disconnect', (reason, details) => {
    if (!running) return;
    failed('the speaker', `${reason} ${words(details)}`);
  });
  const say = () => running && socket.connected && socket.emit('emit all', n++);
  const timer = options.broadcasts === 'asked' ? undefined : setInterval(say, options.broadcasts);
  return {
    say,
    last: () => n - 1,
    end: () => {
      clearInterval(timer);
      socket.off('disconnect').close();
    },
  };
}

const third = Math.floor(options.clients / 3);
const keeps = new http.Agent({ keepAlive: true });
const all = [];
for (let n = 0; n < options.clients - third; n++) {
  if (n % 2) all.push(new Steady(n, 'polling', POLLING, n % 4 === 1 ? keeps : undefined));
  else all.push(new Steady(n, 'websocket', WEBSOCKET));
}
const loops = [];
let voice = null;

function summary() {
  for (const client of all) client.overdue();
  const behind = voice ? all.filter((client) => client.heard !== voice.last()).length : 0;
  return JSON.stringify({ ...seen, behind, connected: all.filter((client) => client.socket.connected).length });
}

Promise.all(all.map((client) => client.up)).then(() => {
  for (let n = 0; n < third; n++) loops.push(sessions(n));
  if (options.plain) {
    const kept = () => new http.Agent({ keepAlive: true, maxSockets: 1 });
    for (const [n, agent] of [false, false, kept(), kept()].entries()) loops.push(plain(n, agent));
  }
  // Spread over the time, as people are.
  for (const [n, client] of all.entries()) {
    setTimeout(() => setInterval(() => {
      client.overdue();
      client.echo();
    }, options.echo), (n * options.echo) / all.length);
  }
  const up = () => console.log(JSON.stringify({ up: true }));
  if (options.broadcasts) voice = speaker(up);
  else up();
});

async function stop() {
  // Running is false only when all that is due has come: until then an end is still a mishap.
  for (const client of all) client.echo = () => {};
  const quiet = () => all.every((client) => !client.waiting.size);
  for (const end = Date.now() + TOO_LATE; !quiet() && Date.now() < end;) await pause(20);
  if (voice) {
    const last = voice.last();
    voice.end();
    const listeners = all.filter((client) => client.kind === 'websocket' && client.heard !== null);
    for (const end = Date.now() + TOO_LATE; listeners.some((c) => c.heard < last) && Date.now() < end;) await pause(20);
    for (const client of listeners) seen.missed += Math.max(0, last - client.heard);
  }
  running = false;
  await Promise.race([Promise.all(loops), pause(TOO_LATE)]);
  const line = summary();
  for (const client of all) client.socket.close();
  process.stdout.write(`${line}\n`, () => process.exit(0));
}

let typed = '';
let stopping = false;
function command(word) {
  if (word === 'report') console.log(summary());
  if (word.startsWith('say ')) for (let n = Number(word.slice(4)); n > 0; n--) voice.say();
  if (word === 'stop' && !stopping) {
    stopping = true;
    stop();
  }
}
process.stdin.setEncoding('utf8').on('data', (chunk) => {
  const lines = (typed + chunk).split('\n');
  typed = lines.pop();
  lines.forEach(command);
}).on('end', () => command('stop'));
