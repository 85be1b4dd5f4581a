/** `isthmus pipe`: joins standard input and output of two processes. */
import type { Command } from 'commander';
import { unlessAborted } from '../../base/abortable.js';
import { type Connection, Runtime } from '../../index.js';
import { peerAddress, port } from '../support/args.js';
import { UsageError } from '../support/errors.js';
import { type Exit, withExamples } from '../support/help.js';
import { printError } from '../support/output.js';
import { stopSignal, untilStopped } from '../support/signals.js';
import { joinStandardStreams } from '../support/stream-copy.js';
import { hostAndPort } from '../support/units.js';

interface Options {
  readonly listen?: number;
  readonly host?: string;
}

/** @returns the exit code */
async function pipe(to: string | undefined, { listen, host = '127.0.0.1' }: Options): Promise<number> {
  using stop = stopSignal();
  return await untilStopped(stop, async () => {
    await using runtime = await Runtime.create({ name: 'pipe' });
    const connection =
      to === undefined ? await accept(runtime, listen ?? 0, host, stop) : await runtime.connect(to, { signal: stop });
    try {
      await joinStandardStreams(connection, stop);
    } catch (error) {
      // The peer is to get an error, too.
      connection.destroy();
      throw error;
    }
  });
}

/** Accept one connection, and listen no more. */
async function accept(runtime: Runtime, at: number, host: string, stop: AbortSignal): Promise<Connection> {
  let found!: (connection: Connection) => void;
  const first = new Promise<Connection>((resolve) => {
    found = resolve;
  });
  let taken = false;
  const listening = await runtime.listen({ port: at, host }, (connection) => {
    if (taken) connection.destroy();
    else found(connection);
    taken = true;
  });
  // To standard error: standard output carries the data.
  if (at === 0) printError(`isthmus: listening on ${hostAndPort(listening)}\n`);
  const connection = await unlessAborted(stop, first);
  await listening.close();
  return connection;
}

export function addPipe(program: Command, exit: Exit): void {
  const command = program
    .command('pipe')
    .summary('join standard input and output of two processes, like netcat')
    .description(
      'Send standard input to the other side, and write to standard output what the other side sends, both at once. Ends ' +
        'with exit code 0 when the input of both sides has ended, which each side announces by an empty message.',
    )
    .argument('[HOST:PORT]', 'where the other side listens', peerAddress)
    .option(
      '--listen <PORT>',
      'listen, and accept one connection; 0: any free port, which is printed on standard error',
      port,
    )
    .option('--host <HOST>', 'address to listen at (default: 127.0.0.1, because peers are not authenticated)');
  withExamples(
    command,
    `
  $ isthmus pipe --listen 7100 > copy < /dev/null &
  $ isthmus pipe 127.0.0.1:7100 < file`,
  ).action(async (to: string | undefined, options: Options) => {
    if ((to === undefined) === (options.listen === undefined)) {
      throw new UsageError('expected either HOST:PORT or --listen PORT');
    }
    if (to !== undefined && options.host !== undefined) throw new UsageError('HOST:PORT excludes --host');
    exit(await pipe(to, options));
  });
}
