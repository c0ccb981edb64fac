const { createServer } = require('node:http');
const { Server } = require('socket.io');

const server = createServer((req, res) => res.end(`${process.pid}`));
const io = new Server(server);

io.on('connection', (socket) => {
  socket.on('who', (answer) => answer(process.pid));
});

server.listen(process.env.PORT);
