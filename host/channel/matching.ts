/**
 * Which receive gets which message, by the rule of MPI: of the receives that take a message, the one that was posted
 * first gets it; and of the messages that a receive takes, it gets the first.
 *
 * A receive for one connection waits at that connection, one for any source here, at the endpoint. Both carry a number
 * from one sequence, so that the order between them is known. What waits unread at a connection has been offered to all
 * of them: it matches none.
 */

import type { Connection } from '../api/connection.js';
import type { Envelope, Match } from '../api/envelope.js';
import type { BorrowedMessage, Message } from '../base/message.js';

/** A message of which only the announcement has come: its data waits at the sender (rendezvous). */
export interface Announced {
  readonly xheader: Uint8Array;
  /** Length of the data in bytes. */
  readonly length: number;
  /** Whether its data can be had without the sender. */
  readonly here: boolean;
  /**
   * Get the data and tell the sender that it is done. Once.
   * @param target receives as much as it has room for; undefined: memory of its own
   * @returns `target` as far as it was filled, or that memory; at once where the data lies in a region of ours
   */
  fetch(target: Uint8Array | undefined): Uint8Array | Promise<Uint8Array>;
  /** The data where it lies, instead of {@link fetch}. @returns undefined: it lies in no region of ours */
  lend(): Lent | undefined;
  /** Nobody will ever want it. */
  drop(): void;
}

/** Bytes of a region that stay as they are, as far as it is up to us, until they are given back. */
export interface Lent {
  readonly memory: Uint8Array;
  readonly offset: number;
  /** Once. */
  release(): void;
}

let last = 0;

/** Somebody who waits for a message. */
export abstract class Receiver {
  /** Its place among all receivers of this process. */
  readonly order = ++last;
  /** What it takes; undefined: everything. */
  readonly match: Match | undefined;
  /** Wants the message where it lies. */
  readonly borrows: boolean = false;
  /** Where the data is to go; undefined: memory of its own. */
  readonly target: Uint8Array | undefined;
  /** Bytes of data that are kept at most. */
  readonly maxLength: number = Number.POSITIVE_INFINITY;

  constructor(match?: Match, target?: Uint8Array) {
    this.match = match;
    this.target = target;
  }

  /** Whether the data of a message in fragments is put where it belongs as it comes. */
  get inPlace(): boolean {
    return this.target !== undefined || this.maxLength !== Number.POSITIVE_INFINITY;
  }

  /** A message is being put into its target: from here on it cannot be taken back. */
  begin(): void {}

  /**
   * Here it is.
   * @param message its data is in `target`, if there is one; cut to `maxLength`
   * @param length of the data as it was sent
   */
  abstract complete(connection: Connection, message: Message, length: number): void;
  /** As {@link complete}, for one that borrows. */
  lend(_connection: Connection, _message: BorrowedMessage): void {}
  abstract reject(error: unknown): void;
}

/** Somebody who wants to know of a message and leaves it where it is. */
export interface Prober {
  /** Undefined: any of the endpoint. */
  readonly connection: Connection | undefined;
  readonly match: Match | undefined;
  found(envelope: Envelope): void;
  reject(error: unknown): void;
}

/** The receives of one endpoint that are for any source, and those who probe. */
export class Matching {
  readonly #any: Receiver[] = [];
  readonly #probers: Prober[] = [];

  /** Whether somebody waits for a message of any connection. */
  get waiting(): boolean {
    return this.#any.length > 0;
  }

  /** Whether somebody wants to see further messages of this connection. */
  probes(connection: Connection): boolean {
    return this.#probers.some((prober) => prober.connection === undefined || prober.connection === connection);
  }

  add(receiver: Receiver): void {
    this.#any.push(receiver);
  }

  /** @returns whether it still waited */
  remove(receiver: Receiver): boolean {
    return removeFrom(this.#any, receiver);
  }

  /**
   * The first receiver that takes a message.
   * @param own those that wait at the connection
   * @param xheader makes a copy; called only when somebody wants to look
   */
  find(own: Receiver[], connection: Connection, xheader: () => Uint8Array, length: number): Receiver | undefined {
    const any = this.#any;
    let envelope: Envelope | undefined;
    for (let i = 0, j = 0; i < own.length || j < any.length; ) {
      const mine = own[i];
      const anybody = any[j];
      const isMine = mine !== undefined && (anybody === undefined || mine.order < anybody.order);
      const receiver = (isMine ? mine : anybody) as Receiver;
      if (!receiver.match) return receiver;
      envelope ??= { connection, xheader: xheader(), length };
      try {
        if (receiver.match(envelope) === true) return receiver;
      } catch (error) {
        if (this.leave(own, receiver)) receiver.reject(error);
      }
      // One whose function threw is not there any more.
      if (isMine) i += Number(own[i] === receiver);
      else j += Number(any[j] === receiver);
    }
    return undefined;
  }

  /** It waits no longer. @returns whether it did */
  leave(own: Receiver[], receiver: Receiver): boolean {
    return removeFrom(own, receiver) || removeFrom(this.#any, receiver);
  }

  /** {@link find}; it waits no longer. */
  take(own: Receiver[], connection: Connection, xheader: () => Uint8Array, length: number): Receiver | undefined {
    const receiver = this.find(own, connection, xheader, length);
    if (receiver) this.leave(own, receiver);
    return receiver;
  }

  addProber(prober: Prober): void {
    this.#probers.push(prober);
  }

  /** @returns whether it still waited */
  removeProber(prober: Prober): boolean {
    return removeFrom(this.#probers, prober);
  }

  /** A message is there that nobody takes: tell those who asked. */
  announce(envelope: Envelope): void {
    for (const prober of [...this.#probers]) {
      if (prober.connection !== undefined && prober.connection !== envelope.connection) continue;
      try {
        if (prober.match && prober.match(envelope) !== true) continue;
      } catch (error) {
        if (removeFrom(this.#probers, prober)) prober.reject(error);
        continue;
      }
      if (removeFrom(this.#probers, prober)) prober.found(envelope);
    }
  }

  /** A connection has ended: nothing more comes from it. */
  endProbes(connection: Connection, error: unknown): void {
    for (const prober of this.#probers.filter((one) => one.connection === connection)) {
      if (removeFrom(this.#probers, prober)) prober.reject(error);
    }
  }

  /** The endpoint is closed. */
  rejectAll(error: unknown): void {
    for (const receiver of this.#any.splice(0)) receiver.reject(error);
    for (const prober of this.#probers.splice(0)) prober.reject(error);
  }
}

/** @returns whether it was there */
export function removeFrom<T>(list: T[], item: T): boolean {
  const place = list.indexOf(item);
  if (place >= 0) list.splice(place, 1);
  return place >= 0;
}
