import { hostname } from 'node:os';
import { setTimeout as pause } from 'node:timers/promises';
import { test as register } from 'uvu';
import * as assert from 'uvu/assert';
import type { Status } from '../../host/control/payload.js';
import { Watcher } from '../../host/control/watcher.js';
import { Runtime, type RuntimeOptions } from '../../host/runtime/runtime.js';
import type { Manner, Tally, WorkerOptions } from '../children/chaos-worker.js';
import { TestBroker } from '../support/broker.js';
import { type Seat, SimulatedHosts } from '../support/hosts.js';
import { Child, chosen, endChildren, program } from '../support/process.js';
import { seeded, testSeed } from '../support/seeded.js';
import { timebox } from '../support/timebox.js';

const test = chosen(register);
const CYCLES = Number(process.env['ISTHMUS_CHAOS_CYCLES'] ?? 200);
const PROCESSES = Number(process.env['ISTHMUS_CHAOS_PROCESSES'] ?? 8);
const HOSTS = 3;
const REGION = 64 << 20;
/** Limit for one suspension or resume, in milliseconds. */
const SUSPEND = 25_000;
const slowness = Number(process.env['ISTHMUS_TEST_SLOWNESS'] ?? 1);

const MANNERS: readonly Manner[] = ['receive', 'borrow', 'receive', 'poll', 'receive', 'late'];

interface Worker {
  /** The runtimes that are controlled over MQTT. */
  readonly id: string;
  readonly child: Child;
  readonly seat: Seat;
  readonly port: number;
  busy: boolean;
  dead: boolean;
}

async function startAll(hosts: SimulatedHosts, seed: number, more: RuntimeOptions = {}): Promise<Worker[]> {
  const workers = await Promise.all(
    Array.from({ length: PROCESSES }, async (_, me): Promise<Worker> => {
      const seat = hosts.seat(me % HOSTS);
      const id = `${process.pid}-w${me}`;
      const runtime = {
        ...seat.options,
        name: `w${me}`,
        loop: 0,
        ringSize: 65_536,
        rendezvousIvshmem: 200_000,
        debug: Number(process.env['ISTHMUS_CHAOS_DEBUG'] ?? 0),
        debugOut: process.env['ISTHMUS_CHAOS_LOG'] ?? '',
        control: false,
        handshakeTimeout: 60_000,
        suspendTimeout: SUSPEND,
        controlId: id,
        ...more,
      };
      const manner = MANNERS[me % MANNERS.length] as Manner;
      const child = Child.start(program('chaos-worker'), 'worker', {
        runtime,
        me,
        seed,
        manner,
      } satisfies WorkerOptions);
      return { id, child, seat, port: await child.call<number>('port'), busy: false, dead: false };
    }),
  );
  for (const [me, worker] of workers.entries()) {
    for (let other = 0; other < me; other++) await worker.child.call('connect', other, workers[other]?.port);
  }
  for (const { child } of workers) while ((await child.call('connected')) < PROCESSES - 1) await pause(5);
  return workers;
}

/** How suspensions are requested. */
interface Steering {
  suspend(worker: Worker): Promise<void>;
  resume(worker: Worker): Promise<void>;
}

const called: Steering = {
  suspend: (worker) => worker.child.call('suspend'),
  resume: (worker) => worker.child.call('resume'),
};

/** Over MQTT, with a broker that may lose a request: then the request is repeated. */
function steered(watcher: Watcher): Steering {
  const ask = async ({ id }: Worker, kind: 'suspend' | 'resume', until: Status['state']) => {
    const limit = performance.now() + 60_000 * slowness;
    for (let i = 0; watcher.withId(id).at(-1)?.state !== until; i++) {
      if (performance.now() > limit) throw new Error(`${id}: ${kind}: ${JSON.stringify(watcher.withId(id))}`);
      if (i % 100 === 0) await watcher.request(id, kind);
      await pause(20);
    }
  };
  return {
    suspend: (worker) => ask(worker, 'suspend', 'allowed'),
    resume: (worker) => ask(worker, 'resume', 'inactive'),
  };
}

/** Suspend these workers, perhaps move them, and resume them, at the same time. */
async function cycle(
  those: readonly Worker[],
  random: (n: number) => number,
  prefix: string,
  { suspend, resume }: Steering = called,
): Promise<void> {
  await Promise.all(
    those.map(async (worker) => {
      worker.busy = true;
      await pause(random(10));
      await suspend(worker);
      assert.equal(await worker.child.call('holds', prefix), [], 'still held of the device');
      if (random(3) > 0) worker.seat.move(random(8) === 0 ? undefined : random(HOSTS));
      await pause(random(10));
      await resume(worker);
      worker.busy = false;
    }),
  );
}

/** End the traffic, and compare all sent with all received messages. @returns the number of messages */
async function settle(workers: readonly Worker[], dead: ReadonlySet<number>): Promise<number> {
  const alive = [...workers.entries()].filter(([me]) => !dead.has(me));
  for (const [, { child }] of alive) await child.call('stop');
  const all = new Map(
    await Promise.all(
      alive.map(async ([me, { child }]) => {
        const tallies = await child.call<[number, Tally][]>('tallies').catch(async (error: Error) => {
          const looks = await Promise.all(alive.map(([, each]) => each.child.call<string[]>('look')));
          throw new Error(`${error.message}\n${looks.flat().join('\n')}`);
        });
        return [me, new Map(tallies)] as const;
      }),
    ),
  );
  let total = 0;
  for (const [me, tallies] of all) {
    assert.is(tallies.size, PROCESSES - 1);
    for (const [other, mine] of tallies) {
      if (dead.has(other)) {
        assert.ok(mine.error !== null, `${me} has an error for the dead ${other}`);
        continue;
      }
      const theirs = all.get(other)?.get(me) as Tally;
      assert.is(mine.error, null, `${me} with ${other}`);
      assert.is(theirs.received, mine.sent, `from ${me} to ${other}`);
      assert.is(theirs.receivedHash, mine.sentHash, `from ${me} to ${other}`);
      total += mine.sent;
    }
  }
  return total;
}

