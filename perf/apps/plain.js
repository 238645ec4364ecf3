// An ordinary server, as `node plain.js` runs it.
'use strict';
require('./serve').serve().server.listen(Number(process.env.PORT), '127.0.0.1');
