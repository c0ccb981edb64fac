// An app that crashes, again and again, after up to two seconds.
//
//   evermore --http 127.0.0.1:9797 -- node examples/crasher/crasher.js
//
// The pause before each start grows from 0.1 s; after five restarts in ten
// minutes evermore gives up and exits with the app's own code. Watch it come:
//
//   evermore --max-restarts 0 -- node examples/crasher/crasher.js       without a limit
//   evermore examples/crasher/crasher.js                                as forever does: gives up on a run of less than 1 s
//   curl -s 127.0.0.1:9797/metrics | grep -E 'restarts|backoff|spinning'
//
// An argument is the longest life in milliseconds (2000).
'use strict';

const longest = Number(process.argv[2] ?? 2000);
const life = Math.round(Math.random() * longest);
console.log(`pid ${process.pid} crashes in ${life} ms`);
setTimeout(() => {
  throw new Error('crashed, as an example');
}, life);
