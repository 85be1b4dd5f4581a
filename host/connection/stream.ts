/**
 * A connection as a stream of bytes: what `connection.stream()` returns.
 *
 * Pieces of the stream are messages; an empty message is the end of its sender's direction, as for `isthmus pipe`.
 */
import { isIP } from 'node:net';
import { Duplex } from 'node:stream';
import type { Connection } from '../api/connection.js';
import type { ConnectionStream, StreamOptions } from '../api/stream.js';
import { MAX_TIMER_MS, optionsOf } from '../base/arguments.js';
import { IsthmusError } from '../base/errors.js';
import type { Message } from '../base/message.js';
import type { SocketOptions } from '../plugins/plugin.js';
import { chunkOf, MAX_JOINED_BYTES, pieces } from './pieces.js';

/** The connection, and what lies behind the interface that applications have. */
interface Carrier extends Connection {
  setSocketOptions(options: SocketOptions): void;
}

type Callback = (error?: Error | null) => void;

const END = new Uint8Array(0);
/** Measured between two processes: below 128 KiB messages cost more than their bytes, above 512 KiB they leave the cache. */
const CHUNK_BYTES = 262_144;
/** As net.Socket from Node 22 on. With the 16 KiB of Node 20 a reader asks four times as often. */
const HIGH_WATER_MARK_BYTES = 65_536;
/** Shorter messages are joined with their neighbours: a promise and a chunk for each cost more than a copy. */
const MIN_LONG_BYTES = 4096;
/** Bytes written, and chunks read, before the event loop gets its turn although more is there. */
const MAX_WRITE_BURST_BYTES = 4 << 20;
const MAX_READ_BURST = 16;
/** Limit for a reader that does not read what came before an error: then it gets the error instead. */
const MAX_READER_PAUSE_MS = 1000;
/** Limit for a peer that has not ended its direction to read what this side has sent. */
const LINGER_MS = 120_000;
/** The kernel's limit (TCP_KEEPIDLE). */
const MAX_KEEP_ALIVE_MS = 32_767_000;

/** Short pieces while they are joined; it is empty when a function returns. */
const joined = Buffer.allocUnsafeSlow(MAX_JOINED_BYTES);

/** {@link ConnectionStream}: pieces of the stream are messages. */
export class DuplexStream extends Duplex implements ConnectionStream {
  /** Milliseconds given to `setTimeout`. */
  timeout: number | undefined;
  readonly connecting = false;
  readonly pending = false;
  readonly #connection: Carrier;
  readonly #chunkSize: number;
  #timer: NodeJS.Timeout | undefined;
  #written = 0;
  #received = 0;

  /** The reader asks for more. */
  #wanted = false;
  /** A loop, a timer or a promise pulls already. */
  #pulling = false;
  /** The last message was short. */
  #small = false;
  #burst = 0;
  /** Bytes in `joined`. */
  #joined = 0;
  /** A message that did not fit behind the joined ones. */
  #large: Buffer | undefined;
  /** No further message comes, because of the end or of an error. */
  #inputDone = false;
  #inputBroken = false;

  #sent = 0;
  /** Callback of a write that failed with the connection. */
  #unwritten: Callback | undefined;
  /** What ended the connection, until the reader is ready for it. */
  #failure: Error | undefined;
  #peerClosed = false;
  #reset = false;

