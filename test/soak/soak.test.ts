/**
 * Long runs: connections that are opened and closed, and full load. The resources of the two processes, sampled at
 * quiet moments, stay constant: memory, address space, descriptors, timers, frames. `npm run test:soak` takes hours;
 * ISTHMUS_SOAK_CYCLES: connections that are opened and closed (default 600), ISTHMUS_SOAK_MINUTES: full load (0.5).
 */
import { readdirSync, readFileSync } from 'node:fs';
import { setTimeout as pause } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { test as register } from 'uvu';
import * as assert from 'uvu/assert';
import type { Connection } from '../../host/api/connection.js';
import { Runtime, type RuntimeOptions } from '../../host/runtime/runtime.js';
import { dataOf } from '../support/conformance.js';
import { Child, chosen, endChildren, play, role, roleOptions, serve } from '../support/process.js';
import { MIB, newRegion, newShm, only, onlyShm, removeRegions } from '../support/regions.js';
import { seeded, testSeed } from '../support/seeded.js';
import { timebox } from '../support/timebox.js';

const test = chosen(register);
const seed = testSeed();
const CYCLES = Number(process.env['ISTHMUS_SOAK_CYCLES'] ?? 600);
const MINUTES = Number(process.env['ISTHMUS_SOAK_MINUTES'] ?? 0.5);
/** How often resources are sampled. */
const SAMPLES = 24;
/** Seconds of a test besides load: to start, and to sample. */
const START = 120;

// ── Resources of a process ───────────────────────────────────────────────────────────────────────────────────────────

/** Values in bytes, or counts. */
type Sample = Readonly<Record<'memory' | 'heap' | 'buffers' | 'space' | 'descriptors' | 'waiting' | 'frames', number>>;

/**
 * How much more the last third of the samples may have than the one before. A core that was released exists until it is
 * collected: its memory of 17 MiB, and 10 GiB of addresses that V8 reserves for it.
 */
const SLACK: Sample = {
  memory: 24 * MIB,
  heap: 4 * MIB,
  buffers: 40 * MIB,
  space: 21 * 1024 * MIB,
  descriptors: 2,
  waiting: 2,
  frames: 0,
};

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;

async function sample(runtime: Runtime): Promise<Sample> {
  // Upkeep finds frames that a peer has released, twice a second.
  for (let i = 0; i < 3; i++) {
    collect();
    await pause(200);
  }
  const { rss, heapUsed, external, arrayBuffers } = process.memoryUsage();
  const status = readFileSync('/proc/self/status', 'utf8');
  return {
    memory: rss,
    heap: heapUsed,
    buffers: external + arrayBuffers,
    space: Number(/^VmSize:\s+(\d+) kB$/m.exec(status)?.[1]) * 1024,
    descriptors: readdirSync('/proc/self/fd').length,
    waiting: process.getActiveResourcesInfo().length,
    frames: -runtime.regions().reduce((sum, region) => sum + region.freeFrames, 0),
  };
}

/** No resource grows. */
function assertFlat(name: string, samples: readonly Sample[]): void {
  const third = Math.floor(samples.length / 3);
  const most = (part: readonly Sample[], what: keyof Sample) => Math.max(...part.map((one) => one[what]));
  for (const what of Object.keys(SLACK) as (keyof Sample)[]) {
    const before = most(samples.slice(third, 2 * third), what);
    const after = most(samples.slice(2 * third), what);
    const unit = SLACK[what] >= MIB ? MIB : 1;
    const shown = [samples[0]?.[what] ?? 0, before, after].map((value) => (value / unit).toFixed(unit === 1 ? 0 : 1));
    console.log(`  ${name.padEnd(22)} ${what.padEnd(12)} ${shown.join(' → ')}${unit === 1 ? '' : ' MiB'}`);
    assert.ok(after <= before + SLACK[what], `${name}: ${what} has grown from ${before} to ${after}`);
  }
}

// ── Two processes ────────────────────────────────────────────────────────────────────────────────────────────────────

/** Echoes messages: as a loan, as they are, or in place. */
async function echo(connection: Connection): Promise<void> {
  for (let number = 0; ; number++) {
    using message = await connection.borrow();
    if (!message) return;
    const { length } = message.data;
    if (number % 3 === 0) {
      const loan = await connection.loan(length);
      loan.data.set(message.data);
      message.release();
      await connection.send(loan);
    } else {
      const copy = message.data.slice();
      message.release();
      await connection.send(copy);
    }
  }
}

