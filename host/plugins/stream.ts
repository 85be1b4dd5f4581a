/**
 * A connection over any byte stream: what phase 2 of the wire protocol does with a socket, `tcp` does with this, and so
 * does every plugin of a third party.
 *
 * The connection has two entries in the private core: the near one is the application's, the far one this pump's. What
 * the near one sends, the pump drains into the stream; what the stream brings, the pump decodes into the near one's ring.
 */
import type { Duplex } from 'node:stream';
import { IsthmusError } from '../base/errors.js';
import { BROKEN, type Core, NOTHING } from '../core/core.js';
import { openPair } from '../core/private.js';
import type { Guard } from './guard.js';
import type { Link, LinkEnd, LinkOwner } from './plugin.js';

/** Most bytes that are put together for one write. */
const BATCH = 65536;
/** How long a closed stream may take to send what it was given, in milliseconds. */
const LINGER = 5000;
/** How long a stream may be silent after the end of its guard, in milliseconds. */
const SILENCE = 2000;
const NO_REST = Buffer.alloc(0);

/** What a socket has, and a stream may have. */
interface Handled {
  ref?(): unknown;
  unref?(): unknown;
}

export class StreamLink implements Link {
  readonly core: Core;
  readonly index: number;
  readonly polled = false;
  readonly #far: number;
  readonly #stream: Duplex & Handled;
  readonly #guard: Guard | undefined;
  #owner: LinkOwner | undefined;
  /** Came, and did not fit into the ring yet. */
  #rest: Buffer;
  /** A message without a body has come, and its record did not fit yet. */
  #due = false;
  #flushing = false;
  #feeding = false;
  #blocked = false;
  #finishing = false;
  #inputEnded = false;
  #lost: { readonly cause: Error | undefined } | undefined;
  #ended = false;
  #destroyed = false;
  /** The guard is gone, and the stream has its time to end as well. */
  #silence: NodeJS.Timeout | undefined;
  /** Something came since that was looked at. */
  #heard = false;

