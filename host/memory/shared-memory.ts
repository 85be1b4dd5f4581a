/** Memory that an application shares with its peers: in a region, where there is one, so that peers need not ask. */

import { SharedMemory } from '../api/shared-memory.js';
import { IsthmusError } from '../base/errors.js';
import type { Region } from '../region/region.js';
import { giveBack } from '../region/runs.js';

/** Where a {@link SharedMemory} lies. @internal */
export type Place =
  | { readonly region: Region; readonly frame: number; readonly address: number }
  | { readonly bytes: Uint8Array };

/** An exposure of the memory, whose token a peer may have. @internal */
export interface Holder {
  /** The memory has left the region: peers have to ask for it. */
  onMoved(): void;
  /** The memory was released. */
  onReleased(): void;
}

/** {@link SharedMemory} of one runtime: in a region, or in memory of the process. */
export class RegionMemory extends SharedMemory {
  /** In bytes. */
  readonly length: number;
  #place: Place | undefined;
  #lost: IsthmusError | undefined;
  /** @internal Called once, when it is given back. */
  onRelease: (() => void) | undefined;

  readonly #holders = new Set<Holder>();

  constructor(length: number, place: Place) {
    super();
    this.length = length;
    this.#place = place;
  }

  /** Whether it lies in a region. False: there was none with so much room, and peers have to ask for each byte. */
  get inRegion(): boolean {
    return this.#place !== undefined && 'region' in this.#place;
  }

  /** @internal @throws ERR_ISTHMUS_RELEASED */
  get place(): Place {
    if (this.#lost) throw this.#lost;
    if (!this.#place) throw new IsthmusError('ERR_ISTHMUS_RELEASED', 'this memory was released');
    return this.#place;
  }

  /** @internal The bytes themselves: for plain copies, never handed to other code. */
  view(offset: number, length: number): Uint8Array {
    const { place } = this;
    if ('bytes' in place) return place.bytes.subarray(offset, offset + length);
    return place.region.core.bytes.subarray(place.address + offset, place.address + offset + length);
  }

  /**
   * Copy out.
   * @throws ERR_ISTHMUS_INVALID_ARGUMENT: beyond the end; ERR_ISTHMUS_RELEASED; ERR_ISTHMUS_REGION_LOST: the bytes are
   * gone, and so is what was copied
   */
  read(offset: number, target: Uint8Array): void {
    this.#check(offset, target.length);
    target.set(this.view(offset, target.length));
    this.#checkRegion();
  }

  /** Copy in. @throws as {@link read} */
  write(offset: number, source: Uint8Array): void {
    this.#check(offset, source.length);
    this.view(offset, source.length).set(source);
    this.#checkRegion();
  }

  /** @internal Whether it lay in a region that has lost its pages. */
  get lost(): boolean {
    const place = this.#place;
    return this.#lost !== undefined || (place !== undefined && 'region' in place && place.region.core.lost);
  }

  #checkRegion(): void {
    const { place } = this;
    if ('region' in place && place.region.core.lost) throw place.region.core.lostError();
  }

  #check(offset: number, length: number): void {
    if (Number.isSafeInteger(offset) && offset >= 0 && offset + length <= this.length) return;
    throw new IsthmusError(
      'ERR_ISTHMUS_INVALID_ARGUMENT',
      `${length} bytes at ${offset} are not within the ${this.length} bytes of this memory`,
    );
  }

  /** @internal Be told of the release, and of a move out of the region. @returns removes the holder */
  hold(holder: Holder): () => void {
    this.#holders.add(holder);
    return () => this.#holders.delete(holder);
  }

  /** @internal The region goes away: the bytes stay, in memory of the process. */
  evacuate(region: Region): void {
    const place = this.#place;
    if (!place || !('region' in place) || place.region !== region) return;
    for (const holder of [...this.#holders]) holder.onMoved();
    const bytes = this.view(0, this.length).slice();
    if (region.core.lost) {
      this.lose(region, region.core.lostError());
      return;
    }
    giveBack(place.region, place.frame, this.length);
    this.#place = { bytes };
  }

  /** @internal The bytes of the region are gone. */
  lose(region: Region, error: IsthmusError): void {
    const place = this.#place;
    if (!place || !('region' in place) || place.region !== region) return;
    this.#lost = error;
    this.release();
  }

  /** Withdraw all tokens and give the memory back. Idempotent. */
  release(): void {
    const place = this.#place;
    if (!place) return;
    for (const holder of [...this.#holders]) holder.onReleased();
    this.#holders.clear();
    this.#place = undefined;
    if ('region' in place) giveBack(place.region, place.frame, this.length);
    this.onRelease?.();
  }
}
