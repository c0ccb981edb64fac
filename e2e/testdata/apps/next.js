// As https://nextjs.org/docs/pages/guides/custom-server has it.
const { createServer } = require('node:http');
const next = require('next');

const port = parseInt(process.env.PORT, 10);
const app = next({ dev: false, port, hostname: 'localhost' });
const handle = app.getRequestHandler();

app.prepare().then(() => {
  createServer((req, res) => handle(req, res)).listen(port);
});
