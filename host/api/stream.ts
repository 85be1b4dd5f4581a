/** A connection as a stream of bytes: what `connection.stream()` takes and returns. */
import type { Duplex } from 'node:stream';

/** What `connection.stream()` takes. */
export interface StreamOptions {
  /** False: when the peer has ended its direction, this direction is ended too. Default true. */
  readonly allowHalfOpen?: boolean | undefined;
  /** Maximum of bytes of one message, default 262,144. Longer writes are split. */
  readonly chunkSize?: number | undefined;
  /** Bytes that either direction buffers before it holds back, default 65,536. */
  readonly highWaterMark?: number | undefined;
}

/**
 * A Node `Duplex` over a connection, for whatever takes a stream or a socket: `pipeline`, `http`, `https`, `tls`,
 * `readline`. The stream receives: an application that has a stream does not call `receive`, `borrow` or `poll`.
 *
 * - `end()` sends what is left and the end of the direction; the other direction stays open (`allowHalfOpen`). When both
 *   have ended the connection is closed in order, and `'close'` comes when the peer has read everything and closed too.
 * - A reader that does not read holds back the writer of the other side: by `highWaterMark`, then the unread messages of
 *   the connection (`PSP_UNREAD_LIMIT`), then the ring.
 * - `destroy()` cuts the connection, and the peer gets an error; behind `'finish'`, and behind `'end'` with nothing left
 *   to write, it closes in order instead, as a socket does: what was written still arrives.
 * - Bytes that a peer had sent before it died are read before `'error'` (an `IsthmusError`), as long as the reader reads.
 * - A peer that closes the connection (`connection.close()`) without the end of its direction has ended that too.
 *
 * Beyond `Duplex` it has the members of `net.Socket` that servers and agents use.
 *
 * An `http.Server` or `https.Server` begins to check `headersTimeout` and `requestTimeout`, and to know which connections
 * are idle (`closeIdleConnections()`), with its event `'listening'`. One that gets only streams never listens: emit that
 * event once, before the first connection. `server.close()` ends it.
 *
 * ```ts
 * server.emit('listening');
 * await runtime.listen({ port }, (connection) => void server.emit('connection', connection.stream()));
 * ```
 */
export interface ConnectionStream extends Duplex {
  /** Milliseconds given to `setTimeout`. */
  readonly timeout: number | undefined;
  /** Always false: a connection is connected. `net.Socket` has both. */
  readonly connecting: boolean;
  readonly pending: boolean;
  /** Which directions are open; `net.Socket` has it. */
  readonly readyState: 'open' | 'readOnly' | 'writeOnly' | 'closed';
  /** End this direction, and close the connection when everything is written, without waiting for the other direction. */
  destroySoon(): void;
  /**
   * Emit `'timeout'` when so many milliseconds pass without a byte in either direction; 0: never (the default).
   * @throws ERR_ISTHMUS_INVALID_ARGUMENT
   */
  setTimeout(milliseconds: number, listener?: () => void): this;
  /** Cut the connection at once, whatever was written: the peer gets an error. */
  resetAndDestroy(): this;
  /** Over `tcp`, TCP_NODELAY of the socket, now and after a migration (`PSP_TCP_NODELAY`); elsewhere there is no delay. */
  setNoDelay(noDelay?: boolean): this;
  /**
   * Over `tcp`, as `net.Socket` has it, now and after a migration, instead of `PSP_TCP_KEEPALIVE`: after so much silence the
   * kernel asks the peer's host, and after 10 seconds without an answer the connection ends with ERR_ISTHMUS_PEER_DIED.
   * Through shared memory it has no effect: there a peer shows its heartbeat (`stalled`, `peerTimeout`).
   * @param initialDelay in milliseconds, rounded down to seconds; 0: as it was, or as the kernel has it (two hours)
   * @throws ERR_ISTHMUS_INVALID_ARGUMENT
   */
  setKeepAlive(enable?: boolean, initialDelay?: number): this;
  ref(): this;
  unref(): this;
  /** Address that the socket of the handshake came from; undefined over `loop`. */
  readonly remoteAddress: string | undefined;
  readonly remotePort: number | undefined;
  readonly remoteFamily: 'IPv4' | 'IPv6' | undefined;
  readonly bytesRead: number;
  /** Includes bytes that still wait to be sent. */
  readonly bytesWritten: number;
}
