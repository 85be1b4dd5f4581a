/** The sending half of a connection: messages into the ring, and the queue of those that wait for room. */
import { abortable } from '../base/abortable.js';
import { goneMessage } from '../base/bytes.js';
import { removeFrom } from '../base/lists.js';
import { NO_BYTES } from '../base/message.js';
import { BROKEN, NOTHING } from '../core/core.js';
import type { BoundLink } from '../link/bound-link.js';
import { copyIn } from '../link/copies.js';
import type { LinkBinding } from '../link/link-binding.js';

/** A message that waits, or of which a part is in the ring. */
export interface PendingSend {
  readonly type: number;
  readonly xheader: Uint8Array;
  data: Uint8Array;
  /** Bytes of the body, xheader and data, as they were when the message was queued. */
  readonly total: number;
  /** Bytes of the body that are in the ring; -1: not begun. */
  sent: number;
  readonly resolve: (() => void) | undefined;
  readonly reject: ((error: unknown) => void) | undefined;
}

/** Rounds inside the core that wait for room for a further fragment: some 50 µs. */
const FRAGMENT_ROUNDS = 20_000;
/** Limit for one message that waits for room again and again before the event loop goes on. */
const MAX_SPIN_MS = 1;
/** Larger messages would keep both ends too long for one call. */
const MAX_STREAMED_BYTES = 4 << 20;
/** Limit of {@link StreamBackoff}. */
const MAX_BACKOFF = 1024;

/** Which large messages go through the ring in pieces: not right behind one that the peer did not take out at once. */
class StreamBackoff {
  /** Messages that are announced instead, and how many of them are still to come. */
  #length = 0;
  #left = 0;

  reset(): void {
    this.#length = 0;
    this.#left = 0;
  }

  /** Whether the next large message may be streamed. */
  next(): boolean {
    if (this.#left === 0) return true;
    this.#left--;
    return false;
  }

  /** The peer did not take the message out: it is busy, or runs on this very thread. */
  grow(): void {
    this.#length = Math.min(Math.max(1, this.#length * 2), MAX_BACKOFF);
    this.#left = this.#length;
  }

  taken(): void {
    this.#length = 0;
  }
}

export class Sender {
  /** A message waits for room, or for a link. Set by the connection. */
  onBlocked: () => void = () => {};
  /** No message waits any more. @returns whether that moved anything. Set by the connection */
  onQueueEmpty: () => boolean = () => false;
  readonly #binding: LinkBinding;
  readonly #queue: PendingSend[] = [];
  readonly #backoff = new StreamBackoff();
  #link: BoundLink | undefined;
  /** The last message of this link: messages behind it wait for the next link. */
  #shutdown: PendingSend | undefined;

  constructor(binding: LinkBinding) {
    this.#binding = binding;
  }

