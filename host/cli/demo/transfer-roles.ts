/** The roles `sender` and `receiver` of the demo: a file from one process to another. */
import { createHash } from 'node:crypto';
import { open, stat } from 'node:fs/promises';
import { type Connection, Runtime } from '../../index.js';
import { CliError } from '../support/errors.js';
import { aborted } from '../support/signals.js';
import { endOfInput, report } from './reports.js';

const MESSAGE_BYTES = 1 << 20;
/** Between two reports of progress. */
const PROGRESS_MS = 50;

/** Writes the messages of one connection to a file, up to an empty message, and answers with their hash. */
export async function receiver({ output }: { output: string }): Promise<void> {
  const stop = endOfInput();
  await using runtime = await Runtime.create({ name: 'receiver' });
  let failure: unknown;
  const over = new AbortController();
  stop.addEventListener('abort', () => over.abort(), { once: true });
  const { port } = await runtime.listen({}, async (connection) => {
    try {
      await receiveFile(connection, output);
    } catch (error) {
      failure = error;
      over.abort();
    }
  });
  report({ kind: 'listening', port });
  await aborted(over.signal);
  if (failure) throw failure;
}

async function receiveFile(connection: Connection, output: string): Promise<void> {
  const hash = createHash('sha256');
  const file = await open(output, 'w');
  try {
    let count = 0;
    let reported = 0;
    let writing: Promise<unknown> = Promise.resolve();
    for await (const { data } of connection) {
      if (data.length === 0) break;
      count += data.length;
      hash.update(data);
      // One write is under way while the next message arrives.
      await writing;
      writing = file.writev([data]);
      writing.catch(() => {});
      if (performance.now() - reported > PROGRESS_MS) {
        reported = performance.now();
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
  // The sender closes the connection.
  await connection.receive();
}

export async function sender({ file, port }: { file: string; port: number }): Promise<void> {
  const stop = endOfInput();
  await using runtime = await Runtime.create({ name: 'sender' });
  const connection = await runtime.connect({ host: '127.0.0.1', port });
  report({ kind: 'connected', plugin: connection.plugin, why: connection.why, peer: connection.peer.pid });
  const hash = createHash('sha256');
  const source = await open(file);
  const start = performance.now();
  try {
    for (;;) {
      const { bytesRead, buffer } = await source.read(Buffer.allocUnsafeSlow(MESSAGE_BYTES));
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
  if (answer?.text() !== sha256) throw new CliError('the hash of the receiver differs');
  report({ kind: 'sent', sha256, milliseconds });
  await connection.close();
  await aborted(stop);
}
