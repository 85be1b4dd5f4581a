/**
 * `isthmus pipe`: standard input and output of two processes, joined.
 *
 * Every message is a piece of the stream. An empty one says that the input of its sender has ended; a side ends when both
 * directions have. What is not an end in order (a killed process) is an error.
 */
import { once } from 'node:events';
import { createReadStream, createWriteStream, fstatSync } from 'node:fs';
import type { Readable, Writable } from 'node:stream';
import type { Command } from 'commander';
import { type Connection, IsthmusError, type Message, Runtime } from '../../index.js';
import { address, exitCodeOf, port, stopSignal } from '../support/args.js';
import { CliError, complain, UsageError } from '../support/output.js';

/** Bytes of a piece when standard input is a file. A pipe gives what it has. */
const PIECE = 1 << 20;
const END = new Uint8Array(0);
/** Weeks, in milliseconds: as long as a timer goes. */
const LONG = 2 ** 31 - 1;

function isFile(fd: number): boolean {
  return fstatSync(fd).isFile();
}

/** Files are read and written by threads of libuv in large pieces; pipes, sockets and terminals by events. */
function input(): Readable {
  if (!isFile(0)) return process.stdin;
  return createReadStream('', { fd: 0, autoClose: false, highWaterMark: PIECE });
}

function output(): Writable {
  if (!isFile(1)) return process.stdout;
  return createWriteStream('', { fd: 1, autoClose: false, highWaterMark: 4 * PIECE });
}

/** Standard input → connection. */
class Upload {
  readonly done: Promise<void>;
  readonly #connection: Connection;
  readonly #stdin = input();
  #stopped = false;
  /** A piece is on its way. */
  #sending = false;

  constructor(connection: Connection, signal: AbortSignal) {
    this.#connection = connection;
    this.done = this.#run(signal);
  }

  async #run(signal: AbortSignal): Promise<void> {
    try {
      for await (const piece of this.#stdin) {
        if (this.#stopped) break;
        if ((piece as Buffer).length === 0) continue;
        this.#sending = true;
        await this.#connection.send(piece as Buffer, { signal });
        this.#sending = false;
      }
    } catch (error) {
      // What stop() does to the stream is no error.
      if (!this.#stopped || this.#sending) throw error;
    }
    if (this.#connection.state === 'open') await this.#connection.send(END, { signal });
  }

  /** Read no more. */
  stop(): void {
    this.#stopped = true;
    this.#stdin.destroy();
  }
}

/** Writes that end with an error when the reader is away. */
class Output {
  readonly #stream = output();
  #error: Error | undefined;

  constructor() {
    this.#stream.on('error', (error) => {
      this.#error = error;
    });
  }

  #check(): void {
    if (!this.#error) return;
    const gone = (this.#error as NodeJS.ErrnoException).code === 'EPIPE';
    throw gone ? new CliError('nobody reads standard output any more') : this.#error;
  }

  async write(data: Uint8Array, signal: AbortSignal): Promise<void> {
    this.#check();
    if (!this.#stream.write(data)) {
      // `once` rejects with an 'error' of the stream; #check words it.
      await once(this.#stream, 'drain', { signal }).catch((error: unknown) => {
        if (!this.#error) throw error;
      });
      this.#check();
    }
  }

  /** All of it is out. */
  async flush(): Promise<void> {
    await new Promise<void>((resolve) => this.#stream.write('', () => resolve()));
    this.#check();
  }
}

/** Connection → standard output. @returns whether the other side said that its input has ended */
async function download(connection: Connection, signal: AbortSignal): Promise<boolean> {
  const stdout = new Output();
  for (;;) {
    const message: Message | undefined = await connection.receive({ signal });
    if (message === undefined || message.data.length === 0) {
      await stdout.flush();
      return message !== undefined;
    }
    await stdout.write(message.data, signal);
  }
}

/** Both directions. @throws what ended it before its time */
async function join(connection: Connection, signal: AbortSignal): Promise<void> {
  const upload = new Upload(connection, signal);
  const downloading = download(connection, signal).then((said) => {
    // Nobody waits for the end of what a person might still type. And without the empty message the other side has just
    // closed, as a C program does: there is nobody left to send to.
    if (!said || process.stdin.isTTY) upload.stop();
  });
  const uploading = upload.done.catch(async (error: unknown) => {
    // Sending failed because the connection is over: the receiving side knows why, and first gets what came before.
    if (error instanceof IsthmusError) await downloading;
    throw error;
  });
  await Promise.all([uploading, downloading]);
  // The other side may take its time to read the rest; it is not cut off, and a signal is the way out.
  await connection.close({ timeout: LONG, signal });
}

async function pipe(to: string | undefined, { listen, host = '127.0.0.1' }: Options): Promise<number> {
  const stop = stopSignal();
  try {
    await using runtime = await Runtime.create({ name: 'pipe' });
    const connection =
      to === undefined ? await accept(runtime, listen ?? 0, host, stop) : await runtime.connect(to, { signal: stop });
    try {
      await join(connection, stop);
    } catch (error) {
      // Not in order: the other side is to know.
      connection.destroy();
      throw error;
    }
    return 0;
  } catch (error) {
    if (stop.aborted) return exitCodeOf(stop.reason);
    throw error;
  }
}

/** The one connection that the listening side takes. */
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
  // Standard output belongs to the data.
  if (at === 0) complain(`isthmus: listening on ${listening.host}:${listening.port}\n`);
  let refuse: (() => void) | undefined;
  const stopped = new Promise<never>((_, reject) => {
    refuse = () => reject(stop.reason);
    stop.addEventListener('abort', refuse, { once: true });
  });
  const connection = await Promise.race([first, stopped]);
  if (refuse) stop.removeEventListener('abort', refuse);
  await listening.close();
  return connection;
}

interface Options {
  readonly listen?: number;
  readonly host?: string;
}

export function addPipe(program: Command, exit: (code: number) => void): void {
  program
    .command('pipe')
    .summary('join standard input and output of two processes, like netcat')
    .description(
      'Send standard input to the other side, and print what comes from there; both directions at once. Ends when the ' +
        'input of both sides has ended (which an empty message tells), with exit code 0.',
    )
    .argument('[HOST:PORT]', 'where the other side listens', address)
    .option(
      '--listen <PORT>',
      'listen, and take one connection; 0: any free port, which is printed on standard error',
      port,
    )
    .option('--host <HOST>', 'address to listen at (default 127.0.0.1: peers are not authenticated)')
    .addHelpText(
      'after',
      `
Example:
  $ isthmus pipe --listen 7100 > copy < /dev/null &
  $ isthmus pipe 127.0.0.1:7100 < file`,
    )
    .action(async (to: string | undefined, options: Options) => {
      if ((to === undefined) === (options.listen === undefined)) {
        throw new UsageError('either HOST:PORT or --listen PORT is wanted');
      }
      if (to !== undefined && options.host !== undefined) throw new UsageError('--host does not go with HOST:PORT');
      exit(await pipe(to, options));
    });
}
