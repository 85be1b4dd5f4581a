/**
 * Peers that die, at any moment and in any way. The other processes and threads are
 * test/children/death.ts.
 *
 * ISTHMUS_TEST_KILLS: how many processes are killed at random moments, default 8.
 */
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { setTimeout as pause } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { test as register } from 'uvu';
import * as assert from 'uvu/assert';
import type { Connection } from '../../host/api/connection.js';
import { IsthmusError } from '../../host/base/errors.js';
import { Runtime, type RuntimeOptions } from '../../host/runtime/runtime.js';
import { checkNumbered, numbered } from '../support/numbered.js';
import { Child, chosen, endChildren, program, type StartOptions } from '../support/process.js';
import { MIB, newRegion, only, removeRegions } from '../support/regions.js';
import { seeded, testSeed } from '../support/seeded.js';
import { timebox } from '../support/timebox.js';

const test = chosen(register);
/** Bytes of the longest message. */
const LONGEST = 60_000;
/** Seconds: the error is to come within one; a machine with other things to do gets more. */
const NEWS = 5;

const turn = () => new Promise<void>((resolve) => setImmediate(resolve));

// ── Helpers ──────────────────────────────────────────────────────────────────────────────────────────────────────────

const runtimes: Runtime[] = [];
async function newRuntime(options: RuntimeOptions): Promise<Runtime> {
  const runtime = await Runtime.create(options);
  runtimes.push(runtime);
  return runtime;
}
async function tidy(): Promise<void> {
  await Promise.all(runtimes.splice(0).map((runtime) => runtime.close({ timeout: 500 })));
  await endChildren();
}

interface Peer {
  readonly child: Child;
  readonly port: number;
  readonly slot: number | undefined;
}

async function start(options: RuntimeOptions, how?: StartOptions): Promise<Peer> {
  const child = Child.start(program('death'), 'peer', options, how);
  return { child, ...(await child.event<{ port: number; slot: number | undefined }>('ready')) };
}

async function open(runtime: Runtime, port: number, what: string): Promise<Connection> {
  const connection = await runtime.connect({ host: '127.0.0.1', port });
  await connection.send(what);
  return connection;
}

async function ping(connection: Connection, text: string): Promise<void> {
  await connection.send(text);
  assert.is((await connection.receive())?.text(), text);
}

const code = (error: unknown) => (error instanceof IsthmusError ? error.code : String(error));

/** Receive numbered messages until the error, which must be ERR_ISTHMUS_PEER_DIED. */
async function receiveAll(connection: Connection): Promise<number> {
  for (let number = 0; ; number++) {
    try {
      const message = await connection.receive();
      if (!message) throw new Error('an orderly end');
      checkNumbered(number, message.data, LONGEST);
    } catch (error) {
      assert.is(code(error), 'ERR_ISTHMUS_PEER_DIED', String(error));
      return number;
    }
  }
}

async function eventually(what: string, condition: () => boolean, seconds = NEWS): Promise<number> {
  const begin = performance.now();
  while (!condition()) {
    if (performance.now() - begin > seconds * 1000) assert.unreachable(`${what}: not within ${seconds} s`);
    await pause(10);
  }
  return performance.now() - begin;
}

const freeFrames = (runtime: Runtime) => runtime.regions()[0]?.freeFrames ?? -1;

/** Everything is as before: frames free, and the slot of the dead process available. */
async function assertRecovered(runtime: Runtime, region: string, frames: number, slot?: number): Promise<void> {
  await eventually(`${frames} free frames again (now ${freeFrames(runtime)})`, () => freeFrames(runtime) === frames);
  if (slot === undefined) return;
  // A newcomer takes the first free slot, which is at most that of the dead process.
  const next = await Runtime.create(only(region));
  const got = next.regions()[0]?.slot ?? -1;
  await next.close();
  assert.ok(got >= 0 && got <= slot, `slot ${got} instead of ${slot}`);
  await eventually('free frames', () => freeFrames(runtime) === frames);
}

function timesMapped(path: string): number {
  return readFileSync('/proc/self/maps', 'utf8')
    .split('\n')
    .filter((line) => line.includes(path)).length;
}

// ── Tests ────────────────────────────────────────────────────────────────────────────────────────────────────────────

