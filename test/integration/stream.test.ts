/**
 * `connection.stream()` over `loop`, `tcp` and `ivshmem`, and HTTP over it.
 *
 * The far ends of `tcp` and `ivshmem` are this file again, as a process with the role `far`. ISTHMUS_TEST_STREAM_MB:
 * MiB that each direction carries where bytes are counted (default 4); ISTHMUS_TEST_REQUESTS: requests (default 200).
 */
import { createHash, type Hash } from 'node:crypto';
import { once } from 'node:events';
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import http from 'node:http';
import { createServer as createSecureServer } from 'node:https';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { PassThrough, Readable } from 'node:stream';
import { text } from 'node:stream/consumers';
import { finished, pipeline } from 'node:stream/promises';
import { setTimeout as pause } from 'node:timers/promises';
import tls from 'node:tls';
import { test as register } from 'uvu';
import * as assert from 'uvu/assert';
import {
  type Connection,
  type ConnectionStream,
  IsthmusError,
  Runtime,
  type RuntimeOptions,
} from '../../host/index.js';
import { Child, chosen, endChildren, play, role, roleOptions, serve } from '../support/process.js';
import { MIB, newRegion, only, removeRegions } from '../support/regions.js';
import { seeded, seededBytes, testSeed } from '../support/seeded.js';
import { timebox } from '../support/timebox.js';

const test = chosen(register);
const AMOUNT = Number(process.env['ISTHMUS_TEST_STREAM_MB'] ?? 4) * MIB;
const REQUESTS = Number(process.env['ISTHMUS_TEST_REQUESTS'] ?? 200);

/** Description of an error, also across processes. */
const codeOf = (error: unknown) => (error as { code?: string } | undefined)?.code ?? String(error);

/** Chunks of all sizes, empty ones too, hashed on the way; the other end must get `total` bytes with this hash. */
function* chunks(seed: number, total: number, hash: Hash): Generator<Buffer> {
  const random = seeded(seed);
  const noise = seededBytes(seed, 1 << 20);
  for (let left = total; left > 0; ) {
    const scale = [1, 10, 1000, 60_000, 300_000, 1 << 20][random(6)] as number;
    const length = Math.min(left, random(scale));
    const chunk = noise.subarray(noise.length - length);
    hash.update(chunk);
    left -= length;
    yield chunk;
  }
}

/** Write in all ways: waiting for room or not, corked or not. */
async function writeAll(stream: ConnectionStream, seed: number, total: number): Promise<string> {
  const hash = createHash('sha256');
  const random = seeded(seed + 1);
  for (const chunk of chunks(seed, total, hash)) {
    if (random(20) === 0) stream.cork();
    const more = stream.write(chunk);
    if (random(5) === 0) while (stream.writableCorked) stream.uncork();
    if (more) continue;
    while (stream.writableCorked) stream.uncork();
    if (stream.writableNeedDrain) await once(stream, 'drain');
  }
  stream.end();
  return hash.digest('hex');
}

/** @param restless stop reading now and then */
async function hashAll(stream: Readable, restless = false): Promise<{ length: number; hash: string }> {
  const hash = createHash('sha256');
  let length = 0;
  // By default the iterator destroys a Duplex after it has read one direction.
  for await (const chunk of stream.iterator({ destroyOnReturn: false })) {
    hash.update(chunk as Buffer);
    length += (chunk as Buffer).length;
    if (restless && length % 50 === 0) await pause(1);
  }
  return { length, hash: hash.digest('hex') };
}

/** A stream, its events, and methods that another process can call by name. */
class End {
  readonly connection: Connection;
  readonly stream: ConnectionStream;
  readonly events: string[] = [];
  #text = '';
  #moving: Promise<[string, { length: number; hash: string }]> | undefined;

  constructor(connection: Connection, options?: { allowHalfOpen?: boolean }) {
    this.connection = connection;
    this.stream = connection.stream(options);
    for (const event of ['end', 'finish', 'close']) this.stream.on(event, () => this.events.push(event));
    this.stream.on('error', (error) => this.events.push(codeOf(error)));
  }

