/**
 * Messages in runs of this side that a peer adopts by reference, and what becomes of them: the frame map tells.
 *
 * The announcement (RENDEZVOUS_REQ) of such a message has its token as its id, too. A peer that adopts the consumer's half
 * of the run has the message, and sends nothing more about it: when that half is free, the run belongs to this side again.
 * If the region goes away before, the bytes move to memory of the process, and the token stands for them there.
 */
import { randomFillSync } from 'node:crypto';
import type { Region } from '../region/region.js';
import { giveBack, type Run } from '../region/runs.js';

/** A message that is on its way. */
interface InFlight {
  readonly region: Region;
  readonly run: Run;
  /** In bytes. */
  readonly length: number;
  // The two halves of its token.
  readonly low: number;
  readonly high: number;
}

/** Period of the passes over the frame map while nothing is sent. */
const PASS_MS = 100;
/** With as many messages on their way a pass checks all of them, not the oldest only. */
const MIN_FOR_FULL_PASS = 32;
/** How long announced messages stay when this side cuts the connection: the peer may be about to adopt them. */
const LINGER_MS = 5000;

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

const wordOf = ({ low, high }: InFlight) => (BigInt(high) << 32n) | BigInt(low);

export class InFlightRuns {
  #sent: InFlight[] = [];
  #timer: NodeJS.Timeout | undefined;

  /** The run belongs to the message from here on. @returns the two halves of its token */
  add(region: Region, run: Run, length: number): { readonly low: number; readonly high: number } {
    this.#reap();
    const sent: InFlight = { region, run, length, low: draw(), high: draw() };
    this.#sent.push(sent);
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      this.pass();
    }, PASS_MS).unref();
    return sent;
  }

  /** Take back runs that the peer has released: mostly it does that in their order. */
  #reap(): void {
    if (this.#sent.length >= MIN_FOR_FULL_PASS) this.pass();
    for (let sent = this.#sent[0]; sent && isOver(sent); sent = this.#sent[0]) {
      this.#sent.shift();
      retire(sent);
    }
  }

  /** Forget all runs that the peer has adopted: when it releases them is between it and the frame map. */
  pass(): void {
    this.#sent = this.#sent.filter((sent) => {
      if (isOffered(sent)) return true;
      retire(sent);
      return false;
    });
    if (this.#sent.length > 0) this.#timer?.refresh();
  }

  /** The bytes behind an address that a peer asks for. @returns undefined: it is in no such run */
  find(address: bigint, length: number): Uint8Array | undefined {
    for (const sent of this.#sent) {
      const offset = BigInt.asUintN(64, address - wordOf(sent));
      if (offset > BigInt(sent.length) || BigInt(length) > BigInt(sent.length) - offset) continue;
      return bytesOf(sent).subarray(Number(offset), Number(offset) + length);
    }
    return undefined;
  }

  /** The peer has fetched the message with that token. @returns false: it is none of these */
  finished(token: bigint): boolean {
    const at = this.#sent.findIndex((sent) => wordOf(sent) === token);
    if (at < 0) return false;
    for (const sent of this.#sent.splice(at, 1)) retire(sent);
    return true;
  }

  /** The link goes away. @param keep called for each message that the peer has not adopted: it has to ask for it from now on */
  evacuate(keep: (token: bigint, bytes: Uint8Array) => void): void {
    for (const sent of this.#sent.splice(0)) {
      // First the copy: another process may take the frames as soon as they are given back.
      const bytes = isOffered(sent) ? bytesOf(sent).slice() : undefined;
      if (retire(sent) && bytes) keep(wordOf(sent), bytes);
    }
  }

  /** The connection is over. @param cut by this side: the peer may be about to adopt a run */
  end(cut: boolean): void {
    clearTimeout(this.#timer);
    this.pass();
    clearTimeout(this.#timer);
    const rest = this.#sent.splice(0);
    const all = () => {
      for (const sent of rest) retire(sent);
    };
    if (cut && rest.length > 0) setTimeout(all, LINGER_MS).unref();
    else all();
  }
}

function bytesOf({ region, run, length }: InFlight): Uint8Array {
  return region.core.bytes.subarray(run.address, run.address + length);
}

function isOffered({ region, run }: InFlight): boolean {
  const { call, layout } = region.core;
  return region.attached && call.halfKind(run.frame, layout.HALF_CONSUMER) === layout.KIND_OFFERED;
}

/** Whether the peer has adopted the run and released it. */
function isOver({ region, run }: InFlight): boolean {
  const { call, layout } = region.core;
  return !region.attached || call.halfKind(run.frame, layout.HALF_CONSUMER) === 0;
}

/**
 * Give the run back. The token stays in it: a peer that adopts the run at this moment checks it once more behind that.
 * @returns whether no peer has adopted the run, and none will
 */
function retire({ region, run, length }: InFlight): boolean {
  return !region.attached || giveBack(region, run.frame, length);
}