  /**
   * @param stream half-open: its end does not end what we write. Takes it over.
   * @param rest what was read from it already
   * @param guard makes the guard, if the stream is not the socket of the handshake
   * @throws ERR_ISTHMUS_NO_CONNECTIONS, ERR_ISTHMUS_NO_FRAMES: the stream is still the caller's then
   */
  constructor(
    core: Core,
    ringSize: number,
    stream: Duplex,
    rest: Buffer,
    guard?: (over: (bye: boolean) => void) => Guard,
  ) {
    [this.index, this.#far] = openPair(core, ringSize);
    this.core = core;
    this.#stream = stream;
    this.#rest = rest;
    this.#guard = guard?.(() => this.#unguarded());
    stream.on('data', (chunk: Buffer) => {
      this.#heard = true;
      // There is a rest only until the owner comes: a stream whose bytes do not fit is paused, and gives nothing.
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
    if (this.#flushing || this.#blocked) return;
    // At the end of this turn, so that many small messages share a write.
    this.#flushing = true;
    process.nextTick(() => {
      this.#flushing = false;
      this.#flush();
    });
  }

  released(): void {
    if (this.#feeding || (this.#rest.length === 0 && !this.#due)) return;
    // Later: the one who released is still at the message in front of those that would come now.
    this.#feeding = true;
    process.nextTick(() => {
      this.#feeding = false;
      this.#feed();
    });
  }

  finish(): void {
    this.#finishing = true;
    this.#flush();
  }

  destroy(): void {
    if (this.#destroyed) return;
    this.#destroyed = true;
    this.#owner = undefined;
    this.#rest = NO_REST;
    this.core.call.lose(this.index);
    this.core.call.dropTransmit(this.index);
    this.core.call.free(this.#far);
    clearTimeout(this.#silence);
    this.#guard?.destroy();
    const stream = this.#stream;
    if (!this.#finishing || stream.destroyed || stream.writableFinished) {
      stream.destroy();
      return;
    }
    // What was handed to the stream still has to leave, but not for ever.
    if (!stream.writableEnded) stream.end();
    stream.once('finish', () => stream.destroy());
    const timer = setTimeout(() => stream.destroy(), LINGER).unref();
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

  /** Ring → stream. */
  #flush(): void {
    if (this.#destroyed) return;
    const { call, bytes, words, layout } = this.core;
    // Room for the largest record, whatever the capacity.
    const record = (call.ringCapacity(this.#far) >> layout.RECORD_SHIFT) + layout.RECORD_EXTRA;
    const most = Math.max(BATCH, record);
    let wrote = false;
    while (!this.#blocked) {
      // With the headers of the records, so a little more than is sent.
      const pending = call.unread(this.index);
      if (pending <= 0) break;
      const batch = Buffer.allocUnsafe(Math.min(pending, most));
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

  /** @returns as the stream's own: whether it takes more */
  #write(bytes: Buffer): boolean {
    try {
      return this.#stream.write(bytes);
    } catch (error) {
      // A stream that somebody has written himself may throw what it should say to the callback.
      this.#stream.destroy(error instanceof Error ? error : new Error(String(error)));
      return false;
    }
  }

  /** Stream → ring. */
  #feed(): void {
    if (this.#destroyed || !this.#owner) return;
    const { call, bytes, words, layout } = this.core;
    let rest = this.#rest;
    let published = false;
    let full = false;
    while (rest.length > 0 || this.#due) {
      const offset = call.decode(this.#far, rest.length);
      if (offset === NOTHING) {
        full = true;
        break;
      }
      if (offset === BROKEN) {
        this.#rest = NO_REST;
        this.#end({
          kind: 'lost',
          error: new IsthmusError('ERR_ISTHMUS_PEER_PROTOCOL', 'bytes behind the end of the stream'),
        });
        this.#stream.destroy();
        return;
      }
      const length = words[layout.RESULT_LENGTH >> 2] as number;
      bytes.set(rest.subarray(0, length), offset);
      rest = rest.subarray(length);
      const flags = call.decoded(this.#far, length);
      this.#due = (flags & layout.DECODED_EMPTY) !== 0;
      if (flags & layout.DECODED_RECORD) published = true;
    }
    this.#rest = rest.length ? rest : NO_REST;
    if (full) this.#stream.pause();
    else if (this.#stream.isPaused()) this.#stream.resume();
    if (published) this.#owner.onReadable();
    if (this.#rest.length > 0 || this.#due) return;
    if (this.#inputEnded) this.#endOfInput();
    else if (this.#lost) this.#lose(undefined);
  }

  #endOfInput(): void {
    const { call, layout } = this.core;
    const state = call.state(this.#far);
    // The far end stands for the peer: it has "sent" an EOF when one was decoded.
    if (state === layout.STATE_CLOSING || state === layout.STATE_CLOSED) {
      this.#end({ kind: 'peer-closed' });
    } else {
      this.#lose(undefined);
    }
  }

  /**
   * The guard has ended, in order or not. What the peer had sent may still be under way, and the stream's own end tells
   * more; but not every stream finds out that there is nobody any more.
   */
  #unguarded(): void {
    if (this.#ended || this.#destroyed) return;
    this.#heard = false;
    this.#silence = setTimeout(() => {
      // What has arrived meanwhile is handled first: this process may have been stopped.
      setImmediate(() => {
        // Nobody reads at the moment, or there is more.
        if (this.#heard || this.#stream.isPaused()) this.#unguarded();
        else this.#lose(undefined);
      });
    }, SILENCE).unref();
  }

  #lose(cause: Error | undefined): void {
    if (this.#ended || !this.#owner) return;
    this.#lost ??= { cause };
    // What came before is still to be delivered, when there is room for it.
    if (this.#rest.length || this.#due) return;
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
