// The two pages of the applications that need no framework for them.
'use strict';

module.exports = function pages(req, res) {
  const url = new URL(req.url, 'http://x');
  if (req.method === 'GET' && url.pathname === '/hello') {
    return json(res, { hello: url.searchParams.get('name'), pid: process.pid, peer: req.socket.remotePort });
  }
  if (req.method === 'POST' && url.pathname === '/length') {
    let length = 0;
    req.on('data', (chunk) => (length += chunk.length));
    req.on('end', () => json(res, { length, pid: process.pid }));
    return;
  }
  res.writeHead(404).end();
};

function json(res, value) {
  res.setHeader('content-type', 'application/json');
  res.end(JSON.stringify(value));
}
