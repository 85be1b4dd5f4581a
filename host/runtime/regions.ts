/** The regions of a runtime: attached, left for a migration, fenced by an operator, lost with their file or device. */
import type { IsthmusError } from '../base/errors.js';
import type { Log } from '../base/log.js';
import type { RuntimeConnection } from '../connection/connection.js';
import { WAYS } from '../device/backing.js';
import type { Region } from '../region/region.js';
import type { Publish, RegionIdentity } from './diagnostics.js';
import type { FoundRegions, Refused } from './discovery.js';
import type { Memories } from './memories.js';
import type { Plugins } from './plugins.js';

export interface RegionsOptions {
  readonly plugins: Pick<Plugins, 'ivshmem' | 'shm'>;
  readonly memories: Memories;
  /** The connections of all endpoints. */
  readonly connections: () => RuntimeConnection[];
  /** Find and attach the regions that exist now. A region that cannot be attached is not an error. */
  readonly discover: () => Promise<FoundRegions>;
  readonly publish: Publish;
  readonly log: Log;
}

export class Regions {
  readonly #options: RegionsOptions;
  /** Those of `ivshmem`. `shm` attaches and leaves its region itself. */
  readonly #attached: Region[] = [];
  #refused: readonly Refused[] = [];

  constructor(options: RegionsOptions) {
    this.#options = options;
  }

  /** Attached regions that connections can use; that of `shm` last. */
  get usable(): Region[] {
    return [...this.#attached, ...this.#options.plugins.shm.regions()].filter((region) => region.usable);
  }

  /** Candidates that were found and are not used. */
  get refused(): readonly Refused[] {
    return this.#refused;
  }

  use({ regions, refused, missing }: FoundRegions): void {
    this.#attached.splice(0, this.#attached.length, ...regions);
    this.#refused = refused;
    this.#options.plugins.ivshmem.use(regions, missing);
    for (const region of regions) this.onAttached(region);
    for (const { error } of refused) this.#options.log('warning', `not used: ${error.message} (${error.code})`);
  }

  /** A region was attached. */
  onAttached(region: Region): void {
    const { log, publish } = this.#options;
    const { kind, path, size } = region.backing;
    log('info', `attached to ${path}, ${size} bytes`);
    if (kind === 'pci') {
      log('warning', `${path}: ${WAYS.pci}; install the driver (vendor/ivshmem/driver) to have it at full speed`);
    }
    region.onLost = (error) => this.#lost(region, error);
    publish('isthmus:region:attach', () => ({ region: identityOf(region) }));
  }

  /** A region is about to be left. @returns places in it that must keep their bytes: messages that are borrowed */
  onLeaving(region: Region): Parameters<Region['detach']>[0] {
    const { connections, memories, publish } = this.#options;
    const kept = connections().flatMap((connection) => connection.abandon(region.core));
    memories.evacuate(region);
    // A region that was lost has been published already.
    if (region.usable) {
      publish('isthmus:region:detach', () => ({ region: identityOf(region), error: undefined }));
    }
    return kept;
  }

  #lost(region: Region, error: IsthmusError): void {
    const { connections, memories, publish, log } = this.#options;
    log('error', error.message);
    publish('isthmus:region:detach', () => ({ region: identityOf(region), error }));
    for (const connection of connections()) if (connection.link?.core === region.core) connection.destroy(error);
    if (error.code === 'ERR_ISTHMUS_REGION_LOST') memories.lose(region, error);
    // This process writes there no longer: other processes may have what was kept for it.
    region.detach(this.onLeaving(region));
  }

  // ─── migration ─────────────────────────────────────────────────────────────────────────────────────────────────────

  /** Leave every region, so that its device can be unplugged: mapping, descriptor, slot. */
  async leave(): Promise<void> {
    const { ivshmem, shm } = this.#options.plugins;
    for (const region of this.#attached.splice(0)) region.detach(this.onLeaving(region));
    ivshmem.use([], 'suspended');
    await shm.close();
  }

  /** Attach the regions that exist now. */
  async attach(): Promise<void> {
    this.#options.plugins.shm.restore();
    this.use(await this.#options.discover());
  }

  async close(): Promise<void> {
    for (const region of this.#attached) region.detach(this.onLeaving(region));
    await this.#options.plugins.shm.close();
  }
}

function identityOf({ backing, uuid }: Region): RegionIdentity {
  const { name, path, kind, size } = backing;
  return { name, path, kind, size, uuid: uuid.toString('hex') };
}
