/** Many connections in one process. ISTHMUS_TEST_CONNECTIONS: how many, default 1000. */
import { setTimeout as pause } from 'node:timers/promises';
import { test as register } from 'uvu';
import * as assert from 'uvu/assert';
import type { Connection } from '../../host/api/connection.js';
import { Runtime, type RuntimeOptions } from '../../host/runtime/runtime.js';
import { Child, chosen, endChildren, play, role, roleOptions, serve } from '../support/process.js';
import { newRegion, only, removeRegions } from '../support/regions.js';
import { timebox } from '../support/timebox.js';

const test = chosen(register);
const COUNT = Number(process.env['ISTHMUS_TEST_CONNECTIONS'] ?? 1000);
/** Below the number of handshakes that a listener accepts at once. */
const AT_ONCE = 32;

const roles: Record<string, () => Promise<void>> = {
  async echo() {
    const runtime = await Runtime.create(roleOptions<RuntimeOptions>());
    const { port } = await runtime.listen({}, async (connection) => {
      for await (const { data, xheader } of connection) await connection.send(data, { xheader });
    });
    serve({ port: () => port, open: () => runtime.connections().length });
  },
};

async function main(): Promise<void> {
  for (const plugin of ['ivshmem', 'tcp'] as const) {
    test(
      `${plugin}: ${COUNT} connections, all of them used at once`,
      timebox(150, async () => {
        const options = only(plugin === 'tcp' ? '' : newRegion(64 << 20), { ringSize: 4096, tcpRingSize: 4096 });
        const child = Child.start(import.meta.url, 'echo', options);
        const port = await child.call<number>('port');
        const runtime = await Runtime.create(options);
        const connections: Connection[] = [];
        while (connections.length < COUNT) {
          const batch = Array.from({ length: Math.min(AT_ONCE, COUNT - connections.length) }, () =>
            runtime.connect({ host: '127.0.0.1', port }),
          );
          connections.push(...(await Promise.all(batch)));
        }
        for (const connection of connections) assert.is(connection.plugin, plugin);
        for (const length of [1, 100, 10_000]) {
          await Promise.all(
            connections.map(async (connection, i) => {
              const data = Buffer.alloc(length, i % 251);
              await connection.send(data, { xheader: Uint8Array.of(i & 255, i >> 8) });
              const message = await connection.receive();
              assert.is(Buffer.compare(message?.data ?? Buffer.alloc(0), data), 0, `connection ${i}`);
              assert.equal([...(message?.xheader ?? [])], [i & 255, i >> 8]);
            }),
          );
        }
        // From any of the connections.
        const endpoint = runtime.endpoint();
        const last = connections.at(-1) as Connection;
        const received = endpoint.postReceive({});
        await last.send('any');
        assert.is((await received.done).connection, last);
        await runtime.close();
        for (let i = 0; (await child.call<number>('open')) > 0; i++) {
          assert.ok(i < 500, 'all are closed at the other side too');
          await pause(10);
        }
        await child.kill();
      }),
    );
  }

  test.after(async () => {
    await endChildren();
    removeRegions();
  });
  test.run();
}

if (role) await play(roles);
else await main();
