/** Reading and writing the peer's memory, and answering the peer that reads and writes this side's (RMA_…). */
import type { RmaOptions, RmaToken } from '../api/remote-memory.js';
import { abortable } from '../base/abortable.js';
import { IsthmusError } from '../base/errors.js';
import { NO_BYTES } from '../base/message.js';
import type { ReadDemand } from '../channel/ring-reader.js';
import type { Sender } from '../channel/sender.js';
import { coreLayout } from '../core/core.js';
import type { LinkBinding } from '../link/link-binding.js';
import { type MessageHandler, NOWHERE, type ProtocolRouter } from '../link/protocol-router.js';
import { type Exposures, READ, randomId, WRITE } from './exposures.js';
import { MAX_PIECES, PIECE_BYTES, protocol, type Replies } from './replies.js';
import { decodeToken, high, low } from './token.js';

/** Behind the id of an RMA_READ_ANSWER: why it has no data. C never sends it. */
const DENIED = 1;
/** Bytes of the xheader of an RMA_READ: id, address, length. */
const READ_HEADER_BYTES = 20;

/** An RMA_READ that the peer has not answered. */
interface PendingRead {
  target: Uint8Array;
  /** Settles with the answer, never rejects. */
  readonly over: Promise<void>;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

export class RemoteAccess implements ReadDemand {
  readonly #binding: LinkBinding;
  readonly #sender: Sender;
  readonly #exposures: Exposures;
  readonly #replies: Replies;
  readonly #reads = new Map<bigint, PendingRead>();
  /** A write of the peer was refused since the last answer. */
  #refused = false;

  constructor(binding: LinkBinding, sender: Sender, exposures: Exposures, replies: Replies) {
    this.#binding = binding;
    this.#sender = sender;
    this.#exposures = exposures;
    this.#replies = replies;
  }

  /** Whether an answer of the peer is expected. */
  get expects(): boolean {
    return this.#reads.size > 0;
  }

  readonly heldBytes = 0;

  /** @param make made with the first message of these types */
  static register(router: ProtocolRouter, make: () => RemoteAccess): void {
    const { MESSAGE_RMA_WRITE, MESSAGE_RMA_READ, MESSAGE_RMA_READ_ANSWER } = coreLayout();
    const handler = (type: number) => make().#handler(type);
    for (const type of [MESSAGE_RMA_WRITE, MESSAGE_RMA_READ, MESSAGE_RMA_READ_ANSWER]) router.register(type, handler);
  }

  #handler(type: number): MessageHandler {
    const { MESSAGE_RMA_WRITE, MESSAGE_RMA_READ } = coreLayout();
    if (type === MESSAGE_RMA_WRITE) return this.#writes;
    return type === MESSAGE_RMA_READ ? this.#requests : this.#answers;
  }

