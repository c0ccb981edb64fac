import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';

enum Status {
  OK = 200,
}

createServer((req: IncomingMessage, res: ServerResponse): void => {
  res.writeHead(Status.OK).end(`${process.pid}`);
}).listen(Number(process.env.PORT));
