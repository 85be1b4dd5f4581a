/**
 * The region file of plugin `shm`: where it lies, which file is trusted, and what it may contain. Joining and leaving it
 * are in shm-lifecycle.ts.
 *
 * Only a file of this user that no other user may open is trusted. A file of another user is left alone, and so is one that
 * contains something else than a region.
 *
 * Every user can take a name in /dev/shm, and only root can take it back. So the region has a row of names, and the
 * first of them that is free, or a file of this user, is the one: no other user can make a file that belongs to this one. All
 * processes of the user that see the same /dev/shm come to the same name, whatever else they share, and in any order: see
 * {@link shmPlace}.
 */
import {
  closeSync,
  constants,
  fchmodSync,
  fstatSync,
  ftruncateSync,
  lstatSync,
  openSync,
  readSync,
  unlinkSync,
  writeSync,
} from 'node:fs';
import { basename, join } from 'node:path';
import { setImmediate as turn } from 'node:timers/promises';
import { IsthmusError, messageOf } from '../base/errors.js';
import { coreLayout } from '../core/core.js';
import { type Backing, reserve, systemError } from '../device/backing.js';
import { identityOf, isAt } from '../device/identity.js';
import { foreign, type Judge, openChecked, SHM, SHM_PREFIX } from '../device/posix.js';
import { addon } from '../native/native.js';
import { lockHeld } from './locks.js';

/** Reserving this much takes some 10 ms; the event loop gets a turn between two such parts. */
const RESERVE_BYTES = 0x400000;

/**
 * Names in the row. Each that another user has taken costs a system call per handshake, so there is an end: a user that takes
 * all of them denies `shm` to another one, as a user does that fills /dev/shm.
 */
const MAX_NAMES = 1024;
/** Between the first name and the number of a later one. No value of PSP_SHM_NAME contains it. */
const NUMBER = '~';

const ownUid = () => process.geteuid?.() ?? 0;

/** The first name of the row. @param name what follows the prefix; empty: the effective user id */
export function shmPath(name: string): string {
  return join(SHM, `${SHM_PREFIX}${name === '' ? ownUid() : name}`);
}

function* row(name: string): Generator<string> {
  const first = shmPath(name);
  yield first;
  for (let number = 1; number < MAX_NAMES; number++) yield `${first}${NUMBER}${number}`;
}

/** What is at a name: nothing; a file of this user; or a reason why this process leaves it alone. */
type Standing = 'free' | 'own' | { readonly why: string };

function standing(path: string): Standing {
  try {
    const stat = lstatSync(path, { throwIfNoEntry: false });
    if (!stat) return 'free';
    const why = stat.isFile() ? own(stat) : 'is not a regular file';
    return why === undefined ? 'own' : { why };
  } catch (error) {
    return { why: messageOf(error) };
  }
}

/** Where the region lies now, whether the file exists or not. */
export interface ShmPlace {
  readonly path: string;
  /** For people: why it is not the first name; undefined: it is. */
  readonly taken: string | undefined;
}

/**
 * The first name that is free or a file of this user. That is a function of what is in /dev/shm alone, and it is asked again
 * with each handshake: when a name is taken or given back, open connections go on, and newcomers meet at the next place.
 * @throws ERR_ISTHMUS_REGION_PERMISSIONS: all names are taken
 */
export function shmPlace(name: string): ShmPlace {
  let taken = '';
  let more = 0;
  for (const path of row(name)) {
    const found = standing(path);
    if (typeof found === 'string') {
      if (taken === '') return { path, taken: undefined };
      return { path, taken: `${taken}${more > 0 ? `, and ${more} more` : ''}; ${path} is used instead` };
    }
    if (taken === '') taken = `${path} ${found.why}`;
    else more++;
  }
  throw new IsthmusError(
    'ERR_ISTHMUS_REGION_PERMISSIONS',
    `${taken}, and ${more} other names are taken, too; PSP_SHM_NAME gives the region another name`,
    { path: shmPath(name) },
  );
}

