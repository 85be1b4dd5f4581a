/** Memory of the region that an application fills, and sends by passing a reference to it. */

import { Loan } from '../api/loan.js';
import { IsthmusError } from '../base/errors.js';
import type { Core } from '../core/core.js';
import type { Region } from '../region/region.js';
import { giveBack, type Run, takeRun } from './shared-memory.js';

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

/** {@link Loan} of one connection. */
export class RegionLoan extends Loan {
  /** In bytes. */
  readonly length: number;
  /** In the region: made when it is asked for. */
  #data: Uint8Array | undefined;
  #place: Place | undefined;
  #spent = false;
  readonly #loans: Loans;
  /** @internal Where it stands in the list of its connection. */
  rank = 0;

  constructor(loans: Loans, length: number, place: Place | undefined) {
    super();
    this.#loans = loans;
    this.length = length;
    this.#place = place;
    if (!place) this.#data = new Uint8Array(length);
  }

  /**
   * What will be sent; zeros or whatever was there before.
   * @throws ERR_ISTHMUS_RELEASED: it was sent, or released
   */
  get data(): Uint8Array {
    this.check();
    this.#data ??= viewOf(this.#place as Place, this.length);
    return this.#data;
  }

  /** Whether it lies in the region, so that sending it copies nothing. */
  get inRegion(): boolean {
    return this.#place?.region.usable === true;
  }

  /** @internal @throws ERR_ISTHMUS_RELEASED */
  check(): void {
    if (this.#spent) throw new IsthmusError('ERR_ISTHMUS_RELEASED', 'this loan was sent or released');
  }

  /** @internal */
  get place(): Place | undefined {
    return this.#place;
  }

  /** @internal Whether it was lent by this connection. */
  isOf(loans: Loans): boolean {
    return this.#loans === loans;
  }

  /** @internal The region is going; the bytes stay, at their place in a memory that is ours alone then. */
  moved(): void {
    this.#data ??= viewOf(this.#place as Place, this.length);
    this.#place = undefined;
  }

  /** @internal It is not the application's any more. */
  spend(): void {
    this.#spent = true;
    this.#data = undefined;
    this.#loans.back(this);
  }

  /** Give it back unsent. Idempotent. */
  release(): void {
    if (this.#spent) return;
    this.spend();
    const place = this.#place;
    this.#place = undefined;
    if (place?.region.attached) giveBack(place.region, place.run.frame, this.length);
  }
}

/** Where a loan lies. */
interface Place {
  readonly region: Region;
  readonly run: Run;
}

function viewOf({ region, run }: Place, length: number): Uint8Array {
  return region.core.bytes.subarray(run.address, run.address + length);
}

/** The loans of one connection. */
export class Loans {
  readonly #owner: LoansOwner;
  readonly #out: RegionLoan[] = [];

  constructor(owner: LoansOwner) {
    this.#owner = owner;
  }

  /** How many are neither sent nor released. */
  get out(): number {
    return this.#out.length;
  }

  /** @returns undefined: the region has no such room now */
  try(length: number): RegionLoan | undefined {
    const { region } = this.#owner;
    if (!region?.attached || length === 0 || length > region.capacity) {
      return this.#lend(new RegionLoan(this, length, undefined));
    }
    let run = takeRun(region, length);
    if (!run) {
      this.#owner.reclaim();
      run = takeRun(region, length);
    }
    if (!run) return undefined;
    return this.#lend(new RegionLoan(this, length, { region, run }));
  }

  #lend(loan: RegionLoan): RegionLoan {
    loan.rank = this.#out.push(loan) - 1;
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
  back(loan: RegionLoan): void {
    // The last one takes its place.
    const last = this.#out.pop() as RegionLoan;
    if (last !== loan) {
      this.#out[loan.rank] = last;
      last.rank = loan.rank;
    }
    if (this.#out.length === 0) this.#owner.settled();
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
