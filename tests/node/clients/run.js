// Runs one scenario against a server and prints what it saw as one line of JSON:
//   node run.js SCENARIO URL [OPTIONS AS JSON]
// A scenario that does not hold ends with its reason on stderr and exit code 1.
'use strict';
const scenarios = require('./scenarios');

const [name, url, options = '{}'] = process.argv.slice(2);
const run = scenarios[name];
if (!run) {
  console.error(`no scenario ${name}; there are: ${Object.keys(scenarios).join(', ')}`);
  process.exit(2);
}
run(url, JSON.parse(options)).then(
  (seen) => {
    console.log(JSON.stringify(seen === undefined ? {} : seen));
    process.exit(0);
  },
  (error) => {
    console.error(error.stack);
    process.exit(1);
  });
