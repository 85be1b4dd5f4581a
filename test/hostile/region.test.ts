/**
 * A real process that owns one end of a region and writes into it while we run: between any two of our instructions, on
 * another processor. First against the core, at full speed; then against runtimes, with everything that an application
 * does. That other process is test/children/hostile.ts; core.test.ts does the same from a seed alone.
 *
 * ISTHMUS_HOSTILE_MUTATIONS: stores against the core; against runtimes a hundredth of that. ISTHMUS_TEST_SEED:
 * determines the values that are written, but not when.
 */
import { setTimeout as pause, setImmediate as turn } from 'node:timers/promises';
import { test as register } from 'uvu';
import * as assert from 'uvu/assert';
import type { Connection } from '../../host/api/connection.js';
import { IsthmusError } from '../../host/base/errors.js';
import { posixBacking } from '../../host/device/posix.js';
import { addonMissing } from '../../host/native/native.js';
import { ReadOnlyRegion } from '../../host/region/read-only-region.js';
import { Runtime, type RuntimeOptions } from '../../host/runtime/runtime.js';
import {
  BROKEN,
  constant,
  L,
  NOTHING,
  newCore,
  Pair,
  pattern,
  recordHeader,
  Shared,
  type TestCore,
} from '../support/core.js';
import { READ, SIZE } from '../support/hostile.js';
import { Child, chosen, endChildren, program } from '../support/process.js';
import { MIB, newRegion, only, removeRegions } from '../support/regions.js';
import { seeded, testSeed } from '../support/seeded.js';
import { timebox } from '../support/timebox.js';
import { act, checkState, connect, type End, echo, useRegion } from '../support/victim.js';

const test = chosen(register);
const MUTATIONS = Number(process.env['ISTHMUS_HOSTILE_MUTATIONS'] ?? 1_000_000);
const AGAINST_RUNTIMES = Math.ceil(MUTATIONS / 100);
const slowness = Number(process.env['ISTHMUS_TEST_SLOWNESS'] ?? 1);
/** Limit after which an operation counts as hung, in milliseconds. */
const LIMIT = 20_000 * slowness;
/** Limit of the operations of an application, in milliseconds. */
const PATIENCE = 20;
/** Connections to the hostile process at once. */
const SIDE_BY_SIDE = 8;
// ── The core ─────────────────────────────────────────────────────────────────────────────────────────────────────────

/** Repeat `body` while the other process writes. */
async function meanwhile(stores: Promise<unknown>, body: () => void): Promise<void> {
  let over = false;
  const done = stores.finally(() => {
    over = true;
  });
  done.catch(() => {});
  while (!over) {
    for (let i = 0; i < 200; i++) body();
    await turn();
  }
  await done;
}

