// What a worker may throw at its parent, by name: any JavaScript value, and raw bytes on the
// channel itself. The parent must live.
'use strict';
const fs = require('fs');

const channel = () => process.channel.fd;
const hows = {
  null: () => process.send(null),
  true: () => process.send(true),
  one: () => process.send(1),
  x: () => process.send('x'),
  map: () => process.send(new Map([['type', 'sticky:connection']])),
  nested: () => process.send({ type: { type: 'sticky:connection' }, data: null, cmd: 7 }),
  wrongsid: () => process.send({ type: 'sticky:connection', data: { an: 'object' } }),
  big: () => process.send(Buffer.alloc(20 << 20, 'b'), () => console.log('big is out')),
  garbage: () => fs.writeSync(channel(), Buffer.from('GET / HTTP/1.1\r\n\r\n\xff\xff\xff'.repeat(9), 'latin1')),
  hugelen: () => fs.writeSync(channel(), Buffer.from('80000000ff0f30', 'hex')),
  // The process ends with the frame half written.
  cutframe: () => {
    process.send(Buffer.alloc(20 << 20, 'c'));
    process.exit(0);
  },
};

module.exports = (how) => hows[how]();
