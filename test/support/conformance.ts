/**
 * The requirements for every plugin, as tests over a pair of connected connections.
 *
 * The near end is here. The far end is a {@link FarEnd} anywhere, in another process or on another machine: its methods
 * are called by name, with arguments and results that JSON can carry. Both ends compute the bytes of a message from a
 * seed and its number, so that no bytes travel for comparison.
 */

import { setTimeout as pause } from 'node:timers/promises';
import * as assert from 'uvu/assert';
import type { Connection } from '../../host/api/connection.js';
import { IsthmusError } from '../../host/base/errors.js';
import { rejection, thrownBy } from './outcomes.js';
import { seeded } from './seeded.js';
import { timebox } from './timebox.js';

// ── Messages from numbers ────────────────────────────────────────────────────────────────────────────────────────────

/** Lengths of a message: its data, its xheader. */
export type Shape = readonly [data: number, xheader?: number];

const BLOCK = 65_521; // A prime: offsets in the block do not coincide with those in a ring.
const blocks = new Map<number, Buffer>();

function blockOf(seed: number): Buffer {
  let block = blocks.get(seed);
  if (!block) {
    const random = seeded(seed);
    block = Buffer.alloc(BLOCK);
    for (let i = 0; i + 4 <= BLOCK; i += 4) block.writeUInt32LE(random(0x100000000), i);
    blocks.set(seed, block);
  }
  return block;
}

/** `length` bytes that are different for each number. */
function bytes(seed: number, number: number, length: number): Buffer {
  const block = blockOf(seed);
  const made = Buffer.allocUnsafeSlow(length);
  for (let at = 0, from = (number * 7919) % BLOCK; at < length; from = 0) at += block.copy(made, at, from);
  if (length >= 4) made.writeUInt32LE(number, 0);
  return made;
}

export const dataOf = (seed: number, number: number, length: number) => bytes(seed, number, length);
const xheaderOf = (seed: number, number: number, length: number) => bytes(seed ^ 0x5a5a5a5a, number, length);

/** Shapes of random traffic: mostly small, some larger than a fragment, few larger than the ring. */
export function randomShapes(seed: number, count: number, ring: number): Shape[] {
  const random = seeded(seed);
  return Array.from({ length: count }, () => {
    const kind = random(100);
    const data = kind < 70 ? random(200) : kind < 95 ? random(ring >> 2) : kind < 99 ? random(ring) : random(ring * 4);
    return [data, random(4) === 0 ? random(300) : 0];
  });
}

function check(seed: number, number: number, shape: Shape, data: Uint8Array, xheader: Uint8Array): void {
  const [dlength, xlength = 0] = shape;
  if (data.length !== dlength || xheader.length !== xlength) {
    throw new Error(
      `message ${number} has ${data.length} bytes and an xheader of ${xheader.length}, not ${dlength} and ${xlength}`,
    );
  }
  if (Buffer.compare(data, dataOf(seed, number, dlength)) !== 0) throw new Error(`message ${number}: other bytes`);
  if (Buffer.compare(xheader, xheaderOf(seed, number, xlength)) !== 0) {
    throw new Error(`message ${number}: other bytes in the xheader`);
  }
}

// ── The far end ──────────────────────────────────────────────────────────────────────────────────────────────────────

/** Ways of receiving. */
export type How = 'receive' | 'iterate' | 'into' | 'poll' | 'borrow' | 'many';

/** End of a connection, as JSON. */
export interface Ending {
  readonly messages: number;
  readonly code: string | null;
}

/** A machine this many times slower than a free one (scripts/test.mjs). */
const SLOWNESS = Number(process.env['ISTHMUS_TEST_SLOWNESS'] ?? 1);

/** Unread bytes at which a connection stops reading, by default (host/config/config.ts). */
const UNREAD = 1 << 20;

const turn = () => new Promise<void>((resolve) => setImmediate(resolve));
const codeOf = (error: unknown) => (error instanceof IsthmusError ? error.code : String(error));

/** One end of a connection. Both ends are of this class; the far one is called remotely. */
export class FarEnd {
  constructor(readonly connection: Connection) {}

  /** Send messages, each after the one before is accepted, or all at once, or filling loans. */
  async send(seed: number, shapes: readonly Shape[], how: 'await' | 'burst' | 'try' | 'loan' = 'await'): Promise<void> {
    const sends: Promise<void>[] = [];
    for (const [number, [dlength, xlength = 0]] of shapes.entries()) {
      const data = dataOf(seed, number, dlength);
      const xheader = xlength > 0 ? { xheader: xheaderOf(seed, number, xlength) } : {};
      if (how === 'try') {
        while (!this.connection.trySend(data, xheader)) await turn();
        data.fill(0xee); // The sender may write to them again.
      } else if (how === 'loan') {
        const loan = await this.connection.loan(dlength);
        loan.data.set(data);
        if (number % 2 === 0) await this.connection.send(loan, xheader);
        else while (!this.connection.trySend(loan, xheader)) await turn();
      } else {
        const sent = this.connection.send(data, xheader);
        if (how === 'await') await sent;
        else sends.push(sent);
      }
    }
    await Promise.all(sends);
  }