function againstCores(seed: number): void {
  test(
    `${MUTATIONS} stores of another process into its own rings, while the core works on them`,
    timebox(600, async () => {
      const random = seeded(seed);
      const shared = new Shared(3, SIZE / MIB);
      const [victim, peer, witness] = shared.cores as [TestCore, TestCore, TestCore];
      const good = connect(victim, witness)!;
      const free = victim.freeFrames();
      const child = Child.start(program('hostile'), 'hostile');
      await child.call('map', shared.path, SIZE, seed);
      let bad = connect(victim, peer)!;
      const { rx, tx } = bad[0];
      const rings = [rx, tx].map(({ address, capacity }) => ({ address, capacity }));
      let calls = 0;
      let ended = 0;
      for (let stored = 0; stored < MUTATIONS; ) {
        const count = Math.min(50_000, MUTATIONS - stored);
        await meanwhile(child.call('stores', 'own', rings, count), () => {
          act(random(5) ? bad[0] : bad[1], random);
          checkState(bad[0]);
          victim.setU32(READ, victim.field(bad[0].index, L.RX_READ));
          if (++calls % 100 === 0) echo(good, calls);
          // Some more calls on an ended connection, then another connection: in the same place, as no other process
          // takes frames.
          if (victim.state(bad[0].index) < L.STATE_CLOSED || random(8)) return;
          ended++;
          for (const { core, index } of bad) core.call.free(index);
          const before = victim.freeFrames();
          // The nonce of the handshake lies in the ring as well, so it may be overwritten before it is checked.
          for (let again = connect(victim, peer), tries = 0; ; again = connect(victim, peer)) {
            if (again) {
              bad = again;
              break;
            }
            assert.is(victim.freeFrames(), before, 'a failed attempt keeps frames');
            assert.ok(++tries < 10_000, 'no connection');
          }
          assert.equal([bad[0].rx.address, bad[0].tx.address], [rx.address, tx.address]);
        });
        stored += count;
      }
      console.log(`${MUTATIONS} stores, ${calls} calls, ${ended} connections ended`);
      assert.ok(MUTATIONS < 10_000 || ended > 100, `${ended} connections`);
      for (const { core, index } of bad) core.call.free(index);
      for (const core of [victim, peer]) core.call.collect();
      echo(good, 0);
      assert.is(victim.freeFrames(), free, 'frames leaked');
      await endChildren();
      shared.close();
    }),
  );

  test(
    `${MUTATIONS} stores of another process anywhere, while the core works and an observer reads`,
    timebox(600, async () => {
      const random = seeded(seed + 1);
      const shared = new Shared(3, SIZE / MIB);
      const [victim, peer, witness] = shared.cores as [TestCore, TestCore, TestCore];
      const elsewhere = new Shared(2);
      const other = connect(elsewhere.cores[0]!, elsewhere.cores[1]!)!;
      const loop = new Pair(newCore());
      const child = Child.start(program('hostile'), 'hostile');
      let calls = 0;
      let looks = 0;
      for (let stored = 0, life = 0; stored < MUTATIONS; life++) {
        await child.call('map', shared.path, SIZE, seed + life);
        const ends = [...connect(victim, peer)!, ...connect(victim, witness)!];
        const rings = ends.map(({ rx: { address, capacity } }) => ({ address, capacity }));
        const mine = new Map<number, number>();
        const onlooker = ReadOnlyRegion.of(posixBacking(shared.path, false));
        const count = Math.min(20_000, MUTATIONS - stored);
        await meanwhile(child.call('stores', 'anywhere', rings, count), () => {
          const end = ends[random(2) * 2]!;
          if (random(2)) act(end, random);
          else useRegion(victim, end, random, mine);
          checkState(end);
          if (++calls % 500 === 0) echo(other, calls);
          if (calls % 100 !== 0) return;
          loop.send(pattern(100, calls));
          assert.ok(loop.receive());
          onlooker.refresh();
          onlooker.overview();
          onlooker.peers();
          onlooker.holdings();
          const { free, total } = onlooker.frames();
          assert.ok(free >= 0 && free <= total);
          looks++;
        });
        onlooker.close();
        stored += count;
        for (const { core, index } of ends) core.call.free(index);
        for (const core of shared.cores) core.call.leave();
        peer.call.format(0);
        peer.call.finishFormat();
        for (const [slot, core] of shared.cores.entries()) core.join(slot);
      }
      console.log(`${MUTATIONS} stores, ${calls} calls, ${looks} inspections`);
      await endChildren();
      shared.close();
      elsewhere.close();
    }),
  );
}

/** How long a word flips, in milliseconds. */
const FLIP = 400;

