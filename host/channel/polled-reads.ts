/** Reads that never wait, for latency-critical code: `tryReceiveInto` and `poll`. They allocate nothing per message. */
import type { ReceiveInfo } from '../api/connection.js';
import { IsthmusError } from '../base/errors.js';
import { Message } from '../base/message.js';
import { BROKEN, NOTHING } from '../core/core.js';
import type { BoundLink } from '../link/bound-link.js';
import { CopyOut, copyOut } from '../link/copies.js';
import { PartialMessage } from './reassembly.js';
import type { Receiver } from './receiver.js';
import { FRAGMENT_ROUNDS, MAX_RECORDS, MAX_SPIN_MS, type RingReader } from './ring-reader.js';
import type { Sender } from './sender.js';

/** What `poll` calls for each message: the memory, and where the data lies in it. */
export type PollHandler = (memory: Uint8Array, offset: number, length: number) => void;

export class PolledReads {
  readonly #receiver: Receiver;
  readonly #ring: RingReader;
  readonly #sender: Sender;
  readonly #copyOut = new CopyOut();
  #polling = false;

  constructor(receiver: Receiver, sender: Sender) {
    this.#receiver = receiver;
    this.#ring = receiver.ring;
    this.#sender = sender;
  }

  detach(): void {
    this.#copyOut.forget();
  }

  tryReceiveInto(target: Uint8Array, info?: ReceiveInfo): number {
    const { mode } = this.#receiver;
    if (mode.copies !== true) mode.noteOther(true);
    const ring = this.#ring;
    const { link } = ring;
    if (link && ring.unread.length === 0 && ring.partial === undefined && !ring.pending.awaited && !ring.lent) {
      ring.binding.polledDirectly();
      const offset = link.call.peek(link.index);
      if (offset > 0 && link.words[link.type] === 0) {
        const { words } = link;
        if (words[link.flags] !== link.whole) {
          const length = this.#receivePieces(link, offset, target, info);
          if (length !== 0) return length;
        } else {
          // The common case: the message lies in one piece.
          const dlength = words[link.dlength] as number;
          const xlength = words[link.xlength] as number;
          if (dlength > target.length) throw tooSmall(dlength, target.length);
          if (info) {
            info.xheaderLength = xlength;
            if (xlength > 0 && info.xheader && info.xheader.length >= xlength) {
              copyOut(link.bytes, offset, xlength, info.xheader);
            }
          }
          this.#copyOut.copy(link, offset + xlength, dlength, target);
          link.release();
          return dlength;
        }
      } else if (offset === NOTHING && !ring.ended) {
        this.#pump();
        return -1;
      }
    }
    return this.#receiveIntoSlowly(target, info);
  }

  /** The application found nothing: a moment to send what waits. */
  #pump(): void {
    if (this.#sender.waiting > 0) this.#sender.pump();
  }

