// One hook on the loader of modules, through which the other rooms see socket.io and engine.io come.
// Each copy of a package is shown once. ESM importers reach the same CommonJS files by their full path.
'use strict';

const Module = require('module');

// A name as `require` has it, or the main file of any published version by its path.
const PACKAGE = /(?:^|[\\/])(socket\.io|engine\.io)(?:[\\/](?:dist|build|lib)[\\/](?:index|server|socket\.io|engine\.io)(?:\.js)?)?$/;

const wanted = new Map(); // package -> [see]
const seen = new WeakSet(); // exports

/** `see(exports, filename)` runs after each copy of `name` has loaded, before its importer goes on. */
function onLoad(name, see) {
  if (wanted.size === 0) hook();
  if (!wanted.has(name)) wanted.set(name, []);
  wanted.get(name).push(see);
}

function hook() {
  const load = Module._load;
  Module._load = {
    _load(request, parent, isMain) {
      const exports = load.apply(this, arguments);
      // Called for every require of the app: all but a few end here.
      if (typeof request === 'string' && request.includes('.io')) show(request, parent, isMain, exports);
      return exports;
    },
  }._load;
}

function show(request, parent, isMain, exports) {
  const match = PACKAGE.exec(request);
  if (match === null || exports === null) return;
  if (typeof exports !== 'function' && typeof exports !== 'object') return;
  const Server = exports.Server || exports;
  // A cycle of requires shows exports before they are filled; they come by again.
  if (typeof Server !== 'function' || seen.has(exports)) return;
  const sees = wanted.get(match[1]);
  if (sees === undefined) return;
  seen.add(exports);
  for (const see of sees) {
    try {
      see(Server, Module._resolveFilename(request, parent, isMain));
    } catch (error) {
      require('./router').warn(`preload: ${match[1]} is left as it is: ${error && error.message}`);
    }
  }
}

module.exports = { onLoad };
