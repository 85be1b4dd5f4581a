/**
 * Reading and writing the other side's memory, and rendezvous, which is that with a message around it. One for each
 * connection.
 *
 * What goes over the wire as an address is a token, 64 random bits that stand for the first byte of what was exposed; a
 * peer adds an offset to it, as C does to a pointer. It is looked up here, with its bounds and rights, and never
 * dereferenced. In a region the grant of the token lies beside the memory, so that a peer finds it without asking.
 */
import { randomBytes } from 'node:crypto';
import type { ExposeOptions, Exposure, RmaOptions, RmaToken } from '../api/remote-memory.js';
import type { SharedMemory } from '../api/shared-memory.js';
import { IsthmusError } from '../base/errors.js';
import { NO_BYTES } from '../base/message.js';
import type { Carrier } from '../channel/bound-link.js';
import type { Announced, Lent } from '../channel/matching.js';
import type { Sink } from '../channel/receiver.js';
import type { PendingSend } from '../channel/sender.js';
import { type Core, coreLayout } from '../core/core.js';
import type { Region } from '../region/region.js';
import { References } from './in-flight-runs.js';
import { RegionMemory, type Run, takeRun } from './shared-memory.js';
import { decodeToken, encodeToken, high, low } from './token.js';

type Reject = (error: unknown) => void;

/** What a connection does for it. */
export interface RmaOwner {
  /** Queue a message behind what is queued. `resolve` when its bytes are in the ring. @returns undefined: they are */
  sendControl(
    type: number,
    xheader: Uint8Array,
    data: Uint8Array,
    resolve?: () => void,
    reject?: Reject,
  ): PendingSend | undefined;
  /** @returns false: it has started */
  cancel(entry: PendingSend): boolean;
  /** Announce what lies in a run of ours. @returns false: not now */
  announce(frame: number, place: number, length: number, low: number, high: number): boolean;
  /** So many bytes of messages more went through a run than in records. */
  beside(sent: number, received: number): void;
  /** The way to the peer, if there is one now. */
  readonly carrier: Carrier | undefined;
  /** The region that both map, if that is the way. */
  readonly region: Region | undefined;
  readonly maxMessageSize: number;
  /** An answer is expected: look for it. */
  wake(): void;
  /** All that was offered has been fetched. */
  quiet(): void;
  /** Nothing of the peer's is lent to the application any more. */
  settled(): void;
}

// Rights, as in the core's GRANT_….
const READ = 1;
const WRITE = 2;

/** What one RMA_READ asks for at most, in bytes, and how many are under way at once. */
const PIECE = 4 << 20;
const PIECES = 8;
/** Bytes of answers that may wait for room; a peer that asks for more than it takes is cut off. */
const MAX_ANSWERS = PIECE * PIECES * 2;
/** Answers that may wait for room, whatever their length: the like for a peer that reads nothing. */
const MAX_REPLIES = 65_536;
/** Bytes of a RENDEZVOUS_REQ's data: as C sends it, with a reference into a region, and at most. */
const REQUEST = 20;
const REQUEST_WITH_REFERENCE = 28;
const MAX_REQUEST = 4096;
/** Behind the id of an answer: why it has no data. C never sends one. */
const DENIED = 1;

interface Grant {
  readonly core: Core;
  readonly frame: number;
  readonly place: number;
}

interface Exposed {
  readonly base: bigint;
  readonly length: number;
  readonly rights: number;
  /** The bytes, for a plain copy; without `copy` they stay as they are until they have left. */
  view(offset: number, length: number): Uint8Array;
  readonly copy: boolean;
}

