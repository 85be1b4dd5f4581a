/**
 * The handshake and the decoder of phase 2, fed with mutated captures: no crash, no hang, an error with a code, and
 * memory in proportion to the received bytes, not to announced lengths.
 *
 * ISTHMUS_TEST_FUZZ: how many streams go over real sockets in each test, default 200; ten times as many go into
 * handshakes without sockets. ISTHMUS_TEST_SEED: each stream has a seed of its own, this one and its number; a failure
 * names both.
 */

import { connect, createServer, type Socket } from 'node:net';
import { setTimeout as pause } from 'node:timers/promises';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { Connection } from '../../host/api/connection.js';
import { IsthmusError } from '../../host/base/errors.js';
import { encodeArchReq, encodeConInfo, encodeFrame, encodeVersion, FRAME } from '../../host/handshake/frames.js';
import { addonMissing } from '../../host/native/native.js';
import { IvshmemPlugin } from '../../host/plugins/ivshmem.js';
import { STEP } from '../../host/plugins/plugin.js';
import { PluginRegistry } from '../../host/plugins/registry.js';
import { streamPlugin } from '../../host/plugins/stream-plugin.js';
import { bindPlugins } from '../../host/plugins/third-party.js';
import { attachRegions } from '../../host/runtime/discovery.js';
import { Runtime, type RuntimeOptions } from '../../host/runtime/runtime.js';
import { capture, split } from '../support/captures.js';
import { mutate } from '../support/mutate.js';
import { ALICE, acceptingSide, connectingSide, cut, fakeTcp, type Side } from '../support/precon.js';
import { newRegion, only, removeRegions } from '../support/regions.js';
import { seeded, testSeed } from '../support/seeded.js';
import { timebox } from '../support/timebox.js';

const seed = testSeed();
const STREAMS = Number(process.env['ISTHMUS_TEST_FUZZ'] ?? 200);
const HANDSHAKES = STREAMS * 10;
/** Streams in progress at once. */
const SIDE_BY_SIDE = 16;
const MIB = 1 << 20;

const unhandled: unknown[] = [];
for (const event of ['unhandledRejection', 'uncaughtException'] as const) {
  process.on(event, (reason) => {
    console.error(`${event}:`, reason);
    unhandled.push(reason);
  });
}

const NAMES = ['tcp-pingpong', 'ondemand-connect', 'ondemand-back-connect'] as const;
const captures = NAMES.map((name) => capture(name));
/** Both directions of each: input for an accepting side is as good a test for a connecting one. */
const streams = captures.flatMap((each) => [each['C>S'], each['S>C']]);

/** Offsets of the lengths of frames. */
function frameLengths(stream: Buffer): number[] {
  const places: number[] = [];
  for (let at = 0; at + 8 <= stream.length; at += 8 + stream.readUInt32BE(at + 4)) places.push(at + 4);
  return places;
}

/** Add the failing case to the error. */
function inCase<T>(number: number, stream: Buffer, body: () => T): T {
  try {
    return body();
  } catch (error) {
    throw new Error(`stream ${number} of seed ${seed}: ${(error as Error).stack}\n${stream.toString('hex')}`);
  }
}

// ── Handshakes without sockets ───────────────────────────────────────────────────────────────────────────────────────

/** Whatever its state, the state is valid; and it ends at the latest with its socket. */
function checkEnd(side: Side): void {
  const { outcome } = side;
  if (outcome?.kind === 'failed') {
    assert.instance(outcome.error, IsthmusError);
    assert.match(outcome.error.code, /^ERR_ISTHMUS_/);
  }
  if (outcome?.kind === 'agreed') outcome.attempt.undo();
  side.precon.socketEnded();
  assert.ok(side.outcome, 'it continues after the end of its socket');
}

test(
  `${HANDSHAKES} invalid handshakes, in both roles`,
  timebox(60, () => {
    const ends = new Map<string, number>();
    const before = process.memoryUsage().arrayBuffers;
    for (let number = 0; number < HANDSHAKES; number++) {
      const random = seeded(seed + number);
      const base = streams[random(streams.length)] as Buffer;
      const mutant = mutate(base, streams, frameLengths(base), random);
      inCase(number, mutant, () => {
        const plugins = [fakeTcp()];
        const onDemand = random(2) ? () => (random(4) ? {} : undefined) : undefined;
        const side = random(2)
          ? acceptingSide(plugins, { onDemand })
          : connectingSide(plugins, { demand: random(2) === 1 });
        side.precon.start();
        for (const piece of cut(mutant, random)) side.precon.receive(piece);
        ends.set(side.end, (ends.get(side.end) ?? 0) + 1);
        checkEnd(side);
        assert.is(plugins[0]?.held, 0);
      });
    }
    console.log(Object.fromEntries([...ends].sort()));
    // The fuzz reaches the outcomes that it is meant to reach.
    for (const end of ['agreed', 'ERR_ISTHMUS_HANDSHAKE', 'ERR_ISTHMUS_HANDSHAKE_VERSION', 'in progress']) {
      assert.ok(STREAMS < 100 || ends.has(end), end);
    }
    assert.ok(process.memoryUsage().arrayBuffers - before < 64 * MIB);
  }),
);

