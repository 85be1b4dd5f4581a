/** The search for regions: each candidate is attached, or refused with a reason. */

import { IsthmusError } from '../base/errors.js';
import type { Candidate } from '../device/backing.js';
import { discoverPci } from '../device/pci.js';
import { regionPath } from '../device/posix.js';
import { discoverPosix, isPattern, namesAndPatterns, unnamedRegions } from '../device/posix-discovery.js';
import { discoverUio, type UioRoots } from '../device/uio.js';
import { addonMissing } from '../native/native.js';
import { Region } from '../region/region.js';

/** A candidate that is not used, and the reason. */
export interface Refused {
  readonly path: string;
  readonly error: IsthmusError;
}

/** Reasons that one message has. */
const MAX_REASONS = 8;

/** Where to search. */
export interface Places {
  /** `PSP_IVSHMEM_REGIONS`: names and patterns. */
  readonly files: string;
  /** Whether that is the default, and not a choice: then the search tells which files it would have to name. */
  readonly isDefault?: boolean;
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
export function findRegions({ files, pci, roots }: Places): Candidate[] {
  if (addonMissing()) return [];
  return [...discoverUio(roots), ...(pci ? discoverPci(roots) : []), ...discoverPosix(files)];
}

/**
 * Attach all regions that are found.
 * @param strict whether a named region that cannot be attached is an error; otherwise it is refused, like the others
 * @throws the error of a named region
 */
export async function attachRegions(places: Places, name: string, strict = true): Promise<FoundRegions> {
  const named = new Set(
    strict
      ? namesAndPatterns(places.files)
          .filter((name) => !isPattern(name))
          .map(regionPath)
      : [],
  );
  const missing = addonMissing();
  if (missing) {
    if (named.size > 0) throw missing;
    return { regions: [], refused: [], missing: missing.message };
  }
  const regions: Region[] = [];
  const refused: Refused[] = [];
  try {
    for (const { path, backing, refused: error } of findRegions(places)) {
      let reason = error;
      if (backing) {
        try {
          regions.push(await Region.attach(backing, name, { survivesLoss: places.survivesLoss }));
          continue;
        } catch (thrown) {
          if (!(thrown instanceof IsthmusError)) throw thrown;
          reason = thrown;
        }
      }
      if (!reason) continue;
      if (named.has(path)) throw reason;
      refused.push({ path, error: reason });
    }
  } catch (thrown) {
    for (const region of regions) region.detach();
    throw thrown;
  }
  const unused = places.isDefault && regions.length === 0 ? unnamedRegions([]) : [];
  const reasons = [...refused.map(({ error }) => error), ...unused.flatMap(({ refused: error }) => error ?? [])];
  const shown = reasons.slice(0, MAX_REASONS).map(({ message }) => message);
  if (reasons.length > MAX_REASONS) shown.push(`and ${reasons.length - MAX_REASONS} more`);
  return { regions, refused, missing: shown.length > 0 ? `no region (${shown.join('; ')})` : undefined };
}
