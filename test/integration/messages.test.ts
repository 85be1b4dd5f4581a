/**
 * Messages between real processes: the conformance suite for `loop`, `shm`, `ivshmem` and `tcp`, and tests of a
 * runtime.
 *
 * The far end of all but `loop` is a process, test/children/messages.ts.
 */

import { setTimeout as pause } from 'node:timers/promises';
import { test as register } from 'uvu';
import * as assert from 'uvu/assert';
import type { Connection } from '../../host/api/connection.js';
import { IsthmusError } from '../../host/base/errors.js';
import type { RuntimeConnection } from '../../host/connection/connection.js';
import { Runtime, type RuntimeOptions } from '../../host/runtime/runtime.js';
import { callFar, conformance, type Far, FarEnd, type Subject } from '../support/conformance.js';
import { pairsWith } from '../support/far.js';
import { rejection } from '../support/outcomes.js';
import { Child, chosen, endChildren, program } from '../support/process.js';
import { MIB, newRegion, newShm, only, onlyShm, removeRegions } from '../support/regions.js';
import { testSeed } from '../support/seeded.js';
import { timebox } from '../support/timebox.js';

const RING = 65_536;
const test = chosen(register);

const code = (error: unknown) => (error instanceof IsthmusError ? error.code : String(error));

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await pause(2);
}

/** Runtimes of this process, closed at the end. */
const runtimes: Runtime[] = [];
async function newRuntime(options: RuntimeOptions): Promise<Runtime> {
  const runtime = await Runtime.create(options);
  runtimes.push(runtime);
  return runtime;
}

interface InProcess {
  readonly near: Connection;
  readonly far: Connection;
  readonly a: Runtime;
  readonly b: Runtime;
}

/** Two runtimes in this process, connected. */
async function inProcess(regions: string, first: RuntimeOptions = {}, second: RuntimeOptions = {}): Promise<InProcess> {
  const [a, b] = await Promise.all([newRuntime(only(regions, first)), newRuntime(only(regions, second))]);
  let far: Connection | undefined;
  const { port } = await b.listen({}, async (connection) => {
    far = connection;
    await connection.closed;
  });
  const near = await a.connect({ host: '127.0.0.1', port });
  await until(() => far !== undefined);
  return { near, far: far as unknown as Connection, a, b };
}

