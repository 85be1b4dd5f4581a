/** A link under a connection, with what both halves of the connection look up in it for every message. */
import { type Core, type CoreExports, NOTHING } from '../core/core.js';
import type { Link } from '../plugins/plugin.js';

export class Carrier {
  readonly link: Link;
  readonly core: Core;
  readonly index: number;
  readonly polled: boolean;
  readonly call: CoreExports;
  readonly bytes: Uint8Array;
  readonly words: Uint32Array;
  // Places in `words` of what peek and claim tell.
  readonly type: number;
  readonly xlength: number;
  readonly dlength: number;
  readonly length: number;
  readonly flags: number;
  readonly runFrame: number;
  readonly runBytes: number;
  /** Flags of a message in one record. */
  readonly whole: number;
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
    this.#announcement = layout.MESSAGE_RENDEZVOUS_REQ;
    this.#request = layout.REQUEST_SIZE;
    this.#asleep = layout.COMMIT_ASLEEP;
    this.whole = layout.FLAG_FIRST | layout.FLAG_LAST;
  }

  /** Whether the link took the transmit ring away because the other side is gone: `onEnded` is on its way. */
  get cutOff(): boolean {
    return this.failure === this.core.layout.FAILURE_LOST;
  }

  /** Why the core says that the connection is broken: one of FAILURE_…. */
  get failure(): number {
    const { C_FAILURE } = this.core.layout;
    return this.words[(this.call.entry(this.index) + C_FAILURE) >> 2] as number;
  }

  /** Whether the peer waits, at this moment, for what it will copy out. */
  get awaited(): boolean {
    return this.polled && this.call.receiverWaits(this.index) === 1;
  }

  /** Bytes of the ring that we write to. */
  get capacity(): number {
    return (this.words[(this.call.entry(this.index) + this.core.layout.TX_MASK) >> 2] as number) + 1;
  }

  /** Publish what was claimed. */
  commit(): void {
    if (this.call.commit(this.index) === this.#asleep) this.link.ring?.();
  }

  /** The end of our direction. @returns false: there is no room for it */
  sendEof(): boolean {
    const told = this.call.sendEof(this.index);
    if (told === NOTHING) return false;
    if (told === this.#asleep + 1) this.link.ring?.();
    return true;
  }

  /** A record was committed. */
  committed(): void {
    if (!this.polled) this.link.committed();
  }

  /**
   * Take over the run that the peeked record announces, a whole message; `runFrame` and `runBytes` say what {@link letGo}
   * wants.
   * @returns where the data lies; 0: it is no such record, or it does not go this way
   */
  adopt(offset: number, mostBytes: number): number {
    const { words } = this;
    const xlength = words[this.xlength] as number;
    if (words[this.type] !== this.#announcement || words[this.dlength] !== this.#request) return 0;
    const at = this.call.adoptAnnounced(this.index, offset + xlength) >>> 0;
    if (at === 0) return 0;
    const length = words[this.runBytes] as number;
    if (length + xlength <= mostBytes) return at;
    this.letGo(words[this.runFrame] as number, length);
    return 0;
  }

  /** Our last access to a run that was taken over. */
  letGo(frame: number, length: number): void {
    if (this.link.region?.attached) this.call.letGoRun(frame, length);
  }

  /** Step over the record that was peeked. */
  release(): void {
    this.call.release(this.index);
    if (!this.polled) this.link.released();
  }
}

/** Up to so many bytes a loop is faster than `TypedArray.set`, which costs some 20 ns before the first byte. */
const IN_BY_HAND = 12;
/** Out of the memory it takes a view, which costs 50 ns more and is garbage: a loop of bytes, then one of words. */
const OUT_BY_HAND = 12;
const OUT_BY_WORDS = 128;

export function copyIn(memory: Uint8Array, bytes: Uint8Array, offset: number): void {
  const length = bytes.length;
  if (length > IN_BY_HAND) memory.set(bytes, offset);
  else for (let i = 0; i < length; i++) memory[offset + i] = bytes[i] as number;
}

/** More bytes than this are not filled with zeros before they are copied: that is half of their time at 64 KiB. */
const FILLED = 2048;

/** A copy that is its owner's alone. */
export function copyOf(memory: Uint8Array, offset: number, length: number): Uint8Array {
  if (length <= OUT_BY_HAND) {
    // `slice` looks up what kind of array to make, which takes as long as all the rest.
    const small = new Uint8Array(length);
    for (let i = 0; i < length; i++) small[i] = memory[offset + i] as number;
    return small;
  }
  if (length <= FILLED) return memory.slice(offset, offset + length);
  const copy = new Uint8Array(Buffer.allocUnsafeSlow(length).buffer);
  copy.set(memory.subarray(offset, offset + length));
  return copy;
}

export function copyOut(memory: Uint8Array, offset: number, length: number, target: Uint8Array): void {
  if (length > OUT_BY_HAND) target.set(memory.subarray(offset, offset + length));
  else for (let i = 0; i < length; i++) target[i] = memory[offset + i] as number;
}

/** Copies to the beginning of a target that is likely to be the same each time; up to some hundred bytes it makes no garbage. */
export class CopyOut {
  #target: Uint8Array | undefined;
  /** The beginning of the target, once it has come twice and if it is aligned. */
  #words: Uint32Array | undefined;

  copy({ bytes, words }: Pick<Carrier, 'bytes' | 'words'>, offset: number, length: number, target: Uint8Array): void {
    if (length > OUT_BY_HAND && length <= OUT_BY_WORDS && (offset & 3) === 0) {
      const to = this.#wordsOf(target);
      if (to) {
        const from = offset >> 2;
        const whole = length >> 2;
        for (let i = 0; i < whole; i++) to[i] = words[from + i] as number;
        for (let i = whole << 2; i < length; i++) target[i] = bytes[offset + i] as number;
        return;
      }
    }
    copyOut(bytes, offset, length, target);
  }

  #wordsOf(target: Uint8Array): Uint32Array | undefined {
    if (target !== this.#target) {
      this.#target = target;
      this.#words = undefined;
    } else if (this.#words === undefined && (target.byteOffset & 3) === 0) {
      const length = Math.min(target.length, OUT_BY_WORDS) >> 2;
      this.#words = new Uint32Array(target.buffer, target.byteOffset, length);
    }
    return this.#words;
  }

  /** Keep nothing of the application's. */
  forget(): void {
    this.#target = undefined;
    this.#words = undefined;
  }
}
