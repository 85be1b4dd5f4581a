/** Records out of the ring: reassembled, and given to pending receives, to the queue of unread messages or to the router. */
import { IsthmusError } from '../base/errors.js';
import { Message, NO_BYTES } from '../base/message.js';
import { BROKEN, NOTHING } from '../core/core.js';
import { BorrowedRecords } from '../link/borrowed-records.js';
import type { BoundLink } from '../link/bound-link.js';
import { copyOf, copyOut } from '../link/copies.js';
import type { LinkBinding } from '../link/link-binding.js';
import type { ProtocolRouter } from '../link/protocol-router.js';
import type { PendingReceives } from '../matching/pending-receives.js';
import type { Unread, UnreadQueue } from '../matching/unread-queue.js';
import { PartialMessage } from './reassembly.js';

/** Limits of a connection. */
export interface ReceiveLimits {
  /** Bytes of unread messages beyond which nothing is read, unless a receive is pending. */
  readonly unread: number;
  /** Bytes of one message, xheader and data. */
  readonly maxMessageSize: number;
}

/** A part of the runtime for which messages come over a connection that are not the application's. */
export interface ReadDemand {
  /** Whether it waits for an answer: reading goes on then, whatever is unread. */
  readonly expects: boolean;
  /** Bytes that were read and wait there for the application; they count as unread. */
  readonly heldBytes: number;
}

/** Rounds inside the core that wait for a further fragment of a message: some 50 µs. */
export const FRAGMENT_ROUNDS = 20_000;
/** The least of those behind a message that came whole: doubled each time, halved behind one that did not. */
const MIN_FRAGMENT_ROUNDS = 1250;
/** Limit of one call that waits for fragments. */
export const MAX_SPIN_MS = 1;
/** Records that one pass takes: a peer may write as fast as this side reads, and the event loop wants its turn. */
export const MAX_RECORDS = 1024;

/** Fields without `#` are shared with `receiver.ts` and `polled-reads.ts`, the other two files of the receiving half. */
export class RingReader {
  readonly binding: LinkBinding;
  readonly pending: PendingReceives;
  readonly unread: UnreadQueue;
  readonly limits: ReceiveLimits;
  link: BoundLink | undefined;
  borrowed: BorrowedRecords | undefined;
  /** The message of which the last record was not the last. */
  partial: PartialMessage | undefined;
  /** A handler of `poll` has a record that still lies in the ring. */
  lent = false;
  /** No message will come: EOF was received, or the link has ended and its ring is empty. */
  ended = false;
  /** The peer suspends, and its request lies behind what is unread: read on. */
  drainRequested = false;
  /** Where a message in fragments that begins now may be put together, instead of in memory of its own. */
  intoTarget: Uint8Array | undefined;
  /** Rounds that `receive` may wait for the rest of a message, which its sender is likely to be writing. */
  fragmentRounds = 0;
  /** Records that may be taken in this pass. */
  left = 0;
  readonly #router: ProtocolRouter;
  #demands: ReadDemand[] | undefined;
  /** The link has ended: what is in the ring is all there will be. */
  #draining = false;
  readonly #route = (partial: PartialMessage) => this.#routePartial(partial);

  constructor(
    binding: LinkBinding,
    router: ProtocolRouter,
    pending: PendingReceives,
    unread: UnreadQueue,
    limits: ReceiveLimits,
  ) {
    this.binding = binding;
    this.#router = router;
    this.pending = pending;
    this.unread = unread;
    this.limits = limits;
  }

  attach(link: BoundLink): void {
    this.link = link;
    this.borrowed = new BorrowedRecords(link);
    this.ended = false;
    this.#draining = false;
  }

  /** @returns what is still borrowed from the ring */
  detach(): BorrowedRecords | undefined {
    this.link = undefined;
    const { borrowed } = this;
    this.borrowed = undefined;
    return borrowed;
  }

  /** From here on the demand is asked before reading stops. */
  addDemand(demand: ReadDemand): void {
    this.#demands ??= [];
    this.#demands.push(demand);
  }

  /** Whether messages are dropped, because the application has closed the connection. The protocol goes on. */
  get discards(): boolean {
    return this.binding.lifecycle.closing !== undefined;
  }

