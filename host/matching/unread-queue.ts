/** Messages that have come and that no receive has taken, oldest first. */

import { Message } from '../base/message.js';
import { AgedQueue } from './aged-queue.js';
import type { Announced } from './announced.js';

export type Unread = Message | Announced;

/** Bytes that an unread message counts beside its own: an empty one occupies memory too. */
const OVERHEAD_BYTES = 64;

function costOf(unread: Unread): number {
  return (unread instanceof Message ? unread.data.length : 0) + unread.xheader.length + OVERHEAD_BYTES;
}

export class UnreadQueue implements Iterable<Unread> {
  /** The last message was taken: there may be more in the ring than the limit allowed. Set by the receiver. */
  onEmptied: () => void = () => {};
  /** The data of an announced message could not be fetched. Set by the receiver. */
  onFetchFailed: (error: unknown) => void = () => {};
  readonly #queue = new AgedQueue<Unread>();
  /** Of announced messages whose data is on its way. */
  readonly #fetches = new Map<Announced, Promise<Message>>();
  /** What the messages occupy, in bytes. */
  bytes = 0;

  get length(): number {
    return this.#queue.length;
  }

  /** Of the oldest message, in milliseconds. */
  get ageMs(): number {
    return Math.round(this.#queue.age());
  }

  /** Time may have passed since the last message came. */
  tick(): void {
    this.#queue.tick();
  }

  [Symbol.iterator](): Iterator<Unread> {
    return this.#queue[Symbol.iterator]();
  }

  peek(): Unread | undefined {
    return this.#queue.peek();
  }

  push(unread: Unread): void {
    this.#queue.push(unread);
    this.bytes += costOf(unread);
  }

  shift(): Unread | undefined {
    const unread = this.#queue.shift();
    if (unread) this.#took(unread);
    return unread;
  }

  /** Take one out of the middle. @returns whether it was there */
  remove(unread: Unread): boolean {
    if (!this.#queue.remove(unread)) return false;
    this.#took(unread);
    return true;
  }

  #took(unread: Unread): void {
    this.bytes -= costOf(unread);
    if (this.#queue.length === 0) this.onEmptied();
  }

  /** The oldest message with its data; undefined: there is none, or its data is on its way. */
  head(): Message | undefined {
    const head = this.#queue.peek();
    if (head === undefined || head instanceof Message) return head;
    if (this.#fetches.has(head)) return undefined;
    const replace = (message: Message) => {
      if (this.#queue.peek() !== head) return;
      this.#queue.replace(message);
      this.bytes += costOf(message) - costOf(head);
    };
    const data = head.fetch(undefined);
    if (data instanceof Uint8Array) {
      const message = new Message(data, head.xheader);
      replace(message);
      return message;
    }
    const fetch = data.then((bytes) => new Message(bytes, head.xheader));
    this.#fetches.set(head, fetch);
    const failed = (error: unknown) => {
      // The data will not come: receives get what ended the connection in its place.
      this.remove(head);
      this.onFetchFailed(error);
    };
    fetch.then(replace, failed).finally(() => this.#fetches.delete(head));
    return undefined;
  }

  /** The data of an announced message that has been taken out of the queue. */
  async fetch(announced: Announced): Promise<Message> {
    return this.#fetches.get(announced) ?? new Message(await announced.fetch(undefined), announced.xheader);
  }

  /** Whether a part of the data may be on its way already. */
  isFetching(announced: Announced): boolean {
    return this.#fetches.has(announced);
  }

  /** Discard all messages. */
  drop(): void {
    for (const unread of this.#queue) if (!(unread instanceof Message)) unread.drop();
    this.#queue.clear();
    this.bytes = 0;
  }

  /**
   * The region of the link goes away: copy the data that lies in it. If the region has lost its pages, the first message
   * of which the data was there is dropped, and so are all behind it: they come in order or not at all.
   */
  evacuate(): void {
    const unread = [...this.#queue];
    if (!unread.some((one) => !(one instanceof Message) && one.here)) return;
    this.#queue.clear();
    this.bytes = 0;
    for (const one of unread) {
      let data: Uint8Array | Promise<Uint8Array> | undefined;
      try {
        data = one instanceof Message || !one.here ? undefined : one.fetch(undefined);
      } catch {
        return;
      }
      this.push(data instanceof Uint8Array ? new Message(data, one.xheader) : one);
    }
  }
}
