/** A link under a connection, with what sender and receiver look up in it for every message. */
import { type Core, NOTHING } from '../core/core.js';
import type { CoreExports } from '../core/exports.js';
import type { Link } from '../plugins/plugin.js';

export class BoundLink {
  readonly link: Link;
  readonly core: Core;
  readonly index: number;
  readonly polled: boolean;
  readonly call: CoreExports;
  readonly bytes: Uint8Array;
  readonly words: Uint32Array;
  // Indices into `words` of the results of peek and claim.
  readonly type: number;
  readonly xlength: number;
  readonly dlength: number;
  readonly length: number;
  readonly flags: number;
  readonly runFrame: number;
  readonly runBytes: number;
  /** Flags of a message in one record. */
  readonly whole: number;
  readonly #lost: number;
  readonly #asleep: number;
  readonly #announcement: number;
  readonly #request: number;

  constructor(link: Link) {
    const { core } = link;
    const { layout } = core;
    this.link = link;
    this.core = core;
    this.index = link.index;
    this.polled = link.polled;
    this.call = core.call;
    this.bytes = core.bytes;
    this.words = core.words;
    this.type = layout.RESULT_TYPE >> 2;
    this.xlength = layout.RESULT_XLENGTH >> 2;
    this.dlength = layout.RESULT_DLENGTH >> 2;
    this.length = layout.RESULT_LENGTH >> 2;
    this.flags = layout.RESULT_FLAGS >> 2;
    this.runFrame = layout.RESULT_FRAME >> 2;
    this.runBytes = layout.RESULT_BYTES >> 2;
    this.#lost = core.lostAt;
    this.#announcement = layout.MESSAGE_RENDEZVOUS_REQ;
    this.#request = layout.REQUEST_SIZE;
    this.#asleep = layout.COMMIT_ASLEEP;
    this.whole = layout.FLAG_FIRST | layout.FLAG_LAST;
  }

  /** Whether the link took the transmit ring away because the peer is gone: `onEnded` follows. */
  get cutOff(): boolean {
    return this.failure === this.core.layout.FAILURE_LOST;
  }

  /** One of FAILURE_…: why the core calls the connection broken. */
  get failure(): number {
    const { C_FAILURE } = this.core.layout;
    return this.words[(this.call.entry(this.index) + C_FAILURE) >> 2] as number;
  }

  /** Whether the peer waits at this moment for a message that it will copy out. */
  get receiverWaits(): boolean {
    return this.polled && this.call.receiverWaits(this.index) === 1;
  }

  /** Capacity of the transmit ring, in bytes. */
  get capacity(): number {
    return (this.words[(this.call.entry(this.index) + this.core.layout.TX_MASK) >> 2] as number) + 1;
  }

  /** Publish the record that was claimed, and ring the doorbell of a peer that sleeps. */
  commit(): void {
    if (this.call.commit(this.index) === this.#asleep) this.link.ring?.();
  }

  /** Send the end of this direction. @returns false: the ring has no room for it */
  sendEof(): boolean {
    const told = this.call.sendEof(this.index);
    if (told === NOTHING) return false;
    if (told === this.#asleep + 1) this.link.ring?.();
    return true;
  }

  /** Records were committed: tell a link that moves bytes itself. */
  committed(): void {
    if (!this.polled) this.link.committed();
  }

  /**
   * Adopt the run that the peeked record announces, if that is a whole message; `words[runFrame]` and `words[runBytes]` are
   * the arguments of {@link releaseRun}.
   * @returns address of the data; 0: it is no such record, or the run cannot be adopted
   */
  adopt(offset: number, maxBytes: number): number {
    const { words } = this;
    const xlength = words[this.xlength] as number;
    if (words[this.type] !== this.#announcement || words[this.dlength] !== this.#request) return 0;
    const at = this.call.adoptAnnounced(this.index, offset + xlength) >>> 0;
    if (at === 0) return 0;
    const length = words[this.runBytes] as number;
    if (length + xlength <= maxBytes) return at;
    this.releaseRun(words[this.runFrame] as number, length);
    return 0;
  }

  /** Give back a run that was adopted, behind the last access to it. */
  releaseRun(frame: number, length: number): void {
    if (this.link.region?.attached) this.call.letGoRun(frame, length);
  }

  /**
   * To be called behind a copy out of the region.
   * @throws ERR_ISTHMUS_REGION_LOST: the region has lost its pages, and what was copied may be zeros
   */
  check(): void {
    if (this.words[this.#lost] !== 0) throw this.core.lostError();
  }

  /** Release the record that was peeked, behind the copy of its bytes. @throws as {@link check} */
  release(): void {
    this.check();
    this.call.release(this.index);
    if (!this.polled) this.link.released();
  }
}
