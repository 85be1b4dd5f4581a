/** The receiving half of a connection, as the application calls it: receive, borrow, posted receives, probes. */
import type { Connection } from '../api/connection.js';
import type { Match } from '../api/envelope.js';
import { abortable } from '../base/abortable.js';
import { BorrowedMessage, Message } from '../base/message.js';
import { NOTHING } from '../core/core.js';
import type { BorrowedRecords } from '../link/borrowed-records.js';
import type { BoundLink } from '../link/bound-link.js';
import type { LinkBinding } from '../link/link-binding.js';
import type { ProtocolRouter } from '../link/protocol-router.js';
import { ReceiveMode } from '../link/receive-mode.js';
import type { Matching } from '../matching/matching.js';
import type { PendingReceive } from '../matching/pending-receive.js';
import { PendingReceives, ReceiveCall } from '../matching/pending-receives.js';
import { type Unread, UnreadQueue } from '../matching/unread-queue.js';
import { asError, MAX_RECORDS, type ReceiveLimits, RingReader } from './ring-reader.js';

/** Rounds inside the core before a call of `receive` waits, if the last ones did not spin in vain: some 5 µs. */
const RECEIVE_ROUNDS = 2000;
/** Behind a wait longer than this the next message is not worth spinning for. */
const MAX_SHORT_WAIT_MS = 0.1;

export class Receiver {
  /**
   * The application has seen the end of what the peer sends. Set by the connection.
   * @throws what ended the connection, if that was an error
   */
  onEndOfInput: () => undefined = () => undefined;
  readonly unread = new UnreadQueue();
  readonly mode = new ReceiveMode();
  readonly pending: PendingReceives;
  readonly ring: RingReader;
  readonly #binding: LinkBinding;
  /** Rounds that the next call of `receive` may spin: fewer after each that was in vain. */
  #rounds = 0;

  /** @param connection handed to match functions and receives */
  constructor(
    connection: Connection,
    binding: LinkBinding,
    matching: Matching,
    router: ProtocolRouter,
    limits: ReceiveLimits,
  ) {
    this.#binding = binding;
    this.pending = new PendingReceives(connection, matching, this.unread);
    this.ring = new RingReader(binding, router, this.pending, this.unread, limits);
    this.unread.onEmptied = () => binding.wake();
    this.unread.onFetchFailed = (error) => {
      // The sender of a message that was discarded may deny the rest of it.
      if (!this.ring.discards) binding.onViolation(asError(error));
    };
  }

  attach(link: BoundLink): void {
    this.ring.attach(link);
    this.mode.attach(link);
  }

  /** @returns what is still borrowed from the ring */
  detach(): BorrowedRecords | undefined {
    this.mode.detach();
    return this.ring.detach();
  }

  // ─── receive and borrow ────────────────────────────────────────────────────────────────────────────────────────────