interface PendingRead {
  target: Uint8Array;
  /** Settles with the answer, never rejects. */
  readonly over: Promise<void>;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

/** A rendezvous message of ours that the peer has to ask for, and has not fetched yet. */
interface Offer {
  readonly exposed: Exposed;
  readonly resolve: (() => void) | undefined;
  readonly reject: ((error: unknown) => void) | undefined;
}

/** A message that is announced. */
export interface Offered {
  /** @returns false: the announcement is on its way */
  withdraw(): boolean;
}

const ON_ITS_WAY: Offered = { withdraw: () => false };

/** The way in a region to what a RENDEZVOUS_REQ announces. */
interface Reference {
  readonly frame: number;
  readonly place: number;
}

/** A run of the peer's that we hold. */
interface Adopted {
  readonly region: Region;
  /** Of its data. */
  readonly address: number;
  letGo(): void;
}

/** What an application looks at. */
interface Borrowed {
  readonly core: Core;
  readonly offset: number;
  readonly length: number;
}
/** For data that nobody wants. */
const NOWHERE: Sink = { target: NO_BYTES };

const randomId = () => randomBytes(8).readBigUInt64LE();

export class Rma {
  readonly #owner: RmaOwner;
  readonly #exposed = new Map<bigint, Exposed>();
  readonly #withdrawals = new Set<() => void>();
  readonly #reads = new Map<bigint, PendingRead>();
  readonly #offers = new Map<bigint, Offer>();
  readonly #references = new References();
  /** Of runs that we hold. */
  readonly #borrowed = new Set<Borrowed>();
  #answers = 0;
  /** Answers and FINs that wait for room. */
  #replies = 0;
  /** A write of the peer was refused since the last answer. */
  #refused = false;
  #ended: unknown;

  constructor(owner: RmaOwner) {
    this.#owner = owner;
  }

  /** Whether an answer of the peer is expected. */
  get expects(): boolean {
    return this.#reads.size > 0;
  }

  /** Whether the peer has to fetch something before we may go. What lies in a region it takes over by itself. */
  get offering(): boolean {
    return this.#offers.size > 0;
  }

  /** Take back what the peer has taken over, and done with. */
  reclaim(): void {
    this.#references.look();
  }

  // ─── exposing ──────────────────────────────────────────────────────────────────────────────────────────────────────

