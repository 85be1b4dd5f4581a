/**
 * A process dies between any two of its steps. A step is a store to shared memory by the core, counted before and
 * after: the core is instrumented (instrument.ts), and at the step of a given number the process sends itself SIGKILL.
 *
 * After each death: committed messages are delivered, then there is an error, in bounded time; the survivor's
 * connection to a third process continues; `isthmus region check` finds the region consistent, at once and at the end;
 * and every frame, run and slot of the dead process is free again.
 *
 * ISTHMUS_CRASH_STEP: stride over the steps of an operation, from a random one on; default 5, 1 for all of them.
 * ISTHMUS_CRASH_KILLS: deaths under full load, default 1000. ISTHMUS_TEST_ONLY: the operations, a regular expression.
 */
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { test as register } from 'uvu';
import * as assert from 'uvu/assert';
import type { Connection } from '../../host/api/connection.js';
import { IsthmusError } from '../../host/base/errors.js';
import type { Finding } from '../../host/region/check/findings.js';
import { verify, verifyOnce } from '../../host/region/check/verification.js';
import { ReadOnlyRegion } from '../../host/region/read-only-region.js';
import { Runtime } from '../../host/runtime/runtime.js';
import type { VictimOptions } from '../children/crash-victim.js';
import { Child, chosen, endChildren, program } from '../support/process.js';
import { newRegion, newShm, onlyShm, removeRegions } from '../support/regions.js';
import { seeded, testSeed } from '../support/seeded.js';
import { timebox } from '../support/timebox.js';
import { instrument } from './instrument.js';
import {
  checkNumbered,
  LOAD,
  MEET,
  meet,
  numbered,
  OPERATIONS,
  type Operation,
  optionsFor,
  REGION,
  UNHEARD,
} from './operations.js';

const test = chosen(register);
const random = seeded(testSeed());
const stride = Number(process.env['ISTHMUS_CRASH_STEP'] ?? 5);
const kills = Number(process.env['ISTHMUS_CRASH_KILLS'] ?? 1000);
const slowness = Number(process.env['ISTHMUS_TEST_SLOWNESS'] ?? 1);
/** Seconds in which every death is detected and everything reclaimed; a busy machine gets more. */
const NEWS = 10 * slowness;
/** Regions, each with a survivor, in which processes die at the same time. */
const LANES = 2;
/** Victims that are started ahead: a start takes longer than a death. */
const AHEAD = 2;
/** An operation is done when it survived to its end this often: its number of steps varies. */
const ENOUGH = 3;

const folder = mkdtempSync(join(tmpdir(), 'isthmus-crash-'));
const core = join(folder, 'core.wasm');
process.on('exit', () => rmSync(folder, { recursive: true, force: true }));
const victim = program('crash-victim');

const code = (error: unknown) => (error instanceof IsthmusError ? error.code : String(error));
const inWords = (findings: readonly Finding[]) =>
  findings.map(({ where, message }) => `${where}: ${message}`).join('\n');

/** Messages of a survivor under load. */
async function babble(connection: Connection): Promise<void> {
  for (let number = 0; ; number++) {
    await connection.send(numbered(number, random(random(8) === 0 ? 150_000 : 30_000)));
  }
}

/** Result of a connection to a victim. */
interface Account {
  readonly connection: Connection;
  received: number;
  readonly end: Promise<string>;
}

/** One region, with a survivor in this process and a third process. */
class Lane {
  readonly #region: string;
  readonly #onlooker: ReadOnlyRegion;
  readonly #runtime: Runtime;
  readonly #port: number;
  readonly #good: Connection;
  readonly #frames: number;
  readonly #runs: number;
  readonly #ahead: Child[] = [];
  #attached = false;
  #operation: Operation | undefined;
  #accounts: Account[] = [];