const roles: Record<string, () => Promise<void>> = {
  async far() {
    const runtime = await Runtime.create(roleOptions<RuntimeOptions>());
    const { port } = await runtime.listen({}, echo);
    serve({ port: () => port, open: () => runtime.connections().length, sample: () => sample(runtime) });
  },
};

interface Pair {
  readonly plugin: string;
  readonly runtime: Runtime;
  readonly child: Child;
  readonly port: number;
}

const pairs: Pair[] = [];

async function start(): Promise<void> {
  const options: Record<string, RuntimeOptions> = {
    shm: onlyShm(newShm().shmName, { shmSize: 16 * MIB }),
    ivshmem: only(newRegion(16 * MIB)),
    tcp: only(''),
  };
  for (const [plugin, common] of Object.entries(options)) {
    const more = { ...common, rendezvousShm: 100_000, rendezvousIvshmem: 100_000 };
    const child = Child.start(import.meta.url, 'far', more);
    const runtime = await Runtime.create(more);
    pairs.push({ plugin, runtime, child, port: await child.call<number>('port') });
  }
}

/** Sample both ends at a quiet moment. */
async function look(into: Map<string, Sample[]>): Promise<void> {
  const put = (name: string, one: Sample) => into.set(name, [...(into.get(name) ?? []), one]);
  await Promise.all(
    pairs.map(async ({ plugin, runtime, child }) => {
      while ((await child.call<number>('open')) > 0) await pause(2);
      const [near, far] = await Promise.all([sample(runtime), child.call<Sample>('sample')]);
      put(`${plugin}, connecting end`, near);
      put(`${plugin}, listening end`, far);
    }),
  );
}

async function connect({ plugin, runtime, port }: Pair): Promise<Connection> {
  const connection = await runtime.connect({ host: '127.0.0.1', port });
  assert.is(connection.plugin, plugin);
  return connection;
}

/** One message there and back. */
async function exchange(connection: Connection, number: number, length: number): Promise<void> {
  const data = dataOf(seed, number, length);
  const sent = connection.send(data);
  const message = await connection.receive();
  await sent;
  assert.ok(message && Buffer.compare(message.data, data) === 0, `message ${number} of ${length} bytes`);
}

async function main(): Promise<void> {
  test(
    `${CYCLES} connections, opened and closed`,
    timebox(START + CYCLES / 4, async () => {
      await start();
      const random = seeded(seed);
      const samples = new Map<string, Sample[]>();
      const lengths = [0, 8, 300, 20_000, 150_000, 400_000];
      for (let cycle = 0; cycle < CYCLES; cycle++) {
        const connection = await connect(pairs[cycle % pairs.length] as Pair);
        for (let i = 0; i <= cycle % 4; i++) {
          await exchange(connection, i, lengths[random(lengths.length)] as number);
        }
        const exposure = connection.expose(new Uint8Array(100));
        if (cycle % 2) exposure.withdraw();
        if (cycle % 5 === 0) connection.destroy();
        else await connection.close();
        if ((cycle + 1) % Math.ceil(CYCLES / SAMPLES) === 0) await look(samples);
      }
      for (const [name, taken] of samples) assertFlat(name, taken);
    }),
  );

  test(
    `full load for ${MINUTES} minutes`,
    timebox(START + MINUTES * 90, async () => {
      const samples = new Map<string, Sample[]>();
      let messages = 0;
      let bytes = 0;
      const slice = (MINUTES * 60_000) / SAMPLES;
      for (let round = 0; round < SAMPLES; round++) {
        const end = performance.now() + slice;
        const flows = pairs.map(async (pair, which) => {
          const random = seeded(seed + round * 8 + which);
          const connection = await connect(pair);
          for (let number = 0; performance.now() < end; number++) {
            const kind = random(100);
            const length = kind < 60 ? random(200) : kind < 95 ? random(50_000) : random(600_000);
            await exchange(connection, number, length);
            messages++;
            bytes += length;
          }
          await connection.close();
        });
        await Promise.all(flows);
        await look(samples);
      }
      console.log(`  ${messages} messages there and back, ${(bytes / MIB).toFixed(0)} MiB`);
      for (const [name, taken] of samples) assertFlat(name, taken);
    }),
  );

  register.after(async () => {
    await Promise.all(pairs.map(({ runtime }) => runtime.close({ timeout: 500 })));
    await endChildren();
    removeRegions();
  });
  register.run();
}

if (role) await play(roles);
else await main();
