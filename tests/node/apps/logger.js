// A plain HTTP server for tests of log files; each path prints something, and /pid answers which
// worker it is.
//
//   /say?out=TEXT&err=TEXT     a line on either stream
//   /repeat?line=TEXT&times=N  so many lines, numbered, and then the answer
//   /flood?rate=N&ms=N         so many lines a second for so long; the answer comes at once
'use strict';
const { createServer } = require('http');

const routes = {
  '/pid': () => {},
  '/id': () => process.env.pm_id,
  '/say': (query) => {
    if (query.has('out')) process.stdout.write(`${query.get('out')}\n`);
    if (query.has('err')) process.stderr.write(`${query.get('err')}\n`);
  },
  '/repeat': (query) => {
    let text = '';
    for (let n = 0; n < Number(query.get('times')); n++) text += `${query.get('line')} ${n}\n`;
    process.stdout.write(text);
  },
  '/flood': (query) => {
    // In portions, so that the worker has turns for other things in between.
    const PORTION_MS = 5;
    const [rate, ms] = [Number(query.get('rate')), Number(query.get('ms'))];
    const began = Date.now();
    let sent = 0;
    const timer = setInterval(() => {
      const elapsed = Math.min(Date.now() - began, ms);
      let text = '';
      for (; sent < (rate * elapsed) / 1000; sent++) text += `a line of a flood, number ${sent}\n`;
      if (elapsed === ms) text += 'the flood is over\n';
      process.stdout.write(text);
      if (elapsed === ms) clearInterval(timer);
    }, PORTION_MS);
  },
};

createServer((req, res) => {
  const url = new URL(req.url, 'http://x');
  const route = routes[url.pathname];
  if (!route) return res.writeHead(404).end();
  return res.end(String(route(url.searchParams) ?? process.pid));
}).listen(Number(process.env.PORT || 0), '127.0.0.1');
