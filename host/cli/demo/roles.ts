/** The processes of `isthmus demo`: what each of them does. How it talks to the demo is in reports.ts. */
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { open, stat } from 'node:fs/promises';
import { connect, createServer, type Socket } from 'node:net';
import { type Connection, IsthmusError, Runtime } from '../../index.js';
import { Keeper } from '../../region/server.js';
import { aborted } from '../support/args.js';
import { CliError } from '../support/output.js';
import { Echo, Ping } from '../support/pingpong.js';
import { endOfInput, orders, report } from './reports.js';
import { streamer } from './streamer.js';

/** An order to one who measures. */
interface Order {
  readonly size: number;
  readonly milliseconds: number;
}

/** Bytes of a message of the transfer. */
const PIECE = 1 << 20;
/** Between two reports of progress, in milliseconds. */
const TICK = 50;
/** For an answer, in milliseconds. The demo has a limit of its own. */
const TIMEOUT = 30_000;

async function regionServer({ name, megabytes }: { name: string; megabytes: number }): Promise<void> {
  const stop = endOfInput();
  using keeper = await Keeper.open({ name, size: megabytes * 2 ** 20, access: { mode: 0o660 } });
  if (!stop.aborted) report({ kind: 'ready' });
  await aborted(stop);
  // The others end as well, each in its own time.
  keeper.close(true);
}

/** Takes a file in pieces, the first message being its size; writes it, and answers with the hash of what came. */
async function receiver({ output }: { output: string }): Promise<void> {
  const stop = endOfInput();
  await using runtime = await Runtime.create({ name: 'receiver' });
  let failed: unknown;
  const over = new AbortController();
  stop.addEventListener('abort', () => over.abort(), { once: true });
  const { port } = await runtime.listen({}, async (connection) => {
    try {
      await take(connection, output);
    } catch (error) {
      failed = error;
      over.abort();
    }
  });
  report({ kind: 'listening', port });
  await aborted(over.signal);
  if (failed) throw failed;
}

async function take(connection: Connection, output: string): Promise<void> {
  const hash = createHash('sha256');
  const file = await open(output, 'w');
  try {
    let count = 0;
    let told = 0;
    let writing: Promise<unknown> = Promise.resolve();
    for await (const { data } of connection) {
      if (data.length === 0) break;
      count += data.length;
      hash.update(data);
      // One write under way while the next piece comes.
      await writing;
      writing = file.writev([data]);
      writing.catch(() => {});
      if (performance.now() - told > TICK) {
        told = performance.now();
        report({ kind: 'progress', bytes: count });
      }
    }
    await writing;
    const sha256 = hash.digest('hex');
    await connection.send(sha256);
    report({ kind: 'received', sha256, bytes: count, written: (await stat(output)).size });
  } finally {
    await file.close();
  }
  // The other side closes.
  await connection.receive();
}

async function sender({ file, port }: { file: string; port: number }): Promise<void> {
  const stop = endOfInput();
  await using runtime = await Runtime.create({ name: 'sender' });
  const connection = await runtime.connect({ host: '127.0.0.1', port });
  report({ kind: 'connected', plugin: connection.plugin, why: connection.why, peer: connection.peer.pid });
  const hash = createHash('sha256');
  const source = await open(file);
  const start = performance.now();
  try {
    for (;;) {
      const { bytesRead, buffer } = await source.read(Buffer.allocUnsafeSlow(PIECE));
      if (bytesRead === 0) break;
      const piece = buffer.subarray(0, bytesRead);
      hash.update(piece);
      await connection.send(piece, { signal: stop });
    }
  } finally {
    await source.close();
  }
  await connection.send(new Uint8Array(0), { signal: stop });
  const answer = await connection.receive({ signal: stop });
  const milliseconds = performance.now() - start;
  const sha256 = hash.digest('hex');
  if (answer?.text() !== sha256) throw new CliError('the receiver has another hash');
  report({ kind: 'sent', sha256, milliseconds });
  await connection.close();
  await aborted(stop);
}

