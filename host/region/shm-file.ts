/**
 * The region file of plugin `shm`: one for each user and host, created by the first who needs it, removed by the last,
 * whoever dies meanwhile.
 *
 * Whoever creates, joins, leaves or removes it holds the lock on byte LOCK_LIFECYCLE of the very file that the path leads
 * to: the path is compared when the lock is held, since the file may have been removed in between. Joining takes the
 * lock of a slot before that one is let go of, and leaving drops it before. So under it there is one answer to the
 * question whether anybody uses the region: the locks below. Where nobody does, what the file holds does not matter,
 * from an empty one to a region of a version of old; it begins anew, in place. The kernel drops the locks of the dead.
 *
 * Only a file of our own, which nobody else may open, is believed. Somebody else's is left alone, and so is one that
 * holds something else than a region.
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
import { setTimeout as sleep, setImmediate as turn } from 'node:timers/promises';
import { IsthmusError } from '../base/errors.js';
import { coreLayout } from '../core/core.js';
import { type Backing, identityOf, isAt, reserve, systemError } from '../device/backing.js';
import { foreign, type Judge, openChecked, SHM, SHM_PREFIX } from '../device/posix.js';
import { mapper } from '../native/native.js';
import { lockHeld } from './mapped.js';
import { Region } from './region.js';

/** How long others may be at it when we leave, in milliseconds: whoever is longer joins, and it is his to remove. */
const LEAVE_LIMIT = 1000;
/** Longest pause between two tries for the lock, in milliseconds; jitter keeps many from trying in step. */
const PAUSE = 5;
/** Reserving this much takes some 10 ms; the event loop has its turn between two such parts. */
const PART = 0x400000;

/** Bytes of an application that stay as they are: see {@link Region.detach}. */
type Kept = Parameters<Region['detach']>[0];

const ownUid = () => process.geteuid?.() ?? 0;

/** Path of the file. @param name what follows the prefix; empty: the effective user id */
export function shmPath(name: string): string {
  return join(SHM, `${SHM_PREFIX}${name === '' ? ownUid() : name}`);
}

const own: Judge = ({ uid, nlink }) => {
  if (uid !== ownUid()) return `belongs to uid ${uid}, not to ${ownUid()}: somebody else has taken the name`;
  // A second name may be a link that somebody else made to another file of ours.
  if (nlink > 1) return `has ${nlink} names`;
  return undefined;
};

function openOwn(path: string): number {
  try {
    return openChecked(path, own);
  } catch (error) {
    const why = error instanceof IsthmusError && error.errno === 'EACCES' ? whyClosed(path) : undefined;
    if (why === undefined) throw error;
    throw new IsthmusError('ERR_ISTHMUS_REGION_PERMISSIONS', `${path}: ${why}`, { cause: error, path });
  }
}

/** The system call did not say whose it is. */
function whyClosed(path: string): string | undefined {
  try {
    return own(lstatSync(path));
  } catch {
    return undefined;
  }
}

/** @returns undefined if somebody else was faster */
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

/** @returns undefined if it came or went while we looked */
function openOrCreate(path: string): number | undefined {
  try {
    return openOwn(path);
  } catch (error) {
    if (!(error instanceof IsthmusError) || error.code !== 'ERR_ISTHMUS_REGION_NOT_FOUND') throw error;
    return create(path);
  }
}

/** Whether anybody uses the region: has a slot, formats or serves. @param except a slot that does not count */
function isHeld(fd: number, except = -1): boolean {
  return lockHeld(fd, except) !== undefined;
}

/** The first frame, or as much of it as there is. */
function headOf(fd: number): Buffer {
  const head = Buffer.alloc(coreLayout().FRAME);
  return head.subarray(0, readSync(fd, head, 0, head.length, 0));
}

/** Whether a file begins with neither zeros nor a region of any version nor one that was being formatted. */
function isForeign(head: Buffer): boolean {
  const { WINDOW, HEADER_STATE, REGION_FORMATTING } = coreLayout();
  const state = HEADER_STATE - WINDOW;
  if (head.toString('latin1', 0, 8) === 'ISTHMUS\0') return false;
  if (head.subarray(0, 8).some((byte) => byte !== 0)) return true;
  return head[state] !== REGION_FORMATTING && head.some((byte) => byte !== 0);
}

/** Whoever uses it is to go on doing so: take it as it is, or not at all. */
function checkHeld(path: string, size: number, wanted: number, head: Buffer): void {
  const { WINDOW, HEADER_VERSION, LAYOUT_VERSION } = coreLayout();
  const version = head.length < 12 ? 0 : head.readUInt32LE(HEADER_VERSION - WINDOW);
  if (version !== LAYOUT_VERSION) {
    throw new IsthmusError(
      'ERR_ISTHMUS_REGION_VERSION',
      `${path}: others use it with layout version ${version}, this is ${LAYOUT_VERSION}`,
      { path },
    );
  }
  if (size !== wanted) {
    throw new IsthmusError(
      'ERR_ISTHMUS_REGION_SIZE',
      `${path}: others use it with ${size} bytes, PSP_SHM_SIZE is ${wanted} here`,
      { path, needed: wanted, available: size },
    );
  }
}