/** A word that another process changes all the time, and a check of it: the value that is used is the value checked. */
function flipping(seed: number): void {
  /** One connection; the other process writes into its rings. */
  async function flips(
    prepare: (
      victim: TestCore,
      [end, far]: [End, End],
    ) => { at: number; values: readonly bigint[]; look: () => boolean },
  ): Promise<void> {
    const shared = new Shared(2, SIZE / MIB);
    const [victim, peer] = shared.cores as [TestCore, TestCore];
    const { at, values, look } = prepare(victim, connect(victim, peer)!);
    const child = Child.start(program('hostile'), 'hostile');
    await child.call('map', shared.path, SIZE, seed);
    let looks = 0;
    let seen = 0;
    await meanwhile(child.call('flips', at, values.map(String), FLIP), () => {
      looks++;
      if (look()) seen++;
    });
    console.log(`${looks} checks, ${seen} of valid values`);
    // Both values were met, or the test shows nothing.
    assert.ok(seen > 0 && seen < looks);
    await endChildren();
    shared.close();
  }
  const record = (length: number, kind = L.RECORD_FIRST) => recordHeader(length, kind, 0);

  test(
    'the header of a record changes while it is checked',
    timebox(60, () =>
      flips((victim, [{ index, rx }]) => {
        const at = rx.address + L.RING_DATA;
        victim.setU64(at + 8, 56n << 32n);
        const look = () => {
          const offset = victim.call.peek(index);
          if (offset === BROKEN || offset === NOTHING) return false;
          assert.is(offset, at + 16);
          assert.is(victim.result(L.RESULT_LENGTH), 56);
          victim.call.release(index);
          assert.is(victim.field(index, L.RX_READ), 72);
          victim.setU32(victim.call.entry(index) + L.RX_READ, 0);
          return true;
        };
        return { at, values: [record(64), record(0xffffff00), record(64), record(1000)], look };
      }),
    ),
  );

  test(
    'the net header of a message changes while it is checked',
    timebox(60, () =>
      flips((victim, [{ index, rx }]) => {
        const at = rx.address + L.RING_DATA;
        victim.setU64(at, record(64));
        const restAt = victim.call.entry(index) + constant('RX_REST');
        const look = () => {
          const offset = victim.call.peek(index);
          if (offset === BROKEN || offset === NOTHING) return false;
          const length = victim.result(L.RESULT_DLENGTH);
          assert.ok(length === 56 || length === 5000, `${length} bytes`);
          assert.is(victim.result(L.RESULT_FLAGS) & L.FLAG_LAST, length === 56 ? L.FLAG_LAST : 0);
          victim.call.release(index);
          assert.is(victim.u64(restAt), BigInt(length - 56), 'the rest of the message');
          victim.setU64(restAt, 0n);
          victim.setU32(victim.call.entry(index) + L.RX_READ, 0);
          return true;
        };
        return { at: at + 8, values: [56n << 32n, 5000n << 32n, 0n, 56n << 32n, 7n << 32n], look };
      }),
    ),
  );

  test(
    'the head of a ring changes while it is checked',
    timebox(60, () =>
      flips((victim, [{ index, tx }]) => {
        // Six eighths of the ring hold unread records.
        for (let i = 0; i < 6; i++) {
          assert.ok(victim.call.claim(index, 0, 0, tx.capacity / 8 - 16) > 0);
          victim.call.commit(index);
        }
        const headAt = victim.call.entry(index) + constant('TX_HEAD');
        const tail = victim.field(index, L.TX_TAIL);
        const look = () => {
          const unread = victim.call.unread(index);
          const head = victim.u32(headAt);
          assert.ok(head === 0 || head === 512, `head ${head}`);
          victim.setU32(headAt, 0);
          if (unread === BROKEN) return false;
          assert.is(unread, tail - head);
          return true;
        };
        return { at: tx.address + L.RING_HEAD, values: [512n, 0x80000000n, 512n, 0xffff_fff8n, 0n, 7n], look };
      }),
    ),
  );

  test(
    'the tag of a run changes while it is adopted',
    timebox(60, () =>
      flips((victim, [end]) => {
        const peer = { slot: 1, generation: victim.call.slotGeneration(1) };
        const frame = victim.call.tableBytes() / L.FRAME + 200;
        const tag = (kind: number, count: number) => victim.tag(kind, count, peer.slot, peer.generation);
        const at = victim.half(frame, L.HALF_PRODUCER);
        const offer = victim.half(frame, L.HALF_CONSUMER);
        const look = () => {
          victim.setU64(offer, tag(L.KIND_OFFERED, 3));
          const count = victim.call.adopt(frame, L.HALF_CONSUMER, peer.slot, peer.generation);
          assert.ok(count === 0 || count === 3, `${count} frames`);
          assert.ok(victim.call.runLength(end.index, frame) <= 2 * L.FRAME);
          return count === 3;
        };
        return { at, values: [tag(L.KIND_HELD, 3), tag(L.KIND_HELD, 0xfffff), tag(L.KIND_HELD, 2), 0n], look };
      }),
    ),
  );
}

// ── Runtimes ─────────────────────────────────────────────────────────────────────────────────────────────────────────

const runtimes = new Set<Runtime>();
async function newRuntime(options: RuntimeOptions): Promise<Runtime> {
  const runtime = await Runtime.create(options);
  runtimes.add(runtime);
  return runtime;
}
async function end(runtime: Runtime): Promise<void> {
  runtimes.delete(runtime);
  await bounded(
    'close of a runtime',
    runtime.close({ timeout: 200 }).catch(() => {}),
  );
}
async function tidy(): Promise<void> {
  await Promise.all([...runtimes].map(end));
  await endChildren();
}

