/** What a connection hands to an application. */
import { IsthmusError } from './errors.js';

const NO_BYTES = new Uint8Array(0);

/** A message in memory of its own: it stays as it is whatever the peer or the connection does. */
export class Message {
  readonly data: Uint8Array;
  /** The user's header beside the data, at most 65,535 bytes; empty if there was none. */
  readonly xheader: Uint8Array;

  constructor(data: Uint8Array, xheader: Uint8Array = NO_BYTES) {
    this.data = data;
    this.xheader = xheader;
  }

  /** The data as UTF-8. */
  text(): string {
    return new TextDecoder().decode(this.data);
  }
}

/**
 * A message whose bytes may still lie in the shared region.
 *
 * The peer can change them at any moment, and V8 may read a byte twice: take copies (`slice`, `set`) and hand those to
 * `TextDecoder`, `Buffer.toString`, `JSON`, hashes and streams, never the view itself. The room in the ring is the
 * sender's again only when this and all earlier borrowed messages are released.
 */
export class BorrowedMessage implements Disposable {
  #data: Uint8Array | undefined;
  #xheader: Uint8Array;
  #release: (() => void) | undefined;
  /** Whether the bytes lie in the region; a message that came in fragments has been put together in a copy. */
  readonly inPlace: boolean;

  /** Made by `connection.borrow()`. */
  constructor(data: Uint8Array, xheader: Uint8Array, release: (() => void) | undefined) {
    this.#data = data;
    this.#xheader = xheader;
    this.#release = release;
    this.inPlace = release !== undefined;
  }

  /** @throws ERR_ISTHMUS_RELEASED */
  get data(): Uint8Array {
    if (!this.#data) throw new IsthmusError('ERR_ISTHMUS_RELEASED', 'this message was released');
    return this.#data;
  }

  /** @throws ERR_ISTHMUS_RELEASED */
  get xheader(): Uint8Array {
    if (!this.#data) throw new IsthmusError('ERR_ISTHMUS_RELEASED', 'this message was released');
    return this.#xheader;
  }

  /** Give the room back. Idempotent. */
  release(): void {
    if (!this.#data) return;
    this.#data = undefined;
    this.#xheader = NO_BYTES;
    this.#release?.();
    this.#release = undefined;
  }

  [Symbol.dispose](): void {
    this.release();
  }
}

export { NO_BYTES };
