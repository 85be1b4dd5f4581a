/** A connection as a stream of bytes: argument and result of `connection.stream()`. */
import type { Duplex } from 'node:stream';

/** Options of `connection.stream()`. */
export interface StreamOptions {
  /** False: when the peer ends its direction, this side's ends too. Default true. */
  readonly allowHalfOpen?: boolean | undefined;
  /** Largest message in bytes, default 262,144. Longer writes are split. */
  readonly chunkSize?: number | undefined;
  /** Bytes that each direction buffers before it stops the writer, default 65,536. */
  readonly highWaterMark?: number | undefined;
}

/**
 * A Node `Duplex` over a connection, for code that takes a stream or a socket: `pipeline`, `http`, `https`, `tls`,
 * `readline`. The stream receives the messages: an application that has a stream does not call `receive` or `poll`.
 *
 * - `end()` sends the rest and the end of this direction; the other direction stays open (`allowHalfOpen`). When both have
 *   ended, the connection is closed in order, and `'close'` is emitted when the peer has read everything and closed, too.
 * - A reader that does not read stops the writer of the other side: first by `highWaterMark`, then by the unread messages
 *   of the connection (`PSP_UNREAD_LIMIT`), then by the ring.
 * - `destroy()` cuts the connection, and the peer gets an error. After `'finish'`, and after `'end'` with nothing left to
 *   write, it closes in order instead, as a socket does: the bytes that were written still arrive.
 * - As long as the reader reads, it gets the bytes that a peer sent before it died, and `'error'` (an `IsthmusError`) after
 *   them.
 * - A peer that closes the connection without the end of its direction (`connection.close()`) has ended that direction.
 *
 * Beyond `Duplex` it has those members of `net.Socket` that servers and agents use.
 */
export interface ConnectionStream extends Duplex {
  /** Milliseconds given to `setTimeout`. */
  readonly timeout: number | undefined;
  /** Always false: the connection exists. A `net.Socket` may still be connecting. */
  readonly connecting: boolean;
  /** End this direction, and close the connection when everything is written, without waiting for the other direction. */
  destroySoon(): void;
  /**
   * Emit `'timeout'` when that many milliseconds pass without a byte in either direction; 0: never (default).
   * @throws ERR_ISTHMUS_INVALID_ARGUMENT
   */
  setTimeout(milliseconds: number, listener?: () => void): this;
  /** Does nothing: shared memory has no such delay, and for `tcp` the runtime has an option. */
  setNoDelay(): this;
  /** Does nothing: a dead peer is noticed without it. */
  setKeepAlive(): this;
  ref(): this;
  unref(): this;
  /** Address that the socket of the handshake came from; undefined over `loop`. */
  readonly remoteAddress: string | undefined;
  readonly remotePort: number | undefined;
  readonly remoteFamily: 'IPv4' | 'IPv6' | undefined;
  readonly bytesRead: number;
  /** With the bytes that still wait to be sent. */
  readonly bytesWritten: number;
}
