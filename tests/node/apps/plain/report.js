// What a process or thread started by an application finds: printed, sent or posted.
'use strict';
const cluster = require('cluster');
const fs = require('fs');
const { isMainThread, parentPort } = require('worker_threads');

module.exports = report;
if (!isMainThread) parentPort.postMessage(report());
else if (require.main === module && process.send) process.send(report(), () => process.disconnect());
else if (require.main === module) console.log(JSON.stringify(report()));

function report() {
  return {
    execArgv: process.execArgv,
    argv: process.argv.slice(2),
    env: Object.keys(process.env).filter((name) => /^(ROUTER|NODE)_/.test(name)).sort(),
    options: process.env.NODE_OPTIONS || '',
    worker: cluster.isWorker,
    modules: Object.keys(require.cache).map((path) => path.split('/').pop()).sort(),
    fds: isMainThread ? fds() : {},
  };
}

// Above the three standard ones; sockets and pipes have numbers of no meaning.
function fds() {
  const found = {};
  for (const fd of fs.readdirSync('/proc/self/fd').map(Number).filter((fd) => fd > 2)) {
    try {
      found[fd] = fs.readlinkSync(`/proc/self/fd/${fd}`).replace(/:\[\d+\]$/, '');
    } catch {
      // The one that read the directory is closed by now.
    }
  }
  return found;
}
