/**
 * Suspending and resuming, over each plugin: no message is lost, doubled or out of order, whichever end suspends, and
 * whatever is in transfer. Runtimes of this process, and a separate process where one has to be stopped or killed.
 */

import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { setTimeout as pause } from 'node:timers/promises';
import { test as register } from 'uvu';
import * as assert from 'uvu/assert';
import type { Connection } from '../../host/api/connection.js';
import { IsthmusError } from '../../host/base/errors.js';
import { encodeArchReq, encodeConInfo, encodeFrame, encodeVersion, FRAME } from '../../host/handshake/frames.js';
import { Runtime, type RuntimeOptions } from '../../host/runtime/runtime.js';
import { SimulatedHosts } from '../support/hosts.js';
import { eventually, rejection } from '../support/outcomes.js';
import { Child, chosen, endChildren, play, role, roleOptions, serve } from '../support/process.js';
import { MIB, newRegion, newShm, only, onlyShm, removeRegions } from '../support/regions.js';
import { seededBytes, testSeed } from '../support/seeded.js';
import { timebox } from '../support/timebox.js';

const test = chosen(register);

const roles: Record<string, () => Promise<void>> = {
  /** Echoes each message, and can be stopped or killed. */
  async echo() {
    const runtime = await Runtime.create(roleOptions<RuntimeOptions>());
    const connections: Connection[] = [];
    const { port } = await runtime.listen({}, async (connection) => {
      connections.push(connection);
      for await (const message of connection) await connection.send(message.data);
    });
    serve({
      port: () => port,
      suspend: () => runtime.suspend(),
      resume: () => runtime.resume(),
      states: () => connections.map(({ state, plugin }) => `${state} ${plugin}`),
    });
  },
};

const runtimes: Runtime[] = [];
const unhandled: unknown[] = [];

async function newRuntime(options: RuntimeOptions): Promise<Runtime> {
  const runtime = await Runtime.create(options);
  runtimes.push(runtime);
  return runtime;
}

interface Meeting {
  readonly a: Runtime;
  readonly b: Runtime;
  /** The ends of a and b: a has connected. */
  readonly near: Connection;
  readonly far: Connection;
}

async function meet(first: RuntimeOptions, second: RuntimeOptions = first): Promise<Meeting> {
  const a = await newRuntime(first);
  const b = await newRuntime({ ...second, loop: 0 });
  let came!: (connection: Connection) => void;
  const accepted = new Promise<Connection>((resolve) => {
    came = resolve;
  });
  const { port } = await b.listen({}, came);
  const near = await a.connect({ host: '127.0.0.1', port });
  return { a, b, near, far: await accepted };
}

const numbered = (number: number, length = 8): Uint8Array => {
  const bytes = new Uint8Array(length).fill(number % 251);
  new DataView(bytes.buffer).setUint32(0, number);
  return bytes;
};

const numberOf = (data: Uint8Array): number => new DataView(data.buffer, data.byteOffset).getUint32(0);

/** Receive this many messages, numbered from `first` on. */
async function expect(connection: Connection, count: number, first = 0): Promise<void> {
  for (let number = first; number < first + count; number++) {
    const message = await connection.receive();
    if (!message) throw new Error(`the end instead of message ${number}`);
    assert.is(numberOf(message.data), number);
    if (message.data.length > 8) assert.ok(message.data.subarray(4).every((byte) => byte === number % 251));
  }
}

const lengths = [8, 8, 8, 100, 4000, 70_000];

/** Send in both directions at once until stopped; then all messages must have arrived in order. */
function traffic({ near, far }: Meeting): { stop(): Promise<number> } {
  let going = true;
  const oneWay = async (from: Connection, to: Connection) => {
    let sent = 0;
    const sending = (async () => {
      while (going) {
        await from.send(numbered(sent, lengths[sent % lengths.length]));
        sent++;
        if (sent % 8 === 0) await new Promise((resolve) => setImmediate(resolve));
      }
      await from.send(numbered(0xffffffff));
    })();
    for (let number = 0; ; number++) {
      const message = await to.receive();
      if (!message) throw new Error(`the end instead of message ${number}`);
      const found = numberOf(message.data);
      if (found === 0xffffffff) {
        assert.is(number, sent, 'messages received');
        break;
      }
      assert.is(found, number);
      assert.is(message.data.length, lengths[number % lengths.length]);
    }
    await sending;
    return sent;
  };
  const both = Promise.all([oneWay(near, far), oneWay(far, near)]);
  both.catch(() => {});
  return {
    async stop() {
      going = false;
      const [there, back] = await both;
      return there + back;
    },
  };
}

