/** Handshakes over real sockets, with peers that violate the protocol. */

import { once } from 'node:events';
import { BlockList, connect, createServer, type Server, type Socket } from 'node:net';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { IsthmusError } from '../../host/base/errors.js';
import type { Connected } from '../../host/handshake/attach.js';
import { type DialOptions, dial } from '../../host/handshake/dial.js';
import { encodeArchReq, encodeConInfo, encodeFrame, encodeVersion, FRAME } from '../../host/handshake/frames.js';
import { Listener, type ListenerOptions } from '../../host/handshake/listener.js';
import { rejection } from '../support/outcomes.js';
import { ALICE, BOB, FakePlugin, fakeTcp, registryOf } from '../support/precon.js';
import { seeded, testSeed } from '../support/seeded.js';
import { timebox } from '../support/timebox.js';

const seed = testSeed();

const HELLO = Buffer.concat([encodeVersion(), encodeConInfo(ALICE)]);
const REQ_TCP = encodeArchReq(103);
const OK = encodeFrame(FRAME.ARCH_OK);
const REFUSED = encodeFrame(FRAME.REFUSED);

const code = (expected: string) => (error: unknown) => error instanceof IsthmusError && error.code === expected;
const pause = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await pause(5);
}

/** Resources that a test leaves open if it fails half-way. */
const cleanups = new Set<() => unknown>();
test.after.each(async () => {
  for (const cleanup of cleanups) await cleanup();
  cleanups.clear();
});

/** A listener, with everything that it reported. */
class Service {
  listener!: Listener;
  readonly agreed: Connected[] = [];
  readonly errors: IsthmusError[] = [];
  readonly lines: string[] = [];

  static async open(options: Partial<ListenerOptions> = {}): Promise<Service> {
    const service = new Service();
    service.listener = await Listener.open({
      local: () => BOB,
      registry: registryOf(fakeTcp()),
      onAgreed: (connected) => service.agreed.push(connected),
      onHandshakeError: (error) => service.errors.push(error),
      log: (line) => service.lines.push(line),
      ...options,
    });
    cleanups.add(() => service.close());
    return service;
  }

  get port(): number {
    return this.listener.address.port;
  }

  get codes(): string[] {
    return this.errors.map((error) => error.code);
  }

  dial(options: Partial<DialOptions> = {}): Promise<Connected> {
    return dial({ host: '127.0.0.1', port: this.port, local: ALICE, registry: registryOf(fakeTcp()), ...options });
  }

  /** A peer written by hand, which sends these bytes. */
  async stranger(bytes: Uint8Array = Buffer.alloc(0)): Promise<Stranger> {
    const socket = connect({ host: '127.0.0.1', port: this.port, allowHalfOpen: true });
    const stranger = new Stranger(socket);
    cleanups.add(() => socket.destroy());
    await once(socket, 'connect');
    socket.write(bytes);
    return stranger;
  }

  /** The service still works. */
  async serves(): Promise<void> {
    const before = this.agreed.length;
    const connected = await this.dial({ retry: 0 });
    await until(() => this.agreed.length > before);
    connected.socket.destroy();
    this.agreed.at(-1)?.socket.destroy();
  }

  async close(): Promise<void> {
    await this.listener.close();
    for (const { socket } of this.agreed) socket.destroy();
  }
}

class Stranger {
  readonly #chunks: Buffer[] = [];
  /** The peer has closed. */
  readonly gone: Promise<unknown>;

