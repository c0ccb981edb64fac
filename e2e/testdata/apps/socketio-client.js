// Says which process it is connected to, and each failure to get a connection.
const { io } = require('socket.io-client');

const transports = process.env.TRANSPORTS.split(',');
const socket = io(`http://127.0.0.1:${process.env.PORT}`, { transports, reconnectionDelay: 1, reconnectionDelayMax: 1 });

socket.on('connect', () => socket.emit('who', (pid) => console.log(`connected to ${pid}`)));
socket.on('disconnect', (reason) => console.log(`disconnected: ${reason}`));
socket.on('connect_error', (error) => console.log(`failed: ${error.message}`, error.description ?? ''));
