/**
 * The server of a region file: it creates or adopts the file, reclaims what dead peers held, and removes the file in the
 * end. It takes no slot.
 *
 * A server holds the lock on byte LOCK_SERVER of the file, which the kernel drops when the server dies. So a file has one
 * server at a time, and a file that is served can be told from one that was left over.
 */
import { closeSync, fstatSync, unlinkSync, writeSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { type ErrorCode, IsthmusError } from '../base/errors.js';
import { coreLayout } from '../core/core.js';
import { reserve } from '../device/backing.js';
import { type Holder, mappedBy } from '../device/holders.js';
import { type Identity, identityOf, isAt } from '../device/identity.js';
import {
  type Access,
  createPosix,
  grant,
  type Judge,
  openChecked,
  posixBacking,
  regionPath,
  trusted,
} from '../device/posix.js';
import { addon } from '../native/native.js';
import { lockHeld } from './locks.js';
import { MappedRegion } from './mapped.js';
import type { Attachment } from './peer-table.js';

/** How long another server that has just created a file may take until it has the lock. */
const MAX_CREATE_MS = 500;

/** Errors of a file that `force` replaces: no process can use such a file. */
const UNUSABLE: ReadonlySet<ErrorCode> = new Set([
  'ERR_ISTHMUS_REGION_CORRUPT',
  'ERR_ISTHMUS_REGION_FOREIGN',
  'ERR_ISTHMUS_REGION_FORMATTING',
  'ERR_ISTHMUS_REGION_SIZE',
  'ERR_ISTHMUS_REGION_TOO_SMALL',
  'ERR_ISTHMUS_REGION_VERSION',
]);

export interface ServeOptions {
  /** In /dev/shm, or a path with a slash. */
  readonly name: string;
  /** Bytes, a power of two, at least 1 MiB. */
  readonly size: number;
  readonly access: Access;
  /** Replace a file that no process can use. */
  readonly force?: boolean | undefined;
}

/** How the server got the region: the file is new; was there and usable; was there, and was replaced. */
export type Origin = 'created' | 'adopted' | 'replaced';

/** What became of the file, the slots that are taken in it, and the processes that have it mapped. */
export interface CloseResult {
  readonly removed: boolean;
  readonly peers: readonly Attachment[];
  readonly holders: readonly Holder[];
}

export class RegionServer implements Disposable {
  readonly path: string;
  readonly origin: Origin;
  /** Processes that have still mapped the file that was replaced, and see nothing of the new one. */
  readonly stranded: readonly Holder[];
  readonly region: MappedRegion;
  readonly #fd: number;
  #result: CloseResult | undefined;

  private constructor(origin: Origin, fd: number, region: MappedRegion, stranded: readonly Holder[] = []) {
    this.path = region.backing.path;
    this.origin = origin;
    this.stranded = stranded;
    this.region = region;
    this.#fd = fd;
  }

  /**
   * @throws ERR_ISTHMUS_REGION_IN_USE: another server serves it, or a process uses what `force` would replace;
   * ERR_ISTHMUS_REGION_… for a file that is not adopted, ERR_ISTHMUS_REGION_NO_SPACE, ERR_ISTHMUS_NATIVE_MISSING,
   * ERR_ISTHMUS_SYSCALL. No new file stays behind.
   */
  static async open(options: ServeOptions): Promise<RegionServer> {
    const { name, size, access, force = false } = options;
    const path = regionPath(name);
    const judge = judgeFor(access);
    try {
      createPosix(path, size, access);
    } catch (error) {
      if (!(error instanceof IsthmusError) || error.code !== 'ERR_ISTHMUS_REGION_IN_USE') throw error;
      const fd = lockFile(path, judge);
      try {
        return await RegionServer.#adopt(fd, path, options, judge);
      } catch (failure) {
        if (!(failure instanceof IsthmusError) || !UNUSABLE.has(failure.code)) throw closing(fd, failure);
        if (!force) {
          throw closing(
            fd,
            new IsthmusError(failure.code, `${failure.message}; it is not adopted ('--force' replaces it)`, {
              cause: failure,
              path,
            }),
          );
        }
        return RegionServer.#replace(fd, path, options, judge);
      }
    }
    return RegionServer.#begin('created', lockFile(path, judge), path, judge);
  }

  static async #adopt(fd: number, path: string, { size, access }: ServeOptions, judge: Judge): Promise<RegionServer> {
    // Another server may be creating it at this moment; it will find the lock taken.
    if (fstatSync(fd).size < size) await sleep(MAX_CREATE_MS);
    const found = fstatSync(fd).size;
    if (found !== size) {
      const message = `${path}: is there already and has ${found} bytes, not ${size}`;
      throw new IsthmusError('ERR_ISTHMUS_REGION_SIZE', message, { path, needed: size, available: found });
    }
    const region = await MappedRegion.open(posixBacking(path, true, judge));
    try {
      grant(fd, path, access);
      return new RegionServer('adopted', fd, region);
    } catch (error) {
      region.detach();
      throw error;
    }
  }

  /** @param fd of the file that is replaced, with the lock. This function owns it from here on */
  static async #replace(fd: number, path: string, options: ServeOptions, judge: Judge): Promise<RegionServer> {
    const { size, access } = options;
    try {
      const held = lockHeld(fd);
      if (held !== undefined) {
        const message = `${path}: it cannot be used, but a process of this host has it (lock on byte ${held}): end that first`;
        throw new IsthmusError('ERR_ISTHMUS_REGION_IN_USE', message, { path });
      }
      if (fstatSync(fd).size === size) {
        // In place: a process that has mapped it, as the QEMU of a VM, goes on sharing it.
        reserve(fd, size, path);
        const zeros = Buffer.alloc(coreLayout().FRAME);
        writeSync(fd, zeros, 0, zeros.length, 0);
        grant(fd, path, access);
        return await RegionServer.#begin('replaced', fd, path, judge);
      }
    } catch (error) {
      throw closing(fd, error);
    }
    // Truncating the file would end the processes that have mapped it: they keep the old file.
    const stranded = mappedBy(identityOf(fd));
    removeOwn(path, identityOf(fd));
    closeSync(fd);
    createPosix(path, size, access);
    return RegionServer.#begin('replaced', lockFile(path, judge), path, judge, stranded);
  }

  /** Format a file that holds nothing yet; remove it if that fails. */
  static async #begin(origin: Origin, fd: number, path: string, judge: Judge, stranded?: readonly Holder[]) {
    try {
      return new RegionServer(origin, fd, await MappedRegion.open(posixBacking(path, true, judge)), stranded);
    } catch (error) {
      removeOwn(path, identityOf(fd));
      throw closing(fd, error);
    }
  }

  /**
   * Declare provably dead peers dead and reclaim what they held.
   * @returns those that this call has declared dead
   * @throws ERR_ISTHMUS_REGION_LOST: the file was truncated
   */
  reap(): Attachment[] {
    this.region.check();
    return this.region.reap();
  }

  /** Whether the path still leads to the file, which may have been removed. */
  get inPlace(): boolean {
    return isAt(this.path, this.region.identity);
  }

  /**
   * Stop serving the file, and remove it unless a slot is taken or a process has mapped it. Idempotent.
   * @param always remove it in any case: its users are about to end
   */
  close(always = false): CloseResult {
    if (this.#result) return this.#result;
    const lost = this.region.whyLost() !== undefined;
    if (!lost) this.reap();
    // In a file that was truncated there are no slots.
    const peers = lost ? [] : this.region.attachments();
    const holders = mappedBy(this.region.identity);
    const unused = peers.length + holders.length === 0;
    this.#result = { removed: (unused || always) && removeOwn(this.path, this.region.identity), peers, holders };
    this.region.detach();
    closeSync(this.#fd); // Drops the lock.
    return this.#result;
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/** The file may already belong to the user that it is given to, as that of QEMU. */
function judgeFor({ uid, gid }: Access): Judge {
  return (stat) => {
    const why = trusted(stat);
    const wanted = (uid === undefined || stat.uid === uid) && (gid === undefined || stat.gid === gid);
    return why !== undefined && wanted && uid !== undefined && (stat.mode & 0o002) === 0 ? undefined : why;
  };
}

/** @returns the descriptor that holds the lock */
function lockFile(path: string, judge: Judge): number {
  const fd = openChecked(path, judge);
  if (addon().lock(fd, coreLayout().LOCK_SERVER)) return fd;
  closeSync(fd);
  throw new IsthmusError('ERR_ISTHMUS_REGION_IN_USE', `${path} is served by another server`, { path });
}

function closing(fd: number, error: unknown): unknown {
  closeSync(fd);
  return error;
}

/** Remove the file if it is still that one. */
function removeOwn(path: string, own: Identity): boolean {
  try {
    if (!isAt(path, own)) return false;
    unlinkSync(path);
    return true;
  } catch {
    return false; // It has been removed.
  }
}
