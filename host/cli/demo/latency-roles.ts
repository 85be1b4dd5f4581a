/** The roles of the demo that measure: a ping-pong through the region, and one over a Unix-domain socket. */
import { once } from 'node:events';
import { connect, createServer, type Socket } from 'node:net';
import { Runtime } from '../../index.js';
import { Echo } from '../support/echo.js';
import { CliError } from '../support/errors.js';
import { Ping } from '../support/ping.js';
import { aborted } from '../support/signals.js';
import { median } from '../support/units.js';
import { endOfInput, orders, report } from './reports.js';

/** An order to measure. */
interface Order {
  readonly size: number;
  readonly milliseconds: number;
}

/** For one answer; the demo as a whole has a limit of its own. */
const ANSWER_LIMIT_MS = 30_000;

export async function regionEcho(): Promise<void> {
  const stop = endOfInput();
  await using runtime = await Runtime.create({ name: 'echo' });
  const echo = new Echo(runtime);
  const { port } = await runtime.listen({}, (connection) => echo.serve(connection));
  report({ kind: 'listening', port });
  await aborted(stop);
}

export async function regionPing({ port }: { port: number }): Promise<void> {
  await using runtime = await Runtime.create({ name: 'ping' });
  const connection = await runtime.connect({ host: '127.0.0.1', port });
  if (connection.plugin !== 'ivshmem') {
    throw new CliError(`the ping-pong uses ${connection.plugin}, not ivshmem: ${connection.why}`);
  }
  // Without an xheader, because a socket has none.
  const ping = new Ping(runtime, connection, { xheader: 0, timeout: ANSWER_LIMIT_MS });
  report({ kind: 'ready' });
  for await (const { size, milliseconds } of orders<Order>()) {
    await ping.between();
    const { halfRoundTripNs } = await ping.round(size, undefined, milliseconds);
    report({ kind: 'measured', halfRoundTripNs });
  }
}

/** Echoes bytes as they arrive, also parts of a message: a socket cannot do it faster. */
export async function socketEcho({ path }: { path: string }): Promise<void> {
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

export async function socketPing({ path }: { path: string }): Promise<void> {
  const socket = connect(path);
  await once(socket, 'connect');
  report({ kind: 'ready' });
  for await (const { size, milliseconds } of orders<Order>()) {
    const limit = milliseconds * 1e6;
    // Once to warm up.
    await measure(socket, size, limit / 4);
    report({ kind: 'measured', halfRoundTripNs: await measure(socket, size, limit) });
  }
  socket.destroy();
}

/**
 * Ping-pong over a socket for `limit` nanoseconds.
 * @returns the median half round trip in nanoseconds. Each one is timed: reading the clock costs little against it.
 */
function measure(socket: Socket, size: number, limit: number): Promise<number> {
  const message = Buffer.alloc(size, 0x2a);
  const times: number[] = [];
  return new Promise((resolve, reject) => {
    const start = process.hrtime.bigint();
    let sent = start;
    let received = 0;
    const onClose = () => reject(new CliError('the socket of the ping-pong was closed'));
    const onData = (chunk: Buffer) => {
      received += chunk.length;
      if (received < size) return;
      received = 0;
      const now = process.hrtime.bigint();
      times.push(Number(now - sent) / 2);
      if (Number(now - start) < limit) {
        sent = now;
        socket.write(message);
        return;
      }
      socket.off('data', onData);
      socket.off('close', onClose);
      resolve(median(times));
    };
    socket.on('data', onData);
    socket.on('close', onClose);
    socket.write(message);
  });
}
