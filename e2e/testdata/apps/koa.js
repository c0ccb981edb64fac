const Koa = require('koa');

const app = new Koa();

app.use(async (ctx) => {
  ctx.body = `${process.pid}`;
});

app.listen(process.env.PORT);
