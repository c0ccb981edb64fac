// The workers' lines are written by the primary.
const cluster = require('node:cluster');
const { createServer } = require('node:http');
const log4js = require('log4js');

log4js.configure({
  appenders: { app: { type: 'file', filename: 'app.log' } },
  categories: { default: { appenders: ['app'], level: 'info' } },
});
const log = log4js.getLogger();

if (cluster.isPrimary) {
  for (let i = 0; i < 2; i++) cluster.fork();
} else {
  createServer((req, res) => {
    log.info(`answered by ${process.pid}`);
    res.end(`${process.pid}`);
  }).listen(process.env.PORT);
}
