/** Plugin `ivshmem`: through the regions of devices, and of files that stand for devices, that a runtime has attached. */
import type { Region } from '../region/region.js';
import { ARCH, type Attempt, type AttemptChannel, type Plugin, type Proposal } from './plugin.js';
import { RegionAttempt, type RegionSource } from './region-attempt.js';

export class IvshmemPlugin implements Plugin, RegionSource {
  readonly name = 'ivshmem';
  readonly archId = ARCH.ivshmem;
  readonly priority = 80;
  readonly migratable = false;
  readonly ringSize: number | undefined;
  readonly guard: boolean;
  #regions: readonly Region[] = [];
  #missing: string | undefined;

  constructor({ ringSize, guard }: Pick<RegionSource, 'ringSize' | 'guard'>) {
    this.ringSize = ringSize;
    this.guard = guard;
  }

  /** @param missing why there are no regions */
  use(regions: readonly Region[], missing: string | undefined): void {
    this.#regions = regions;
    this.#missing = missing;
  }

  #usable(): Region[] {
    return this.#regions.filter((region) => region.usable);
  }

  byUuid(uuid: Buffer): Region[] {
    return this.#usable().filter((region) => region.uuid.equals(uuid));
  }

  unavailable(): string | undefined {
    return this.#usable().length > 0 ? undefined : (this.#missing ?? 'no region');
  }

  proposals(): Proposal[] {
    return this.#usable().map((region) => ({
      plugin: this,
      label: `${this.name} (${region.backing.name})`,
      attempt: (channel) => {
        const attempt = new RegionAttempt(this, channel);
        attempt.offer(region);
        return attempt;
      },
    }));
  }

  accept(channel: AttemptChannel): Attempt {
    return new RegionAttempt(this, channel);
  }

  destroy(): void {}
}
