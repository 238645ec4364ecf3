// What V8 and the official adapter make of values, for the router's codec to be compared with:
//   node oracle.js        prints a line of JSON for each packet: its frame as a worker would send it, the
//                         entry's data and the channel's payload as the official adapter would
// and then reads, a line for each, the frame that the router makes of that data: V8 must read it, and find
// in it what the official adapter's reader finds in the data.
'use strict';
const assert = require('assert');
const readline = require('readline');
const v8 = require('v8');
const { decode, encode } = require('@msgpack/msgpack');
const { createAdapter } = require('@socket.io/redis-streams-adapter');

// Node's channel writes one number more in front of a view than v8.serialize.
const VIEW = 0;
class Serializer extends v8.DefaultSerializer {
  _writeHostObject(view) {
    this.writeUint32(VIEW);
    return super._writeHostObject(view);
  }
}
class Deserializer extends v8.DefaultDeserializer {
  _readHostObject() {
    assert.strictEqual(this.readUint32(), VIEW);
    return super._readHostObject();
  }
}

const twice = { q: 1 };
const sparse = [1, 2];
sparse[40] = 3;
const holes = [1, , 3];
let deep = 1;
for (let i = 0; i < 60; i++) deep = i % 2 ? [deep] : { deep };

const values = [
  null, true, false, 0, -0, 1, -1, 127, 128, 255, 256, 65535, 65536, 4294967295, 4294967296, -32, -33, -128,
  -129, -32768, -32769, -2147483648, -2147483649, 2 ** 53 - 1, -(2 ** 53 - 1), 2 ** 60, 1.5, 0.1, 1e21, 1e-7,
  5e-324, 1.7976931348623157e308, NaN, Infinity, '', 'text', 'é', '€', '😀', 'a\u0000\u001f"\\\u2028', 'x'.repeat(300),
  '€'.repeat(70000), [], [undefined, null], {}, { a: undefined, b: 1 }, { 1: 'one', b: 2, '-1': 3, 4294967295: 4, '01': 5 },
  { é: 1, '€': 2, __proto__: null }, sparse, holes, [twice, twice, { twice }], deep, new Array(20).fill(7),
  Object.fromEntries(Array.from({ length: 40 }, (_, i) => [`k${i}`, i])),
  new Date(0), new Date(1e12 + 7), new Date(-1), new Date(8e15), new Map([[1, { a: twice }]]), new Set([1, twice]), /x/g, new Error('e'),
  [new Map([['m', twice]]), twice, new Set([twice]), [twice]],
  Buffer.from([1, 2, 3]), Buffer.alloc(70000, 9), new Uint8Array([4, 5]), new Float64Array([1.5]), new Uint16Array([258]),
  new DataView(new ArrayBuffer(3)), { deep: [{ er: Buffer.from('b') }, new Date(5)] }, [twice, Buffer.from('x'), twice],
];

function adapter() {
  const client = {
    duplicate: () => client, on() {}, connect: () => Promise.resolve(), sSubscribe() {}, subscribe() {},
    xRead: () => new Promise(() => {}),
  };
  return createAdapter(client)({ name: '/', server: { opts: {}, encoder: {} }, sockets: new Map() });
}

const official = adapter();
const frame = (message) => {
  const serializer = new Serializer();
  serializer.writeHeader();
  serializer.writeValue(message);
  const payload = serializer.releaseBuffer();
  const length = Buffer.alloc(4);
  length.writeUInt32BE(payload.length);
  return Buffer.concat([length, payload]).toString('hex');
};

const packets = values.map((value) => ({
  type: 3,
  data: { packet: { type: 2, data: ['event', value], nsp: '/' }, opts: { rooms: ['r'], except: [], flags: {} } },
  uid: '0123456789abcdef',
  nsp: '/',
}));
const raws = packets.map((packet) => official.encode(packet));

for (const [at, packet] of packets.entries()) {
  const { data, ...rest } = packet;
  const frame_ = frame({ ...packet, source: '_sio_adapter' });
  const asked = { type: 3, data: { ...data, requestId: 'x' }, uid: rest.uid, nsp: rest.nsp };
  console.log(JSON.stringify({
    frame: frame_, data: raws[at].data,
    asked: frame({ ...asked, source: '_sio_adapter' }), payload: Buffer.from(encode(asked)).toString('hex'),
  }));
}

// A Buffer is what the router makes of bytes, and a Uint8Array what the official reader makes of them.
const plain = (value) => {
  if (value instanceof Uint8Array) return { bytes: [...value] };
  if (Array.isArray(value)) return value.map(plain);
  if (value === null || typeof value !== 'object' || value instanceof Date) return value;
  return Object.fromEntries(Object.entries(value).map(([key, value]) => [key, plain(value)]));
};

let at = 0;
readline.createInterface({ input: process.stdin }).on('line', (line) => {
  const bytes = Buffer.from(line, 'hex');
  assert.strictEqual(bytes.readUInt32BE(), bytes.length - 4);
  const deserializer = new Deserializer(bytes.subarray(4));
  deserializer.readHeader();
  const read = deserializer.readValue();
  const { data } = raws[at];
  const expected = data.startsWith('{') ? JSON.parse(data) : decode(Buffer.from(data, 'base64'));
  assert.deepStrictEqual(plain(read.data), plain(expected), `value ${at}`);
  assert.deepStrictEqual(Object.keys(read), ['type', 'data', 'uid', 'nsp', 'source']);
  at++;
}).on('close', () => {
  assert.strictEqual(at, packets.length);
  process.exit(0);
});
