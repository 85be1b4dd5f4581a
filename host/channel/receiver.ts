/** The receiving half of a connection: out of the ring, to whoever waits, or into the queue of unread messages. */

import type { Connection, ReceiveInfo } from '../api/connection.js';
import type { Envelope, Match } from '../api/envelope.js';
import { IsthmusError } from '../base/errors.js';
import { BorrowedMessage, Message, NO_BYTES } from '../base/message.js';
import { AgedQueue } from '../base/queue.js';
import { BROKEN, NOTHING } from '../core/core.js';
import { Borrowing } from './borrowed-records.js';
import { type Carrier, CopyOut, copyOf, copyOut } from './bound-link.js';
import { type Announced, type Matching, Receiver, removeFrom } from './matching.js';

/** Where the data of a message that is not the application's goes. */
export interface Sink {
  /** As far as there is room. */
  readonly target: Uint8Array;
  /** Asked before each fragment: false, somebody has taken the memory back, and the rest is dropped. */
  readonly open?: () => boolean;
}

/** What the connection does for its receiving half. */
export interface InboundOwner {
  readonly connection: Connection;
  readonly matching: Matching;
  /** Bytes of unread messages that are taken out of the ring, and of one message. */
  readonly unreadLimit: number;
  readonly maxMessageSize: number;
  /** Bytes that were read and wait elsewhere for the application. */
  readonly heldBytes: number;
  /** Whether reading goes on whatever is unread: an answer is expected that lies behind it. */
  readonly greedy: boolean;
  /** The core found something that cannot be: end the connection. @returns why it ends */
  broken(): IsthmusError;
  /** The peer broke a rule of ours. */
  fail(error: IsthmusError): void;
  /** The application looks by itself. */
  polls(): void;
  /** Whether one who finds nothing may look on for some microseconds before he waits. */
  readonly spins: boolean;
  /** What an answer that is there at once has to wait for, so that the event loop has its turn; undefined: nothing. */
  due(cost: number): Promise<void> | undefined;
  /** The application found nothing: a moment to send what waits. */
  pump(): void;
  /** Somebody waits, or there is room again. */
  wake(): void;
  /** What a receiver gets behind the last message. @throws the error that ended the connection */
  endOfInput(): undefined;
  /**
   * A message that is not the application's begins.
   * @returns where its data goes; undefined: memory of its own
   * @throws IsthmusError if such a message cannot be
   */
  sink(type: number, xheader: Uint8Array, length: number): Sink | undefined;
  /** It is complete. `data` is the target that `sink` gave, as far as it was filled. */
  control(type: number, xheader: Uint8Array, data: Uint8Array): void;
  /** So many bytes of messages more went through a run than in records. */
  beside(sent: number, received: number): void;
  /** A rendezvous message has been announced. @throws IsthmusError if it cannot be */
  announced(xheader: Uint8Array, data: Uint8Array): Announced;
}

/** A message of which not all fragments have come. Its own memory grows with what comes, not with what is announced. */
interface Partial {
  readonly type: number;
  readonly xheader: Uint8Array;
  data: Uint8Array;
  /** Of the data, in bytes. */
  readonly length: number;
  /** Bytes of the data that are kept. */
  room: number;
  have: number;
  /** Whether it is known where the data goes. */
  routed: boolean;
  receiver: Receiver | undefined;
  sink: Sink | undefined;
}

type Unread = Message | Announced;

/** First allocation for a message in fragments, in bytes. */
const FIRST_CHUNK = 1 << 20;
/** Rounds inside the core for the rest of a message whose first fragments are here: some 50 µs. */
const FRAGMENT_ROUNDS = 20_000;
/** Those behind a message that came whole: twice as many each time, and half as many behind one that did not. */
const LEAST_ROUNDS = 1250;
/** For so long one call may look for the rests of messages, in milliseconds. */
const PATIENCE = 1;
/** Records that one look takes: a peer may write as fast as we read, and the event loop wants its turn. */
const MOST_RECORDS = 1024;
/** Rounds inside the core before a call of `receive` waits, if the last ones did not look in vain: some 5 µs. */
const RECEIVE_ROUNDS = 2000;
/** After so many milliseconds of waiting the next one is not worth looking for either. */
const SOON = 0.1;
/** Bytes that an unread message is counted with beside its own: an empty one occupies memory too. */
const OVERHEAD = 64;
/** Calls of another kind than before until the peer is told. */
const CHANGES = 8;

function costOf(unread: Unread): number {
  return (unread instanceof Message ? unread.data.length : 0) + unread.xheader.length + OVERHEAD;
}

