/** What has gone over a connection, over all its links. */
import type { LinkBinding } from '../link/link-binding.js';

export interface Counts {
  readonly messagesSent: number;
  readonly messagesReceived: number;
  readonly bytesSent: number;
  readonly bytesReceived: number;
  /** How often the ring was full. */
  readonly stalls: number;
}

const NO_COUNTS: Counts = { messagesSent: 0, messagesReceived: 0, bytesSent: 0, bytesReceived: 0, stalls: 0 };

export class Counters {
  readonly #binding: LinkBinding;
  /** Sums over the links before the present one. */
  #past = NO_COUNTS;

  constructor(binding: LinkBinding) {
    this.#binding = binding;
  }

  /** As the core counts: bytes that lay in runs are not among them. */
  get(): Counts {
    const { link } = this.#binding;
    if (!link) return this.#past;
    const { layout } = link.core;
    const count = (counter: number) => link.core.count(link.index, counter);
    return {
      messagesSent: this.#past.messagesSent + count(layout.COUNT_SENT),
      messagesReceived: this.#past.messagesReceived + count(layout.COUNT_RECEIVED),
      bytesSent: this.#past.bytesSent + count(layout.COUNT_SENT_BYTES),
      bytesReceived: this.#past.bytesReceived + count(layout.COUNT_RECEIVED_BYTES),
      stalls: this.#past.stalls + count(layout.COUNT_FULL),
    };
  }

  /** The link goes away, and its entry in the core with it. */
  keep(): void {
    this.#past = this.get();
  }

  /** {@link get}, with the bytes that lay in runs. */
  withOutOfBand(): Counts {
    const counts = this.get();
    const { sentOutOfBand, receivedOutOfBand } = this.#binding;
    return {
      ...counts,
      bytesSent: counts.bytesSent + sentOutOfBand,
      bytesReceived: counts.bytesReceived + receivedOutOfBand,
    };
  }
}
