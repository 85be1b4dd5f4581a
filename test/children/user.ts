/**
 * A program of another user, for hostile/users.test.ts: an application with a runtime, and what a hostile user can do beside
 * it. It is called handler by handler; what an operating system refuses is returned as the name of the error.
 */
import { spawn } from 'node:child_process';
import {
  chmodSync,
  closeSync,
  constants,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  renameSync,
  symlinkSync,
  truncateSync,
  unlinkSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { connect, createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import type { Connection } from '../../host/api/connection.js';
import { IsthmusError } from '../../host/base/errors.js';
import { ask } from '../../host/control/client.js';
import { controlFolder, pathOf } from '../../host/control/folder.js';
import { addon } from '../../host/native/native.js';
import { Doorbells } from '../../host/region/doorbell.js';
import { Runtime, type RuntimeOptions } from '../../host/runtime/runtime.js';
import { PIPES } from '../support/pipes.js';
import { play, serve } from '../support/process.js';
import { seeded, seededBytes } from '../support/seeded.js';

/** What it may try with files. */
const OPERATIONS = {
  chmodSync,
  mkdirSync,
  openSync,
  readdirSync,
  renameSync,
  symlinkSync,
  truncateSync,
  unlinkSync,
  writeFileSync,
};

/** The name of an error, or what the operation gives. */
async function attempt(body: () => unknown): Promise<unknown> {
  try {
    return (await body()) ?? 'done';
  } catch (error) {
    return (error as NodeJS.ErrnoException).code ?? String(error);
  }
}

async function echo(connection: Connection): Promise<void> {
  try {
    for await (const { data } of connection) await connection.send(data);
  } catch {
    // Its `closed` says why.
  }
}

/** Resolves when the other side has closed the socket, or after that many milliseconds. @returns what came */
function drained(socket: Socket, limit: number): Promise<{ closed: boolean; bytes: number }> {
  let bytes = 0;
  return new Promise((resolve) => {
    const timer = setTimeout(() => resolve({ closed: false, bytes }), limit);
    socket
      .on('data', (chunk: Buffer) => {
        bytes += chunk.length;
      })
      .on('error', () => {})
      .on('close', () => {
        clearTimeout(timer);
        resolve({ closed: true, bytes });
      });
  });
}

const opened = (socket: Socket) =>
  new Promise<boolean>((resolve) => {
    socket.once('connect', () => resolve(true)).once('error', () => resolve(false));
  });

function statOf(path: string): { uid: number; isFIFO: boolean } {
  const stat = lstatSync(path, { throwIfNoEntry: false });
  return { uid: stat?.uid ?? -1, isFIFO: stat?.isFIFO() ?? false };
}

/** @returns false: there is no room */
function written(fd: number, size: number): boolean {
  try {
    return writeSync(fd, Buffer.alloc(size)) > 0;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EAGAIN') return false;
    throw error;
  }
}

async function user(): Promise<void> {
  let runtime: Runtime;
  let connection: Connection;
  const accepted = new Set<Connection>();
  const held: Socket[] = [];
  const lines: string[] = [];
  const doorbells: string[] = [];
  let turns = 0;
  setInterval(() => turns++, 10);

  serve({
    who: () => ({ uid: process.getuid?.(), gid: process.getgid?.(), groups: process.getgroups?.() }),

    // ── An application ───────────────────────────────────────────────────────────────────────────────────────────────

    async create(options: RuntimeOptions) {
      runtime = await Runtime.create({ control: false, debug: 1, log: (_, line) => lines.push(line), ...options });
      return runtime.regions().map(({ path }) => path);
    },
    log: () => lines.splice(0),
    inspect: () => runtime.inspect(),
    /** Each message is sent back. */
    async listen() {
      const { port } = await runtime.listen({ host: '127.0.0.1' }, async (come) => {
        accepted.add(come);
        come.closed.then(() => accepted.delete(come));
        await echo(come);
      });
      return port;
    },
    async connect(port: number) {
      connection = await runtime.connect({ host: '127.0.0.1', port });
      return connection.plugin;
    },
    /** Send, and expect the same back. */
    async talk(count: number, size: number) {
      for (let i = 0; i < count; i++) {
        const data = Buffer.alloc(size, i);
        await connection.send(data);
        const answer = await connection.receive();
        if (!answer || Buffer.compare(answer.data, data) !== 0) throw new Error(`message ${i}: not what was sent`);
        // So that both ends fall asleep now and then.
        if (i % 5 === 0) await pause(5);
      }
      return count;
    },
    /** How the connection has ended. */
    async ended() {
      const { reason, error } = await connection.closed;
      return error?.code ?? reason;
    },
    close: () => runtime.close({ timeout: 500 }),
    accepted: () => accepted.size,
    /** Turns of a timer of 10 ms so far. */
    turns: () => turns,
    memory: () => process.memoryUsage.rss(),

    /** Connections to a hostile peer, one after the other: each operation ends, well or with a code. */
    async meet(port: number, rounds: number) {
      const endings = new Map<string, number>();
      const tried = async (what: string, body: () => Promise<unknown>) => {
        let how = 'well';
        try {
          await body();
        } catch (error) {
          const { name, code, stack } = error as NodeJS.ErrnoException;
          if (error instanceof IsthmusError) how = code ?? 'no code';
          else if (name === 'AbortError' || name === 'TimeoutError') how = 'aborted';
          else throw new Error(`${what}: no error of Isthmus: ${stack}`);
        }
        endings.set(`${what}: ${how}`, (endings.get(`${what}: ${how}`) ?? 0) + 1);
      };
      for (let round = 0; round < rounds; round++) {
        let one: Connection | undefined;
        await tried('connect', async () => {
          one = await runtime.connect({ host: '127.0.0.1', port });
        });
        const met = one;
        if (!met) continue;
        const patience = () => AbortSignal.timeout(300);
        await Promise.all([
          tried('send', () => met.send(Buffer.alloc(2000 * (round % 20)), { signal: patience() })),
          tried('receive', () => met.receive({ signal: patience() })),
          tried('borrow', async () => (await met.borrow({ signal: patience() }))?.release()),
        ]);
        await tried('close', () => met.close({ timeout: 300 }));
      }
      return Object.fromEntries(endings);
    },

    // ── Hostile ──────────────────────────────────────────────────────────────────────────────────────────────────────

    /** Connect, and say nothing. @returns how many sockets were connected */
    async silent(port: number, count: number) {
      const sockets = Array.from({ length: count }, () => connect(port, '127.0.0.1'));
      for (const socket of sockets) socket.on('error', () => {});
      held.push(...sockets);
      return (await Promise.all(sockets.map(opened))).filter(Boolean).length;
    },
    /** Connect, and send bytes without sense. @returns how many of the sockets the other side has closed */
    async garbage(port: number, seed: number, count: number) {
      const one = async (number: number) => {
        const random = seeded(seed + number);
        const socket = connect(port, '127.0.0.1');
        held.push(socket);
        const end = drained(socket, 20_000);
        if (await opened(socket))
          socket.write(Buffer.from(Array.from({ length: 1 + random(5000) }, () => random(256))));
        return (await end).closed;
      };
      let closed = 0;
      for (let at = 0; at < count; at += 10) {
        const some = Array.from({ length: Math.min(10, count - at) }, (_, i) => one(at + i));
        closed += (await Promise.all(some)).filter(Boolean).length;
      }
      return closed;
    },
    /** Send as fast as possible, and read nothing. */
    async flood(milliseconds: number) {
      let sent = 0;
      for (const end = performance.now() + milliseconds; performance.now() < end; ) {
        for (let i = 0; i < 1000; i++) if (connection.trySend(Buffer.alloc(100))) sent++;
        await pause(0);
      }
      return sent;
    },
    /** Connect by way of a socket that can be written to besides. */
    async through(port: number) {
      const server = createServer((near) => {
        const far = connect(port, '127.0.0.1');
        for (const socket of [near, far]) socket.on('error', () => {});
        near.pipe(far).pipe(near);
        held.push(far);
      }).listen(0, '127.0.0.1');
      await new Promise((resolve) => server.once('listening', resolve));
      connection = await runtime.connect({ host: '127.0.0.1', port: (server.address() as { port: number }).port });
      return connection.plugin;
    },
    /**
     * Bytes without sense into the stream of that connection, as many as the other side takes: the first of them may announce
     * a message that is longer than any small number of them.
     */
    async corrupt(seed: number) {
      const bytes = seededBytes(seed, 65_536);
      const one = async (socket: Socket) => {
        for (let i = 0; i < 1024 && !socket.destroyed; i++) {
          await new Promise<void>((resolve) => socket.write(bytes, () => resolve()));
        }
      };
      void Promise.all(held.map(one));
    },
    /**
     * From now on it says that all its peers can ring, and sleeps until one does. Where doorbells are handed over, another
     * process answers for its own, with a pipe that is full, and whose writer blocks.
     */
    evilDoorbell() {
      const native = addon() as unknown as Record<string, (...args: any[]) => any>;
      const { listenAbstract, createDoorbell } = native;
      Object.defineProperty(Doorbells.prototype, 'heard', { get: () => true });
      if (!listenAbstract || !createDoorbell) return;
      native['listenAbstract'] = (name: string) => {
        const python = spawn('python3', ['-c', PIPES], { stdio: ['pipe', 'ignore', 'inherit'] });
        python.stdin.write(`${name}\n`);
        python.unref();
        doorbells.push(name);
        return createDoorbell();
      };
    },
    /** Where its doorbells are FIFOs, they are full now, and open to everybody. @returns its doorbells */
    fillDoorbells() {
      for (const name of readdirSync('/dev/shm')) {
        const path = join('/dev/shm', name);
        const { uid, isFIFO } = statOf(path);
        if (!isFIFO || uid !== process.getuid?.()) continue;
        doorbells.push(path);
        chmodSync(path, 0o666);
        const fd = openSync(path, constants.O_RDWR | constants.O_NONBLOCK);
        for (const size of [4096, 1]) while (written(fd, size));
      }
      return doorbells;
    },
    /** Whether a file system lets this user do something. */
    file: (operation: keyof typeof OPERATIONS, ...args: unknown[]) =>
      attempt(() => {
        const result = (OPERATIONS[operation] as (...all: unknown[]) => unknown)(...args);
        // A descriptor does not interest further.
        return operation === 'openSync' ? closeSync(result as number) : result;
      }),
    truncate: (path: string, size: number) => attempt(() => truncateSync(path, size)),
    /** The kind of answer of a control socket, or the error of connect(2). */
    async ask(path: string, request: string) {
      const socket = connect(path);
      const refused = await new Promise((resolve) => {
        socket.once('connect', () => resolve(undefined)).once('error', (error) => resolve(error));
      });
      socket.destroy();
      return refused ? (refused as NodeJS.ErrnoException).code : (await ask(path, request)).kind;
    },
    socket: () => pathOf(controlFolder(), runtime.id),
    /** Ask for a doorbell at each of these abstract names, as a peer would. @returns how many bytes came, and sockets are open */
    async askDoorbells(names: readonly string[]) {
      const answers = await Promise.all(
        names.map(async (name) => {
          const socket = connect({ path: `\0${name}` });
          const end = drained(socket, 2000);
          if (await opened(socket)) socket.write(Buffer.alloc(8));
          return end;
        }),
      );
      return {
        bytes: answers.reduce((sum, { bytes }) => sum + bytes, 0),
        open: answers.filter(({ closed }) => !closed).length,
      };
    },
  });
}

await play({ user });