  attach(link: BoundLink): void {
    this.#link = link;
    this.#backoff.reset();
    // What waits asked for room on the link before: perhaps only a part of it finds some on this one.
    if (this.#queue.length > 0) this.#wantRoom(true);
  }

  detach(): void {
    this.#link = undefined;
    this.#shutdown = undefined;
  }

  /** Send an empty message in front of all that waits: the first of a link, for which there is room. */
  sendFirst(type: number): void {
    const link = this.#link as BoundLink;
    if (this.#begin(type, NO_BYTES, NO_BYTES, 0) < 0) throw this.#binding.violated();
    link.committed();
  }

  /**
   * Send the last message of this link, behind the message under way. Messages that wait, and later ones, wait for the next
   * link. (suspend.pml: last_word)
   * @param sent called when it is in the ring
   */
  sendShutdown(type: number, data: Uint8Array, sent: () => void): void {
    const begun = (this.#queue[0]?.sent ?? -1) >= 0 ? 1 : 0;
    const total = data.length;
    const entry: PendingSend = { type, xheader: NO_BYTES, data, total, sent: -1, resolve: sent, reject: undefined };
    this.#shutdown = entry;
    this.#queue.splice(begun, 0, entry);
    this.#wantRoom(true);
    this.pump();
  }

  /**
   * Take back {@link sendShutdown}, which has found no room, and the message under way: that begins anew over the next
   * link. (suspend.pml: last_word_aside)
   * @returns false: it is in the ring
   */
  withdrawShutdown(): boolean {
    const shutdown = this.#shutdown;
    if (!shutdown || !removeFrom(this.#queue, shutdown)) return false;
    this.#shutdown = undefined;
    this.#wantRoom(false);
    this.#link = undefined;
    const begun = this.#queue[0];
    if (begun) begun.sent = -1;
    return true;
  }

  /** The memory of the link goes away: data that waits and lies in it moves to memory of its own. */
  evacuate(memory: ArrayBufferLike): void {
    for (const entry of this.#queue) if (entry.data.buffer === memory) entry.data = new Uint8Array(entry.data);
  }

  /** Messages that wait, the one under way included. */
  get waiting(): number {
    return this.#queue.length;
  }

  /**
   * Whether a large message goes through the ring, also where it would be announced: the peer waits to copy it out, and
   * takes one piece while this side writes the next.
   * @param length of the data, in bytes
   */
  shouldStream(length: number): boolean {
    if (this.#queue.length !== 0 || length > MAX_STREAMED_BYTES || !this.#link?.receiverWaits) return false;
    return this.#backoff.next();
  }

  /** Whether the peer reads messages in place, and one of that length would not be in one piece in the ring. */
  wantsRun(length: number): boolean {
    const link = this.#link;
    return link?.link.region !== undefined && link.call.wantsRun(link.index, length) === 1;
  }

  /**
   * Put a message into the ring, as far as there is room.
   * @param streams the peer takes it out at this moment: spin some microseconds where there is no room
   * @returns bytes of its body that are in; -1: none, because other messages wait, the ring is full, or there is no link
   */
  begin(type: number, xheader: Uint8Array, data: Uint8Array, streams = false): number {
    if (this.#queue.length !== 0 || !this.#link) return -1;
    const sent = this.#begin(type, xheader, data, streams ? FRAGMENT_ROUNDS : 0);
    if (streams) this.#streamed(sent, data.length + xheader.length);
    if (sent >= 0) this.#link.committed();
    return sent;
  }

  /**
   * Announce a message that lies in a run of this side, with its token as the id.
   * @returns false: other messages wait, the ring is full, or there is no link
   */
  announce(frame: number, place: number, length: number, low: number, high: number): boolean {
    const link = this.#link;
    if (this.#queue.length !== 0 || !link) return false;
    const offset = link.call.announce(link.index, frame, place, length, low, high);
    if (offset === NOTHING || (offset === BROKEN && link.cutOff)) return false;
    if (offset === BROKEN) throw this.#binding.violated();
    link.commit();
    link.committed();
    return true;
  }

  /** Queue what {@link begin} left over. `resolve` is called when all of it is in the ring. */
  queue(
    type: number,
    xheader: Uint8Array,
    data: Uint8Array,
    sent: number,
    resolve?: () => void,
    reject?: (error: unknown) => void,
  ): PendingSend {
    const total = xheader.length + data.length;
    const entry: PendingSend = { type, xheader, data, total, sent, resolve, reject };
    this.#queue.push(entry);
    this.#wantRoom(true);
    return entry;
  }

  /**
   * {@link queue} as a promise. `signal` does not withdraw a message that has begun: the ring holds a part of it. It does
   * again behind {@link withdrawShutdown}.
   */
  wait(
    type: number,
    xheader: Uint8Array,
    data: Uint8Array,
    sent: number,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    const begun = sent >= 0 && signal?.aborted === true;
    return abortable(begun ? undefined : signal, (resolve, reject) => {
      const entry = this.queue(type, xheader, data, sent, resolve, reject);
      return () => this.cancel(entry);
    });
  }

  /**
   * Send a message of the protocol's own, behind what is queued. Dropped when the end of this direction is in the ring, or
   * the connection is over.
   * @returns undefined: it is in the ring, or dropped
   */
  control(
    type: number,
    xheader: Uint8Array,
    data: Uint8Array,
    resolve?: () => void,
    reject?: (error: unknown) => void,
  ): PendingSend | undefined {
    const { lifecycle } = this.#binding;
    if (lifecycle.over || lifecycle.phase === 'eofSent') return undefined;
    const sent = this.begin(type, xheader, data);
    if (sent < data.length + xheader.length) return this.queue(type, xheader, data, sent, resolve, reject);
    resolve?.();
    return undefined;
  }

  /** Send a message of which at least the first record finds room now. @param streams as of {@link begin} @returns false: not taken, and nothing changed */
  trySend(type: number, xheader: Uint8Array, data: Uint8Array, streams = false): boolean {
    if (this.#queue.length !== 0) {
      this.pump();
      if (this.#queue.length !== 0) return false;
    }
    const link = this.#link;
    if (!link) {
      this.onBlocked();
      return false;
    }
    const done = this.#begin(type, xheader, data, FRAGMENT_ROUNDS);
    if (streams) this.#streamed(done, data.length + xheader.length);
    if (done < 0) return false;
    // The caller may reuse its bytes: what found no room yet goes on from a copy.
    if (done < data.length + xheader.length) {
      // Not `slice`: of a Buffer it makes a view.
      const [header, rest] = [new Uint8Array(xheader), new Uint8Array(data)];
      this.queue(type, header, rest, done);
    }
    link.committed();
    return true;
  }

  /** Withdraw a message. @returns false: it has begun, or has been sent */
  cancel(entry: PendingSend): boolean {
    if (entry.sent >= 0 || !removeFrom(this.#queue, entry)) return false;
    if (this.#queue.length === 0) {
      this.#wantRoom(false);
      this.onQueueEmpty();
    }
    return true;
  }

  /** Send messages that wait, as far as there is room. @returns whether anything moved */
  pump(): boolean {
    const link = this.#link;
    if (!link) return false;
    let moved = false;
    while (this.#queue.length > 0) {
      const entry = this.#queue[0] as PendingSend;
      const before = entry.sent;
      if (entry.data.length + entry.xheader.length !== entry.total) {
        if (!this.#lost(entry)) return true;
        moved = true;
        continue;
      }
      try {
        entry.sent =
          before < 0
            ? this.#begin(entry.type, entry.xheader, entry.data, 0)
            : this.#more(entry.xheader, entry.data, before, 0);
      } catch {
        return true; // The connection has ended, which has rejected every message that waited.
      }
      if (entry.sent !== before) moved = true;
      if (entry.sent < entry.total) break;
      this.#queue.shift();
      if (entry === this.#shutdown) {
        this.#wantRoom(false);
        link.committed();
        this.#shutdown = undefined;
        this.#link = undefined;
        entry.resolve?.();
        return true;
      }
      entry.resolve?.();
    }
    if (moved) link.committed();
    if (this.#queue.length === 0) {
      if (moved) this.#wantRoom(false);
      moved = this.onQueueEmpty() || moved;
    }
    return moved;
  }

  /**
   * The application has transferred the memory of a message away, or has resized its buffer, before it was sent.
   * @returns false: a part of it is in the ring, so that this has ended the connection
   */
  #lost(entry: PendingSend): boolean {
    const error = goneMessage(entry.total);
    if (entry.sent >= 0) {
      this.#binding.onViolation(error);
      return false;
    }
    this.#queue.shift();
    entry.reject?.(error);
    return true;
  }

  /** Bytes in the ring that the peer has not consumed. @throws what the core found */
  unread(): number {
    const link = this.#link;
    if (!link) return 0;
    const unread = link.call.unread(link.index);
    if (unread === BROKEN) throw this.#binding.violated();
    return unread;
  }

  /** Send the end of this direction. @returns whether there was room for it */
  sendEof(): boolean {
    const link = this.#link;
    if (!link) return false;
    const sent = link.sendEof();
    this.#wantRoom(!sent);
    if (!sent) return false;
    link.committed();
    return true;
  }

  rejectAll(error: unknown): void {
    for (const entry of this.#queue.splice(0)) entry.reject?.(error);
  }

  #wantRoom(wanted: boolean): void {
    const link = this.#link;
    if (link?.polled) link.call.wantRoom(link.index, wanted ? 1 : 0);
    if (wanted) this.onBlocked();
  }

  /**
   * Put as much of a message into the ring as finds room.
   * @returns bytes of the body that are in, or -1 if not even the first record found room
   */
  #begin(type: number, xheader: Uint8Array, data: Uint8Array, rounds: number): number {
    const link = this.#link as BoundLink;
    const offset = link.call.claim(link.index, type, xheader.length, data.length);
    if (offset === NOTHING || (offset === BROKEN && link.cutOff)) return -1;
    if (offset === BROKEN) throw this.#binding.violated();
    const here = link.words[link.length] as number;
    if (here === data.length + xheader.length) {
      if (xheader.length !== 0) copyIn(link.bytes, xheader, offset);
      copyIn(link.bytes, data, offset + xheader.length);
      link.commit();
      return here;
    }
    copyBody(link.bytes, xheader, data, 0, here, offset);
    link.commit();
    return here < data.length + xheader.length ? this.#more(xheader, data, here, rounds) : here;
  }

  /** Further fragments, as far as there is room. @param rounds to wait for room for each of them, within {@link MAX_SPIN_MS} in all */
  #more(xheader: Uint8Array, data: Uint8Array, from: number, rounds: number): number {
    const link = this.#link as BoundLink;
    const total = data.length + xheader.length;
    let sent = from;
    let spins = link.polled ? rounds : 0;
    let until = 0;
    while (sent < total) {
      link.committed();
      let offset = link.call.claimMore(link.index);
      if (offset === NOTHING && spins > 0) {
        const now = performance.now();
        if (until === 0) until = now + MAX_SPIN_MS;
        else if (now > until) spins = 0;
        offset = link.call.claimMoreSpin(link.index, spins);
      }
      if (offset === NOTHING || (offset === BROKEN && link.cutOff)) break;
      if (offset === BROKEN) throw this.#binding.violated();
      const here = link.words[link.length] as number;
      copyBody(link.bytes, xheader, data, sent, here, offset);
      link.commit();
      sent += here;
    }
    return sent;
  }

  /** A message has been streamed to a peer that seemed to wait for it. */
  #streamed(sent: number, total: number): void {
    const link = this.#link as BoundLink;
    if (sent < total) {
      this.#backoff.grow();
    } else if (total > link.capacity) {
      this.#backoff.taken();
    }
  }
}

/** Copy `length` bytes of a body from `from` on to `offset`: xheader, then data. */
function copyBody(
  memory: Uint8Array,
  xheader: Uint8Array,
  data: Uint8Array,
  from: number,
  length: number,
  offset: number,
): void {
  let at = offset;
  let begin = from;
  const end = from + length;
  if (begin < xheader.length) {
    const part = xheader.subarray(begin, Math.min(end, xheader.length));
    copyIn(memory, part, at);
    at += part.length;
    begin += part.length;
  }
  if (begin < end) memory.set(data.subarray(begin - xheader.length, end - xheader.length), at);
}
