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
import { goneTarget } from '../base/bytes.js';
import { removeFrom } from '../base/lists.js';
import type { PendingReceive } from './pending-receive.js';

/** A probe: it is told of a message, and leaves it where it is. */
export interface Prober {
  /** Undefined: any of the endpoint. */
  readonly connection: Connection | undefined;
  readonly match: Match | undefined;
  found(envelope: Envelope): void;
  reject(error: unknown): void;
}

/** The receives of one endpoint that are for any source, and its probes. */
export class Matching {
  readonly #any: PendingReceive[] = [];
  readonly #probers: Prober[] = [];

  /** Whether a receive for any source is pending. */
  get waiting(): boolean {
    return this.#any.length > 0;
  }

  /** Whether a probe waits for further messages of this connection. */
  probes(connection: Connection): boolean {
    return this.#probers.some((prober) => prober.connection === undefined || prober.connection === connection);
  }

  add(receive: PendingReceive): void {
    this.#any.push(receive);
  }

  /** @returns whether it was still pending */
  remove(receive: PendingReceive): boolean {
    return removeFrom(this.#any, receive);
  }

  /**
   * The first receive that takes a message.
   * @param own those that are pending at the connection
   * @param xheader makes a copy; called only when there is a match function to call
   */
  find(
    own: PendingReceive[],
    connection: Connection,
    xheader: () => Uint8Array,
    length: number,
  ): PendingReceive | undefined {
    const any = this.#any;
    let envelope: Envelope | undefined;
    for (let i = 0, j = 0; i < own.length || j < any.length; ) {
      const mine = own[i];
      const other = any[j];
      const isMine = mine !== undefined && (other === undefined || mine.order < other.order);
      const receive = (isMine ? mine : other) as PendingReceive;
      if (receive.gone) {
        if (this.leave(own, receive)) receive.reject(goneTarget());
        continue;
      }
      if (!receive.match) return receive;
      envelope ??= { connection, xheader: xheader(), length };
      try {
        if (receive.match(envelope) === true) return receive;
      } catch (error) {
        if (this.leave(own, receive)) receive.reject(error);
      }
      // A receive whose function threw is not in its list any more.
      if (isMine) i += Number(own[i] === receive);
      else j += Number(any[j] === receive);
    }
    return undefined;
  }

  /** The receive is not pending any more. @returns whether it was */
  leave(own: PendingReceive[], receive: PendingReceive): boolean {
    return removeFrom(own, receive) || removeFrom(this.#any, receive);
  }

  /** {@link find}, and take it out of its list. */
  take(
    own: PendingReceive[],
    connection: Connection,
    xheader: () => Uint8Array,
    length: number,
  ): PendingReceive | undefined {
    const receive = this.find(own, connection, xheader, length);
    if (receive) this.leave(own, receive);
    return receive;
  }

  addProber(prober: Prober): void {
    this.#probers.push(prober);
  }

  /** @returns whether it was still pending */
  removeProber(prober: Prober): boolean {
    return removeFrom(this.#probers, prober);
  }

  /** A message is there that no receive takes: tell the probes. */
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

  /** A connection has ended: no further message comes from it. */
  endProbes(connection: Connection, error: unknown): void {
    for (const prober of this.#probers.filter((one) => one.connection === connection)) {
      if (removeFrom(this.#probers, prober)) prober.reject(error);
    }
  }

  /** The endpoint is closed. */
  rejectAll(error: unknown): void {
    for (const receive of this.#any.splice(0)) receive.reject(error);
    for (const prober of this.#probers.splice(0)) prober.reject(error);
  }
}
