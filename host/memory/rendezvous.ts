/**
 * Large messages by announcement: the peer adopts the run in which the data lies, or fetches the data by RMA_READ
 * (RENDEZVOUS_REQ, RENDEZVOUS_FIN).
 */
import { IsthmusError } from '../base/errors.js';
import { NO_BYTES } from '../base/message.js';
import type { PendingSend, Sender } from '../channel/sender.js';
import { type Core, coreLayout } from '../core/core.js';
import type { Extent } from '../link/borrowed-records.js';
import type { LinkBinding } from '../link/link-binding.js';
import { type MessageHandler, NOWHERE, type ProtocolRouter } from '../link/protocol-router.js';
import type { Announced, Lent } from '../matching/announced.js';
import type { Region } from '../region/region.js';
import { type Run, takeRun } from '../region/runs.js';
import { type Exposed, type Exposures, READ, randomId, type View } from './exposures.js';
import type { InFlightRuns } from './in-flight-runs.js';
import { PIECE_BYTES, protocol, type Replies } from './replies.js';
import { high, low } from './token.js';

/** Bytes of a RENDEZVOUS_REQ's data: id, address, length; with a reference into a region; and at most. */
const REQUEST_BYTES = 20;
const REQUEST_WITH_REFERENCE_BYTES = 28;
const MAX_REQUEST_BYTES = 4096;

type Reject = (error: unknown) => void;

/** Fills `target` from an address of the peer, by an RMA_READ. */
type ReadRemote = (address: bigint, target: Uint8Array) => Promise<void>;

/** A message of this side that the peer has to fetch, and has not fetched yet. */
interface Offer {
  readonly exposed: Exposed;
  readonly resolve: (() => void) | undefined;
  readonly reject: Reject | undefined;
}

/** An announcement that was sent, or waits for room. */
export interface Offered {
  /** @returns false: the announcement is on its way */
  withdraw(): boolean;
}

const ON_ITS_WAY: Offered = { withdraw: () => false };

/** The place in a region of what a RENDEZVOUS_REQ announces. */
interface Reference {
  readonly frame: number;
  readonly place: number;
}

/** A run of the peer that this side has adopted. */
interface Adopted {
  readonly region: Region;
  /** Of its data. */
  readonly address: number;
  release(): void;
}

/** A part of an adopted run that the application reads in place. */
interface Borrowed extends Extent {
  readonly core: Core;
}

export class Rendezvous {
  /** The peer has fetched the last of what was offered. Set by the connection. */
  onOffersFetched: () => void = () => {};
  /** The application has given back the last of what it read in place. Set by the connection. */
  onBorrowReturned: () => void = () => {};
  readonly #binding: LinkBinding;
  readonly #sender: Sender;
  readonly #exposures: Exposures;
  readonly #inFlight: InFlightRuns;
  readonly #read: ReadRemote;
  readonly #replies: Replies;
  readonly #maxMessageSize: number;
  readonly #offers = new Map<bigint, Offer>();
  readonly #borrowed = new Set<Borrowed>();

  constructor(
    binding: LinkBinding,
    sender: Sender,
    exposures: Exposures,
    inFlight: InFlightRuns,
    read: ReadRemote,
    replies: Replies,
    maxMessageSize: number,
  ) {
    this.#binding = binding;
    this.#sender = sender;
    this.#exposures = exposures;
    this.#inFlight = inFlight;
    this.#read = read;
    this.#replies = replies;
    this.#maxMessageSize = maxMessageSize;
  }

