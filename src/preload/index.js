// The worker's end of the router: the first file a worker runs. Owns the boot: who this worker is, the
// order in which the other rooms are set up, and the promise that none of them takes the app down.
// Without ROUTER_WORKER, or in a worker thread, it leaves no trace but that it was read.
'use strict';

const { isMainThread } = require('worker_threads');

// Forks and threads of the app's own inherit the arguments.
forgetFlag(process.execArgv);
if (process.env.ROUTER_WORKER !== undefined && isMainThread) {
  const text = process.env.ROUTER_WORKER;
  // Whatever this process starts is not the router's worker.
  delete process.env.ROUTER_WORKER;
  if (typeof process.send === 'function') boot(text);
} else {
  delete require.cache[__filename];
}

function boot(text) {
  const router = require('./router');
  let worker;
  try {
    worker = JSON.parse(text);
  } catch (error) {
    router.warn(`preload: ROUTER_WORKER is no JSON: ${error.message}`);
    return;
  }
  // One room that fails to set up is done without; the app comes first.
  const attempt = (what, set) => {
    try {
      return set();
    } catch (error) {
      router.warn(`preload: no ${what}: ${error && error.message}`);
      return undefined;
    }
  };

  const lane = Number.isInteger(worker.lane)
    ? attempt('lane', () => require('./lane').open(worker.lane)) : undefined;
  // Whoever guards the channel sees to the batches of each.
  if (worker.attach) attempt('life without a router', () => require('./orphan').guard(worker, lane));
  else attempt('batches', () => require('./batch').stand(require('./channel').handle()));
  router.hello(lane !== undefined);
  attempt('servers', () => require('./servers').watch());
  attempt('delivery', () => require('./delivery').listen());
  if (lane) attempt('lane', () => lane.start(require('./delivery').deliver));
  attempt('session ids', () => require('./sessions').install(worker.slot, worker.generation));
  if (worker.adapter) attempt('adapter', () => require('./adapter').install());
  attempt('keep-alive', () => require('./keepalive').install());
  attempt('load', () => require('./load').start());
  attempt('drain', () => require('./drain').listen());
  if (worker.beat) router.beat(worker.beat);
}

// `--require <this file>` in either spelling.
function forgetFlag(argv) {
  for (let i = argv.length - 1; i >= 0; i--) {
    const joined = /^(?:--require|-r)=(.*)$/s.exec(argv[i]);
    if (joined !== null && isThisFile(joined[1])) argv.splice(i, 1);
    else if ((argv[i] === '--require' || argv[i] === '-r') && isThisFile(argv[i + 1])) argv.splice(i, 2);
  }
}

function isThisFile(path) {
  if (path === undefined) return false;
  if (path === __filename) return true;
  try {
    return require('fs').realpathSync(path) === __filename;
  } catch {
    return false;
  }
}
