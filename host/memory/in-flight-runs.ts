/**
 * Messages in runs of ours that a peer takes over by reference, and what becomes of them: the frame map tells.
 *
 * The announcement (RENDEZVOUS_REQ) of such a message has its token as its id, too. A peer that adopts the reader's half
 * of the run has the message, and says nothing more of it: when that half is gone, the run is ours again. Should the region
 * go away before, the bytes move to memory of our own, and the token stands for them there.
 */
import { randomFillSync } from 'node:crypto';
import type { Region } from '../region/region.js';
import { giveBack, type Run } from './shared-memory.js';

/** A message that is on its way. */
interface Sent {
  readonly region: Region;
  readonly run: Run;
  /** In bytes. */
  readonly length: number;
  // Of its token.
  readonly low: number;
  readonly high: number;
}

/** How often the frame map is looked at while nothing is sent, in milliseconds. */
const LOOK = 100;
/** With so many on their way it is looked at for all of them, not for the oldest only. */
const MANY = 32;
/** How long what was announced stays there when we cut the connection, in milliseconds: a peer may be about to adopt it. */
const LINGER = 5000;

const pool = new Uint32Array(1024);
let drawn = pool.length;

/** 32 random bits. */
function draw(): number {
  if (drawn === pool.length) {
    randomFillSync(pool);
    drawn = 0;
  }
  return pool[drawn++] as number;
}

const wordOf = ({ low, high }: Sent) => (BigInt(high) << 32n) | BigInt(low);

export class References {
  #sent: Sent[] = [];
  #timer: NodeJS.Timeout | undefined;

  /** The run belongs to the message from here on. @returns its token: two halves of 32 bits */
  add(region: Region, run: Run, length: number): { readonly low: number; readonly high: number } {
    this.#reap();
    const sent: Sent = { region, run, length, low: draw(), high: draw() };
    this.#sent.push(sent);
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      this.look();
    }, LOOK).unref();
    return sent;
  }

  /** Take back what the peer has done with: mostly it is done in their order. */
  #reap(): void {
    if (this.#sent.length >= MANY) this.look();
    for (let sent = this.#sent[0]; sent && isOver(sent); sent = this.#sent[0]) {
      this.#sent.shift();
      retire(sent);
    }
  }

  /** Let go of all that the peer has taken over: when it has done with it is between it and the frame map. */
  look(): void {
    this.#sent = this.#sent.filter((sent) => {
      if (isOffered(sent)) return true;
      retire(sent);
      return false;
    });
    if (this.#sent.length > 0) this.#timer?.refresh();
  }

  /** The bytes that an address stands for which a peer has asked for. */
  find(address: bigint, length: number): Uint8Array | undefined {
    for (const sent of this.#sent) {
      const offset = BigInt.asUintN(64, address - wordOf(sent));
      if (offset > BigInt(sent.length) || BigInt(length) > BigInt(sent.length) - offset) continue;
      return bytesOf(sent).subarray(Number(offset), Number(offset) + length);
    }
    return undefined;
  }

  /** The peer has fetched one by its token. @returns false: it is none of these */
  finished(token: bigint): boolean {
    const at = this.#sent.findIndex((sent) => wordOf(sent) === token);
    if (at < 0) return false;
    for (const sent of this.#sent.splice(at, 1)) retire(sent);
    return true;
  }

  /** The link goes. @param keep is given what the peer has not taken over, and has to ask for from now on */
  evacuate(keep: (token: bigint, bytes: Uint8Array) => void): void {
    for (const sent of this.#sent.splice(0)) {
      // First the copy: the frames may be somebody else's the moment that they are given back.
      const bytes = isOffered(sent) ? bytesOf(sent).slice() : undefined;
      if (retire(sent) && bytes) keep(wordOf(sent), bytes);
    }
  }

  /** The connection has ended. @param cut by us */
  end(cut: boolean): void {
    clearTimeout(this.#timer);
    this.look();
    clearTimeout(this.#timer);
    const rest = this.#sent.splice(0);
    const all = () => {
      for (const sent of rest) retire(sent);
    };
    if (cut && rest.length > 0) setTimeout(all, LINGER).unref();
    else all();
  }
}

function bytesOf({ region, run, length }: Sent): Uint8Array {
  return region.core.bytes.subarray(run.address, run.address + length);
}

function isOffered({ region, run }: Sent): boolean {
  const { call, layout } = region.core;
  return region.attached && call.halfKind(run.frame, layout.HALF_CONSUMER) === layout.KIND_OFFERED;
}

/** Whether the peer has taken it, and given it back. */
function isOver({ region, run }: Sent): boolean {
  const { call, layout } = region.core;
  return !region.attached || call.halfKind(run.frame, layout.HALF_CONSUMER) === 0;
}

/**
 * The token stays where it is: a peer that is taking the run over at this moment looks at it once more behind that.
 * @returns whether nobody has taken it over, and nobody will
 */
function retire({ region, run, length }: Sent): boolean {
  return !region.attached || giveBack(region, run.frame, length);
}