  /** Both directions at once. @returns what was sent, and what was received */
  async exchange(seed: number, total: number): Promise<{ sent: string; got: { length: number; hash: string } }> {
    this.#moving = Promise.all([writeAll(this.stream, seed, total), hashAll(this.stream, true)]);
    const [sent, got] = await this.#moving;
    return { sent, got };
  }

  echo(): void {
    pipeline(this.stream, this.stream).catch(() => {});
  }

  async write(text: string): Promise<void> {
    await new Promise<void>((resolve, reject) => this.stream.write(text, (e) => (e ? reject(e) : resolve())));
  }

  end(text?: string): void {
    this.stream.end(text);
  }

  endSoon(text: string): void {
    this.stream.write(text);
    this.stream.destroySoon();
  }

  destroy(message?: string | null): void {
    this.stream.destroy(message ? new Error(message) : undefined);
  }

  closeConnection(): Promise<void> {
    return this.connection.close();
  }

  /** Start to read text. */
  read(): void {
    this.stream.setEncoding('utf8').on('data', (piece: string) => {
      this.#text += piece;
    });
  }

  async closed(): Promise<{ text: string; events: string[]; reason: string }> {
    await until(() => this.events.includes('close'));
    const { reason } = await this.connection.closed;
    return { text: this.#text, events: this.events, reason };
  }

  happened(): string[] {
    return this.events;
  }

  async ended(): Promise<string> {
    await until(() => this.events.includes('end'));
    return this.#text;
  }

  hash(): Promise<{ length: number; hash: string }> {
    return hashAll(this.stream);
  }

  buffered(): number {
    return this.stream.readableLength;
  }

  /** Counts of the messages that carry the stream; the stream itself is not used. */
  async lengths(): Promise<number[]> {
    const lengths: number[] = [];
    for (;;) {
      const message = await this.connection.receive();
      if (!message) return lengths;
      lengths.push(message.data.length);
      if (message.data.length === 0) return lengths;
    }
  }
}

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await pause(2);
}

const PSK = { identity: 'isthmus', psk: Buffer.alloc(32, 7) };
/** No certificates: both sides know a key. */
const SECURE = { ciphers: 'PSK', minVersion: 'TLSv1.2', maxVersion: 'TLSv1.2' } as const;

/** Listeners of the far side: for streams that are called by name, HTTP, HTTPS, and HTTP with short timeouts. */
async function listenAll(runtime: Runtime) {
  const ends: End[] = [];
  const options: { allowHalfOpen?: boolean }[] = [];
  const seen: string[] = [];
  const begun: string[] = [];
  const handler: http.RequestListener = async (request, response) => {
    request.on('error', () => {});
    response.on('error', () => {});
    const path = request.url ?? '';
    begun.push(path);
    const length = Number(/\d+$/.exec(path)?.[0] ?? 0);
    if (path.startsWith('/down')) {
      await pipeline(Readable.from(chunks(length, length, createHash('sha256'))), response).catch((error) =>
        seen.push(`down: ${codeOf(error)}`),
      );
    } else if (path.startsWith('/up')) {
      await hashAll(request).then(
        (got) => response.end(JSON.stringify(got)),
        (error) => seen.push(`up: ${codeOf(error)}`),
      );
    } else if (path.startsWith('/cut')) {
      response.writeHead(200, { 'content-length': 1e9 });
      response.write(Buffer.alloc(length), () => response.socket?.destroy());
    } else if (path.startsWith('/deaf')) {
      response.writeHead(413, { connection: 'close' }).end('too much');
    } else {
      response.setHeader('x-from', String(request.socket.remoteAddress));
      response.end(`${request.method} ${path} ${await text(request)}`);
    }
  };
  // On a slow machine a request must not meet the end of its idle connection.
  const server = http.createServer({ keepAliveTimeout: 60_000 }, handler);
  const secure = createSecureServer({ ...SECURE, pskCallback: () => PSK.psk } as object, handler);
  const hasty = http.createServer({ headersTimeout: 300, requestTimeout: 600, connectionsCheckingInterval: 50 });
  hasty.on('request', (request, response) => request.on('end', () => response.end()).resume());
  // As an application does: a server that never listens checks no timeouts and knows of no idle connections until then.
  for (const one of [server, secure, hasty]) one.emit('listening');
  const accepted: ConnectionStream[] = [];
  const serveWith = (server: http.Server) => async (connection: Connection) => {
    const stream = connection.stream();
    accepted.push(stream);
    server.emit('connection', stream);
  };
  const listening = await Promise.all([
    runtime.listen({}, (connection) => {
      ends.push(new End(connection, options.shift()));
    }),
    runtime.listen({}, serveWith(server)),
    runtime.listen({}, serveWith(secure)),
    runtime.listen({}, serveWith(hasty)),
  ]);
  return {
    ports: () => listening.map(({ port }) => port),
    /** For the stream of the next connection. */
    next(given: { allowHalfOpen?: boolean }) {
      options.push(given);
    },
    async newest(count: number) {
      await until(() => ends.length >= count);
      return count - 1;
    },
    call: (end: number, method: string, args: unknown[]) =>
      ((ends[end] as End)[method as keyof End] as (...args: unknown[]) => unknown)(...args),
    seen: () => seen,
    /** Paths of requests. */
    begun: () => begun,
    /** Streams of HTTP that are still open. */
    open: () => accepted.filter(({ closed }) => !closed).length,
    closeIdle: () => server.closeIdleConnections(),
  };
}

