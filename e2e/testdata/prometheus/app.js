// An app that crashes when it is told to.
'use strict';
process.on('SIGUSR2', () => process.exit(1));
setInterval(() => {}, 1e6);
require('fs').appendFileSync('pids', `${process.pid}\n`);