  expose(memory: SharedMemory | Uint8Array, { read = true, write = false }: ExposeOptions): Exposure {
    if (this.#ended) throw this.#ended;
    if (!(memory instanceof RegionMemory || memory instanceof Uint8Array)) {
      throw new IsthmusError('ERR_ISTHMUS_INVALID_ARGUMENT', 'expose wants a Uint8Array or what allocate() gave');
    }
    const rights = (read ? READ : 0) | (write ? WRITE : 0);
    const base = randomId();
    const { length } = memory;
    const view =
      memory instanceof RegionMemory
        ? (offset: number, count: number) => memory.view(offset, count)
        : (offset: number, count: number) => memory.subarray(offset, offset + count);
    this.#exposed.set(base, { base, length, rights, view, copy: true });
    let grant = memory instanceof RegionMemory ? this.#grant(memory, base, rights) : undefined;
    const token = encodeToken({ base, length, rights, grant, uuid: this.#owner.region?.uuid });
    const revoke = () => {
      grant?.core.call.revoke(grant.frame, grant.place);
      grant = undefined;
    };
    let forget: (() => void) | undefined;
    const withdraw = () => {
      if (!this.#exposed.delete(base)) return;
      this.#withdrawals.delete(withdraw);
      forget?.();
      revoke();
    };
    this.#withdrawals.add(withdraw);
    if (memory instanceof RegionMemory) forget = memory.hold({ moved: revoke, ended: withdraw });
    return {
      token,
      withdraw,
      [Symbol.dispose]: withdraw,
    };
  }

  /** Write the grant beside memory that lies in the region of this connection. */
  #grant(memory: RegionMemory, base: bigint, rights: number): Grant | undefined {
    const { place } = memory;
    if (!('region' in place) || place.region !== this.#owner.region) return undefined;
    const { core } = place.region;
    const number = core.call.grant(place.frame, low(base), high(base), 0, memory.length, rights);
    return number === 0 ? undefined : { core, frame: place.frame, place: number - 1 };
  }

  /** What a number from the peer stands for. */
  #find(address: bigint, length: number, rights: number): { exposed: Exposed; offset: number } | undefined {
    for (const exposed of this.#exposed.values()) {
      const offset = BigInt.asUintN(64, address - exposed.base);
      if (offset > BigInt(exposed.length) || BigInt(length) > BigInt(exposed.length) - offset) continue;
      if ((exposed.rights & rights) !== rights) continue;
      return { exposed, offset: Number(offset) };
    }
    const announced = rights === WRITE ? undefined : this.#references.find(address, length);
    if (!announced) return undefined;
    // From a run that the peer could not take over.
    const view = () => announced;
    return { exposed: { base: address, length, rights: READ, view, copy: true }, offset: 0 };
  }

  // ─── using the peer's ──────────────────────────────────────────────────────────────────────────────────────────────

  token(bytes: Uint8Array): RmaToken {
    const { base, length, rights, uuid, frame, place, offset } = decodeToken(bytes);
    const { region } = this.#owner;
    const shared = region !== undefined && uuid.some((byte) => byte !== 0) && region.uuid.equals(uuid);
    /** Address of the first byte, in our mapping; 0: not granted. */
    const locate = () => {
      const { carrier, region: now } = this.#owner;
      if (!carrier || now !== region) return undefined;
      return carrier.call.granted(carrier.index, frame, place, low(base), high(base), offset, length, rights) >>> 0;
    };
    const oneSided = () => shared && this.#owner.region === region && this.#owner.carrier !== undefined;
    const check = (count: number, { offset: from = 0, signal }: RmaOptions, right: number) => {
      signal?.throwIfAborted();
      if (!Number.isSafeInteger(from) || from < 0 || from + count > length) {
        throw denied(`${count} bytes at ${from} of ${length}`);
      }
      if ((rights & right) === 0) throw denied(right === READ ? 'it may not be read' : 'it may not be written');
      if (this.#ended) throw this.#ended;
      return from;
    };
    /** Copy without the peer. @returns false: not possible any more, ask the peer */
    const directly = (copy: (memory: Uint8Array, at: number) => void, from: number): boolean => {
      const { carrier } = this.#owner;
      if (!oneSided() || !carrier) return false;
      const address = locate();
      // Not granted any more: it was withdrawn, which the peer will say, or has left the region.
      if (address === undefined || address === 0) return false;
      copy(carrier.bytes, address + from);
      return true;
    };
    return {
      length,
      readable: (rights & READ) !== 0,
      writable: (rights & WRITE) !== 0,
      get oneSided() {
        return oneSided();
      },
      read: async (target, options = {}) => {
        const from = check(target.length, options, READ);
        const copied = directly((memory, at) => target.set(memory.subarray(at, at + target.length)), from);
        if (copied && locate() !== 0) return;
        // Not from there; or withdrawn meanwhile, so that it may have been somebody else's bytes.
        if (copied) target.fill(0);
        return this.#read(base + BigInt(from), target, options.signal);
      },
      write: async (source, options = {}) => {
        const from = check(source.length, options, WRITE);
        if (directly((memory, at) => memory.set(source, at), from)) return;
        return this.#write(base + BigInt(from), source, options.signal);
      },
    };
  }

  /** Ask for bytes, piece by piece. */
  async #read(address: bigint, target: Uint8Array, signal: AbortSignal | undefined): Promise<void> {
    let at = 0;
    do {
      signal?.throwIfAborted();
      const piece = target.subarray(at, Math.min(at + PIECE, target.length));
      await this.#ask(address + BigInt(at), piece, signal);
      at += piece.length;
    } while (at < target.length);
  }

  async #write(address: bigint, source: Uint8Array, signal: AbortSignal | undefined): Promise<void> {
    const { MESSAGE_RMA_WRITE } = coreLayout();
    for (let at = 0; at < source.length; at += PIECE) {
      signal?.throwIfAborted();
      const piece = source.subarray(at, Math.min(at + PIECE, source.length));
      const xheader = Buffer.alloc(8);
      xheader.writeBigUInt64LE(BigInt.asUintN(64, address + BigInt(at)));
      // The answer to a read of nothing right behind it tells that it was done.
      await this.#ask(address + BigInt(at), NO_BYTES, signal, () =>
        this.#owner.sendControl(MESSAGE_RMA_WRITE, xheader, piece),
      );
    }
  }

  async #ask(address: bigint, target: Uint8Array, signal: AbortSignal | undefined, before?: () => void): Promise<void> {
    // What was announced may be fetched when nobody is there to answer any more.
    if (this.#ended) throw this.#ended;
    while (this.#reads.size >= PIECES) {
      const [oldest] = this.#reads.values();
      await oldest?.over;
      if (this.#ended) throw this.#ended;
    }
    before?.();
    return this.#askNow(address, target, signal);
  }

  #askNow(address: bigint, target: Uint8Array, signal: AbortSignal | undefined): Promise<void> {
    const { MESSAGE_RMA_READ } = coreLayout();
    const id = randomId();
    const xheader = Buffer.alloc(20);
    xheader.writeBigUInt64LE(id, 0);
    xheader.writeBigUInt64LE(BigInt.asUintN(64, address), 8);
    xheader.writeUInt32LE(target.length, 16);
    return new Promise((resolve, reject) => {
      let over!: () => void;
      const settle = () => {
        signal?.removeEventListener('abort', abort);
        over();
      };
      const read: PendingRead = {
        target,
        over: new Promise((done) => {
          over = done;
        }),
        resolve: () => {
          settle();
          resolve();
        },
        reject: (error) => {
          settle();
          reject(error);
        },
      };
      const abort = () => {
        // Its answer still comes, and goes nowhere.
        read.target = NO_BYTES;
        reject(signal?.reason);
      };
      signal?.addEventListener('abort', abort, { once: true });
      this.#reads.set(id, read);
      this.#owner.sendControl(MESSAGE_RMA_READ, xheader, NO_BYTES);
      this.#owner.wake();
    });
  }

  // ─── rendezvous ────────────────────────────────────────────────────────────────────────────────────────────────────

  /**
   * Announce a message instead of sending it.
   * @param keep the bytes stay as they are until `resolve`; otherwise they have to be copied into a region
   * @returns undefined: it cannot be, send it as it is
   */
  offer(
    xheader: Uint8Array,
    data: Uint8Array,
    keep: boolean,
    resolve?: () => void,
    reject?: Reject,
  ): Offered | undefined {
    const { carrier, region } = this.#owner;
    if (!carrier || this.#ended) return undefined;
    const run = region && takeRun(region, data.length);
    if (region && run) {
      region.core.bytes.set(data, run.address);
      // The bytes are the caller's again as soon as the announcement has its place in the order of messages.
      return this.pass(region, run, data.length, xheader, resolve, reject);
    }
    // Through the ring, when the region has no room for it.
    if (region || !keep) return undefined;
    const [id, base] = [randomId(), randomId()];
    this.#offer(id, base, (offset, length) => data.subarray(offset, offset + length), data.length, resolve, reject);
    const request = Buffer.alloc(REQUEST);
    request.writeBigUInt64LE(id, 0);
    request.writeBigUInt64LE(base, 8);
    request.writeUInt32LE(data.length, 16);
    const waiting = this.#owner.sendControl(coreLayout().MESSAGE_RENDEZVOUS_REQ, xheader, request);
    return this.#offered(waiting, id);
  }

  /** @param beside bytes in a run */
  #offered(waiting: PendingSend | undefined, id: bigint, beside = 0): Offered {
    if (!waiting) return ON_ITS_WAY;
    return {
      withdraw: () => {
        if (!this.#owner.cancel(waiting)) return false;
        this.#owner.beside(-beside, 0);
        const offer = this.#offers.get(id);
        if (offer) this.#exposed.delete(offer.exposed.base);
        if (!this.#offers.delete(id)) this.#references.finished(id);
        return true;
      },
    };
  }

  /** Bytes that stay as they are until they are fetched. */
  #offer(id: bigint, base: bigint, view: Exposed['view'], length: number, resolve?: () => void, reject?: Reject): void {
    const exposed = { base, length, rights: READ, view, copy: false };
    this.#exposed.set(base, exposed);
    this.#offers.set(id, { exposed, resolve, reject });
  }

  /**
   * Announce a message that lies in a run of ours, of the region of this link. The run belongs to the message from here.
   * @param resolve when the announcement has its place in the order of messages
   */
  pass(region: Region, run: Run, length: number, xheader: Uint8Array, resolve?: () => void, reject?: Reject): Offered {
    const { low, high } = this.#references.add(region, run, length);
    const { call, layout } = region.core;
    const place = call.grant(run.frame, low, high, 0, length, READ) - 1;
    const beside = length - layout.REQUEST_SIZE;
    this.#owner.beside(beside, 0);
    if (xheader.length === 0 && this.#owner.announce(run.frame, place, length, low, high)) {
      resolve?.();
      return ON_ITS_WAY;
    }
    const request = new Uint8Array(layout.REQUEST_SIZE);
    // The token is its id, too: who takes the run over need not say that he is done.
    for (let at = 0; at < 16; at += 8) {
      putWord(request, at, low);
      putWord(request, at + 4, high);
    }
    putWord(request, 16, length);
    putWord(request, 20, run.frame);
    putWord(request, 24, place);
    const waiting = this.#owner.sendControl(layout.MESSAGE_RENDEZVOUS_REQ, xheader, request, resolve, reject);
    return waiting ? this.#offered(waiting, (BigInt(high) << 32n) | BigInt(low), beside) : ON_ITS_WAY;
  }

  /** A RENDEZVOUS_REQ has come. */
  announced(xheader: Uint8Array, data: Uint8Array): Announced {
    if (data.length < REQUEST) throw protocol(`a RENDEZVOUS_REQ of ${data.length} bytes`);
    this.#checkReplies();
    const request = Buffer.from(data);
    const id = request.readBigUInt64LE(0);
    const base = request.readBigUInt64LE(8);
    const length = request.readUInt32LE(16);
    if (length + xheader.length > this.#owner.maxMessageSize) {
      throw new IsthmusError(
        'ERR_ISTHMUS_MESSAGE_TOO_LARGE',
        `the peer announces a message of ${length} bytes; the limit is ${this.#owner.maxMessageSize}`,
        { needed: length + xheader.length, available: this.#owner.maxMessageSize },
      );
    }
    const reference =
      request.length >= REQUEST_WITH_REFERENCE
        ? { frame: request.readUInt32LE(20), place: request.readUInt32LE(24) }
        : undefined;
    const adopted = reference && this.#adopt(base, length, reference);
    if (adopted) this.#owner.beside(0, length - data.length);
    /** Whether the sender still has it, and wants to know when it is fetched. */
    let asked = false;
    const done = () => {
      adopted?.letGo();
      if (this.#ended || (adopted && id === base && !asked)) return;
      const fin = Buffer.alloc(8);
      fin.writeBigUInt64LE(id);
      this.#reply(coreLayout().MESSAGE_RENDEZVOUS_FIN, fin, NO_BYTES);
    };
    return {
      xheader,
      length,
      get here() {
        return adopted?.region.usable === true;
      },
      fetch: (target) => {
        const want = target ? Math.min(target.length, length) : length;
        if (adopted?.region.usable) {
          const bytes = target?.subarray(0, want) ?? Buffer.allocUnsafeSlow(want);
          const { address } = adopted;
          bytes.set(adopted.region.core.bytes.subarray(address, address + want));
          done();
          return bytes;
        }
        asked = true;
        return this.#fetch(base, target?.subarray(0, want), want).then((bytes) => {
          done();
          return bytes;
        });
      },
      lend: () => (adopted?.region.usable ? this.#lend(adopted, length, done) : undefined),
      drop: done,
    };
  }

  #lend({ region, address }: Adopted, length: number, done: () => void): Lent {
    const borrowed: Borrowed = { core: region.core, offset: address, length };
    this.#borrowed.add(borrowed);
    return {
      memory: region.core.bytes,
      offset: address,
      release: () => {
        this.#borrowed.delete(borrowed);
        done();
        if (this.#borrowed.size === 0) this.#owner.settled();
      },
    };
  }

  /** Messages that the application looks at where they lie. */
  get borrowed(): number {
    return this.#borrowed.size;
  }

  /** The memory under a region goes. @returns places in it that must keep their bytes */
  abandon(core: Core): { readonly offset: number; readonly length: number }[] {
    return [...this.#borrowed].filter((borrowed) => borrowed.core === core);
  }

  /**
   * Take the run over that an announcement points to: from here on it stays, also when the peer dies.
   * @returns undefined: it is not there, or not what was announced
   */
  #adopt(base: bigint, length: number, { frame, place }: Reference): Adopted | undefined {
    const { carrier, region } = this.#owner;
    if (!carrier || !region) return undefined;
    const { call } = region.core;
    const address = call.adoptGranted(carrier.index, frame, place, low(base), high(base), length) >>> 0;
    if (address === 0) return undefined;
    return {
      region,
      address,
      letGo: () => {
        if (region.usable) call.letGoRun(frame, length);
      },
    };
  }

  /** Fetch by messages. Memory grows with what comes, not with what is announced. */
  async #fetch(base: bigint, target: Uint8Array | undefined, length: number): Promise<Uint8Array> {
    let bytes = target ?? Buffer.allocUnsafeSlow(Math.min(length, PIECE));
    for (let at = 0; at < length; ) {
      const piece = Math.min(PIECE, length - at);
      if (bytes.length < at + piece) {
        const grown = Buffer.allocUnsafeSlow(Math.min(length, Math.max(at + piece, bytes.length * 2)));
        grown.set(bytes.subarray(0, at));
        bytes = grown;
      }
      await this.#ask(base + BigInt(at), bytes.subarray(at, at + piece), undefined);
      at += piece;
    }
    return bytes;
  }

  /** The link goes: what was announced to the peer in a region is kept here, where the peer can ask for it. */
  evacuate(): void {
    this.#references.evacuate((token, bytes) =>
      this.#offer(token, token, (offset, length) => bytes.subarray(offset, offset + length), bytes.length),
    );
  }

  #finished(id: bigint): void {
    const offer = this.#offers.get(id);
    if (!offer) {
      this.#references.finished(id);
      return; // Or fetched twice, or never offered: nothing depends on it.
    }
    this.#offers.delete(id);
    this.#exposed.delete(offer.exposed.base);
    offer.resolve?.();
    if (!this.offering) this.#owner.quiet();
  }

