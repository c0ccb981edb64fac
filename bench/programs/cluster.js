// cluster APP N: N processes of an app, as the documentation of node:cluster makes
// them. Node deals connections out to them in turn.
const cluster = require('node:cluster');

const [app, n] = process.argv.slice(2);
cluster.setupPrimary({ exec: app, args: [] });
for (let i = 0; i < n; i++) cluster.fork();
cluster.on('exit', () => cluster.fork());
