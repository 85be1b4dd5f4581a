/**
 * Strangers at the port of a runtime: they say nothing, stop half-way, or leave connections behind. Clients get through,
 * suspensions do not wait for them, and what is kept for them is bounded. And clients that come all at once, which are no
 * strangers: the other processes are this file again, with the role `clients`.
 */
import { once } from 'node:events';
import { connect, createServer, type Socket } from 'node:net';
import { setTimeout as pause } from 'node:timers/promises';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { Connection } from '../../host/api/connection.js';
import { encodeArchReq, encodeConInfo, encodeFrame, encodeVersion, FRAME } from '../../host/handshake/frames.js';
import { Runtime, type RuntimeOptions } from '../../host/runtime/runtime.js';
import { eventually, rejection } from '../support/outcomes.js';
import { ALICE } from '../support/precon.js';
import { Child, endChildren, play, role, roleOptions, serve, tell } from '../support/process.js';
import { only } from '../support/regions.js';
import { timebox } from '../support/timebox.js';

const PROCESSES = 8;
const CONNECTS = 25;

const roles: Record<string, () => Promise<void>> = {
  /** Connects all at once, as soon as it is told to, and says how many came up. */
  async clients() {
    const { port, count } = roleOptions<{ port: number; count: number }>();
    const runtime = await Runtime.create(only(''));
    const begin = new Promise<void>((resolve) => serve({ begin: () => resolve() }));
    tell('ready');
    await begin;
    const ends = await Promise.allSettled(
      Array.from({ length: count }, async () => {
        const connection = await runtime.connect(`127.0.0.1:${port}`);
        await connection.send('hello');
        assert.is((await connection.receive())?.text(), 'hello');
      }),
    );
    tell(
      'ends',
      ends.map((end) => (end.status === 'fulfilled' ? 'ok' : String(end.reason))),
    );
    await runtime.close({ timeout: 1000 });
  },
};

const HELLO = Buffer.concat([encodeVersion(), encodeConInfo(ALICE)]);
const AGREE_TCP = Buffer.concat([HELLO, encodeArchReq(103), encodeFrame(FRAME.ARCH_OK)]);

/** A message of phase 2. */
function message(type: number, data: Buffer): Buffer {
  const header = Buffer.alloc(8);
  header.writeUInt16LE(type, 0);
  header.writeUInt32LE(data.length, 4);
  return Buffer.concat([header, data]);
}

const SHUTDOWN_REQ = message(9, Buffer.from([0x90, 0x1f, 0, 0]));
const SHUTDOWN_ACK = 10;

const runtimes: Runtime[] = [];
const sockets: Socket[] = [];
const cleanups: (() => unknown)[] = [];

async function newRuntime(options: RuntimeOptions = {}): Promise<Runtime> {
  const runtime = await Runtime.create(only('', options));
  runtimes.push(runtime);
  return runtime;
}

/** Echoes. */
async function listening(runtime: Runtime, options = {}): Promise<number> {
  const { port } = await runtime.listen(options, async (connection) => {
    for await (const { data } of connection) await connection.send(data);
  });
  return port;
}

async function echoes(connection: Connection): Promise<void> {
  await connection.send('hello');
  assert.is((await connection.receive())?.text(), 'hello');
}

/** @param host where this side comes from: each has a share of its own */
async function stranger(port: number, bytes: Buffer): Promise<Socket> {
  const socket = connect({ host: '127.0.0.1', port, allowHalfOpen: true });
  socket.on('error', () => {});
  sockets.push(socket);
  await once(socket, 'connect');
  socket.write(bytes);
  return socket;
}

/** A stranger that suspends in every form, and is never seen again. */
async function leaveBehind(port: number, messages: readonly Buffer[]): Promise<void> {
  const socket = await stranger(port, Buffer.concat([AGREE_TCP, ...messages, SHUTDOWN_REQ]));
  let heard = Buffer.alloc(0);
  const answered = new Promise<void>((resolve) => {
    socket.on('data', (chunk) => {
      heard = Buffer.concat([heard, chunk]);
      // VERSION, CON_INFO, ARCH_OK; an echo of each message; SHUTDOWN_ACK at the end.
      if (heard.length >= 12 && heard.readUInt16LE(heard.length - 12) === SHUTDOWN_ACK) resolve();
    });
    socket.on('close', resolve);
  });
  await answered;
  socket.destroy();
}

async function tidy(): Promise<void> {
  for (const socket of sockets.splice(0)) socket.destroy();
  for (const cleanup of cleanups.splice(0)) await cleanup();
  await Promise.all(runtimes.splice(0).map((runtime) => runtime.close({ timeout: 500 }).catch(() => {})));
  await endChildren();
}