type Far = Awaited<ReturnType<typeof listenAll>>;

const roles: Record<string, () => Promise<void>> = {
  async far() {
    const runtime = await Runtime.create(roleOptions<RuntimeOptions>());
    serve({ ...(await listenAll(runtime)) });
  },
};

/** Runtimes of this process, closed at the end. */
const runtimes: Runtime[] = [];
async function newRuntime(options: RuntimeOptions): Promise<Runtime> {
  const runtime = await Runtime.create(options);
  runtimes.push(runtime);
  return runtime;
}

/** One plugin: a runtime here, its listeners in another process or, for `loop`, here as well. */
interface Subject {
  readonly runtime: Runtime;
  readonly child: Child | undefined;
  readonly ports: number[];
  /** Calls a function of `listenAll` in the far process. */
  far<T = any>(name: keyof Far, ...args: unknown[]): Promise<T>;
  connections: number;
}

async function start(plugin: string): Promise<Subject> {
  const options = only(plugin === 'ivshmem' ? newRegion() : '');
  const runtime = await newRuntime(options);
  if (plugin === 'loop') {
    const all = await listenAll(runtime);
    const far = async (name: keyof Far, ...args: unknown[]) => (all[name] as (...args: unknown[]) => any)(...args);
    return { runtime, child: undefined, ports: all.ports(), far, connections: 0 };
  }
  const child = Child.start(import.meta.url, 'far', options);
  const ports = await child.call<number[]>('ports');
  const far = (name: keyof Far, ...args: unknown[]) => child.call(name, ...args);
  return { runtime, child, ports, far, connections: 0 };
}

type Call = <K extends keyof End>(method: K, ...args: unknown[]) => Promise<any>;

