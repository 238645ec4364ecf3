// Keep-alive without wrong workers. The router chooses the worker by the first request of a connection;
// a later one may carry the session of another worker. Such a request is not shown to the app: its bytes
// are put together again as they came, the socket is taken off Node's server, and both go back to the
// router. Owns the test, which every request takes and nearly all pass at once, and the taking off.
//
//   misdirected ─► read the body ─► earlier responses are out ─► off the server ─► router:return
//        └── requests pipelined behind it join in order      (client gone, body too long: no return)
'use strict';

const http = require('http');
const net = require('net');
const delivery = require('./delivery');
const servers = require('./servers');
const sessions = require('./sessions');

const BODY_MAX = 16 * 1024 * 1024; // Bytes of all requests of one departure; beyond: 413 and close.
const CONTINUE = /(?:^|\W)100-continue(?:$|\W)/i;

// On a socket: absent before its first request, SERVED after it, a Departure once it leaves.
const kCourse = Symbol('course');
const SERVED = 1;

let leaving = false; // The worker drains: what begins anew begins elsewhere.

function install() {
  const { prototype } = http.Server;
  const inherited = Object.getPrototypeOf(prototype);
  Object.defineProperty(prototype, 'emit', {
    value: {
      emit(event, req, res, head) {
        if ((event === 'request' || event === 'upgrade' || event === 'checkContinue' || event === 'checkExpectation') &&
            leaves(event, req, res, head)) return true;
        return inherited.emit.apply(this, arguments);
      },
    }.emit,
    writable: true,
    configurable: true,
    enumerable: false,
  });
}

function leaves(event, req, res, head) {
  const { socket, url } = req;
  if (!socket || typeof url !== 'string') return false;
  const course = socket[kCourse];
  if (course === undefined) {
    socket[kCourse] = SERVED;
  } else if (course !== SERVED) {
    course.add(event, req, res, head);
    return true;
  }
  if (isHere(event, req, res, course === undefined)) return false;
  // An upgrade whose body is still to come keeps its parser: left to the app.
  if (event === 'upgrade' && socket.parser) return false;
  const number = numberOf(socket);
  if (number === undefined || !process.connected) return false;
  socket[kCourse] = new Departure(socket, number);
  socket[kCourse].add(event, req, res, head);
  return true;
}

// Whether the request is answered by this worker. The first of a connection always is: the router has
// chosen by it.
function isHere(event, req, res, first) {
  const { url } = req;
  // No `sid=`, no session; with `EIO=` it asks for one.
  const id = !url.includes('sid=') || (first && !sessions.hasGuests()) ? '' : sessions.idOf(url);
  if (id === '') {
    if (leaving && !first) return false;
    if (event === 'request' && url.includes('EIO=') && req.method === 'GET' && !url.includes('sid=')) sessions.watch(res);
    return true;
  }
  if (!first && !sessions.isHome(id)) return false;
  if (sessions.hasGuests()) sessions.saw(id, event === 'upgrade' ? req.socket : undefined);
  return true;
}

/** From here on a later request without a session of this worker is another worker's. */
function leaveHome() {
  leaving = true;
}

/** Gives a connection back on which nothing is going on. `false`: something is, or it is not HTTP's. */
function giveBackIdle(socket) {
  const { parser } = socket;
  if (!parser || socket._httpMessage || socket[kCourse] instanceof Departure) return false;
  if (socket.writableLength > 0 || socket.readableLength > 0 || parser.finish() instanceof Error) return false;
  const number = numberOf(socket);
  if (number === undefined || !process.connected) return false;
  const handle = takeOff(socket);
  delivery.giveBack(handle, number, drain(socket));
  return true;
}

// 0: injected as sticky does, so no server of Node's took it in. Undefined: the router cannot place it.
function numberOf(socket) {
  if (!(socket instanceof net.Socket) || socket.encrypted || !socket._handle) return undefined;
  return socket._server ? servers.numberOf(socket._server) : 0;
}

class Departure {
  constructor(socket, number) {
    this.socket = socket;
    this.number = number;
    this.requests = []; // { head, body, length, done } in order
    this.length = 0; // Bytes of all bodies.
    this.response = null; // Node's, for the first request: never written.
    this.over = false; // Gone, or given up.
    this.gone = () => {
      this.over = true;
    };
    // The client left: there is nobody to send on.
    socket.prependListener('close', this.gone);
  }