  async receive(signal: AbortSignal | undefined): Promise<Message | undefined> {
    if (this.mode.copies !== true) this.mode.noteOther(true);
    const next = this.#next();
    if (next) {
      const due = this.#binding.due(1);
      if (due) await due;
      return next;
    }
    const { ring } = this;
    const unread = this.unread.shift() ?? (this.pending.awaited ? undefined : ring.pull(ring.fragmentRounds));
    if (unread) {
      // First of all the bytes: while the event loop turns, the region may go.
      const message = unread instanceof Message ? unread : await this.unread.fetch(unread);
      const due = this.#binding.due(1 + MAX_RECORDS - ring.left);
      if (due) await due;
      return message;
    }
    if (ring.ended) return this.onEndOfInput();
    if (!this.#binding.spins) return this.#wait(false, signal) as Promise<Message | undefined>;
    const before = performance.now();
    const message = await this.#wait(false, signal);
    if (performance.now() - before < MAX_SHORT_WAIT_MS) this.#rounds = RECEIVE_ROUNDS;
    return message as Message | undefined;
  }

  /**
   * The common case: nothing is unread, no other receive is pending, and the next message lies in the ring in one piece.
   * Where answers came at once it spins for some microseconds, so that they need no promise to wait for.
   */
  #next(): Message | undefined {
    const { ring } = this;
    const { link } = ring;
    if (!link?.polled || ring.ended || ring.discards || ring.lent || ring.partial) return;
    if (this.unread.length > 0 || this.pending.awaited) return;
    let offset = link.call.peek(link.index);
    if (offset === NOTHING && this.#rounds > 0 && this.#binding.spins) {
      offset = link.call.peekSpin(link.index, this.#rounds);
      if (offset === NOTHING) this.#rounds >>= 1;
      else this.#rounds = RECEIVE_ROUNDS;
    }
    const { words } = link;
    if (offset <= 0 || words[link.flags] !== link.whole || words[link.type] !== 0) return;
    const xlength = words[link.xlength] as number;
    const dlength = words[link.dlength] as number;
    if (xlength + dlength > ring.limits.maxMessageSize) return;
    return ring.copied(link, offset, xlength, dlength);
  }

  async borrow(signal: AbortSignal | undefined): Promise<BorrowedMessage | undefined> {
    if (this.mode.copies !== false) this.mode.noteOther(false);
    if (this.unread.length === 0 && !this.pending.awaited) {
      const message = this.#borrowNext();
      if (message) return message;
    }
    const unread = this.unread.shift() ?? (this.pending.awaited ? undefined : this.ring.pull(0));
    if (unread) {
      if (unread instanceof Message) return new BorrowedMessage(unread.data, unread.xheader, undefined);
      const lent = this.pending.lend(unread);
      if (lent) return lent;
      const { data, xheader } = await this.unread.fetch(unread);
      return new BorrowedMessage(data, xheader, undefined);
    }
    if (this.ring.ended) return this.onEndOfInput();
    return this.#wait(true, signal) as Promise<BorrowedMessage | undefined>;
  }

  #borrowNext(): BorrowedMessage | undefined {
    const { link, partial, lent, borrowed } = this.ring;
    // Over a stream the ring is this side's alone, and small: a borrowed record would hold up everything behind it.
    if (!link?.polled || partial !== undefined || lent) return undefined;
    const offset = link.call.peek(link.index);
    const { words } = link;
    if (offset <= 0 || words[link.flags] !== link.whole || words[link.type] !== 0) return undefined;
    return borrowed?.lend(offset, words[link.xlength] as number, words[link.dlength] as number);
  }

  #wait(borrows: boolean, signal: AbortSignal | undefined): Promise<Message | BorrowedMessage | undefined> {
    return abortable(signal, (resolve, reject) => {
      const call = new ReceiveCall(borrows, resolve, reject);
      this.post(call);
      this.#binding.wake();
      return () => this.withdraw(call);
    });
  }

  // ─── posted receives and probes ────────────────────────────────────────────────────────────────────────────────────

  /** Give a receive the first unread message that it takes. @returns false: there is none */
  offer(receive: PendingReceive): boolean {
    const found = this.find(receive.match);
    if (!found) return false;
    this.unread.remove(found);
    this.pending.deliver(receive, found);
    return true;
  }

  /** The first unread message that a match function takes. @throws what the function throws */
  find(match: Match | undefined): Unread | undefined {
    if (!match) return this.unread.peek();
    for (const unread of this.unread) if (match(this.pending.envelope(unread))) return unread;
    return undefined;
  }

  /** Wait for a message of this connection. */
  post(receive: PendingReceive): void {
    this.pending.add(receive);
  }

  /** @returns whether it was still pending */
  withdraw(receive: PendingReceive): boolean {
    return this.pending.remove(receive);
  }

  // ─── ending ────────────────────────────────────────────────────────────────────────────────────────────────────────

  /** The application has closed the connection: drop what has come and what comes. */
  discard(): void {
    this.unread.drop();
    this.pending.end();
    const { partial } = this.ring;
    if (partial && !partial.receive) partial.room = 0;
  }

  /** The last message has come: end the receives that wait for another. */
  dismiss(): void {
    this.pending.dismiss(this.onEndOfInput);
  }

  /** Empty the ring; a message that has begun comes again from its beginning. (suspend.pml: PARTIAL_KEPT) */
  drainAndForget(): void {
    const { ring } = this;
    ring.drain();
    const receive = ring.partial?.receive;
    ring.partial = undefined;
    if (receive) this.pending.putBack(receive);
  }

  /** The connection is over. */
  cut(error: unknown): void {
    const { ring } = this;
    ring.ended = true;
    const receive = ring.partial?.receive;
    ring.partial = undefined;
    receive?.reject(error);
    this.unread.evacuate();
  }
}