  /** Receive exactly these messages. */
  async expect(seed: number, shapes: readonly Shape[], how: How = 'receive'): Promise<number> {
    const { connection } = this;
    let number = 0;
    const got = (data: Uint8Array, xheader: Uint8Array | undefined) => {
      const shape = shapes[number];
      if (!shape) throw new Error(`one message too many, of ${data.length} bytes`);
      check(seed, number, shape, data, xheader ?? xheaderOf(seed, number, shape[1] ?? 0));
      number++;
    };
    if (shapes.length === 0) return 0;
    switch (how) {
      case 'receive':
        while (number < shapes.length) {
          const message = await connection.receive();
          if (!message) throw new Error(`the end after ${number} messages`);
          got(message.data, message.xheader);
        }
        break;
      case 'many':
        // All receives are posted before the first message arrives.
        for (const message of await Promise.all(shapes.map(() => connection.receive()))) {
          if (!message) throw new Error(`the end after ${number} messages`);
          got(message.data, message.xheader);
        }
        break;
      case 'iterate':
        for await (const message of connection) {
          got(message.data, message.xheader);
          if (number === shapes.length) break;
        }
        break;
      case 'into': {
        const target = new Uint8Array(Math.max(...shapes.map(([length]) => length)) + 1);
        const info = { xheader: new Uint8Array(65_535), xheaderLength: 0 };
        while (number < shapes.length) {
          const length = connection.tryReceiveInto(target, info);
          if (length < 0) await turn();
          else got(target.subarray(0, length), info.xheader.subarray(0, info.xheaderLength));
        }
        break;
      }
      case 'poll':
        while (number < shapes.length) {
          const before = number;
          const count = connection.poll(
            (memory, offset, length) => got(memory.slice(offset, offset + length), undefined),
            shapes.length - number,
          );
          if (count !== number - before) throw new Error(`poll says ${count} for ${number - before}`);
          if (count === 0) await turn();
        }
        break;
      case 'borrow':
        while (number < shapes.length) {
          const message = await connection.borrow();
          if (!message) throw new Error(`the end after ${number} messages`);
          got(message.data.slice(), message.xheader.slice());
          message.release();
        }
        break;
    }
    return number;
  }

  /** Receive until the connection ends; the messages are the first of these. */
  async drain(seed: number, shapes: readonly Shape[]): Promise<Ending> {
    for (let messages = 0; ; messages++) {
      let message: Awaited<ReturnType<Connection['receive']>>;
      try {
        message = await this.connection.receive();
      } catch (error) {
        return { messages, code: codeOf(error) };
      }
      if (!message) return { messages, code: null };
      check(seed, messages, shapes[messages] ?? [-1], message.data, message.xheader);
    }
  }

  /** Echo messages. */
  async echo(count: number): Promise<void> {
    for (let i = 0; i < count; i++) {
      const message = await this.connection.receive();
      if (!message) throw new Error(`the end after ${i} messages`);
      await this.connection.send(message.data, { xheader: message.xheader });
    }
  }

  /** trySend until it is refused. @returns the number of accepted messages */
  fill(seed: number, shape: Shape): number {
    const [length] = shape;
    for (let number = 0; ; number++) if (!this.connection.trySend(dataOf(seed, number, length))) return number;
  }

  flush(): Promise<void> {
    return this.connection.flush();
  }

  async close(timeout?: number): Promise<string | null> {
    try {
      await this.connection.close(timeout === undefined ? {} : { timeout });
      return null;
    } catch (error) {
      return codeOf(error);
    }
  }

  destroy(): void {
    this.connection.destroy();
  }

  state(): string {
    return this.connection.state;
  }

  stats(): Record<string, number> {
    return { ...this.connection.stats() };
  }

  async closed(): Promise<{ reason: string; code: string | null }> {
    const { reason, error } = await this.connection.closed;
    return { reason, code: error?.code ?? null };
  }

  /** @returns the error of one more send */
  async sendCode(): Promise<string | null> {
    try {
      await this.connection.send('x');
      return null;
    } catch (error) {
      return codeOf(error);
    }
  }
}

type Methods = { [K in keyof FarEnd as FarEnd[K] extends (...args: any[]) => unknown ? K : never]: FarEnd[K] };

/** The other end, called remotely. */
export type Far = <K extends keyof Methods>(
  method: K,
  ...args: Parameters<Methods[K]>
) => Promise<Awaited<ReturnType<Methods[K]>>>;

/** Answer a remote call. */
export function callFar(far: FarEnd, method: string, args: readonly unknown[]): unknown {
  return (far[method as keyof Methods] as (...args: readonly unknown[]) => unknown)(...args);
}

