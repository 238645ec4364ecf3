// Nothing in front: two workers that accept by themselves (Node's cluster with SCHED_NONE).
'use strict';
const cluster = require('cluster');

cluster.schedulingPolicy = cluster.SCHED_NONE;
if (cluster.isPrimary) {
  cluster.fork();
  cluster.fork();
} else {
  require('./plain');
}
