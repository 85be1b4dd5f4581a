/** One of the two peers of `isthmus demo` that stream messages to each other while one of them migrates. */
import { subscribe } from 'node:diagnostics_channel';
import { rmSync } from 'node:fs';
import { setTimeout as pause } from 'node:timers/promises';
import { crc32 } from 'node:zlib';
import { type Connection, Runtime } from '../../index.js';
import { CliError } from '../support/output.js';
import { orders, report } from './reports.js';
import { Tally } from './tally.js';

/** Messages that are sent at once. Some more than one wait, then, while the connection is suspended. */
const BATCH = 4;
/** Between two batches, in milliseconds: the other processes of the demo want some processor time, too. */
const PACE = 2;
/** Of messages in turns, in bytes; more than a message's head. */
const LENGTHS = [64, 256, 64, 4000];
/** Number and checksum, each 32 bits. */
const HEAD = 8;

/** On the clock that the processes of a machine have in common, in milliseconds. */
export function monotonic(): number {
  return Number(process.hrtime.bigint()) / 1e6;
}

/** The number goes into the checksum. */
const checksum = (message: Buffer): number => crc32(message.subarray(HEAD), message.readUInt32LE(0));

function compose(number: number): Buffer {
  const message = Buffer.alloc(LENGTHS[number % LENGTHS.length] as number, number % 251);
  message.writeUInt32LE(number, 0);
  message.writeUInt32LE(checksum(message), 4);
  return message;
}

/** @returns how many; an empty message says that these were all */
async function sendAll(connection: Connection, going: () => boolean): Promise<number> {
  let sent = 0;
  while (going()) {
    await Promise.all(Array.from({ length: BATCH }, () => connection.send(compose(sent++))));
    await pause(PACE);
  }
  await connection.send(new Uint8Array(0));
  return sent;
}

async function receiveAll(connection: Connection): Promise<{ tally: Tally; damaged: number }> {
  const tally = new Tally();
  let damaged = 0;
  let back = false;
  subscribe('isthmus:connection:resume', () => {
    back = true;
  });
  for await (const { data } of connection) {
    if (data.length === 0) return { tally, damaged };
    if (back) {
      back = false;
      report({ kind: 'back', plugin: connection.plugin, why: connection.why, at: monotonic() });
    }
    const message = Buffer.from(data.buffer, data.byteOffset, data.byteLength);
    if (message.length > HEAD && checksum(message) === message.readUInt32LE(4)) tally.take(message.readUInt32LE(0));
    else damaged++;
  }
  throw new CliError('the other peer has closed the connection');
}

async function meet(runtime: Runtime, port: number | undefined): Promise<Connection> {
  if (port !== undefined) return runtime.connect({ host: '127.0.0.1', port });
  return new Promise((resolve, reject) => {
    runtime.listen({}, resolve).then((listening) => report({ kind: 'listening', port: listening.port }), reject);
  });
}

export interface StreamerArgs {
  readonly name: string;
  /** Where it finds the region of the host that it is on. */
  readonly seat: string;
  /** Of the other; without it we listen. */
  readonly port?: number;
}

/** The first order ends the stream, and with it what we send; what the other sends is counted to its end. */
export async function streamer({ name, seat, port }: StreamerArgs): Promise<void> {
  let going = true;
  const over = (async () => {
    for await (const _ of orders()) going = false;
  })();
  // If the demo was killed there is nobody else to do it, in whatever way we end.
  process.on('exit', () => rmSync(seat, { force: true }));
  await using runtime = await Runtime.create({ name });
  const connection = await Promise.race([meet(runtime, port), over]);
  if (!connection) return;
  report({ kind: 'connected', plugin: connection.plugin, why: connection.why, peer: connection.peer.pid });
  const streaming = Promise.all([sendAll(connection, () => going), receiveAll(connection)]);
  const done = streaming.then(([sent, { tally, damaged }]) => {
    const { received, doubled, disordered } = tally;
    report({ kind: 'streamed', sent, received, doubled, disordered, damaged });
    return over;
  });
  await Promise.race([done, over]);
  // The other one goes as well; whether it says so first does not matter any more.
  connection.destroy();
}
