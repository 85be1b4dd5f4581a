/**
 * Regions in files of POSIX shared memory: files that stand for ivshmem devices, and files that a host shares with its VMs.
 *
 * Every user can create files in /dev/shm. So a file is trusted only if it is a regular one, not reached through a link, that
 * others cannot write; and that belongs to root or to the user of this process, unless it was named exactly. Being a member
 * of its group proves nothing: on many systems all users share one.
 */
import {
  closeSync,
  constants,
  fchmodSync,
  fchownSync,
  fstatSync,
  ftruncateSync,
  openSync,
  readSync,
  type Stats,
  unlinkSync,
} from 'node:fs';
import { basename, join } from 'node:path';
import { IsthmusError } from '../base/errors.js';
import { type Backing, checkSize, closeQuietly, reserve, systemError, usableSize } from './backing.js';
import { identityOf } from './identity.js';

export const SHM = '/dev/shm';
/** First bytes of a region (assembly/layout.ts). */
export const MAGIC = 'ISTHMUS\0';
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

/** Why a file is not trusted, by its owner and mode; undefined: it is. */
export type Judge = (stat: Pick<Stats, 'uid' | 'gid' | 'mode' | 'nlink'>) => string | undefined;

/** Of a file that was named exactly: the name is the consent to its owner. */
export const trustedByName: Judge = ({ mode }) =>
  mode & 0o002 ? `others may write to it (mode ${(mode & 0o777).toString(8)}); chmod o-w` : undefined;

/** Of a file that was only found, as one of those that a pattern matches. */
export const trustedByOwner: Judge = (stat) =>
  isOwnOrRoots(stat) ? trustedByName(stat) : `belongs to uid ${stat.uid}, neither root nor this user`;

export function isOwnOrRoots({ uid }: Pick<Stats, 'uid'>): boolean {
  return uid === 0 || uid === (process.geteuid?.() ?? 0);
}

/**
 * Open a regular file for reading and writing, not through a link, if `judge` trusts it.
 * @throws ERR_ISTHMUS_REGION_NOT_FOUND, ERR_ISTHMUS_REGION_PERMISSIONS, ERR_ISTHMUS_SYSCALL
 */
export function openChecked(path: string, judge: Judge = trustedByName): number {
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

/** Check the first bytes of a file before it is mapped. @throws ERR_ISTHMUS_REGION_FOREIGN, _TOO_SMALL */
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

/** The error for memory that another program uses. @param head its first bytes */
export function foreign(path: string, head: Uint8Array): IsthmusError {
  const found =
    head[0] === C_PLUGIN_MARK
      ? 'in use by the C pscom plugin (first byte 0xcb)'
      : `it begins with ${Buffer.from(head.subarray(0, 8)).toString('hex')}, which is neither zeros nor a region`;
  return new IsthmusError('ERR_ISTHMUS_REGION_FOREIGN', `${path}: ${found}`, { path });
}

/**
 * The backing of a region file.
 * @param name in /dev/shm, or a path with a slash
 * @throws ERR_ISTHMUS_REGION_NOT_FOUND, _PERMISSIONS, _TOO_SMALL, _SIZE, _FOREIGN, ERR_ISTHMUS_SYSCALL
 */
export function posixBacking(name: string, mayFormat = true, judge: Judge = trustedByName): Backing {
  const path = regionPath(name);
  const fd = openChecked(path, judge);
  let size: number;
  let file: Backing['file'];
  let owner: number;
  try {
    ({ size, uid: owner } = fstatSync(fd));
    file = identityOf(fd);
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
    file,
    owner,
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

/** The owner of a region file, and the users that may open it. */
export interface Access {
  /** Permission bits of owner and group. */
  readonly mode: number;
  /** Undefined: stays as it is. */
  readonly uid?: number | undefined;
  readonly gid?: number | undefined;
}

const PEERS: Access = { mode: 0o660 };

/**
 * Give a file to its owner and group, whatever the umask is.
 * @throws ERR_ISTHMUS_REGION_PERMISSIONS if this process may not do that
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
 * @throws ERR_ISTHMUS_REGION_IN_USE if it exists; _SIZE, _TOO_SMALL, _NO_SPACE
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
    grant(fd, path, access); // Others may open it only when it is complete.
  } catch (error) {
    unlinkSync(path);
    throw error;
  } finally {
    closeSync(fd);
  }
  return posixBacking(path, true, () => undefined);
}
