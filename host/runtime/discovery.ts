/** The search for regions: each candidate is attached, or refused with a reason. */

import { IsthmusError } from '../base/errors.js';
import type { Candidate } from '../device/backing.js';
import { discoverPci } from '../device/pci.js';
import { discoverPosix } from '../device/posix-discovery.js';
import { discoverUio, type UioRoots } from '../device/uio.js';
import { addonMissing } from '../native/native.js';
import { Region } from '../region/region.js';

/** A candidate that is not used, and the reason. */
export interface Refused {
  readonly path: string;
  readonly error: IsthmusError;
}

/** The patterns that are names: these regions must exist. */
function named(patterns: string): string[] {
  return patterns.split(/[\s,]+/).filter((pattern) => pattern !== '' && !/[*?]/.test(pattern));
}

/** Where to search. */
export interface Places {
  /** `PSP_IVSHMEM_REGIONS`. */
  readonly patterns: string;
  /** `PSP_IVSHMEM_PCI`. */
  readonly pci: boolean;
  readonly roots: UioRoots | undefined;
  /** `PSP_SIGBUS_HANDLER`. */
  readonly survivesLoss?: boolean;
}

/** The result of a search. */
export interface FoundRegions {
  readonly regions: Region[];
  readonly refused: Refused[];
  /** Why there is no region, if there is none. */
  readonly missing: string | undefined;
}

/** All candidates: devices with a driver, devices without one, files. It attaches none. */
export function findRegions({ patterns, pci, roots }: Places): Candidate[] {
  if (addonMissing()) return [];
  return [...discoverUio(roots), ...(pci ? discoverPci(roots) : []), ...discoverPosix(patterns)];
}

/**
 * Attach all regions that are found.
 * @param strict whether a named region that cannot be attached is an error; otherwise it is refused, like the others
 * @throws the error of a named region
 */
export async function attachRegions(places: Places, name: string, strict = true): Promise<FoundRegions> {
  const { patterns, survivesLoss } = places;
  const explicit = strict && named(patterns).length > 0;
  const missing = addonMissing();
  if (missing) {
    if (explicit) throw missing;
    return { regions: [], refused: [], missing: missing.message };
  }
  const regions: Region[] = [];
  const refused: Refused[] = [];
  try {
    for (const { path, backing, refused: error } of findRegions(places)) {
      let reason = error;
      if (backing) {
        try {
          regions.push(await Region.attach(backing, name, { survivesLoss }));
          continue;
        } catch (thrown) {
          if (!(thrown instanceof IsthmusError)) throw thrown;
          reason = thrown;
        }
      }
      if (!reason) continue;
      if (strict && isNamed(path, patterns)) throw reason;
      refused.push({ path, error: reason });
    }
  } catch (thrown) {
    for (const region of regions) region.detach();
    throw thrown;
  }
  const reasons = refused.map(({ error }) => error.message).join('; ');
  return { regions, refused, missing: reasons ? `no region (${reasons})` : undefined };
}

function isNamed(path: string, patterns: string): boolean {
  return named(patterns).some((name) => name === path || `/dev/shm/${name}` === path);
}
