/**
 * A stranger's program beside the tests, for scripts/repeat.mjs: runtimes of the same user with the options that they have
 * by default, which come, exchange messages, and go, until the standard input of this process ends.
 */
import { setTimeout as pause } from 'node:timers/promises';
import { Runtime } from '../../dist/index.js';

const echo = async (connection) => {
  try {
    for await (const { data } of connection) await connection.send(data);
  } catch {
    // The other end has gone.
  }
};

let over = false;
process.stdin
  .on('end', () => {
    over = true;
  })
  .resume();

while (!over) {
  const [server, client] = await Promise.all([Runtime.create({ debug: 0 }), Runtime.create({ debug: 0 })]);
  try {
    const { port } = await server.listen({ host: '127.0.0.1' }, echo);
    const connection = await client.connect({ host: '127.0.0.1', port });
    for (let i = 0; i < 20 && !over; i++) {
      await connection.send(Buffer.alloc(1000));
      await connection.receive();
      await pause(20);
    }
  } catch (error) {
    console.error(`the stranger: ${error.message}`);
  } finally {
    await Promise.allSettled([client.close({ timeout: 500 }), server.close({ timeout: 500 })]);
  }
  if (!over) await pause(200);
}