function suite(plugin: string, seed: number): void {
  let started: Promise<Subject> | undefined;
  const subject = () => {
    started ??= start(plugin);
    return started;
  };

  const connect = async (port: number): Promise<Connection> => {
    const { runtime, ports } = await subject();
    const connection = await runtime.connect({ host: '127.0.0.1', port: ports[port] as number });
    assert.is(connection.plugin, plugin);
    return connection;
  };

  /** A stream here, and its other end in the far process. */
  const open = async (options?: { allowHalfOpen?: boolean }): Promise<{ near: End; far: Call }> => {
    const on = await subject();
    const near = new End(await connect(0), options);
    const place = await on.far<number>('newest', ++on.connections);
    return { near, far: (method, ...args) => on.far('call', place, method, args) };
  };

  const check = (name: string, seconds: number, body: () => Promise<void>) =>
    test(`${plugin}: ${name}`, timebox(seconds, body));

  // ── Bytes ──────────────────────────────────────────────────────────────────────────────────────────────────────────

  check('chunks of all sizes in both directions at once', 60, async () => {
    const { near, far } = await open();
    const theirs = far('exchange', seed, AMOUNT);
    const mine = await near.exchange(seed + 7, AMOUNT);
    const their = await theirs;
    assert.equal(mine.got, { length: AMOUNT, hash: their.sent });
    assert.equal(their.got, { length: AMOUNT, hash: mine.sent });
    const { events, reason } = await near.closed();
    assert.equal([...events].sort(), ['close', 'end', 'finish']);
    assert.match(reason, /^(local|peer)$/);
    assert.equal([...(await far('closed')).events].sort(), ['close', 'end', 'finish']);
    assert.is(near.stream.bytesRead, AMOUNT);
    assert.is(near.stream.bytesWritten, AMOUNT);
  });

  check('many small writes, uncorked and corked', 30, async () => {
    const { near, far } = await open();
    const echoed = hashAll(near.stream);
    await far('echo');
    const hash = createHash('sha256');
    const random = seeded(seed);
    let length = 0;
    for (let i = 0; i < 20_000; i++) {
      const piece = String(random(1e9)).slice(0, 1 + (i % 8));
      if (i === 10_000) near.stream.cork();
      hash.update(piece);
      length += piece.length;
      if (!near.stream.write(piece) && i < 10_000) await once(near.stream, 'drain');
    }
    const before = near.connection.stats().messagesSent;
    near.stream.uncork();
    near.stream.end();
    assert.equal(await echoed, { length, hash: hash.digest('hex') });
    // 10,000 corked pieces, many of which share a message.
    const messages = near.connection.stats().messagesSent - before;
    assert.ok(messages < 100, `${messages} messages`);
    await near.closed();
  });

  check('a long write goes in messages of at most chunkSize, an empty one in none', 30, async () => {
    const on = await subject();
    const connection = await connect(0);
    const place = await on.far<number>('newest', ++on.connections);
    const lengths = on.far<number[]>('call', place, 'lengths', []);
    const stream = connection.stream({ chunkSize: 100_000 });
    assert.is(connection.stream(), stream, 'another stream the second time');
    stream.write('');
    stream.write(Buffer.alloc(0));
    stream.cork();
    stream.write(Buffer.alloc(950_000));
    stream.write('');
    stream.write('a');
    stream.write('b');
    stream.uncork();
    stream.end('');
    const got = await lengths;
    assert.equal(got, [...Array(9).fill(100_000), 50_000, 2, 0]);
    stream.destroy();
  });

  check('invalid options', 20, async () => {
    const connection = await connect(0);
    (await subject()).connections++;
    for (const options of [
      { chunkSize: 0 },
      { chunkSize: 1.5 },
      { highWaterMark: -1 },
      { highWaterMark: '1' as any },
    ]) {
      try {
        connection.stream(options);
        assert.unreachable();
      } catch (error) {
        assert.is(codeOf(error), 'ERR_ISTHMUS_INVALID_ARGUMENT');
      }
    }
    const stream = connection.stream();
    for (const timeout of [-1, Number.NaN, '1' as any]) assert.throws(() => stream.setTimeout(timeout));
    stream.destroy();
  });

  check('a reader that does not read holds the writer back, and loses nothing', 60, async () => {
    const { near, far } = await open();
    const piece = seededBytes(seed, 65_536);
    const hash = createHash('sha256');
    const most = 64 * MIB;
    let length = 0;
    let stalled = false;
    while (!stalled && length < most) {
      hash.update(piece);
      length += piece.length;
      if (!near.stream.write(piece)) {
        const giveUp = new AbortController();
        const waited = once(near.stream, 'drain', giveUp).catch(() => {});
        const idle = async () => {
          for (let before = -1; before !== near.connection.stats().bytesSent; ) {
            before = near.connection.stats().bytesSent;
            await pause(300);
          }
          stalled = near.stream.writableNeedDrain;
        };
        await Promise.race([waited, idle()]);
        giveUp.abort();
      }
    }
    assert.ok(stalled, `${length} bytes and no end`);
    // The buffers of the two sockets are the largest in between.
    assert.ok(length < 32 * MIB, `${length} bytes are in transfer`);
    assert.ok((await far('buffered')) <= 1 << 20);
    near.stream.end();
    const got = await far('hash');
    assert.equal(got, { length, hash: hash.digest('hex') });
    await far('end');
    near.read();
    await near.closed();
  });

  check('pipeline and finished, through the other side and back', 30, async () => {
    const { near, far } = await open();
    await far('echo');
    const sent = createHash('sha256');
    const back = new PassThrough();
    const [got] = await Promise.all([
      hashAll(back),
      pipeline(Readable.from(chunks(seed, 1 << 20, sent)), near.stream, back),
      finished(near.stream),
    ]);
    assert.equal(got, { length: 1 << 20, hash: sent.digest('hex') });
  });

  check('lines', 20, async () => {
    const { near, far } = await open();
    await far('echo');
    near.stream.write('one\ntw');
    near.stream.end('o\r\nthree');
    const lines: string[] = [];
    for await (const line of createInterface({ input: near.stream })) lines.push(line);
    assert.equal(lines, ['one', 'two', 'three']);
  });

  // ── Ends ───────────────────────────────────────────────────────────────────────────────────────────────────────────

  for (const first of ['near', 'far'] as const) {
    check(`half-close, ${first} first`, 20, async () => {
      const { near, far } = await open();
      const ends = {
        near: (async (method: keyof End, ...args: unknown[]) => (near[method] as any)(...args)) as Call,
        far,
      };
      const [a, b] = first === 'near' ? [ends.near, ends.far] : [ends.far, ends.near];
      await a('read');
      await b('read');
      await a('end', 'that is all of me');
      assert.is(await b('ended'), 'that is all of me');
      // One direction has ended, the other has not.
      await pause(50);
      assert.equal(await a('happened'), ['finish']);
      assert.equal(await b('happened'), ['end']);
      for (let i = 0; i < 50; i++) await b('write', `${i} `);
      await b('end', 'and of me');
      const expected = `${Array.from({ length: 50 }, (_, i) => `${i} `).join('')}and of me`;
      const closed = await a('closed');
      assert.is(closed.text, expected);
      assert.equal(closed.events, ['finish', 'end', 'close']);
      assert.equal((await b('closed')).events, ['end', 'finish', 'close']);
      assert.match((await a('closed')).reason, /^(local|peer)$/);
      assert.match((await b('closed')).reason, /^(local|peer)$/);
    });
  }

  check('without half-open one end ends both', 20, async () => {
    const on = await subject();
    await on.far('next', { allowHalfOpen: false });
    const { near, far } = await open();
    near.read();
    await far('read');
    near.end('hello');
    const { text, events } = await far('closed');
    assert.is(text, 'hello');
    assert.equal(events, ['end', 'finish', 'close']);
    assert.equal((await near.closed()).events, ['finish', 'end', 'close']);
  });

  check('a destroyed stream is an error at the other side, after the bytes sent before', 30, async () => {
    for (const cause of [undefined, 'of the application']) {
      const { near, far } = await open();
      near.read();
      await far('read');
      await far('write', 'the last words');
      await until(() => near.stream.bytesRead > 0);
      await far('destroy', cause);
      const { text, events, reason } = await near.closed();
      assert.is(text, 'the last words');
      assert.equal(events, ['ERR_ISTHMUS_PEER_DIED', 'close']);
      assert.is(reason, 'error');
      assert.equal((await far('closed')).events, cause ? [`Error: ${cause}`, 'close'] : ['close']);
      assert.ok(near.stream.errored instanceof IsthmusError);
    }
    const { near, far } = await open();
    await far('read');
    near.destroy();
    assert.equal((await far('closed')).events, ['ERR_ISTHMUS_PEER_DIED', 'close']);
  });

  check('what is written in the turn in which the stream is destroyed arrives before the error', 20, async () => {
    const { near, far } = await open();
    await far('read');
    near.stream.write('the last words');
    near.destroy('of the application');
    const { text, events } = await far('closed');
    assert.is(text, 'the last words');
    assert.equal(events, ['ERR_ISTHMUS_PEER_DIED', 'close']);
  });

  check('a late reader gets all bytes that arrived before the error', 30, async () => {
    const { near, far } = await open();
    await far('write', 'x'.repeat(300_000));
    await until(() => near.connection.stats().messagesReceived > 1 || near.connection.stats().unreadMessages > 1);
    near.read();
    near.stream.pause();
    await far('destroy');
    await near.connection.closed;
    await pause(50);
    assert.equal(near.events, []);
    near.stream.resume();
    const { text, events } = await near.closed();
    assert.is(text.length, 300_000);
    assert.equal(events, ['ERR_ISTHMUS_PEER_DIED', 'close']);
  });

  check('writing to a peer that is gone fails, with and without a reader', 30, async () => {
    for (const reads of [true, false]) {
      const { near, far } = await open();
      if (reads) near.read();
      const write = async () => {
        for (;;) await near.write('x'.repeat(100_000));
      };
      const failed = write().catch(codeOf);
      await far('destroy');
      // The second: it was between two writes.
      assert.match(await failed, /^(ERR_ISTHMUS_PEER_DIED|ERR_STREAM_DESTROYED)$/);
      assert.equal((await near.closed()).events, ['ERR_ISTHMUS_PEER_DIED', 'close']);
    }
  });

  check('destroySoon: everything arrives, and the end', 20, async () => {
    const { near, far } = await open();
    await far('read');
    const words = 'x'.repeat(1 << 20);
    near.endSoon(words);
    const { text, events, reason } = await far('closed');
    assert.is(text.length, words.length);
    assert.equal(events, ['end', 'finish', 'close']);
    assert.is(reason, 'peer');
    assert.equal((await near.closed()).events, ['finish', 'close']);
  });

  check('a connection that the other side closes in order has ended', 20, async () => {
    const { near, far } = await open();
    near.read();
    await far('write', 'before');
    await far('closeConnection');
    const { text, events, reason } = await near.closed();
    assert.is(text, 'before');
    assert.equal(events, ['end', 'finish', 'close']);
    assert.is(reason, 'peer');
    assert.equal((await far('closed')).events, ['close']);
  });

  check('a timeout, which traffic postpones', 20, async () => {
    const { near, far } = await open();
    near.read();
    let count = 0;
    const never = () => assert.unreachable();
    near.stream.setTimeout(60_000, never).setTimeout(0, never);
    near.stream.setTimeout(40, () => count++);
    assert.is(near.stream.timeout, 40);
    await until(() => count === 1);
    near.stream.on('timeout', () => count++);
    await pause(80);
    assert.is(count, 1, 'once, without a byte in between');
    await far('write', 'a byte');
    await until(() => count > 1);
    near.stream.setTimeout(0);
    near.destroy();
  });

  check('a promise of the connection after a poll', 20, async () => {
    // After a poll, a connection used to be left to its application for a while.
    const on = await subject();
    const connection = await connect(0);
    const place = await on.far<number>('newest', ++on.connections);
    assert.is(
      connection.poll(() => {}),
      0,
    );
    const waiting = connection.receive();
    await on.far('call', place, 'write', ['hello']);
    assert.is((await waiting)?.text(), 'hello');
    connection.destroy();
  });

  // ── HTTP and TLS ───────────────────────────────────────────────────────────────────────────────────────────────────

  class Agent extends http.Agent {
    readonly streams: ConnectionStream[] = [];
    override createConnection(_options: unknown, callback: (error: Error | null, stream?: any) => void): any {
      connect(1).then((connection) => {
        this.streams.push(connection.stream());
        callback(null, connection.stream());
      }, callback);
    }
  }

  const ask = async (agent: http.Agent, path: string, body?: string): Promise<http.IncomingMessage> => {
    const request = http.request({ agent, path, method: body === undefined ? 'GET' : 'POST' });
    // The response reports it too, if there is one.
    request.on('error', () => {});
    request.end(body);
    const [response] = (await once(request, 'response')) as [http.IncomingMessage];
    return response;
  };

  check('HTTP: many requests over few connections', 60, async () => {
    const agent = new Agent({ keepAlive: true });
    await Promise.all(
      Array.from({ length: 4 }, async (_, worker) => {
        for (let i = 0; i < REQUESTS / 4; i++) {
          const body = i % 3 ? undefined : `${worker} ${i} `.repeat(i);
          const response = await ask(agent, `/some/${i}`, body);
          assert.is(await text(response), `${body === undefined ? 'GET' : 'POST'} /some/${i} ${body ?? ''}`);
          assert.is(response.headers['x-from'], plugin === 'loop' ? 'undefined' : '127.0.0.1');
        }
      }),
    );
    assert.is(agent.streams.length, 4);
    // The server ends idle connections, and both sides release them.
    const on = await subject();
    await on.far('closeIdle');
    await until(() => agent.streams.every(({ closed }) => closed));
    while ((await on.far<number>('open')) > 0) await pause(10);
    assert.equal(Object.keys(agent.freeSockets), []);
    agent.destroy();
  });

  check('HTTP: the server cuts off a client that stops in the middle of a request', 30, async () => {
    for (const part of [
      '',
      'GET / HTTP/1.1\r\nHost: half\r\nX-Half',
      'POST / HTTP/1.1\r\nHost: half\r\nContent-Length: 10\r\n\r\nhalf',
    ]) {
      const cut = new End(await connect(3));
      cut.read();
      cut.stream.write(part);
      const { text, events } = await cut.closed();
      assert.match(text, /^HTTP\/1\.1 408 /, JSON.stringify({ part, events }));
      // The server destroys its end behind the answer.
      assert.equal(events, ['ERR_ISTHMUS_PEER_DIED', 'close'], part);
    }
    const whole = new End(await connect(3));
    whole.read();
    whole.stream.write('GET /kept HTTP/1.1\r\nHost: whole\r\nConnection: close\r\n\r\n');
    const { text, events } = await whole.closed();
    assert.match(text, /^HTTP\/1\.1 200 /);
    assert.equal(events, ['end', 'finish', 'close']);
  });

  check('HTTP: large bodies down and up', 60, async () => {
    const agent = new Agent({ keepAlive: true });
    const response = await ask(agent, `/down/${AMOUNT}`);
    const got = await hashAll(response, true);
    assert.is(got.length, AMOUNT);
    await until(() => Object.keys(agent.freeSockets).length > 0);
    const hash = createHash('sha256');
    const request = http.request({ agent, path: '/up', method: 'PUT' });
    const answered = once(request, 'response') as Promise<[http.IncomingMessage]>;
    await pipeline(Readable.from(chunks(seed, AMOUNT, hash)), request);
    assert.equal(JSON.parse(await text((await answered)[0])), { length: AMOUNT, hash: hash.digest('hex') });
    assert.is(agent.streams.length, 1);
    agent.destroy();
  });

  check('HTTP: either side gives up in the middle, and the server continues', 60, async () => {
    const on = await subject();
    const agent = new Agent({ keepAlive: true });
    // The client, downloading.
    const before = (await on.far<string[]>('seen')).length;
    const endless = await ask(agent, `/down/${1e9}`);
    await once(endless, 'data');
    endless.destroy();
    while ((await on.far<string[]>('seen')).length === before) await pause(5);
    // The client, uploading.
    const upload = http.request({ agent, path: '/up/cut', method: 'PUT' });
    upload.on('error', () => {});
    upload.write(Buffer.alloc(200_000));
    // A request that is given up before it has a connection reaches no server.
    while (!(await on.far<string[]>('begun')).includes('/up/cut')) await pause(5);
    upload.destroy();
    while ((await on.far<string[]>('seen')).length === before + 1) await pause(5);
    const seen = (await on.far<string[]>('seen')).slice(before);
    assert.match(seen[0] as string, /^down: ERR_STREAM_PREMATURE_CLOSE|^down: ERR_ISTHMUS_PEER_DIED/);
    assert.match(seen[1] as string, /^up: ECONNRESET/);
    // The server, answering.
    const cut = await ask(agent, '/cut/100000');
    const error = await hashAll(cut).then(() => undefined, codeOf);
    assert.match(String(error), /ECONNRESET|ERR_ISTHMUS_PEER_DIED/);
    // The server, which does not want the rest of the request.
    const long = http.request({ agent, path: '/deaf', method: 'PUT' });
    long.on('error', () => {});
    const told = once(long, 'response') as Promise<[http.IncomingMessage]>;
    long.write(Buffer.alloc(100_000));
    assert.is(await text((await told)[0]), 'too much');
    long.destroy();
    assert.is(await text(await ask(agent, '/after')), 'GET /after ');
    agent.destroy();
    while ((await on.far<number>('open')) > 0) await pause(10);
  });

  check('HTTPS: the same over TLS over the stream', 60, async () => {
    const socket = tls.connect({
      ...SECURE,
      socket: (await connect(2)).stream(),
      checkServerIdentity: () => undefined,
      pskCallback: () => PSK,
    });
    await once(socket, 'secureConnect');
    assert.match(socket.getCipher().name, /PSK/);
    const agent = new (class extends http.Agent {
      override createConnection(): any {
        return socket;
      }
    })({ keepAlive: true });
    assert.is(await text(await ask(agent, '/secret', 'word')), 'POST /secret word');
    const got = await hashAll(await ask(agent, '/down/1000000'));
    assert.is(got.length, 1_000_000);
    const closed = once(socket, 'close');
    agent.destroy();
    await closed;
  });

  // ── The end of a process ───────────────────────────────────────────────────────────────────────────────────────────

  check('a runtime that is closed does not wait for a peer that has stopped reading', 30, async () => {
    const { near, far } = await open();
    await far('end', 'before it stood still');
    near.read();
    await near.ended();
    near.stream.end('x'.repeat(300_000));
    await until(() => near.events.includes('finish'));
    const { runtime } = await subject();
    await runtime.close({ timeout: 200 });
    assert.equal((await near.closed()).events, ['end', 'finish', 'close']);
  });
}

