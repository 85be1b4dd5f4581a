/** Region files by the patterns of `PSP_IVSHMEM_REGIONS`. */
import { constants, fstatSync, openSync, readdirSync, readSync } from 'node:fs';
import { join } from 'node:path';
import type { IsthmusError } from '../base/errors.js';
import { type Candidate, closeQuietly } from './backing.js';
import { MAGIC, posixBacking, regionPath, SHM, SHM_PREFIX } from './posix.js';

function matches(pattern: string, name: string): boolean {
  const expression = pattern
    .replace(/[.+^${}()|[\]\\]/g, '\\$&')
    .replaceAll('*', '.*')
    .replaceAll('?', '.');
  return new RegExp(`^${expression}$`).test(name);
}

/** Whether a file in /dev/shm is, or claims to be, a region: other files there are ignored. */
function claimsToBeRegion(path: string): boolean {
  let fd: number | undefined;
  try {
    fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    if (!fstatSync(fd).isFile()) return false;
    const head = Buffer.alloc(8);
    return readSync(fd, head, 0, 8, 0) === 8 && head.toString('latin1') === MAGIC;
  } catch {
    return false;
  } finally {
    if (fd !== undefined) closeQuietly(fd);
  }
}

/**
 * Region files by patterns: names in /dev/shm or paths, separated by blanks or commas; `*` and `?` stand for parts of a name
 * in /dev/shm. A file that is named without them must exist, and may be formatted. A file that a pattern matches must be a
 * formatted region already.
 */
export function discoverPosix(patterns: string): Candidate[] {
  const found = new Map<string, Candidate>();
  const add = (path: string, mayFormat: boolean) => {
    if (found.has(path)) return;
    try {
      found.set(path, { path, backing: posixBacking(path, mayFormat) });
    } catch (error) {
      found.set(path, { path, refused: error as IsthmusError });
    }
  };
  for (const pattern of patterns.split(/[\s,]+/).filter(Boolean)) {
    if (!/[*?]/.test(pattern)) {
      add(regionPath(pattern), true);
      continue;
    }
    const local = pattern.startsWith(`${SHM}/`) ? pattern.slice(SHM.length + 1) : pattern;
    let names: string[] = [];
    try {
      names = readdirSync(SHM).sort();
    } catch {
      // Without /dev/shm there are no regions in it.
    }
    for (const name of names) {
      const path = join(SHM, name);
      if (!name.startsWith(SHM_PREFIX) && matches(local, name) && claimsToBeRegion(path)) add(path, false);
    }
  }
  return [...found.values()];
}
