/** Processes whose use of a processor integration/waiting.test.ts measures, by role. */
import { once } from 'node:events';
import { createServer } from 'node:net';
import { Runtime, type RuntimeOptions } from '../../host/runtime/runtime.js';
import { play, roleOptions, serve, tell } from '../support/process.js';

await play({
  /** Echoes, and otherwise has nothing to do. */
  async idle() {
    const runtime = await Runtime.create(roleOptions<RuntimeOptions>());
    const { port } = await runtime.listen({}, async (connection) => {
      for await (const { data } of connection) await connection.send(data);
    });
    serve({});
    tell('ready', port);
  },

  /** Cost of a bare timer on this machine at this moment. */
  async bare() {
    serve({});
    setInterval(() => {}, 10);
    tell('ready');
  },

  /** Polls without a pause, and has timers and sockets to serve besides. */
  async spin() {
    const { port, options, seconds } = roleOptions<{ port: number; options: RuntimeOptions; seconds: number }>();
    const runtime = await Runtime.create(options);
    const connection = await runtime.connect({ host: '127.0.0.1', port });
    const server = createServer((socket) => socket.pipe(socket));
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const address = server.address();
    serve({});
    let ticks = 0;
    const interval = setInterval(() => ticks++, 10);
    tell('spinning', { echo: typeof address === 'object' ? address?.port : 0, plugin: connection.plugin });
    const target = new Uint8Array(100);
    let rounds = 0;
    let received = 0;
    for (const end = performance.now() + seconds * 1000; performance.now() < end; ) {
      connection.trySend('x');
      for (let i = 0; i < 1000; i++) {
        if (connection.tryReceiveInto(target) >= 0) received++;
        runtime.progress();
      }
      await runtime.turn();
      rounds++;
    }
    clearInterval(interval);
    tell('done', { ticks, rounds, received });
  },
});
