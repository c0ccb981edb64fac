import { createServer } from 'node:http';
import getPort from 'get-port';

const port = await getPort({ port: Number(process.env.PORT), host: '::' });
createServer((req, res) => res.end(`${process.pid}`)).listen(port, () => console.log(`listening on ${port}`));
