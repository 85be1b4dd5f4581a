/**
 * Runtimes that meet over plugin `shm`: processes by role, or a worker thread that connects, reports, and ends on
 * request.
 */
import { closeSync, existsSync, openSync, unlinkSync } from 'node:fs';
import { setTimeout as pause } from 'node:timers/promises';
import { isMainThread, parentPort, workerData } from 'node:worker_threads';
import { Runtime, type RuntimeOptions } from '../../host/runtime/runtime.js';
import { echo, type Met, meet, ping } from '../support/meeting.js';
import { play, roleOptions, serve, tell } from '../support/process.js';
import { seeded } from '../support/seeded.js';

/** Connect and close again and again, at random times. */
async function churn(options: RuntimeOptions, rounds: number, seed: number): Promise<string[]> {
  const random = seeded(seed);
  const odd: string[] = [];
  for (let round = 0; round < rounds; round++) {
    await pause(random(20));
    const { plugin, why } = await meet(options);
    if (plugin !== 'shm') odd.push(`round ${round}: ${plugin}, ${why}`);
  }
  return odd;
}

const roles = {
  /** Listens, and connects when asked to. */
  async peer() {
    const runtime = await Runtime.create(roleOptions<RuntimeOptions>());
    const { port } = await runtime.listen({}, echo);
    serve({
      async connect(to: number): Promise<Met> {
        const connection = await runtime.connect({ host: '127.0.0.1', port: to });
        await ping(connection);
        return { plugin: connection.plugin, why: connection.why };
      },
      regions: () => runtime.regions(),
      pid: () => process.pid,
      close: () => runtime.close(),
      end() {
        setImmediate(() => process.exit(0));
      },
    });
    tell('ready', port);
  },

  async churn() {
    const { options, rounds, seed } = roleOptions<{ options: RuntimeOptions; rounds: number; seed: number }>();
    serve({});
    tell('going');
    tell('done', await churn(options, rounds, seed));
  },

  /** Of another user: takes names and gives them back, at random. */
  async squat() {
    const { paths, seed } = roleOptions<{ paths: readonly string[]; seed: number }>();
    const random = seeded(seed);
    serve({});
    tell('going');
    for (;;) {
      const path = paths[random(paths.length)] as string;
      try {
        if (random(2) === 0) closeSync(openSync(path, 'wx'));
        else unlinkSync(path);
      } catch {
        // It is there already, or is not, or belongs to the other user.
      }
      await pause(random(8));
    }
  },

  /** Without room for a region. */
  async full() {
    const { options, path } = roleOptions<{ options: RuntimeOptions; path: string }>();
    const first = await meet(options);
    const again = await meet(options);
    console.log(JSON.stringify({ first, again, left: existsSync(path) }));
  },
};

async function thread(): Promise<void> {
  const { options, port } = workerData as { options: RuntimeOptions; port: number };
  const runtime = await Runtime.create(options);
  const connection = await runtime.connect({ host: '127.0.0.1', port });
  await ping(connection);
  parentPort?.postMessage({ plugin: connection.plugin, slot: runtime.regions()[0]?.slot });
  parentPort?.once('message', (how: 'end' | 'exit') => {
    if (how === 'exit') process.exit();
    void runtime.close().then(() => parentPort?.unref());
  });
}

if (isMainThread) await play(roles);
else await thread();