export interface Pair {
  readonly near: Connection;
  readonly far: Far;
}

/** A plugin under test. */
export interface Subject {
  readonly plugin: string;
  /** Capacity of the rings of both ends, in bytes. */
  readonly ring: number;
  /** Seed of the traffic. */
  readonly seed: number;
  /** A new connection, with nothing sent at either end. */
  open(): Promise<Pair>;
  /**
   * Whether the end of the peer is reported after its bytes, so that an end that does not read does not learn of it.
   */
  readonly stream?: boolean;
  /** Divides counts and lengths where the path between the ends is slow (emulated machines); default 1. */
  readonly scale?: number;
}

// ── The suite ────────────────────────────────────────────────────────────────────────────────────────────────────────

type Register = (name: string, body: () => Promise<void>) => void;

/** Lengths at every limit of a ring: of a record, of a first record with its net header, of the ring itself. */
export function borders(ring: number): Shape[] {
  const most = ring / 4 - 8;
  const places = [most, most - 8, 2 * most, 2 * most - 8, 3 * most - 8, ring / 4, ring / 2, ring, 2 * ring];
  const lengths = new Set(places.flatMap((place) => [place - 9, place - 8, place - 1, place, place + 1]));
  return [...lengths].sort((a, b) => a - b).map((length) => [length]);
}