  // ─── messages of the peer ──────────────────────────────────────────────────────────────────────────────────────────

  /** Where the data of a message goes. @throws IsthmusError if it cannot be */
  sink(type: number, xheader: Uint8Array, length: number): Sink | undefined {
    const layout = coreLayout();
    const header = Buffer.from(xheader);
    switch (type) {
      case layout.MESSAGE_RMA_WRITE: {
        const found = header.length >= 8 && this.#find(header.readBigUInt64LE(0), length, WRITE);
        if (!found) {
          this.#refused = true;
          return NOWHERE;
        }
        const { exposed, offset } = found;
        const open = () => {
          // Withdrawn between two fragments: whose memory it is by now nobody knows.
          const still = this.#exposed.get(exposed.base) === exposed;
          if (!still) this.#refused = true;
          return still;
        };
        return { target: exposed.view(offset, length), open };
      }
      case layout.MESSAGE_RMA_READ_ANSWER: {
        const read = header.length >= 8 && this.#reads.get(header.readBigUInt64LE(0));
        if (!read) return NOWHERE;
        const { target } = read;
        return { target, open: () => read.target === target };
      }
      case layout.MESSAGE_RENDEZVOUS_REQ:
        if (length > MAX_REQUEST) throw protocol(`a RENDEZVOUS_REQ of ${length} bytes`);
        return undefined;
      default:
        // RMA_READ and RENDEZVOUS_FIN have no data.
        return NOWHERE;
    }
  }

