/**
 * Joining and leaving the region file of plugin `shm`: one for each user and host, created by the first process that needs
 * it, and removed by the last, whichever processes die meanwhile. Which of its names it has now: shm-file.ts.
 *
 * A process creates, joins, leaves or removes the file only while it holds the lock on byte LOCK_LIFECYCLE of the very file
 * that the path leads to. The path is checked after the lock was taken, since the file may have been removed in between.
 * Joining takes the lock of a slot before it drops this lock; leaving drops the lock of the slot before it takes this one.
 * So while the lock is held, the locks on the other bytes say whether any process uses the region. If none does, the
 * content of the file does not matter, be it empty or a region of an old version: the region begins anew, in place. The
 * kernel drops the locks of dead processes.
 */
import { closeSync, fstatSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { IsthmusError } from '../base/errors.js';
import { coreLayout } from '../core/core.js';
import { identityOf, isAt } from '../device/identity.js';
import { foreign } from '../device/posix.js';
import { addon } from '../native/native.js';
import { Region } from './region.js';
import {
  backingOf,
  checkHeld,
  headOf,
  isForeign,
  isHeld,
  openOrCreate,
  openOwn,
  remove,
  removeLeftovers,
  renew,
  shmPlace,
} from './shm-file.js';

/** How long a process that leaves waits for the lock. A process that has it for longer joins, and removes the file later. */
const MAX_LEAVE_MS = 1000;
/** The longest pause between two tries for the lock; jitter keeps processes from trying in step. */
const MAX_PAUSE_MS = 5;

/** Places whose bytes stay as they are: see {@link Region.detach}. */
type Kept = Parameters<Region['detach']>[0];

export interface JoinOptions {
  /** `PSP_SHM_NAME`. */
  readonly file: string;
  /** Bytes, a power of two. */
  readonly size: number;
  /** The name of the runtime, for people. */
  readonly name: string;
  /** How long other processes may hold the lock before the join fails, in milliseconds. */
  readonly limit: number;
  readonly signal: AbortSignal;
  /** See {@link MapOptions}. */
  readonly survivesLoss: boolean;
}

/** With the lifecycle lock held. @returns undefined: the file was unusable and has been removed, begin again */
async function joinLocked(fd: number, path: string, options: JoinOptions): Promise<Region | undefined> {
  const { size, name, signal, survivesLoss } = options;
  const head = headOf(fd);
  if (isForeign(head)) throw foreign(path, head);
  const stat = fstatSync(fd);
  const mode = stat.mode & 0o777;
  const held = isHeld(fd);
  if (mode !== 0o600) {
    // A process of another user may have opened it, and keeps it whatever the mode becomes.
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
    return await Region.attach(backingOf(fd, path, size, !held), name, { signal, survivesLoss });
  } catch (error) {
    if (!isHeld(fd)) remove(path);
    throw error;
  }
}

/**
 * Attach to the region file; create it if it is not there.
 * @throws ERR_ISTHMUS_REGION_…, ERR_ISTHMUS_NATIVE_MISSING, ERR_ISTHMUS_SYSCALL, `signal.reason`; nothing stays behind
 */
export async function joinShm(options: JoinOptions): Promise<Region> {
  const { file, limit, signal } = options;
  const until = performance.now() + limit;
  for (;;) {
    signal.throwIfAborted();
    const { path } = shmPlace(file);
    const fd = openAt(path, file);
    if (fd !== undefined) {
      try {
        if (addon().lock(fd, coreLayout().LOCK_LIFECYCLE) && isAt(path, identityOf(fd)) && isPlace(path, file)) {
          const region = await joinLocked(fd, path, options);
          if (region) {
            removeLeftovers(file, path);
            return region;
          }
        }
      } finally {
        closeSync(fd); // Drops the lock.
      }
    }
    if (performance.now() > until) {
      throw new IsthmusError(
        'ERR_ISTHMUS_REGION_FORMATTING',
        `${path}: other processes were creating, joining or leaving it for more than ${limit} ms`,
        { path },
      );
    }
    await sleep(1 + Math.random() * MAX_PAUSE_MS);
  }
}

/** @returns undefined: another process has created or removed the file, or has taken the name */
function openAt(path: string, file: string): number | undefined {
  try {
    return openOrCreate(path);
  } catch (error) {
    if (isPlace(path, file)) throw error;
    return undefined;
  }
}

/** Whether a process that joins now would go to that path. */
function isPlace(path: string, file: string): boolean {
  try {
    return shmPlace(file).path === path;
  } catch {
    return false; // All names are taken by now.
  }
}

/** Leave, and remove the file if no other process uses it. @returns false: the lifecycle lock is taken, try again */
function tryLeave(region: Region, keep: Kept): boolean {
  const { path } = region.backing;
  let fd: number;
  try {
    fd = openOwn(path);
  } catch {
    region.detach(keep); // The file is gone, or belongs to another user now.
    return true;
  }
  try {
    const { dev, ino } = identityOf(fd);
    if (dev === region.identity.dev && ino === region.identity.ino) {
      if (!addon().lock(fd, coreLayout().LOCK_LIFECYCLE)) return false;
      // The own lock does not count. A region that was lost is detached, and its slot may be that of another process now.
      const own = region.attached ? region.slot : undefined;
      if (isAt(path, region.identity) && !isHeld(fd, own)) remove(path);
    }
    region.detach(keep);
    return true;
  } finally {
    closeSync(fd);
  }
}

/** Leave a region that {@link joinShm} has attached; the last process removes the file. Takes a second at most. */
export async function leaveShm(region: Region, keep?: Kept): Promise<void> {
  const until = performance.now() + MAX_LEAVE_MS;
  while (!tryLeave(region, keep)) {
    if (performance.now() > until) {
      region.detach(keep);
      return;
    }
    await sleep(1 + Math.random() * MAX_PAUSE_MS);
  }
}

/** The same, synchronously: at the exit of the process. */
export function leaveShmNow(region: Region): void {
  const until = performance.now() + MAX_LEAVE_MS / 4;
  const never = new Int32Array(new SharedArrayBuffer(4));
  while (!tryLeave(region, undefined)) {
    if (performance.now() > until) return;
    Atomics.wait(never, 0, 0, 1 + Math.random() * MAX_PAUSE_MS);
  }
}

/** Whether a process that joins now would get this region: it is usable, and its file is the one at the place. */
export function isCurrent(region: Region, file: string): boolean {
  const { path } = region.backing;
  return region.usable && isAt(path, region.identity) && isPlace(path, file);
}
