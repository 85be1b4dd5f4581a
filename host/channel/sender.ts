/** The sending half of a connection: messages into the ring, and those that wait for room. */

import type { IsthmusError } from '../base/errors.js';
import { NO_BYTES } from '../base/message.js';
import { BROKEN, NOTHING } from '../core/core.js';
import type { Carrier } from './bound-link.js';
import { copyIn } from './bound-link.js';
import { removeFrom } from './matching.js';

/** What the connection does for its sending half. */
export interface OutboundOwner {
  /** The core found something that cannot be: end the connection. @returns why it ends */
  broken(): IsthmusError;
  /** Something waits for room, or for a link. */
  stuck(): void;
  /** Nothing waits any more. @returns whether that moved anything */
  drained(): boolean;
}

/** A message that waits, or of which a part is in the ring. */
export interface PendingSend {
  readonly type: number;
  readonly xheader: Uint8Array;
  data: Uint8Array;
  /** Bytes of the body that are in the ring; -1: not begun. */
  sent: number;
  readonly resolve: (() => void) | undefined;
  readonly reject: ((error: unknown) => void) | undefined;
}

/** Rounds inside the core for room for the rest of a message: some 50 µs. */
const FRAGMENT_ROUNDS = 20_000;
/** For so long one message may wait for room again and again before the event loop goes on, in milliseconds. */
const PATIENCE = 1;
/** Larger messages keep both ends too long for one call. */
const MOST_FLOWING = 4 << 20;
/** As many large messages at most are sent another way after one that the peer did not take out at once. */
const MOST_DETOURS = 1024;

export class Outbound {
  readonly #owner: OutboundOwner;
  readonly #queue: PendingSend[] = [];
  #on: Carrier | undefined;
  /** Behind it nothing goes over this link. */
  #last: PendingSend | undefined;
  /** Large messages that go another way, of how many: the peer looked as if it waited, and did not take one out. */
  #detours = 0;
  #detour = 0;

  constructor(owner: OutboundOwner) {
    this.#owner = owner;
  }