  control(type: number, xheader: Uint8Array, data: Uint8Array): void {
    const layout = coreLayout();
    const header = Buffer.from(xheader);
    switch (type) {
      case layout.MESSAGE_RMA_READ:
        this.#answer(header, layout.MESSAGE_RMA_READ_ANSWER);
        return;
      case layout.MESSAGE_RMA_READ_ANSWER:
        this.#answered(header, data);
        return;
      case layout.MESSAGE_RENDEZVOUS_FIN:
        if (header.length >= 8) this.#finished(header.readBigUInt64LE(0));
        return;
      default:
        return; // RMA_WRITE: its data is where it belongs.
    }
  }

  #answer(header: Buffer, type: number): void {
    if (header.length < 20) throw protocol(`an RMA_READ with an xheader of ${header.length} bytes`);
    this.#checkReplies();
    const id = header.subarray(0, 8);
    const address = header.readBigUInt64LE(8);
    const length = header.readUInt32LE(16);
    // Of no length: only whether what was written before has been taken.
    const refused = length === 0 && this.#refused;
    if (length === 0) this.#refused = false;
    const found = refused ? undefined : this.#find(address, length, length === 0 ? 0 : READ);
    if (!found) {
      const answer = Buffer.alloc(12);
      id.copy(answer);
      answer.writeUInt32LE(DENIED, 8);
      this.#reply(type, answer, NO_BYTES);
      return;
    }
    const view = found.exposed.view(found.offset, length);
    // What was offered stays until it is fetched; the rest may be withdrawn before its bytes have left.
    if (!found.exposed.copy) {
      this.#reply(type, id, view);
      return;
    }
    if (this.#answers + length > MAX_ANSWERS) throw protocol('the peer asks for more than it takes');
    this.#answers += length;
    this.#reply(type, id, new Uint8Array(view), () => {
      this.#answers -= length;
    });
  }

  #reply(type: number, xheader: Uint8Array, data: Uint8Array, sent?: () => void): void {
    this.#replies++;
    this.#owner.sendControl(type, xheader, data, () => {
      this.#replies--;
      sent?.();
    });
  }

  #checkReplies(): void {
    if (this.#replies >= MAX_REPLIES) throw protocol('the peer asks for more than it takes');
  }

  #answered(header: Buffer, data: Uint8Array): void {
    if (header.length < 8) throw protocol('an RMA_READ_ANSWER without an id');
    const id = header.readBigUInt64LE(0);
    const read = this.#reads.get(id);
    if (!read) throw protocol('an RMA_READ_ANSWER that nobody asked for');
    this.#reads.delete(id);
    if (header.length >= 12 && header.readUInt32LE(8) !== 0) read.reject(denied('the peer knows no such token'));
    else if (data.length !== read.target.length) read.reject(denied('the peer has sent less than was asked for'));
    else read.resolve();
  }

  // ─── ending ────────────────────────────────────────────────────────────────────────────────────────────────────────

  /**
   * The connection has ended.
   * @param cut by us: the peer may be about to take over what was announced to it
   */
  end(error: unknown, cut: boolean): void {
    this.#ended ??= error;
    for (const withdraw of [...this.#withdrawals]) withdraw();
    for (const offer of this.#offers.values()) offer.reject?.(error);
    this.#offers.clear();
    this.#references.end(cut);
    this.#exposed.clear();
    for (const read of this.#reads.values()) read.reject(error);
    this.#reads.clear();
  }
}

function putWord(bytes: Uint8Array, at: number, word: number): void {
  bytes[at] = word;
  bytes[at + 1] = word >>> 8;
  bytes[at + 2] = word >>> 16;
  bytes[at + 3] = word >>> 24;
}

function denied(why: string): IsthmusError {
  return new IsthmusError('ERR_ISTHMUS_RMA_DENIED', `the memory of the peer was not to be had: ${why}`);
}

function protocol(what: string): IsthmusError {
  return new IsthmusError('ERR_ISTHMUS_PEER_PROTOCOL', what);
}
