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
  // Its client is to ask elsewhere next time.
  if (stopping) response.setHeader('Connection', 'close');
  response.end(`pid ${process.pid}, up ${process.uptime().toFixed(1)} s\n`);
});

server.listen(port, host, () => {
  console.log(`pid ${process.pid} serves http://${host}:${server.address().port}/`);
});

// Requests under way are answered, and whoever keeps a connection open hears of
// the end with the next answer: closed at once, a request that is on its way on it
// would be lost. Then no new ones are taken, and node ends by itself: nothing is
// left for it to wait for.
function stop(signal) {
  if (stopping) return;
  stopping = true;
  console.log(`${signal}: pid ${process.pid} answers what it has and ends`);
  server.getConnections((_, open) => {
    setTimeout(() => {
      server.close();
      server.closeIdleConnections();
    }, open && 2000);
  });
}

process.on('SIGTERM', stop);
process.on('SIGINT', stop);