function* chunksOf(bytes: Buffer): Generator<Buffer> {
  for (let at = 0; at < bytes.length; at += 20_000) yield bytes.subarray(at, at + 20_000);
}

async function main(): Promise<void> {
  process.on('unhandledRejection', (reason) => unhandled.push(reason));
  for (const plugin of ['ivshmem', 'shm', 'tcp'] as const) {
    const options = (): RuntimeOptions =>
      plugin === 'shm' ? onlyShm(newShm().shmName) : only(plugin === 'tcp' ? '' : newRegion());
    const open = async (more: RuntimeOptions = {}): Promise<Meeting> => {
      const meeting = await meet({ ...options(), ...more });
      assert.is(meeting.near.plugin, plugin);
      return meeting;
    };

    for (const by of ['a', 'b', 'both'] as const) {
      test(
        `${plugin}: suspended by ${by === 'both' ? 'both' : by === 'a' ? 'the connecting end' : 'the listening end'}, and back`,
        timebox(30, async () => {
          const meeting = await open();
          const { a, b, near, far } = meeting;
          const those = by === 'both' ? [a, b] : [meeting[by]];
          const states: string[] = [];
          those[0]?.onMigration((state) => states.push(state));
          await near.send(numbered(0));
          await expect(far, 1);
          await far.send(numbered(0)); // Unread.
          await Promise.all(those.map((runtime) => runtime.suspend()));
          await eventually('both are suspended', () => near.state === 'suspended' && far.state === 'suspended');
          for (const runtime of those) {
            assert.is(runtime.migration, 'allowed');
            assert.equal(runtime.regions(), []);
          }
          const sends = [near.send(numbered(1)), far.send(numbered(1)), near.send(numbered(2))];
          assert.not(near.trySend(numbered(9)));
          await pause(20);
          assert.is(near.state, 'suspended');
          await Promise.all(those.map((runtime) => runtime.resume()));
          assert.is(those[0]?.migration, 'inactive');
          await Promise.all(sends);
          await expect(far, 2, 1);
          await expect(near, 2);
          assert.equal([near.state, far.state, near.plugin, far.plugin], ['open', 'open', plugin, plugin]);
          assert.equal(states, ['requested', 'preparing', 'allowed', 'finished', 'resuming', 'inactive']);
          assert.ok(near.stats().messagesSent >= 3 && far.stats().messagesSent >= 2, 'counters continue');
          await near.close();
          assert.is(await far.receive(), undefined);
        }),
      );
    }

    test(
      `${plugin}: under traffic, repeatedly`,
      timebox(90, async () => {
        const meeting = await open({ rendezvousShm: 50_000, rendezvousIvshmem: 50_000 });
        const { a, b } = meeting;
        const { stop } = traffic(meeting);
        for (const those of [[a], [b], [a, b], [b], [a], [b, a], [a]]) {
          await pause(20);
          await Promise.all(those.map((runtime) => runtime.suspend()));
          await pause(5);
          await Promise.all(those.map((runtime) => runtime.resume()));
        }
        await pause(20);
        assert.ok((await stop()) > 100);
      }),
    );

    test(
      `${plugin}: the waiting message is longer than the ring of the next link`,
      timebox(30, async () => {
        const meeting = await open({
          ringSize: 65_536,
          rendezvous: 2 * MIB,
          rendezvousShm: 2 * MIB,
          rendezvousIvshmem: 2 * MIB,
        });
        const { a, b, near, far } = meeting;
        await a.suspend();
        await eventually('the other end is suspended', () => far.state === 'suspended');
        // Nothing else makes either side check for room again.
        const sends = [far.send(numbered(0, 1_000_000))];
        await a.resume();
        await expect(near, 1);
        await b.suspend();
        sends.push(near.send(numbered(0, 1_000_000)), far.send(numbered(1, 1_000_000)));
        await b.resume();
        await Promise.all([expect(near, 1, 1), expect(far, 1), ...sends]);
      }),
    );

    test(
      `${plugin}: one end suspends while the other is suspended already; resumed in either order`,
      timebox(30, async () => {
        for (const first of ['a', 'b'] as const) {
          const meeting = await open();
          const { a, b, near, far } = meeting;
          await a.suspend();
          await eventually('the other end is suspended', () => far.state === 'suspended');
          await b.suspend();
          const sends = [near.send(numbered(0)), far.send(numbered(0))];
          const other = first === 'a' ? b : a;
          await meeting[first].resume();
          await other.resume();
          await Promise.all(sends);
          await expect(near, 1);
          await expect(far, 1);
          await a.close();
          await b.close();
        }
      }),
    );

    test(
      `${plugin}: messages are unread, borrowed or only announced`,
      timebox(30, async () => {
        const { a, b, near, far } = await open({ rendezvousShm: 200_000, rendezvousIvshmem: 200_000 });
        await near.send(numbered(0, 1000));
        const borrowed = await far.borrow();
        for (let number = 1; number < 4; number++) await near.send(numbered(number, 1000));
        const large = near.send(numbered(4, 1_500_000));
        const small = near.send(numbered(5, 100));
        await b.suspend();
        assert.is(numberOf(borrowed?.data as Uint8Array), 0);
        assert.ok(borrowed?.data.subarray(4).every((byte) => byte === 0));
        await b.resume();
        await a.suspend();
        await a.resume();
        assert.is(numberOf(borrowed?.data as Uint8Array), 0);
        borrowed?.release();
        await expect(far, 5, 1);
        await Promise.all([large, small]);
        assert.is(far.stats().unreadMessages, 0);
      }),
    );

    test(
      `${plugin}: borrowed messages fill the ring in the middle of a message`,
      timebox(30, async () => {
        for (const by of ['a', 'b', 'both'] as const) {
          const meeting = await open({ ringSize: 16_384, tcpRingSize: 16_384 });
          const { a, b, near, far } = meeting;
          for (const connection of [near, far]) await connection.send(numbered(0, 3000));
          const borrowed = [await near.borrow(), await far.borrow()];
          // A receive that has begun with a message gets that message, complete.
          const target = new Uint8Array(100_000);
          const posted = b.endpoint().postReceive({ connection: far, data: target });
          const sends = [near, far].map((connection) => connection.send(numbered(1, 100_000)));
          await pause(20);
          const those = by === 'both' ? [a, b] : [meeting[by]];
          await Promise.all(those.map((runtime) => runtime.suspend()));
          for (const message of borrowed) {
            assert.ok(message?.data.subarray(4).every((byte) => byte === 0));
            message?.release();
          }
          await Promise.all(those.map((runtime) => runtime.resume()));
          await Promise.all(sends);
          await expect(near, 1, 1);
          const { data } = await posted.done;
          assert.ok(numberOf(data) === 1 && data.length === 100_000 && data.subarray(4).every((byte) => byte === 1));
          await near.send(numbered(2));
          await expect(far, 1, 2);
        }
      }),
    );

    test(
      `${plugin}: far more unread messages than the limit`,
      timebox(60, async () => {
        const { a, near, far } = await open({ unread: 10_000 });
        let sent = 0;
        while (near.trySend(numbered(sent, 1000)) || near.stats().pendingSends === 0) {
          sent++;
          if (sent % 16 === 0) await pause(1);
          if (sent > 100_000) break;
          if (near.stats().ringUsed > near.stats().ringSize / 2 && far.stats().unreadBytes > 10_000) break;
        }
        await a.suspend();
        assert.is(near.state, 'suspended');
        await a.resume();
        await near.send(numbered(sent, 1000));
        await expect(far, sent + 1);
      }),
    );

    test(
      `${plugin}: on demand, suspended before and after its first message`,
      timebox(30, async () => {
        const shared = options();
        const a = await newRuntime({ ...shared, name: 'AAAA', loop: 0 });
        const b = await newRuntime({ ...shared, name: 'BBBB', loop: 0 });
        const [atA, atB] = [await a.listen({}), await b.listen({})];
        const near = await a.connect(`127.0.0.1:${atB.port}@BBBB`);
        const far = await b.connect(`127.0.0.1:${atA.port}@AAAA`);
        await b.suspend();
        const early = far.send(numbered(0));
        await pause(20);
        assert.is(near.state, 'connecting');
        await b.resume();
        await early;
        await expect(near, 1);
        for (const runtime of [a, b]) {
          await runtime.suspend();
          await runtime.resume();
        }
        await near.send(numbered(0));
        await expect(far, 1);
      }),
    );

    test(
      `${plugin}: a stopped peer: the deadline, and its late answer`,
      timebox(60, async () => {
        const shared = options();
        const child = Child.start(import.meta.url, 'echo', shared);
        const port = await child.call<number>('port');
        const runtime = await newRuntime(shared);
        const connection = await runtime.connect({ host: '127.0.0.1', port });
        assert.is(connection.plugin, plugin);
        await connection.send(numbered(0));
        await expect(connection, 1);
        child.process.kill('SIGSTOP');
        const before = performance.now();
        const error = await rejection(runtime.suspend({ timeout: 300 }));
        assert.is(error.code, 'ERR_ISTHMUS_SUSPEND');
        assert.match(error.message, /1 connections? did not let go/);
        assert.ok(performance.now() - before < 10_000);
        assert.is(runtime.migration, 'inactive');
        const sent = connection.send(numbered(1));
        child.process.kill('SIGCONT');
        await sent;
        await expect(connection, 1, 1);
        assert.is(connection.state, 'open');
        // Killed while it is suspended: an error in bounded time, no endless wait.
        await child.call('suspend');
        await eventually('suspended', () => connection.state === 'suspended');
        assert.is(connection.state, 'suspended');
        await child.kill('SIGKILL');
      }),
    );

    test(
      `${plugin}: killed during the suspension`,
      timebox(30, async () => {
        const shared = options();
        const child = Child.start(import.meta.url, 'echo', shared);
        const port = await child.call<number>('port');
        const runtime = await newRuntime(shared);
        const connection = await runtime.connect({ host: '127.0.0.1', port });
        child.process.kill('SIGSTOP');
        const suspended = runtime.suspend();
        await pause(20);
        await child.kill('SIGKILL');
        await suspended;
        assert.is((await connection.closed).reason, 'error');
        await runtime.resume();
      }),
    );
  }

  test(
    'streams, groups and tokens continue',
    timebox(60, async () => {
      using hosts = await SimulatedHosts.create(2);
      const seats = [hosts.seat(0), hosts.seat(0)] as const;
      const silent = { debug: 0, control: false };
      const { a, b, near, far } = await meet({ ...seats[0].options, ...silent }, { ...seats[1].options, ...silent });
      // Memory in the region, and private memory; both are used after the region has changed.
      const memory = b.allocate(1 << 16, { connection: far });
      assert.ok(memory.inRegion);
      memory.write(0, new Uint8Array(1 << 16).fill(5));
      const [inRegion, plain] = [far.expose(memory, { write: true }), far.expose(new Uint8Array(1000).fill(6))];
      const [one, two] = [near.token(inRegion.token), near.token(plain.token)];
      const read = async (token: typeof one, length: number, fill: number) => {
        const target = new Uint8Array(length);
        await token.read(target);
        assert.ok(target.every((byte) => byte === fill));
      };
      assert.ok(one.oneSided && !two.oneSided);
      await read(one, 1 << 16, 5);
      const groups = [
        a.endpoint().group({ id: 1, rank: 0, members: [null, near] }),
        b.endpoint().group({ id: 1, rank: 1, members: [far, null] }),
      ] as const;
      for (const host of [1, 0, undefined, 0]) {
        const moved = seats[1].migrate(b, host);
        const reads = Promise.all([read(one, 1 << 16, 5), read(two, 1000, 6)]);
        const [, got] = await Promise.all([groups[0].broadcast(0, numbered(7, 50_000)), groups[1].broadcast(0)]);
        assert.is(numberOf(got.data), 7);
        await Promise.all([moved, reads, groups[0].barrier(), groups[1].barrier()]);
        await a.suspend();
        const late = groups[0].barrier();
        await a.resume();
        await Promise.all([late, groups[1].barrier()]);
        assert.not(one.oneSided);
        await one.write(new Uint8Array(10).fill(5));
      }
      inRegion.withdraw();
      assert.is((await rejection(one.read(new Uint8Array(1)))).code, 'ERR_ISTHMUS_RMA_DENIED');
      // A stream from one end to the other, with migrations meanwhile.
      const bytes = seededBytes(testSeed(), 3_000_000);
      const sent = pipeline(Readable.from(chunksOf(bytes)), near.stream());
      const received: Buffer[] = [];
      let next = 500_000;
      let length = 0;
      for await (const chunk of far.stream()) {
        received.push(chunk as Buffer);
        length += (chunk as Buffer).length;
        if (length < next) continue;
        next += 800_000;
        await seats[0].migrate(a, next % 1_600_000 < 800_000 ? 1 : 0);
      }
      await sent;
      assert.ok(Buffer.concat(received).equals(bytes));
    }),
  );

  test(
    'calls that are repeated, or in the wrong order',
    timebox(30, async () => {
      const { a, near, far } = await meet(only(newRegion()));
      await a.resume(); // Never suspended.
      assert.is(a.migration, 'inactive');
      const [one, two] = [a.suspend(), a.suspend()];
      await Promise.all([one, two]);
      await a.suspend();
      assert.is(a.migration, 'allowed');
      await Promise.all([a.resume(), a.resume()]);
      // Resumed while it is being suspended.
      const suspending = rejection(a.suspend());
      await a.resume();
      assert.is((await suspending).code, 'ERR_ISTHMUS_SUSPEND');
      assert.is(a.migration, 'inactive');
      // Suspended while it is being resumed.
      await a.suspend();
      const resuming = a.resume();
      await Promise.all([resuming, a.suspend()]);
      assert.is(a.migration, 'allowed');
      await a.resume();
      await near.send(numbered(0));
      await expect(far, 1);
      await far.send(numbered(0));
      await expect(near, 1);
    }),
  );

  test(
    'a peer without a listener is reached again, and its temporary listener is closed',
    timebox(30, async () => {
      for (const regions of ['', newRegion()]) {
        const { a, b, near, far } = await meet(only(regions));
        assert.equal(a.inspect().listeners, []);
        await b.suspend();
        await eventually('the other end is suspended', () => near.state === 'suspended');
        assert.is(a.inspect().listeners.length, 1);
        await b.resume();
        await far.send(numbered(0));
        await expect(near, 1);
        assert.equal(a.inspect().listeners, []);
      }
    }),
  );

  test(
    'a peer that does not come back: an error with a code of its own',
    timebox(30, async () => {
      const { a, near } = await meet(only(newRegion(), { resumeTimeout: 200 }), only(''));
      const { near: other, b: gone } = await meet(only(newRegion(), { resumeTimeout: 200 }));
      await gone.suspend();
      const sent = rejection(other.send(numbered(0)));
      assert.is((await sent).code, 'ERR_ISTHMUS_RESUME_TIMEOUT');
      assert.is(near.state, 'open');
      await a.close();
    }),
  );

  test(
    'closed while suspended, by either side',
    timebox(30, async () => {
      const { a, b, near, far } = await meet(only(newRegion()));
      await b.suspend();
      await eventually('the other end is suspended', () => near.state === 'suspended');
      const closing = near.close();
      await b.resume();
      await closing;
      assert.is(await far.receive(), undefined);
      await a.suspend();
      await a.close();
      await b.close();
      const second = await meet(only(newRegion()));
      await second.b.suspend();
      await second.b.close();
      const lost = second.near.send(numbered(0)).catch((error: unknown) => error);
      second.near.destroy();
      assert.instance(await lost, IsthmusError);
    }),
  );

  test(
    'the region of the connection is replaced by another: tcp, and back',
    timebox(30, async () => {
      using hosts = await SimulatedHosts.create(2);
      const [mine, theirs] = [hosts.seat(0), hosts.seat(0)];
      const silent = { debug: 0, control: false };
      const meeting = await meet({ ...mine.options, ...silent }, { ...theirs.options, ...silent });
      const { b, near, far } = meeting;
      const { stop } = traffic(meeting);
      assert.is(near.plugin, 'ivshmem');
      for (const [host, plugin] of [
        [1, 'tcp'],
        [0, 'ivshmem'],
        [undefined, 'tcp'],
        [0, 'ivshmem'],
      ] as const) {
        await theirs.migrate(b, host);
        await eventually('open', () => near.state === 'open' && far.state === 'open');
        assert.equal([near.plugin, far.plugin], [plugin, plugin]);
        if (plugin === 'tcp') assert.ok(far.why !== undefined, 'the end that came back knows why');
        await pause(20);
      }
      assert.ok((await stop()) > 100);
    }),
  );

  test(
    'byte for byte with a peer that suspends as C does, in both directions and at once',
    timebox(30, async () => {
      const runtime = await newRuntime(only('', { name: 'ours' }));
      const accepted: Connection[] = [];
      const { port } = await runtime.listen({}, (connection) => {
        accepted.push(connection);
      });
      const their = { node: '127.0.0.1', pid: 4711, id: 0x1234567890abcdefn, name: 'theirs' };
      const arch = [encodeArchReq(103), encodeFrame(FRAME.ARCH_OK)];
      const message = (type: number, ...data: number[]) => Buffer.from([type, 0, 0, 0, data.length, 0, 0, 0, ...data]);
      const portBytes = (of: number) => [of & 0xff, of >> 8, 0, 0];
      /** Connect as C does. @returns the bytes after the handshake, until the end */
      const comes = async (kind: typeof FRAME.CON_INFO | typeof FRAME.CON_INFO_DEMAND) => {
        const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true });
        socket.write(Buffer.concat([encodeVersion(), encodeConInfo(their, kind), ...arch]));
        const chunks: Buffer[] = [];
        socket.on('data', (chunk) => chunks.push(chunk));
        const ended = once(socket, 'end');
        const handshake = () => {
          const all = Buffer.concat(chunks);
          const end = all.indexOf(encodeFrame(FRAME.ARCH_OK));
          return end < 0 ? undefined : all.subarray(end + 8);
        };
        await eventually('ARCH_OK', () => handshake() !== undefined);
        return { socket, ended, body: () => handshake() as Buffer };
      };
      const first = await comes(FRAME.CON_INFO);
      await eventually('accepted', () => accepted.length === 1);
      const connection = accepted[0] as Connection;
      // The peer suspends: the message in progress, then an ACK with this side's port, then the end; nothing after it.
      await connection.send(Uint8Array.of(1, 2, 3));
      first.socket.write(Buffer.concat([message(0, 9), message(9, ...portBytes(4242))]));
      await first.ended;
      assert.equal(first.body(), Buffer.concat([message(0, 1, 2, 3), message(10, ...portBytes(port))]));
      first.socket.end();
      assert.is(connection.state, 'suspended');
      const sent = connection.send(Uint8Array.of(4));
      // The peer comes back, recognised by its id.
      const second = await comes(FRAME.CON_INFO_DEMAND);
      await sent;
      assert.equal([accepted.length, connection.state], [1, 'open']);
      assert.equal([...((await connection.receive())?.data ?? [])], [9]);
      await eventually('the message', () => second.body().length > 0);
      assert.equal(second.body(), message(0, 4));
      // Both suspend: each takes the REQ of the other for the answer.
      const suspended = runtime.suspend();
      await eventually('the REQ of this side', () => second.body().length > 9);
      second.socket.write(message(9, ...portBytes(4242)));
      await suspended;
      await second.ended;
      assert.equal(second.body(), Buffer.concat([message(0, 4), message(9, ...portBytes(port))]));
      second.socket.end();
      // The peer comes first: this side does not answer before it has resumed.
      const third = connect({ port, host: '127.0.0.1' });
      third.write(Buffer.concat([encodeVersion(), encodeConInfo(their, FRAME.CON_INFO_DEMAND), ...arch]));
      let heard = 0;
      third.on('data', (chunk) => {
        heard += chunk.length;
      });
      await pause(50);
      assert.is(heard, 0);
      await runtime.resume();
      await eventually('up', () => connection.state === 'open');
      // Another process under the peer's name is refused.
      const stranger = connect({ port, host: '127.0.0.1' });
      const info = encodeConInfo({ ...their, id: 1n }, FRAME.CON_INFO_DEMAND);
      stranger.write(Buffer.concat([encodeVersion(), info, ...arch]));
      stranger.resume();
      await once(stranger, 'close');
      third.destroy();
    }),
  );

  /**
   * A connection that a peer of greater name has suspended as C does, and asked to come back.
   * @returns also its calls
   */
  async function askedBack() {
    const runtime = await newRuntime(only('', { name: 'ours' }));
    const accepted: Connection[] = [];
    const { port } = await runtime.listen({}, (connection) => {
      accepted.push(connection);
    });
    const their = { node: '127.0.0.1', pid: 4711, id: 0x1234567890abcdefn, name: 'theirs' };
    const calls: Socket[] = [];
    const server = createServer((socket) => calls.push(socket.on('error', () => {})));
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const { port: back } = server.address() as AddressInfo;
    const arch = [encodeArchReq(103), encodeFrame(FRAME.ARCH_OK)];
    const first = connect({ port, host: '127.0.0.1' });
    const shutdown = Buffer.from([9, 0, 0, 0, 4, 0, 0, 0, back & 0xff, back >> 8, 0, 0]);
    first.write(Buffer.concat([encodeVersion(), encodeConInfo(their, FRAME.CON_INFO), ...arch, shutdown]));
    first.resume();
    await once(first, 'end');
    const connection = accepted[0] as Connection;
    assert.is(connection.state, 'suspended');
    const ask = connect({ port, host: '127.0.0.1' });
    ask.write(encodeConInfo(their, FRAME.BACK_CONNECT));
    ask.resume();
    await eventually('it comes', () => calls.length === 1);
    ask.destroy();
    const end = () => {
      for (const socket of calls) socket.destroy();
      server.close();
    };
    return { runtime, connection, calls, their, arch, end };
  }

  test(
    'asked to come back, and suspended before the link was up: it dials when it is resumed, since the peer does not ask again',
    timebox(30, async () => {
      const { runtime, connection, calls, their, arch, end } = await askedBack();
      await runtime.suspend();
      await runtime.resume();
      await eventually('it dials again', () => calls.length === 2);
      calls[1]?.write(Buffer.concat([encodeVersion(), encodeConInfo(their, FRAME.CON_INFO), ...arch.slice(1)]));
      await eventually('up', () => connection.state === 'open');
      end();
    }),
  );

  test(
    'another process that answers at the address of the peer is not taken for it',
    timebox(30, async () => {
      const { connection, calls, their, arch, end } = await askedBack();
      const stranger = encodeConInfo({ ...their, id: 1n }, FRAME.CON_INFO);
      calls[0]?.write(Buffer.concat([encodeVersion(), stranger, ...arch.slice(1)]));
      const { error } = await connection.closed;
      assert.is(error?.code, 'ERR_ISTHMUS_PEER_PROTOCOL');
      end();
    }),
  );

  test(
    'between two of one name: refused in favour of a call that does not come, it dials again',
    timebox(30, async () => {
      const runtime = await newRuntime({ ...only('', { name: 'both' }), handshakeTimeout: 300 });
      const accepted: Connection[] = [];
      const { port } = await runtime.listen({}, (connection) => {
        accepted.push(connection);
      });
      const their = { node: '127.0.0.1', pid: 4711, id: 1n, name: 'both' };
      const arch = [encodeArchReq(103), encodeFrame(FRAME.ARCH_OK)];
      let calls = 0;
      const server = createServer((socket) => {
        socket.on('error', () => {});
        // The first call is refused: the id of the peer is the smaller one, so that the peer's own call would count.
        if (++calls === 1) socket.once('data', () => socket.end());
        else socket.write(Buffer.concat([encodeVersion(), encodeConInfo(their, FRAME.CON_INFO), ...arch.slice(1)]));
      });
      server.listen(0, '127.0.0.1');
      await once(server, 'listening');
      const { port: back } = server.address() as AddressInfo;
      const first = connect({ port, host: '127.0.0.1' });
      first.write(Buffer.concat([encodeVersion(), encodeConInfo(their, FRAME.CON_INFO), ...arch]));
      const heard: Buffer[] = [];
      first.on('data', (chunk) => heard.push(chunk));
      await eventually('accepted', () => accepted.length === 1);
      const suspended = runtime.suspend();
      await eventually('its REQ', () => Buffer.concat(heard).includes(Buffer.from([9, 0, 0, 0, 4, 0, 0, 0])));
      first.write(Buffer.from([10, 0, 0, 0, 4, 0, 0, 0, back & 0xff, back >> 8, 0, 0]));
      await suspended;
      first.destroy();
      await runtime.resume();
      await eventually('up', () => accepted[0]?.state !== 'suspended');
      assert.equal([calls, accepted[0]?.state], [2, 'open']);
      server.close();
    }),
  );

  test('no rejection was left unhandled', () => assert.equal(unhandled, []));

  const tidy = async () => {
    await Promise.all(runtimes.splice(0).map((runtime) => runtime.close({ timeout: 200 })));
    await endChildren();
  };
  test.after.each(tidy);
  test.after(removeRegions);
  test.run();
}

if (role) await play(roles);
else await main();