  /**
   * A message in pieces, whose sender is likely to be writing it: each piece is copied out while the sender writes the next.
   * @returns its length; -1: it has begun, and the rest is not there; 0: nothing was taken, it is no such message
   */
  #receivePieces(link: BoundLink, first: number, target: Uint8Array, info: ReceiveInfo | undefined): number {
    const { words, bytes } = link;
    const ring = this.#ring;
    const total = words[link.dlength] as number;
    const most = Math.min(target.length, ring.limits.maxMessageSize);
    if (words[link.xlength] !== 0 || total > most || ring.discards) return 0;
    if (info) info.xheaderLength = 0;
    let until = 0;
    for (let offset = first, have = 0, left = MAX_RECORDS; ; left--) {
      const length = words[link.length] as number;
      target.set(bytes.subarray(offset, offset + length), have);
      have += length;
      link.release();
      if (have === total) return total;
      offset = link.call.peek(link.index);
      if (offset === NOTHING && left > 0) {
        const now = performance.now();
        if (until === 0) until = now + MAX_SPIN_MS;
        if (now < until) offset = link.call.peekSpin(link.index, FRAGMENT_ROUNDS);
      }
      if (offset > 0 && left > 0) continue;
      ring.partial = PartialMessage.begun(0, target, have, total);
      if (offset === BROKEN) ring.binding.violated();
      return -1;
    }
  }

  /** From the queue, in fragments, or nothing because of an end. */
  #receiveIntoSlowly(target: Uint8Array, info: ReceiveInfo | undefined): number {
    const ring = this.#ring;
    const { unread, pending } = ring;
    if (pending.awaited) ring.progress();
    const first = unread.peek();
    const queued = first !== undefined;
    let message: Message | undefined;
    if (first && !(first instanceof Message) && first.here && first.length <= target.length) {
      // It lies in the region: copied from there to the target.
      unread.shift();
      return give(first.fetch(target) as Uint8Array, first.xheader, target, info);
    }
    if (queued) {
      message = unread.head();
      if (!message) return -1; // Its data is on its way.
    } else {
      if (ring.link && !pending.awaited) {
        ring.intoTarget = target;
        const next = ring.pull(FRAGMENT_ROUNDS);
        ring.intoTarget = undefined;
        if (next instanceof Message) message = next;
        else if (next) {
          unread.push(next);
          return this.#receiveIntoSlowly(target, info);
        }
      }
      if (!message) {
        if (!ring.ended) return -1;
        this.#receiver.onEndOfInput();
        throw new IsthmusError('ERR_ISTHMUS_CLOSED', 'the peer has closed the connection');
      }
    }
    const { data, xheader } = message;
    if (data.length > target.length) {
      if (!queued) unread.push(message);
      throw tooSmall(data.length, target.length);
    }
    if (queued) unread.shift();
    return give(data, xheader, target, info);
  }

  poll(handler: PollHandler, limit: number): number {
    if (this.#polling) throw new IsthmusError('ERR_ISTHMUS_INVALID_ARGUMENT', 'poll() within its own handler');
    const { mode } = this.#receiver;
    if (mode.copies !== false) mode.noteOther(false);
    this.#polling = true;
    try {
      return this.#poll(handler, limit);
    } finally {
      this.#polling = false;
    }
  }

  #poll(handler: PollHandler, limit: number): number {
    const ring = this.#ring;
    const { unread, pending, binding } = ring;
    let count = 0;
    while (count < limit) {
      if (pending.awaited) ring.progress();
      const { link } = ring;
      if (link && unread.length === 0 && ring.partial === undefined && !pending.awaited) {
        binding.polledDirectly();
        const offset = link.call.peek(link.index);
        const { words } = link;
        if (offset > 0 && words[link.flags] === link.whole && words[link.type] === 0) {
          const xlength = words[link.xlength] as number;
          count++;
          ring.lent = true;
          try {
            handler(link.bytes, offset + xlength, words[link.dlength] as number);
          } finally {
            ring.lent = false;
            if (ring.link === link) link.release();
            if (pending.length > 0) binding.wake();
          }
          continue;
        }
        const whole = offset > 0 && words[link.flags] === link.whole;
        const at = whole ? link.adopt(offset, ring.limits.maxMessageSize) : 0;
        if (at > 0) {
          const [frame, length] = [words[link.runFrame] as number, words[link.runBytes] as number];
          binding.receivedOutOfBand += length - (words[link.dlength] as number);
          link.release();
          count++;
          try {
            handler(link.bytes, at, length);
          } finally {
            link.releaseRun(frame, length);
            link.check();
          }
          continue;
        }
        if (offset === NOTHING && !ring.ended) {
          this.#pump();
          break;
        }
      }
      if (!this.#handleUnread(handler)) {
        if (unread.length === 0 && ring.ended && count === 0) {
          this.#receiver.onEndOfInput();
          throw new IsthmusError('ERR_ISTHMUS_CLOSED', 'the peer has closed the connection');
        }
        break;
      }
      count++;
    }
    return count;
  }

  /** Hand over the oldest unread message. @returns false: there is none, or its data is on its way */
  #handleUnread(handler: PollHandler): boolean {
    const ring = this.#ring;
    const { unread } = ring;
    if (unread.length === 0 && !ring.pending.awaited) {
      const next = ring.pull(0);
      if (next) unread.push(next);
    }
    const next = unread.peek();
    const announced = next instanceof Message ? undefined : next;
    const lent = announced && !unread.isFetching(announced) ? announced.lend() : undefined;
    if (announced && lent) {
      unread.shift();
      try {
        handler(lent.memory, lent.offset, announced.length);
      } finally {
        lent.release();
        ring.link?.check();
      }
      return true;
    }
    const message = unread.head();
    if (!message) return false;
    unread.shift();
    handler(message.data, 0, message.data.length);
    return true;
  }
}

/** Hand a message to a caller that receives into memory of its own. @returns its length */
function give(data: Uint8Array, xheader: Uint8Array, target: Uint8Array, info: ReceiveInfo | undefined): number {
  if (data.buffer !== target.buffer || data.byteOffset !== target.byteOffset) target.set(data);
  if (info) {
    info.xheaderLength = xheader.length;
    if (info.xheader && info.xheader.length >= xheader.length) info.xheader.set(xheader);
  }
  return data.length;
}

function tooSmall(needed: number, available: number): IsthmusError {
  return new IsthmusError(
    'ERR_ISTHMUS_BUFFER_TOO_SMALL',
    `the next message has ${needed} bytes, the target ${available}`,
    { needed, available },
  );
}
