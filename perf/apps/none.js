// Nothing in front: workers that accept by themselves (Node's cluster with SCHED_NONE).
'use strict';
const cluster = require('cluster');

cluster.schedulingPolicy = cluster.SCHED_NONE;
if (cluster.isPrimary) {
  for (let n = 0; n < Number(process.env.WORKERS); n++) cluster.fork();
} else {
  require('./plain');
}
