/** Region files by the names and patterns of `PSP_IVSHMEM_REGIONS`; and those that it does not name. */
import { constants, type Dir, fstatSync, lstatSync, opendirSync, openSync, readSync, type Stats } from 'node:fs';
import { join } from 'node:path';
import { IsthmusError } from '../base/errors.js';
import { type Candidate, closeQuietly } from './backing.js';
import {
  isOwnOrRoots,
  MAGIC,
  posixBacking,
  regionPath,
  SHM,
  SHM_PREFIX,
  trustedByName,
  trustedByOwner,
} from './posix.js';
import { matchesWildcards } from './wildcard.js';

/** Entries of /dev/shm that a search for hints reads: every user may create files there. */
const MAX_ENTRIES = 4096;
/** What a search for the files that a pattern matches costs at most. */
export interface SearchLimits {
  /** Entries of /dev/shm that are read. Names are cheap, and what is cut off may be the file that is meant. */
  readonly entries: number;
  /** Names that match, of which the file is looked at. */
  readonly matches: number;
}
const SEARCH: SearchLimits = { entries: 65_536, matches: 4096 };
/** Files of other users that a search opens, only to say why they are not used. */
const MAX_STRANGERS = 64;
/** What can be typed as a name. Other names of other users' files are not repeated to people. */
const TYPEABLE = /^[\w.:@%+=~-]+$/;

/** Whether a file is, or claims to be, a region: other files are ignored. Only a regular file is opened. */
function claimsToBeRegion(path: string): boolean {
  let fd: number | undefined;
  try {
    fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    if (!fstatSync(fd).isFile()) return false;
    const head = Buffer.alloc(8);
    return readSync(fd, head, 0, 8, 0) === 8 && head.toString('latin1') === MAGIC;
  } catch {
    return false; // It was removed, or this user may not read it and so cannot use it.
  } finally {
    if (fd !== undefined) closeQuietly(fd);
  }
}

/** A regular file at that path, not through a link. */
function regularFile(path: string): Stats | undefined {
  try {
    const stat = lstatSync(path, { throwIfNoEntry: false });
    return stat?.isFile() ? stat : undefined;
  } catch {
    return undefined; // A mount of another user.
  }
}

/** Limits what files of other users cost. */
class Strangers {
  #opened = 0;

  /** Whether a file is worth to be opened. */
  admits(stat: Stats, name: string): boolean {
    return isOwnOrRoots(stat) || (TYPEABLE.test(name) && this.#opened++ < MAX_STRANGERS);
  }
}

/**
 * Names in /dev/shm that may be those of region files, sorted.
 * @param limit of entries that are read
 * @returns `cut`: there are more
 */
function names(limit: number): { readonly found: string[]; readonly cut: boolean } {
  const found: string[] = [];
  let folder: Dir;
  try {
    folder = opendirSync(SHM, { bufferSize: 256 });
  } catch {
    return { found, cut: false }; // Without /dev/shm there are no regions in it.
  }
  let cut = false;
  try {
    for (let read = 0, entry = folder.readSync(); entry && !cut; entry = folder.readSync()) {
      cut = ++read > limit;
      if (!cut && !entry.name.startsWith(SHM_PREFIX)) found.push(entry.name);
    }
  } finally {
    folder.closeSync();
  }
  return { found: found.sort(), cut };
}

export const isPattern = (name: string): boolean => /[*?]/.test(name);

/** The names and patterns of `PSP_IVSHMEM_REGIONS`. */
export const namesAndPatterns = (regions: string): string[] => regions.split(/[\s,]+/).filter(Boolean);

/**
 * Region files by names and patterns: names in /dev/shm or paths, separated by blanks or commas; `*` and `?` stand for parts
 * of a name in /dev/shm. A file that is named without them must exist, may belong to any user, and may be formatted. A file
 * that a pattern matches must be a formatted region already, and belong to root or to this user. A search that was cut at its
 * limits is among the candidates, refused with ERR_ISTHMUS_REGION_NOT_NAMED.
 */
export function discoverPosix(regions: string, limits = SEARCH): Candidate[] {
  const found = new Map<string, Candidate>();
  const files = new Map<string, string>();
  const strangers = new Strangers();
  const add = (path: string, exactly: boolean) => {
    if (found.has(path)) return;
    try {
      const backing = posixBacking(path, exactly, exactly ? trustedByName : trustedByOwner);
      const file = `${backing.file?.dev}:${backing.file?.ino}`;
      const sameAs = files.get(file);
      if (sameAs === undefined) files.set(file, path);
      found.set(path, sameAs === undefined ? { path, backing } : { path, sameAs });
    } catch (error) {
      found.set(path, { path, refused: error as IsthmusError });
    }
  };
  // Those that are named exactly come first: a pattern that matches one of them as well takes nothing from it.
  const wanted = namesAndPatterns(regions);
  for (const name of wanted) if (!isPattern(name)) add(regionPath(name), true);
  const patterns = wanted
    .filter(isPattern)
    .map((name) => (name.startsWith(`${SHM}/`) ? name.slice(SHM.length + 1) : name));
  if (patterns.length === 0) return [...found.values()];
  const { found: inShm, cut } = names(limits.entries);
  const matching = inShm.filter((name) => patterns.some((pattern) => matchesWildcards(pattern, name)));
  for (const name of matching.slice(0, limits.matches)) {
    const path = join(SHM, name);
    const stat = regularFile(path);
    if (stat && strangers.admits(stat, name) && claimsToBeRegion(path)) add(path, false);
  }
  const tooMany = cut
    ? `${SHM} has more than ${limits.entries} entries`
    : matching.length > limits.matches
      ? `${matching.length} names in ${SHM} match`
      : undefined;
  if (tooMany !== undefined) {
    const path = join(SHM, patterns.join(' '));
    const message = `${path}: ${tooMany}, and not all were looked at: name the file itself in PSP_IVSHMEM_REGIONS`;
    found.set(path, { path, refused: new IsthmusError('ERR_ISTHMUS_REGION_NOT_NAMED', message, { path }) });
  }
  return [...found.values()];
}

/**
 * Region files in /dev/shm that are not used because nothing names them; each is refused with ERR_ISTHMUS_REGION_NOT_NAMED.
 * For people: reads a limited number of entries.
 * @param candidates what {@link discoverPosix} has found
 * @param everyUsers also those of other users than root and this one
 */
export function unnamedRegions(candidates: readonly Candidate[], everyUsers = false): Candidate[] {
  const known = new Set(candidates.map(({ path }) => path));
  const strangers = new Strangers();
  const found: Candidate[] = [];
  for (const name of names(MAX_ENTRIES).found) {
    const path = join(SHM, name);
    const stat = known.has(path) ? undefined : regularFile(path);
    if (!stat || !TYPEABLE.test(name)) continue;
    const own = isOwnOrRoots(stat);
    if (!own && !(everyUsers && strangers.admits(stat, name))) continue;
    if (!claimsToBeRegion(path)) continue;
    const whose = own ? '' : ` and belongs to uid ${stat.uid}`;
    const message = `${path} is not named${whose}; PSP_IVSHMEM_REGIONS=${name} makes use of it`;
    found.push({ path, refused: new IsthmusError('ERR_ISTHMUS_REGION_NOT_NAMED', message, { path }) });
  }
  return found;
}
