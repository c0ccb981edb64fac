// A server that stops gracefully.
//
//   evermore --http 127.0.0.1:9797 examples/server/server.js
//
//   curl 127.0.0.1:3000/               the app, with its pid
//   curl 127.0.0.1:3000/health         for --ready http://127.0.0.1:3000/health
//   kill -9 PID                        evermore starts the next one
//   curl 127.0.0.1:9797/metrics        and has counted it
//
// PORT and HOST change where it listens (3000 on 127.0.0.1).
'use strict';

const http = require('node:http');

const port = Number(process.env.PORT ?? 3000);
const host = process.env.HOST ?? '127.0.0.1';
let stopping = false;

const server = http.createServer((request, response) => {
  if (request.url === '/health') {
    response.writeHead(stopping ? 503 : 200).end(stopping ? 'stopping\n' : 'ok\n');
    return;
  }
  response.end(`pid ${process.pid}, up ${process.uptime().toFixed(1)} s\n`);
});

server.listen(port, host, () => {
  console.log(`pid ${process.pid} serves http://${host}:${server.address().port}/`);
});

// Requests under way are answered, no new ones are taken, then node ends by
// itself: nothing is left for it to wait for.
function stop(signal) {
  if (stopping) return;
  stopping = true;
  console.log(`${signal}: pid ${process.pid} answers what it has and ends`);
  server.close();
  server.closeIdleConnections();
}

process.on('SIGTERM', stop);
process.on('SIGINT', stop);
