/**
 * Processes and threads that take part in migrations over a broker, by role: with stand-ins for runtimes, or a real
 * one.
 */
import { once } from 'node:events';
import { setTimeout as pause } from 'node:timers/promises';
import { parentPort, Worker } from 'node:worker_threads';
import type { Connection } from '../../host/api/connection.js';
import type { Membership } from '../../host/control/mqtt.js';
import { Runtime, type RuntimeOptions } from '../../host/runtime/runtime.js';
import { participants, type Scene, standIns } from '../support/participants.js';
import { play, roleOptions, serve, tell } from '../support/process.js';
import { StandIn } from '../support/standin.js';

await play({
  process: standIns,

  /** A runtime as an application has it. */
  async runtime() {
    const runtime = await Runtime.create(roleOptions<RuntimeOptions>());
    let connection: Connection;
    const received: number[] = [];
    const { port } = await runtime.listen({}, async (come) => {
      for await (const message of come) received.push(message.data[0] as number);
    });
    serve({
      port: () => port,
      async connect(to: number) {
        connection = await runtime.connect({ host: '127.0.0.1', port: to });
        return connection.plugin;
      },
      /** Messages that are sent while it is suspended wait. */
      send(from: number, to: number) {
        for (let i = from; i < to; i++) void connection.send(new Uint8Array([i]));
      },
      received: () => received,
      complete: () => runtime.completeMigration(),
      close: () => runtime.close(),
    });
    tell('ready');
  },

  /** Two worker threads with a stand-in each; the main thread takes part when asked to. */
  async threads() {
    const scene = roleOptions<Scene>();
    const states = ['', '', ''];
    const workers = [1, 2].map((i) => {
      const worker = new Worker(new URL(import.meta.url), { argv: ['role:thread', JSON.stringify(scene)] });
      worker.on('message', (state: string) => {
        states[i] = state;
      });
      return worker;
    });
    let member: Membership | undefined;
    serve({
      states: () => states,
      join() {
        const runtime = new StandIn();
        runtime.onMigration((state) => {
          states[0] = state;
        });
        [member] = participants([runtime], scene, []);
      },
      leave: () => member?.leave(),
      terminate: (i: number) => workers[i - 1]?.terminate(),
      /** In order. */
      async end(i: number) {
        workers[i - 1]?.postMessage('leave');
        await once(workers[i - 1] as Worker, 'exit');
      },
    });
    await Promise.all(workers.map((worker) => once(worker, 'message')));
    tell('ready');
  },

  async thread() {
    const runtime = new StandIn();
    runtime.onMigration((state) => parentPort?.postMessage(state));
    const [member] = participants([runtime], roleOptions<Scene>(), []);
    parentPort?.postMessage('inactive');
    parentPort?.on('message', async () => {
      await member?.leave();
      parentPort?.close();
    });
  },

  /** Has nothing else that keeps it alive. */
  async leaver() {
    participants([new StandIn()], roleOptions<Scene>(), []);
    await pause(500);
    tell('made');
  },
});
