// Answers at once; /flood?rate=N&ms=N&to=log|null has it write so many lines a second for so long, on
// stdout, or to /dev/null, which costs the worker the same and the router nothing.
'use strict';
const fs = require('fs');
const { createServer } = require('http');

const PORTION_MS = 5;
const nowhere = fs.openSync('/dev/null', 'w');

function flood(rate, ms, to) {
  const began = Date.now();
  let sent = 0;
  const timer = setInterval(() => {
    const elapsed = Math.min(Date.now() - began, ms);
    let text = '';
    for (; sent < (rate * elapsed) / 1000; sent++) text += `a line of a flood, number ${sent}, of some length\n`;
    fs.writeSync(to === 'log' ? 1 : nowhere, text);
    if (elapsed === ms) clearInterval(timer);
  }, PORTION_MS);
}

createServer((req, res) => {
  const url = new URL(req.url, 'http://x');
  const number = (name) => Number(url.searchParams.get(name));
  if (url.pathname === '/flood') flood(number('rate'), number('ms'), url.searchParams.get('to'));
  res.end(String(process.pid));
}).listen(Number(process.env.PORT), '127.0.0.1');