function main(): void {
  test(
    `${PROCESSES} processes connect ${CONNECTS} times each, at once: none is cut off`,
    timebox(120, async () => {
      const runtime = await newRuntime();
      // The application asks elsewhere; over shared memory the plugins take as long.
      const port = await listening(runtime, { accept: () => pause(500).then(() => true) });
      const children = Array.from({ length: PROCESSES }, () =>
        Child.start(import.meta.url, 'clients', { port, count: CONNECTS }),
      );
      await Promise.all(children.map((child) => child.event('ready')));
      await Promise.all(children.map((child) => child.call('begin')));
      const ends = (await Promise.all(children.map((child) => child.event<string[]>('ends')))).flat();
      assert.is(ends.length, PROCESSES * CONNECTS);
      assert.equal(
        ends.filter((end) => end !== 'ok'),
        [],
      );
    }),
  );

  test(
    'a listener with one place: the same, only later',
    timebox(120, async () => {
      const runtime = await newRuntime();
      const port = await listening(runtime, { maxHandshakes: 1, accept: () => pause(1).then(() => true) });
      const client = await newRuntime();
      const all = await Promise.all(Array.from({ length: 100 }, () => client.connect(`127.0.0.1:${port}`)));
      assert.is(new Set(all.map(({ state }) => state)).size, 1);
      await echoes(all.at(-1) as Connection);
    }),
  );

  test(
    'hundreds of strangers, silent or half-way: a client gets through, and a suspension does not wait for them',
    timebox(60, async () => {
      // Nothing of this may depend on the end of a handshake.
      const runtime = await newRuntime({ handshakeTimeout: 600_000, suspendTimeout: 600_000 });
      const port = await listening(runtime);
      const half = [HELLO.subarray(0, 5), encodeVersion()];
      const kinds = [Buffer.alloc(0), ...half];
      await Promise.all(Array.from({ length: 200 }, (_, index) => stranger(port, kinds[index % 3] as Buffer)));
      const client = await newRuntime();
      const early = await client.connect(`127.0.0.1:${port}`);
      await echoes(early);
      const introduced = await stranger(port, HELLO);
      await once(introduced, 'data');
      const idle = await stranger(port, Buffer.alloc(0));
      await runtime.suspend();
      assert.not(introduced.readableEnded, 'it had not been cut');
      assert.not(idle.readableEnded);
      // Those of the suspension are held: those that have introduced themselves come first afterwards.
      const strangers = await Promise.all(Array.from({ length: 300 }, () => stranger(port, Buffer.alloc(0))));
      const connecting = client.connect(`127.0.0.1:${port}`);
      await pause(1200);
      assert.not(strangers[0]?.destroyed);
      await runtime.resume();
      await echoes(await connecting);
      await echoes(early);
      await echoes(await client.connect(`127.0.0.1:${port}`));
    }),
  );

  test(
    'a listener that is opened while the process is suspended is held like the others',
    timebox(30, async () => {
      const runtime = await newRuntime();
      await listening(runtime);
      await runtime.suspend();
      const port = await listening(runtime);
      const socket = await stranger(port, AGREE_TCP);
      await pause(200);
      assert.is(socket.bytesRead, 0);
      assert.is(runtime.connections().length, 0);
      await runtime.resume();
      await once(socket, 'data');
      await eventually('it is accepted', () => runtime.connections().length === 1);
    }),
  );

  for (const [what, messages] of [
    ['at once', []],
    ['behind a message', [message(0, Buffer.from('hello'))]],
  ] as const) {
    test(
      `strangers that suspend ${what} and do not come back are kept in a limited number, and close() does not wait for them`,
      timebox(60, async () => {
        const limit = 16;
        const runtime = await newRuntime({ suspendedLimit: limit, closeTimeout: 600_000 });
        const codes: (string | undefined)[] = [];
        const { port } = await runtime.listen({}, (connection) => {
          connection.closed.then(({ error }) => codes.push(error?.code));
          return (async () => {
            for await (const { data } of connection) await connection.send(data);
          })();
        });
        const client = await newRuntime();
        const used = await client.connect(`127.0.0.1:${port}`);
        await echoes(used);
        const strangers = 10 * limit;
        for (let i = 0; i < strangers; i += 20) {
          await Promise.all(Array.from({ length: 20 }, () => leaveBehind(port, messages)));
        }
        const suspended = () => runtime.connections().filter(({ state }) => state === 'suspended').length;
        await eventually('the others have ended', () => codes.length === strangers - limit);
        assert.equal(new Set(codes), new Set(['ERR_ISTHMUS_SUSPENDED_LIMIT']));
        assert.is(suspended(), limit);
        await echoes(used);
        await client.close();
        await eventually('the client is gone', () => runtime.connections().length === limit);
        await runtime.close();
      }),
    );
  }

  test(
    'endpoint.close() ends connects under way, and those that wait for the end of a suspension',
    timebox(30, async () => {
      const server = createServer(() => {}).listen(0, '127.0.0.1');
      cleanups.push(() => server.close());
      await once(server, 'listening');
      const { port } = server.address() as { port: number };
      const runtime = await newRuntime({ handshakeTimeout: 600_000 });
      const endpoint = runtime.endpoint({ name: 'other' });
      const accepted = once(server, 'connection');
      const connecting = rejection(endpoint.connect(`127.0.0.1:${port}`));
      const [socket] = (await accepted) as [Socket];
      sockets.push(socket.on('error', () => {}));
      await endpoint.close();
      assert.is((await connecting).code, 'ERR_ISTHMUS_CLOSED');
      await once(socket.resume(), 'close');

      const held = runtime.endpoint({ name: 'held' });
      await runtime.suspend();
      const waiting = rejection(held.connect(`127.0.0.1:${port}`));
      await pause(0);
      await held.close();
      assert.is((await waiting).code, 'ERR_ISTHMUS_CLOSED');
      await runtime.resume();
    }),
  );

  test.after.each(tidy);
  test.run();
}

if (role) await play(roles);
else main();