async function regionEcho(): Promise<void> {
  const stop = endOfInput();
  await using runtime = await Runtime.create({ name: 'echo' });
  const echo = new Echo(runtime);
  const { port } = await runtime.listen({}, (connection) => echo.serve(connection));
  report({ kind: 'listening', port });
  await aborted(stop);
}

async function regionPing({ port }: { port: number }): Promise<void> {
  await using runtime = await Runtime.create({ name: 'ping' });
  const connection = await runtime.connect({ host: '127.0.0.1', port });
  if (connection.plugin !== 'ivshmem') throw new CliError(`the ping-pong got ${connection.plugin}: ${connection.why}`);
  // Like for like: a socket has no header beside the data.
  const ping = new Ping(runtime, connection, { xheader: 0, timeout: TIMEOUT });
  report({ kind: 'ready' });
  for await (const { size, milliseconds } of orders<Order>()) {
    await ping.between();
    const { halfRoundTripNs } = await ping.round(size, undefined, milliseconds);
    report({ kind: 'measured', halfRoundTripNs });
  }
}

/** Echoes bytes as they come, whether a message is whole or not: that is the fastest that a socket can do. */
async function socketEcho({ path }: { path: string }): Promise<void> {
  const stop = endOfInput();
  const server = createServer((socket) => {
    socket.on('error', () => socket.destroy());
    socket.on('data', (chunk) => socket.write(chunk));
  });
  server.listen(path);
  await once(server, 'listening');
  report({ kind: 'ready' });
  await aborted(stop);
}

async function socketPing({ path }: { path: string }): Promise<void> {
  const socket = connect(path);
  await once(socket, 'connect');
  report({ kind: 'ready' });
  for await (const { size, milliseconds } of orders<Order>()) {
    const limit = milliseconds * 1e6;
    await rally(socket, size, limit / 4);
    report({ kind: 'measured', halfRoundTripNs: await rally(socket, size, limit) });
  }
  socket.destroy();
}

/** Ping-pong for so many nanoseconds. @returns the median of single half round trips: a look at the clock is nothing here */
function rally(socket: Socket, size: number, limit: number): Promise<number> {
  const message = Buffer.alloc(size, 0x2a);
  const times: number[] = [];
  return new Promise((resolve, reject) => {
    const start = process.hrtime.bigint();
    let sent = start;
    let have = 0;
    const lost = () => reject(new CliError('the socket of the ping-pong was closed'));
    const hear = (chunk: Buffer) => {
      have += chunk.length;
      if (have < size) return;
      have = 0;
      const now = process.hrtime.bigint();
      times.push(Number(now - sent) / 2);
      if (Number(now - start) < limit) {
        sent = now;
        socket.write(message);
        return;
      }
      socket.off('data', hear);
      socket.off('close', lost);
      times.sort((a, b) => a - b);
      resolve(times[times.length >> 1] as number);
    };
    socket.on('data', hear);
    socket.on('close', lost);
    socket.write(message);
  });
}

/** What a role takes is what the demo gives it. */
const PLAYERS = {
  'region server': regionServer,
  receiver,
  sender,
  streamer,
  'region echo': regionEcho,
  'region ping': regionPing,
  'socket echo': socketEcho,
  'socket ping': socketPing,
} as const;

export type Role = keyof typeof PLAYERS;

/** @returns the exit code */
export async function playRole(role: string, args: string): Promise<number> {
  // Ctrl-C goes to all processes of a terminal: the demo is the one who ends the others, in order.
  process.on('SIGINT', () => {});
  try {
    const player = (PLAYERS as Record<string, ((args: never) => Promise<void>) | undefined>)[role];
    if (!player) throw new CliError(`there is no role '${role}'`);
    await player(JSON.parse(args) as never);
    return 0;
  } catch (error) {
    const { code, message } = error instanceof IsthmusError ? error : { code: undefined, message: String(error) };
    report({ kind: 'error', code, message });
    return 1;
  }
}