  add(event, req, res, head) {
    if (this.over) return;
    const bodied = req.headers['content-length'] !== undefined || req.headers['transfer-encoding'] !== undefined;
    const request = { req, body: [], length: 0, done: false };
    this.requests.push(request);
    if (event === 'upgrade') {
      // Node has let go of the parser; whatever else comes must stay in the kernel.
      stopReading(this.socket);
      if (head && head.length > 0) request.body.push(head);
      request.done = true;
      this.proceedSoon();
      return;
    }
    if (this.response === null) this.response = res;
    if (event === 'checkContinue') res.writeContinue();
    if (!bodied) {
      request.done = true;
      this.proceedSoon();
      return;
    }
    req.on('error', () => {});
    req.on('data', (chunk) => {
      if (this.over) return;
      request.length += chunk.length;
      this.length += chunk.length;
      if (this.length > BODY_MAX) this.refuse(res);
      else request.body.push(chunk);
    });
    req.on('end', () => {
      request.done = true;
      this.proceedSoon();
    });
  }

  refuse(res) {
    this.over = true;
    this.requests.length = 0;
    if (res === this.response) {
      res.writeHead(413, { 'Connection': 'close', 'Content-Length': 0 });
      res.end();
    } else {
      this.socket.destroy(); // Requests before it were not answered; an answer now would be taken for theirs.
    }
  }

  // Never from inside the parser, which may be at the next request already.
  proceedSoon() {
    process.nextTick(() => this.proceed());
  }

  proceed() {
    const { socket, response } = this;
    if (this.over || !socket._handle || !this.requests.every((request) => request.done)) return;
    // The start of another request is inside the parser: it will join. (Asked for its end, a parser that
    // is between two messages has nothing to say against it; one that is not does, and goes on all the same.)
    if (socket.parser && socket.parser.finish() instanceof Error) return;
    const current = socket._httpMessage;
    if (current && current !== response) {
      current.once('finish', () => this.proceedSoon());
      return;
    }
    if (socket.writableLength > 0) {
      socket.write('', () => this.proceed());
      return;
    }
    this.over = true;
    const bytes = Buffer.concat(this.requests.flatMap(bytesOf));
    const handle = takeOff(socket);
    const unread = drain(socket);
    delivery.giveBack(handle, this.number, bytes.latin1Slice() + unread);
  }
}

// The request as it came, but for a body that came in chunks: it is whole now.
function bytesOf({ req, body, length }) {
  const { rawHeaders } = req;
  const chunked = req.headers['transfer-encoding'] !== undefined;
  let head = `${req.method} ${req.url} HTTP/${req.httpVersion}\r\n`;
  for (let i = 0; i < rawHeaders.length; i += 2) {
    const name = rawHeaders[i].toLowerCase();
    if (chunked && (name === 'transfer-encoding' || name === 'content-length' || name === 'trailer')) continue;
    // The client was told to go on; it will not wait a second time, nor expect a second 100.
    if (name === 'expect' && CONTINUE.test(rawHeaders[i + 1])) continue;
    head += `${rawHeaders[i]}: ${rawHeaders[i + 1]}\r\n`;
  }
  if (chunked) head += `Content-Length: ${length}\r\n`;
  return [Buffer.from(`${head}\r\n`, 'latin1'), ...body];
}

function stopReading(socket) {
  if (!socket._handle) return;
  socket._handle.reading = false;
  socket._handle.readStop();
}

// What Node does to a connection that is sent away, done by hand: its own code starts a protocol of its
// own to count sockets of a server that live in another process, and it goes on reading until the
// receiver has answered, which loses what the client sends meanwhile.
function takeOff(socket) {
  stopReading(socket);
  const handle = socket._handle;
  const { parser } = socket;
  if (parser) {
    if (parser._consumed) parser.unconsume();
    parser._consumed = false;
    parser.remove();
    parser.socket = null;
    parser.incoming = null;
    parser.onIncoming = null;
    socket.parser = null;
    // Its stack must have unwound.
    setImmediate(() => parser.close());
  }
  if (socket._httpMessage) socket._httpMessage.detachSocket(socket);
  socket.removeAllListeners();
  socket.setTimeout(0);
  socket._handle = null;
  // Injected sockets are not counted by a server.
  const server = socket._server;
  socket.server = null;
  socket._server = null;
  if (server) {
    server._connections--;
    server._emitCloseIfDrained();
  }
  return handle;
}

// What stands in the stream's buffer, behind the last request. The shell that is left is then ended,
// so that an app that kept it finds a destroyed socket.
function drain(socket) {
  let unread = '';
  for (let chunk; socket.readableLength > 0 && (chunk = socket.read()) !== null;) unread += chunk.latin1Slice();
  socket.removeAllListeners();
  socket.on('error', () => {});
  socket.destroy();
  return unread;
}

module.exports = { install, leaveHome, giveBackIdle };
