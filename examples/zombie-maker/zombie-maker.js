// An app whose helpers leave processes behind that nobody waits for.
//
//   evermore --http 127.0.0.1:9797 -- node examples/zombie-maker/zombie-maker.js
//
// Each second it makes an orphan: a shell starts `sleep` and ends first. As PID 1
// of a container node would keep every one of them as a zombie; evermore reaps
// them (evermore_reaped_orphans_total).
//
// Once it also makes a zombie that no init can reap, because its parent lives:
// a shell starts `sleep` and becomes another program that never waits. evermore's
// log names that parent. `ps -eo pid,ppid,stat,args | grep -w Z` shows the zombie.
'use strict';

const { spawn } = require('node:child_process');

function shell(script) {
  spawn('/bin/sh', ['-c', script], { stdio: 'ignore' });
}

console.log(`pid ${process.pid} makes an orphan each second and one zombie`);
shell('sleep 0.1 & exec sleep 1000000');
setInterval(() => shell('sleep 0.1 & exit 0'), 1000);
