const { createServer } = require('node:http');
const log4js = require('log4js');

log4js.configure({
  appenders: { app: { type: 'file', filename: 'app.log' } },
  categories: { default: { appenders: ['app'], level: 'info' } },
});
const log = log4js.getLogger();

createServer((req, res) => {
  log.info(`answered by ${process.pid}`);
  res.end(`${process.pid}`);
}).listen(process.env.PORT);