/** Deliver the bytes between two sides, some of them changed on the way. */
function deliverMutated(a: Side, b: Side, random: (n: number) => number): void {
  const heard: Buffer[] = [];
  // No endless exchange: ARCH_REQs and bytes are limited on both sides.
  for (let moved = true; moved; ) {
    moved = false;
    for (const [from, to] of [
      [a, b],
      [b, a],
    ] as const) {
      let bytes = Buffer.concat(from.outbox.splice(0));
      if (bytes.length === 0) continue;
      moved = true;
      heard.push(bytes);
      if (random(4) === 0) bytes = Buffer.from(mutate(bytes, heard, frameLengths(bytes), random));
      for (const piece of cut(bytes, random)) to.precon.receive(piece);
    }
  }
}

/** A plugin whose attempts check nothing. */
function careless() {
  const definition = streamPlugin({
    name: 'careless',
    archId: 4000,
    priority: 50,
    attempt(channel) {
      if (channel.role === 'accept') channel.step(STEP.STEP1, Buffer.alloc(16, 1));
      return {
        step(type, payload) {
          if (type === STEP.STEP4) channel.next('enough');
          else channel.step(type + 1, payload.subarray(Buffer.from(payload).readUInt8(3) & 7));
        },
      };
    },
  });
  const core = () => {
    throw new Error('it is never opened');
  };
  return bindPlugins([definition], { core, ringSize: 65_536, guard: true })[0]!;
}

test(
  'handshakes of the built-in plugins, with changed bytes',
  timebox(60, async () => {
    const missing = addonMissing();
    const path = missing ? '' : newRegion(16 * MIB);
    const attached = await Promise.all(
      ['alice', 'bob'].map((name) => attachRegions({ files: path, pci: false, roots: only('').uio }, name)),
    );
    const registries = attached.map(({ regions }) => {
      const ivshmem = new IvshmemPlugin({ guard: true, ringSize: 4096 });
      ivshmem.use(regions, missing?.message);
      const plugins = [ivshmem, careless(), fakeTcp()];
      return new PluginRegistry(plugins.map((plugin) => ({ plugin, priority: plugin.priority })));
    });
    const cores = attached.flatMap(({ regions }) => regions.map(({ core }) => core));
    const free = () => Math.min(...cores.map((core) => core.freeFrames()));
    const before = free();
    const agreed = new Map<string, number>();
    for (let number = 0; number < HANDSHAKES / 5; number++) {
      const random = seeded(seed + number);
      const [first, second] = random(2) ? registries : registries.toReversed();
      // Left out every other time, so that the other plugins are used too.
      const mask = { delete: random(2) ? ['ivshmem'] : [] };
      const a = connectingSide([], { registry: first!.masked(mask) });
      const b = acceptingSide([], { registry: second! });
      inCase(number, Buffer.alloc(0), () => {
        a.precon.start();
        deliverMutated(a, b, random);
        for (const { outcome } of [a, b]) {
          const end = outcome?.kind === 'agreed' ? outcome.plugin.name : (outcome?.kind ?? 'in progress');
          agreed.set(end, (agreed.get(end) ?? 0) + 1);
        }
        checkEnd(a);
        checkEnd(b);
      });
    }
    console.log(Object.fromEntries([...agreed].sort()));
    assert.ok(agreed.has('tcp') && agreed.has('failed'));
    if (!missing) assert.ok(agreed.has('ivshmem'));
    // No ring of a failed attempt is left: the missing frames are an extent or two that the other side keeps.
    if (!missing) assert.ok(before - free() <= 64, `${before - free()} frames are missing`);
    for (const { regions } of attached) for (const region of regions) region.detach();
  }),
);

// ── Streams over sockets ─────────────────────────────────────────────────────────────────────────────────────────────

const HELLO = Buffer.concat([encodeVersion(), encodeConInfo(ALICE)]);
const OK = encodeFrame(FRAME.ARCH_OK);
const AGREE_TCP = Buffer.concat([HELLO, encodeArchReq(103), OK]);

