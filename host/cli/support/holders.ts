/**
 * Processes of this kernel that have a region of this machine mapped: what the region itself says, whatever the processes have
 * answered. For the devices of this machine, and region files that the configuration names without a pattern.
 */

import { IsthmusError } from '../../base/errors.js';
import { explain } from '../../config/resolve.js';
import type { Candidate } from '../../device/backing.js';
import { discoverPci } from '../../device/pci.js';
import { posixBacking, regionPath } from '../../device/posix.js';
import { discoverUio } from '../../device/uio.js';
import { ReadOnlyRegion } from '../../region/read-only-region.js';
import { lineOf } from './error-text.js';

export interface Holder {
  readonly path: string;
  readonly slot: number;
  /** As it stands in the region. */
  readonly name: string;
  readonly pid: number;
  readonly pidNamespace: string;
}

export interface Held {
  readonly holders: readonly Holder[];
  /** Regions that could not be looked at, each with its reason. Processes may hold them. */
  readonly unseen: readonly string[];
}

function candidates(): Candidate[] {
  const settings = explain();
  const setting = (name: string) => settings.find((row) => row.name === name)?.value;
  const files = String(setting('regions'))
    .split(/\s+/)
    .filter((name) => name !== '' && !/[*?]/.test(name));
  return [
    ...discoverUio(),
    ...(setting('pci') ? discoverPci() : []),
    ...files.map((name): Candidate => {
      const path = regionPath(name);
      try {
        return { path, backing: posixBacking(name, false) };
      } catch (error) {
        return error instanceof IsthmusError && error.code !== 'ERR_ISTHMUS_REGION_NOT_FOUND'
          ? { path, refused: error }
          : { path };
      }
    }),
  ];
}

/** Which processes hold a region. @param pids only these */
export function findHolders(pids?: readonly string[]): Held {
  const holders: Holder[] = [];
  const unseen: string[] = [];
  for (const { path, backing, refused } of candidates()) {
    try {
      if (refused) throw refused;
      if (!backing) continue;
      using region = ReadOnlyRegion.of(backing);
      const overview = region.overview();
      if (overview.state === 'blank') continue;
      if (overview.state !== 'formatted') throw overview.refused ?? new Error(`it is ${overview.state}`);
      for (const peer of region.peers()) {
        const { slot, name, pid, pidNamespace, state } = peer;
        if (state === 'dead' || region.lives(peer) !== 'alive' || (pids && !pids.includes(String(pid)))) continue;
        holders.push({ path, slot, name, pid, pidNamespace });
      }
    } catch (error) {
      unseen.push(`${path}: ${lineOf(error)}`);
    }
  }
  return { holders, unseen };
}
