/** The other processes of integration/messages.test.ts, by role. */
import type { RuntimeConnection } from '../../host/connection/connection.js';
import { Runtime, type RuntimeOptions } from '../../host/runtime/runtime.js';
import { serveFar } from '../support/far.js';
import { play, roleOptions, serve, tell } from '../support/process.js';
import { only } from '../support/regions.js';

await play({
  async far() {
    await serveFar(await Runtime.create(roleOptions<RuntimeOptions>()));
  },

  /** Takes one record after the other, with a little time between them, and does nothing else meanwhile. */
  async bits() {
    const runtime = await Runtime.create(roleOptions<RuntimeOptions>());
    let connection: RuntimeConnection | undefined;
    const { port } = await runtime.listen({}, async (one) => {
      connection = one as RuntimeConnection;
      await one.closed;
    });
    serve({
      port: () => port,
      take(bytes: number) {
        const { core, index } = connection as RuntimeConnection;
        // The receive mode is copy until then: no other code of this process polls meanwhile.
        core.call.disarm(index);
        core.call.setReceiveMode(index, core.layout.RECEIVE_MODE_COPY);
        const end = performance.now() + 30_000;
        let taken = 0;
        while (taken < bytes && performance.now() < end) {
          if (core.call.peekSpin(index, 20_000) <= 0) continue;
          taken += core.words[core.layout.RESULT_LENGTH >> 2] as number;
          core.call.release(index);
          // So that the sender has to wait for each record, and never in vain.
          for (const next = performance.now() + 0.002; performance.now() < next; );
        }
        core.call.setReceiveMode(index, 0);
        return taken;
      },
    });
  },

  /** Connects, releases the event loop, and ends. */
  async unreferenced() {
    const { port, regions, hold } = roleOptions<{ port: number; regions: string; hold: boolean }>();
    const runtime = await Runtime.create(only(regions));
    const connection = await runtime.connect(`127.0.0.1:${port}`);
    const listening = await runtime.listen({}, () => {});
    if (!hold) connection.unref();
    listening.unref();
    tell('connected', connection.plugin);
    process.on('exit', () => tell('end'));
    connection.receive().catch(() => {});
  },

  /** A program as in the documentation: closes its runtime and does nothing else to end. */
  async program() {
    const { port, regions } = roleOptions<{ port: number; regions: string }>();
    const runtime = await Runtime.create(only(regions));
    await runtime.listen({}, () => {});
    const connection = await runtime.connect(`127.0.0.1:${port}`);
    await connection.send('hello');
    await runtime.close();
    tell('closed', { state: connection.state, resources: process.getActiveResourcesInfo() });
  },
});