async function main(seed: number): Promise<void> {
  // No error is reported to the test that opened it: that test has failed or is over.
  const unhandled: unknown[] = [];
  process.on('unhandledRejection', (reason) => {
    console.error('unhandled rejection:', reason);
    unhandled.push(reason);
  });

  // ── The conformance suite ──────────────────────────────────────────────────────────────────────────────────────────

  const remote = (plugin: string): Subject => ({
    plugin,
    ring: RING,
    seed,
    stream: plugin === 'tcp',
    open: pairsWith(async () => {
      const rings = { ringSize: RING, tcpRingSize: RING };
      const options =
        plugin === 'shm'
          ? onlyShm(newShm().shmName, { ...rings, shmSize: 16 * MIB })
          : only(plugin === 'tcp' ? '' : newRegion(), rings);
      const child = Child.start(program('messages'), 'far', options);
      return { runtime: await newRuntime(options), child };
    }),
  });

  const loop = (): Subject => {
    let runtime: Runtime | undefined;
    let port = 0;
    const ends: FarEnd[] = [];
    return {
      plugin: 'loop',
      ring: RING,
      seed,
      async open() {
        if (!runtime) {
          runtime = await newRuntime(only('', { tcpRingSize: RING }));
          const listening = await runtime.listen({}, async (connection) => {
            ends.push(new FarEnd(connection));
            await connection.closed;
          });
          port = listening.port;
        }
        const near = await runtime.connect({ host: '127.0.0.1', port });
        const end = ends.at(-1) as FarEnd;
        return { near, far: (async (method, ...args) => callFar(end, method, args)) as Far };
      },
    };
  };

  for (const subject of [loop(), remote('shm'), remote('ivshmem'), remote('tcp')]) conformance(subject, test);

  // ── Addresses and plugins ──────────────────────────────────────────────────────────────────────────────────────────

  test(
    'addresses: strings and parts',
    timebox(20, async () => {
      const server = await newRuntime(only(''));
      const client = await newRuntime(only(''));
      const { port } = await server.listen({}, (connection) => connection.send('hello'));
      for (const address of [`127.0.0.1:${port}`, `localhost:${port}`, { host: '127.0.0.1', port }]) {
        const connection = await client.connect(address);
        assert.is(connection.plugin, 'tcp');
        assert.is((await connection.receive())?.text(), 'hello');
        await connection.close();
      }
      const ipv6 = await server.listen({ host: '::1' }, (connection) => connection.send('six')).catch(() => undefined);
      if (ipv6) {
        const connection = await client.connect(`[::1]:${ipv6.port}`);
        assert.is((await connection.receive())?.text(), 'six');
        await connection.close();
      }
    }),
  );

  test(
    'invalid addresses',
    timebox(10, async () => {
      const runtime = await newRuntime(only('', { retry: 0 }));
      const bad: unknown[] = [
        '',
        'x',
        ':1',
        'host:',
        'host:0',
        'host:65536',
        'host:-1',
        'host:1x',
        '::1:80',
        '[::1]',
        'a:b:c',
        { host: '', port: 1 },
        { host: 'a', port: 0 },
        { host: 'a', port: 1.5 },
        { host: 'a', port: '80' },
        { host: 'a' },
        { port: 1 },
        {},
      ];
      for (const address of bad) {
        assert.is(code(await rejection(runtime.connect(address as string))), 'ERR_ISTHMUS_INVALID_ARGUMENT');
      }
      for (const address of [undefined, null, 80]) {
        assert.is(
          code(await rejection(runtime.connect(address as unknown as string))),
          'ERR_ISTHMUS_INVALID_ARGUMENT',
          String(address),
        );
      }
      for (const port of [-1, 65_536, 1.5, '80']) {
        assert.is(
          code(await rejection(runtime.listen({ port: port as number }, () => {}))),
          'ERR_ISTHMUS_INVALID_ARGUMENT',
        );
      }
      assert.is(code(await rejection(runtime.listen({}, 'none' as any))), 'ERR_ISTHMUS_INVALID_ARGUMENT');
      assert.is(code(await rejection(Runtime.create({ name: '' }))), 'ERR_ISTHMUS_INVALID_ARGUMENT');
      const listening = await runtime.listen({}, () => {});
      assert.is(code(await rejection(runtime.listen({ port: listening.port }, () => {}))), 'ERR_ISTHMUS_LISTEN');
      await listening.close();
      assert.is(code(await rejection(runtime.connect(`127.0.0.1:${listening.port}`))), 'ERR_ISTHMUS_CONNECT');
    }),
  );

  test(
    'invalid data',
    timebox(10, async () => {
      const { near, far } = await inProcess('');
      for (const data of [undefined, null, 1, {}, []]) {
        assert.is(code(await rejection(near.send(data as any))), 'ERR_ISTHMUS_INVALID_ARGUMENT');
        assert.throws(
          () => near.trySend(data as any),
          (error: unknown) => code(error) === 'ERR_ISTHMUS_INVALID_ARGUMENT',
        );
      }
      await near.send('häuser');
      await near.send(new Uint8Array([1, 2]).buffer);
      await near.send(Buffer.from('buffer'));
      assert.is((await far.receive())?.text(), 'häuser');
      assert.equal([...((await far.receive())?.data ?? [])], [1, 2]);
      assert.is((await far.receive())?.text(), 'buffer');
    }),
  );

  test(
    'a connection to an own listener uses loop, unless loop is disabled',
    timebox(20, async () => {
      for (const [loop, plugin] of [
        [undefined, 'loop'],
        [0, 'tcp'],
      ] as const) {
        const runtime = await newRuntime(only('', { loop }));
        const { port } = await runtime.listen({}, async (connection) => {
          for await (const message of connection) await connection.send(message.data);
        });
        const connection = await runtime.connect(`localhost:${port}`);
        assert.is(connection.plugin, plugin);
        assert.is(connection.peer.pid, process.pid);
        await connection.send('to myself');
        assert.is((await connection.receive())?.text(), 'to myself');
        await connection.close();
        await runtime.close();
      }
    }),
  );

  test(
    'accept decides about every peer, also in the own process',
    timebox(20, async () => {
      const server = await newRuntime(only('', { name: 'a server' }));
      const client = await newRuntime(only('', { name: 'clientäöü' }));
      const names: string[] = [];
      let take = false;
      const accept = ({ name }: { name: string }) => {
        names.push(name);
        return take;
      };
      const { port } = await server.listen({ accept }, () => {});
      assert.is(code(await rejection(client.connect(`127.0.0.1:${port}`))), 'ERR_ISTHMUS_HANDSHAKE_REFUSED');
      assert.is(code(await rejection(server.connect(`127.0.0.1:${port}`))), 'ERR_ISTHMUS_HANDSHAKE_REFUSED');
      assert.equal(names, ['clientä', 'a server']);
      take = true;
      const connection = await client.connect(`127.0.0.1:${port}`);
      assert.is(connection.peer.name, 'a server');
      assert.is(connection.peer.pid, process.pid);
    }),
  );

  // ── Limits ─────────────────────────────────────────────────────────────────────────────────────────────────────────

  for (const plugin of ['ivshmem', 'tcp']) {
    test(
      `${plugin}: a message over the limit of the sender, and of the receiver`,
      timebox(20, async () => {
        const regions = plugin === 'tcp' ? '' : newRegion();
        const limited = await inProcess(regions, { maxMessageSize: 1000 });
        for (const [length, xlength] of [
          [1001, 0],
          [999, 2],
        ] as const) {
          const options = { xheader: new Uint8Array(xlength) };
          const error = await rejection(limited.near.send(new Uint8Array(length), options));
          assert.is(code(error), 'ERR_ISTHMUS_MESSAGE_TOO_LARGE');
          assert.is((error as IsthmusError).needed, 1001);
          assert.is((error as IsthmusError).available, 1000);
        }
        await limited.near.send(new Uint8Array(1000));
        assert.is((await limited.far.receive())?.data.length, 1000);

        for (const length of [1001, 1 << 20]) {
          const { near, far } = await inProcess(regions, {}, { maxMessageSize: 1000 });
          assert.is(near.plugin, plugin);
          await near.send('one before it');
          const sent = near.send(new Uint8Array(length)).catch(code);
          assert.is((await far.receive())?.text(), 'one before it');
          assert.is(code(await rejection(far.receive())), 'ERR_ISTHMUS_MESSAGE_TOO_LARGE');
          const closed = await far.closed;
          assert.is(closed.reason, 'error');
          assert.is(closed.error?.code, 'ERR_ISTHMUS_MESSAGE_TOO_LARGE');
          assert.is((await near.closed).error?.code, 'ERR_ISTHMUS_PEER_DIED');
          const result = await sent;
          assert.ok(result === undefined || result === 'ERR_ISTHMUS_PEER_DIED', String(result));
        }
      }),
    );
  }

  for (const size of [4096, 8192, 1 << 18, 1 << 20, 1 << 22]) {
    test(
      `rings of ${size} bytes`,
      timebox(30, async () => {
        for (const regions of ['', newRegion(64 << 20)]) {
          const options = { ringSize: size, tcpRingSize: size };
          const { near, far, a, b } = await inProcess(regions, options, options);
          const most = size / 4;
          for (const length of [0, most - 1, most, most + 47, most + 48, most + 49, 70_000, size + 1]) {
            const data = Buffer.alloc(length, length & 0xff);
            const [message] = await Promise.all([far.receive(), near.send(data)]);
            assert.is(Buffer.compare(message?.data ?? Buffer.alloc(0), data), 0, `${near.plugin}: ${length}`);
            const [answer] = await Promise.all([near.receive(), far.send(data, { xheader: data.subarray(0, 3000) })]);
            assert.is(Buffer.compare(answer?.data ?? Buffer.alloc(0), data), 0, `${near.plugin}: ${length}`);
          }
          await a.close();
          await b.close();
        }
      }),
    );
  }

  // ── Ends ───────────────────────────────────────────────────────────────────────────────────────────────────────────

  for (const plugin of ['ivshmem', 'tcp']) {
    const server = async () => {
      const regions = plugin === 'tcp' ? '' : newRegion();
      const runtime = await newRuntime(only(regions));
      const { port } = await runtime.listen({}, async (connection) => {
        await connection.closed;
      });
      return { runtime, regions, port };
    };

    test(
      `${plugin}: a connection keeps its process alive, an unreferenced one does not`,
      timebox(30, async () => {
        const { regions, port } = await server();
        for (const hold of [false, true]) {
          const child = Child.start(program('messages'), 'unreferenced', { port, regions, hold });
          assert.is(await child.event('connected'), plugin);
          const start = performance.now();
          if (hold) {
            await pause(500);
            // Only the connection is referenced.
            assert.is(child.process.exitCode, null, 'it ended although it has a connection');
            await child.kill();
          } else {
            assert.equal(await child.ended(10), { code: 0, signal: null });
          }
          assert.ok(performance.now() - start < 10_000);
        }
      }),
    );

    test(
      `${plugin}: a process ends by itself when it has closed its runtime`,
      timebox(20, async () => {
        const { regions, port } = await server();
        const child = Child.start(program('messages'), 'program', { port, regions });
        const closed = await child.event<{ state: string; resources: string[] }>('closed');
        assert.is(closed.state, 'closed');
        assert.equal(await child.ended(10), { code: 0, signal: null });
      }),
    );

    test(
      `${plugin}: closing a runtime closes its connections in order, and is idempotent`,
      timebox(20, async () => {
        const { near, far, a, b } = await inProcess(plugin === 'tcp' ? '' : newRegion());
        assert.is(a.connections().length, 1);
        await far.send('before');
        await near.send('also before');
        const waiting = near.receive();
        assert.is((await waiting)?.text(), 'before');
        const again = near.receive();
        await Promise.all([a.close(), a.close(), a[Symbol.asyncDispose]()]);
        await a.close();
        assert.is(await again, undefined);
        assert.is(near.state, 'closed');
        assert.equal(await near.closed, { reason: 'local' });
        assert.is((await far.receive())?.text(), 'also before');
        assert.is(await far.receive(), undefined);
        assert.equal(await far.closed, { reason: 'peer' });
        assert.equal(a.connections(), []);
        assert.equal(a.regions(), []);
        assert.is(code(await rejection(a.connect('127.0.0.1:1'))), 'ERR_ISTHMUS_CLOSED');
        assert.is(code(await rejection(a.listen({}, () => {}))), 'ERR_ISTHMUS_CLOSED');
        await b.close();
      }),
    );

    test(
      `${plugin}: borrowed bytes survive the end of the runtime`,
      timebox(20, async () => {
        const { near, far, a } = await inProcess(plugin === 'tcp' ? '' : newRegion());
        await near.send(Buffer.alloc(3000, 1), { xheader: Buffer.alloc(10, 2) });
        await near.send(Buffer.alloc(40, 3));
        await far.send(Buffer.alloc(500, 4), { xheader: Buffer.alloc(5, 5) });
        const message = await near.borrow();
        assert.ok(message);
        await a.close();
        assert.equal(message.data.slice(), new Uint8Array(500).fill(4));
        assert.equal(message.xheader.slice(), new Uint8Array(5).fill(5));
        assert.is((await far.receive())?.data.length, 3000);
        assert.is((await far.receive())?.data.length, 40);
        assert.is(await far.receive(), undefined);
        assert.equal(message.data.slice(), new Uint8Array(500).fill(4));
        message.release();
        assert.throws(() => message.data);
      }),
    );

    test(
      `${plugin}: a handler that throws ends its connection and nothing else`,
      timebox(20, async () => {
        const regions = plugin === 'tcp' ? '' : newRegion();
        const lines: string[] = [];
        const server = await newRuntime(only(regions, { debug: 1, log: (_level, line) => lines.push(line) }));
        const client = await newRuntime(only(regions));
        const { port } = await server.listen({}, async (connection) => {
          const message = await connection.receive();
          if (message?.text() === 'fail') throw new Error('of the handler');
          await connection.send('well');
          await connection.closed;
        });
        const [good, bad] = await Promise.all([
          client.connect(`127.0.0.1:${port}`),
          client.connect(`127.0.0.1:${port}`),
        ]);
        await bad.send('fail');
        assert.is(code(await rejection(bad.receive())), 'ERR_ISTHMUS_PEER_DIED');
        await good.send('go on');
        assert.is((await good.receive())?.text(), 'well');
        assert.ok(
          lines.some((line) => line.includes('of the handler')),
          lines.join('\n'),
        );
      }),
    );
  }

  test(
    'a connect can be aborted, and ends with its runtime',
    timebox(20, async () => {
      const runtime = await newRuntime(only('', { retry: 1000 }));
      const silent = await newRuntime(only(''));
      // The handshake is not answered while `accept` is pending.
      const { port } = await silent.listen({ accept: () => new Promise(() => {}) }, () => {});
      const reason = new Error('enough');
      assert.is(await rejection(runtime.connect(`127.0.0.1:${port}`, { signal: AbortSignal.abort(reason) })), reason);
      const controller = new AbortController();
      const late = rejection(runtime.connect(`127.0.0.1:${port}`, { signal: controller.signal }));
      const ended = rejection(runtime.connect(`127.0.0.1:${port}`));
      await pause(100);
      controller.abort(reason);
      assert.is(await late, reason);
      await runtime.close();
      assert.is(code(await ended), 'ERR_ISTHMUS_CLOSED');
    }),
  );

  test(
    'many connections at once between two processes',
    timebox(30, async () => {
      const options = only(newRegion(), { ringSize: 16_384 });
      const child = Child.start(program('messages'), 'far', options);
      const port = await child.call<number>('port');
      const runtime = await newRuntime(options);
      const connections = await Promise.all(
        Array.from({ length: 40 }, () => runtime.connect({ host: '127.0.0.1', port })),
      );
      assert.equal(new Set(connections.map(({ plugin }) => plugin)), new Set(['ivshmem']));
      await child.call('newest', 40);
      const echoes = Array.from({ length: 40 }, (_, end) => child.call('call', end, 'echo', [20]));
      await Promise.all(
        connections.map(async (connection, place) => {
          for (let i = 0; i < 20; i++) {
            await connection.send(`${place}: ${i}`);
            assert.is((await connection.receive())?.text(), `${place}: ${i}`);
          }
        }),
      );
      await Promise.all(echoes);
      await runtime.close();
      await child.kill();
    }),
  );

  register('no rejection was left unhandled', () => {
    assert.equal(unhandled, []);
  });

  test.after(async () => {
    await Promise.all(runtimes.map((runtime) => runtime.close({ timeout: 500 })));
    await endChildren();
    removeRegions();
  });
  test(
    'a chain of messages that are available at once leaves turns to the event loop',
    timebox(20, async () => {
      await using runtime = await Runtime.create(only(''));
      let accept!: (connection: Connection) => void;
      const accepted = new Promise<Connection>((resolve) => {
        accept = resolve;
      });
      const { port } = await runtime.listen({}, (connection) => accept(connection));
      const near = await runtime.connect(`127.0.0.1:${port}`);
      assert.is(near.plugin, 'loop');
      const far = await accepted;
      let turns = 0;
      let immediate: NodeJS.Immediate | undefined;
      const turn = () => {
        turns++;
        immediate = setImmediate(turn);
      };
      // One turn in a millisecond, while this process has a processor.
      const end = performance.now() + 5000;
      immediate = setImmediate(turn);
      for (let i = 0; turns < 3 && performance.now() < end; i++) {
        await near.send(Uint8Array.of(i));
        assert.is((await far.receive())?.data[0], i & 255);
      }
      clearImmediate(immediate);
      assert.is(turns, 3);
    }),
  );

  test(
    'a peer that reads a large message slowly does not block the event loop for all of it',
    timebox(60, async () => {
      // Records of 1 KiB: each finds room a moment after it was refused.
      const { shmName } = newShm();
      const options = onlyShm(shmName, { shmSize: 16 * MIB, rendezvousShm: 0xffff_ffff });
      const child = Child.start(program('messages'), 'bits', { ...options, ringSize: 4096 });
      const runtime = await newRuntime(options);
      const near = (await runtime.connect(`127.0.0.1:${await child.call('port')}`)) as RuntimeConnection;
      assert.equal([near.plugin, near.stats().ringSize], ['shm', 4096]);
      const bytes = new Uint8Array(4 * MIB);
      // A sender that is interrupted for a moment gives up anyway: several attempts, so that some are not.
      for (let i = 0; i < 20; i++) {
        const taken = child.call('take', bytes.length);
        await until(() => near.core.call.receiverWaits(near.index) === 1);
        const sent = near.send(bytes);
        assert.is(near.stats().pendingSends, 1, 'all of it in one call');
        await sent;
        assert.is(await taken, bytes.length);
      }
      near.destroy();
    }),
  );

  test(
    'a large message for a receiver that seemed to wait and does not read it: it arrives complete, the next ones go through the region',
    timebox(20, async () => {
      const { near, far, a } = await inProcess(newRegion(32 * MIB));
      const target = new Uint8Array(2 * MIB);
      const free = () => a.regions().reduce((sum, region) => sum + region.freeFrames, 0);
      const take = async (fill: number) => {
        let length = -1;
        for (let turns = 0; length < 0; turns++) {
          assert.ok(turns < 10_000, 'it does not arrive');
          length = far.tryReceiveInto(target);
          if (length < 0) await a.turn();
        }
        assert.is(length, target.length);
        assert.ok(target.every((byte) => byte === fill));
      };
      // Both ends are on this thread: while one sends, the other cannot read anything.
      const bytes = new Uint8Array(target.length);
      let before = 0;
      // A thread that is interrupted between the reads and the send finds a receiver that does not wait: several attempts.
      for (let attempt = 0; ; attempt++) {
        for (let i = 0; i < 10; i++) assert.is(far.tryReceiveInto(target), -1);
        bytes.fill(1);
        before = free();
        assert.ok(near.trySend(bytes));
        bytes.fill(9); // The sender may write to it again.
        if (free() === before) break;
        assert.ok(attempt < 20, 'through the ring');
        await take(1);
      }
      assert.is(near.stats().pendingSends, 1, 'as far as there was room');
      await take(1);
      assert.is(far.tryReceiveInto(target), -1);
      before = free();
      assert.ok(near.trySend(bytes));
      assert.ok(free() < before, 'through a run');
      assert.is(near.stats().pendingSends, 0);
      await take(9);
      near.destroy();
    }),
  );

  test.run();
}

await main(testSeed());
