/**
 * Plugins of third parties: the example in `examples/unix-plugin` passes the conformance suite, and faults of a plugin
 * end neither the process nor the handshake.
 *
 * The far end of the suite is this file again, as a process with the role `far`.
 */

import { chmodSync, chownSync, mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Duplex } from 'node:stream';
import { setTimeout as pause } from 'node:timers/promises';
import { test as register } from 'uvu';
import * as assert from 'uvu/assert';
import { unixPlugin } from '../../examples/unix-plugin/index.mjs';
import type { Connection } from '../../host/api/connection.js';
import { IsthmusError } from '../../host/base/errors.js';
import { STEP } from '../../host/plugins/plugin.js';
import {
  type StreamChannel,
  type StreamPlugin,
  type StreamPluginDefinition,
  streamPlugin,
} from '../../host/plugins/stream-plugin.js';
import { Runtime, type RuntimeOptions } from '../../host/runtime/runtime.js';
import { conformance } from '../support/conformance.js';
import { pairsWith, serveFar } from '../support/far.js';
import { rejection } from '../support/outcomes.js';
import { Child, chosen, endChildren, play, role, roleOptions } from '../support/process.js';
import { only } from '../support/regions.js';
import { testSeed } from '../support/seeded.js';
import { timebox } from '../support/timebox.js';

const RING = 65_536;
const test = chosen(register);

const roles: Record<string, () => Promise<void>> = {
  async far() {
    const { folder, ...options } = roleOptions<RuntimeOptions & { folder: string }>();
    await serveFar(await Runtime.create({ ...options, plugins: [unixPlugin({ folder })] }));
  },
};

const code = (error: unknown) => (error instanceof IsthmusError ? error.code : String(error));

/** Runtimes of one test, closed after it: a hundred of them would fill the address space with their memories. */
const runtimes: Runtime[] = [];
const closeRuntimes = () => Promise.all(runtimes.splice(0).map((runtime) => runtime.close({ timeout: 500 })));

async function newRuntime(plugins: readonly StreamPlugin[], options: RuntimeOptions = {}): Promise<Runtime> {
  const runtime = await Runtime.create(only('', { ...options, plugins }));
  runtimes.push(runtime);
  return runtime;
}

interface Both {
  readonly near: Connection;
  readonly far: Connection;
}

/** Connect two runtimes of this process. */
async function join2(a: Runtime, b: Runtime): Promise<Both> {
  let far: Connection | undefined;
  const listening = await b.listen({}, async (connection) => {
    far = connection;
    await connection.closed;
  });
  const near = await a.connect({ host: '127.0.0.1', port: listening.port });
  while (!far) await pause(1);
  await listening.close();
  return { near, far };
}

async function joined(
  ours: readonly StreamPlugin[],
  theirs: readonly StreamPlugin[],
  options: RuntimeOptions = {},
): Promise<Both> {
  return join2(await newRuntime(ours, options), await newRuntime(theirs, options));
}

/** Messages pass in both directions. */
async function talk({ near, far }: Both): Promise<void> {
  const large = Buffer.alloc(300_000, 7);
  for (const [from, to] of [
    [near, far],
    [far, near],
  ] as const) {
    const sent = [from.send('small'), from.send(large)];
    assert.is((await to.receive())?.text(), 'small');
    assert.is(Buffer.compare((await to.receive())?.data ?? Buffer.alloc(0), large), 0);
    await Promise.all(sent);
  }
}

// ── A transport within this process ──────────────────────────────────────────────────────────────────────────────────

/** One end of a pair of streams. */
class Half extends Duplex {
  other: Half | undefined;
  /** Writes and ends do not reach the other side, as when a cable is cut. */
  cut = false;
  fault: Error | undefined;
  #wanted: (() => void) | undefined;

  override _read(): void {
    const wanted = this.#wanted;
    this.#wanted = undefined;
    wanted?.();
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, callback: (error?: Error | null) => void): void {
    if (this.fault) throw this.fault;
    if (this.cut || !this.other) callback();
    else if (this.other.push(chunk)) process.nextTick(callback);
    else this.other.#wanted = callback;
  }

