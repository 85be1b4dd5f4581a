import { now } from '../clock.js';

/** A block has at most MAX_MESSAGES and at most MAX_BYTES, but at least MIN_MESSAGES. */
const MAX_MESSAGES = 1024;
const MAX_BYTES = 1 << 18;
const MIN_MESSAGES = 8;

/** Number of messages in a block. */
export function blockOf(size: number): number {
  return Math.max(MIN_MESSAGES, Math.min(MAX_MESSAGES, Math.floor(MAX_BYTES / size)));
}

/**
 * The time per message of a stream, block by block. The median of the blocks shows the throughput while both ends have
 * their processors; a mean would show how often the system gave them to other processes.
 */
export class Pace {
  readonly #size: number;
  readonly #block: number;
  #since = 0;
  #counted = 0;
  /** Nanoseconds per message, for each block. */
  readonly blocks: number[] = [];

  constructor(size: number) {
    this.#size = size;
    this.#block = blockOf(size);
  }

  /** Count `messages` more. The first call starts the clock. */
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
