// An app as any: it answers with its pid. It handles no signal and knows of no
// supervisor.
const { pbkdf2Sync } = require('node:crypto');
const http = require('node:http');

const server = http.createServer((request, response) => {
  const answer = () => response.end(`${process.pid}\n`);
  request.resume().on('end', () => {
    switch (request.url) {
      case '/slow': // waits, as for a database
        setTimeout(answer, 200 + Math.random() * 300);
        break;
      case '/cpu': // works for a millisecond or two
        pbkdf2Sync('password', 'salt', 4000, 32, 'sha256');
        answer();
        break;
      default:
        answer();
    }
  });
});

server.listen(process.env.PORT);
