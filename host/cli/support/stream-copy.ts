/**
 * Joins a connection with standard input and output: `isthmus pipe`.
 *
 * Each message is a piece of the stream. An empty message says that the input of its sender has ended; a side ends when
 * both directions have ended. Any other end, such as a killed process, is an error.
 */
import { once } from 'node:events';
import { createReadStream, createWriteStream, fstatSync } from 'node:fs';
import type { Readable, Writable } from 'node:stream';
import { type Connection, IsthmusError, type Message } from '../../index.js';
import { CliError } from './errors.js';

/** Bytes of a piece when standard input is a file. A pipe delivers what it has. */
const FILE_PIECE_BYTES = 1 << 20;
const END_OF_INPUT = new Uint8Array(0);
/** The longest time that a timer takes: some weeks. */
const MAX_TIMER_MS = 2 ** 31 - 1;

function isFile(fd: number): boolean {
  return fstatSync(fd).isFile();
}

/** Threads of libuv read and write files in large pieces; pipes, sockets and terminals go by events. */
function input(): Readable {
  if (!isFile(0)) return process.stdin;
  return createReadStream('', { fd: 0, autoClose: false, highWaterMark: FILE_PIECE_BYTES });
}

function output(): Writable {
  if (!isFile(1)) return process.stdout;
  return createWriteStream('', { fd: 1, autoClose: false, highWaterMark: 4 * FILE_PIECE_BYTES });
}

/** Standard input → connection. */
class Upload {
  /** Settles when all input is sent, or with the error that prevented it. */
  readonly done: Promise<void>;
  readonly #connection: Connection;
  readonly #stdin = input();
  #stopped = false;
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
      // stop() destroys the stream, which then fails.
      if (!this.#stopped || this.#sending) throw error;
    }
    if (this.#connection.state === 'open') await this.#connection.send(END_OF_INPUT, { signal });
  }

  /** Read no more input. */
  stop(): void {
    this.#stopped = true;
    this.#stdin.destroy();
  }
}

/** Standard output; a write fails if its reader has closed it. */
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
    const closed = (this.#error as NodeJS.ErrnoException).code === 'EPIPE';
    throw closed ? new CliError('the reader of standard output has closed it') : this.#error;
  }

  async write(data: Uint8Array, signal: AbortSignal): Promise<void> {
    this.#check();
    if (!this.#stream.write(data)) {
      // `once` rejects on 'error' as well; #check has the better message.
      await once(this.#stream, 'drain', { signal }).catch((error: unknown) => {
        if (!this.#error) throw error;
      });
      this.#check();
    }
  }

  /** Wait until all data is written. */
  async flush(): Promise<void> {
    await new Promise<void>((resolve) => this.#stream.write('', () => resolve()));
    this.#check();
  }
}

/** Connection → standard output. @returns whether the peer said that its input has ended */
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

/**
 * Copy in both directions until both have ended, then close the connection. The caller destroys it after an error.
 * @throws what ended it early
 */
export async function joinStandardStreams(connection: Connection, signal: AbortSignal): Promise<void> {
  const upload = new Upload(connection, signal);
  const downloading = download(connection, signal).then((announced) => {
    // What a person may still type is not waited for. Without the empty message the peer has closed the connection, as a
    // C program does: nothing can be sent any more.
    if (!announced || process.stdin.isTTY) upload.stop();
  });
  const uploading = upload.done.catch(async (error: unknown) => {
    // Sending failed because the connection has ended. The receiving side knows the reason, after the last message.
    if (error instanceof IsthmusError) await downloading;
    throw error;
  });
  await Promise.all([uploading, downloading]);
  // The peer may need any time to read the rest, and is not cut off; a signal ends the wait.
  await connection.close({ timeout: MAX_TIMER_MS, signal });
}
