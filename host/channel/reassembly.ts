/** A message of which not all fragments have come. */
import { NO_BYTES } from '../base/message.js';
import type { BoundLink } from '../link/bound-link.js';
import type { MessageHandler, Sink } from '../link/protocol-router.js';
import type { PendingReceive } from '../matching/pending-receive.js';

/** First allocation for a message in fragments, in bytes: memory grows with what comes, not with what is announced. */
const FIRST_CHUNK_BYTES = 1 << 20;

export class PartialMessage {
  readonly type: number;
  readonly xheader: Uint8Array;
  /** Of the data, in bytes. */
  readonly length: number;
  data: Uint8Array = NO_BYTES;
  /** Bytes of the data that are kept. */
  room: number;
  /** Bytes of xheader and data that have come. */
  have = 0;
  /** The receive that gets it. */
  receive: PendingReceive | undefined;
  /** Of a message that is not the application's: which part of the runtime takes it, and where the data goes. */
  handler: MessageHandler | undefined;
  sink: Sink | undefined;
  /** The memory of the target has gone: the rest of the message is dropped. */
  gone = false;
  /** Bytes of the target; 0: the data goes into memory of its own. */
  #targetLength = 0;
  #routed = false;

  constructor(type: number, xlength: number, dlength: number) {
    this.type = type;
    this.xheader = xlength === 0 ? NO_BYTES : new Uint8Array(xlength);
    this.length = dlength;
    this.room = dlength;
  }

  /** A message without an xheader, of which the first bytes are in a buffer of the caller. */
  static begun(type: number, target: Uint8Array, have: number, length: number): PartialMessage {
    const partial = new PartialMessage(type, 0, length);
    partial.data = target;
    partial.have = have;
    partial.#routed = true;
    partial.keep();
    return partial;
  }

  /** The data goes into `target`, as far as there is room; undefined: into memory of its own. */
  into(target: Uint8Array | undefined): void {
    if (target) {
      this.room = Math.min(this.room, target.length);
      this.data = target.subarray(0, this.room);
      this.#targetLength = this.room;
    } else {
      this.data = Buffer.allocUnsafeSlow(Math.min(this.room, FIRST_CHUNK_BYTES));
    }
  }

  /**
   * Add the bytes of a record.
   * @param route called once, when the xheader is complete: decides where the data goes
   */
  append(link: BoundLink, offset: number, length: number, route: (partial: PartialMessage) => void): void {
    const { xheader } = this;
    let at = offset;
    const end = offset + length;
    if (this.have < xheader.length) {
      const part = Math.min(length, xheader.length - this.have);
      xheader.set(link.bytes.subarray(at, at + part), this.have);
      this.have += part;
      at += part;
    }
    if (this.have >= xheader.length && !this.#routed) {
      this.#routed = true;
      route(this);
    }
    if (at === end) return;
    const place = this.have - xheader.length;
    this.have += end - at;
    if (this.sink?.open?.() === false) this.room = 0;
    if (this.data.length < this.#targetLength) {
      this.gone = true;
      this.#targetLength = 0;
      this.data = NO_BYTES;
      this.room = 0;
    }
    const kept = Math.min(end - at, this.room - place);
    if (kept <= 0) return;
    const needed = place + kept;
    if (needed > this.data.length) {
      const grown = Buffer.allocUnsafeSlow(Math.min(this.room, Math.max(needed, this.data.length * 2)));
      grown.set(this.data.subarray(0, place));
      this.data = grown;
    }
    this.data.set(link.bytes.subarray(at, at + kept), place);
  }

  /** What is kept of the data, when the last fragment has come. */
  get kept(): Uint8Array {
    return this.data.length > this.room ? this.data.subarray(0, this.room) : this.data;
  }

  /** The message goes on in memory of its own: the caller of the next read may bring another buffer. */
  keep(): void {
    const have = Math.max(0, this.have - this.xheader.length);
    const kept = Buffer.allocUnsafeSlow(Math.max(have, Math.min(this.length, FIRST_CHUNK_BYTES)));
    kept.set(this.data.subarray(0, have));
    this.data = kept;
    this.#targetLength = 0;
  }
}
