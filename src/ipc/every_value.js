// One message for every kind of value a worker can send: tests run this as a worker and read its channel.
class Point { constructor() { this.z = 1 } }
const failed = (error, more) => Object.assign(error, { stack: 'at €' }, more)
const bare = new Error('no stack'); delete bare.stack
const circle = { a: 1 }; circle.self = circle
const twice = { q: 1 }
const sparse = [1, 2]; sparse[1000] = 3; sparse.p = 'q'
const holes = [1, , 3]; holes.named = 1
let deep = {}; for (let i = 0; i < 300; i++) deep = { o: deep }
const values = {
  map: new Map([[1, 'a'], ['k', { x: 1 }]]), set: new Set([1, '2', {}]),
  nested: new Map([[new Map(), new Set([new Map()])]]),
  date: new Date(0), regexp: /a€b/gi, plainRegexp: /x/,
  bigint: 123456789012345678901234567890n, negativeBigint: -1n, zeroBigint: 0n,
  numberObject: new Number(1.5), stringObject: new String('s'), wideStringObject: new String('€'),
  trueObject: new Boolean(true), falseObject: new Boolean(false), bigintObject: Object(5n),
  buffer: Buffer.from([1, 2, 3]), bytes: new Uint8Array([1]), words: new Uint16Array([1, 2, 3]),
  doubles: new Float64Array([1.5]), view: new DataView(new ArrayBuffer(3)),
  arrayBuffer: new ArrayBuffer(5), resizable: new ArrayBuffer(2, { maxByteLength: 9 }),
  circle, twice: [twice, twice], sparse, holes, dense: [1, 'x', null], empty: [], undefinedIn: [undefined],
  error: failed(new TypeError('bad'), { cause: { deep: [1] } }),
  wideError: failed(new Error('o€', { cause: failed(new RangeError('in', { cause: 's' })) })), bare,
  errors: [new EvalError('a'), new URIError('b'), new SyntaxError('c'), new ReferenceError('d'),
    new AggregateError([1], 'x')].map(error => failed(error)),
  wide: '€', latin: 'é', emoji: '😀', lone: '\ud800', emptyText: '',
  keys: { 1: 'a', '-1': 2, 4294967295: 1, '€': 2, '\udc00': 3 },
  double: 1.5, nan: NaN, uint32: 4000000000, negative: -5, minusZero: -0, huge: 1e300,
  undefined: undefined, null: null, true: true, false: false, class: new Point(), deep,
  adapterMark: '"\x06source"\x0c_sio_adapter', jsonMark: ',"source":"_sio_adapter"}\n',
}
const send = message => { try { process.send(message) } catch { /* JSON has no such value */ } }
for (const before in values) {
  send({ before, value: values[before], type: 'sticky:connection', data: 'end-' + before })
}
for (const other of [[1, 2], null, 'ready', '€', 1.5, true, new Map(), Buffer.from('x')]) send(other)
process.disconnect()
