const { createServer } = require('node:http');
const { WebSocketServer } = require('ws');

const server = createServer((req, res) => res.end(`${process.pid}`));
const wss = new WebSocketServer({ server });

wss.on('connection', (ws) => ws.send(`${process.pid}`));

server.listen(process.env.PORT);