  #check(): void {
    const { lifecycle } = this.#binding;
    if (lifecycle.over) throw lifecycle.closedError();
  }

  // ─── the peer's memory ─────────────────────────────────────────────────────────────────────────────────────────────

  /** `connection.token()` */
  token(bytes: Uint8Array): RmaToken {
    const { base, length, rights, uuid, frame, place, offset } = decodeToken(bytes);
    const { region } = this.#binding;
    const shared = region !== undefined && uuid.some((byte) => byte !== 0) && region.uuid.equals(uuid);
    /** Address of the first byte, in this side's mapping; 0: not granted. */
    const locate = () => {
      const { link, region: now } = this.#binding;
      if (!link || now !== region) return undefined;
      return link.call.granted(link.index, frame, place, low(base), high(base), offset, length, rights) >>> 0;
    };
    const oneSided = () => shared && this.#binding.region === region && this.#binding.link !== undefined;
    const check = (count: number, { offset: from = 0, signal }: RmaOptions, right: number) => {
      signal?.throwIfAborted();
      if (!Number.isSafeInteger(from) || from < 0 || from + count > length) {
        throw denied(`${count} bytes at ${from} of ${length}`);
      }
      if ((rights & right) === 0) throw denied(right === READ ? 'it may not be read' : 'it may not be written');
      this.#check();
      return from;
    };
    /** Copy without the peer. @returns false: not possible any more, ask the peer */
    const directly = (copy: (memory: Uint8Array, at: number) => void, from: number): boolean => {
      const { link } = this.#binding;
      if (!oneSided() || !link) return false;
      const address = locate();
      // Not granted any more: it was withdrawn, as the peer's answer will tell, or has left the region.
      if (address === undefined || address === 0) return false;
      copy(link.bytes, address + from);
      link.check();
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
        // Not granted; or withdrawn meanwhile, so that the bytes may have been of another owner.
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
      const piece = target.subarray(at, Math.min(at + PIECE_BYTES, target.length));
      await this.ask(address + BigInt(at), piece, signal);
      at += piece.length;
    } while (at < target.length);
  }

  async #write(address: bigint, source: Uint8Array, signal: AbortSignal | undefined): Promise<void> {
    const { MESSAGE_RMA_WRITE } = coreLayout();
    for (let at = 0; at < source.length; at += PIECE_BYTES) {
      signal?.throwIfAborted();
      const piece = source.subarray(at, Math.min(at + PIECE_BYTES, source.length));
      const xheader = Buffer.alloc(8);
      xheader.writeBigUInt64LE(BigInt.asUintN(64, address + BigInt(at)));
      // The answer to an empty read right behind it tells that the write was done.
      await this.ask(address + BigInt(at), NO_BYTES, signal, () =>
        this.#sender.control(MESSAGE_RMA_WRITE, xheader, piece),
      );
    }
  }

  /** Fetch bytes behind an address. @param before sends what goes in front of the request */
  async ask(address: bigint, target: Uint8Array, signal?: AbortSignal, before?: () => void): Promise<void> {
    // An announced message may be fetched when the connection is over.
    this.#check();
    while (this.#reads.size >= MAX_PIECES) {
      const [oldest] = this.#reads.values();
      await oldest?.over;
      this.#check();
    }
    signal?.throwIfAborted();
    before?.();
    return this.#askNow(address, target, signal);
  }

  #askNow(address: bigint, target: Uint8Array, signal: AbortSignal | undefined): Promise<void> {
    const { MESSAGE_RMA_READ } = coreLayout();
    const id = randomId();
    const xheader = Buffer.alloc(READ_HEADER_BYTES);
    xheader.writeBigUInt64LE(id, 0);
    xheader.writeBigUInt64LE(BigInt.asUintN(64, address), 8);
    xheader.writeUInt32LE(target.length, 16);
    let over!: () => void;
    const answered = new Promise<void>((resolve) => {
      over = resolve;
    });
    return abortable<void>(signal, (resolve, reject) => {
      const read: PendingRead = {
        target,
        over: answered,
        resolve: () => {
          over();
          resolve();
        },
        reject: (error) => {
          over();
          reject(error);
        },
      };
      this.#reads.set(id, read);
      this.#sender.control(MESSAGE_RMA_READ, xheader, NO_BYTES);
      this.#binding.wake();
      return () => {
        // The answer still comes, and is dropped.
        read.target = NO_BYTES;
      };
    });
  }

  // ─── messages of the peer ──────────────────────────────────────────────────────────────────────────────────────────

  readonly #writes: MessageHandler = {
    begin: (xheader, length) => {
      const header = Buffer.from(xheader);
      const found = header.length >= 8 && this.#exposures.find(header.readBigUInt64LE(0), length, WRITE);
      if (!found) {
        this.#refused = true;
        return NOWHERE;
      }
      const { exposed, offset } = found;
      const open = () => {
        // Withdrawn between two fragments: the memory may have another owner by now.
        const still = this.#exposures.has(exposed);
        if (!still) this.#refused = true;
        return still;
      };
      return { target: exposed.view(offset, length), open };
    },
    // The data is where it belongs.
    complete: () => undefined,
  };

  readonly #requests: MessageHandler = {
    // An RMA_READ has no data.
    begin: () => NOWHERE,
    complete: (xheader) => {
      this.#answer(Buffer.from(xheader));
      return undefined;
    },
  };

  readonly #answers: MessageHandler = {
    begin: (xheader) => {
      const header = Buffer.from(xheader);
      const read = header.length >= 8 && this.#reads.get(header.readBigUInt64LE(0));
      if (!read) return NOWHERE;
      const { target } = read;
      return { target, open: () => read.target === target };
    },
    complete: (xheader, data) => {
      this.#answered(Buffer.from(xheader), data);
      return undefined;
    },
  };

  #answer(header: Buffer): void {
    if (header.length < READ_HEADER_BYTES) throw protocol(`an RMA_READ with an xheader of ${header.length} bytes`);
    this.#replies.check();
    const { MESSAGE_RMA_READ_ANSWER } = coreLayout();
    const id = header.subarray(0, 8);
    const address = header.readBigUInt64LE(8);
    const length = header.readUInt32LE(16);
    // An empty read asks only whether the writes in front of it were done.
    const refused = length === 0 && this.#refused;
    if (length === 0) this.#refused = false;
    const found = refused ? undefined : this.#exposures.find(address, length, length === 0 ? 0 : READ);
    if (found) {
      const { exposed, offset } = found;
      const view = exposed.view(offset, length);
      if (!exposed.copy) {
        this.#replies.send(MESSAGE_RMA_READ_ANSWER, id, view);
        return;
      }
      if (this.#replies.sendCopy(MESSAGE_RMA_READ_ANSWER, id, view, exposed.intact)) return;
    }
    const answer = Buffer.alloc(12);
    id.copy(answer);
    answer.writeUInt32LE(DENIED, 8);
    this.#replies.send(MESSAGE_RMA_READ_ANSWER, answer, NO_BYTES);
  }

  #answered(header: Buffer, data: Uint8Array): void {
    if (header.length < 8) throw protocol('an RMA_READ_ANSWER without an id');
    const id = header.readBigUInt64LE(0);
    const read = this.#reads.get(id);
    if (!read) throw protocol('an RMA_READ_ANSWER that answers no request');
    this.#reads.delete(id);
    if (header.length >= 12 && header.readUInt32LE(8) !== 0) read.reject(denied('the peer knows no such token'));
    else if (data.length !== read.target.length) read.reject(denied('the peer has sent less than was asked for'));
    else read.resolve();
  }

  /** The connection is over. */
  end(error: unknown): void {
    for (const read of this.#reads.values()) read.reject(error);
    this.#reads.clear();
  }
}

function denied(why: string): IsthmusError {
  return new IsthmusError('ERR_ISTHMUS_RMA_DENIED', `the memory of the peer was not to be had: ${why}`);
}