function main(seed: number): void {
  for (const plugin of ['ivshmem', 'tcp']) {
    test(
      `${plugin}: messages of a killed peer are delivered, then the error; another connection continues`,
      timebox(40, async () => {
        const region = plugin === 'tcp' ? '' : newRegion();
        const runtime = await newRuntime(only(region));
        const other = await start(only(region));
        const good = await open(runtime, other.port, 'echo');
        await ping(good, 'before');
        const frames = freeFrames(runtime);
        const dying = await start(only(region));
        const bad = await open(runtime, dying.port, 'send 20');
        assert.is(bad.plugin, plugin);
        await dying.child.event('sent');
        if (plugin === 'tcp') await pause(300); // Over a socket, a message is "sent" when the kernel has it.
        const waiting = bad.closed;
        const begin = performance.now();
        await dying.child.kill();
        const closed = await waiting;
        const took = performance.now() - begin;
        assert.is(closed.reason, 'error');
        assert.is(closed.error?.code, 'ERR_ISTHMUS_PEER_DIED');
        assert.ok(took < NEWS * 1000, `${took} ms`);
        console.log(`${plugin}: the error arrived ${took.toFixed(0)} ms after the kill`);
        assert.is(await receiveAll(bad), 20);
        assert.is(await bad.send('x').catch(code), 'ERR_ISTHMUS_PEER_DIED');
        await ping(good, 'after');
        if (plugin === 'ivshmem') await assertRecovered(runtime, region, frames, dying.slot);
        await ping(good, 'at last');
        await tidy();
      }),
    );

    test(
      `${plugin}: killed in the middle of a transfer in both directions`,
      timebox(40, async () => {
        const region = plugin === 'tcp' ? '' : newRegion();
        const runtime = await newRuntime(only(region));
        const frames = freeFrames(runtime);
        const { child, port, slot } = await start(only(region));
        const connections = await Promise.all([1, 2, 3].map(() => open(runtime, port, 'babble')));
        const all = connections.map(async (connection) => {
          const sending = (async () => {
            for (let number = 0; ; number++) await connection.send(numbered(number, LONGEST));
          })().catch(code);
          const received = await receiveAll(connection);
          return { received, sending: await sending };
        });
        await eventually('traffic', () => connections.every((each) => each.stats().messagesReceived > 50), 20);
        // One large message is in transfer that will never be complete.
        await child.kill();
        for (const { received, sending } of await Promise.all(all)) {
          assert.ok(received > 50);
          assert.is(sending, 'ERR_ISTHMUS_PEER_DIED');
        }
        if (plugin === 'ivshmem') await assertRecovered(runtime, region, frames, slot);
        await tidy();
      }),
    );
  }

  const kills = Number(process.env['ISTHMUS_TEST_KILLS'] ?? 8);
  test(
    `killed at random moments, ${kills} times`,
    timebox(60 + kills * 2, async () => {
      const random = seeded(seed);
      const region = newRegion(4 * MIB);
      const options = only(region, { ringSize: 16_384, retry: 0, handshakeTimeout: 5000 });
      const runtime = await newRuntime(options);
      const { port: steady } = await start(options);
      const good = await open(runtime, steady, 'echo');
      const frames = freeFrames(runtime);
      const outcomes = new Map<string, number>();
      // A start takes longer than a death: some processes are started ahead.
      const started = [start(options), start(options), start(options)];
      for (let i = 0; i < kills; i++) {
        const { child, port } = await (started.shift() as Promise<Peer>);
        if (i + 3 < kills) started.push(start(options));
        const delay = random(3) === 0 ? random(4) : random(40);
        const attempts = Array.from({ length: 1 + random(3) }, async () => {
          try {
            const connection = await open(runtime, port, 'babble');
            const sending = (async () => {
              for (let number = 0; ; number++) await connection.send(numbered(number, LONGEST));
            })().catch(code);
            const received = await receiveAll(connection);
            assert.is(await sending, 'ERR_ISTHMUS_PEER_DIED');
            return received === 0 ? 'died before a message' : 'died after some messages';
          } catch (error) {
            if (!(error instanceof IsthmusError)) throw error;
            assert.match(error.code, /^ERR_ISTHMUS_(CONNECT|HANDSHAKE_REFUSED|PEER_DIED)$/);
            return error.code;
          }
        });
        const killed = pause(delay).then(() => child.kill());
        for (const outcome of await Promise.all(attempts)) outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
        await killed;
        await ping(good, `after ${i}`);
      }
      console.log(Object.fromEntries(outcomes));
      await eventually('frames', () => freeFrames(runtime) === frames);
      await tidy();
    }),
  );

  test(
    'a worker thread terminated in the middle of a transfer',
    timebox(40, async () => {
      const region = newRegion();
      const runtime = await newRuntime(only(region));
      const frames = freeFrames(runtime);
      for (let round = 0; round < 3; round++) {
        const worker = new Worker(program('death'), { workerData: only(region) });
        const { port, slot } = await new Promise<{ port: number; slot: number }>((resolve, reject) => {
          worker.once('message', resolve);
          worker.once('error', reject);
        });
        assert.is(timesMapped(region), 2);
        const connection = await open(runtime, port, 'babble');
        assert.is(connection.plugin, 'ivshmem');
        const sending = (async () => {
          for (let number = 0; ; number++) await connection.send(numbered(number, LONGEST));
        })().catch(code);
        const received = receiveAll(connection);
        await eventually('traffic', () => connection.stats().messagesReceived > 50, 20);
        await worker.terminate();
        assert.ok((await received) > 50);
        assert.is(await sending, 'ERR_ISTHMUS_PEER_DIED');
        assert.is(timesMapped(region), 1, 'the region is mapped only by this thread');
        await assertRecovered(runtime, region, frames, slot);
      }
      await tidy();
      assert.is(timesMapped(region), 0);
    }),
  );

  test(
    'a stopped process is not dead',
    timebox(40, async () => {
      const region = newRegion();
      const runtime = await newRuntime(only(region));
      const { child, port } = await start(only(region));
      const connection = await open(runtime, port, 'echo');
      await ping(connection, 'before');
      const frames = freeFrames(runtime);
      child.process.kill('SIGSTOP');
      // Several rounds of the upkeep that detects dead peers.
      await connection.send('are you there?');
      const answer = connection.receive();
      await pause(2500);
      assert.is(connection.state, 'open');
      assert.is(freeFrames(runtime), frames);
      assert.is(
        await Runtime.create(only(region)).then(async (third) => {
          const slot = third.regions()[0]?.slot;
          await third.close();
          return slot;
        }),
        2,
      );
      child.process.kill('SIGCONT');
      assert.is((await answer)?.text(), 'are you there?');
      await ping(connection, 'after');
      // A stopped process that is killed is dead.
      child.process.kill('SIGSTOP');
      await child.kill();
      assert.is((await connection.closed).error?.code, 'ERR_ISTHMUS_PEER_DIED');
      await tidy();
    }),
  );

  const namespaces = ['unshare', '--pid', '--fork', '--kill-child'];
  const allowed = [namespaces, [...namespaces, '--map-root-user']].find(
    ([command, ...args]) => spawnSync(command as string, [...args, 'true']).status === 0,
  );
  (allowed ? test : test.skip)(
    `in different pid namespaces${allowed ? '' : ' (skipped: not allowed to make one)'}`,
    timebox(40, async () => {
      const region = newRegion();
      const under = { under: allowed as string[] };
      const runtime = await newRuntime(only(region));
      const frames = freeFrames(runtime);
      const [one, two] = await Promise.all([start(only(region), under), start(only(region), under)]);
      const connections = await Promise.all([open(runtime, one.port, 'echo'), open(runtime, two.port, 'echo')]);
      for (const connection of connections) {
        assert.is(connection.plugin, 'ivshmem');
        assert.is(connection.peer.pid, 1, 'not in a namespace of its own');
        await ping(connection, 'hello');
      }
      const begin = performance.now();
      await one.child.kill();
      assert.is((await connections[0]?.closed)?.error?.code, 'ERR_ISTHMUS_PEER_DIED');
      assert.ok(performance.now() - begin < NEWS * 1000);
      await ping(connections[1] as Connection, 'still there');
      await connections[1]?.close();
      await assertRecovered(runtime, region, frames, Math.min(one.slot ?? 0));
      await tidy();
    }),
  );

  test(
    'without a guard, a peer closes in order, and one that dies leaves nothing in the region',
    timebox(40, async () => {
      const region = newRegion();
      const options = only(region, { guard: false });
      const runtime = await newRuntime(options);
      const frames = freeFrames(runtime);
      const { child, port, slot } = await start(options);
      const first = await open(runtime, port, 'echo');
      await ping(first, 'hello');
      await first.close();
      assert.equal(await first.closed, { reason: 'local' });
      const second = await open(runtime, port, 'echo');
      await ping(second, 'hello');
      await child.kill();
      await pause(1500);
      // No error was reported: that is the meaning of the setting.
      const state: string = second.state;
      console.log(`a dead peer without a guard: the connection is ${state}`);
      second.destroy();
      await assertRecovered(runtime, region, frames, slot);
      await tidy();
    }),
  );

  test(
    'destroy in the middle of all operations leaves no frames',
    timebox(40, async () => {
      const region = newRegion();
      const runtime = await newRuntime(only(region));
      const frames = freeFrames(runtime);
      const { port } = await start(only(region));
      for (let i = 0; i < 10; i++) {
        const connection = await open(runtime, port, 'babble');
        const sending = (async () => {
          for (let number = 0; ; number++) await connection.send(numbered(number, LONGEST));
        })().catch(code);
        await connection.receive();
        for (let turns = 0; turns < i; turns++) await turn();
        connection.destroy();
        assert.is(await sending, 'ERR_ISTHMUS_CLOSED');
      }
      await eventually('frames', () => freeFrames(runtime) > frames - 200);
      await endChildren();
      await eventually('frames', () => freeFrames(runtime) === frames);
      await tidy();
    }),
  );

  test.after(async () => {
    await tidy();
    removeRegions();
  });
  test.run();
}

main(testSeed());