async function bounded<T>(what: string, promise: Promise<T>, limit = LIMIT): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: hangs`)), limit);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** A bystander that echoes messages. */
async function echoing(regions: string): Promise<number> {
  const runtime = await newRuntime(only(regions));
  const { port } = await runtime.listen({}, async (connection) => {
    try {
      for await (const { data, xheader } of connection) await connection.send(data, { xheader });
    } catch {
      // The caller is gone.
    }
  });
  return port;
}

let said = 0;
async function talk(connection: Connection): Promise<void> {
  const bytes = Buffer.from(pattern(1 + ((said * 7919) % 150_000), said++));
  await bounded('a bystander', connection.send(bytes));
  const answer = await bounded('an answer to a bystander', connection.receive());
  assert.is(Buffer.compare(answer!.data, bytes), 0, 'a bystander received other bytes');
}

const outcomes = new Map<string, number>();
/** The operation ends, with success or an error with a code. */
async function tried(what: string, body: () => unknown, limit = LIMIT): Promise<void> {
  let outcome = 'well';
  try {
    await bounded(what, Promise.resolve(body()), limit);
  } catch (error) {
    const { name, code = '', message, stack } = error as NodeJS.ErrnoException;
    if (error instanceof IsthmusError && /^ERR_ISTHMUS_[A-Z_]+$/.test(code)) outcome = code;
    else if (name === 'AbortError' || name === 'TimeoutError') outcome = 'aborted';
    else throw new Error(`${what}: ${message}\n${stack}`);
  }
  const key = `${what}: ${outcome}`;
  outcomes.set(key, (outcomes.get(key) ?? 0) + 1);
}

const patience = () => AbortSignal.timeout(PATIENCE);
const sum = (bytes: Uint8Array) => bytes.reduce((total, byte) => total + byte, 0);

/** The operations of applications. */
const uses: Record<string, (connection: Connection, runtime: Runtime) => unknown> = {
  'send small': (connection) => connection.send('hello', { signal: patience(), xheader: Buffer.alloc(12) }),
  'send fragments': (connection) => connection.send(Buffer.alloc(50_000), { signal: patience() }),
  'send rendezvous': (connection) => connection.send(Buffer.alloc(700_000), { signal: patience() }),
  'try send': (connection) => {
    for (let i = 0; i < 100; i++) connection.trySend(Buffer.alloc(i * 10));
  },
  receive: async (connection) => {
    for (;;) {
      const message = await connection.receive({ signal: patience() });
      if (!message) return;
      message.text();
      sum(message.xheader);
    }
  },
  borrow: async (connection) => {
    for (;;) {
      const message = await connection.borrow({ signal: patience() });
      if (!message) return;
      await turn();
      // Copied first: the bytes may change at this very moment.
      sum(new Uint8Array(message.data));
      message[Symbol.dispose]();
    }
  },
  'try receive': async (connection) => {
    const target = new Uint8Array(200_000);
    const info = { xheader: new Uint8Array(70_000), xheaderLength: 0 };
    for (let i = 0; i < 50; i++) {
      connection.tryReceiveInto(target, info);
      if (i % 10 === 0) await turn();
    }
  },
  poll: async (connection) => {
    for (let i = 0; i < 50; i++) {
      connection.poll((memory, offset, length) => {
        assert.ok(offset >= 0 && offset + length <= memory.length);
        sum(memory.slice(offset, offset + Math.min(length, 100)));
      }, 100);
      if (i % 10 === 0) await turn();
    }
  },
  lend: async (connection) => {
    for (let i = 0; i < 10; i++) {
      const loan = await connection.loan(1 + i * 3000, { signal: patience() });
      loan.data.fill(i);
      if (i % 3 === 0) await connection.send(loan, { signal: patience() });
      else if (i % 3 === 1 && connection.trySend(loan)) continue;
      else loan.release();
    }
  },
  flush: (connection) => connection.flush({ signal: patience() }),
  'read and write its memory': async (connection, runtime) => {
    const memory = runtime.allocate(10_000);
    try {
      const { token } = connection.expose(memory, { write: true });
      // A token of this process, used as if it were the peer's: the same words, without a grant there.
      const rma = connection.token(token);
      await rma.read(new Uint8Array(100), { signal: patience() });
      await rma.write(new Uint8Array(100), { signal: patience() });
    } finally {
      memory.release();
    }
  },
  stream: async (connection) => {
    const stream = connection.stream();
    stream.on('error', () => {}).write('through a stream');
    await turn();
  },
  look: (connection, runtime) => {
    connection.stats();
    runtime.inspect();
    runtime.stats();
  },
  close: (connection) => connection.close({ timeout: PATIENCE }),
  destroy: (connection) => connection.destroy(),
};

async function use(connection: Connection, runtime: Runtime, random: (n: number) => number): Promise<void> {
  const names = Object.keys(uses);
  const some = Array.from({ length: 2 + random(3) }, () => names[random(names.length)] as string);
  const all = Promise.all(some.map((name) => tried(name, () => uses[name]?.(connection, runtime))));
  // A signal does not end a message that is partly in the ring: it ends with the connection.
  await Promise.race([all, pause(4 * PATIENCE)]);
  await tried('close', () => connection.close({ timeout: PATIENCE }));
  await all;
  const { reason, error } = await bounded('closed', connection.closed);
  if (reason === 'error') assert.match(error?.code ?? '', /^ERR_ISTHMUS_/);
}

function againstRuntimes(seed: number): void {
  for (const where of ['own', 'anywhere'] as const) {
    test(
      `runtimes and ${AGAINST_RUNTIMES} stores, ${where === 'own' ? 'all into its own rings' : 'anywhere in the region'}`,
      timebox(600, async () => {
        const random = seeded(seed + 2);
        outcomes.clear();
        const there = newRegion(SIZE);
        const [overRegion, overTcp] = [await echoing(there), await echoing('')];
        const child = Child.start(program('hostile'), 'hostile');
        let victim: Runtime | undefined;
        let good: Connection[] = [];
        let port = 0;
        let stored = 0;
        let connections = 0;
        for (let life = 0; stored < AGAINST_RUNTIMES; life++) {
          // After stores anywhere the region is unusable.
          if (!victim || where === 'anywhere') {
            if (victim) await end(victim);
            const here = newRegion(SIZE);
            victim = await newRuntime(only([here, there], { rendezvousIvshmem: 200_000, ringSize: 16_384 }));
            port = await child.call<number>('attach', here, seed + life);
            const others = where === 'own' ? [await echoing(here)] : [];
            const to = (number: number) => victim!.connect({ host: '127.0.0.1', port: number });
            good = await Promise.all([...others, overRegion, overTcp].map(to));
            const last = where === 'own' ? ['ivshmem', 'ivshmem', 'tcp'] : ['ivshmem', 'tcp'];
            assert.equal(
              good.map(({ plugin }) => plugin),
              last,
            );
          }
          const share = Math.min(where === 'own' ? 500 : 2000, AGAINST_RUNTIMES - stored);
          const stores = child.call<number>('misbehave', where, share);
          stores.catch(() => {});
          let over = false;
          void stores.then(
            () => {
              over = true;
            },
            () => {},
          );
          // At least one; if the region is unusable, connections use tcp.
          do {
            const runtime = victim;
            const one = async () => {
              const connection = await runtime.connect({ host: '127.0.0.1', port });
              connections++;
              await use(connection, runtime, random);
            };
            const all = Promise.all(Array.from({ length: SIDE_BY_SIDE }, () => tried('connect', one, 4 * LIMIT)));
            if (random(4) === 0) {
              await pause(random(2 * PATIENCE));
              await tried('suspend', () => runtime.suspend({ timeout: 10 * PATIENCE }));
              await tried('resume', () => runtime.resume());
            }
            await all;
          } while (!over && connections < 1_000_000);
          stored += await stores;
          for (const connection of good) await talk(connection);
        }
        for (const [what, count] of [...outcomes].sort()) console.log(`${String(count).padStart(6)}  ${what}`);
        console.log(`${stored} stores, ${connections} connections`);
        assert.ok(outcomes.has('close: well') || outcomes.size > 10);
        await tidy();
        removeRegions();
      }),
    );
  }
}

const unhandled: unknown[] = [];

function main(): void {
  const missing = addonMissing();
  if (missing) {
    console.log(`skipped: ${missing.message}`);
    test.skip('hostile processes', () => {});
    test.run();
    return;
  }
  for (const event of ['unhandledRejection', 'uncaughtException'] as const) {
    process.on(event, (reason) => {
      console.error(`${event}:`, reason);
      unhandled.push(reason);
    });
  }
  const seed = testSeed();
  againstCores(seed);
  flipping(seed);
  againstRuntimes(seed);
  test('no exception was left unhandled', () => assert.equal(unhandled, []));
  test.after(async () => {
    await tidy();
    removeRegions();
  });
  test.run();
}

main();