  /** @param make made with the first message of these types */
  static register(router: ProtocolRouter, make: () => Rendezvous): void {
    const { MESSAGE_RENDEZVOUS_REQ, MESSAGE_RENDEZVOUS_FIN } = coreLayout();
    const handler = (type: number) => (type === MESSAGE_RENDEZVOUS_REQ ? make().#requests : make().#fins);
    for (const type of [MESSAGE_RENDEZVOUS_REQ, MESSAGE_RENDEZVOUS_FIN]) router.register(type, handler);
  }

  /** Whether the peer has to fetch something before this side may end. It adopts by itself what lies in a region. */
  get offering(): boolean {
    return this.#offers.size > 0;
  }

  /** Number of messages that the application reads in place. */
  get borrowed(): number {
    return this.#borrowed.size;
  }

  // ─── sending ───────────────────────────────────────────────────────────────────────────────────────────────────────

  /**
   * Announce a message instead of sending it.
   * @param keep the bytes stay as they are until `resolve`; otherwise they have to be copied into a region
   * @returns undefined: it cannot be announced, send it through the ring
   */
  offer(
    xheader: Uint8Array,
    data: Uint8Array,
    keep: boolean,
    resolve?: () => void,
    reject?: Reject,
  ): Offered | undefined {
    const { link, region, lifecycle } = this.#binding;
    if (!link || lifecycle.over) return undefined;
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
    const request = Buffer.alloc(REQUEST_BYTES);
    request.writeBigUInt64LE(id, 0);
    request.writeBigUInt64LE(base, 8);
    request.writeUInt32LE(data.length, 16);
    const waiting = this.#sender.control(coreLayout().MESSAGE_RENDEZVOUS_REQ, xheader, request);
    return this.#offered(waiting, id);
  }

  /** @param outOfBand bytes that lie in a run */
  #offered(waiting: PendingSend | undefined, id: bigint, outOfBand = 0): Offered {
    if (!waiting) return ON_ITS_WAY;
    return {
      withdraw: () => {
        if (!this.#sender.cancel(waiting)) return false;
        this.#binding.sentOutOfBand -= outOfBand;
        const offer = this.#offers.get(id);
        if (offer) this.#exposures.remove(offer.exposed);
        if (!this.#offers.delete(id)) this.#inFlight.finished(id);
        return true;
      },
    };
  }

  /** Bytes that stay as they are until the peer has fetched them. */
  #offer(id: bigint, base: bigint, view: View, length: number, resolve?: () => void, reject?: Reject): void {
    this.#offers.set(id, { exposed: this.#exposures.add(base, length, view), resolve, reject });
  }

  /**
   * Announce a message that lies in a run of this side, in the region of this link. The run belongs to the message from here
   * on.
   * @param resolve called when the announcement has its place in the order of messages
   */
  pass(region: Region, run: Run, length: number, xheader: Uint8Array, resolve?: () => void, reject?: Reject): Offered {
    const { low, high } = this.#inFlight.add(region, run, length);
    const { call, layout } = region.core;
    const place = call.grant(run.frame, low, high, 0, length, READ) - 1;
    const outOfBand = length - layout.REQUEST_SIZE;
    this.#binding.sentOutOfBand += outOfBand;
    if (xheader.length === 0 && this.#sender.announce(run.frame, place, length, low, high)) {
      resolve?.();
      return ON_ITS_WAY;
    }
    const request = new Uint8Array(layout.REQUEST_SIZE);
    // The token is the id, too: a peer that adopts the run sends no FIN.
    for (let at = 0; at < 16; at += 8) {
      putWord(request, at, low);
      putWord(request, at + 4, high);
    }
    putWord(request, 16, length);
    putWord(request, 20, run.frame);
    putWord(request, 24, place);
    const waiting = this.#sender.control(layout.MESSAGE_RENDEZVOUS_REQ, xheader, request, resolve, reject);
    return waiting ? this.#offered(waiting, (BigInt(high) << 32n) | BigInt(low), outOfBand) : ON_ITS_WAY;
  }

  // ─── messages of the peer ──────────────────────────────────────────────────────────────────────────────────────────

  readonly #requests: MessageHandler = {
    begin: (_xheader, length) => {
      if (length > MAX_REQUEST_BYTES) throw protocol(`a RENDEZVOUS_REQ of ${length} bytes`);
      return undefined;
    },
    complete: (xheader, data) => this.#announced(xheader, data),
  };

