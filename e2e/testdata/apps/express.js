const { createHash } = require('node:crypto');
const express = require('express');

const app = express();

app.get('/', (req, res) => res.type('text').send(`${process.pid}`));

app.post('/upload', (req, res, next) => {
  const sum = createHash('sha256');
  req.pipe(sum).on('finish', () => res.type('text').send(`${process.pid} ${sum.digest('hex')}`)).on('error', next);
});

app.get('/events', (req, res) => {
  res.type('text/event-stream');
  const send = () => res.write(`data: ${process.pid}\n\n`);
  send();
  const timer = setInterval(send, 20);
  res.on('close', () => clearInterval(timer));
});

app.listen(process.env.PORT);