  /** Made by `connection.stream()`. */
  constructor(connection: Carrier, options?: StreamOptions) {
    const {
      allowHalfOpen = true,
      chunkSize = CHUNK_BYTES,
      highWaterMark = HIGH_WATER_MARK_BYTES,
    } = optionsOf(options, '{ allowHalfOpen }') ?? {};
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

  // Node 20 takes strings, Buffers and Uint8Arrays; later versions take views, and none takes an ArrayBuffer.
  override write(chunk: unknown, ...rest: unknown[]): boolean {
    const write = super.write as (chunk: unknown, ...rest: unknown[]) => boolean;
    return write.call(this, chunkOf(chunk), ...rest);
  }

  override end(...args: unknown[]): this {
    const end = super.end as (...args: unknown[]) => this;
    if (args.length > 0 && typeof args[0] !== 'function') args[0] = chunkOf(args[0]);
    return end.apply(this, args);
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, callback: Callback): void {
    if (chunk.length <= this.#chunkSize) this.#send(chunk, callback);
    else this.#sendAll([chunk], callback);
  }

  override _writev(chunks: { chunk: Buffer; encoding: BufferEncoding }[], callback: Callback): void {
    let total = 0;
    for (const { chunk } of chunks) total += chunk.length;
    if (total > Math.min(MAX_JOINED_BYTES, this.#chunkSize)) {
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
      // A peer that has closed the connection in order does not wait for the end of this direction.
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
    // A peer that reads as fast as this side writes must not keep the event loop from its other work.
    if (this.#sent < MAX_WRITE_BURST_BYTES) callback();
    else {
      this.#sent = 0;
      setImmediate(callback);
    }
  }

  /** Send as many messages as the chunks need, waiting for room. */
  async #sendAll(chunks: readonly Buffer[], callback: Callback): Promise<void> {
    try {
      for (const piece of pieces(chunks, this.#chunkSize)) {
        if (!this.#connection.trySend(piece)) await this.#connection.send(piece);
        this.#sentOne(piece.length);
        if (this.#sent < MAX_WRITE_BURST_BYTES) continue;
        this.#sent = 0;
        await new Promise((resolve) => setImmediate(resolve));
      }
    } catch (error) {
      this.#unsent(error, callback);
      return;
    }
    // An error that the application throws in a callback does not belong to this promise.
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
    // The connection is over. Earlier messages of the peer may still be unread, and the callback would discard them.
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
    // Later: the reader gets this chunk before the error.
    if (this.#failure) process.nextTick(() => this.#settle());
    return chunk;
  }

  readonly #pull = (): void => {
    while (this.#wanted && !this.#inputDone && !this.destroyed) {
      if (this.#burst >= MAX_READ_BURST) {
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

  /** All short messages that are there, as one chunk. @returns whether there was any */
  #gather(): boolean {
    this.#joined = 0;
    this.#large = undefined;
    try {
      while (
        !this.#large &&
        !this.#inputDone &&
        this.#joined < MAX_JOINED_BYTES &&
        this.#connection.poll(this.#join, 1) > 0
      );
    } catch {
      // receive() gets the same error, and the stream with it.
    }
    const length = this.#joined;
    const large = this.#large as Buffer | undefined;
    this.#large = undefined;
    if (length > 0) this.#give(Buffer.from(joined.subarray(0, length)));
    if (large) {
      this.#small = large.length < MIN_LONG_BYTES;
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
    if (length <= MAX_JOINED_BYTES - this.#joined) {
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
      this.#small = length < MIN_LONG_BYTES;
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
      // Not assigned: a reader may ask again while it gets this chunk.
      if (this.push(chunk)) this.#wanted = true;
    } catch (error) {
      // Thrown by a 'data' handler, perhaps below a promise: it becomes an uncaught exception, as with a socket.
      this.#wanted = true;
      process.nextTick(() => {
        throw error;
      });
    }
  }

  /** No further message will be received: one of the sides has closed in order. */
  #endOfConnection(): void {
    this.#inputDone = true;
    // When this side closed the connection, the stream is not at its end, but destroyed.
    this.#connection.closed.then(({ reason }) => {
      if (reason === 'peer') this.push(null);
    });
  }

  // ─── ending ────────────────────────────────────────────────────────────────────────────────────────────────────────

  /** The connection ended with an error. The reader gets it behind what came before. */
  #fail(error: Error): void {
    if (this.destroyed || this.#failure) return;
    this.#failure = error;
    if (this.readableFlowing === null) {
      this.destroy(error); // No reader.
      return;
    }
    this.#settle();
    const read = () => this.#received - this.readableLength;
    let before = read();
    const patience = setInterval(() => {
      if (read() === before) this.destroy(error);
      before = read();
    }, MAX_READER_PAUSE_MS);
    this.once('close', () => clearInterval(patience));
    if (this.destroyed) clearInterval(patience);
  }

  /** The reader may have got far enough for the error, or for the end. */
  #settle(): void {
    if (this.#failure) {
      if (this.readableEnded || (this.#inputBroken && this.readableLength === 0)) this.destroy(this.#failure);
    } else if (this.#peerClosed && this.readableEnded) {
      // What is written now would reach no peer. A write within 'end' gets an error.
      setImmediate(() => this.end());
    }
  }

  override _destroy(error: Error | null, callback: (error: Error | null) => void): void {
    clearTimeout(this.#timer);
    const connection = this.#connection;
    const unwritten = this.#unwritten;
    this.#unwritten = undefined;
    unwritten?.(error ?? new IsthmusError('ERR_ISTHMUS_CLOSED', 'the stream was destroyed'));
    // `for await` destroys a stream that it has read to the end: with nothing left to write the peer is not cut off.
    const over = this.writableFinished || (this.readableEnded && this.writableLength === 0);
    const left = error === null || (error as NodeJS.ErrnoException).code === 'ABORT_ERR';
    if (this.#reset || !left || !over) {
      connection.destroy(error ?? undefined);
      callback(error);
      return;
    }
    // A peer that has sent its end has no limit to read the rest.
    const done = () => callback(error);
    connection.close({ timeout: this.readableEnded ? MAX_TIMER_MS : LINGER_MS }).then(done, done);
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
      this.#timer = setTimeout(() => this.emit('timeout'), Math.min(milliseconds, MAX_TIMER_MS)).unref();
      if (listener) this.once('timeout', listener);
    }
    return this;
  }

  setNoDelay(noDelay = true): this {
    this.#connection.setSocketOptions({ noDelay: Boolean(noDelay) });
    return this;
  }

  /** @throws ERR_ISTHMUS_INVALID_ARGUMENT */
  setKeepAlive(enable = false, initialDelay = 0): this {
    if (typeof initialDelay !== 'number' || !(initialDelay >= 0)) {
      throw new IsthmusError('ERR_ISTHMUS_INVALID_ARGUMENT', 'a delay is a number of milliseconds from 0 on');
    }
    const keepAlive = { on: Boolean(enable), initialDelay: Math.min(initialDelay, MAX_KEEP_ALIVE_MS) };
    this.#connection.setSocketOptions({ keepAlive });
    return this;
  }

  /** Cut the connection at once, as `destroy()`: the peer gets an error. `net.Socket` has it. */
  resetAndDestroy(): this {
    this.#reset = true;
    return this.destroy();
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

  get readyState(): 'open' | 'readOnly' | 'writeOnly' | 'closed' {
    if (this.readable) return this.writable ? 'open' : 'readOnly';
    return this.writable ? 'writeOnly' : 'closed';
  }

  get bytesRead(): number {
    return this.#received;
  }

  /** Includes bytes that still wait to be sent. */
  get bytesWritten(): number {
    return this.#written + this.writableLength;
  }
}
