/** The role `streamer` of the demo: one of two peers that stream messages to each other while one of them migrates. */
import { subscribe } from 'node:diagnostics_channel';
import { rmSync } from 'node:fs';
import { setTimeout as pause } from 'node:timers/promises';
import { crc32 } from 'node:zlib';
import { type Connection, Runtime } from '../../index.js';
import { CliError } from '../support/errors.js';
import { monotonicMs, orders, report } from './reports.js';
import { Tally } from './tally.js';

/** Messages that are sent at once, so that several of them wait while the connection is suspended. */
const BATCH = 4;
/** Between two batches: the other processes of the demo need processor time, too. */
const BATCH_PAUSE_MS = 2;
/** Lengths of messages, in turns; more than a head. */
const LENGTHS_BYTES = [64, 256, 64, 4000];
/** Number and checksum, 32 bits each. */
const HEAD_BYTES = 8;

/** The checksum covers the number as well. */
const checksum = (message: Buffer): number => crc32(message.subarray(HEAD_BYTES), message.readUInt32LE(0));

function compose(number: number): Buffer {
  const message = Buffer.alloc(LENGTHS_BYTES[number % LENGTHS_BYTES.length] as number, number % 251);
  message.writeUInt32LE(number, 0);
  message.writeUInt32LE(checksum(message), 4);
  return message;
}

/** Send numbered messages, then an empty one. @returns the count of numbered messages */
async function sendAll(connection: Connection, going: () => boolean): Promise<number> {
  let sent = 0;
  while (going()) {
    await Promise.all(Array.from({ length: BATCH }, () => connection.send(compose(sent++))));
    await pause(BATCH_PAUSE_MS);
  }
  await connection.send(new Uint8Array(0));
  return sent;
}

async function receiveAll(connection: Connection): Promise<{ tally: Tally; damaged: number }> {
  const tally = new Tally();
  let damaged = 0;
  let resumed = false;
  subscribe('isthmus:connection:resume', () => {
    resumed = true;
  });
  for await (const { data } of connection) {
    if (data.length === 0) return { tally, damaged };
    if (resumed) {
      resumed = false;
      report({ kind: 'back', plugin: connection.plugin, why: connection.why, at: monotonicMs() });
    }
    const message = Buffer.from(data.buffer, data.byteOffset, data.byteLength);
    if (message.length > HEAD_BYTES && checksum(message) === message.readUInt32LE(4)) {
      tally.take(message.readUInt32LE(0));
    } else {
      damaged++;
    }
  }
  throw new CliError('the peer has closed the connection');
}

async function open(runtime: Runtime, port: number | undefined): Promise<Connection> {
  if (port !== undefined) return runtime.connect({ host: '127.0.0.1', port });
  return new Promise((resolve, reject) => {
    runtime.listen({}, resolve).then((listening) => report({ kind: 'listening', port: listening.port }), reject);
  });
}

export interface StreamerArgs {
  readonly name: string;
  /** Path at which this process finds the region of its host. */
  readonly seat: string;
  /** Where the peer listens; without it this process listens. */
  readonly port?: number;
}

/** The first order ends what this process sends; it receives until the peer has sent everything. */
export async function streamer({ name, seat, port }: StreamerArgs): Promise<void> {
  let going = true;
  const over = (async () => {
    for await (const _ of orders()) going = false;
  })();
  // A demo that was killed cannot remove it.
  process.on('exit', () => rmSync(seat, { force: true }));
  await using runtime = await Runtime.create({ name });
  const connection = await Promise.race([open(runtime, port), over]);
  if (!connection) return;
  report({ kind: 'connected', plugin: connection.plugin, why: connection.why, peer: connection.peer.pid });
  const streaming = Promise.all([sendAll(connection, () => going), receiveAll(connection)]);
  const done = streaming.then(([sent, { tally, damaged }]) => {
    const { received, doubled, disordered } = tally;
    report({ kind: 'streamed', sent, received, doubled, disordered, damaged });
    return over;
  });
  await Promise.race([done, over]);
  // The peer ends as well, and an orderly close is not needed.
  connection.destroy();
}
