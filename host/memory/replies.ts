/** Answers to the peer that wait for room in the ring: their number and their bytes are bounded. */
import { IsthmusError } from '../base/errors.js';
import type { Sender } from '../channel/sender.js';

/** Largest piece of memory that one RMA_READ asks for, and how many are under way at once. */
export const PIECE_BYTES = 4 << 20;
export const MAX_PIECES = 8;
/** Bytes of answers that may wait; a peer that asks for more than it takes is cut off. */
const MAX_ANSWER_BYTES = PIECE_BYTES * MAX_PIECES * 2;
/** Answers that may wait, whatever their length: the same limit for a peer that reads nothing. */
const MAX_REPLIES = 65_536;

export function protocol(what: string): IsthmusError {
  return new IsthmusError('ERR_ISTHMUS_PEER_PROTOCOL', what);
}

export class Replies {
  readonly #sender: Sender;
  #count = 0;
  #bytes = 0;

  constructor(sender: Sender) {
    this.#sender = sender;
  }

  /** A request has come. @throws ERR_ISTHMUS_PEER_PROTOCOL: too many answers wait */
  check(): void {
    if (this.#count >= MAX_REPLIES) throw protocol('the peer asks for more than it takes');
  }

  send(type: number, xheader: Uint8Array, data: Uint8Array, sent?: () => void): void {
    this.#count++;
    this.#sender.control(type, xheader, data, () => {
      this.#count--;
      sent?.();
    });
  }

  /**
   * {@link send} a copy of data that may be withdrawn.
   * @param intact asked behind the copy
   * @returns false: nothing was sent, because the copy was not `intact`
   * @throws ERR_ISTHMUS_PEER_PROTOCOL: too many bytes wait
   */
  sendCopy(type: number, xheader: Uint8Array, data: Uint8Array, intact: () => boolean): boolean {
    const { length } = data;
    if (this.#bytes + length > MAX_ANSWER_BYTES) throw protocol('the peer asks for more than it takes');
    const copy = new Uint8Array(data);
    if (!intact()) return false;
    this.#bytes += length;
    this.send(type, xheader, copy, () => {
      this.#bytes -= length;
    });
    return true;
  }
}