  /** Whether what comes is read. */
  get #reads(): boolean {
    return (
      this.unread.bytes + this.#heldBytes() < this.limits.unread ||
      this.discards ||
      this.#draining ||
      this.pending.awaited ||
      // It has begun, and cannot be cancelled: its message comes to its end.
      this.partial?.receive !== undefined ||
      this.#expects() ||
      this.pending.probed
    );
  }

  #heldBytes(): number {
    if (!this.#demands) return 0;
    let held = 0;
    for (const demand of this.#demands) held += demand.heldBytes;
    return held;
  }

  /** Whether reading goes on whatever is unread: a message of the protocol is expected that lies behind it. */
  #expects(): boolean {
    const { lifecycle } = this.binding;
    if (this.drainRequested || lifecycle.unconfirmed || lifecycle.exchanging) return true;
    return this.#demands?.some((demand) => demand.expects) === true;
  }

  /**
   * Take everything out of the ring that is in it now: at most a ring full. A lost peer may be only paused, and a peer
   * that has closed may write on all the same.
   * @param lost the peer may write at this moment: it gets no more room
   */
  drain(lost = false): void {
    const link = this.link;
    this.#draining = true;
    if (!link) return;
    const { call, index } = link;
    if (lost && link.polled) call.hold(index);
    const capacity = call.ringCapacity(index);
    const start = call.position(index);
    for (let before = -1, at = start; at !== before && (at - start) >>> 0 < capacity; ) {
      this.progress();
      if (this.link !== link || this.ended) return;
      before = at;
      at = call.position(index);
    }
  }

  /** A message in a record of its own, for which no receive is pending. */
  copied(link: BoundLink, offset: number, xlength: number, dlength: number): Message {
    const { bytes } = link;
    const xheader = xlength === 0 ? NO_BYTES : bytes.slice(offset, offset + xlength);
    const message = new Message(copyOf(bytes, offset + xlength, dlength), xheader);
    link.release();
    return message;
  }

  /** Take what has come, as far as it may be taken; what is left then is for the next pass. */
  progress(): void {
    this.unread.tick();
    this.left = MAX_RECORDS;
    while (this.link && !this.ended && this.#reads) {
      const unread = this.#take(0, false);
      if (!unread) break;
      this.unread.push(unread);
      this.pending.announce(unread);
    }
    // The poller does not look after a stream.
    if (this.left === 0 && this.link?.polled === false) this.binding.wake();
  }

  /** The next message that no receive takes, whatever is unread. @param rounds to wait for the rest of a message */
  pull(rounds: number): Unread | undefined {
    this.left = MAX_RECORDS;
    return this.#take(rounds, true);
  }

  /**
   * The next message that no receive takes; messages that receives take are given to them on the way.
   * @param rounds to wait for the rest of a message
   * @param pull go on until there is one, whatever is unread
   */
  #take(rounds: number, pull: boolean): Unread | undefined {
    if (this.lent) return undefined;
    let spins = rounds;
    let until = 0;
    for (let link = this.link; link && this.left > 0; link = this.link) {
      let offset = link.call.peek(link.index);
      if (offset === NOTHING && this.partial && spins > 0) {
        // A peer that writes byte by byte does not get to keep the event loop for all of them.
        const now = performance.now();
        if (until === 0) until = now + MAX_SPIN_MS;
        else if (now > until) spins = 0;
        offset = link.call.peekSpin(link.index, spins);
      }
      if (offset === NOTHING) {
        if (this.partial) this.#interrupted(this.partial);
        return undefined;
      }
      if (offset === BROKEN) {
        this.binding.violated();
        return undefined;
      }
      this.left--;
      const type = link.words[link.type] as number;
      if (type === link.core.layout.MESSAGE_EOF) {
        link.release();
        this.ended = true;
        return undefined;
      }
      let unread: Unread | undefined;
      try {
        unread = this.#record(link, type, offset);
      } catch (error) {
        this.binding.onViolation(asError(error));
        return undefined;
      }
      if (unread) return unread;
      if (!pull && !this.partial && !this.#reads) return undefined;
    }
    if (this.partial) this.#interrupted(this.partial);
    return undefined;
  }

  /** The rest of the message is not there yet. */
  #interrupted(partial: PartialMessage): void {
    this.fragmentRounds >>= 1;
    if (this.intoTarget && partial.data.buffer === this.intoTarget.buffer) partial.keep();
  }

  /** One record. @returns a message that no receive takes, if this was its last */
  #record(link: BoundLink, type: number, offset: number): Unread | undefined {
    const { layout } = link.core;
    const { words } = link;
    const flags = words[link.flags] as number;
    const length = words[link.length] as number;
    if ((flags & layout.FLAG_FIRST) !== 0) {
      const xlength = words[link.xlength] as number;
      const dlength = words[link.dlength] as number;
      const { maxMessageSize } = this.limits;
      if (xlength + dlength > maxMessageSize) {
        throw new IsthmusError(
          'ERR_ISTHMUS_MESSAGE_TOO_LARGE',
          `the peer sends a message of ${dlength} bytes with an xheader of ${xlength}; the limit is ${maxMessageSize} for both`,
          { needed: dlength + xlength, available: maxMessageSize },
        );
      }
      if (flags === link.whole && type === layout.MESSAGE_USER) return this.#whole(link, offset, xlength, dlength);
      this.partial = new PartialMessage(type, xlength, dlength);
    }
    const partial = this.partial as PartialMessage;
    partial.append(link, offset, length, this.#route);
    if (this.link !== link) {
      partial.receive?.reject(endedByMatch());
      return undefined;
    }
    link.release();
    if ((flags & layout.FLAG_LAST) === 0) return undefined;
    this.partial = undefined;
    if (this.binding.spins) {
      this.fragmentRounds = Math.min(Math.max(2 * this.fragmentRounds, MIN_FRAGMENT_ROUNDS), FRAGMENT_ROUNDS);
    }
    return this.#complete(partial);
  }

  /** A message of the application in one record: the common case. */
  #whole(link: BoundLink, offset: number, xlength: number, dlength: number): Message | undefined {
    const { bytes } = link;
    const at = offset + xlength;
    if (this.discards) {
      link.release();
      return undefined;
    }
    if (!this.pending.awaited) return this.copied(link, offset, xlength, dlength);
    const xheader = () => (xlength === 0 ? NO_BYTES : bytes.slice(offset, at));
    const { connection } = this.pending;
    const receive = this.pending.take(xheader, dlength);
    if (this.link !== link) {
      receive?.reject(endedByMatch());
      return undefined;
    }
    if (receive?.borrows && link.polled) {
      // It lies in one piece, and no other reader has it.
      receive.lend(connection, (this.borrowed as BorrowedRecords).lend(offset, xlength, dlength));
      return undefined;
    }
    if (!receive) {
      const message = new Message(copyOf(bytes, at, dlength), xheader());
      link.release();
      return message;
    }
    const kept = Math.min(dlength, receive.maxLength, receive.target?.length ?? dlength);
    let data: Uint8Array;
    if (receive.target) {
      data = receive.target.subarray(0, kept);
      copyOut(bytes, at, kept, data);
    } else {
      data = copyOf(bytes, at, kept);
    }
    const message = new Message(data, xheader());
    try {
      link.release();
    } catch (error) {
      // The connection ends; this receive is in no list any more.
      receive.reject(error);
      throw error;
    }
    receive.complete(connection, message, dlength);
    return undefined;
  }

  /** The xheader of a message in fragments is here: decide where the data goes. */
  #routePartial(partial: PartialMessage): void {
    const { length, xheader, type } = partial;
    let target: Uint8Array | undefined;
    if (type !== 0) {
      partial.handler = this.#router.handler(type);
      partial.sink = partial.handler.begin(xheader, length);
      target = partial.sink?.target;
    } else if (this.discards) {
      partial.room = 0;
      return;
    } else if (this.pending.awaited) {
      const receive = this.pending.takeInPlace(xheader, length);
      if (receive) {
        partial.receive = receive;
        target = receive.target;
        partial.room = Math.min(length, receive.maxLength, target?.length ?? length);
      }
    } else if (this.intoTarget && this.intoTarget.length >= length) {
      target = this.intoTarget.subarray(0, length);
    }
    partial.into(target);
  }

  /** The last fragment is here. */
  #complete({ handler, xheader, length, receive, kept: data }: PartialMessage): Unread | undefined {
    const { connection } = this.pending;
    if (receive) {
      receive.complete(connection, new Message(data, xheader), length);
      return undefined;
    }
    const unread: Unread | undefined = handler ? handler.complete(xheader, data) : new Message(data, xheader);
    if (!unread) return undefined;
    if (this.discards) {
      if (!(unread instanceof Message)) unread.drop();
      return undefined;
    }
    if (!this.pending.awaited) return unread;
    const taker = this.pending.take(() => xheader, this.pending.envelope(unread).length);
    if (!taker) return unread;
    this.pending.deliver(taker, unread);
    return undefined;
  }
}

/** For a receive whose match function has ended the connection, and takes the message that goes with it. */
function endedByMatch(): IsthmusError {
  return new IsthmusError('ERR_ISTHMUS_CLOSED', 'the connection was closed by a match function');
}

/** What a handler or a match function threw, as an error of the connection. */
export function asError(error: unknown): IsthmusError {
  if (error instanceof IsthmusError) return error;
  return new IsthmusError('ERR_ISTHMUS_PEER_PROTOCOL', String(error), { cause: error });
}