  attach(carrier: Carrier): void {
    this.#on = carrier;
    this.#detours = 0;
    this.#detour = 0;
    // What waits asked for room on the link before: perhaps only a part of it finds some on this one.
    if (this.#queue.length > 0) this.#wantRoom(true);
  }

  detach(): void {
    this.#on = undefined;
    this.#last = undefined;
  }

  /** Send an empty message in front of all that waits: the first of a link, for which there is room. */
  first(type: number): void {
    const on = this.#on as Carrier;
    if (this.#begin(type, NO_BYTES, NO_BYTES, 0) < 0) throw this.#owner.broken();
    on.committed();
  }

  /**
   * Send this behind the message under way, and nothing after it: what waits and what comes waits for the next link.
   * (suspend.pml: last_word)
   */
  last(type: number, data: Uint8Array, sent: () => void): void {
    const begun = (this.#queue[0]?.sent ?? -1) >= 0 ? 1 : 0;
    const entry: PendingSend = { type, xheader: NO_BYTES, data, sent: -1, resolve: sent, reject: undefined };
    this.#last = entry;
    this.#queue.splice(begun, 0, entry);
    this.#wantRoom(true);
    this.pump();
  }

  /**
   * The last word has found no room. Give it up, and what has begun: that goes anew over the next link.
   * (suspend.pml: last_word_aside)
   * @returns false: it is in the ring
   */
  giveUpLast(): boolean {
    const last = this.#last;
    if (!last || !removeFrom(this.#queue, last)) return false;
    this.#last = undefined;
    this.#wantRoom(false);
    this.#on = undefined;
    const begun = this.#queue[0];
    if (begun) begun.sent = -1;
    return true;
  }

  /** The memory of the link is going: what waits to be sent must not lie in it. */
  evacuate(memory: ArrayBufferLike): void {
    for (const entry of this.#queue) if (entry.data.buffer === memory) entry.data = new Uint8Array(entry.data);
  }

  /** Messages that wait, the one under way included. */
  get waiting(): number {
    return this.#queue.length;
  }

  /**
   * Whether a large message goes through the ring, also where it would be announced: the peer is waiting to copy it out, and
   * takes one piece while we write the next. Not right behind one of which that was not true.
   */
  flows(length: number): boolean {
    if (this.#queue.length !== 0 || length > MOST_FLOWING || !this.#on?.awaited) return false;
    if (this.#detour === 0) return true;
    this.#detour--;
    return false;
  }

  /** Whether the peer wants to see a message of that length in one piece, and it would not be so in the ring. */
  wantsRun(length: number): boolean {
    const on = this.#on;
    return on?.link.region !== undefined && on.call.wantsRun(on.index, length) === 1;
  }

  /**
   * Put a message into the ring, as far as there is room.
   * @param flows the peer is taking it out at this moment: some microseconds of patience where there is none
   * @returns bytes of its body that are in; -1: none, because others wait, or the ring is full, or there is no link
   */
  begin(type: number, xheader: Uint8Array, data: Uint8Array, flows = false): number {
    if (this.#queue.length !== 0 || !this.#on) return -1;
    const sent = this.#begin(type, xheader, data, flows ? FRAGMENT_ROUNDS : 0);
    if (flows) this.#flowed(sent, data.length + xheader.length);
    if (sent >= 0) this.#on.committed();
    return sent;
  }

  /**
   * Announce a message that lies in a run of ours, with its token as the id. @returns false: others wait, or the ring is
   * full, or there is no link
   */
  announce(frame: number, place: number, length: number, low: number, high: number): boolean {
    const on = this.#on;
    if (this.#queue.length !== 0 || !on) return false;
    const offset = on.call.announce(on.index, frame, place, length, low, high);
    if (offset === NOTHING || (offset === BROKEN && on.cutOff)) return false;
    if (offset === BROKEN) throw this.#owner.broken();
    on.commit();
    on.committed();
    return true;
  }

  /** What {@link begin} left over waits; it is taken when all of it is in the ring. */
  queue(
    type: number,
    xheader: Uint8Array,
    data: Uint8Array,
    sent: number,
    resolve?: () => void,
    reject?: (error: unknown) => void,
  ): PendingSend {
    const entry: PendingSend = { type, xheader, data, sent, resolve, reject };
    this.#queue.push(entry);
    this.#wantRoom(true);
    return entry;
  }

  /** {@link queue} as a promise. What has started is not given up by `signal`: the ring holds a part of it. */
  wait(
    type: number,
    xheader: Uint8Array,
    data: Uint8Array,
    sent: number,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    return new Promise<void>((resolve, reject) => {
      const settle = () => signal?.removeEventListener('abort', abort);
      const entry = this.queue(
        type,
        xheader,
        data,
        sent,
        () => {
          settle();
          resolve();
        },
        (error) => {
          settle();
          reject(error);
        },
      );
      const abort = () => {
        if (this.cancel(entry)) reject(signal?.reason);
      };
      signal?.addEventListener('abort', abort, { once: true });
    });
  }

  /** Send what finds room now. @param flows as of {@link begin} @returns false: not taken, and nothing changed */
  trySend(type: number, xheader: Uint8Array, data: Uint8Array, flows = false): boolean {
    if (this.#queue.length !== 0) {
      this.pump();
      if (this.#queue.length !== 0) return false;
    }
    const on = this.#on;
    if (!on) {
      this.#owner.stuck();
      return false;
    }
    const done = this.#begin(type, xheader, data, FRAGMENT_ROUNDS);
    if (flows) this.#flowed(done, data.length + xheader.length);
    if (done < 0) return false;
    // The caller may reuse its bytes: what found no room yet goes on from a copy.
    if (done < data.length + xheader.length) {
      // Not `slice`: that of a Buffer is a view.
      const [header, rest] = [new Uint8Array(xheader), new Uint8Array(data)];
      this.#queue.push({ type, xheader: header, data: rest, sent: done, resolve: undefined, reject: undefined });
      this.#wantRoom(true);
    }
    on.committed();
    return true;
  }

  /** Withdraw a message. @returns false if it has started, or is not here any more */
  cancel(entry: PendingSend): boolean {
    if (entry.sent >= 0 || !removeFrom(this.#queue, entry)) return false;
    if (this.#queue.length === 0) {
      this.#wantRoom(false);
      this.#owner.drained();
    }
    return true;
  }

  /** Go on with the messages that wait. @returns whether anything moved */
  pump(): boolean {
    const on = this.#on;
    if (!on) return false;
    let moved = false;
    while (this.#queue.length > 0) {
      const entry = this.#queue[0] as PendingSend;
      const before = entry.sent;
      try {
        entry.sent =
          before < 0
            ? this.#begin(entry.type, entry.xheader, entry.data, 0)
            : this.#more(entry.xheader, entry.data, before, 0);
      } catch {
        return true; // The connection has ended, and with it every message that waited.
      }
      if (entry.sent !== before) moved = true;
      if (entry.sent < entry.data.length + entry.xheader.length) break;
      this.#queue.shift();
      if (entry === this.#last) {
        this.#wantRoom(false);
        on.committed();
        this.#last = undefined;
        this.#on = undefined;
        entry.resolve?.();
        return true;
      }
      entry.resolve?.();
    }
    if (moved) on.committed();
    if (this.#queue.length === 0) {
      if (moved) this.#wantRoom(false);
      moved = this.#owner.drained() || moved;
    }
    return moved;
  }

  /** Bytes in the ring that the peer has not consumed. @throws what the core found */
  unread(): number {
    const on = this.#on;
    if (!on) return 0;
    const unread = on.call.unread(on.index);
    if (unread === BROKEN) throw this.#owner.broken();
    return unread;
  }

  /** The end of this direction. @returns whether there was room for it */
  sendEof(): boolean {
    const on = this.#on;
    if (!on) return false;
    const sent = on.sendEof();
    this.#wantRoom(!sent);
    if (!sent) return false;
    on.committed();
    return true;
  }

  rejectAll(error: unknown): void {
    for (const entry of this.#queue.splice(0)) entry.reject?.(error);
  }

  #wantRoom(wanted: boolean): void {
    const on = this.#on;
    if (on?.polled) on.call.wantRoom(on.index, wanted ? 1 : 0);
    if (wanted) this.#owner.stuck();
  }

  /**
   * Put as much of a message into the ring as finds room.
   * @returns bytes of the body that are in, or -1 if not even the first record found room
   */
  #begin(type: number, xheader: Uint8Array, data: Uint8Array, rounds: number): number {
    const on = this.#on as Carrier;
    const offset = on.call.claim(on.index, type, xheader.length, data.length);
    if (offset === NOTHING || (offset === BROKEN && on.cutOff)) return -1;
    if (offset === BROKEN) throw this.#owner.broken();
    const here = on.words[on.length] as number;
    if (here === data.length + xheader.length) {
      if (xheader.length !== 0) copyIn(on.bytes, xheader, offset);
      copyIn(on.bytes, data, offset + xheader.length);
      on.commit();
      return here;
    }
    copyBody(on.bytes, xheader, data, 0, here, offset);
    on.commit();
    return here < data.length + xheader.length ? this.#more(xheader, data, here, rounds) : here;
  }

  /** Further fragments, as far as there is room. @param rounds to look for it, for each of them, and for no more than {@link PATIENCE} in all */
  #more(xheader: Uint8Array, data: Uint8Array, from: number, rounds: number): number {
    const on = this.#on as Carrier;
    const total = data.length + xheader.length;
    let sent = from;
    let patience = on.polled ? rounds : 0;
    let until = 0;
    while (sent < total) {
      on.committed();
      let offset = on.call.claimMore(on.index);
      if (offset === NOTHING && patience > 0) {
        const now = performance.now();
        if (until === 0) until = now + PATIENCE;
        else if (now > until) patience = 0;
        offset = on.call.claimMoreSpin(on.index, patience);
      }
      if (offset === NOTHING || (offset === BROKEN && on.cutOff)) break;
      if (offset === BROKEN) throw this.#owner.broken();
      const here = on.words[on.length] as number;
      copyBody(on.bytes, xheader, data, sent, here, offset);
      on.commit();
      sent += here;
    }
    return sent;
  }

  /** A message for a peer that seemed to wait for it was begun. */
  #flowed(sent: number, total: number): void {
    const on = this.#on as Carrier;
    if (sent < total) {
      // He did not take it out: he is busy, or runs on this very thread.
      this.#detours = Math.min(Math.max(1, this.#detours * 2), MOST_DETOURS);
      this.#detour = this.#detours;
    } else if (total > on.capacity) {
      this.#detours = 0;
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
