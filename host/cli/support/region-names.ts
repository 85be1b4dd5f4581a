/** Regions by the names that a reader types: a file in /dev/shm, a path, a uio device, or a PCI address. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { IsthmusError } from '../../base/errors.js';
import type { Backing, Candidate } from '../../device/backing.js';
import { discoverPci, uioOf } from '../../device/pci.js';
import { regionPath } from '../../device/posix.js';
import { discoverUio, type UioRoots } from '../../device/uio.js';
import { ReadOnlyRegion } from '../../region/read-only-region.js';

/** Help text of the argument of each command that takes a region. */
export const REGION_NAME = 'name in /dev/shm, a path, a uio device, or a PCI address';

/** A PCI address, or a path in sysfs that ends in one or in its `resource2`. */
const PCI = /^(?:\/.*\/)?([0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7])(?:\/resource2)?$/i;

function pick(path: string, candidates: readonly Candidate[]): Backing {
  const device = candidates.find((candidate) => candidate.path === path);
  if (device?.refused) throw device.refused;
  if (device?.backing) return device.backing;
  throw new IsthmusError('ERR_ISTHMUS_REGION_NOT_FOUND', `there is no device ${path}`, { path });
}

/**
 * The device of that name, address or path.
 * @param roots other places than `/sys` and `/dev`, for tests
 * @returns undefined: it is the name of a file
 */
export function findDevice(name: string, roots: UioRoots = {}): Backing | undefined {
  const { sysfs = '/sys', dev = '/dev' } = roots;
  const address = PCI.exec(name)?.[1]?.toLowerCase();
  // A PCI device that is bound to the driver is opened as its uio device, as all peers do.
  const uio = address === undefined ? /^(?:\/dev\/)?(uio\d+)$/.exec(name)?.[1] : uioOf(address, roots);
  if (uio !== undefined && (address !== undefined || !existsSync(regionPath(uio)))) {
    return pick(join(dev, uio), discoverUio(roots));
  }
  if (address === undefined) return undefined;
  return pick(join(sysfs, 'bus/pci/devices', address, 'resource2'), discoverPci(roots));
}

/** A read-only view of the region, to be closed, and the kind of its backing. */
export function viewRegion(name: string, roots: UioRoots = {}): { view: ReadOnlyRegion; kind: Backing['kind'] } {
  const device = findDevice(name, roots);
  if (device) return { view: ReadOnlyRegion.of(device), kind: device.kind };
  return { view: ReadOnlyRegion.ofFile(regionPath(name)), kind: 'posix' };
}