/** Registers the suite for one plugin. */
export function conformance(subject: Subject, register: Register): void {
  const { plugin, ring, seed, stream = false, scale = 1 } = subject;
  const test = (name: string, body: (pair: Pair, here: FarEnd) => Promise<void>, seconds = 20) => {
    register(
      `${plugin}: ${name}`,
      timebox(seconds, async () => {
        const pair = await subject.open();
        // Print the state of both ends when the time is nearly over.
        const late = setTimeout(
          () => {
            console.error(`${name}: near`, pair.near.state, pair.near.stats());
            pair.far('stats').then((stats) => console.error(`${name}: far`, stats), console.error);
          },
          seconds * SLOWNESS * 900,
        );
        try {
          assert.is(pair.near.plugin, plugin);
          await body(pair, new FarEnd(pair.near));
        } finally {
          clearTimeout(late);
          pair.near.destroy();
        }
      }),
    );
  };
  /**
   * The far end, with these messages unread, learns that the connection was destroyed: over a stream only when it reads
   * on, and there the kernel may drop bytes that were sent before.
   */
  const cutOff = async (far: Far, unread: readonly Shape[]) => {
    const lost = { reason: 'error', code: 'ERR_ISTHMUS_PEER_DIED' };
    if (!stream) assert.equal(await far('closed'), lost);
    const { messages, code } = (await far('drain', seed, unread)) as Ending;
    assert.is(code, 'ERR_ISTHMUS_PEER_DIED');
    assert.ok(stream ? messages <= unread.length : messages === unread.length, `${messages} of ${unread.length}`);
    assert.equal(await far('closed'), lost);
  };
  /** A large send that has to wait, since the far end holds more unread bytes than its limit and reads nothing. */
  const stuck = async (near: Connection, far: Far, signal?: AbortSignal) => {
    const before: Shape[] = [];
    for (;;) {
      const { unreadBytes = 0 } = await far('stats');
      const shape: Shape = [before.length === 0 ? 2 << 20 : 16 << 20];
      const waiting = near.send(dataOf(seed, before.length, shape[0]), signal ? { signal } : {});
      // In an object: an async function would wait for it.
      if (unreadBytes >= UNREAD) return { waiting, shape, before };
      await waiting;
      before.push(shape);
      // A run in the region is not counted as unread; then one more message, larger than the region, is needed.
      while (((await far('stats'))['unreadMessages'] ?? 0) < before.length) await pause(1);
      assert.ok(before.length < 4, 'a send without a receiver waits at some point');
    }
  };
  const SMALL: Shape[] = [[0], [1], [7], [8], [63], [64], [65], [0, 1], [0, 12], [5, 12], [64, 64]];

  /** The same messages in both directions, near first. */
  const exchange = async ({ far }: Pair, here: FarEnd, shapes: readonly Shape[], how: How) => {
    await Promise.all([here.send(seed, shapes), far('expect', seed, shapes, how)]);
    await Promise.all([far('send', seed, shapes), here.expect(seed, shapes, how)]);
  };

  for (const how of ['receive', 'many', 'iterate', 'into', 'poll', 'borrow'] as const) {
    test(`small messages, and lengths at the limits of records and ring, by ${how}`, async (pair, here) => {
      await exchange(pair, here, SMALL, how);
      const all = borders(ring);
      const few = all.filter((_, place) => place % 4 === 0);
      await exchange(pair, here, how === 'receive' || how === 'into' ? all : few, how);
    });
  }

  test('1 MiB and 20 MiB', async (pair, here) => {
    const shapes: Shape[] = [[1 << 20], [Math.ceil((20 << 20) / scale), 17], [3]];
    await exchange(pair, here, shapes, 'receive');
    await exchange(pair, here, shapes.slice(0, 1), 'into');
  });

  test('large messages to a receiver that changes between ways to receive', async ({ far }, here) => {
    // A receiver that copies out gets pieces while it waits, one that reads in place gets whole records; the sender
    // learns the way only from the ring.
    const random = seeded(seed);
    const hows: How[] = ['into', 'poll', 'receive', 'borrow', 'into', 'receive', 'poll', 'into'];
    for (const [round, how] of hows.entries()) {
      const lengths = [16_384, 16_385, 65_536, 300_000, (1 << 20) - 1, (1 << 20) + 9].map((most) => most - random(9));
      const shapes = lengths.map((length): Shape => [Math.ceil(length / scale), random(3) * 11]);
      const way = round % 2 === 0 ? 'try' : 'await';
      const salt = seed + round;
      await Promise.all([here.send(salt, shapes, way), far('expect', salt, shapes, how)]);
      await Promise.all([far('send', salt, shapes, way), here.expect(salt, shapes, how)]);
    }
  });

  test('xheaders up to 65,535 bytes', async (pair, here) => {
    const lengths = [0, 1, 12, ring / 4 - 16, ring / 4 - 15, 65_535];
    const shapes = lengths.flatMap((xlength): Shape[] => [
      [0, xlength],
      [1, xlength],
      [40_000, xlength],
    ]);
    for (const how of ['receive', 'into', 'poll', 'borrow'] as const) await exchange(pair, here, shapes, how);

    const { near, far } = pair;
    const wrong = { xheader: new Uint8Array(65_536) };
    for (const error of [await rejection(near.send('a', wrong)), thrownBy(() => near.trySend('a', wrong))]) {
      assert.is(codeOf(error), 'ERR_ISTHMUS_MESSAGE_TOO_LARGE');
    }
    await Promise.all([here.send(seed, SMALL), far('expect', seed, SMALL)]);
  });

  for (const [how, by] of [
    ['await', 'receive'],
    ['burst', 'iterate'],
    ['try', 'into'],
    ['burst', 'many'],
    ['await', 'poll'],
    ['try', 'borrow'],
    ['loan', 'receive'],
    ['loan', 'into'],
    ['loan', 'poll'],
    ['loan', 'borrow'],
  ] as const) {
    test(`random traffic in both directions at once: ${how}, ${by}`, async ({ far }, here) => {
      const there = randomShapes(seed, Math.ceil(500 / scale), ring);
      const back = randomShapes(seed + 1, Math.ceil(500 / scale), ring);
      await Promise.all([
        here.send(seed, there, how),
        far('expect', seed, there, by),
        far('send', seed + 1, back, how),
        here.expect(seed + 1, back, by),
      ]);
      const mine = here.stats();
      const its = await far('stats');
      const total = (shapes: readonly Shape[]) => shapes.reduce((sum, [data, xheader = 0]) => sum + data + xheader, 0);
      assert.is(its['unreadMessages'], 0);
      assert.is(mine['messagesSent'], there.length);
      assert.is(its['messagesReceived'], there.length);
      assert.is(mine['messagesReceived'], back.length);
      assert.is(mine['bytesSent'], total(there));
      assert.is(its['bytesReceived'], total(there));
      assert.is(mine['bytesReceived'], total(back));
    });
  }

  test('many small messages without waiting for each', async ({ far }, here) => {
    const shapes = Array.from({ length: Math.ceil(4000 / scale) }, (_, i): Shape => [i % 24]);
    await Promise.all([here.send(seed, shapes, 'burst'), far('expect', seed, shapes)]);
    await Promise.all([far('send', seed, shapes, 'burst'), here.expect(seed, shapes, 'into')]);
  });

  test('back and forth', async ({ near, far }) => {
    const rounds = Math.ceil(300 / scale);
    const echoed = far('echo', rounds);
    for (let i = 0; i < rounds; i++) {
      const length = i % 10 === 9 ? ring : i;
      const data = dataOf(seed, i, length);
      await near.send(data, { xheader: data.subarray(0, 5) });
      const message = await near.receive();
      check(seed, i, [length], message?.data ?? Buffer.alloc(0), Buffer.alloc(0));
      assert.is(Buffer.compare(message?.xheader ?? Buffer.alloc(0), data.subarray(0, 5)), 0);
    }
    await echoed;
  });

  test('both ends send far more than fits before either receives', async ({ far }, here) => {
    // The rings and the unread backlog take a part; the rest waits, and continues as soon as one of them reads.
    const shapes: Shape[] = Array.from({ length: 60 }, () => [ring]);
    const sent = [here.send(seed, shapes), far('send', seed, shapes)];
    await pause(200);
    await far('expect', seed, shapes);
    await sent[0];
    await here.expect(seed, shapes);
    await sent[1];
  });

  test('an unread backlog does not stop a sender', async ({ far }, here) => {
    // The near end reads nothing until its own messages are accepted; the far end has sent it more than it keeps.
    const back: Shape[] = Array.from({ length: 60 }, () => [ring]);
    const backlog = far('send', seed, back);
    await pause(100);
    const shapes: Shape[] = Array.from({ length: 300 }, () => [ring >> 3]);
    const expected = far('expect', seed, shapes);
    await here.send(seed, shapes);
    await expected;
    await here.expect(seed, back);
    await backlog;
  });

  test('trySend refuses when there is no room, and nothing has changed', async ({ near, far }, here) => {
    let taken = here.fill(seed, [1000]);
    assert.ok(taken > 0);
    // The far end reads some by itself until its backlog is full.
    for (let i = 0; i < 2000; i++) {
      const before = here.stats();
      if (near.trySend(dataOf(seed, taken, 1000))) {
        taken++;
        continue;
      }
      const after = here.stats();
      assert.is(after['messagesSent'], before['messagesSent']);
      assert.is(after['bytesSent'], before['bytesSent']);
    }
    const shapes = Array.from({ length: taken }, (): Shape => [1000]);
    await far('expect', seed, shapes);
    await Promise.all([here.send(seed, SMALL), far('expect', seed, SMALL)]);
  });

  test('an aborted receive loses nothing', async ({ near, far }, here) => {
    const random = seeded(seed);
    const shapes = randomShapes(seed, Math.ceil(400 / scale), ring);
    const reason = new Error('enough');
    const sent = far('send', seed, shapes);
    assert.is(await rejection(near.receive({ signal: AbortSignal.abort(reason) })), reason);
    assert.is(await rejection(near.borrow({ signal: AbortSignal.abort(reason) })), reason);
    let aborted = 0;
    for (let number = 0; number < shapes.length; ) {
      const controller = new AbortController();
      const wait = random(3);
      if (wait === 0) queueMicrotask(() => controller.abort(reason));
      else if (wait === 1) setImmediate(() => controller.abort(reason));
      else setTimeout(() => controller.abort(reason), 1);
      try {
        const { signal } = controller;
        const message = random(2) ? await near.receive({ signal }) : await near.borrow({ signal });
        if (!message) throw new Error('the end');
        check(seed, number, shapes[number] ?? [-1], message.data.slice(), message.xheader.slice());
        if ('release' in message) message.release();
        number++;
      } catch (error) {
        if (error !== reason) throw error;
        aborted++;
      }
    }
    await sent;
    const waiting = new AbortController();
    const late = rejection(near.receive({ signal: waiting.signal }));
    await pause(20);
    waiting.abort(reason);
    assert.is(await late, reason);
    await Promise.all([far('send', seed, SMALL), here.expect(seed, SMALL)]);
    if (aborted === 0) console.log(`${plugin}: no receive was aborted in time`);
  });

  test('a queued send can be withdrawn, one that has started completes', async ({ near, far }, here) => {
    const reason = new Error('enough');
    assert.is(await rejection(near.send('x', { signal: AbortSignal.abort(reason) })), reason);
    const started = new AbortController();
    const { waiting, shape, before } = await stuck(near, far, started.signal);
    const queued = new AbortController();
    const second = rejection(near.send(dataOf(seed, 1, 100), { signal: queued.signal }));
    const third = near.send(dataOf(seed, before.length + 1, 200));
    await pause(20);
    queued.abort(reason);
    started.abort(new Error('too late'));
    assert.is(await second, reason);
    await far('expect', seed, [...before, shape, [200]]);
    await waiting;
    await third;
    await Promise.all([here.send(seed, SMALL), far('expect', seed, SMALL)]);
  });

  test('tryReceiveInto with too small a target: the message stays', async ({ near, far }, here) => {
    const shapes: Shape[] = [[100, 7], [ring], [0]];
    await Promise.all([far('send', seed, shapes), pause(50)]);
    for (const [number, [length, xlength = 0]] of shapes.entries()) {
      for (const size of [0, 1, 99]) {
        if (length === 0) break;
        const target = new Uint8Array(size);
        let error: unknown;
        for (let tries = 0; !error && tries < 1000; tries++) {
          try {
            if (near.tryReceiveInto(target) >= 0) assert.unreachable('it does not fit');
            await turn();
          } catch (thrown) {
            error = thrown;
          }
        }
        assert.is(codeOf(error), 'ERR_ISTHMUS_BUFFER_TOO_SMALL');
        assert.is((error as IsthmusError).needed, length);
        assert.is((error as IsthmusError).available, size);
      }
      const info = { xheader: new Uint8Array(7), xheaderLength: -1 };
      const target = new Uint8Array(length);
      let got = -1;
      while (got < 0) {
        got = near.tryReceiveInto(target, info);
        if (got < 0) await turn();
      }
      check(seed, number, [length, xlength], target.subarray(0, got), info.xheader.subarray(0, info.xheaderLength));
    }
    assert.is(near.tryReceiveInto(new Uint8Array(10)), -1);
    await Promise.all([far('send', seed, SMALL), here.expect(seed, SMALL)]);
  });

  test('poll accepts a limit, and a handler that throws', async ({ near, far }, here) => {
    const shapes: Shape[] = Array.from({ length: 10 }, (_, i) => [100 + i]);
    await Promise.all([far('send', seed, shapes), pause(50)]);
    const lengths: number[] = [];
    while (lengths.length < 3) {
      const count = near.poll((_memory, _offset, length) => lengths.push(length), 3 - lengths.length);
      if (count === 0) await turn();
    }
    assert.equal(lengths, [100, 101, 102]);
    assert.is(
      near.poll(() => assert.unreachable(), 0),
      0,
    );
    const failure = new Error('of the handler');
    let error: unknown;
    while (!error) {
      try {
        near.poll(() => {
          throw failure;
        });
        await turn();
      } catch (thrown) {
        error = thrown;
      }
    }
    assert.is(error, failure);
    // The handler had 103.
    for (let length = 104; length < 110; length++) assert.is((await near.receive())?.data.length, length);
    assert.is(
      near.poll(() => {}),
      0,
    );
    await Promise.all([far('send', seed, SMALL), here.expect(seed, SMALL, 'poll')]);
  });

  test('a message in a handler of poll is given to no other receive', async ({ near, far }, here) => {
    const shapes: Shape[] = [[100], [101], [102]];
    await Promise.all([far('send', seed, shapes), pause(50)]);
    const lengths: number[] = [];
    const inside: Promise<number | undefined>[] = [];
    while (lengths.length === 0) {
      near.poll((_memory, _offset, length) => {
        lengths.push(length);
        inside.push(near.receive().then((message) => message?.data.length));
      }, 1);
      await turn();
    }
    assert.equal(lengths, [100]);
    assert.equal(await Promise.all(inside), [101]);
    await here.expect(seed, []);
    assert.is((await near.receive())?.data.length, 102);
    await Promise.all([far('send', seed, SMALL), here.expect(seed, SMALL)]);
  });

  test('borrowed messages stay unchanged, and are released in any order', async ({ near, far }, here) => {
    const random = seeded(seed);
    const count = Math.ceil(600 / scale);
    const shapes = Array.from({ length: count }, (_, i): Shape => [1 + random(300), i % 5]);
    const sent = far('send', seed, shapes);
    const held: { number: number; message: NonNullable<Awaited<ReturnType<Connection['borrow']>>> }[] = [];
    let inPlace = 0;
    const giveBack = () => {
      const [{ number, message }] = held.splice(random(held.length), 1) as [(typeof held)[0]];
      check(seed, number, shapes[number] ?? [-1], message.data.slice(), message.xheader.slice());
      if (random(2)) message.release();
      else message[Symbol.dispose]();
      message.release();
      for (const access of [() => message.data, () => message.xheader]) {
        assert.is(codeOf(thrownBy(access)), 'ERR_ISTHMUS_RELEASED');
      }
    };
    for (let number = 0; number < count; number++) {
      const message = await near.borrow();
      if (!message) throw new Error('the end');
      if (message.inPlace) inPlace++;
      held.push({ number, message });
      while (held.length > random(20)) giveBack();
    }
    while (held.length > 0) giveBack();
    await sent;
    if (inPlace === 0) console.log(`${plugin}: no message was borrowed in place`);
    // The sender can use the whole ring again.
    await Promise.all([far('send', seed, borders(ring)), here.expect(seed, borders(ring))]);
  });

  test('borrowed bytes survive destroy', async ({ near, far }, here) => {
    const shapes: Shape[] = [[1000, 9], [2000]];
    const sent = far('send', seed, shapes);
    const first = await near.borrow();
    const second = await near.borrow();
    await sent;
    near.destroy();
    for (let round = 0; round < 2; round++) {
      check(seed, 0, [1000, 9], first?.data.slice() ?? Buffer.alloc(0), first?.xheader.slice() ?? Buffer.alloc(0));
      check(seed, 1, [2000], second?.data.slice() ?? Buffer.alloc(0), second?.xheader.slice() ?? Buffer.alloc(0));
      await far('closed');
    }
    second?.release();
    first?.release();
    assert.is(here.state(), 'closed');
  });

  test('leaving an iterator closes nothing', async ({ near, far }, here) => {
    const shapes: Shape[] = [[1], [2], [3]];
    const sent = far('send', seed, shapes);
    for await (const message of near) {
      assert.is(message.data.length, 1);
      break;
    }
    await sent;
    const iterator = near[Symbol.asyncIterator]();
    assert.is((await iterator.next()).value.data.length, 2);
    await iterator.return?.();
    assert.is((await near.receive())?.data.length, 3);
    assert.is(near.state, 'open');
    await Promise.all([here.send(seed, SMALL), far('expect', seed, SMALL)]);
  });

  test('flush waits until the peer has received everything sent', async ({ near, far }, here) => {
    await near.flush();
    await Promise.all([here.send(seed, SMALL), far('expect', seed, SMALL)]);
    await near.flush();
    const sent = here.send(seed, [[4 * ring]], 'burst');
    const flushed = near.flush();
    await far('expect', seed, [[4 * ring]]);
    await Promise.all([sent, flushed]);
    assert.is(near.stats().ringUsed, 0);
    const reason = new Error('enough');
    assert.is(await rejection(near.flush({ signal: AbortSignal.abort(reason) })), reason);
  });

  test('a slow receiver makes the sender wait', async ({ near, far }, here) => {
    // Ring, unread backlog and the buffers of the kernel are bounded, so a sender has to stop.
    let taken = 0;
    let refused = 0;
    const chunk = new Uint8Array(64 << 10);
    while (refused < 50) {
      if (near.trySend(chunk)) {
        taken++;
        refused = 0;
        if (taken > 2000) assert.unreachable('125 MiB were accepted without a receiver');
      } else {
        refused++;
        await pause(1);
      }
    }
    const its = await far('stats');
    assert.ok((its['unreadBytes'] ?? 0) <= (2 << 20) + ring, `${its['unreadBytes']} bytes unread`);
    // With the length of the refused message: there may be room for a short one.
    const waiting = here.send(seed, [[chunk.length]], 'burst');
    let done = false;
    const over = () => {
      done = true;
    };
    waiting.then(over, over);
    await pause(50);
    assert.not(done);
    await far('destroy');
    assert.is(codeOf(await rejection(waiting)), 'ERR_ISTHMUS_PEER_DIED');
  });

  test('empty messages count in a backlog too', async ({ near, far }) => {
    let taken = 0;
    let refused = 0;
    while (refused < 50) {
      if (near.trySend('')) {
        refused = 0;
        if (++taken > 2_000_000) assert.unreachable('two million were accepted without a receiver');
      } else {
        refused++;
        await pause(1);
      }
    }
    const its = await far('stats');
    assert.ok((its['unreadMessages'] ?? 0) < 100_000, `${its['unreadMessages']} messages unread`);
  });

  test('closed by this side: the peer gets all messages, then the end', async ({ near, far }, here) => {
    const shapes = randomShapes(seed, 200, ring);
    const drained = far('drain', seed, shapes);
    const sent = here.send(seed, shapes, 'burst');
    const closed = near.close({ timeout: 60_000 });
    assert.is(near.state, 'closing');
    assert.is(codeOf(await rejection(near.send('late'))), 'ERR_ISTHMUS_CLOSED');
    assert.is(codeOf(thrownBy(() => near.trySend('late'))), 'ERR_ISTHMUS_CLOSED');
    assert.is(codeOf(await rejection(near.flush())), 'ERR_ISTHMUS_CLOSED');
    await sent;
    await closed;
    assert.equal(await drained, { messages: shapes.length, code: null });
    assert.equal(await here.closed(), { reason: 'local', code: null });
    assert.equal(await far('closed'), { reason: 'peer', code: null });
    assert.is(near.state, 'closed');
    assert.is(await near.receive(), undefined);
    assert.is(await near.borrow(), undefined);
    await near.close();
    assert.is(codeOf(await rejection(near.send('late'))), 'ERR_ISTHMUS_CLOSED');
    assert.is(await far('sendCode'), 'ERR_ISTHMUS_CLOSED');
  });

  test('closed by the other side: all it sent, then undefined', async ({ near, far }, here) => {
    const shapes = randomShapes(seed, 200, ring);
    const drained = here.drain(seed, shapes);
    await far('send', seed, shapes, 'burst');
    assert.is(await far('close', 60_000), null);
    assert.equal(await drained, { messages: shapes.length, code: null });
    assert.equal(await here.closed(), { reason: 'peer', code: null });
    assert.is(await near.receive(), undefined);
    for await (const _ of near) assert.unreachable();
    assert.is(codeOf(thrownBy(() => near.tryReceiveInto(new Uint8Array(1)))), 'ERR_ISTHMUS_CLOSED');
    assert.is(codeOf(thrownBy(() => near.poll(() => {}))), 'ERR_ISTHMUS_CLOSED');
    assert.is(codeOf(await rejection(near.send('late'))), 'ERR_ISTHMUS_CLOSED');
  });

  test('messages of a closed peer can still be read', async ({ near, far }, here) => {
    const shapes: Shape[] = [[1], [2], [ring], [4]];
    await far('send', seed, shapes);
    assert.is(await far('close'), null);
    await pause(50);
    assert.equal(await here.drain(seed, shapes), { messages: 4, code: null });
    assert.is(near.state, 'closed');
  });

  test('closed by both at once', async ({ near, far }, here) => {
    await Promise.all([here.send(seed, SMALL), far('expect', seed, SMALL)]);
    const [mine, its] = await Promise.all([near.close().then(() => null, codeOf), far('close')]);
    assert.equal([mine, its], [null, null]);
    assert.is((await here.closed()).reason, 'local');
    // It may have learnt of this side's close before it closed itself.
    assert.match((await far('closed')).reason, /^(local|peer)$/);
  });

  test('closed while the peer is sending', async ({ near, far }) => {
    const sent = far('send', seed, randomShapes(seed, 500, ring)).then(() => undefined, codeOf);
    await near.receive();
    await near.close();
    const code = await sent;
    assert.ok(code === undefined || code === 'ERR_ISTHMUS_CLOSED', code);
  });

  test('a receiver that waits gets undefined when it closes itself', async ({ near }) => {
    const waiting = near.receive();
    const borrowing = near.borrow();
    await near.close();
    assert.is(await waiting, undefined);
    assert.is(await borrowing, undefined);
  });

  test('the close has a limit', async ({ near, far }, here) => {
    // Messages without room cannot be sent: the far end reads nothing.
    const { waiting, before } = await stuck(near, far);
    const sent = rejection(waiting);
    const error = await rejection(near.close({ timeout: 300 }));
    assert.is(codeOf(error), 'ERR_ISTHMUS_CLOSE_TIMEOUT');
    assert.ok(['ERR_ISTHMUS_CLOSED', 'ERR_ISTHMUS_CLOSE_TIMEOUT'].includes(codeOf(await sent)));
    assert.is(near.state, 'closed');
    assert.is((await here.closed()).reason, 'local');
    await cutOff(far, before);
  });

  test('the close can be aborted', async ({ near, far }, here) => {
    const { waiting, before } = await stuck(near, far);
    const sent = rejection(waiting);
    const reason = new Error('enough');
    const cut = new AbortController();
    const closing = rejection(near.close({ signal: cut.signal }));
    cut.abort(reason);
    assert.is(await closing, reason);
    await sent;
    assert.is((await here.closed()).reason, 'local');
    await cutOff(far, before);
  });

  test('destroy: the peer gets committed messages, then an error', async ({ near, far }, here) => {
    const shapes: Shape[] = [[10], [ring / 8], [30]];
    await here.send(seed, shapes);
    if (stream) await near.flush();
    near.destroy();
    assert.is(near.state, 'closed');
    assert.equal(await far('drain', seed, shapes), { messages: 3, code: 'ERR_ISTHMUS_PEER_DIED' });
    assert.is(await far('sendCode'), 'ERR_ISTHMUS_PEER_DIED');
    assert.equal(await far('closed'), { reason: 'error', code: 'ERR_ISTHMUS_PEER_DIED' });
    assert.equal(await here.closed(), { reason: 'local', code: null });
    assert.is(codeOf(await rejection(near.send('late'))), 'ERR_ISTHMUS_CLOSED');
    near.destroy();
    await near.close();
  });

  test('a destroyed peer: an error for all pending receives, and for sends at that very moment', async ({
    near,
    far,
  }, here) => {
    const shapes: Shape[] = [[10], [20], [30]];
    await far('send', seed, shapes);
    await far('destroy');
    // The error may not have arrived yet.
    let code: string | undefined;
    while (code === undefined) {
      code = await near.send(new Uint8Array(1000)).then(() => undefined, codeOf);
      await turn();
    }
    assert.is(code, 'ERR_ISTHMUS_PEER_DIED');
    assert.equal(await here.drain(seed, shapes), { messages: 3, code: 'ERR_ISTHMUS_PEER_DIED' });
    assert.is(codeOf(await rejection(near.borrow())), 'ERR_ISTHMUS_PEER_DIED');
    assert.is(codeOf(thrownBy(() => near.tryReceiveInto(new Uint8Array(1)))), 'ERR_ISTHMUS_PEER_DIED');
    assert.equal(await here.closed(), { reason: 'error', code: 'ERR_ISTHMUS_PEER_DIED' });
  });

  test('destroy with an error of the application', async ({ near }, here) => {
    const waiting = rejection(near.receive());
    near.destroy(new Error('a reason'));
    assert.match(((await waiting) as Error).message, 'a reason');
    assert.equal(await here.closed(), { reason: 'local', code: 'ERR_ISTHMUS_CLOSED' });
    assert.match(((await rejection(near.send('x'))) as Error).message, 'a reason');
  });

  test('await using', async ({ near, far }) => {
    await near[Symbol.asyncDispose]();
    assert.is(near.state, 'closed');
    assert.equal(await far('closed'), { reason: 'peer', code: null });
  });
}
