// The soak's app in node. It notes what it receives, since a signal that comes
// twice at once is one.
'use strict';
const fs = require('fs');
const { spawn } = require('child_process');

for (const s of ['SIGUSR1', 'SIGUSR2', 'SIGHUP', 'SIGWINCH']) {
  process.on(s, () => fs.appendFileSync(`node-${s}`, '.'));
}
process.on('SIGTERM', () => process.exit(43));

let lines = 0;
setInterval(() => {
  fs.writeSync(1, `app ${process.pid} line ${lines++}\n`);
  let order;
  try {
    order = fs.readFileSync('order', 'utf8');
  } catch {
    return;
  }
  const [left, , code] = order.split(' ').map(Number);
  for (let i = 0; i < left; i++) {
    spawn('sleep', ['100000'], { detached: i % 2 === 1, stdio: 'ignore' });
  }
  process.exit(code);
}, 5);

fs.appendFileSync('ready', `${process.pid}\n`);
