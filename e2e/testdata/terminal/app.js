// An app on a terminal. It tells of itself by lines; the mode says what it does
// about signals.
'use strict';
const mode = process.argv[2];
const fs = require('fs');

// A process that runs takes each signal at once; for one that sleeps, two that
// come together may merge.
const stayAwake = () => setImmediate(stayAwake);

let interrupts = 0;
switch (mode) {
  case 'counts': // SIGINT, and tells the number by its exit code
    stayAwake();
    process.on('SIGINT', () => {
      if (++interrupts === 1) setTimeout(() => process.exit(40 + interrupts), 300);
    });
    break;
  case 'stubborn': // does not end
    for (const s of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(s, () => console.log(`refused ${s}`));
    break;
  case 'resizes': {
    let n = 0;
    stayAwake();
    const tell = () => console.log(`resize ${++n}: ${process.stdout.getWindowSize().join('x')}`);
    process.on('SIGWINCH', () => setImmediate(tell)); // node, too, asks for the size when it comes
    break;
  }
  case 'raw': // takes keys, not lines; only in its first life, when there is a file to note it
    if (process.argv[3] && fs.existsSync(process.argv[3])) break;
    if (process.argv[3]) fs.writeFileSync(process.argv[3], '');
    process.stdin.setRawMode(true);
    process.stdin.on('data', (key) => {
      if (String(key) === 'x') process.kill(process.pid, 'SIGKILL');
      if (String(key) === 'q') process.exit(0);
    });
    break;
  case 'notes': // signals, in a file
    for (const s of ['SIGHUP', 'SIGTERM', 'SIGINT']) {
      process.on(s, () => {
        fs.appendFileSync(process.argv[3], `${s}\n`);
        process.exit(9);
      });
    }
    break;
}

if (mode !== 'silent') process.stdin.on('data', (d) => console.log(`got ${String(d).trim()}`));
if (mode !== 'silent') process.stdin.on('end', () => console.log('input ended'));
setInterval(() => {}, 1e6);
console.log(`app ${process.pid} of ${process.ppid} is up`);
