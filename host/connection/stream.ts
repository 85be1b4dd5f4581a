/**
 * A connection as a stream of bytes: what `connection.stream()` returns.
 *
 * Pieces of the stream are messages; an empty message is the end of its sender's direction, as for `isthmus pipe`.
 */
import { isIP } from 'node:net';
import { Duplex } from 'node:stream';
import type { Connection } from '../api/connection.js';
import type { ConnectionStream, StreamOptions } from '../api/stream.js';
import { IsthmusError } from '../base/errors.js';
import type { Message } from '../base/message.js';

type Callback = (error?: Error | null) => void;

const END = new Uint8Array(0);
/** Measured between two processes: below 128 KiB messages cost more than their bytes, above 512 KiB they leave the cache. */
const CHUNK_SIZE = 262_144;
/** As net.Socket from Node 22 on. With the 16 KiB of Node 20 a reader asks four times as often. */
const HIGH_WATER_MARK = 65_536;
/** Bytes of small pieces that are put together, for one message or from many. */
const JOINED = 65_536;
/** Messages shorter than this are taken with their neighbours: a promise and a chunk for each cost more than a copy. */
const SMALL = 4096;
/** Bytes written, or chunks read, before the event loop gets its turn although there is more to do. */
const WRITE_BURST = 4 << 20;
const READ_BURST = 16;
/** How long a reader may stand still on what came before an error until it gets the error instead, in milliseconds. */
const PATIENCE = 1000;
/** How long a peer that has not ended its direction may take to read what we left, in milliseconds. */
const LINGER = 120_000;
/** Weeks, in milliseconds: as long as a timer goes. */
const LONG = 2 ** 31 - 1;

/** Small pieces on their way through this process; nothing stays in it when a function returns. */
const joined = Buffer.allocUnsafeSlow(JOINED);

/** {@link ConnectionStream}: pieces of the stream are messages. */
export class DuplexStream extends Duplex implements ConnectionStream {
  /** Milliseconds given to `setTimeout`. */
  timeout: number | undefined;
  /** A connection is connected; `net.Socket` has times when it is not. */
  readonly connecting = false;
  readonly #connection: Connection;
  readonly #chunkSize: number;
  #timer: NodeJS.Timeout | undefined;
  #written = 0;
  #received = 0;

  /** The reader asks for more. */
  #wanted = false;
  /** Somebody is at it already: a loop, a timer, a promise. */
  #pulling = false;
  /** The last message was short. */
  #small = false;
  #burst = 0;
  /** Bytes in `joined`. */
  #joined = 0;
  /** A message that did not fit behind them. */
  #large: Buffer | undefined;
  /** Nothing comes any more, be it by the end or by an error. */
  #inputDone = false;
  #inputBroken = false;

  #sent = 0;
  /** Of a write that failed with the connection. */
  #unwritten: Callback | undefined;
  /** What ended the connection, until the reader is ready for it. */
  #failure: Error | undefined;
  #peerClosed = false;