/** Make an unused file of ours one that has all of its blocks and begins with zeros. */
async function renew(fd: number, path: string, size: number, signal: AbortSignal): Promise<void> {
  try {
    if (fstatSync(fd).size !== size) {
      ftruncateSync(fd, 0);
      ftruncateSync(fd, size);
    }
    for (let part = 0; part < size; ) {
      part = Math.min(part + PART, size);
      reserve(fd, size, path, part);
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

/** What the path leads to, as long as that is the file of `fd`. */
function backingOf(fd: number, path: string, size: number, mayFormat: boolean): Backing {
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

function remove(path: string): void {
  try {
    unlinkSync(path);
  } catch {
    // Somebody was faster.
  }
}

export interface JoinOptions {
  readonly path: string;
  /** Bytes, a power of two. */
  readonly size: number;
  /** Of the runtime, for people. */
  readonly name: string;
  /** How long others may be at it before we go without, in milliseconds. */
  readonly limit: number;
  readonly signal: AbortSignal;
}

/** With the lifecycle lock held. @returns undefined: the file was not fit and is gone, begin again */
async function joinLocked(fd: number, { path, size, name, signal }: JoinOptions): Promise<Region | undefined> {
  const head = headOf(fd);
  if (isForeign(head)) throw foreign(path, head);
  const stat = fstatSync(fd);
  const mode = stat.mode & 0o777;
  const held = isHeld(fd);
  if (mode !== 0o600) {
    // Others may have it open, so that it stays theirs whatever its mode becomes.
    if (!held) {
      remove(path);
      return undefined;
    }
    const message = `${path}: has mode ${mode.toString(8)}, not 600, and is in use`;
    throw new IsthmusError('ERR_ISTHMUS_REGION_PERMISSIONS', message, { path });
  }
  if (held) checkHeld(path, stat.size, size, head);
  try {
    if (!held) await renew(fd, path, size, signal);
    return await Region.attach(backingOf(fd, path, size, !held), name, signal);
  } catch (error) {
    if (!isHeld(fd)) remove(path);
    throw error;
  }
}

/**
 * Attach to the region file, creating it if nobody has.
 * @throws ERR_ISTHMUS_REGION_…, ERR_ISTHMUS_NATIVE_MISSING, ERR_ISTHMUS_SYSCALL, `signal.reason`; nothing stays behind
 */
export async function joinShm(options: JoinOptions): Promise<Region> {
  const { path, limit, signal } = options;
  const until = performance.now() + limit;
  for (;;) {
    signal.throwIfAborted();
    const fd = openOrCreate(path);
    if (fd !== undefined) {
      try {
        if (mapper().lock(fd, coreLayout().LOCK_LIFECYCLE) && isAt(path, identityOf(fd))) {
          const region = await joinLocked(fd, options);
          if (region) return region;
        }
      } finally {
        closeSync(fd); // And with it the lock.
      }
    }
    if (performance.now() > until) {
      throw new IsthmusError(
        'ERR_ISTHMUS_REGION_FORMATTING',
        `${path}: others were creating, joining or leaving it for more than ${limit} ms`,
        { path },
      );
    }
    await sleep(1 + Math.random() * PAUSE);
  }
}

/** Leave, and remove the file if nobody else uses it. @returns false: somebody has the lifecycle lock, try again */
function tryLeave(region: Region, keep: Kept): boolean {
  const { path } = region.backing;
  let fd: number;
  try {
    fd = openOwn(path);
  } catch {
    region.detach(keep); // The file is gone, or not ours any more.
    return true;
  }
  try {
    const { dev, ino } = identityOf(fd);
    if (dev === region.identity.dev && ino === region.identity.ino) {
      if (!mapper().lock(fd, coreLayout().LOCK_LIFECYCLE)) return false;
      if (isAt(path, region.identity) && !isHeld(fd, region.slot)) remove(path);
    }
    region.detach(keep);
    return true;
  } finally {
    closeSync(fd);
  }
}

/** Leave a region that {@link joinShm} has attached; the last one removes its file. Takes a second at most. */
export async function leaveShm(region: Region, keep?: Kept): Promise<void> {
  const until = performance.now() + LEAVE_LIMIT;
  while (!tryLeave(region, keep)) {
    if (performance.now() > until) {
      region.detach(keep);
      return;
    }
    await sleep(1 + Math.random() * PAUSE);
  }
}

/** The same where nothing can be waited for: at the end of the process. */
export function leaveShmNow(region: Region): void {
  const until = performance.now() + LEAVE_LIMIT / 4;
  const never = new Int32Array(new SharedArrayBuffer(4));
  while (!tryLeave(region, undefined)) {
    if (performance.now() > until) return;
    Atomics.wait(never, 0, 0, 1 + Math.random() * PAUSE);
  }
}

/** Why the file that is there now will not be used, if that can be told from outside. */
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

/** Whether newcomers would come to this region: it is usable, and its file is still where they look. */
export function isCurrent(region: Region): boolean {
  return region.usable && isAt(region.backing.path, region.identity);
}