  readonly #fins: MessageHandler = {
    // A RENDEZVOUS_FIN has no data.
    begin: () => NOWHERE,
    complete: (xheader) => {
      const header = Buffer.from(xheader);
      if (header.length >= 8) this.#finished(header.readBigUInt64LE(0));
      return undefined;
    },
  };

  #announced(xheader: Uint8Array, data: Uint8Array): Announced {
    if (data.length < REQUEST_BYTES) throw protocol(`a RENDEZVOUS_REQ of ${data.length} bytes`);
    this.#replies.check();
    const request = Buffer.from(data);
    const id = request.readBigUInt64LE(0);
    const base = request.readBigUInt64LE(8);
    const length = request.readUInt32LE(16);
    if (length + xheader.length > this.#maxMessageSize) {
      throw new IsthmusError(
        'ERR_ISTHMUS_MESSAGE_TOO_LARGE',
        `the peer announces a message of ${length} bytes; the limit is ${this.#maxMessageSize}`,
        { needed: length + xheader.length, available: this.#maxMessageSize },
      );
    }
    const reference =
      request.length >= REQUEST_WITH_REFERENCE_BYTES
        ? { frame: request.readUInt32LE(20), place: request.readUInt32LE(24) }
        : undefined;
    const adopted = reference && this.#adopt(base, length, reference);
    if (adopted) this.#binding.receivedOutOfBand += length - data.length;
    /** Whether the sender still has it, and waits for a FIN. */
    let fetched = false;
    const done = () => {
      adopted?.release();
      if (this.#binding.lifecycle.over || (adopted && id === base && !fetched)) return;
      const fin = Buffer.alloc(8);
      fin.writeBigUInt64LE(id);
      this.#replies.send(coreLayout().MESSAGE_RENDEZVOUS_FIN, fin, NO_BYTES);
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
          const { core } = adopted.region;
          bytes.set(core.bytes.subarray(address, address + want));
          if (core.lost) throw core.lostError();
          done();
          return bytes;
        }
        fetched = true;
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
        if (this.#borrowed.size === 0) this.onBorrowReturned();
      },
    };
  }

  /**
   * Adopt the run that an announcement points to: from here on it stays, also when the peer dies.
   * @returns undefined: the run is not there, or is not what was announced
   */
  #adopt(base: bigint, length: number, { frame, place }: Reference): Adopted | undefined {
    const { link, region } = this.#binding;
    if (!link || !region) return undefined;
    const { call } = region.core;
    const address = call.adoptGranted(link.index, frame, place, low(base), high(base), length) >>> 0;
    if (address === 0) return undefined;
    return {
      region,
      address,
      release: () => {
        if (region.usable) call.letGoRun(frame, length);
      },
    };
  }

  /** Fetch by messages. Memory grows with what comes, not with what is announced. */
  async #fetch(base: bigint, target: Uint8Array | undefined, length: number): Promise<Uint8Array> {
    let bytes = target ?? Buffer.allocUnsafeSlow(Math.min(length, PIECE_BYTES));
    for (let at = 0; at < length; ) {
      const piece = Math.min(PIECE_BYTES, length - at);
      if (bytes.length < at + piece) {
        const grown = Buffer.allocUnsafeSlow(Math.min(length, Math.max(at + piece, bytes.length * 2)));
        grown.set(bytes.subarray(0, at));
        bytes = grown;
      }
      await this.#read(base + BigInt(at), bytes.subarray(at, at + piece));
      at += piece;
    }
    return bytes;
  }

  #finished(id: bigint): void {
    const offer = this.#offers.get(id);
    if (!offer) {
      // A message in a run; or one that was fetched twice, or never offered: nothing depends on it.
      this.#inFlight.finished(id);
      return;
    }
    this.#offers.delete(id);
    this.#exposures.remove(offer.exposed);
    offer.resolve?.();
    if (!this.offering) this.onOffersFetched();
  }

  // ─── ending ────────────────────────────────────────────────────────────────────────────────────────────────────────

  /** The link goes away: what was announced in its region is kept here, where the peer can ask for it. */
  evacuate(): void {
    this.#inFlight.evacuate((token, bytes) =>
      this.#offer(token, token, (offset, length) => bytes.subarray(offset, offset + length), bytes.length),
    );
  }

  /** The memory under a region goes away. @returns the parts of it that must keep their bytes */
  abandon(core: Core): Extent[] {
    return [...this.#borrowed].filter((borrowed) => borrowed.core === core);
  }

  /** The connection is over. */
  end(error: unknown): void {
    for (const offer of this.#offers.values()) offer.reject?.(error);
    this.#offers.clear();
  }
}

function putWord(bytes: Uint8Array, at: number, word: number): void {
  bytes[at] = word;
  bytes[at + 1] = word >>> 8;
  bytes[at + 2] = word >>> 16;
  bytes[at + 3] = word >>> 24;
}