  override _final(callback: (error?: Error | null) => void): void {
    if (!this.cut) this.other?.push(null);
    callback();
  }

  static pair(): [Half, Half] {
    const [a, b] = [new Half(), new Half()];
    a.other = b;
    b.other = a;
    return [a, b];
  }
}

const halves = new Map<number, Half>();
let handles = 0;

/** The accepting side creates a pair, and tells the other where one of them is. */
function memoryAttempt(channel: StreamChannel, made: (half: Half) => void) {
  if (channel.role === 'connect') {
    return {
      step(_type: number, payload: Uint8Array) {
        const half = halves.get(payload[0] as number);
        if (!half) throw new Error('another process');
        made(half);
        channel.ok(half);
      },
    };
  }
  const [a, b] = Half.pair();
  const handle = ++handles;
  halves.set(handle, b);
  made(a);
  channel.step(STEP.STEP1, Buffer.of(handle));
  channel.ok(a);
  return {};
}

function memoryPlugin(more: Partial<StreamPluginDefinition> = {}, made: (half: Half) => void = () => {}): StreamPlugin {
  const attempt = (channel: StreamChannel) => memoryAttempt(channel, made);
  return streamPlugin({ name: 'memory', archId: 2000, priority: 60, attempt, ...more });
}

async function main(seed: number): Promise<void> {
  const unhandled: unknown[] = [];
  for (const event of ['unhandledRejection', 'uncaughtException'] as const) {
    process.on(event, (reason) => {
      console.error(`${event}:`, reason);
      unhandled.push(reason);
    });
  }
  const folder = mkdtempSync(join(tmpdir(), 'isthmus-test-'));

  // ── The example ────────────────────────────────────────────────────────────────────────────────────────────────────

  let shared: Runtime | undefined;
  conformance(
    {
      plugin: 'unix',
      ring: RING,
      seed,
      stream: true,
      open: pairsWith(async () => {
        const options = only('', { tcpRingSize: RING });
        const child = Child.start(import.meta.url, 'far', { ...options, folder });
        shared = await Runtime.create({ ...options, plugins: [unixPlugin({ folder })] });
        return { runtime: shared, child };
      }),
    },
    test,
  );

  test(
    'unix: a peer that is killed',
    timebox(30, async () => {
      const child = Child.start(import.meta.url, 'far', only('', { folder } as RuntimeOptions));
      const runtime = await newRuntime([unixPlugin({ folder })]);
      const near = await runtime.connect({ host: '127.0.0.1', port: await child.call<number>('port') });
      assert.is(near.plugin, 'unix');
      const end = await child.call<number>('newest', 1);
      // So little that the kernel accepts it at once.
      await child.call('call', end, 'send', [seed, [[10], [30_000], [20]]]);
      await child.call('call', end, 'flush', []);
      await child.kill();
      const lengths: number[] = [];
      const error = await rejection(
        (async () => {
          for await (const { data } of near) lengths.push(data.length);
        })(),
      );
      assert.equal(lengths, [10, 30_000, 20]);
      assert.is(code(error), 'ERR_ISTHMUS_PEER_DIED');
    }),
  );

  test(
    'unix: on another host that path does not exist, and a folder may be too deep',
    timebox(20, async () => {
      const own = mkdtempSync(join(tmpdir(), 'isthmus-test-'));
      const server = await newRuntime([unixPlugin({ folder: own })]);
      const client = await newRuntime([unixPlugin({ folder })]);
      const first = await join2(client, server);
      assert.is(first.near.plugin, 'unix');
      // A process of another user could send descriptors over its socket; closing those can block.
      const home = join(own, readdirSync(own)[0] as string);
      chmodSync(home, 0o711);
      assert.match((await join2(client, server)).near.why ?? '', /unix: not a socket of this user/);
      if (process.geteuid?.() === 0) {
        chmodSync(home, 0o700);
        chownSync(home, 12_345, 12_345);
        assert.match((await join2(client, server)).near.why ?? '', /unix: not a socket of this user/);
      }
      // From here on the two behave as if they did not see the same folders.
      for (const name of readdirSync(own)) rmSync(join(own, name), { recursive: true });
      const second = await join2(client, server);
      assert.is(second.near.plugin, 'tcp');
      assert.match(second.near.why ?? '', /unix: ENOENT/);
      await talk(second);
      await talk(first);

      const deep = join(own, 'd'.repeat(90));
      mkdirSync(deep);
      const third = await join2(client, await newRuntime([unixPlugin({ folder: deep })]));
      assert.is(third.near.plugin, 'tcp');
      assert.match(third.far.why ?? '', /unix: the path of a socket in .* would be too long/);
      rmSync(own, { recursive: true });
    }),
  );

  test(
    'unix: a connection without the token is refused, and nothing is left',
    timebox(20, async () => {
      const own = mkdtempSync(join(tmpdir(), 'isthmus-test-'));
      const lines: string[] = [];
      const log = (_level: string, line: string) => lines.push(line);
      const server = await newRuntime([unixPlugin({ folder: own })], { debug: 1, log });
      const client = await newRuntime([unixPlugin({ folder })]);
      const good = await join2(client, server);
      const home = join(own, readdirSync(own)[0] as string);
      const path = join(home, readdirSync(home)[0] as string);
      const stranger = connect(path);
      stranger.on('error', () => {});
      stranger.resume().write(Buffer.alloc(500, 1));
      await new Promise((resolve) => stranger.on('close', resolve));
      assert.is(server.connections().length, 1);
      await talk(good);
      await Promise.all([client.close(), server.close()]);
      assert.equal([readdirSync(own), lines], [[], []]);
      rmSync(own, { recursive: true });
    }),
  );

  // ── Passing plugins to a runtime ───────────────────────────────────────────────────────────────────────────────────

  const attempt = () => undefined;

  test(
    'invalid plugins',
    timebox(10, async () => {
      const good = { name: 'mine', archId: 3000, priority: 5, attempt };
      const bad: object[] = [
        { name: '' },
        { name: 'Mine' },
        { name: '1st' },
        { name: 'a b' },
        { name: 'x'.repeat(33) },
        { name: 5 },
        { archId: -1 },
        { archId: 2 ** 32 },
        { archId: 1.5 },
        { archId: '3000' },
        { priority: -1 },
        { priority: 1001 },
        { priority: Number.NaN },
        { migratable: 'yes' },
        { attempt: undefined },
        { attempt: 5 },
        { unavailable: 'no' },
        { propose: [] },
        { destroy: {} },
      ];
      for (const wrong of bad) {
        const definition = { ...good, ...wrong } as StreamPluginDefinition;
        assert.throws(
          () => streamPlugin(definition),
          (error: unknown) => code(error) === 'ERR_ISTHMUS_INVALID_ARGUMENT',
          JSON.stringify(wrong),
        );
        const around = { kind: 'stream', definition } as StreamPlugin;
        assert.is(code(await rejection(newRuntime([around]))), 'ERR_ISTHMUS_INVALID_ARGUMENT');
      }
      const plugin = streamPlugin(good);
      const other = (more: object) => streamPlugin({ ...good, ...more });
      const lists: unknown[] = [
        plugin,
        'mine',
        [undefined],
        [null],
        ['mine'],
        [good],
        [{ kind: 'other', definition: good }],
        [plugin, plugin],
        [plugin, other({ name: 'another' })],
        [plugin, other({ archId: 3001 })],
        ...['loop', 'tcp', 'shm', 'ivshmem'].map((name) => [other({ name })]),
        ...[102, 103, 204, 220].map((archId) => [other({ archId })]),
        // PSP_RETRY has another meaning.
        [other({ name: 'retry' })],
      ];
      for (const list of lists) {
        const error = await rejection(newRuntime(list as StreamPlugin[]));
        assert.is(code(error), 'ERR_ISTHMUS_INVALID_ARGUMENT', JSON.stringify(list));
      }
    }),
  );

  test(
    'priorities: its own, PSP_<NAME> over it, 0 disables',
    timebox(20, async () => {
      const rank = async () => {
        const runtime = await newRuntime([memoryPlugin(), memoryPlugin({ name: 'low', archId: 2001, priority: 1 })]);
        const others = runtime.plugins().filter(({ name }) => name !== 'shm');
        return [runtime, others.map(({ name, priority }) => `${name} ${priority}`)] as const;
      };
      try {
        assert.equal((await rank())[1], ['loop 100', 'ivshmem 80', 'memory 60', 'tcp 2', 'low 1']);
        process.env['PSP_MEMORY'] = '1';
        process.env['PSP_LOW'] = '90';
        assert.equal((await rank())[1], ['loop 100', 'low 90', 'ivshmem 80', 'tcp 2', 'memory 1']);
        for (const wrong of ['', 'x', '-1', '1001']) {
          process.env['PSP_MEMORY'] = wrong;
          const error = await rejection(rank());
          assert.is(code(error), 'ERR_ISTHMUS_CONFIG');
          assert.match((error as Error).message, /PSP_MEMORY/);
        }
        process.env['PSP_MEMORY'] = '0';
        process.env['PSP_LOW'] = '0';
        const [a] = await rank();
        assert.is(a.plugins().find(({ name }) => name === 'memory')?.unavailable, 'disabled');
        delete process.env['PSP_MEMORY'];
        const [b] = await rank();
        // Disabled on either side is enough.
        for (const [from, to] of [
          [a, b],
          [b, a],
        ] as const) {
          const both = await join2(from, to);
          assert.is(both.near.plugin, 'tcp');
          // The plugin of the connection is not a better one any more.
          if (from === a) assert.is(both.near.why?.includes('memory'), false);
          else assert.match(both.far.why ?? '', /memory: disabled/);
        }
      } finally {
        delete process.env['PSP_MEMORY'];
        delete process.env['PSP_LOW'];
      }
    }),
  );

  test(
    'a custom stream carries messages, and closes in order',
    timebox(20, async () => {
      const both = await joined([memoryPlugin()], [memoryPlugin()]);
      assert.is(both.near.plugin, 'memory');
      assert.is(both.far.plugin, 'memory');
      await talk(both);
      await both.near.send('last');
      await both.near.close();
      assert.is((await both.far.receive())?.text(), 'last');
      assert.is(await both.far.receive(), undefined);
      assert.equal(await both.far.closed, { reason: 'peer' });
    }),
  );

  test(
    'several proposals, of which the second one works',
    timebox(20, async () => {
      const seen: (string | undefined)[] = [];
      const plugin = memoryPlugin({
        propose: () => ['first', 'second'],
        attempt(channel, label) {
          seen.push(label);
          if (label === 'first') throw new Error('not this one');
          return memoryAttempt(channel, () => {});
        },
      });
      const both = await joined([plugin], [memoryPlugin()]);
      assert.is(both.near.plugin, 'memory');
      assert.match(both.near.why ?? '', /memory \(first\): not this one/);
      assert.equal(seen, ['first', 'second']);
      await talk(both);
    }),
  );

  // ── Faults of plugins ──────────────────────────────────────────────────────────────────────────────────────────────

  const oops = (): never => {
    throw new Error('oops');
  };
  /** Returns something that is no stream for messages. */
  const gives = (make: () => unknown) => ({
    attempt: (channel: StreamChannel) => {
      setImmediate(() => channel.ok(make() as Duplex));
      return {};
    },
  });
  const destroyed = () => new Half().destroy();
  const encoded = () => new Half().setEncoding('utf8');
  const faults: Record<string, Partial<StreamPluginDefinition>> = {
    'throws in unavailable': { unavailable: oops },
    'is not available': { unavailable: () => 'oops' },
    'throws in attempt': { attempt: oops },
    'throws a value that is no error in attempt': {
      attempt: () => {
        throw 'oops';
      },
    },
    'throws in step, and in undo': { attempt: () => ({ step: oops, undo: oops }) },
    'rejects in step': { attempt: () => ({ step: async () => oops() }) },
    'gives up at once': {
      attempt(channel) {
        channel.next('oops');
        return undefined;
      },
    },
    'gives up later, more than once, and continues to send': {
      attempt(channel) {
        setImmediate(() => {
          channel.next('oops');
          channel.next('again');
          channel.step(STEP.STEP1, Buffer.alloc(3));
          channel.ok(new Half());
        });
        return {};
      },
    },
    'sends an invalid frame': {
      attempt(channel) {
        setImmediate(() => channel.step(5, Buffer.alloc(3)));
        return {};
      },
    },
    'sends too much': {
      attempt(channel) {
        channel.step(STEP.STEP2, Buffer.alloc(5000));
        return {};
      },
    },
    'gives nothing': gives(() => undefined),
    'gives an object': gives(() => ({})),
    'gives a stream of objects': gives(() => new Duplex({ objectMode: true, read() {}, write() {} })),
    'gives a stream that is closed': gives(destroyed),
    'gives a stream of strings': gives(encoded),
  };
  /** Sends first, as the other side of a plugin under test. */
  const eager = memoryPlugin({
    attempt(channel) {
      channel.step(STEP.STEP1, Buffer.of(255));
      return {};
    },
  });

  for (const [what, fault] of Object.entries(faults)) {
    test(
      `a plugin that ${what}: the next one is used, on either side`,
      timebox(20, async () => {
        for (const side of ['near', 'far'] as const) {
          const faulty = memoryPlugin(fault);
          const both = await (side === 'near' ? joined([faulty], [eager]) : joined([eager], [faulty]));
          assert.is(both.near.plugin, 'tcp');
          assert.is(both.far.plugin, 'tcp');
          assert.match(both[side].why ?? '', /memory: (oops|step: |the plugin gave no|the stream )/, side);
          await talk(both);
        }
      }),
    );
  }

  test(
    'a plugin that throws in propose',
    timebox(20, async () => {
      const both = await joined([memoryPlugin({ propose: oops })], [memoryPlugin()]);
      assert.is(both.near.plugin, 'tcp');
      assert.match(both.near.why ?? '', /memory: oops/);
    }),
  );

  test(
    'a plugin that is never ready: the handshake has a limit, and the attempt is undone',
    timebox(20, async () => {
      let undone = 0;
      const waits = () => memoryPlugin({ attempt: () => ({ undo: () => undone++ }) });
      const a = await newRuntime([waits()], { handshakeTimeout: 300 });
      const b = await newRuntime([waits()], { handshakeTimeout: 300 });
      const { port } = await b.listen({}, () => {});
      const error = await rejection(a.connect(`127.0.0.1:${port}`));
      assert.match(code(error), /^ERR_ISTHMUS_HANDSHAKE_(TIMEOUT|REFUSED)$/);
      while (undone < 2) await pause(5);
      assert.is(undone, 2);
    }),
  );

  test(
    'a stream that comes too late, or twice, is closed',
    timebox(20, async () => {
      const late: Half[] = [];
      const plugin = memoryPlugin({
        attempt(channel) {
          const inner = memoryAttempt(channel, () => {});
          const second = new Half();
          late.push(second);
          setTimeout(() => channel.ok(second), 50);
          return inner;
        },
      });
      const both = await joined([plugin], [memoryPlugin()]);
      assert.is(both.near.plugin, 'memory');
      while (!late[0]?.destroyed) await pause(5);
      await talk(both);
    }),
  );

  test(
    'a stream that fails: an error of its connection, on both sides, and of no other',
    timebox(30, async () => {
      for (const how of ['throws', 'is destroyed', 'ends'] as const) {
        const made: Half[] = [];
        const plugin = memoryPlugin({}, (half) => made.push(half));
        const [a, b] = [await newRuntime([plugin]), await newRuntime([memoryPlugin()])];
        const good = await join2(a, b);
        const bad = await join2(a, b);
        const half = made.at(-1) as Half;
        await bad.far.send('before');
        await bad.far.flush();
        while (half.readableLength > 0) await pause(1);
        await pause(5);
        if (how === 'throws') {
          half.fault = new Error('oops');
          await bad.near.send('x');
        } else if (how === 'is destroyed') half.destroy(new Error('oops'));
        else half.push(null);
        assert.is((await bad.near.receive())?.text(), 'before');
        assert.is(code(await rejection(bad.near.receive())), 'ERR_ISTHMUS_PEER_DIED');
        const closed = await bad.near.closed;
        if (how !== 'ends') assert.match(closed.error?.message ?? '', 'oops');
        // This side learns it from the guard: its stream was not told.
        assert.is((await bad.far.closed).error?.code, 'ERR_ISTHMUS_PEER_DIED');
        await talk(good);
      }
    }),
  );

  test(
    'a stream that does not detect the end: the guard reports it, in order or not',
    timebox(30, async () => {
      for (const end of ['destroy', 'close'] as const) {
        const made: Half[] = [];
        const both = await joined([memoryPlugin({}, (half) => made.push(half))], [memoryPlugin()]);
        await both.near.send('all of it');
        await both.near.flush();
        const half = made[0] as Half;
        // Bytes written from here on arrive, but their end does not.
        half._final = (callback) => callback();
        if (end === 'destroy') both.near.destroy();
        else both.near.close({ timeout: 10_000 }).catch(() => {});
        assert.is((await both.far.receive())?.text(), 'all of it');
        if (end === 'close') assert.is(await both.far.receive(), undefined);
        else assert.is(code(await rejection(both.far.receive())), 'ERR_ISTHMUS_PEER_DIED');
        const { reason } = await both.far.closed;
        assert.is(reason, end === 'close' ? 'peer' : 'error');
      }
    }),
  );

  test(
    'without a guard (PSP_GUARD=0) its end means nothing',
    timebox(20, async () => {
      const made: Half[] = [];
      const both = await joined([memoryPlugin({}, (half) => made.push(half))], [memoryPlugin()], { guard: false });
      both.near.destroy();
      await pause(2500);
      assert.is(both.far.state, 'open');
      both.far.destroy();
    }),
  );

  test(
    'a plugin that fails to destroy itself does not block the end of the runtime, and is reported',
    timebox(20, async () => {
      let called = 0;
      const lines: string[] = [];
      const runtime = await newRuntime(
        [
          memoryPlugin({ name: 'one', archId: 2001, destroy: oops }),
          memoryPlugin({
            name: 'two',
            archId: 2002,
            destroy: async () => oops(),
          }),
          memoryPlugin({ name: 'three', archId: 2003, destroy: () => new Promise(() => {}) }),
          memoryPlugin({
            name: 'four',
            archId: 2004,
            async destroy() {
              called++;
            },
          }),
        ],
        { debug: 1, log: (_level, line) => lines.push(line) },
      );
      await runtime.close();
      await runtime.close();
      assert.is(called, 1);
      assert.equal(lines.sort(), [
        'plugin one failed to let go: oops',
        'plugin three failed to let go: not done after 5000 ms',
        'plugin two failed to let go: oops',
      ]);
    }),
  );

  register('nothing was left unhandled', () => {
    assert.equal(unhandled, []);
  });

  test.after.each(async () => {
    await closeRuntimes();
  });
  test.after(async () => {
    await shared?.close({ timeout: 500 });
    await endChildren();
    rmSync(folder, { recursive: true, force: true });
  });
  test.run();
}

if (role) await play(roles);
else await main(testSeed());
