/** Which regions a runtime uses: found, attached, or refused with a reason. */

import { IsthmusError } from '../base/errors.js';
import type { Candidate } from '../device/backing.js';
import { discoverPci } from '../device/pci.js';
import { discoverPosix } from '../device/posix-discovery.js';
import { discoverUio, type UioRoots } from '../device/uio.js';
import { addonMissing } from '../native/native.js';
import { Region } from '../region/region.js';

/** A candidate that is not used, and why. */
export interface Refused {
  readonly path: string;
  readonly error: IsthmusError;
}

/** Whether the patterns name something that must be there. */
function named(patterns: string): string[] {
  return patterns.split(/[\s,]+/).filter((pattern) => pattern !== '' && !/[*?]/.test(pattern));
}

/** Where to look. */
export interface Places {
  /** `PSP_IVSHMEM_REGIONS`. */
  readonly patterns: string;
  /** `PSP_IVSHMEM_PCI`. */
  readonly pci: boolean;
  readonly roots: UioRoots | undefined;
}

/** All candidates: devices first, those with a driver before those without, then files. Attaches nothing. */
export function findRegions({ patterns, pci, roots }: Places): Candidate[] {
  if (addonMissing()) return [];
  return [...discoverUio(roots), ...(pci ? discoverPci(roots) : []), ...discoverPosix(patterns)];
}

/**
 * Attach all regions that are found.
 * @param strict what was named must be there; otherwise it is only noted, like the others
 * @throws the error of a region that was named
 */
export async function attachRegions(
  places: Places,
  name: string,
  strict = true,
): Promise<{ regions: Region[]; refused: Refused[]; missing: string | undefined }> {
  const { patterns } = places;
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
          regions.push(await Region.attach(backing, name));
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
