/**
 * A link over any byte stream, in the format of phase 2 of the wire protocol: for the sockets of `tcp`, and for the streams
 * of third-party plugins.
 *
 * The link has two entries in the private core: the near one belongs to the connection, the far one to this link. It
 * drains what the near one sends into the stream, and decodes what the stream brings into the near one's ring.
 */
import type { Duplex } from 'node:stream';
import { IsthmusError } from '../base/errors.js';
import { BROKEN, type Core, NOTHING } from '../core/core.js';
import { openPair } from '../core/private.js';
import type { Guard } from './guard.js';
import type { Link, LinkEnd, LinkOwner, SocketOptions } from './plugin.js';

/** Records are gathered into one write up to this size. */
const MAX_WRITE_BYTES = 65536;
/** How long a closed stream may take to send what it was given. */
const MAX_LINGER_MS = 5000;
/** How long a stream may bring nothing after the end of its guard. */
const MAX_UNGUARDED_MS = 2000;
const NO_REST = Buffer.alloc(0);

/** Methods of a socket that another stream may lack. */
interface SocketLike {
  ref?(): unknown;
  unref?(): unknown;
  setNoDelay?(on: boolean): unknown;
  setKeepAlive?(on: boolean, initialDelay: number): unknown;
}

export class StreamLink implements Link {
  readonly core: Core;
  readonly index: number;
  readonly polled = false;
  readonly #far: number;
  readonly #stream: Duplex & SocketLike;
  readonly #guard: Guard | undefined;
  #owner: LinkOwner | undefined;
  /** Received bytes that did not fit into the ring yet. */
  #rest: Buffer;
  /** A message without a body was received, and its record did not fit into the ring yet. */
  #emptyMessageDue = false;
  #flushScheduled = false;
  #feedScheduled = false;
  #blocked = false;
  #finishing = false;
  #inputEnded = false;
  #lost: { readonly cause: Error | undefined } | undefined;
  #ended = false;
  #destroyed = false;
  /** The guard has ended, and the stream has some time to end as well. */
  #unguardedTimer: NodeJS.Timeout | undefined;
  /** Whether something was received since this was set to false. */
  #received = false;

