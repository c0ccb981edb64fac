// An app with a life to show: it listens, works, grows, writes, leaves orphans, and ends
// when it is told to, or at once where the file "broken" is.
'use strict';
const fs = require('fs');
const http = require('http');
const { spawn } = require('child_process');

if (fs.existsSync('broken')) {
  fs.writeFileSync('failed', '');
  process.exit(78);
}
process.on('SIGUSR1', () => console.log('a signal'));
process.on('SIGUSR2', () => process.exit(1));
http.createServer((request, response) => response.end()).listen(process.env.PORT);
fs.appendFileSync('pids', `${process.pid}\n`);

// The sleep outlives its parent and comes to evermore.
spawn('sh', ['-c', 'sleep 1 &'], { stdio: 'ignore' });

const grown = [];
const files = [];
setInterval(() => {
  const busy = Date.now() + 20 + Math.random() * 60;
  while (Date.now() < busy);
  if (grown.length < 120) grown.push(Buffer.alloc(256 * 1024, 1));
  if (Math.random() < 0.3) files.push(fs.openSync(__filename));
  if (files.length > 8) fs.closeSync(files.shift());
  console.log('worked '.repeat(10 + Math.random() * 40));
}, 500);
