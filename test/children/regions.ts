/**
 * Processes that attach to a region, or fill a file system, by role; and worker threads that attach in the same
 * instant.
 */
import { existsSync, openSync } from 'node:fs';
import { isMainThread, parentPort, workerData } from 'node:worker_threads';
import { IsthmusError } from '../../host/base/errors.js';
import { Core } from '../../host/core/core.js';
import { createPosix } from '../../host/device/posix.js';
import { addon } from '../../host/native/native.js';
import { Runtime } from '../../host/runtime/runtime.js';
import { play, roleOptions, serve, tell } from '../support/process.js';
import { MIB, only } from '../support/regions.js';

const code = (error: unknown) => (error instanceof IsthmusError ? error.code : String(error));

const roles = {
  /** Attaches at a given moment. */
  async attach() {
    const { path, at } = roleOptions<{ path: string; at: number }>();
    // All slow steps are done before the moment comes.
    await (await Runtime.create(only(''))).close();
    while (Date.now() < at) {}
    try {
      const runtime = await Runtime.create(only(path));
      const [region] = runtime.regions();
      serve({ close: () => runtime.close() });
      tell('attached', { uuid: region?.uuid, slot: region?.slot });
    } catch (error) {
      serve({});
      tell('attached', { error: `${code(error)}: ${(error as Error).message}` });
    }
  },

  /** Maps a file, and nothing else. */
  hold() {
    const { path } = roleOptions<{ path: string }>();
    const { memory, layout } = new Core(MIB);
    addon().map(memory.buffer, layout.WINDOW, MIB, openSync(path, 'r'), 0, { readOnly: true });
    serve({});
    tell('held', true);
  },

  /** Creates a file of 16 MiB, or attaches to one, where there is no room. */
  async full() {
    const { path, create } = roleOptions<{ path: string; create: boolean }>();
    let error: unknown;
    try {
      if (create) createPosix(path, 16 * MIB);
      else await Runtime.create(only(path));
    } catch (thrown) {
      error = thrown;
    }
    const { message, needed, available, errno } = error as IsthmusError;
    console.log(JSON.stringify({ code: code(error), message, needed, available, errno, left: existsSync(path) }));
  },
};

/** In a worker: attach to each file in the same instant as the other workers. */
async function formatTogether(): Promise<void> {
  const { paths, start, count } = workerData as { paths: string[]; start: SharedArrayBuffer; count: number };
  const arrived = new Int32Array(start);
  const uuids: string[] = [];
  for (const [round, path] of paths.entries()) {
    if (Atomics.add(arrived, round, 1) === count - 1) Atomics.notify(arrived, round);
    // The last worker arrives as the highest number: no other is waiting.
    for (let seen = Atomics.load(arrived, round); seen < count; seen = Atomics.load(arrived, round)) {
      Atomics.wait(arrived, round, seen, 1000);
    }
    try {
      const runtime = await Runtime.create(only(path));
      uuids.push(runtime.regions()[0]?.uuid ?? 'none');
      await runtime.close();
    } catch (error) {
      uuids.push(`${code(error)}: ${(error as Error).message}`);
    }
  }
  parentPort?.postMessage(uuids);
}

if (isMainThread) await play(roles);
else await formatTogether();
