// Leaves a grandchild behind whose parent is gone, and says when nothing is left of it: whoever
// is process 1 has to collect it, or it stays a zombie.
const { spawnSync } = require('child_process');
const { existsSync } = require('fs');

const shell = spawnSync('sh', ['-c', 'sleep 0.2 >/dev/null 2>&1 & echo $!'], { encoding: 'utf8' });
const orphan = shell.stdout.trim();
console.log(`orphan ${orphan}`);
setInterval(() => {
  if (!existsSync(`/proc/${orphan}`)) {
    console.log('the orphan is collected');
  }
}, 20);
