/**
 * Regions in files of POSIX shared memory: the simulated device, and what a host shares with its VMs.
 *
 * Others can put files into /dev/shm, so a file is believed only if it is a regular one, not reached through a link, that
 * belongs to root, to us or to one of our groups, and that others cannot write.
 */
import {
  closeSync,
  constants,
  fchmodSync,
  fchownSync,
  fstatSync,
  ftruncateSync,
  openSync,
  readdirSync,
  readSync,
  type Stats,
  unlinkSync,
} from 'node:fs';
import { basename, join } from 'node:path';
import { IsthmusError } from '../base/errors.js';
import { type Backing, checkSize, closeQuietly, reserve, systemError, usableSize } from './backing.js';

export const SHM = '/dev/shm';
/** First bytes of a region (assembly/layout.ts). */
const MAGIC = 'ISTHMUS\0';
/** First byte of a device that the C pscom plugin uses. */
const C_PLUGIN_MARK = 0xcb;

/** Files of plugin `shm` begin with this: they are not devices, and no pattern finds them. */
export const SHM_PREFIX = 'isthmus-shm-';

/** `demo` → `/dev/shm/demo`; a path stays as it is. */
export function regionPath(name: string): string {
  if (name === '' || name === '.' || name === '..' || name.includes('\0')) {
    throw new IsthmusError('ERR_ISTHMUS_INVALID_ARGUMENT', `'${name}' is not the name of a region`);
  }
  return name.includes('/') ? name : join(SHM, name);
}

/** Why a file is not believed, by its owner, groups and mode; undefined if it is. */
export type Judge = (stat: Stats) => string | undefined;

export const trusted: Judge = (stat) => {
  const uid = process.geteuid?.() ?? 0;
  const groups = [process.getegid?.() ?? 0, ...(process.getgroups?.() ?? [])];
  if (stat.uid !== 0 && stat.uid !== uid && !groups.includes(stat.gid)) {
    return `belongs to uid ${stat.uid} and gid ${stat.gid}: neither root nor you nor one of your groups`;
  }
  if (stat.mode & 0o002) return `others may write to it (mode ${(stat.mode & 0o777).toString(8)}); chmod o-w`;
  return undefined;
};

/**
 * Open a regular file for reading and writing, not through a link, if `judge` has nothing against it.
 * @throws ERR_ISTHMUS_REGION_NOT_FOUND, ERR_ISTHMUS_REGION_PERMISSIONS, ERR_ISTHMUS_SYSCALL
 */
