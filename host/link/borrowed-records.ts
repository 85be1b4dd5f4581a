/** Records that an application has borrowed from a ring: their room is given back in the order of the ring. */
import { BorrowedMessage } from '../base/message.js';
import type { Core } from '../core/core.js';
import type { BoundLink } from './bound-link.js';

/** A part of a core's memory. */
export interface Extent {
  readonly offset: number;
  readonly length: number;
}

export class BorrowedRecords {
  readonly #link: BoundLink;
  /** In the order of the ring: the position at which each record begins, and whether it is still borrowed. */
  readonly #records: { readonly from: number; borrowed: boolean }[] = [];
  /** The memory under the ring is gone. */
  #abandoned = false;
  /** Called when the last record comes back behind {@link detach}. */
  #onReturned: (() => void) | undefined;

  constructor(link: BoundLink) {
    this.#link = link;
  }

  /** Step over the record that was peeked, and keep its bytes. */
  lend(offset: number, xlength: number, dlength: number): BorrowedMessage {
    const { call, index, bytes } = this.#link;
    const record = { from: call.position(index), borrowed: true };
    call.hold(index);
    call.release(index);
    this.#records.push(record);
    const data = offset + xlength;
    return new BorrowedMessage(bytes.subarray(data, data + dlength), bytes.subarray(offset, data), () =>
      this.#giveBack(record),
    );
  }

  #giveBack(record: { borrowed: boolean }): void {
    record.borrowed = false;
    const records = this.#records;
    const { call, index, polled, link } = this.#link;
    while (records.length > 0 && !records[0]?.borrowed) {
      records.shift();
      if (!this.#abandoned) call.publish(index, records[0]?.from ?? call.position(index));
    }
    if (this.#onReturned) {
      if (records.length === 0) this.#onReturned();
    } else if (!polled && !this.#abandoned) {
      link.released();
    }
  }

  /** The connection has let go of the link: `onReturned` is called as soon as no record is borrowed any more. */
  detach(onReturned: () => void): void {
    if (this.#records.length === 0) onReturned();
    else this.#onReturned = onReturned;
  }

  /**
   * The memory under the ring goes away while records are borrowed.
   * @returns the part of it that must keep its bytes, if there is one
   */
  abandon(memory: Core): Extent | undefined {
    const { call, index, core } = this.#link;
    if (core !== memory || this.#abandoned || this.#records.length === 0) return undefined;
    this.#abandoned = true;
    return { offset: call.ringAddress(index), length: core.layout.FRAME + call.ringCapacity(index) };
  }
}