/**
 * Remove what processes have left behind that died while names before theirs were taken. (What is left at the place in use is
 * used again.)
 */
export function removeLeftovers(name: string, inUse: string): void {
  let behind = false;
  for (const path of row(name)) {
    if (behind) {
      const found = standing(path);
      if (found === 'free') return;
      if (found === 'own') removeIfUnused(path);
    }
    behind ||= path === inUse;
  }
}

function removeIfUnused(path: string): void {
  let fd: number;
  try {
    fd = openOwn(path);
  } catch {
    return; // Another process was faster.
  }
  try {
    if (addon().lock(fd, coreLayout().LOCK_LIFECYCLE) && isAt(path, identityOf(fd)) && !isHeld(fd)) remove(path);
  } finally {
    closeSync(fd);
  }
}

const own: Judge = ({ uid, nlink }) => {
  if (uid !== ownUid()) return `belongs to uid ${uid}, not to ${ownUid()}: another user has taken the name`;
  // A second name may be a link that another user made to some other file of this user.
  if (nlink > 1) return `has ${nlink} names`;
  return undefined;
};

export function openOwn(path: string): number {
  try {
    return openChecked(path, own);
  } catch (error) {
    const why = error instanceof IsthmusError && error.errno === 'EACCES' ? whyClosed(path) : undefined;
    if (why === undefined) throw error;
    throw new IsthmusError('ERR_ISTHMUS_REGION_PERMISSIONS', `${path}: ${why}`, { cause: error, path });
  }
}

/** Why a file could not be opened, by its owner, which the failed system call does not tell. */
function whyClosed(path: string): string | undefined {
  try {
    return own(lstatSync(path));
  } catch {
    return undefined;
  }
}

/** @returns undefined: another process was faster */
function create(path: string): number | undefined {
  try {
    const fd = openSync(path, constants.O_RDWR | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW, 0o600);
    fchmodSync(fd, 0o600); // Whatever the umask is.
    return fd;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'EEXIST') return undefined;
    const full = code === 'ENOSPC' ? ('ERR_ISTHMUS_REGION_NO_SPACE' as const) : undefined;
    throw systemError(error, 'cannot create', path, full);
  }
}

/** @returns undefined: the file was created or removed meanwhile */
export function openOrCreate(path: string): number | undefined {
  try {
    return openOwn(path);
  } catch (error) {
    if (!(error instanceof IsthmusError) || error.code !== 'ERR_ISTHMUS_REGION_NOT_FOUND') throw error;
    return create(path);
  }
}

/** Whether a process uses the region: it has a slot, formats or serves. @param except a slot that does not count */
export function isHeld(fd: number, except = -1): boolean {
  return lockHeld(fd, except) !== undefined;
}

/** The first frame, or as much of it as the file has. */
export function headOf(fd: number): Buffer {
  const head = Buffer.alloc(coreLayout().FRAME);
  return head.subarray(0, readSync(fd, head, 0, head.length, 0));
}

/** Whether a file begins with anything else than zeros, a region of any version, or one that was being formatted. */
export function isForeign(head: Buffer): boolean {
  const { WINDOW, HEADER_STATE, REGION_FORMATTING } = coreLayout();
  const state = HEADER_STATE - WINDOW;
  if (head.toString('latin1', 0, 8) === 'ISTHMUS\0') return false;
  if (head.subarray(0, 8).some((byte) => byte !== 0)) return true;
  return head[state] !== REGION_FORMATTING && head.some((byte) => byte !== 0);
}

