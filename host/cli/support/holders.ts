/**
 * Processes of this kernel that have a region of this machine mapped: what the region itself says, whatever the processes have
 * answered. For the devices of this machine, and region files that the configuration names without a pattern.
 */

import { IsthmusError } from '../../base/errors.js';
import { explain } from '../../config/resolve.js';
import type { Candidate } from '../../device/backing.js';
import { bootId } from '../../device/identity.js';
import { discoverPci } from '../../device/pci.js';
import { posixBacking, regionPath } from '../../device/posix.js';
import { discoverUio } from '../../device/uio.js';
import { kernelOf, type PeerSlot } from '../../region/peer-table.js';
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
  /** Regions that could not be looked at, and slots of which nothing is proven, each with the reason. Processes may hold them. */
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

/**
 * Which processes hold a region. Where one process of this kernel has opened another device node than this one, as in another
 * container, its lock cannot be seen: its heartbeats count then, for which this waits for some two seconds.
 * @param pids only these
 */
export async function findHolders(pids?: readonly number[]): Promise<Held> {
  const own = Buffer.from(bootId()).toString('hex');
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
      const unproven: PeerSlot[] = [];
      const hold = ({ slot, name, pid, pidNamespace }: PeerSlot) =>
        holders.push({ path, slot, name, pid, pidNamespace });
      for (const peer of region.peers()) {
        if (peer.state === 'dead' || (pids && !pids.includes(peer.pid))) continue;
        const lives = region.lives(peer);
        if (lives === 'alive') hold(peer);
        else if (lives === 'unknown' && kernelOf(region.core, peer.slot) === own) unproven.push(peer);
      }
      if (unproven.length === 0) continue;
      const beats = await region.heartbeats();
      for (const peer of unproven) {
        if (beats.has(peer.slot)) hold(peer);
        else {
          const why = 'it has no heartbeat, and its lock cannot be seen from here';
          unseen.push(`slot ${peer.slot} of ${path} (${peer.name}[${peer.pid}]): ${why}`);
        }
      }
    } catch (error) {
      unseen.push(`${path}: ${lineOf(error)}`);
    }
  }
  return { holders, unseen };
}
