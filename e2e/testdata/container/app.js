// The app of the containers. It says what happens to it; its argument is what it
// does beside that.
'use strict';
const fs = require('fs');
const { spawn } = require('child_process');

process.on('SIGTERM', () => {
  console.log('app received SIGTERM');
  process.exit(7);
});

switch (process.argv[2]) {
  case 'served': { // healthy as long as there is a file
    require('http')
      .createServer((_, answer) => {
        answer.statusCode = fs.existsSync('/tmp/sick') ? 500 : 200;
        answer.end();
      })
      .listen(3000, '127.0.0.1');
    break;
  }
  case 'reads': // lines
    process.stdin.on('data', (data) => console.log(`got ${String(data).trim()}`));
    process.stdin.on('end', () => console.log('input ended'));
    process.stdout.on('resize', () => console.log(`size ${process.stdout.rows} ${process.stdout.columns}`));
    break;
  case 'signals': // those it gets
    for (const name of ['SIGHUP', 'SIGUSR2', 'SIGWINCH', 'SIGCONT']) process.on(name, () => console.log(`got ${name}`));
    break;
  case 'leaves': // a process that leaves its group
    console.log(`left ${spawn('sleep', ['1000'], { detached: true, stdio: 'ignore' }).pid}`);
    break;
  case 'memory': // that V8 takes for its own
    console.log(`heap of ${require('v8').getHeapStatistics().heap_size_limit}`);
    break;
  case 'orphans':
    for (let i = 0; i < 20; i++) spawn('sh', ['-c', 'sleep 0 & exit']);
    break;
  case 'bomb': // takes all pids there are, and dies of it, in its first three lives
    if (fs.existsSync('/tmp/3')) break;
    fs.writeFileSync(`/tmp/${fs.readdirSync('/tmp').length + 1}`, '');
    for (let i = 0; ; i++) {
      // Some stay in the app's group, some do not; some go on forking.
      const child = spawn('sh', ['-c', i % 3 ? 'exec sleep 1000' : 'while :; do sleep 1000 & done'], { detached: i % 2 === 0, stdio: 'ignore' });
      if (child.pid === undefined) {
        console.log(`no pid is left after ${i}`);
        process.exit(1);
      }
    }
}
setInterval(() => {}, 1e6);
console.log(`app ${process.pid} of ${process.ppid} is up`);
