/** Nothing leaks: descriptors, frames, slots, timers, after many connections. */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { setTimeout as pause } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { test as register } from 'uvu';
import * as assert from 'uvu/assert';
import type { Connection } from '../../host/api/connection.js';
import { ReadOnlyRegion } from '../../host/region/read-only-region.js';
import { Runtime, type RuntimeOptions } from '../../host/runtime/runtime.js';
import { eventually } from '../support/outcomes.js';
import { Child, chosen, endChildren, play, program, role, roleOptions, serve, tell } from '../support/process.js';
import { newRegion, newShm, only, onlyShm, removeRegions } from '../support/regions.js';
import { timebox } from '../support/timebox.js';

const test = chosen(register);

/** Resources that this process holds. */
function holdings(runtime: Runtime): Record<string, unknown> {
  const resources: Record<string, number> = {};
  for (const resource of process.getActiveResourcesInfo()) {
    // These come and go by themselves.
    if (resource === 'Timeout' || resource === 'Immediate') continue;
    resources[resource] = (resources[resource] ?? 0) + 1;
  }
  return {
    descriptors: readdirSync('/proc/self/fd').length,
    frames: runtime.regions().map(({ freeFrames }) => freeFrames),
    connections: runtime.connections().length,
    resources,
  };
}

/** What this process has open, by kind. */
function openByKind(): Record<string, number> {
  const kinds: Record<string, number> = {};
  for (const fd of readdirSync('/proc/self/fd')) {
    try {
      const link = readlinkSync(`/proc/self/fd/${fd}`);
      const kind = link.startsWith('/dev/shm/isthmus-bell-') ? 'doorbell' : link.replace(/:\[\d+\]$/, '');
      kinds[kind] = (kinds[kind] ?? 0) + 1;
    } catch {
      // The descriptor of the folder itself.
    }
  }
  return Object.fromEntries(Object.entries(kinds).sort());
}

/** A worker thread with a runtime of its own, connected to the port over `shm`. */
async function startWorker(options: RuntimeOptions, port: number, trackUnmanagedFds: boolean) {
  const worker = new Worker(program('shm'), { workerData: { options, port }, trackUnmanagedFds, stderr: true });
  let text = '';
  worker.stderr.setEncoding('utf8').on('data', (more: string) => {
    text += more;
  });
  const ended = new Promise((resolve) => worker.once('exit', resolve));
  const { plugin } = await new Promise<{ plugin: string }>((resolve, reject) => {
    worker.once('message', resolve).once('error', reject);
  });
  assert.is(plugin, 'shm');
  return { worker, ended, said: () => text };
}

async function echo(connection: Connection): Promise<void> {
  for await (const { data } of connection) await connection.send(data);
}

const roles: Record<string, () => Promise<void>> = {
  async server() {
    const runtime = await Runtime.create(roleOptions<RuntimeOptions>());
    const { port } = await runtime.listen({}, async (connection) => {
      const message = await connection.receive();
      if (message?.text() === 'close') await connection.close();
      else if (message?.text() === 'destroy') connection.destroy();
      else if (message) {
        await connection.send(message.data);
        await echo(connection);
      }
    });
    serve({ port: () => port, holdings: () => holdings(runtime), regions: () => runtime.regions() });
  },

  /** Connects and closes many times, closes its runtime, and has nothing left to do. */
  async client() {
    const { port, options } = roleOptions<{ port: number; options: RuntimeOptions }>();
    const runtime = await Runtime.create(options);
    const listening = await runtime.listen({}, echo);
    for (let i = 0; i < 20; i++) {
      const connection = await runtime.connect({ host: '127.0.0.1', port: i % 5 === 4 ? listening.port : port });
      await connection.send('x');
      await connection.receive();
      if (i % 3 === 0) connection.destroy();
      else if (i % 3 === 1) await connection.close();
    }
    await runtime.close();
    tell('closed', { resources: process.getActiveResourcesInfo() });
  },
};

async function settled(get: () => unknown, wanted: unknown): Promise<void> {
  for (let tries = 0; ; tries++) {
    const got = await get();
    try {
      assert.equal(got, wanted);
      return;
    } catch (error) {
      if (tries === 200) throw error;
      await pause(20);
    }
  }
}