/** Close all workers, and check that nothing is left of them in the regions and in the processes. */
async function tidy(hosts: SimulatedHosts, workers: readonly Worker[], dead: ReadonlySet<number>): Promise<void> {
  for (const [me, { child }] of workers.entries()) {
    if (!dead.has(me)) assert.equal(await child.call('close'), [], `resources that ${me} keeps`);
  }
  using untouched = await SimulatedHosts.create(1, REGION);
  const fresh = await used(untouched.regions[0] as string);
  for (const path of hosts.regions) assert.equal(await used(path), fresh, path);
}

/** Slots and frames of a region that are not free at this moment. */
async function used(path: string): Promise<{ slots: number; frames: number }> {
  const options = { shm: 0, uio: { sysfs: '/nonexistent', dev: '/nonexistent' }, debug: 0, control: false };
  await using runtime = await Runtime.create({ regions: path, ...options });
  const [snapshot] = runtime.inspect().regions;
  if (!snapshot) throw new Error(`${path} is not attached`);
  return { slots: snapshot.slotsUsed, frames: snapshot.frames - snapshot.freeFrames };
}

async function main(): Promise<void> {
  const seed = testSeed();
  const report = (text: string) => console.log(text);

  test(
    `${PROCESSES} processes on ${HOSTS} hosts, ${CYCLES} suspensions`,
    timebox(800, async () => {
      using hosts = await SimulatedHosts.create(HOSTS, REGION);
      const prefix = (hosts.regions[0] as string).replace(/-region0$/, '');
      const random = seeded(seed);
      const workers = await startAll(hosts, seed);
      const start = performance.now();
      for (let done = 0; done < CYCLES; ) {
        const those = workers.filter(() => random(3) === 0).slice(0, 4);
        await cycle(those, random, prefix);
        done += those.length;
        await pause(random(20));
      }
      const seconds = (performance.now() - start) / 1000;
      const total = await settle(workers, new Set());
      report(`${total} messages, ${CYCLES} suspensions in ${seconds.toFixed(0)} s, none lost`);
      assert.ok(total > CYCLES);
      await tidy(hosts, workers, new Set());
    }),
  );

  test(
    'one worker is killed: its peers get errors, the others lose nothing',
    timebox(300, async () => {
      using hosts = await SimulatedHosts.create(HOSTS, REGION);
      const prefix = (hosts.regions[0] as string).replace(/-region0$/, '');
      const random = seeded(seed + 1);
      // Peers wait this long for a process that dies while suspended.
      const resumeTimeout = 20_000 * slowness;
      const workers = await startAll(hosts, seed + 1, { resumeTimeout });
      const victim = random(PROCESSES);
      const others = workers.filter((_, me) => me !== victim);
      for (let i = 0; i < 4; i++) {
        await cycle(
          others.filter(() => random(3) === 0),
          random,
          prefix,
        );
      }
      // In the middle of a suspension of other workers.
      const those = others.filter(() => random(2) === 0);
      const [going] = [
        cycle(those, random, prefix),
        pause(random(15)).then(() => workers[victim]?.child.kill('SIGKILL')),
      ];
      await going;
      for (let i = 0; i < 4; i++) {
        await cycle(
          others.filter(() => random(3) === 0),
          random,
          prefix,
        );
      }
      const total = await settle(workers, new Set([victim]));
      report(`${total} messages among the others`);
      await tidy(hosts, workers, new Set([victim]));
    }),
  );

  test(
    'requested over MQTT, with a broker that is killed and restarted meanwhile',
    timebox(300, async () => {
      using hosts = await SimulatedHosts.create(HOSTS, REGION);
      const prefix = (hosts.regions[0] as string).replace(/-region0$/, '');
      const random = seeded(seed + 2);
      const broker = await TestBroker.start();
      const workers = await startAll(hosts, seed + 2, { broker: broker.url, suspendResume: true });
      const watcher = await Watcher.open({ broker: broker.url, host: hostname(), log: () => {} });
      let going = true;
      let restarts = 0;
      const restarting = (async () => {
        for (; going; restarts++) {
          // Long enough for the longest pause between two attempts to connect.
          await pause(8000 + random(3000));
          await broker.stop();
          await pause(random(800));
          await broker.start();
        }
      })();
      try {
        const steering = steered(watcher);
        for (let i = 0; i < 6 || restarts < 3; i++) {
          const those = workers.filter(() => random(3) === 0).slice(0, 4);
          await cycle(those, random, prefix, steering);
        }
      } finally {
        going = false;
        await restarting;
      }
      const total = await settle(workers, new Set());
      report(`${total} messages, ${restarts} brokers, none lost`);
      await tidy(hosts, workers, new Set());
      await watcher.close();
      await broker.close();
    }),
  );

  test.after.each(endChildren);
  test.run();
}

await main();