/** One call of `receive` or `borrow` that waits. */
class Waiting extends Receiver {
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

export class Inbound {
  readonly #owner: InboundOwner;
  readonly #matching: Matching;
  readonly #unread = new AgedQueue<Unread>();
  #unreadBytes = 0;
  /** Those who wait for a message of this connection. */
  readonly #receivers: Receiver[] = [];
  readonly #copyOut = new CopyOut();
  readonly #fetches = new Map<Announced, Promise<Message>>();
  #on: Carrier | undefined;
  #borrowing: Borrowing | undefined;
  #partial: Partial | undefined;
  /** Nobody reads any more: messages are dropped, the rest of the protocol goes on. */
  #discarding = false;
  /** The other side is gone: what is in the ring is all there will be. */
  #draining = false;
  /** No message will come: EOF was received, or the link has ended and its ring is empty. */
  #ended = false;
  #polling = false;
  /** The application copies out what it reads, or looks at it where it lies: the peer has been told. */
  #copies: boolean | undefined;
  /** Calls since then that say otherwise. */
  #otherwise = 0;
  /** A handler has a record that still lies in the ring. */
  #lent = false;
  /** Rounds that the next call of `receive` may look: fewer after each that was in vain. */
  #rounds = 0;
  /** Rounds that `receive` may look for the rest of a message, which its sender is likely to be writing. */
  #patience = 0;
  /** Where the fragments of a message that begins now may be put together, instead of in memory of its own. */
  #intoTarget: Uint8Array | undefined;
  /** Records that may be taken in this look. */
  #left = 0;

  constructor(owner: InboundOwner) {
    this.#owner = owner;
    this.#matching = owner.matching;
  }

  attach(carrier: Carrier): void {
    this.#on = carrier;
    this.#borrowing = new Borrowing(carrier);
    this.#ended = false;
    this.#draining = false;
    if (this.#copies !== undefined) this.#tell(this.#copies);
  }

  /**
   * The peer may send in pieces what is copied out anyway; what is looked at where it lies should be in one. Not told at each
   * change: his next look at the word costs him as much as a message.
   */
  #otherThanTold(copies: boolean): void {
    if (++this.#otherwise >= CHANGES) this.#tell(copies);
  }

  #tell(copies: boolean): void {
    this.#otherwise = 0;
    this.#copies = copies;
    const on = this.#on;
    if (!on?.polled) return;
    const { RECEIVE_MODE_COPY, RECEIVE_MODE_IN_PLACE } = on.core.layout;
    on.call.setReceiveMode(on.index, copies ? RECEIVE_MODE_COPY : RECEIVE_MODE_IN_PLACE);
  }

  /** Take everything out of the ring; a message that has begun will come again from its beginning. (suspend.pml: PARTIAL_KEPT) */
  drainAndForget(): void {
    this.drain();
    const receiver = this.#partial?.receiver;
    this.#partial = undefined;
    // It has been promised this very message.
    if (receiver) this.#receivers.unshift(receiver);
  }

  /** Whether the last record was that of a message which goes on. */
  get inMessage(): boolean {
    return this.#partial !== undefined;
  }

  /** @returns what is still borrowed from the ring */
  detach(): Borrowing | undefined {
    this.#on = undefined;
    const borrowing = this.#borrowing;
    this.#borrowing = undefined;
    this.#copyOut.forget();
    return borrowing;
  }

  get ended(): boolean {
    return this.#ended;
  }

  get unreadMessages(): number {
    return this.#unread.length;
  }

  get unreadBytes(): number {
    return this.#unreadBytes;
  }

  /** Age of the oldest unread message. */
  get oldestUnreadMs(): number {
    return Math.round(this.#unread.age());
  }

  /** Whether somebody waits who may take the next message. */
  get #awaited(): boolean {
    return this.#receivers.length > 0 || this.#matching.waiting;
  }

  /** Whether what comes is read. */
  get #reads(): boolean {
    const owner = this.#owner;
    return (
      this.#unreadBytes + owner.heldBytes < owner.unreadLimit ||
      this.#discarding ||
      this.#draining ||
      this.#awaited ||
      owner.greedy ||
      this.#matching.probes(owner.connection)
    );
  }

  // ─── for the application ───────────────────────────────────────────────────────────────────────────────────────────

