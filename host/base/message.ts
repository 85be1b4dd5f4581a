/** Messages, as a connection hands them to an application. */
import { IsthmusError } from './errors.js';

const NO_BYTES = new Uint8Array(0);

/** A message in memory of its own, which neither the peer nor the connection changes. */
export class Message {
  readonly data: Uint8Array;
  /** The application's header beside the data, at most 65,535 bytes; empty if there was none. */
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
 * The peer can change these bytes at any moment, and V8 may read a byte twice. So copy them (`slice`, `set`), and pass the
 * copy to `TextDecoder`, `Buffer.toString`, `JSON`, hashes and streams, never the view itself. If the region loses its pages
 * (ERR_ISTHMUS_REGION_LOST ends the connection), the bytes are zeros. The sender gets the room in
 * the ring back only when this and all earlier borrowed messages are released.
 */
export class BorrowedMessage implements Disposable {
  #data: Uint8Array | undefined;
  #xheader: Uint8Array;
  #release: (() => void) | undefined;
  /** Whether the bytes lie in the region. A message that came in fragments was reassembled in private memory. */
  readonly inPlace: boolean;

  /** Created by `connection.borrow()`. */
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

  /** Give the room in the ring back. Idempotent. */
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