/** A message of phase 2. */
function message(type: number, xlength: number, dlength: number, body: Buffer): Buffer {
  const header = Buffer.alloc(8);
  header.writeUInt16LE(type, 0);
  header.writeUInt16LE(xlength, 2);
  header.writeUInt32LE(dlength, 4);
  return Buffer.concat([header, body]);
}

/** Parts of phase 2: those of the captures, and more types of messages. */
const phase2 = [
  split(captures[0]!['C>S']).rest,
  split(captures[0]!['S>C']).rest,
  Buffer.concat(
    [0, 0, 0, 70_000, 5, 0].map((length, place) =>
      message(0, place * 3, length, Buffer.alloc(length + place * 3, place)),
    ),
  ),
  Buffer.concat(Array.from({ length: 12 }, (_, type) => message(type, 8, 20, Buffer.alloc(28, type)))),
  Buffer.concat(Array.from({ length: 200 }, () => message(0, 0, 0, Buffer.alloc(0)))),
  Buffer.concat([message(0, 0, 3, Buffer.from('abc')), message(8, 0, 0, Buffer.alloc(0))]),
];

/** Offsets of the lengths of messages. */
function messageLengths(stream: Buffer): number[] {
  const places: number[] = [];
  for (let at = 0; at + 8 <= stream.length; ) {
    places.push(at, at + 4);
    at += 8 + stream.readUInt16LE(at + 2) + stream.readUInt32LE(at + 4);
  }
  return places;
}

const runtimes: Runtime[] = [];
async function newRuntime(options: RuntimeOptions = {}): Promise<Runtime> {
  const runtime = await Runtime.create(only('', { handshakeTimeout: 2000, ...options }));
  runtimes.push(runtime);
  return runtime;
}

/** Read until the end. The reason of the end has a code. */
async function readAll(connection: Connection): Promise<number> {
  let messages = 0;
  try {
    for await (const each of connection) messages += each ? 1 : 0;
  } catch (error) {
    assert.instance(error, IsthmusError);
  }
  const { reason, error } = await connection.closed;
  if (reason === 'error') assert.match(error?.code ?? '', /^ERR_ISTHMUS_/);
  return messages;
}

async function gone(socket: Socket): Promise<void> {
  if (!socket.destroyed) await new Promise((resolve) => socket.once('close', resolve));
}

/** Send a stream in pieces, and end or cut it. */
async function say(socket: Socket, stream: Buffer, random: (n: number) => number): Promise<void> {
  socket.on('error', () => {}).resume();
  const pieces = random(2) ? [stream] : cut(stream, random).slice(0, 200);
  for (const piece of pieces) {
    if (socket.destroyed) return;
    socket.write(piece);
    if (random(4) === 0) await pause(0);
  }
  if (random(2)) await pause(random(5));
  if (random(3)) socket.end();
  else socket.destroy();
  // A peer that does not end its side must do no more harm than one that does; this limits the wait for it.
  setTimeout(() => socket.destroy(), 500).unref();
  await gone(socket);
}

/** A connection between two correct runtimes, one of which is under test. */
async function bystander(runtime: Runtime): Promise<() => Promise<void>> {
  const other = await newRuntime();
  const { port } = await other.listen({}, async (connection) => {
    for await (const { data } of connection) await connection.send(data);
  });
  const connection = await runtime.connect(`127.0.0.1:${port}`);
  let count = 0;
  return async () => {
    const text = `message ${count++}`;
    await connection.send(text);
    assert.is((await connection.receive())?.text(), text);
  };
}

/** Run `STREAMS` cases, some in parallel, while the event loop runs and a bystander exchanges messages. */
async function cases(
  runtime: Runtime,
  body: (number: number, random: (n: number) => number) => Promise<void>,
): Promise<void> {
  const talk = await bystander(runtime);
  let number = 0;
  const work = async () => {
    while (number < STREAMS) {
      const mine = number++;
      await body(mine, seeded(seed + mine));
      if (mine % 10 === 0) await talk();
    }
  };
  const before = process.memoryUsage();
  await Promise.all(Array.from({ length: SIDE_BY_SIDE }, work));
  await talk();
  const after = process.memoryUsage();
  // Far below one of the announced lengths.
  assert.ok(after.arrayBuffers - before.arrayBuffers < 128 * MIB, `${after.arrayBuffers} bytes in array buffers`);
  assert.ok(after.rss - before.rss < 512 * MIB, `${after.rss} bytes resident`);
  // Only the bystander is left.
  for (let turns = 0; runtime.connections().length > 1 && turns < 500; turns++) await pause(10);
  assert.is(runtime.connections().length, 1);
}

