// Says which process it is connected to, and each failure to get a connection.
const WebSocket = require('ws');

function connect() {
  const ws = new WebSocket(`ws://127.0.0.1:${process.env.PORT}`);
  let greeted = false;
  ws.on('message', (pid) => {
    greeted = true;
    console.log(`connected to ${pid}`);
  });
  ws.on('error', (error) => {
    if (!greeted) console.log(`failed: ${error.message}`);
  });
  ws.on('close', (code) => {
    console.log(`disconnected: ${code}`);
    setTimeout(connect, 1);
  });
}

connect();
