import { now } from '../clock.js';

/** Messages of a block, as long as it is no more than so many bytes, but so many at least. */
const MOST = 1024;
const BYTES = 1 << 18;
const LEAST = 8;

/** Messages of a block. */
export function blockOf(size: number): number {
  return Math.max(LEAST, Math.min(MOST, Math.floor(BYTES / size)));
}

/**
 * How long messages of a stream take, block by block: the median of blocks says what goes through while both ends have
 * their processors; a mean would say how often the system gave them to somebody else.
 */
export class Pace {
  readonly #size: number;
  readonly #block: number;
  #since = 0;
  #counted = 0;
  /** Nanoseconds of a message, for each block. */
  readonly blocks: number[] = [];

  constructor(size: number) {
    this.#size = size;
    this.#block = blockOf(size);
  }

  /** So many messages more have gone by. The first call starts the clock. */
  count(messages: number): void {
    this.#counted += messages;
    if (this.#counted < this.#block && this.#since !== 0) return;
    const at = now();
    if (this.#since !== 0) this.blocks.push((at - this.#since) / this.#counted);
    this.#since = at;
    this.#counted = 0;
  }

  countBytes(bytes: number): void {
    this.count(bytes / this.#size);
  }
}