  constructor(readonly socket: Socket) {
    socket.on('error', () => {});
    socket.on('data', (chunk) => this.#chunks.push(chunk));
    this.gone = new Promise((resolve) => {
      socket.on('end', resolve);
      socket.on('close', resolve);
    });
  }

  get heard(): Buffer {
    return Buffer.concat(this.#chunks);
  }
}

/** A server that is not a listener of Isthmus. */
async function fakeServer(
  onSocket: (socket: Socket) => void,
): Promise<{ server: Server; port: number; close(): void }> {
  const sockets = new Set<Socket>();
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    sockets.add(socket);
    socket.on('error', () => {});
    onSocket(socket);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  const port = typeof address === 'object' && address ? address.port : 0;
  const close = () => {
    server.close();
    for (const socket of sockets) socket.destroy();
  };
  cleanups.add(close);
  return { server, port, close };
}

/** A port without a listener at this moment. */
async function freePort(): Promise<number> {
  const { port, close, server } = await fakeServer(() => {});
  close();
  await once(server, 'close');
  return port;
}

const dialTo = (port: number, options: Partial<DialOptions> = {}) =>
  dial({ host: '127.0.0.1', port, local: ALICE, registry: registryOf(fakeTcp()), retry: 0, ...options });

/** Sockets and timers that keep this process alive. */
const resources = () =>
  process.getActiveResourcesInfo().filter((name) => ['TCPSocketWrap', 'TCPConnectWrap', 'Timeout'].includes(name));

// ---------------------------------------------------------------- agreement

test(
  'dial and listener agree, and pass the sockets to their owners',
  timebox(60, async () => {
    const service = await Service.open();
    const ours = await service.dial();
    await until(() => service.agreed.length === 1);
    const theirs = service.agreed[0] as Connected;
    assert.is(ours.plugin.name, 'tcp');
    assert.equal(ours.peer, { ...BOB, address: { host: '127.0.0.1', port: service.port } });
    assert.equal(theirs.peer, { ...ALICE, address: { host: '127.0.0.1', port: ours.socket.localPort } });
    assert.is(service.listener.handshakes, 0);
    for (const { socket } of [ours, theirs]) {
      for (const event of ['data', 'readable', 'connect', 'timeout']) assert.is(socket.listenerCount(event), 0, event);
      assert.equal(
        socket.listeners('error').map((listener) => listener.name),
        ['ignoreError'],
      );
      assert.ok(socket.isPaused());
      assert.ok(socket.allowHalfOpen);
    }
    // The socket works in both directions, also after the end of one of them.
    theirs.socket.on('data', (chunk) => theirs.socket.write(chunk)).on('end', () => theirs.socket.end('bye'));
    theirs.socket.resume();
    const heard: Buffer[] = [];
    ours.socket.on('data', (chunk) => heard.push(chunk));
    ours.socket.resume();
    ours.socket.end('hello, ');
    await once(ours.socket, 'end');
    assert.is(Buffer.concat(heard).toString(), 'hello, bye');
    await service.close();
  }),
);

test(
  'bytes after the handshake are not lost, however they are cut',
  timebox(60, async () => {
    const random = seeded(seed);
    const service = await Service.open();
    const phase2 = Buffer.from(Array.from({ length: 300_000 }, (_, i) => i % 251));
    const bytes = Buffer.concat([HELLO, REQ_TCP, OK, phase2]);
    for (let round = 0; round < 20; round++) {
      const stranger = await service.stranger();
      stranger.socket.setNoDelay();
      for (let at = 0; at < bytes.length; ) {
        const length = at < 100 ? 1 + random(30) : bytes.length;
        stranger.socket.write(bytes.subarray(at, at + length));
        at += length;
        if (random(2) === 0) await pause(1);
      }
      stranger.socket.end();
      await until(() => service.agreed.length > round);
      const { socket, rest } = service.agreed[round] as Connected;
      if (random(2) === 0) await pause(5);
      const heard: Buffer[] = [rest];
      socket.on('data', (chunk) => heard.push(chunk));
      socket.resume();
      await once(socket, 'end');
      assert.ok(Buffer.concat(heard).equals(phase2), `seed ${seed}, round ${round}`);
      socket.destroy();
    }
    await service.close();
  }),
);

test(
  'the next plugin is used when the first is refused, and both sides give the reason',
  timebox(60, async () => {
    const service = await Service.open();
    const shm = new FakePlugin('shm', 204, 90, {});
    const connected = await service.dial({ registry: registryOf(shm, fakeTcp()) });
    await until(() => service.agreed.length === 1);
    assert.is(connected.why, 'shm: refused by the peer');
    assert.is(service.agreed[0]?.why, 'no plugin with architecture id 204');
    assert.is(shm.held, 0);
    const error = await rejection(service.dial({ registry: registryOf(shm) }));
    assert.ok(code('ERR_ISTHMUS_NO_PLUGIN')(error));
    await until(() => service.errors.length === 1);
    assert.equal(service.codes, ['ERR_ISTHMUS_HANDSHAKE_REFUSED']);
    connected.socket.destroy();
    await service.close();
  }),
);

// ---------------------------------------------------------------- bad peers of the listener

test(
  'invalid bytes of a peer get a code each; the service continues',
  timebox(60, async () => {
    const random = seeded(seed ^ 1);
    const service = await Service.open();
    const http = Buffer.from('GET / HTTP/1.1\r\nHost: localhost\r\n\r\n');
    const huge = encodeFrame(FRAME.CON_INFO);
    huge.writeUInt32BE(0xffffffff, 4);
    const newer = Buffer.concat([encodeVersion(), encodeFrame(FRAME.CON_INFO, Buffer.alloc(40))]);
    const cases: [string, Buffer][] = [
      ['ERR_ISTHMUS_HANDSHAKE', http],
      ['ERR_ISTHMUS_HANDSHAKE', huge],
      ['ERR_ISTHMUS_HANDSHAKE', OK],
      ['ERR_ISTHMUS_HANDSHAKE', Buffer.alloc(200_000, encodeFrame(0x777777, Buffer.alloc(100)))],
      ['ERR_ISTHMUS_HANDSHAKE_VERSION', encodeVersion(0x0300, 0x0400)],
      ['ERR_ISTHMUS_HANDSHAKE_VERSION', newer],
      ['ERR_ISTHMUS_HANDSHAKE_REFUSED', Buffer.concat([encodeVersion(), encodeConInfo(ALICE, FRAME.CON_INFO_DEMAND)])],
      ['ERR_ISTHMUS_HANDSHAKE_REFUSED', encodeConInfo(ALICE, FRAME.BACK_CONNECT)],
    ];
    for (const [expected, bytes] of cases) {
      const stranger = await service.stranger(bytes);
      await stranger.gone;
      await until(() => service.errors.length > 0);
      assert.equal(service.codes, [expected]);
      const heard = expected === 'ERR_ISTHMUS_HANDSHAKE_REFUSED' ? REFUSED : Buffer.alloc(0);
      assert.is(stranger.heard.toString('hex'), heard.toString('hex'));
      service.errors.length = 0;
      stranger.socket.destroy();
    }
    for (let i = 0; i < 30; i++) {
      const stranger = await service.stranger(Buffer.from(Array.from({ length: 500 }, () => random(256))));
      stranger.socket.end();
      await stranger.gone;
      stranger.socket.destroy();
    }
    await until(() => service.errors.length === 30);
    assert.is(service.listener.handshakes, 0);
    await service.serves();
    await service.close();
  }),
);

test(
  'peers that stay silent, stop half-way or close half-way are dropped',
  timebox(60, async () => {
    const service = await Service.open({ handshakeTimeoutMs: 200 });
    const silent = await service.stranger();
    await silent.gone;
    const halfWay = await service.stranger(HELLO);
    await halfWay.gone;
    assert.equal(service.codes, ['ERR_ISTHMUS_HANDSHAKE_TIMEOUT', 'ERR_ISTHMUS_HANDSHAKE_TIMEOUT']);
    assert.match(service.errors[0]?.message ?? '', 'this side waited for CON_INFO');
    assert.match(service.errors[1]?.message ?? '', /this side waited for (CON_INFO|ARCH_REQ)/);
    await service.close();

    const patient = await Service.open({ handshakeTimeoutMs: 60_000 });
    const halfClosed = await patient.stranger(HELLO);
    halfClosed.socket.end();
    await halfClosed.gone;
    const reset = await patient.stranger(HELLO);
    await until(() => reset.heard.length > 0);
    reset.socket.resetAndDestroy();
    await until(() => patient.errors.length === 2);
    assert.equal(patient.codes, ['ERR_ISTHMUS_HANDSHAKE_REFUSED', 'ERR_ISTHMUS_HANDSHAKE_REFUSED']);
    await patient.serves();
    for (const { socket } of [silent, halfWay, halfClosed]) socket.destroy();
    await patient.close();
  }),
);

test(
  'more peers than places wait, and get their turn',
  timebox(60, async () => {
    const shm = new FakePlugin('shm', 204, 90, {});
    const service = await Service.open({ maxHandshakes: 3, registry: registryOf(shm, fakeTcp()) });
    const busy = Buffer.concat([HELLO, encodeArchReq(204)]);
    const holders = await Promise.all([1, 2, 3].map(() => service.stranger(busy)));
    await until(() => shm.held === 3);
    const clients = Array.from({ length: 20 }, () => service.dial({ retry: 0 }));
    await until(() => service.listener.handshakes === 23);
    assert.is(service.agreed.length, 0);
    for (const { socket } of holders) socket.destroy();
    for (const { socket } of await Promise.all(clients)) socket.destroy();
    assert.is(service.agreed.length, 20);
    await service.close();
  }),
);

test(
  'strangers that are silent, or stop within or behind their introduction, keep no client out',
  timebox(60, async () => {
    for (const bytes of [Buffer.alloc(0), HELLO.subarray(0, 1), encodeVersion(), HELLO]) {
      // The time limit of a handshake is longer than this test may take.
      const service = await Service.open({ handshakeTimeoutMs: bytes === HELLO ? 2000 : 600_000 });
      const strangers = await Promise.all(Array.from({ length: 100 }, () => service.stranger(bytes)));
      await until(() => service.listener.handshakes === 100);
      // Those with a whole introduction have all the places, and half of the time: others wait.
      const connected = await service.dial({ retry: 0 });
      assert.is(connected.plugin.name, 'tcp');
      connected.socket.destroy();
      for (const { socket } of strangers) socket.destroy();
      await service.close();
    }
  }),
);

test(
  'a silent peer is gone before its handshake would be, and is no warning; it may come again',
  timebox(60, async () => {
    const levels: (string | undefined)[] = [];
    const service = await Service.open({ handshakeTimeoutMs: 600_000, log: (_line, level) => levels.push(level) });
    const silent = await service.stranger();
    await silent.gone;
    assert.equal(service.codes, ['ERR_ISTHMUS_HANDSHAKE_TIMEOUT']);
    const probe = await service.stranger();
    probe.socket.end();
    await until(() => service.errors.length === 2);
    assert.equal(levels, ['info', 'debug']);
    const garbage = await service.stranger(OK);
    await garbage.gone;
    assert.equal(levels, ['info', 'debug', undefined]);
    await service.serves();
    for (const { socket } of [silent, probe, garbage]) socket.destroy();
    await service.close();
  }),
);

test(
  'held: strangers are not waited for, what was said counts, and all have their turn at the release',
  timebox(60, async () => {
    const shm = new FakePlugin('shm', 204, 90, {});
    const service = await Service.open({ registry: registryOf(shm, fakeTcp()), maxHandshakes: 8 });
    const idle = await service.stranger();
    const introduced = await service.stranger(HELLO);
    await until(() => introduced.heard.length > 0);
    const attempting = await service.stranger(Buffer.concat([HELLO, encodeArchReq(204)]));
    await until(() => shm.held === 1);
    let settled = false;
    const holding = service.listener.hold().then(() => {
      settled = true;
    });
    await pause(50);
    assert.not(settled, 'an attempt is under way');
    service.listener.cut();
    await holding;
    await attempting.gone;
    assert.is(shm.held, 0);
    assert.not(idle.socket.destroyed);
    // From here on nothing begins, and nothing is answered.
    introduced.socket.write(Buffer.concat([REQ_TCP, OK]));
    const said = await service.stranger(Buffer.concat([HELLO, REQ_TCP, OK, Buffer.from('phase 2')]));
    const clients = Array.from({ length: 20 }, () => service.dial({ retry: 0 }));
    await until(() => service.listener.handshakes === 23);
    await pause(1500);
    assert.equal([service.agreed.length, said.heard.length, service.listener.handshakes], [0, 0, 23]);
    service.listener.release();
    for (const { socket } of await Promise.all(clients)) socket.destroy();
    await until(() => service.agreed.length === 22);
    assert.ok(service.agreed.some(({ rest }) => rest.toString() === 'phase 2'));
    assert.not(idle.socket.destroyed, 'a peer that was silent meanwhile is given time');
    for (const { socket } of [idle, introduced, attempting, said]) socket.destroy();
    await service.close();
  }),
);

test(
  'held, and full: the oldest silent peers give way to those that have said who they are',
  timebox(60, async () => {
    const service = await Service.open({ maxWaiting: 10 });
    await service.listener.hold();
    const strangers: Stranger[] = [];
    for (let i = 0; i < 30; i++) strangers.push(await service.stranger());
    await Promise.all(strangers.slice(0, 20).map(({ gone }) => gone));
    const clients = Array.from({ length: 10 }, () => service.dial({ retry: 0 }));
    await Promise.all(strangers.map(({ gone }) => gone));
    assert.is(service.listener.handshakes, 10);
    // One too many is told nothing, and comes again.
    const again: string[] = [];
    const extra = service.dial({ retry: 10, retryPauseMs: 10, log: (line) => again.push(line) });
    await until(() => again.length > 0);
    assert.match(service.lines.join('\n'), 'too many peers');
    service.listener.release();
    for (const { socket } of await Promise.all([...clients, extra])) socket.destroy();
    await service.close();
  }),
);

test(
  'blocked addresses are closed before anything is read',
  timebox(60, async () => {
    const blockList = new BlockList();
    blockList.addSubnet('127.0.0.0', 8, 'ipv4');
    for (const host of ['127.0.0.1', '::']) {
      const asked: unknown[] = [];
      const accept = (peer: unknown) => asked.push(peer) > 0;
      const service = await Service.open({ host, blockList, accept }).catch((error) => {
        // This machine has no IPv6.
        if (host === '::') return undefined;
        throw error;
      });
      if (!service) continue;
      const error = (await rejection(service.dial({ retry: 1000 }))) as IsthmusError;
      assert.ok(code('ERR_ISTHMUS_HANDSHAKE_REFUSED')(error));
      assert.is(error.temporary, false);
      assert.is(service.lines.length, 1, 'it is not tried again');
      assert.match(service.lines.join(), 'blocked');
      assert.is(asked.length, 0);
      assert.is(service.errors.length, 0);
      await service.close();
    }
  }),
);

test(
  'accept that refuses, throws or never answers admits no peer, and says nothing but that',
  timebox(60, async () => {
    let answer: ListenerOptions['accept'];
    const service = await Service.open({ accept: (peer) => answer?.(peer) ?? true });
    const broken = () => {
      throw new Error('broken');
    };
    for (const how of [() => false, broken, async () => broken()]) {
      answer = how;
      const stranger = await service.stranger(Buffer.concat([HELLO, REQ_TCP, OK]));
      await stranger.gone;
      assert.is(stranger.heard.toString('hex'), REFUSED.toString('hex'));
      assert.equal(service.codes, ['ERR_ISTHMUS_HANDSHAKE_REFUSED']);
      // It is not tried again.
      const error = (await rejection(service.dial({ retry: 1000 }))) as IsthmusError;
      assert.ok(code('ERR_ISTHMUS_HANDSHAKE_REFUSED')(error));
      assert.is(error.temporary, false);
      service.errors.length = 0;
      stranger.socket.destroy();
    }
    answer = async (peer) => {
      await pause(20);
      return peer.name === 'alice' && peer.address?.host === '127.0.0.1';
    };
    await service.serves();
    await service.close();

    const hanging = await Service.open({ accept: () => new Promise(() => {}), handshakeTimeoutMs: 500 });
    const stranger = await hanging.stranger(Buffer.concat([HELLO, REQ_TCP, OK]));
    await stranger.gone;
    assert.is(stranger.heard.length, 0);
    assert.equal(hanging.codes, ['ERR_ISTHMUS_HANDSHAKE_TIMEOUT']);
    await hanging.close();
  }),
);

test(
  'callbacks that throw do not end the service',
  timebox(60, async () => {
    let broken = true;
    const service = await Service.open({
      local: () => {
        if (broken) throw new Error('no id');
        return BOB;
      },
      onHandshakeError: () => {
        throw new Error('handler broke');
      },
    });
    const stranger = await service.stranger(HELLO);
    await stranger.gone;
    stranger.socket.destroy();
    assert.match(service.lines.join('\n'), 'handler broke');
    broken = false;
    await service.serves();
    await service.close();

    const throwing = await Service.open({
      onAgreed: () => {
        throw new Error('no room');
      },
    });
    const { socket } = await throwing.dial();
    socket.resume();
    await once(socket, 'end');
    assert.match(throwing.errors[0]?.message ?? '', 'no room');
    socket.destroy();
    await throwing.close();
  }),
);

test(
  'close ends handshakes in progress, leaves agreed connections, and may be called twice',
  timebox(60, async () => {
    const shm = new FakePlugin('shm', 204, 90, {});
    const service = await Service.open({ registry: registryOf(shm, fakeTcp()) });
    const connected = await service.dial();
    await until(() => service.agreed.length === 1);
    const waiting = await service.stranger(Buffer.concat([HELLO, encodeArchReq(204)]));
    await until(() => shm.held === 1);
    await Promise.all([service.listener.close(), service.listener.close()]);
    await service.listener.close();
    await waiting.gone;
    assert.is(shm.held, 0);
    assert.is(service.errors.length, 0);
    assert.not.ok(connected.socket.destroyed);
    assert.not.ok(service.agreed[0]?.socket.destroyed);
    const again = await Service.open({ port: service.port });
    assert.is(again.port, service.port);
    await again.close();
    waiting.socket.destroy();
    connected.socket.destroy();
    await service.close();
  }),
);

test(
  'a port in use, or an invalid one, is an error with a code',
  timebox(60, async () => {
    const service = await Service.open();
    const taken = await rejection(Service.open({ port: service.port }));
    assert.ok(code('ERR_ISTHMUS_LISTEN')(taken));
    assert.is((taken as IsthmusError).errno, 'EADDRINUSE');
    assert.ok(code('ERR_ISTHMUS_LISTEN')(await rejection(Service.open({ host: '203.0.113.7' }))));
    assert.ok(code('ERR_ISTHMUS_INVALID_ARGUMENT')(await rejection(Service.open({ port: 65536 }))));
    await service.close();
  }),
);

test(
  'a back-connect is acknowledged and closed in order',
  timebox(60, async () => {
    const service = await Service.open({ onDemand: () => ({}) });
    const stranger = await service.stranger(encodeConInfo(ALICE, FRAME.BACK_CONNECT));
    await stranger.gone;
    assert.is(stranger.heard.toString('hex'), '0010000600000000');
    stranger.socket.end();
    await once(stranger.socket, 'close');
    assert.is(service.listener.handshakes, 0);
    assert.equal(service.codes, []);
    await service.close();
  }),
);

// ---------------------------------------------------------------- bad peers of dial

test(
  'dial: servers that send invalid bytes, stay silent, or hang up',
  timebox(60, async () => {
    const newer = Buffer.concat([encodeVersion(), encodeFrame(FRAME.CON_INFO, Buffer.alloc(40))]);
    for (const [expected, behave] of [
      ['ERR_ISTHMUS_HANDSHAKE', (socket: Socket) => socket.end('HTTP/1.1 400 Bad Request\r\n\r\n')],
      ['ERR_ISTHMUS_HANDSHAKE', (socket: Socket) => socket.pipe(socket)],
      ['ERR_ISTHMUS_HANDSHAKE_VERSION', (socket: Socket) => socket.write(encodeVersion(1, 2))],
      ['ERR_ISTHMUS_HANDSHAKE_VERSION', (socket: Socket) => socket.write(newer)],
      ['ERR_ISTHMUS_HANDSHAKE_TIMEOUT', () => {}],
      ['ERR_ISTHMUS_HANDSHAKE_TIMEOUT', (socket: Socket) => socket.write(HELLO)],
      ['ERR_ISTHMUS_HANDSHAKE_REFUSED', (socket: Socket) => socket.end()],
      ['ERR_ISTHMUS_HANDSHAKE_REFUSED', (socket: Socket) => socket.destroy()],
      ['ERR_ISTHMUS_HANDSHAKE_REFUSED', (socket: Socket) => socket.resetAndDestroy()],
    ] as const) {
      const tcp = fakeTcp();
      const { port, close } = await fakeServer(behave);
      const handshakeTimeoutMs = expected === 'ERR_ISTHMUS_HANDSHAKE_TIMEOUT' ? 300 : 60_000;
      const error = await rejection(dialTo(port, { handshakeTimeoutMs, registry: registryOf(tcp) }));
      // A reset may arrive so early that the connect itself fails.
      const early = (error as IsthmusError).errno === 'ECONNRESET' && code('ERR_ISTHMUS_CONNECT')(error);
      assert.ok(code(expected)(error) || early, `${expected}: ${error}`);
      assert.is(tcp.held, 0);
      close();
    }
  }),
);

test(
  'dial: a refused connect is tried again, until there is a listener or the limit is reached',
  timebox(60, async () => {
    const port = await freePort();
    const lines: string[] = [];
    const error = await rejection(dialTo(port, { retry: 3, retryPauseMs: 5, log: (line) => lines.push(line) }));
    assert.ok(code('ERR_ISTHMUS_CONNECT')(error));
    assert.is((error as IsthmusError).errno, 'ECONNREFUSED');
    assert.match((error as IsthmusError).message, 'tried 4 times');
    assert.is(lines.length, 3);

    let opened: Promise<Service> | undefined;
    const connected = await dialTo(port, {
      retry: 50,
      retryPauseMs: 20,
      log: () => {
        opened ??= pause(30).then(() => Service.open({ port }));
      },
    });
    assert.is(connected.plugin.name, 'tcp');
    connected.socket.destroy();
    await (await opened)?.close();
  }),
);

test(
  'dial: closed before an answer means later: tried again, within the limits of the connect',
  timebox(60, async () => {
    let calls = 0;
    let behave = (socket: Socket) => socket.destroy();
    const { port } = await fakeServer((socket) => {
      calls++;
      behave(socket);
    });
    // In number.
    const counted = (await rejection(dialTo(port, { retry: 3, retryPauseMs: 5 }))) as IsthmusError;
    assert.ok(code('ERR_ISTHMUS_HANDSHAKE_REFUSED')(counted) || code('ERR_ISTHMUS_CONNECT')(counted));
    assert.match(counted.message, 'tried 4 times');
    assert.is(calls, 4);
    // In time.
    behave = (socket) => socket.end();
    const late = (await rejection(
      dialTo(port, { retry: 1_000_000, retryPauseMs: 5, handshakeTimeoutMs: 300 }),
    )) as IsthmusError;
    assert.ok(code('ERR_ISTHMUS_HANDSHAKE_REFUSED')(late));
    assert.is(late.temporary, true);
    // By the signal.
    const reason = new Error('not any more');
    const controller = new AbortController();
    const aborted = dialTo(port, {
      retry: 1_000_000,
      retryPauseMs: 5,
      signal: controller.signal,
      log: () => controller.abort(reason),
    });
    assert.is(await rejection(aborted), reason);
    // An answer of any kind is an answer.
    calls = 0;
    behave = (socket) => socket.end(HELLO);
    assert.ok(code('ERR_ISTHMUS_HANDSHAKE_REFUSED')(await rejection(dialTo(port, { retry: 1000 }))));
    assert.is(calls, 1);
    // Where a C program refuses without an answer, and another call comes.
    calls = 0;
    behave = (socket) => socket.end();
    await rejection(dialTo(port, { retry: 1000, retryUnanswered: false }));
    assert.is(calls, 1);
  }),
);

test(
  'dial: invalid arguments are reported at once',
  timebox(60, async () => {
    assert.ok(code('ERR_ISTHMUS_INVALID_ARGUMENT')(await rejection(dialTo(65536))));
    const service = await Service.open();
    const local = { ...ALICE, name: 'much too long' };
    assert.ok(code('ERR_ISTHMUS_INVALID_ARGUMENT')(await rejection(service.dial({ local }))));
    await service.close();
  }),
);

test(
  'dial: an abort rejects with its reason at any moment and leaves nothing',
  timebox(60, async () => {
    const reason = new Error('not any more');
    assert.is(await rejection(dialTo(1, { signal: AbortSignal.abort(reason) })), reason);

    const before = resources();
    const { port: silent, close } = await fakeServer(() => {});
    const refusing = await freePort();
    for (const port of [silent, refusing]) {
      for (let ms = 0; ms < 40; ms += 4) {
        const tcp = fakeTcp();
        const controller = new AbortController();
        const dialing = rejection(
          dialTo(port, { signal: controller.signal, registry: registryOf(tcp), retry: 1000, retryPauseMs: 10 }),
        );
        if (ms > 0) await pause(ms);
        controller.abort(reason);
        assert.is(await dialing, reason);
        assert.is(tcp.held, 0);
      }
    }
    close();
    // A socket is gone one turn after it was destroyed.
    await until(() => resources().length <= before.length);

    // After the agreement, the signal has no effect.
    const service = await Service.open();
    const controller = new AbortController();
    const connected = await service.dial({ signal: controller.signal });
    controller.abort(reason);
    await pause(10);
    assert.not.ok(connected.socket.destroyed);
    connected.socket.destroy();
    await service.close();
  }),
);

test(
  'dial: a plugin that needs time, with a limit',
  timebox(60, async () => {
    const slow = () => new FakePlugin('shm', 204, 90, { agreed: (channel) => setTimeout(() => channel.ok(), 20) });
    const eager = () => new FakePlugin('shm', 204, 90);
    const service = await Service.open({ registry: registryOf(slow()) });
    const connected = await service.dial({ registry: registryOf(eager()) });
    await until(() => service.agreed.length === 1);
    assert.is(connected.label, 'shm');
    connected.socket.destroy();
    await service.close();

    const never = new FakePlugin('shm', 204, 90, {});
    const stuck = await Service.open({ registry: registryOf(never), handshakeTimeoutMs: 60_000 });
    const error = await rejection(stuck.dial({ registry: registryOf(eager()), handshakeTimeoutMs: 500 }));
    assert.ok(code('ERR_ISTHMUS_HANDSHAKE_TIMEOUT')(error));
    assert.match((error as Error).message, /this side waited for (CON_INFO|ARCH_OK for shm)/);
    await until(() => stuck.errors.length === 1);
    assert.is(never.held, 0);
    await stuck.close();
  }),
);

test.run();
