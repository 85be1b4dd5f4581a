/** The receives that are pending at one connection, and the delivery of messages to them. */
import type { Connection } from '../api/connection.js';
import type { Envelope } from '../api/envelope.js';
import { IsthmusError } from '../base/errors.js';
import { removeFrom } from '../base/lists.js';
import { BorrowedMessage, Message } from '../base/message.js';
import type { Announced } from './announced.js';
import type { Matching } from './matching.js';
import { PendingReceive } from './pending-receive.js';
import type { Unread, UnreadQueue } from './unread-queue.js';

/** A call of `receive` or `borrow` that waits. */
export class ReceiveCall extends PendingReceive {
  override readonly borrows: boolean;
  readonly #resolve: (message: Message | BorrowedMessage | undefined) => void;
  readonly #reject: (error: unknown) => void;

  constructor(
    borrows: boolean,
    resolve: (message: Message | BorrowedMessage | undefined) => void,
    reject: (error: unknown) => void,
  ) {
    super();
    this.borrows = borrows;
    this.#resolve = resolve;
    this.#reject = reject;
  }

  complete(_connection: Connection, message: Message): void {
    this.#resolve(this.borrows ? new BorrowedMessage(message.data, message.xheader, undefined) : message);
  }

  override lend(_connection: Connection, message: BorrowedMessage): void {
    this.#resolve(message);
  }

  end(): void {
    this.#resolve(undefined);
  }

  reject(error: unknown): void {
    this.#reject(error);
  }
}

export class PendingReceives {
  readonly connection: Connection;
  readonly #matching: Matching;
  readonly #unread: UnreadQueue;
  readonly #receives: PendingReceive[] = [];

  /** @param connection handed to match functions and receives */
  constructor(connection: Connection, matching: Matching, unread: UnreadQueue) {
    this.connection = connection;
    this.#matching = matching;
    this.#unread = unread;
  }

  /** Pending at this very connection. */
  get length(): number {
    return this.#receives.length;
  }

  /** Whether a receive is pending, here or for any source, that may take the next message. */
  get awaited(): boolean {
    return this.#receives.length > 0 || this.#matching.waiting;
  }

  /** Whether a probe waits for further messages. */
  get probed(): boolean {
    return this.#matching.probes(this.connection);
  }

  add(receive: PendingReceive): void {
    this.#receives.push(receive);
  }

  /** Add a receive in front of the others: it has been promised the next message. */
  putBack(receive: PendingReceive): void {
    this.#receives.unshift(receive);
  }

  /** @returns whether it was still pending */
  remove(receive: PendingReceive): boolean {
    return removeFrom(this.#receives, receive);
  }

  /** Take the first receive that takes a message. @param xheader makes a copy, called only for a match function */
  take(xheader: () => Uint8Array, length: number): PendingReceive | undefined {
    return this.#matching.take(this.#receives, this.connection, xheader, length);
  }

  /** {@link take} for a message in fragments, if the receive wants its data in place. */
  takeInPlace(xheader: Uint8Array, length: number): PendingReceive | undefined {
    const receive = this.#matching.find(this.#receives, this.connection, () => xheader, length);
    if (!receive?.inPlace) return undefined;
    this.#matching.leave(this.#receives, receive);
    receive.begin();
    return receive;
  }

  envelope(unread: Unread): Envelope {
    const length = unread instanceof Message ? unread.data.length : unread.length;
    return { connection: this.connection, xheader: unread.xheader, length };
  }

  /** A message has come that no receive takes: tell the probes. */
  announce(unread: Unread): void {
    this.#matching.announce(this.envelope(unread));
  }

  /** Give a message to a receive. */
  deliver(receive: PendingReceive, unread: Unread): void {
    const { connection } = this;
    const { xheader } = unread;
    if (unread instanceof Message) {
      const { data } = unread;
      receive.complete(connection, new Message(keep(receive, data), xheader), data.length);
      return;
    }
    const lent = receive.borrows ? this.lend(unread) : undefined;
    if (lent) {
      receive.lend(connection, lent);
      return;
    }
    const { length } = unread;
    receive.begin();
    const failed = (error: unknown) => receive.reject(error);
    if (this.#unread.isFetching(unread)) {
      // It is fetched once: its data is on its way to memory of its own.
      this.#unread.fetch(unread).then(({ data }) => {
        receive.complete(connection, new Message(keep(receive, data), xheader), length);
      }, failed);
      return;
    }
    const room = Math.min(receive.maxLength, receive.target?.length ?? length, length);
    const target = receive.target?.subarray(0, room) ?? (room < length ? new Uint8Array(room) : undefined);
    const done = (data: Uint8Array) => receive.complete(connection, new Message(data, xheader), length);
    try {
      const data = unread.fetch(target);
      if (data instanceof Uint8Array) done(data);
      else data.then(done, failed);
    } catch (error) {
      failed(error);
    }
  }

  /** An announced message where it lies; undefined: it lies in no region, or a part of it may be on its way. */
  lend(announced: Announced): BorrowedMessage | undefined {
    if (this.#unread.isFetching(announced)) return undefined;
    const lent = announced.lend();
    if (!lent) return undefined;
    const { memory, offset } = lent;
    const data = memory.subarray(offset, offset + announced.length);
    return new BorrowedMessage(data, announced.xheader, () => lent.release());
  }

  /** The application has closed the connection. */
  end(): void {
    for (const receive of this.#receives.splice(0)) end(receive, undefined);
  }

  /**
   * No further message will come.
   * @param onEndOfInput called for each receive that sees the end. @throws what ended the connection, if it was an error
   */
  dismiss(onEndOfInput: () => void): void {
    for (const receive of this.#receives.splice(0)) {
      let error: unknown;
      try {
        // While something is unread, the application has not seen the end.
        if (this.#unread.length === 0) onEndOfInput();
      } catch (thrown) {
        error = thrown;
      }
      end(receive, error);
    }
    const closed = new IsthmusError('ERR_ISTHMUS_CLOSED', 'no further message will come');
    this.#matching.endProbes(this.connection, closed);
  }
}

/** What a receive keeps of data that is in memory of its own. */
function keep({ target, maxLength }: PendingReceive, data: Uint8Array): Uint8Array {
  const kept = data.length > maxLength ? data.subarray(0, maxLength) : data;
  if (!target) return kept;
  const part = kept.length > target.length ? kept.subarray(0, target.length) : kept;
  target.set(part);
  return target.subarray(0, part.length);
}

/** No message will come for a receive. */
function end(receive: PendingReceive, error: unknown): void {
  if (error === undefined && receive instanceof ReceiveCall) receive.end();
  else receive.reject(error ?? new IsthmusError('ERR_ISTHMUS_CLOSED', 'the connection was closed'));
}