export function openChecked(path: string, judge: Judge = trusted): number {
  let fd: number;
  try {
    fd = openSync(path, constants.O_RDWR | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT') throw systemError(error, 'there is no region', path, 'ERR_ISTHMUS_REGION_NOT_FOUND');
    if (code === 'ELOOP' || code === 'EACCES' || code === 'EISDIR') {
      throw systemError(error, 'may not open the region', path, 'ERR_ISTHMUS_REGION_PERMISSIONS');
    }
    throw systemError(error, 'cannot open', path);
  }
  try {
    const stat = fstatSync(fd);
    const refuse = (why: string): never => {
      throw new IsthmusError('ERR_ISTHMUS_REGION_PERMISSIONS', `${path}: ${why}`, { path });
    };
    if (!stat.isFile()) refuse('is not a regular file');
    const why = judge(stat);
    if (why !== undefined) refuse(why);
    return fd;
  } catch (error) {
    closeSync(fd);
    throw error;
  }
}

/** What the first bytes of a file say, before it is mapped. */
function checkHead(fd: number, size: number, path: string): void {
  const head = Buffer.alloc(24);
  readSync(fd, head, 0, head.length, 0);
  if (head[0] === C_PLUGIN_MARK) throw foreign(path, head);
  if (head.toString('latin1', 0, 8) !== MAGIC) return;
  const claimed = Number(head.readBigUInt64LE(16));
  if (claimed > size) {
    throw new IsthmusError(
      'ERR_ISTHMUS_REGION_TOO_SMALL',
      `${path}: truncated: it has ${size} bytes, its header says ${claimed}`,
      { path, needed: claimed, available: size },
    );
  }
}

/** The error for memory that is somebody else's; `head`: its first bytes. */
export function foreign(path: string, head: Uint8Array): IsthmusError {
  const found =
    head[0] === C_PLUGIN_MARK
      ? 'in use by the C pscom plugin (first byte 0xcb)'
      : `it begins with ${Buffer.from(head.subarray(0, 8)).toString('hex')}, which is neither zeros nor a region`;
  return new IsthmusError('ERR_ISTHMUS_REGION_FOREIGN', `${path}: ${found}`, { path });
}

/**
 * A region file that the user named, or that discovery found.
 * @throws ERR_ISTHMUS_REGION_NOT_FOUND, _PERMISSIONS, _TOO_SMALL, _SIZE, _FOREIGN, ERR_ISTHMUS_SYSCALL
 */
export function posixBacking(name: string, mayFormat = true, judge: Judge = trusted): Backing {
  const path = regionPath(name);
  const fd = openChecked(path, judge);
  let size: number;
  try {
    size = fstatSync(fd).size;
    checkSize(size, path);
    checkHead(fd, size, path);
  } finally {
    closeSync(fd);
  }
  const used = usableSize(size);
  return {
    kind: 'posix',
    name: basename(path),
    path,
    size: used,
    offset: 0,
    mayFormat,
    open() {
      const opened = openChecked(path, judge);
      try {
        if (fstatSync(opened).size < size) {
          throw new IsthmusError('ERR_ISTHMUS_REGION_TOO_SMALL', `${path}: was truncated`, { path, needed: size });
        }
        reserve(opened, used, path);
        return opened;
      } catch (error) {
        closeQuietly(opened);
        throw error;
      }
    },
  };
}

/** Whose a region file is, and who may open it. */
export interface Access {
  /** Permission bits; never those of others. */
  readonly mode: number;
  /** Undefined: as it comes. */
  readonly uid?: number | undefined;
  readonly gid?: number | undefined;
}

const PEERS: Access = { mode: 0o660 };

/**
 * Give a file to its owner and group, whatever the umask is.
 * @throws ERR_ISTHMUS_REGION_PERMISSIONS if that is not ours to do
 */
export function grant(fd: number, path: string, { mode, uid, gid }: Access): void {
  const stat = fstatSync(fd);
  try {
    if ((uid ?? stat.uid) !== stat.uid || (gid ?? stat.gid) !== stat.gid) fchownSync(fd, uid ?? -1, gid ?? -1);
    if ((stat.mode & 0o777) !== mode) fchmodSync(fd, mode);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EPERM') throw systemError(error, 'cannot change the owner of', path);
    const wanted = `${uid ?? stat.uid}:${gid ?? stat.gid}, mode ${mode.toString(8)}`;
    throw systemError(error, `only root can give it to ${wanted}:`, path, 'ERR_ISTHMUS_REGION_PERMISSIONS');
  }
}

/**
 * Create a region file, all of its blocks reserved.
 * @param size bytes, a power of two, at least 1 MiB
 * @throws ERR_ISTHMUS_REGION_IN_USE if it is there; _SIZE, _TOO_SMALL, _NO_SPACE
 */
export function createPosix(name: string, size: number, access: Access = PEERS): Backing {
  const path = regionPath(name);
  checkSize(size, path);
  let fd: number;
  try {
    fd = openSync(path, constants.O_RDWR | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW, 0o600);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') {
      throw systemError(error, 'there is already something at', path, 'ERR_ISTHMUS_REGION_IN_USE');
    }
    throw systemError(error, 'cannot create', path);
  }
  try {
    ftruncateSync(fd, size);
    reserve(fd, size, path);
    grant(fd, path, access); // Not before it is whole.
  } catch (error) {
    unlinkSync(path);
    throw error;
  } finally {
    closeSync(fd);
  }
  return posixBacking(path, true, () => undefined);
}

/** What discovery says of one candidate. */
export interface Candidate {
  readonly path: string;
  readonly backing?: Backing;
  /** Why it is not used. */
  readonly refused?: IsthmusError;
}

function matches(pattern: string, name: string): boolean {
  const expression = pattern
    .replace(/[.+^${}()|[\]\\]/g, '\\$&')
    .replaceAll('*', '.*')
    .replaceAll('?', '.');
  return new RegExp(`^${expression}$`).test(name);
}

/** Whether a file in /dev/shm is, or claims to be, a region: anything else there is nobody's business. */
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
 * Region files by the patterns of `PSP_IVSHMEM_REGIONS`: names in /dev/shm or paths, blank- or comma-separated; `*` and
 * `?` stand for parts of a name in /dev/shm. What is named without them must be there and may be formatted; what is
 * matched must be a formatted region already.
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
      // No /dev/shm, no regions in it.
    }
    for (const name of names) {
      const path = join(SHM, name);
      if (!name.startsWith(SHM_PREFIX) && matches(local, name) && claimsToBeRegion(path)) add(path, false);
    }
  }
  return [...found.values()];
}
