// listen REPORT: a server that reports when node had begun and when it listens.
const fs = require('node:fs');
const http = require('node:http');

// The kinds of a record, as in bench.h.
const BEGAN = 1;
const LISTENS = 7;

const server = http.createServer();
server.listen(process.env.PORT, () => {
  const now = process.hrtime.bigint(); // CLOCK_MONOTONIC
  // performance.now() counts from node's own start.
  const records = [[BEGAN, now - BigInt(Math.round(performance.now() * 1e6))], [LISTENS, now]];
  const report = fs.openSync(process.argv[2], 'w');
  for (const [kind, at] of records) fs.writeSync(report, new BigInt64Array([BigInt(kind), at, BigInt(process.env.LAUNCHED)]));
});