/** A region that is in use stays as it is. @throws if this process cannot use it so */
export function checkHeld(path: string, size: number, wanted: number, head: Buffer): void {
  const { WINDOW, HEADER_VERSION, HEADER_SIZE, LAYOUT_VERSION } = coreLayout();
  const short = head.length < coreLayout().FRAME;
  const version = short ? 0 : head.readUInt32LE(HEADER_VERSION - WINDOW);
  // The lifecycle lock is held, so no process is formatting it.
  if (version === 0 || (version === LAYOUT_VERSION && head.readBigUInt64LE(HEADER_SIZE - WINDOW) > size)) {
    throw new IsthmusError(
      'ERR_ISTHMUS_REGION_LOST',
      `${path}: was truncated, has ${size} bytes now, and the processes that use it have not left it yet`,
      { path },
    );
  }
  if (version !== LAYOUT_VERSION) {
    throw new IsthmusError(
      'ERR_ISTHMUS_REGION_VERSION',
      `${path}: other processes use it with layout version ${version}, this is ${LAYOUT_VERSION}`,
      { path },
    );
  }
  if (size !== wanted) {
    throw new IsthmusError(
      'ERR_ISTHMUS_REGION_SIZE',
      `${path}: other processes use it with ${size} bytes, PSP_SHM_SIZE is ${wanted} here`,
      { path, needed: wanted, available: size },
    );
  }
}

/** Errors of fallocate(2) where a sandbox or a file system has none. */
const NO_FALLOCATE: ReadonlySet<string | undefined> = new Set(['ENOSYS', 'EPERM', 'EOPNOTSUPP']);

/** {@link reserve}, or bytes written into the file: it has no content that counts. */
function reserveUnused(fd: number, path: string, size: number, from: number, to: number): void {
  try {
    reserve(fd, size, path, to);
  } catch (error) {
    if (!(error instanceof IsthmusError) || !NO_FALLOCATE.has(error.errno)) throw error;
    const zeros = Buffer.alloc(to - from);
    for (let at = from; at < to; ) at += writeSync(fd, zeros, at - from, to - at, at);
  }
}

/** Give an unused file all of its blocks, and zeros at its beginning. */
export async function renew(fd: number, path: string, size: number, signal: AbortSignal): Promise<void> {
  try {
    if (fstatSync(fd).size !== size) {
      ftruncateSync(fd, 0);
      ftruncateSync(fd, size);
    }
    for (let part = 0; part < size; ) {
      const from = part;
      part = Math.min(part + RESERVE_BYTES, size);
      reserveUnused(fd, path, size, from, part);
      await turn();
      signal.throwIfAborted();
    }
    const zeros = Buffer.alloc(coreLayout().FRAME);
    writeSync(fd, zeros, 0, zeros.length, 0);
  } catch (error) {
    if (error instanceof IsthmusError || signal.aborted) throw error;
    throw systemError(error, 'cannot prepare', path);
  }
}

/** The backing of a path, as long as it leads to the file of `fd`. */
export function backingOf(fd: number, path: string, size: number, mayFormat: boolean): Backing {
  const identity = identityOf(fd);
  return {
    kind: 'posix',
    name: basename(path),
    path,
    size,
    offset: 0,
    mayFormat,
    open() {
      const opened = openOwn(path);
      const { dev, ino } = identityOf(opened);
      if (dev === identity.dev && ino === identity.ino) return opened;
      closeSync(opened);
      throw new IsthmusError('ERR_ISTHMUS_REGION_NOT_FOUND', `${path}: was removed while it was opened`, { path });
    },
  };
}

export function remove(path: string): void {
  try {
    unlinkSync(path);
  } catch {
    // Another process was faster.
  }
}

/** Why the file that is there now cannot be used, if that can be told without joining. */
export function whyNotShm(path: string): IsthmusError | undefined {
  let fd: number;
  try {
    fd = openOwn(path);
  } catch (error) {
    const { code } = error as IsthmusError;
    return code === 'ERR_ISTHMUS_REGION_NOT_FOUND' ? undefined : (error as IsthmusError);
  }
  try {
    const head = headOf(fd);
    return isForeign(head) ? foreign(path, head) : undefined;
  } finally {
    closeSync(fd);
  }
}
