// Broadcasts that reach the clients of every worker, for apps that chose no adapter. Puts a cluster
// adapter in the place of the one in memory, built on the classes of the app's own socket.io-adapter,
// with the words of @socket.io/cluster-adapter on the wire: the router relays them by their last bytes,
// so the order of the fields is part of the protocol.
'use strict';

const { createRequire } = require('module');
const delivery = require('./delivery');
const modules = require('./modules');
const router = require('./router');

const SOURCE = '_sio_adapter';

const adapters = new Map(); // namespace on the wire -> Set of adapters
const ordinals = new WeakMap(); // io server -> its place among those of this process, from 1
const living = new WeakMap(); // io server -> Set of our adapters
let servers = 0;

function install() {
  modules.onLoad('socket.io', intercept);
}

function intercept(Server, filename) {
  const { prototype } = Server;
  if (typeof prototype.adapter !== 'function') throw new Error('no adapter()');
  const exported = createRequire(filename)('socket.io-adapter');
  const InMemory = exported.Adapter || exported;
  const Recovering = exported.SessionAwareAdapter;
  const Cluster = exported.ClusterAdapterWithHeartbeat;
  const RouterAdapter = Cluster === undefined ? undefined : adapterClass(Cluster);

  const { adapter } = prototype;
  // Also a getter, when called with nothing.
  prototype.adapter = {
    adapter(v) {
      if (arguments.length === 0) return adapter.call(this);
      if (!ordinals.has(this)) ordinals.set(this, ++servers);
      let choice = v;
      if (v !== undefined && (v === InMemory || v === Recovering)) {
        if (RouterAdapter === undefined) {
          router.warn('this socket.io is too old for broadcasts across workers: they reach only the clients of the same worker; socket.io 4.6 with socket.io-adapter 2.5.3 or newer is needed');
        } else {
          if (v === Recovering) {
            router.warn('connectionStateRecovery does not work across workers with memory only: clients that come back get a new session');
          }
          choice = RouterAdapter;
        }
      }
      const result = adapter.call(this, choice);
      retire(this);
      return result;
    },
  }.adapter;

  if (typeof prototype.attachApp === 'function') {
    const { attachApp } = prototype;
    prototype.attachApp = {
      attachApp(app, opts = {}) {
        router.warn('io.attachApp(): uWebSockets.js listens by itself, past the router');
        return attachApp.apply(this, arguments);
      },
    }.attachApp;
  }
}

// Namespaces that were given another adapter leave ours behind, and nobody else would close it.
function retire(server) {
  for (const adapter of living.get(server) || []) {
    if (adapter.nsp.adapter !== adapter) adapter.close();
  }
}

function adapterClass(ClusterAdapterWithHeartbeat) {
  return class RouterAdapter extends ClusterAdapterWithHeartbeat {
    #wire;
    #state = 'new'; // new -> announced -> closed

    constructor(nsp) {
      super(nsp, {});
      const { server } = nsp;
      const ordinal = ordinals.get(server) || 1;
      // The n-th server of one worker talks to the n-th of the others.
      this.#wire = ordinal === 1 ? nsp.name : `${ordinal}#${nsp.name}`;
      enroll(this.#wire, this, server);
      // An adapter in memory keeps no process alive.
      if (this.cleanupTimer && this.cleanupTimer.unref) this.cleanupTimer.unref();
      // Whoever chooses another adapter does so in the same breath; then this one was never there.
      // (Versions of socket.io differ in who calls init.)
      process.nextTick(() => {
        if (this.#state !== 'new') return;
        this.#state = 'announced';
        super.init();
      });
    }

    init() {}

    close() {
      if (this.#state === 'closed') return;
      const announced = this.#state === 'announced';
      if (!announced) this.#state = 'closed'; // Publishes nothing from here on.
      super.close();
      this.#state = 'closed';
      dismiss(this.#wire, this, this.nsp.server);
    }

    scheduleHeartbeat() {
      super.scheduleHeartbeat();
      if (this.heartbeatTimer && this.heartbeatTimer.unref) this.heartbeatTimer.unref();
    }

    publish(message) {
      if (this.#state !== 'closed') super.publish(message);
    }

    doPublish(message) {
      message.nsp = this.#wire;
      message.source = SOURCE;
      router.say(message);
      return Promise.resolve(''); // No offset: nothing is kept to be asked for again.
    }

    doPublishResponse(requesterUid, response) {
      response.nsp = this.#wire;
      response.source = SOURCE;
      response.requesterUid = requesterUid;
      router.say(response);
      return Promise.resolve();
    }
  };
}

// ---- One listener for all ----

let listening = false;

function enroll(wire, adapter, server) {
  if (!listening) {
    listening = true;
    delivery.onMessage(receive);
  }
  add(adapters, wire, adapter);
  add(living, server, adapter);
}

function dismiss(wire, adapter, server) {
  const set = adapters.get(wire);
  set.delete(adapter);
  if (set.size === 0) adapters.delete(wire);
  living.get(server).delete(adapter);
}

function add(map, key, value) {
  const set = map.get(key);
  if (set === undefined) map.set(key, new Set([value]));
  else set.add(value);
}

function receive(message) {
  if (message === null || typeof message !== 'object' || message.source !== SOURCE) return;
  const set = adapters.get(message.nsp);
  if (set === undefined) return;
  for (const adapter of set) {
    const { name } = adapter.nsp;
    // The classes drop what is not of their own namespace. A copy: others listen to this message too.
    adapter.onMessage(message.nsp === name ? message : { ...message, nsp: name });
  }
}

module.exports = { install };
