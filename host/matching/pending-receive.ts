/** A receive that waits for a message. */
import type { Connection } from '../api/connection.js';
import type { Match } from '../api/envelope.js';
import type { BorrowedMessage, Message } from '../base/message.js';

let last = 0;

/** Base of each kind: a call of `receive` or `borrow`, a posted receive. */
export abstract class PendingReceive {
  /** Its place among all receives of this process. */
  readonly order = ++last;
  /** Which messages it takes; undefined: all. */
  readonly match: Match | undefined;
  /** Takes the message where it lies, instead of a copy. */
  readonly borrows: boolean = false;
  /** Receives the data; undefined: memory of its own. */
  readonly target: Uint8Array | undefined;
  /** Bytes of data that are kept at most. */
  readonly maxLength: number = Number.POSITIVE_INFINITY;

  readonly #targetLength: number;

  constructor(match?: Match, target?: Uint8Array) {
    this.match = match;
    this.target = target;
    this.#targetLength = target?.length ?? 0;
  }

  /** Whether the memory of the target is gone: the application has transferred it away, or has resized its buffer. */
  get gone(): boolean {
    return this.target !== undefined && this.target.length !== this.#targetLength;
  }

  /** Whether the fragments of a message go to their place as they come. */
  get inPlace(): boolean {
    return this.target !== undefined || this.maxLength !== Number.POSITIVE_INFINITY;
  }

  /** A message goes into its target: from here on the receive cannot be cancelled. */
  begin(): void {}

  /**
   * The message has come.
   * @param message its data is in `target`, if there is one; cut to `maxLength`
   * @param length of the data as it was sent
   */
  abstract complete(connection: Connection, message: Message, length: number): void;
  /** {@link complete} for a receive that borrows. */
  lend(_connection: Connection, _message: BorrowedMessage): void {}
  abstract reject(error: unknown): void;
}
