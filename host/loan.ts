/** Memory of the region that an application fills, and sends by passing a reference to it. */
import type { Core } from './core/core.js';
import type { Region } from './core/region.js';
import { IsthmusError } from './errors.js';
import { giveBack, type Run, takeRun } from './memory.js';

/** How often somebody who waits for frames looks, in milliseconds: nobody tells him. */
const SOON = 0.2;
const AT_LAST = 10;

/** What a connection does for its loans. */
export interface LoansOwner {
  /** The region that both ends map, if that is the way. */
  readonly region: Region | undefined;
  readonly maxMessageSize: number;
  /** @throws ERR_ISTHMUS_CLOSED, or what ended it */
  checkOpen(): void;
  /** Frames are wanted: see what the peer has given back. */
  reclaim(): void;
  /** The last one is back. */
  settled(): void;
}

/**
 * Room for one message, lent by `connection.loan()`. Fill `data`, then pass the loan to `send` or `trySend` of that
 * connection: it is the peer's from there on, and nothing of it is copied where both map one region.
 *
 * ```ts
 * const loan = await connection.loan(frame.length);
 * loan.data.set(frame);
 * await connection.send(loan);
 * ```
 *
 * The peer, and everybody else who maps the region, can see the bytes while they are written. One that is neither sent nor
 * released occupies its part of the region until the process ends: no garbage collector knows whether somebody still
 * looks at it. When the region goes away, for a migration, the bytes stay where they are, and are copied when they are sent.
 */
export class Loan implements Disposable {
  /** In bytes. */
  readonly length: number;
  #data: Uint8Array | undefined;
  #place: { readonly region: Region; readonly run: Run } | undefined;
  readonly #loans: Loans;

  /** Made by `connection.loan()`. */
  constructor(loans: Loans, length: number, data: Uint8Array, place: Loan['place']) {
    this.#loans = loans;
    this.length = length;
    this.#data = data;
    this.#place = place;
  }

  /**
   * What will be sent; zeros or whatever was there before.
   * @throws ERR_ISTHMUS_RELEASED: it was sent, or released
   */
  get data(): Uint8Array {
    if (!this.#data) throw new IsthmusError('ERR_ISTHMUS_RELEASED', 'this loan was sent or released');
    return this.#data;
  }

  /** Whether it lies in the region, so that sending it copies nothing. */
  get inRegion(): boolean {
    return this.#place?.region.usable === true;
  }

  /** @internal */
  get place(): { readonly region: Region; readonly run: Run } | undefined {
    return this.#place;
  }

  /** @internal Whether it was lent by this connection. */
  isOf(loans: Loans): boolean {
    return this.#loans === loans;
  }

  /** @internal The region has gone; the bytes have stayed. */
  moved(): void {
    this.#place = undefined;
  }

  /** @internal It is not the application's any more. @throws ERR_ISTHMUS_RELEASED */
  spend(): Uint8Array {
    const { data } = this;
    this.#data = undefined;
    this.#loans.back(this);
    return data;
  }

  /** Give it back unsent. Idempotent. */
  release(): void {
    if (!this.#data) return;
    this.spend();
    const place = this.#place;
    this.#place = undefined;
    if (place?.region.usable) giveBack(place.region, place.run.frame, this.length);
  }

  [Symbol.dispose](): void {
    this.release();
  }
}

/** The loans of one connection. */
export class Loans {
  readonly #owner: LoansOwner;
  readonly #out = new Set<Loan>();

  constructor(owner: LoansOwner) {
    this.#owner = owner;
  }

  /** How many are neither sent nor released. */
  get out(): number {
    return this.#out.size;
  }

  /** @returns undefined: the region has no such room now */
  try(length: number): Loan | undefined {
    const { region } = this.#owner;
    if (!region?.usable || length === 0 || length > capacityOf(region)) {
      return this.#lend(new Loan(this, length, new Uint8Array(length), undefined));
    }
    let run = takeRun(region, length);
    if (!run) {
      this.#owner.reclaim();
      run = takeRun(region, length);
    }
    if (!run) return undefined;
    const data = region.core.bytes.subarray(run.address, run.address + length);
    return this.#lend(new Loan(this, length, data, { region, run }));
  }

  #lend(loan: Loan): Loan {
    this.#out.add(loan);
    return loan;
  }

  async get(length: number, signal: AbortSignal | undefined): Promise<Loan> {
    for (let pause = SOON; ; pause = Math.min(pause * 1.5, AT_LAST)) {
      signal?.throwIfAborted();
      this.#owner.checkOpen();
      const loan = this.try(length);
      if (loan) return loan;
      if (pause < 1) await new Promise((resolve) => setImmediate(resolve));
      else await new Promise((resolve) => setTimeout(resolve, pause));
    }
  }

  /** @internal One is not the application's any more. */
  back(loan: Loan): void {
    if (this.#out.delete(loan) && this.#out.size === 0) this.#owner.settled();
  }

  /** The memory under the region goes. @returns places in it that must keep their bytes */
  abandon(core: Core): { readonly offset: number; readonly length: number }[] {
    const kept = [];
    for (const loan of this.#out) {
      const { place, length } = loan;
      if (place?.region.core !== core) continue;
      loan.moved();
      kept.push({ offset: place.run.address, length });
    }
    return kept;
  }
}

/** Bytes of the largest run that a region could ever give, if nobody used it. */
function capacityOf(region: Region): number {
  const { call, layout } = region.core;
  const extent = call.extentFrames() * layout.FRAME;
  const frames = call.regionFrames.value * layout.FRAME;
  return frames - (frames % extent) - call.tableBytes() - layout.FRAME;
}
