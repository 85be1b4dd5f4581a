/** The memory that a runtime has allocated for its application to share. */
import type { SharedMemory } from '../api/shared-memory.js';
import { IsthmusError } from '../base/errors.js';
import { RegionMemory } from '../memory/shared-memory.js';
import type { Region } from '../region/region.js';
import { takeRun } from '../region/runs.js';

const MAX_BYTES = 2 ** 31;

export class Memories {
  /** Those in regions. */
  readonly #all = new Set<RegionMemory>();

  /**
   * @param size in bytes
   * @param regions where to allocate, the first one with room; if none has, it is memory of the process
   * @throws ERR_ISTHMUS_INVALID_ARGUMENT
   */
  allocate(size: number, regions: readonly Region[]): SharedMemory {
    if (!Number.isSafeInteger(size) || size < 0 || size > MAX_BYTES) {
      throw new IsthmusError('ERR_ISTHMUS_INVALID_ARGUMENT', `${size} is not a number of bytes up to ${MAX_BYTES}`);
    }
    for (const region of regions) {
      const run = takeRun(region, size);
      if (!run) continue;
      const memory = new RegionMemory(size, { region, ...run });
      memory.write(0, new Uint8Array(size));
      this.#all.add(memory);
      memory.onRelease = () => this.#all.delete(memory);
      return memory;
    }
    return new RegionMemory(size, { bytes: new Uint8Array(size) });
  }

  /** The bytes of the region are gone. */
  lose(region: Region, error: IsthmusError): void {
    for (const memory of this.#all) memory.lose(region, error);
  }

  /** The region goes away: the bytes stay, in memory of the process. */
  evacuate(region: Region): void {
    for (const memory of this.#all) memory.evacuate(region);
  }
}
