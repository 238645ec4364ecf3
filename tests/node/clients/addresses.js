// Clients of which a test decides the certificate they accept and the address they come from.
'use strict';
const assert = require('assert');
const https = require('https');
const net = require('net');
const { POLLING, WEBSOCKET, ask, byPid, swarm } = require('./swarm');

// One request on a connection of its own.
function request(url, options = {}, body = '') {
  return new Promise((resolve, reject) => {
    const req = https.request(url, { agent: false, rejectUnauthorized: false, ...options }, (res) => {
      let text = '';
      res.setEncoding('utf8').on('data', (chunk) => (text += chunk)).on('end', () => resolve({ status: res.statusCode, text }));
    });
    req.on('error', reject).end(body);
  });
}

// Engine.IO's polling over TLS, a new connection for each request.
exports.tls_polling_sticks = async (url, { sessions = 6, requests = 12 }) => {
  const one = async (n) => {
    const base = `${url}/socket.io/?EIO=4&transport=polling`;
    const opened = await request(base);
    assert.strictEqual(opened.status, 200, `handshake ${n}: ${opened.text}`);
    const { sid } = JSON.parse(opened.text.slice(1));
    const own = `${base}&sid=${sid}`;
    const post = async (packet) => {
      const answer = await request(own, { method: 'POST', headers: { 'content-type': 'text/plain;charset=UTF-8' } }, packet);
      assert.deepStrictEqual(answer, { status: 200, text: 'ok' }, `session ${n}`);
    };
    await post('40');
    for (let i = 0; i < requests; i++) {
      await post(`42${i}["echo","${n} ${i}"]`);
      let got = '';
      while (!got.includes(`43${i}["${n} ${i}"]`)) {
        const poll = await request(own);
        assert.strictEqual(poll.status, 200, `session ${n}: ${poll.text}`);
        got += poll.text;
        if (poll.text === '2') await post('3');
      }
    }
  };
  await Promise.all(Array.from({ length: sessions }, (_, n) => one(n)));
};

// Real clients, some that never upgrade and some that are WebSockets from the start.
exports.tls_clients = async (url, { clients = 8, echoes = 20 }) => {
  const all = await swarm(url, clients, [POLLING, WEBSOCKET], { rejectUnauthorized: false });
  for (let i = 0; i < echoes; i++) {
    assert.deepStrictEqual(await Promise.all(all.map((s) => ask(s, 'echo', i))), all.map(() => i));
  }
  assert.deepStrictEqual(all.map((s) => s.reason).filter(Boolean), []);
  return { pids: byPid(all), transports: all.map((s) => s.io.engine.transport.name) };
};

// What a server says first to several connections from each address: [[address, [text]]]. `speaks`:
// only once it was spoken to.
exports.greetings = async (url, { addresses, each = 3, speaks = false }) => {
  const { hostname, port } = new URL(url);
  const one = (localAddress) => new Promise((resolve, reject) => {
    const socket = net.connect({ port: +port, host: hostname, localAddress });
    socket.setTimeout(8000, () => socket.destroy(new Error(`${localAddress}: no greeting`)));
    if (speaks) socket.write('\0this is not HTTP\n');
    socket.on('error', reject).setEncoding('utf8').once('data', (text) => {
      socket.destroy();
      resolve(text.trim());
    });
  });
  const found = [];
  for (let i = 0; i < each; i++) {
    const lines = await Promise.all(addresses.map(one));
    lines.forEach((line, n) => (found[n] = [addresses[n], [...(found[n] ? found[n][1] : []), line]]));
  }
  return found;
};