  async receive(signal: AbortSignal | undefined): Promise<Message | undefined> {
    if (this.#copies !== true) this.#otherThanTold(true);
    const next = this.#next();
    if (next) {
      const due = this.#owner.due(1);
      if (due) await due;
      return next;
    }
    const unread = this.#shift() ?? (this.#awaited ? undefined : this.#pull(this.#patience));
    if (unread) {
      // First of all the bytes: while the event loop turns, the region may go.
      const message = unread instanceof Message ? unread : await this.#fetch(unread);
      const due = this.#owner.due(1 + MOST_RECORDS - this.#left);
      if (due) await due;
      return message;
    }
    if (this.#ended) return this.#owner.endOfInput();
    if (!this.#owner.spins) return this.#wait(false, signal) as Promise<Message | undefined>;
    const before = performance.now();
    const message = await this.#wait(false, signal);
    if (performance.now() - before < SOON) this.#rounds = RECEIVE_ROUNDS;
    return message as Message | undefined;
  }

  /**
   * The common case: nothing is unread, nobody else waits, and the next message lies in the ring in one piece. Where answers
   * came at once it looks on for some microseconds, so that they need no promise to wait for.
   */
  #next(): Message | undefined {
    const on = this.#on;
    if (!on?.polled || this.#ended || this.#discarding || this.#lent || this.#partial) return;
    if (this.#unread.length > 0 || this.#awaited) return;
    let offset = on.call.peek(on.index);
    if (offset === NOTHING && this.#rounds > 0) {
      offset = on.call.peekSpin(on.index, this.#rounds);
      if (offset === NOTHING) this.#rounds >>= 1;
      else this.#rounds = RECEIVE_ROUNDS;
    }
    const { words } = on;
    if (offset <= 0 || words[on.flags] !== on.whole || words[on.type] !== 0) return;
    const xlength = words[on.xlength] as number;
    const dlength = words[on.dlength] as number;
    if (xlength + dlength > this.#owner.maxMessageSize) return;
    return this.#copied(on, offset, xlength, dlength);
  }

  /** A message that nobody waited for, in a record of its own. */
  #copied(on: Carrier, offset: number, xlength: number, dlength: number): Message {
    const { bytes } = on;
    const xheader = xlength === 0 ? NO_BYTES : bytes.slice(offset, offset + xlength);
    const message = new Message(copyOf(bytes, offset + xlength, dlength), xheader);
    on.release();
    return message;
  }

  async borrow(signal: AbortSignal | undefined): Promise<BorrowedMessage | undefined> {
    if (this.#copies !== false) this.#otherThanTold(false);
    if (this.#unread.length === 0 && !this.#awaited) {
      const message = this.#borrowNext();
      if (message) return message;
    }
    const unread = this.#shift() ?? (this.#awaited ? undefined : this.#pull(0));
    if (unread) {
      if (unread instanceof Message) return new BorrowedMessage(unread.data, unread.xheader, undefined);
      const lent = this.#lend(unread);
      if (lent) return lent;
      const { data, xheader } = await this.#fetch(unread);
      return new BorrowedMessage(data, xheader, undefined);
    }
    if (this.#ended) return this.#owner.endOfInput();
    return this.#wait(true, signal) as Promise<BorrowedMessage | undefined>;
  }

  /** What was announced, where it lies. */
  #lend(announced: Announced): BorrowedMessage | undefined {
    // A part of it may be on its way already.
    if (this.#fetches.has(announced)) return undefined;
    const lent = announced.lend();
    if (!lent) return undefined;
    const { memory, offset } = lent;
    const data = memory.subarray(offset, offset + announced.length);
    return new BorrowedMessage(data, announced.xheader, () => lent.release());
  }

  #wait(borrows: boolean, signal: AbortSignal | undefined): Promise<Message | BorrowedMessage | undefined> {
    return new Promise((resolve, reject) => {
      const settle = () => signal?.removeEventListener('abort', abort);
      const waiting = new Waiting(
        borrows,
        (message) => {
          settle();
          resolve(message);
        },
        (error) => {
          settle();
          reject(error);
        },
      );
      const abort = () => {
        if (removeFrom(this.#receivers, waiting)) reject(signal?.reason);
      };
      signal?.addEventListener('abort', abort, { once: true });
      this.#receivers.push(waiting);
      this.#owner.wake();
    });
  }

  tryReceiveInto(target: Uint8Array, info?: ReceiveInfo): number {
    if (this.#copies !== true) this.#otherThanTold(true);
    const on = this.#on;
    if (on && this.#unread.length === 0 && this.#partial === undefined && !this.#awaited && !this.#lent) {
      this.#owner.polls();
      const offset = on.call.peek(on.index);
      if (offset > 0 && on.words[on.type] === 0) {
        const { words } = on;
        if (words[on.flags] !== on.whole) {
          const length = this.#receivePieces(on, offset, target, info);
          if (length !== 0) return length;
        } else {
          // The common case: the message lies in one piece.
          const dlength = words[on.dlength] as number;
          const xlength = words[on.xlength] as number;
          if (dlength > target.length) throw tooSmall(dlength, target.length);
          if (info) {
            info.xheaderLength = xlength;
            if (xlength > 0 && info.xheader && info.xheader.length >= xlength) {
              copyOut(on.bytes, offset, xlength, info.xheader);
            }
          }
          this.#copyOut.copy(on, offset + xlength, dlength, target);
          on.release();
          return dlength;
        }
      } else if (offset === NOTHING && !this.#ended) {
        this.#owner.pump();
        return -1;
      }
    }
    return this.#receiveIntoSlowly(target, info);
  }

  /**
   * A message in pieces, whose sender is likely to be writing it: each is copied out while he writes the next.
   * @returns its length; -1: it has begun, and the rest is not there; 0: nothing was taken, it is no such message
   */
  #receivePieces(on: Carrier, first: number, target: Uint8Array, info: ReceiveInfo | undefined): number {
    const { words, bytes } = on;
    const total = words[on.dlength] as number;
    const most = Math.min(target.length, this.#owner.maxMessageSize);
    if (words[on.xlength] !== 0 || total > most || this.#discarding) return 0;
    if (info) info.xheaderLength = 0;
    let until = 0;
    for (let offset = first, have = 0, left = MOST_RECORDS; ; left--) {
      const length = words[on.length] as number;
      target.set(bytes.subarray(offset, offset + length), have);
      have += length;
      on.release();
      if (have === total) return total;
      offset = on.call.peek(on.index);
      if (offset === NOTHING && left > 0) {
        const now = performance.now();
        if (until === 0) until = now + PATIENCE;
        if (now < until) offset = on.call.peekSpin(on.index, FRAGMENT_ROUNDS);
      }
      if (offset > 0 && left > 0) continue;
      const begun: Partial = {
        type: 0,
        xheader: NO_BYTES,
        data: target,
        length: total,
        room: total,
        have,
        routed: true,
        receiver: undefined,
        sink: undefined,
      };
      this.#partial = begun;
      this.#keep(begun);
      if (offset === BROKEN) this.#owner.broken();
      return -1;
    }
  }

  /** From the queue, in fragments, or nothing because of an end. */
  #receiveIntoSlowly(target: Uint8Array, info: ReceiveInfo | undefined): number {
    if (this.#awaited) this.progress();
    const first = this.#unread.peek();
    const queued = first !== undefined;
    let message: Message | undefined;
    if (first && !(first instanceof Message) && first.here && first.length <= target.length) {
      // It lies in the region: from there to where it is wanted.
      this.#shift();
      return give(first.fetch(target) as Uint8Array, first.xheader, target, info);
    }
    if (queued) {
      message = this.#head();
      if (!message) return -1; // Its data is on its way.
    } else {
      if (this.#on && !this.#awaited) {
        this.#intoTarget = target;
        const unread = this.#pull(FRAGMENT_ROUNDS);
        this.#intoTarget = undefined;
        if (unread instanceof Message) message = unread;
        else if (unread) {
          this.#push(unread);
          return this.#receiveIntoSlowly(target, info);
        }
      }
      if (!message) {
        if (!this.#ended) return -1;
        this.#owner.endOfInput();
        throw new IsthmusError('ERR_ISTHMUS_CLOSED', 'the peer has closed the connection');
      }
    }
    const { data, xheader } = message;
    if (data.length > target.length) {
      if (!queued) this.#push(message);
      throw tooSmall(data.length, target.length);
    }
    if (queued) this.#shift();
    return give(data, xheader, target, info);
  }

  poll(handler: (memory: Uint8Array, offset: number, length: number) => void, limit: number): number {
    if (this.#polling) throw new IsthmusError('ERR_ISTHMUS_INVALID_ARGUMENT', 'poll() within its own handler');
    if (this.#copies !== false) this.#otherThanTold(false);
    let count = 0;
    this.#polling = true;
    try {
      while (count < limit) {
        if (this.#awaited) this.progress();
        const on = this.#on;
        if (on && this.#unread.length === 0 && this.#partial === undefined && !this.#awaited) {
          this.#owner.polls();
          const offset = on.call.peek(on.index);
          const { words } = on;
          if (offset > 0 && words[on.flags] === on.whole && words[on.type] === 0) {
            const xlength = words[on.xlength] as number;
            count++;
            this.#lent = true;
            try {
              handler(on.bytes, offset + xlength, words[on.dlength] as number);
            } finally {
              this.#lent = false;
              if (this.#on === on) on.release();
              if (this.#receivers.length > 0) this.#owner.wake();
            }
            continue;
          }
          const at = offset > 0 && words[on.flags] === on.whole ? on.adopt(offset, this.#owner.maxMessageSize) : 0;
          if (at > 0) {
            const [frame, length] = [words[on.runFrame] as number, words[on.runBytes] as number];
            this.#owner.beside(0, length - (words[on.dlength] as number));
            on.release();
            count++;
            try {
              handler(on.bytes, at, length);
            } finally {
              on.letGo(frame, length);
            }
            continue;
          }
          if (offset === NOTHING && !this.#ended) {
            this.#owner.pump();
            break;
          }
        }
        if (this.#unread.length === 0) this.#takeNext();
        const next = this.#unread.peek();
        const announced = next instanceof Message ? undefined : next;
        const lent = announced && !this.#fetches.has(announced) ? announced.lend() : undefined;
        if (announced && lent) {
          this.#shift();
          count++;
          try {
            handler(lent.memory, lent.offset, announced.length);
          } finally {
            lent.release();
          }
          continue;
        }
        const message = this.#head();
        if (!message) {
          if (this.#unread.length === 0 && this.#ended && count === 0) {
            this.#owner.endOfInput();
            throw new IsthmusError('ERR_ISTHMUS_CLOSED', 'the peer has closed the connection');
          }
          break;
        }
        this.#shift();
        count++;
        handler(message.data, 0, message.data.length);
      }
    } finally {
      this.#polling = false;
    }
    return count;
  }

  /** The next message that nobody waits for, out of the ring and into the queue. */
  #takeNext(): void {
    if (this.#awaited) return;
    const unread = this.#pull(0);
    if (unread) this.#push(unread);
  }

  #borrowNext(): BorrowedMessage | undefined {
    const on = this.#on;
    // Over a stream the ring is ours alone, and small: what holds it would hold up everything behind.
    if (!on?.polled || this.#partial !== undefined || this.#lent) return undefined;
    const offset = on.call.peek(on.index);
    const { words } = on;
    if (offset <= 0 || words[on.flags] !== on.whole || words[on.type] !== 0) return undefined;
    return this.#borrowing?.lend(offset, words[on.xlength] as number, words[on.dlength] as number);
  }

  // ─── posted receives ───────────────────────────────────────────────────────────────────────────────────────────────

  /** Whether something waits unread that a receive takes; if so, the receive has it, and waits no longer. */
  offer(receiver: Receiver): boolean {
    const found = this.find(receiver.match);
    if (!found) return false;
    this.#unread.remove(found);
    this.#took(found);
    this.#deliver(receiver, found);
    return true;
  }

  /** The first unread message that a match function takes. @throws what the function throws */
  find(match: Match | undefined): Unread | undefined {
    if (!match) return this.#unread.peek();
    for (const unread of this.#unread) if (match(this.envelope(unread))) return unread;
    return undefined;
  }

  envelope(unread: Unread): Envelope {
    const length = unread instanceof Message ? unread.data.length : unread.length;
    return { connection: this.#owner.connection, xheader: unread.xheader, length };
  }

  /** Wait for a message of this connection. */
  post(receiver: Receiver): void {
    this.#receivers.push(receiver);
  }

  /** @returns whether it still waited */
  withdraw(receiver: Receiver): boolean {
    return removeFrom(this.#receivers, receiver);
  }

  #deliver(receiver: Receiver, unread: Unread): void {
    const { connection } = this.#owner;
    const { xheader } = unread;
    if (unread instanceof Message) {
      const { data } = unread;
      receiver.complete(connection, new Message(keep(receiver, data), xheader), data.length);
      return;
    }
    const lent = receiver.borrows ? this.#lend(unread) : undefined;
    if (lent) {
      receiver.lend(connection, lent);
      return;
    }
    const { length } = unread;
    receiver.begin();
    const room = Math.min(receiver.maxLength, receiver.target?.length ?? length, length);
    const target = receiver.target?.subarray(0, room) ?? (room < length ? new Uint8Array(room) : undefined);
    const done = (data: Uint8Array) => receiver.complete(connection, new Message(data, xheader), length);
    try {
      const data = unread.fetch(target);
      if (data instanceof Uint8Array) done(data);
      else data.then(done, (error: unknown) => receiver.reject(error));
    } catch (error) {
      receiver.reject(error);
    }
  }

  // ─── unread messages ───────────────────────────────────────────────────────────────────────────────────────────────

  #push(unread: Unread): void {
    this.#unread.push(unread);
    this.#unreadBytes += costOf(unread);
  }

  #shift(): Unread | undefined {
    const unread = this.#unread.shift();
    if (unread) this.#took(unread);
    return unread;
  }

  #took(unread: Unread): void {
    this.#unreadBytes -= costOf(unread);
    // There may be more in the ring than the limit let us take.
    if (this.#unread.length === 0) this.#owner.wake();
  }

  /** The oldest unread message with its data; undefined while that is fetched. */
  #head(): Message | undefined {
    const head = this.#unread.peek();
    if (head === undefined || head instanceof Message) return head;
    if (this.#fetches.has(head)) return undefined;
    const replace = (message: Message) => {
      if (this.#unread.peek() !== head) return;
      this.#unread.replace(message);
      this.#unreadBytes += costOf(message) - costOf(head);
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
      // It will never come: what ended the connection is told in its place.
      if (this.#unread.remove(head)) this.#took(head);
      this.#owner.fail(asError(error));
    };
    fetch.then(replace, failed).finally(() => this.#fetches.delete(head));
    return undefined;
  }

  async #fetch(announced: Announced): Promise<Message> {
    return this.#fetches.get(announced) ?? new Message(await announced.fetch(undefined), announced.xheader);
  }

  /** Nobody reads any more. */
  discard(): void {
    this.#discarding = true;
    for (const unread of this.#unread) if (!(unread instanceof Message)) unread.drop();
    this.#unread.clear();
    this.#unreadBytes = 0;
    for (const receiver of this.#receivers.splice(0)) end(receiver, undefined);
    if (this.#partial && !this.#partial.receiver) this.#partial.room = 0;
  }

  /** The last message has come: tell those who wait for another. */
  dismiss(): void {
    for (const receiver of this.#receivers.splice(0)) {
      let error: unknown;
      try {
        // While something is unread, the application has not seen the end.
        if (this.#unread.length === 0) this.#owner.endOfInput();
      } catch (thrown) {
        error = thrown;
      }
      end(receiver, error);
    }
    const { connection } = this.#owner;
    this.#matching.endProbes(connection, new IsthmusError('ERR_ISTHMUS_CLOSED', 'no further message will come'));
  }

  /**
   * Take everything out of the ring that is in it now. That is at most a ring full: who is lost to us may be paused only,
   * and who said that he has closed may write on all the same.
   * @param lost he may write on at this moment: he gets no more room
   */
  drain(lost = false): void {
    const on = this.#on;
    this.#draining = true;
    if (!on) return;
    const { call, index } = on;
    if (lost && on.polled) call.hold(index);
    const capacity = call.ringCapacity(index);
    const start = call.position(index);
    for (let before = -1, at = start; at !== before && (at - start) >>> 0 < capacity; ) {
      this.progress();
      if (this.#on !== on || this.#ended) return;
      before = at;
      at = call.position(index);
    }
  }

  /** The link has ended, and its ring with it. */
  cut(error: unknown): void {
    this.#ended = true;
    const receiver = this.#partial?.receiver;
    this.#partial = undefined;
    receiver?.reject(error);
    this.evacuate();
  }

  /** The link goes: take what was announced to us out of its region. */
  evacuate(): void {
    // What was announced and lies in the region, lies there as long as the region is ours.
    const unread = [...this.#unread];
    if (!unread.some((one) => !(one instanceof Message) && one.here)) return;
    this.#unread.clear();
    this.#unreadBytes = 0;
    for (const one of unread) {
      const data = one instanceof Message || !one.here ? undefined : one.fetch(undefined);
      this.#push(data instanceof Uint8Array ? new Message(data, one.xheader) : one);
    }
  }

  // ─── out of the ring ───────────────────────────────────────────────────────────────────────────────────────────────

  /** Take what has come, as far as it may be taken; what is left then is for the next look. */
  progress(): void {
    this.#unread.tick();
    this.#left = MOST_RECORDS;
    while (this.#on && !this.#ended && this.#reads) {
      const unread = this.#take(0, false);
      if (!unread) break;
      this.#push(unread);
      this.#matching.announce(this.envelope(unread));
    }
    // Of a stream nobody looks by himself.
    if (this.#left === 0 && this.#on?.polled === false) this.#owner.wake();
  }

  /** The next message that nobody waits for, whatever is unread. @param rounds to look for the rest of a message */
  #pull(rounds: number): Unread | undefined {
    this.#left = MOST_RECORDS;
    return this.#take(rounds, true);
  }

  /**
   * The next message that nobody waits for; what somebody waits for is given to him on the way.
   * @param rounds to look for the rest of a message
   * @param pull go on until there is one, whatever is unread
   */
  #take(rounds: number, pull: boolean): Unread | undefined {
    if (this.#lent) return undefined;
    let patience = rounds;
    let until = 0;
    for (let on = this.#on; on && this.#left > 0; on = this.#on) {
      let offset = on.call.peek(on.index);
      if (offset === NOTHING && this.#partial && patience > 0) {
        // A peer that writes it byte by byte is not to keep the event loop for all of them.
        const now = performance.now();
        if (until === 0) until = now + PATIENCE;
        else if (now > until) patience = 0;
        offset = on.call.peekSpin(on.index, patience);
      }
      if (offset === NOTHING) {
        if (this.#partial) this.#interrupted(this.#partial);
        return undefined;
      }
      if (offset === BROKEN) {
        this.#owner.broken();
        return undefined;
      }
      this.#left--;
      const { layout } = on.core;
      const type = on.words[on.type] as number;
      if (type === layout.MESSAGE_EOF) {
        on.release();
        this.#ended = true;
        return undefined;
      }
      let unread: Unread | undefined;
      try {
        unread = this.#record(on, type, offset);
      } catch (error) {
        this.#owner.fail(asError(error));
        return undefined;
      }
      if (unread) return unread;
      if (!pull && !this.#partial && !this.#reads) return undefined;
    }
    if (this.#partial) this.#interrupted(this.#partial);
    return undefined;
  }

  /** Its rest is not there yet. */
  #interrupted(partial: Partial): void {
    this.#patience >>= 1;
    this.#keepPartial(partial);
  }

  /** One record. @returns a message that nobody waits for, if this was its last */
  #record(on: Carrier, type: number, offset: number): Unread | undefined {
    const { layout } = on.core;
    const { words } = on;
    const flags = words[on.flags] as number;
    const length = words[on.length] as number;
    if ((flags & layout.FLAG_FIRST) !== 0) {
      const xlength = words[on.xlength] as number;
      const dlength = words[on.dlength] as number;
      if (xlength + dlength > this.#owner.maxMessageSize) {
        throw new IsthmusError(
          'ERR_ISTHMUS_MESSAGE_TOO_LARGE',
          `the peer sends a message of ${dlength} bytes with an xheader of ${xlength}; the limit is ${this.#owner.maxMessageSize} for both`,
          { needed: dlength + xlength, available: this.#owner.maxMessageSize },
        );
      }
      if (flags === on.whole && type === layout.MESSAGE_USER) return this.#whole(on, offset, xlength, dlength);
      this.#partial = {
        type,
        xheader: xlength === 0 ? NO_BYTES : new Uint8Array(xlength),
        data: NO_BYTES,
        length: dlength,
        room: dlength,
        have: 0,
        routed: false,
        receiver: undefined,
        sink: undefined,
      };
    }
    const partial = this.#partial as Partial;
    this.#append(on, partial, offset, length);
    if (this.#on !== on) return undefined; // A match function has ended the connection.
    on.release();
    if ((flags & layout.FLAG_LAST) === 0) return undefined;
    this.#partial = undefined;
    if (this.#owner.spins) this.#patience = Math.min(Math.max(2 * this.#patience, LEAST_ROUNDS), FRAGMENT_ROUNDS);
    return this.#complete(on, partial);
  }

  /** A message of the application in one record: the common case. */
  #whole(on: Carrier, offset: number, xlength: number, dlength: number): Message | undefined {
    const { bytes } = on;
    const at = offset + xlength;
    if (this.#discarding) {
      on.release();
      return undefined;
    }
    if (!this.#awaited) return this.#copied(on, offset, xlength, dlength);
    const xheader = () => (xlength === 0 ? NO_BYTES : bytes.slice(offset, at));
    const { connection } = this.#owner;
    const receiver = this.#matching.take(this.#receivers, connection, xheader, dlength);
    if (this.#on !== on) {
      receiver?.reject(new IsthmusError('ERR_ISTHMUS_CLOSED', 'the connection was closed by a match function'));
      return undefined;
    }
    if (receiver?.borrows && on.polled) {
      // It lies in one piece, and nobody else looks at it.
      receiver.lend(connection, (this.#borrowing as Borrowing).lend(offset, xlength, dlength));
      return undefined;
    }
    if (!receiver) {
      const message = new Message(copyOf(bytes, at, dlength), xheader());
      on.release();
      return message;
    }
    const kept = Math.min(dlength, receiver.maxLength, receiver.target?.length ?? dlength);
    let data: Uint8Array;
    if (receiver.target) {
      data = receiver.target.subarray(0, kept);
      copyOut(bytes, at, kept, data);
    } else {
      data = copyOf(bytes, at, kept);
    }
    const message = new Message(data, xheader());
    on.release();
    receiver.complete(connection, message, dlength);
    return undefined;
  }

  #append(on: Carrier, partial: Partial, offset: number, length: number): void {
    const { xheader } = partial;
    let at = offset;
    const end = offset + length;
    if (partial.have < xheader.length) {
      const part = Math.min(length, xheader.length - partial.have);
      xheader.set(on.bytes.subarray(at, at + part), partial.have);
      partial.have += part;
      at += part;
    }
    if (partial.have >= xheader.length && !partial.routed) {
      partial.routed = true;
      this.#route(on, partial);
    }
    if (at === end) return;
    const place = partial.have - xheader.length;
    partial.have += end - at;
    if (partial.sink?.open?.() === false) partial.room = 0;
    const kept = Math.min(end - at, partial.room - place);
    if (kept <= 0) return;
    const needed = place + kept;
    if (needed > partial.data.length) {
      const grown = Buffer.allocUnsafeSlow(Math.min(partial.room, Math.max(needed, partial.data.length * 2)));
      grown.set(partial.data.subarray(0, place));
      partial.data = grown;
    }
    partial.data.set(on.bytes.subarray(at, at + kept), place);
  }

  /** The xheader is here: decide where the data goes. */
  #route(on: Carrier, partial: Partial): void {
    const { length, xheader, type } = partial;
    let target: Uint8Array | undefined;
    if (type !== on.core.layout.MESSAGE_USER) {
      partial.sink = this.#owner.sink(type, xheader, length);
      target = partial.sink?.target;
    } else if (this.#discarding) {
      partial.room = 0;
      return;
    } else if (this.#awaited) {
      const receiver = this.#matching.find(this.#receivers, this.#owner.connection, () => xheader, length);
      if (receiver?.inPlace) {
        this.#matching.leave(this.#receivers, receiver);
        receiver.begin();
        partial.receiver = receiver;
        target = receiver.target;
        partial.room = Math.min(length, receiver.maxLength, target?.length ?? length);
      }
    } else if (this.#intoTarget && this.#intoTarget.length >= length) {
      target = this.#intoTarget.subarray(0, length);
    }
    if (target) {
      partial.room = Math.min(partial.room, target.length);
      partial.data = target.subarray(0, partial.room);
    } else {
      partial.data = Buffer.allocUnsafeSlow(Math.min(partial.room, FIRST_CHUNK));
    }
  }

  /** The last fragment is here. */
  #complete(on: Carrier, partial: Partial): Unread | undefined {
    const { layout } = on.core;
    const { type, xheader, length, receiver } = partial;
    const data = partial.data.length > partial.room ? partial.data.subarray(0, partial.room) : partial.data;
    const { connection } = this.#owner;
    if (receiver) {
      receiver.complete(connection, new Message(data, xheader), length);
      return undefined;
    }
    let unread: Unread;
    if (type === layout.MESSAGE_USER) {
      unread = new Message(data, xheader);
    } else if (type === layout.MESSAGE_RENDEZVOUS_REQ) {
      unread = this.#owner.announced(xheader, data);
    } else {
      this.#owner.control(type, xheader, data);
      return undefined;
    }
    if (this.#discarding) {
      if (!(unread instanceof Message)) unread.drop();
      return undefined;
    }
    if (!this.#awaited) return unread;
    const taker = this.#matching.take(this.#receivers, connection, () => xheader, this.envelope(unread).length);
    if (!taker) return unread;
    this.#deliver(taker, unread);
    return undefined;
  }

  /** A message that began in the caller's buffer goes on in one of our own: the next call may bring another. */
  #keepPartial(partial: Partial): void {
    if (this.#intoTarget && partial.data.buffer === this.#intoTarget.buffer) this.#keep(partial);
  }

  #keep(partial: Partial): void {
    const have = Math.max(0, partial.have - partial.xheader.length);
    const kept = Buffer.allocUnsafeSlow(Math.max(have, Math.min(partial.length, FIRST_CHUNK)));
    kept.set(partial.data.subarray(0, have));
    partial.data = kept;
  }
}

/** What a receiver keeps of data that is in our own memory. */
function keep({ target, maxLength }: Receiver, data: Uint8Array): Uint8Array {
  const kept = data.length > maxLength ? data.subarray(0, maxLength) : data;
  if (!target) return kept;
  const part = kept.length > target.length ? kept.subarray(0, target.length) : kept;
  target.set(part);
  return target.subarray(0, part.length);
}

/** Hand a message to who receives into memory of his own. @returns its length */
function give(data: Uint8Array, xheader: Uint8Array, target: Uint8Array, info: ReceiveInfo | undefined): number {
  if (data.buffer !== target.buffer || data.byteOffset !== target.byteOffset) target.set(data);
  if (info) {
    info.xheaderLength = xheader.length;
    if (info.xheader && info.xheader.length >= xheader.length) info.xheader.set(xheader);
  }
  return data.length;
}

/** No message will come for it. */
function end(receiver: Receiver, error: unknown): void {
  if (error === undefined && receiver instanceof Waiting) receiver.end();
  else receiver.reject(error ?? new IsthmusError('ERR_ISTHMUS_CLOSED', 'the connection was closed'));
}

function tooSmall(needed: number, available: number): IsthmusError {
  return new IsthmusError(
    'ERR_ISTHMUS_BUFFER_TOO_SMALL',
    `the next message has ${needed} bytes, the target ${available}`,
    { needed, available },
  );
}

function asError(error: unknown): IsthmusError {
  if (error instanceof IsthmusError) return error;
  return new IsthmusError('ERR_ISTHMUS_PEER_PROTOCOL', String(error), { cause: error });
}