for (const [limit, maxMessageSize] of [
  ['the default limit', undefined],
  ['no limit', 2 ** 32 - 1],
] as const) {
  test(
    `${STREAMS} streams to a listener, messages with ${limit}`,
    timebox(60, async () => {
      const runtime = await newRuntime({ maxMessageSize });
      let read = 0;
      const reading = new Set<Promise<void>>();
      const { port } = await runtime.listen({ maxHandshakes: 1000 }, (connection) => {
        const reader = readAll(connection).then((count) => {
          read += count;
        });
        reading.add(reader);
      });
      await cases(runtime, async (number, random) => {
        const base = phase2[random(phase2.length)] as Buffer;
        const mutant = mutate(base, phase2, messageLengths(base), random);
        // In some cases the handshake is invalid as well.
        const hello = random(10) ? AGREE_TCP : mutate(AGREE_TCP, streams, frameLengths(AGREE_TCP), random);
        const stream = Buffer.concat([hello, mutant]);
        const socket = connect({ host: '127.0.0.1', port });
        await inCase(number, stream, () => say(socket, stream, random));
      });
      await Promise.all(reading);
      assert.ok(read > STREAMS / 10, `${read} messages were received`);
    }),
  );
}

test(
  `${STREAMS} streams to a connecting side`,
  timebox(60, async () => {
    const runtime = await newRuntime({ retry: 0 });
    const answer = Buffer.concat([HELLO, OK]);
    let number = 0;
    const saying = new Set<Promise<void>>();
    const server = createServer((socket) => {
      const random = seeded(seed ^ number++);
      const base = phase2[random(phase2.length)] as Buffer;
      const hello = random(4) ? answer : mutate(answer, streams, frameLengths(answer), random);
      const stream = Buffer.concat([hello, mutate(base, phase2, messageLengths(base), random)]);
      saying.add(say(socket, stream, random));
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const { port } = server.address() as { port: number };
    let connected = 0;
    await cases(runtime, async () => {
      let connection: Connection;
      try {
        connection = await runtime.connect(`127.0.0.1:${port}`);
      } catch (error) {
        assert.instance(error, IsthmusError);
        return;
      }
      connected++;
      // A send on a connection that may end at any moment also has an error with a code.
      connection.send('hello').catch((error) => assert.instance(error, IsthmusError));
      await readAll(connection);
    });
    await Promise.all(saying);
    server.close();
    assert.ok(connected > STREAMS / 4, `${connected} connected`);
  }),
);

test(
  'announced lengths of 4 GiB allocate nothing up front',
  timebox(60, async () => {
    const claims = 100;
    const runtime = await newRuntime({ maxMessageSize: 2 ** 32 - 1 });
    const talk = await bystander(runtime);
    const codes: Promise<string | undefined>[] = [];
    const { port } = await runtime.listen({ maxHandshakes: 1000 }, (connection) => {
      codes.push(connection.receive().then(String, (error: IsthmusError) => error.code));
    });
    const before = process.memoryUsage();
    const sockets = Array.from({ length: claims }, () => {
      const socket = connect({ host: '127.0.0.1', port });
      socket.on('error', () => {}).resume();
      // The largest possible: xheader and data together are the u32 that the limit is.
      socket.write(Buffer.concat([AGREE_TCP, message(0, 0, 0xffffffff, Buffer.alloc(5000, 1))]));
      return socket;
    });
    while (codes.length < claims) await pause(5);
    await pause(50);
    await talk();
    const after = process.memoryUsage();
    // The first MiB of each; pages without received bytes are not even allocated.
    assert.ok(after.arrayBuffers - before.arrayBuffers < (claims + 32) * MIB, `${after.arrayBuffers} bytes`);
    assert.ok(after.rss - before.rss < 256 * MIB, `${after.rss} bytes resident`);
    for (const socket of sockets) socket.end();
    assert.equal(new Set(await Promise.all(codes)), new Set(['ERR_ISTHMUS_PEER_DIED']));

    // With the default limit such a message is refused at its header.
    const limited = await newRuntime();
    const refused = new Promise<string>((resolve) => {
      limited
        .listen({}, async (connection) => resolve((await connection.closed).error?.code ?? ''))
        .then(({ port }) => {
          const socket = connect({ host: '127.0.0.1', port });
          socket.on('error', () => {}).resume();
          socket.write(Buffer.concat([AGREE_TCP, message(0, 0, 0xffffffff, Buffer.alloc(1))]));
        });
    });
    assert.is(await refused, 'ERR_ISTHMUS_MESSAGE_TOO_LARGE');
  }),
);

test('nothing was left unhandled', () => {
  assert.equal(unhandled, []);
});

test.after(async () => {
  await Promise.all(runtimes.map((runtime) => runtime.close({ timeout: 500 })));
  removeRegions();
});
test.run();