async function main(seed: number): Promise<void> {
  const unhandled: unknown[] = [];
  process.on('unhandledRejection', (reason) => {
    console.error('unhandled rejection:', reason);
    unhandled.push(reason);
  });

  for (const plugin of ['loop', 'ivshmem', 'tcp']) suite(plugin, seed);

  for (const plugin of ['ivshmem', 'tcp']) {
    test(
      `${plugin}: a killed process: the bytes that it had sent, then the error, for readers and writers`,
      timebox(30, async () => {
        const { child, runtime, ports, far } = await start(plugin);
        const near = new End(await runtime.connect({ host: '127.0.0.1', port: ports[0] as number }));
        await far('newest', 1);
        near.read();
        await far('call', 0, 'write', ['the last words']);
        const write = async () => {
          for (;;) await near.write('x'.repeat(100_000));
        };
        const failed = write().catch(codeOf);
        await until(() => near.stream.bytesRead > 0);
        await child?.kill();
        assert.match(await failed, /^(ERR_ISTHMUS_PEER_DIED|ERR_STREAM_DESTROYED)$/);
        const { text, events } = await near.closed();
        assert.is(text, 'the last words');
        assert.equal(events, ['ERR_ISTHMUS_PEER_DIED', 'close']);
      }),
    );
  }

  test(
    'the example: HTTP between two processes through a region',
    timebox(90, async () => {
      const root = process.env['ISTHMUS_ROOT'] as string;
      const folder = mkdtempSync(join(tmpdir(), 'isthmus-example-'));
      try {
        // As `npm install` leaves it.
        mkdirSync(join(folder, 'node_modules'));
        symlinkSync(root, join(folder, 'node_modules/isthmus'));
        for (const name of ['package.json', 'server.mjs', 'client.mjs']) {
          copyFileSync(join(root, 'examples/http', name), join(folder, name));
        }
        const env = { PSP_SHM: '0', PSP_IVSHMEM_REGIONS: newRegion(), PSP_DEBUG: '2', LARGE: String(AMOUNT) };
        const server = Child.run(join(folder, 'server.mjs'), ['0'], env);
        const [, address] = await server.printed(/listening on (\S+)\n/);
        const client = Child.run(join(folder, 'client.mjs'), [address as string], env);
        assert.equal(await client.ended(60), { code: 0, signal: null }, client.output);
        assert.match(client.output, /connected over ivshmem\n/);
        assert.is(client.output.match(/^ok: /gm)?.length, 5, client.output);
        server.process.kill('SIGTERM');
        assert.equal(await server.ended(), { code: 0, signal: null }, server.output);
        assert.not.match(server.output, /warning|over tcp/);
      } finally {
        rmSync(folder, { recursive: true });
      }
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
  test.run();
}

if (role) await play(roles);
else await main(testSeed());
