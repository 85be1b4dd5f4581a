/** The regions of a runtime: attached, left for a migration, fenced by an operator, lost with their file or device. */
import type { IsthmusError } from '../base/errors.js';
import type { Log } from '../base/log.js';
import type { RuntimeConnection } from '../connection/connection.js';
import { WAYS } from '../device/backing.js';
import { isOwnOrRoots } from '../device/posix.js';
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
  /** Those of which the application was told that they are attached, and not yet that they are not. */
  readonly #told = new Set<Region>();
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
    const { kind, path, size, owner } = region.backing;
    const whose = owner === undefined || isOwnOrRoots({ uid: owner }) ? '' : `, which belongs to uid ${owner}`;
    log('info', `attached to ${path}, ${size} bytes${whose}`);
    if (kind === 'pci') {
      log('warning', `${path}: ${WAYS.pci}; install the driver (vendor/ivshmem/driver) to have it at full speed`);
    }
    const { why } = region.doorbells;
    if (why) log('warning', `${path}: no peer can wake this process, so it polls by a timer: ${why.message}`);
    region.onLost = (error) => this.#lost(region, error);
    this.#told.add(region);
    publish('isthmus:region:attach', () => ({ region: identityOf(region) }));
  }

  /** A region is about to be left. @returns places in it that must keep their bytes: messages that are borrowed */
  onLeaving(region: Region): Parameters<Region['detach']>[0] {
    const { connections, memories } = this.#options;
    // It may be lost, and its upkeep has not found that yet.
    if (this.#told.has(region)) this.#gone(region, region.verify());
    const kept = connections().flatMap((connection) => connection.abandon(region.core));
    memories.evacuate(region);
    return kept;
  }

  /** Tell, once, that the region is attached no longer. @param error why, if it was lost */
  #gone(region: Region, error: IsthmusError | undefined): void {
    const { connections, memories, publish, log } = this.#options;
    if (!this.#told.delete(region)) return;
    if (error) log('error', error.message);
    publish('isthmus:region:detach', () => ({ region: identityOf(region), error }));
    if (!error) return;
    for (const connection of connections()) if (connection.link?.core === region.core) connection.destroy(error);
    if (error.code === 'ERR_ISTHMUS_REGION_LOST') memories.lose(region, error);
  }

  #lost(region: Region, error: IsthmusError): void {
    this.#gone(region, error);
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