  static async make(): Promise<Lane> {
    const region = newRegion(REGION);
    const runtime = await Runtime.create(optionsFor(region));
    const third = Child.start(victim, 'third', optionsFor(region));
    const good = await runtime.connect({ host: '127.0.0.1', port: await third.event<number>('ready') });
    let lane: Lane | undefined;
    const { port } = await runtime.listen({}, (connection) => lane?.survive(connection));
    lane = new Lane(region, runtime, port, good);
    await lane.#ping();
    return lane;
  }

  private constructor(region: string, runtime: Runtime, port: number, good: Connection) {
    this.#region = region;
    this.#runtime = runtime;
    this.#port = port;
    this.#good = good;
    this.#onlooker = ReadOnlyRegion.ofFile(region);
    this.#frames = this.#freeFrames();
    this.#runs = this.#look().counts?.runs.total ?? -1;
  }

  async close(): Promise<void> {
    this.#onlooker.close();
    await this.#runtime.close({ timeout: 500 });
  }

  #freeFrames(): number {
    return this.#runtime.regions()[0]?.freeFrames ?? -1;
  }

  async #ping(): Promise<void> {
    const text = String(random(1e9));
    await this.#good.send(text);
    assert.is((await this.#good.receive())?.text(), text, 'the third process answers');
  }

  /** A process whose steps are not counted yet; its successors are being started. */
  async #next(attached: boolean): Promise<Child> {
    if (attached !== this.#attached) await Promise.all(this.#ahead.splice(0).map((child) => child.kill()));
    this.#attached = attached;
    const options: VictimOptions = { options: optionsFor(this.#region), attached, port: this.#port, core };
    while (this.#ahead.length <= AHEAD) this.#ahead.push(Child.start(victim, 'victim', options));
    const child = this.#ahead.shift() as Child;
    await child.event('ready');
    return child;
  }

  /** The survivor's end of a connection to a victim. */
  survive(connection: Connection): Promise<void> {
    const operation = this.#operation;
    const account = { connection, received: 0 };
    const end = (async () => {
      try {
        for (;;) {
          const message = await connection.receive();
          if (!message) {
            await connection.close();
            return 'orderly';
          }
          checkNumbered(account.received++, message.data);
          if (account.received === 1) (operation ? operation.answer : babble)?.(connection).catch(() => {});
        }
      } catch (error) {
        connection.destroy();
        return code(error);
      }
    })();
    this.#accounts.push(Object.assign(account, { end }));
    return end.then(() => {});
  }

  #look(): ReturnType<typeof verifyOnce> {
    this.#onlooker.refresh();
    return verifyOnce(this.#onlooker);
  }

  /**
   * Let a victim die at a step of an operation.
   * @returns the steps of the operation if it survived to its end; then the victim is killed
   */
  async dieAt(operation: Operation, at: number): Promise<number | undefined> {
    const child = await this.#next(operation.before !== undefined);
    const closed = closedOf(child);
    this.#begin(operation);
    const port = await child.call<number>('prepare', operation.name);
    const running = child.call<number>('run', operation.name, at);
    if (operation.busy) {
      await pause(0); // The call is being sent.
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, operation.busy);
    }
    if (operation.dial) {
      await this.#runtime.connect({ host: '127.0.0.1', port }).then(
        (connection) => void this.survive(connection),
        (error) => assert.match(code(error), /^ERR_ISTHMUS_(CONNECT|HANDSHAKE_REFUSED|PEER_DIED)$/),
      );
    }
    const steps = await ofDead(child, running, closed);
    await this.#assertSurvived(child, ['ERR_ISTHMUS_PEER_DIED', ...(operation.ends ?? [])]);
    return steps;
  }

  /** Let a victim die somewhere among its first steps under full load. */
  async dieUnderLoad(steps: number): Promise<void> {
    const child = await this.#next(true);
    const closed = closedOf(child);
    this.#begin(undefined);
    const destroys = random(2) === 0;
    await ofDead(child, child.call('load', 1 + random(steps), random(2 ** 31), destroys), closed);
    // Messages of a destroyed connection need not arrive.
    await this.#assertSurvived(child, ['ERR_ISTHMUS_PEER_DIED', 'orderly'], destroys ? Infinity : LOAD);
  }

  #begin(operation: Operation | undefined): void {
    this.#operation = operation;
    this.#accounts = [];
  }

  /** @param untold how many messages may arrive without having been reported; Infinity: or not arrive */
  async #assertSurvived(child: Child, ends: readonly string[], untold = 1): Promise<void> {
    // At once, before any process has reclaimed anything.
    if (this.#look().findings.some(({ severity }) => severity === 'error')) {
      const { findings } = await verify(this.#onlooker);
      const errors = findings.filter(({ severity }) => severity === 'error');
      assert.is(errors.length, 0, `not consistent:\n${inWords(errors)}`);
    }
    const committed = child.output.length;
    const late = new AbortController();
    const limit = pause(NEWS * 1000, 'no end', { signal: late.signal }).catch(() => 'over');
    // A connection may still be opening here although its other end is gone.
    let received = 0;
    await Promise.race([this.#ping(), limit.then(() => assert.unreachable('the third process does not answer'))]);
    for (const account of this.#accounts) {
      const end = await Promise.race([account.end, limit]);
      const { state, stalled } = account.connection;
      const what = JSON.stringify({ state, stalled, ...account.connection.stats(), received: account.received });
      assert.ok(ends.includes(end), `a connection ended with ${end}: ${what}; there are ${this.#accounts.length}`);
      received += account.received;
    }
    late.abort();
    if (untold !== Infinity) {
      assert.ok(
        received >= committed && received <= committed + untold,
        `${received} of ${committed} messages arrived`,
      );
    }
    await this.#recovered();
  }

  /** Everything is as it was before the victim started. */
  async #recovered(): Promise<void> {
    const until = performance.now() + NEWS * 1000;
    for (;;) {
      const frames = this.#freeFrames();
      const { counts, findings } = this.#look();
      const runs = counts?.runs.total;
      if (frames === this.#frames && runs === this.#runs && findings.length === 0) return;
      if (performance.now() > until) {
        assert.unreachable(
          `${frames} of ${this.#frames} frames are free, ${runs} runs instead of ${this.#runs}\n${inWords(findings)}`,
        );
      }
      await pause(2);
    }
  }
}

/** Settles when all output of a process is here. To be asked for while it lives: the event comes once. */
function closedOf(child: Child): Promise<void> {
  return new Promise((resolve) => child.process.once('close', () => resolve()));
}

/** Wait for the end of a victim. @returns its answer, if it gave one; then it is killed */
async function ofDead(child: Child, running: Promise<number>, closed: Promise<void>): Promise<number | undefined> {
  let answer: number | undefined;
  try {
    answer = await running;
    child.process.kill('SIGKILL');
  } catch (error) {
    // It has failed, unless this is the end of the process.
    await Promise.race([child.exited, pause(1000)]);
    if (child.process.signalCode === null) throw error;
  }
  const { signal } = await child.ended();
  assert.is(signal, 'SIGKILL', child.output);
  await closed; // All of its output is here.
  return answer;
}

let lanes: Lane[] = [];

/** Run in all lanes at the same time until one of them reports that it is enough. */
async function inLanes(body: (lane: Lane) => Promise<boolean>): Promise<void> {
  let enough = false;
  await Promise.all(
    lanes.map(async (lane) => {
      while (!enough) {
        try {
          enough = (await body(lane)) || enough;
        } catch (error) {
          enough = true;
          throw error;
        }
      }
    }),
  );
}

test.before(async () => {
  const { module, stores } = instrument();
  writeFileSync(core, module);
  assert.ok(stores > 50, `${stores} stores`);
  lanes = await Promise.all(Array.from({ length: LANES }, () => Lane.make()));
});

for (const operation of OPERATIONS) {
  test(
    `died: ${operation.name}`,
    timebox(600, async () => {
      const begin = performance.now();
      let next = 1 + random(stride);
      let pace = stride;
      let survived = 0;
      let most = 0;
      let deaths = 0;
      await inLanes(async (lane) => {
        const at = next;
        next += pace;
        try {
          const steps = await lane.dieAt(operation, at);
          if (steps === undefined) deaths++;
          else most = Math.max(most, steps);
          if (steps === undefined || ++survived < ENOUGH) return false;
          if (deaths > 0) return true;
          // The operation is shorter than a stride.
          [next, pace, survived] = [1, 1, 0];
          return false;
        } catch (error) {
          (error as Error).message += `\nwhere a process died at step ${at} of '${operation.name}'`;
          throw error;
        }
      });
      const each = ((performance.now() - begin) * LANES) / (deaths + survived);
      console.log(`${operation.name}: ${most} steps, died at ${deaths} of them; ${each.toFixed(0)} ms each`);
      assert.ok(deaths > 0, 'it died at no step');
    }),
  );
}

test(
  'died: messages committed by reference arrive, although others have reclaimed from the dead process',
  timebox(60, async () => {
    for (let i = 0; i < 3; i++) assert.is(await lanes[0]?.dieAt(UNHEARD, 0), undefined);
  }),
);

for (const plugin of ['shm', 'ivshmem'] as const) {
  test(
    `died: two runtimes meet in a new region, over ${plugin}`,
    timebox(600, async () => {
      const begin = performance.now();
      let at = 1 + random(stride);
      let deaths = 0;
      for (let survived = 0; survived < ENOUGH; at += stride) {
        const { shmName, path } = plugin === 'shm' ? newShm() : { shmName: '', path: newRegion(REGION) };
        const options = plugin === 'shm' ? onlyShm(shmName, { resumeTimeout: 1000 }) : optionsFor(path);
        const child = Child.start(victim, 'victim', {
          options,
          attached: false,
          port: 0,
          core,
        } satisfies VictimOptions);
        await child.event('ready');
        const closed = closedOf(child);
        const steps = await ofDead(child, child.call<number>('run', MEET.name, at), closed);
        if (steps === undefined) deaths++;
        else survived++;
        await assertConsistent(path, at);
        const limit = pause(NEWS * 1000, 'never', { ref: false });
        assert.is(await Promise.race([meet(options), limit]), plugin, `the next two meet, after step ${at}`);
        if (plugin === 'ivshmem') await assertConsistent(path, at, true);
        else assert.not(existsSync(path), 'the last process removes it');
      }
      const each = (performance.now() - begin) / (deaths + ENOUGH);
      console.log(`meet over ${plugin}: died at ${deaths} steps; ${each.toFixed(0)} ms each`);
      assert.ok(deaths > 0, 'it died at no step');
    }),
  );
}

/** @param clean nothing is left to reclaim */
async function assertConsistent(path: string, at: number, clean = false): Promise<void> {
  if (!existsSync(path)) return;
  const onlooker = ReadOnlyRegion.ofFile(path);
  const { findings } = await (clean ? verify(onlooker) : verifyOnce(onlooker));
  onlooker.close();
  const wrong = findings.filter(({ severity }) => clean || severity === 'error');
  assert.is(wrong.length, 0, `step ${at}:\n${inWords(wrong)}`);
}

test(
  `died under full load, ${kills} times`,
  timebox(60 + kills, async () => {
    const begin = performance.now();
    let left = kills;
    await inLanes(async (lane) => {
      if (left-- > 0) await lane.dieUnderLoad(1500);
      return left <= 0;
    });
    console.log(`${kills} deaths under load, ${(((performance.now() - begin) * LANES) / kills).toFixed(0)} ms each`);
  }),
);

test.after(async () => {
  await endChildren();
  await Promise.all(lanes.map((lane) => lane.close()));
  removeRegions();
});
test.run();