  /** Made by `connection.stream()`. */
  constructor(connection: Connection, options: StreamOptions = {}) {
    const { allowHalfOpen = true, chunkSize = CHUNK_SIZE, highWaterMark = HIGH_WATER_MARK } = options;
    for (const [name, value, least] of [
      ['chunkSize', chunkSize, 1],
      ['highWaterMark', highWaterMark, 0],
    ] as const) {
      if (!Number.isSafeInteger(value) || value < least) {
        throw new IsthmusError('ERR_ISTHMUS_INVALID_ARGUMENT', `${name} is a number of bytes from ${least} on`);
      }
    }
    super({ allowHalfOpen, highWaterMark });
    this.#connection = connection;
    this.#chunkSize = chunkSize;
    this.once('end', () => this.#settle());
    connection.closed.then(({ reason, error }) => {
      if (this.destroyed || (this.#inputDone && this.writableFinished)) return;
      if (reason === 'peer') {
        this.#peerClosed = true;
        this.#settle();
      } else if (error) this.#fail(error);
      // The application has closed the connection under the stream.
      else this.destroy();
    });
  }

  // ─── writing ───────────────────────────────────────────────────────────────────────────────────────────────────────

  override _write(chunk: Buffer, _encoding: BufferEncoding, callback: Callback): void {
    if (chunk.length <= this.#chunkSize) this.#send(chunk, callback);
    else this.#sendAll([chunk], callback);
  }

  override _writev(chunks: { chunk: Buffer; encoding: BufferEncoding }[], callback: Callback): void {
    let total = 0;
    for (const { chunk } of chunks) total += chunk.length;
    if (total > Math.min(JOINED, this.#chunkSize)) {
      this.#sendAll(
        chunks.map(({ chunk }) => chunk),
        callback,
      );
      return;
    }
    let length = 0;
    for (const { chunk } of chunks) {
      joined.set(chunk, length);
      length += chunk.length;
    }
    this.#send(joined.subarray(0, length), callback);
  }

  override _final(callback: Callback): void {
    const failed = (error: unknown) => {
      // A peer that has closed the connection in order waits for nothing any more, not for the end either.
      this.#connection.closed.then(({ reason }) => {
        if (reason === 'peer') callback();
        else this.#unsent(error, callback);
      });
    };
    try {
      if (this.#connection.trySend(END)) callback();
      else this.#connection.send(END).then(() => callback(), failed);
    } catch (error) {
      failed(error);
    }
  }

  /** One message. */
  #send(piece: Buffer, callback: Callback): void {
    // An empty message is the end.
    if (piece.length === 0) {
      callback();
      return;
    }
    try {
      if (!this.#connection.trySend(piece)) {
        this.#sendAll([piece === joined || piece.buffer === joined.buffer ? Buffer.from(piece) : piece], callback);
        return;
      }
    } catch (error) {
      this.#unsent(error, callback);
      return;
    }
    this.#sentOne(piece.length);
    // A peer that reads as fast as we write must not keep everybody else of this process waiting.
    if (this.#sent < WRITE_BURST) callback();
    else {
      this.#sent = 0;
      setImmediate(callback);
    }
  }

  /** As many messages as it takes, with room or without. */
  async #sendAll(chunks: readonly Buffer[], callback: Callback): Promise<void> {
    try {
      for (const piece of pieces(chunks, this.#chunkSize)) {
        if (!this.#connection.trySend(piece)) await this.#connection.send(piece);
        this.#sentOne(piece.length);
        if (this.#sent < WRITE_BURST) continue;
        this.#sent = 0;
        await new Promise((resolve) => setImmediate(resolve));
      }
    } catch (error) {
      this.#unsent(error, callback);
      return;
    }
    // What the application throws in its callbacks is none of this promise's.
    process.nextTick(callback);
  }

  #sentOne(length: number): void {
    this.#written += length;
    this.#sent += length;
    this.#timer?.refresh();
  }

  #unsent(error: unknown, callback: Callback): void {
    if (this.destroyed || this.#connection.state === 'open') {
      callback(error as Error);
      return;
    }
    // The connection is over. What the peer said before may still be unread, and calling back would throw it away.
    this.#unwritten = callback;
    this.#fail(error as Error);
  }

  // ─── reading ───────────────────────────────────────────────────────────────────────────────────────────────────────

  override _read(): void {
    this.#wanted = true;
    if (this.#pulling) return;
    this.#pulling = true;
    this.#pull();
  }

  override read(size?: number): ReturnType<Duplex['read']> {
    const chunk = super.read(size);
    // Later: whoever gets this chunk gets it before the error.
    if (this.#failure) process.nextTick(() => this.#settle());
    return chunk;
  }

  readonly #pull = (): void => {
    while (this.#wanted && !this.#inputDone && !this.destroyed) {
      if (this.#burst >= READ_BURST) {
        this.#burst = 0;
        setImmediate(this.#pull);
        return;
      }
      if (this.#small) {
        if (this.#gather()) continue;
        this.#burst = 0;
      }
      this.#connection.receive().then(this.#take, this.#broken);
      return;
    }
    this.#pulling = false;
  };

  /** All short messages that are there, as one chunk. @returns whether there was anything */
  #gather(): boolean {
    this.#joined = 0;
    this.#large = undefined;
    try {
      while (!this.#large && !this.#inputDone && this.#joined < JOINED && this.#connection.poll(this.#join, 1) > 0);
    } catch {
      // receive() is told the same, and what it means.
    }
    const length = this.#joined;
    const large = this.#large as Buffer | undefined;
    this.#large = undefined;
    if (length > 0) this.#give(Buffer.from(joined.subarray(0, length)));
    if (large) {
      this.#small = large.length < SMALL;
      this.#give(large);
    }
    if (this.#inputDone) this.push(null);
    return length > 0 || large !== undefined || this.#inputDone;
  }

  readonly #join = (memory: Uint8Array, offset: number, length: number): void => {
    if (length === 0) {
      this.#inputDone = true;
      return;
    }
    const bytes = memory.subarray(offset, offset + length);
    if (length <= JOINED - this.#joined) {
      joined.set(bytes, this.#joined);
      this.#joined += length;
    } else {
      this.#large = Buffer.allocUnsafeSlow(length);
      this.#large.set(bytes);
    }
  };

  readonly #take = (message: Message | undefined): void => {
    if (message === undefined) this.#endOfConnection();
    else if (message.data.length === 0) {
      this.#inputDone = true;
      this.push(null);
    } else {
      const { buffer, byteOffset, length } = message.data;
      this.#small = length < SMALL;
      this.#give(Buffer.from(buffer, byteOffset, length));
    }
    this.#pull();
  };

  readonly #broken = (error: Error): void => {
    this.#inputDone = true;
    this.#inputBroken = true;
    this.#pulling = false;
    this.#fail(error);
    this.#settle();
  };

  #give(chunk: Buffer): void {
    this.#burst++;
    this.#received += chunk.length;
    this.#timer?.refresh();
    this.#wanted = false;
    try {
      // Not assigned: a reader may ask again while it is given this.
      if (this.push(chunk)) this.#wanted = true;
    } catch (error) {
      // Thrown by a 'data' handler, maybe below a promise: it goes where it would go from a socket.
      this.#wanted = true;
      process.nextTick(() => {
        throw error;
      });
    }
  }

  /** Nothing more will be received, by the orderly close of either side. */
  #endOfConnection(): void {
    this.#inputDone = true;
    // When this side closed it the stream is not at its end, but destroyed.
    this.#connection.closed.then(({ reason }) => {
      if (reason === 'peer') this.push(null);
    });
  }

  // ─── ending ────────────────────────────────────────────────────────────────────────────────────────────────────────

  /** The connection ended with an error, which comes when the reader has had what came before it. */
  #fail(error: Error): void {
    if (this.destroyed || this.#failure) return;
    this.#failure = error;
    if (this.readableFlowing === null) {
      this.destroy(error); // Nobody reads.
      return;
    }
    this.#settle();
    const read = () => this.#received - this.readableLength;
    let before = read();
    const patience = setInterval(() => {
      if (read() === before) this.destroy(error);
      before = read();
    }, PATIENCE);
    this.once('close', () => clearInterval(patience));
    if (this.destroyed) clearInterval(patience);
  }

  /** See whether it is time for what has to wait for the reader. */
  #settle(): void {
    if (this.#failure) {
      if (this.readableEnded || (this.#inputBroken && this.readableLength === 0)) this.destroy(this.#failure);
    } else if (this.#peerClosed && this.readableEnded) {
      // Nobody would get what is written now. Whoever is about to do so within 'end' learns it as an error.
      setImmediate(() => this.end());
    }
  }

  override _destroy(error: Error | null, callback: (error: Error | null) => void): void {
    clearTimeout(this.#timer);
    const connection = this.#connection;
    const unwritten = this.#unwritten;
    this.#unwritten = undefined;
    unwritten?.(error ?? new IsthmusError('ERR_ISTHMUS_CLOSED', 'the stream was destroyed'));
    // `for await` destroys what it has read to the end: with nothing left to write that is no reason to cut the peer off.
    const over = this.writableFinished || (this.readableEnded && this.writableLength === 0);
    const left = error === null || (error as NodeJS.ErrnoException).code === 'ABORT_ERR';
    if (!left || !over) {
      connection.destroy(error ?? undefined);
      callback(error);
      return;
    }
    // Who has said its end may take its time to read ours.
    const done = () => callback(error);
    connection.close({ timeout: this.readableEnded ? LONG : LINGER }).then(done, done);
  }

  // ─── what net.Socket has ───────────────────────────────────────────────────────────────────────────────────────────

  /** End this direction, and close the connection when everything is written, without waiting for the other direction. */
  destroySoon(): void {
    if (this.writable) this.end();
    if (this.writableFinished) this.destroy();
    else this.once('finish', () => this.destroy());
  }

  /**
   * Emit `'timeout'` when so many milliseconds pass without a byte in either direction; 0: never (the default).
   * @throws ERR_ISTHMUS_INVALID_ARGUMENT
   */
  setTimeout(milliseconds: number, listener?: () => void): this {
    if (typeof milliseconds !== 'number' || !(milliseconds >= 0)) {
      throw new IsthmusError('ERR_ISTHMUS_INVALID_ARGUMENT', 'a timeout is a number of milliseconds from 0 on');
    }
    if (this.destroyed) return this;
    this.timeout = milliseconds;
    clearTimeout(this.#timer);
    this.#timer = undefined;
    if (milliseconds === 0) {
      if (listener) this.removeListener('timeout', listener);
    } else {
      this.#timer = setTimeout(() => this.emit('timeout'), Math.min(milliseconds, LONG)).unref();
      if (listener) this.once('timeout', listener);
    }
    return this;
  }

  /** Does nothing: memory has no such delay, and `tcp` has the runtime's option. */
  setNoDelay(): this {
    return this;
  }

  /** Does nothing: a peer that dies is noticed without. */
  setKeepAlive(): this {
    return this;
  }

  ref(): this {
    this.#connection.ref();
    return this;
  }

  unref(): this {
    this.#connection.unref();
    return this;
  }

  /** Address that the socket of the handshake came from; undefined over `loop`. */
  get remoteAddress(): string | undefined {
    return this.#connection.peer.address?.host;
  }

  get remotePort(): number | undefined {
    return this.#connection.peer.address?.port;
  }

  get remoteFamily(): 'IPv4' | 'IPv6' | undefined {
    const address = this.remoteAddress;
    return address === undefined ? undefined : isIP(address) === 6 ? 'IPv6' : 'IPv4';
  }

  get bytesRead(): number {
    return this.#received;
  }

  /** What still waits to be sent included. */
  get bytesWritten(): number {
    return this.#written + this.writableLength;
  }
}

/** What becomes of chunks: neighbours that are short put together, long ones split, nothing empty. */
function* pieces(chunks: readonly Buffer[], most: number): Generator<Buffer> {
  const limit = Math.min(JOINED, most);
  let first = 0;
  while (first < chunks.length) {
    let end = first;
    let length = 0;
    while (end < chunks.length && length + (chunks[end] as Buffer).length <= limit) {
      length += (chunks[end++] as Buffer).length;
    }
    if (end - first > 1) {
      if (length > 0) yield Buffer.concat(chunks.slice(first, end), length);
      first = end;
      continue;
    }
    const chunk = chunks[first++] as Buffer;
    for (let from = 0; from < chunk.length; from += most) yield chunk.subarray(from, from + most);
  }
}
