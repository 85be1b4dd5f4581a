/** Messages that an application has borrowed from a ring: their room is given back in the order of the ring. */

import { BorrowedMessage } from '../base/message.js';
import type { Core } from '../core/core.js';
import type { Carrier } from './bound-link.js';

export class Borrowing {
  readonly #carrier: Carrier;
  /** In the order of the ring: where each record begins, and whether it is still out. */
  readonly #records: { readonly from: number; out: boolean }[] = [];
  #gone = false;
  /** Called when the last one comes back behind `leave`. */
  #left: (() => void) | undefined;

  constructor(carrier: Carrier) {
    this.#carrier = carrier;
  }

  /** Step over the record that was peeked, and keep its bytes. */
  lend(offset: number, xlength: number, dlength: number): BorrowedMessage {
    const { call, index, bytes } = this.#carrier;
    const record = { from: call.position(index), out: true };
    call.hold(index);
    call.release(index);
    this.#records.push(record);
    const data = offset + xlength;
    return new BorrowedMessage(bytes.subarray(data, data + dlength), bytes.subarray(offset, data), () =>
      this.#giveBack(record),
    );
  }

  #giveBack(record: { out: boolean }): void {
    record.out = false;
    const records = this.#records;
    const { call, index, polled, link } = this.#carrier;
    while (records.length > 0 && !records[0]?.out) {
      records.shift();
      if (!this.#gone) call.publish(index, records[0]?.from ?? call.position(index));
    }
    if (this.#gone) return;
    if (!this.#left) {
      if (!polled) link.released();
    } else if (records.length === 0) {
      this.#left();
    }
  }

  /** The connection has no use for the ring any more: call `left` as soon as nothing of it is borrowed. */
  leave(left: () => void): void {
    if (this.#records.length === 0) left();
    else this.#left = left;
  }

  /**
   * The memory under the ring is going away while messages are borrowed.
   * @returns the place in it that must keep its bytes, if there is one
   */
  abandon(memory: Core): { readonly offset: number; readonly length: number } | undefined {
    const { call, index, core } = this.#carrier;
    if (core !== memory || this.#gone || this.#records.length === 0) return undefined;
    this.#gone = true;
    return { offset: call.ringAddress(index), length: core.layout.FRAME + call.ringCapacity(index) };
  }
}