function main(): void {
  for (const plugin of ['ivshmem', 'tcp']) {
    const options = () => only(plugin === 'tcp' ? '' : newRegion(), { tcpRingSize: 16_384 });

    test(
      `${plugin}: 200 connections, one after the other, leave nothing`,
      timebox(60, async () => {
        const both = options();
        const child = Child.start(import.meta.url, 'server', both);
        const port = await child.call<number>('port');
        const runtime = await Runtime.create(both);
        const cycle = async (i: number) => {
          const connection = await runtime.connect({ host: '127.0.0.1', port });
          assert.is(connection.plugin, plugin);
          const how = i % 5;
          if (how === 0) {
            await connection.send('close');
            assert.is(await connection.receive(), undefined);
          } else if (how === 1) {
            await connection.send('destroy');
            await connection.receive().catch(() => {});
          } else if (how === 2) {
            connection.destroy();
          } else {
            await connection.send('x'.repeat(i));
            assert.is((await connection.receive())?.data.length, i);
            if (how === 3) await connection.close();
            else connection.destroy();
          }
          await connection.closed;
        };
        // Created with the first use, and kept.
        for (let i = 0; i < 5; i++) await cycle(i);
        await pause(200);
        const [mine, its] = [holdings(runtime), await child.call('holdings')];
        assert.is(mine['connections'], 0);
        for (let i = 0; i < 200; i++) await cycle(i);
        await settled(() => holdings(runtime), mine);
        await settled(() => child.call('holdings'), its);
        await runtime.close();
        if (plugin === 'ivshmem') {
          const next = await Runtime.create(both);
          assert.is(next.regions()[0]?.slot, 1);
          await next.close();
        }
        await child.kill();
      }),
    );

    test(
      `${plugin}: a process that has closed its runtime ends by itself`,
      timebox(30, async () => {
        const both = options();
        const child = Child.start(import.meta.url, 'server', both);
        const port = await child.call<number>('port');
        const client = Child.start(import.meta.url, 'client', { port, options: both });
        await client.event('closed');
        assert.equal(await client.ended(10), { code: 0, signal: null });
        await child.kill();
      }),
    );
  }

  test(
    'runtimes, one after the other, leave nothing',
    timebox(60, async () => {
      const path = newRegion();
      const once = async () => {
        const [a, b] = [await Runtime.create(only(path)), await Runtime.create(only(path))];
        const { port } = await b.listen({}, echo);
        const connection = await a.connect({ host: '127.0.0.1', port });
        await connection.send('x');
        await connection.receive();
        assert.equal([a.regions()[0]?.slot, b.regions()[0]?.slot], [0, 1]);
        await Promise.all([a.close(), b.close()]);
      };
      const mapped = () =>
        readFileSync('/proc/self/maps', 'utf8')
          .split('\n')
          .filter((line) => line.includes(path)).length;
      await once();
      await pause(100);
      const descriptors = readdirSync('/proc/self/fd').length;
      assert.is(mapped(), 0);
      for (let i = 0; i < 20; i++) await once();
      await settled(() => readdirSync('/proc/self/fd').length, descriptors);
      assert.is(mapped(), 0);
    }),
  );

  for (const how of ['end', 'exit', 'terminate'] as const) {
    test(
      `worker threads that ${how}: descriptors and frames are back, their slots are free, and nothing is printed`,
      timebox(120, async () => {
        const { shmName, path } = newShm();
        const options = onlyShm(shmName);
        const runtime = await Runtime.create(options);
        const { port } = await runtime.listen({}, echo);
        // One that stays: it proves that the others have died.
        const first = await startWorker(options, port, true);
        const table = ReadOnlyRegion.ofFile(path);
        const slots = () => {
          table.refresh();
          return table.peers().length;
        };
        assert.is(slots(), 2);
        const now = () => JSON.stringify([openByKind(), runtime.regions()[0]?.freeFrames]);
        let before: string | undefined;
        // The first round: what is made when it is first needed.
        for (const trackUnmanagedFds of [true, true, false]) {
          const workers = await Promise.all(
            Array.from({ length: 5 }, () => startWorker(options, port, trackUnmanagedFds)),
          );
          assert.is(slots(), 7);
          await Promise.all(
            workers.map(async ({ worker, ended }) => {
              if (how === 'terminate') await worker.terminate();
              else worker.postMessage(how);
              await ended;
            }),
          );
          for (const { said } of workers) assert.is(said(), '');
          await eventually('free slots', () => slots() === 2);
          if (before === undefined) await pause(500);
          before ??= now();
          await settled(now, before);
        }
        first.worker.postMessage('end');
        await first.ended;
        table.close();
        await runtime.close();
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
else main();
