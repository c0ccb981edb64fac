import Fastify from 'fastify';

const fastify = Fastify({ logger: true });

fastify.get('/', async () => `${process.pid}`);

await fastify.listen({ port: process.env.PORT, host: process.env.HOST });
