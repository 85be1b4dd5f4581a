/** Memory of the region that an application fills, and sends by passing a reference to it. */

import { Loan } from '../api/loan.js';
import { IsthmusError } from '../base/errors.js';
import type { Core } from '../core/core.js';
import type { Extent } from '../link/borrowed-records.js';
import type { LinkBinding } from '../link/link-binding.js';
import type { Region } from '../region/region.js';
import { giveBack, type Run, takeRun } from '../region/runs.js';

/** Pauses between two tries to get frames: no event tells that a peer gave some back. */
const FIRST_PAUSE_MS = 0.2;
const MAX_PAUSE_MS = 10;

/** {@link Loan} of one connection. */
export class RegionLoan extends Loan {
  /** In bytes. */
  readonly length: number;
  /** View of the region, made when the application asks for it. */
  #data: Uint8Array | undefined;
  #place: Place | undefined;
  #spent = false;
  readonly #loans: Loans;
  /** @internal Its index in the list of its connection. */
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

  /** @internal Whether this connection lent it. */
  isOf(loans: Loans): boolean {
    return this.#loans === loans;
  }

  /** @internal The region goes away; the bytes stay where they are, in memory that is this process's alone from then on. */
  moved(): void {
    this.#data ??= viewOf(this.#place as Place, this.length);
    this.#place = undefined;
  }

  /** @internal The loan is not the application's any more. */
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

/** Where a loan lies in a region. */
interface Place {
  readonly region: Region;
  readonly run: Run;
}

function viewOf({ region, run }: Place, length: number): Uint8Array {
  return region.core.bytes.subarray(run.address, run.address + length);
}

/** The loans of one connection. */
export class Loans {
  readonly #binding: LinkBinding;
  readonly #reclaim: () => void;
  readonly #onBorrowReturned: () => void;
  readonly #out: RegionLoan[] = [];

  /**
   * @param reclaim sees which frames peers have given back
   * @param onBorrowReturned called when the last loan is back
   */
  constructor(binding: LinkBinding, reclaim: () => void, onBorrowReturned: () => void) {
    this.#binding = binding;
    this.#reclaim = reclaim;
    this.#onBorrowReturned = onBorrowReturned;
  }

  /** Number of loans that are neither sent nor released. */
  get out(): number {
    return this.#out.length;
  }

  /** @returns undefined: the region has no such room now */
  try(length: number): RegionLoan | undefined {
    const { region } = this.#binding;
    if (!region?.attached || length === 0 || length > region.capacity) {
      return this.#lend(new RegionLoan(this, length, undefined));
    }
    let run = takeRun(region, length);
    if (!run) {
      this.#reclaim();
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
    for (let pause = FIRST_PAUSE_MS; ; pause = Math.min(pause * 1.5, MAX_PAUSE_MS)) {
      signal?.throwIfAborted();
      this.#binding.lifecycle.check();
      const loan = this.try(length);
      if (loan) return loan;
      if (pause < 1) await new Promise((resolve) => setImmediate(resolve));
      else await new Promise((resolve) => setTimeout(resolve, pause));
    }
  }

  /** @internal A loan is not the application's any more. */
  back(loan: RegionLoan): void {
    // The last loan takes its place in the list.
    const last = this.#out.pop() as RegionLoan;
    if (last !== loan) {
      this.#out[loan.rank] = last;
      last.rank = loan.rank;
    }
    if (this.#out.length === 0) this.#onBorrowReturned();
  }

  /** The memory under the region goes away. @returns the parts of it that must keep their bytes */
  abandon(core: Core): Extent[] {
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