  /**
   * @param stream half-open: the end of its readable side does not end the writable side. The link takes it over.
   * @param rest what was read from it already
   * @param guard creates the guard, if the stream is not the socket of the handshake
   * @throws ERR_ISTHMUS_NO_CONNECTIONS, ERR_ISTHMUS_NO_FRAMES: the stream still belongs to the caller then
   */
  constructor(
    core: Core,
    ringSize: number,
    stream: Duplex,
    rest: Buffer,
    guard?: (onEnd: (bye: boolean) => void) => Guard,
  ) {
    [this.index, this.#far] = openPair(core, ringSize);
    this.core = core;
    this.#stream = stream;
    this.#rest = rest;
    this.#guard = guard?.(() => this.#onGuardEnd());
    stream.on('data', (chunk: Buffer) => {
      this.#received = true;
      // There is a rest only until the link is started: a stream whose bytes do not fit is paused.
      this.#rest = this.#rest.length ? Buffer.concat([this.#rest, chunk]) : chunk;
      this.#feed();
    });
    stream.on('drain', () => {
      this.#blocked = false;
      this.#flush();
    });
    stream.on('end', () => {
      this.#inputEnded = true;
      this.#feed();
    });
    stream.on('error', (error) => this.#lose(error));
    stream.on('close', () => this.#lose(undefined));
  }

  start(owner: LinkOwner): void {
    this.#owner = owner;
    if (this.#stream.readableEnded) this.#inputEnded = true;
    this.#feed();
    if (this.#stream.destroyed) this.#lose(this.#stream.errored ?? undefined);
  }

  committed(): void {
    if (this.#flushScheduled || this.#blocked) return;
    // At the end of this turn, so that many small messages share one write.
    this.#flushScheduled = true;
    process.nextTick(() => {
      this.#flushScheduled = false;
      this.#flush();
    });
  }

  released(): void {
    if (this.#feedScheduled || (this.#rest.length === 0 && !this.#emptyMessageDue)) return;
    // Later: the caller is still busy with the message before those that would come now.
    this.#feedScheduled = true;
    process.nextTick(() => {
      this.#feedScheduled = false;
      this.#feed();
    });
  }

  finish(): void {
    this.#finishing = true;
    this.#flush();
  }

  destroy(): void {
    if (this.#destroyed) return;
    this.#owner = undefined;
    // What was committed in this turn of the event loop reaches the peer before the end does, as it does through a region.
    if (!this.#finishing && !this.#blocked && !this.#stream.destroyed) this.#flush();
    this.#destroyed = true;
    this.#rest = NO_REST;
    this.core.call.lose(this.index);
    this.core.call.dropTransmit(this.index);
    this.core.call.free(this.#far);
    clearTimeout(this.#unguardedTimer);
    this.#guard?.destroy();
    const stream = this.#stream;
    if (!this.#finishing || stream.destroyed || stream.writableFinished) {
      stream.destroy();
      return;
    }
    // What was handed to the stream still has to leave, within a limit.
    if (!stream.writableEnded) stream.end();
    stream.once('finish', () => stream.destroy());
    const timer = setTimeout(() => stream.destroy(), MAX_LINGER_MS).unref();
    stream.once('close', () => clearTimeout(timer));
  }

  free(): void {
    this.core.call.free(this.index);
  }

  ref(): void {
    this.#stream.ref?.();
    this.#guard?.ref();
  }

  unref(): void {
    this.#stream.unref?.();
    this.#guard?.unref();
  }

  setSocketOptions({ noDelay, keepAlive }: SocketOptions): void {
    const stream = this.#stream;
    if (stream.destroyed) return;
    if (noDelay !== undefined) stream.setNoDelay?.(noDelay);
    if (keepAlive) stream.setKeepAlive?.(keepAlive.on, keepAlive.initialDelay);
  }

  /** From the ring to the stream. */
  #flush(): void {
    if (this.#destroyed) return;
    const { call, bytes, words, layout } = this.core;
    // Room for the largest record, whatever the capacity.
    const record = (call.ringCapacity(this.#far) >> layout.RECORD_SHIFT) + layout.RECORD_EXTRA;
    const maxBytes = Math.max(MAX_WRITE_BYTES, record);
    let wrote = false;
    while (!this.#blocked) {
      // Includes the headers of the records, so a little more than is sent.
      const pending = call.unread(this.index);
      if (pending <= 0) break;
      const batch = Buffer.allocUnsafe(Math.min(pending, maxBytes));
      let length = 0;
      for (;;) {
        const offset = call.drain(this.#far);
        if (offset <= 0) break;
        const size = words[layout.RESULT_LENGTH >> 2] as number;
        if (length + size > batch.length) break;
        batch.set(bytes.subarray(offset, offset + size), length);
        length += size;
        call.drained(this.#far);
      }
      if (length === 0) break;
      wrote = true;
      if (this.#stream.writable) this.#blocked = !this.#write(batch.subarray(0, length));
    }
    if (wrote) this.#owner?.onWritable();
    if (this.#finishing && !this.#blocked && call.unread(this.index) === 0) {
      this.#stream.end();
      this.#guard?.bye();
    }
  }

  /** @returns as `write` of the stream: whether it takes more */
  #write(bytes: Buffer): boolean {
    try {
      return this.#stream.write(bytes);
    } catch (error) {
      // A stream of an application's own may throw what it should pass to the callback.
      this.#stream.destroy(error instanceof Error ? error : new Error(String(error)));
      return false;
    }
  }

  /** From the stream to the ring. */
  #feed(): void {
    if (this.#destroyed || !this.#owner) return;
    const { call, bytes, words, layout } = this.core;
    let rest = this.#rest;
    let published = false;
    let full = false;
    while (rest.length > 0 || this.#emptyMessageDue) {
      const offset = call.decode(this.#far, rest.length);
      if (offset === NOTHING) {
        full = true;
        break;
      }
      if (offset === BROKEN) {
        this.#rest = NO_REST;
        this.#end({
          kind: 'lost',
          error: new IsthmusError('ERR_ISTHMUS_PEER_PROTOCOL', 'bytes after the end-of-stream message'),
        });
        this.#stream.destroy();
        return;
      }
      const length = words[layout.RESULT_LENGTH >> 2] as number;
      bytes.set(rest.subarray(0, length), offset);
      rest = rest.subarray(length);
      const flags = call.decoded(this.#far, length);
      this.#emptyMessageDue = (flags & layout.DECODED_EMPTY) !== 0;
      if (flags & layout.DECODED_RECORD) published = true;
    }
    this.#rest = rest.length ? rest : NO_REST;
    if (full) this.#stream.pause();
    else if (this.#stream.isPaused()) this.#stream.resume();
    if (published) this.#owner.onReadable();
    if (this.#rest.length > 0 || this.#emptyMessageDue) return;
    if (this.#inputEnded) this.#endOfInput();
    else if (this.#lost) this.#lose(undefined);
  }

  #endOfInput(): void {
    const { call, layout } = this.core;
    const state = call.state(this.#far);
    // The far entry stands for the peer: it has "sent" an EOF when one was decoded.
    if (state === layout.STATE_CLOSING || state === layout.STATE_CLOSED) {
      this.#end({ kind: 'peer-closed' });
    } else {
      this.#lose(undefined);
    }
  }

  /**
   * The guard has ended, in order or not. What the peer sent may still be under way, and the end of the stream itself says
   * more; but not every stream notices that the peer is gone.
   */
  #onGuardEnd(): void {
    if (this.#ended || this.#destroyed) return;
    this.#received = false;
    this.#unguardedTimer = setTimeout(() => {
      // What arrived meanwhile is handled first: this process may have been stopped.
      setImmediate(() => {
        // More was received, or the application does not read at the moment.
        if (this.#received || this.#stream.isPaused()) this.#onGuardEnd();
        else this.#lose(undefined);
      });
    }, MAX_UNGUARDED_MS).unref();
  }

  #lose(cause: Error | undefined): void {
    if (this.#ended || !this.#owner) return;
    this.#lost ??= { cause };
    // What came before is delivered first, when there is room for it.
    if (this.#rest.length || this.#emptyMessageDue) return;
    const { call, layout } = this.core;
    const state = this.#destroyed ? layout.STATE_BROKEN : call.state(this.#far);
    if (state === layout.STATE_CLOSING || state === layout.STATE_CLOSED) {
      this.#end({ kind: 'peer-closed' });
      return;
    }
    cause ??= this.#lost.cause;
    const why = cause
      ? `: ${(cause as NodeJS.ErrnoException).code ?? cause.message}`
      : ' without an end-of-stream message';
    this.#end({
      kind: 'lost',
      error: new IsthmusError('ERR_ISTHMUS_PEER_DIED', `the stream of the peer ended${why}`, { cause }),
    });
  }

  #end(end: LinkEnd): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#owner?.onEnded(end);
  }
}
