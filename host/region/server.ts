/**
 * Keeps a region file for others: creates or adopts it, takes back what the dead held, and removes it in the end. Takes no
 * slot.
 *
 * Whoever keeps a file holds the lock on its byte LOCK_SERVER, which the kernel drops when he dies: so there is one keeper
 * at a time, and a file that is kept can be told from one that was left over.
 */
import { closeSync, fstatSync, unlinkSync, writeSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { type ErrorCode, IsthmusError } from '../base/errors.js';
import { coreLayout } from '../core/core.js';
import { type Identity, identityOf, isAt, reserve } from '../device/backing.js';
import { type Holder, mappedBy } from '../device/holders.js';
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
import { mapper } from '../native/native.js';
import { type Attachment, lockHeld, MappedRegion } from './mapped.js';

/** Whoever creates a file at this moment has it before he has its lock, in milliseconds. */
const START = 500;

/** What `force` replaces: nobody can use such a file. */
const BROKEN: ReadonlySet<ErrorCode> = new Set([
  'ERR_ISTHMUS_REGION_CORRUPT',
  'ERR_ISTHMUS_REGION_FOREIGN',
  'ERR_ISTHMUS_REGION_FORMATTING',
  'ERR_ISTHMUS_REGION_SIZE',
  'ERR_ISTHMUS_REGION_TOO_SMALL',
  'ERR_ISTHMUS_REGION_VERSION',
]);

export interface KeepOptions {
  /** In /dev/shm, or a path with a slash. */
  readonly name: string;
  /** Bytes, a power of two, at least 1 MiB. */
  readonly size: number;
  readonly access: Access;
  /** Replace a file that nobody can use. */
  readonly force?: boolean | undefined;
}

/** How the keeper came to the region: the file is new; was there and healthy; was there, and begins anew. */
export type Origin = 'created' | 'adopted' | 'replaced';

/** What became of the file, and who has a slot in it or has it in memory. */
export interface Leaving {
  readonly removed: boolean;
  readonly peers: readonly Attachment[];
  readonly holders: readonly Holder[];
}

export class Keeper implements Disposable {
  readonly path: string;
  readonly origin: Origin;
  /** Who still has the file that was replaced, and sees nothing of the new one. */
  readonly stranded: readonly Holder[];
  readonly region: MappedRegion;
  readonly #fd: number;
  #left: Leaving | undefined;

  private constructor(origin: Origin, fd: number, region: MappedRegion, stranded: readonly Holder[] = []) {
    this.path = region.backing.path;
    this.origin = origin;
    this.stranded = stranded;
    this.region = region;
    this.#fd = fd;
  }

  /**
   * @throws ERR_ISTHMUS_REGION_IN_USE: somebody else keeps it, or uses what `force` would replace;
   * ERR_ISTHMUS_REGION_… for a file that is not adopted, ERR_ISTHMUS_REGION_NO_SPACE, ERR_ISTHMUS_NATIVE_MISSING,
   * ERR_ISTHMUS_SYSCALL. No new file stays behind.
   */
  static async open(options: KeepOptions): Promise<Keeper> {
    const { name, size, access, force = false } = options;
    const path = regionPath(name);
    const judge = judgeFor(access);
    try {
      createPosix(path, size, access);
    } catch (error) {
      if (!(error instanceof IsthmusError) || error.code !== 'ERR_ISTHMUS_REGION_IN_USE') throw error;
      const fd = lockFile(path, judge);
      try {
        return await Keeper.#adopt(fd, path, options, judge);
      } catch (failure) {
        if (!(failure instanceof IsthmusError) || !BROKEN.has(failure.code)) throw closing(fd, failure);
        if (!force) {
          throw closing(
            fd,
            new IsthmusError(failure.code, `${failure.message}; it is not adopted ('--force' replaces it)`, {
              cause: failure,
              path,
            }),
          );
        }
        return Keeper.#replace(fd, path, options, judge);
      }
    }
    return Keeper.#begin('created', lockFile(path, judge), path, judge);
  }

  static async #adopt(fd: number, path: string, { size, access }: KeepOptions, judge: Judge): Promise<Keeper> {
    // Somebody may be about to create it who will find that we have the lock.
    if (fstatSync(fd).size < size) await sleep(START);
    const found = fstatSync(fd).size;
    if (found !== size) {
      const message = `${path}: is there already and has ${found} bytes, not ${size}`;
      throw new IsthmusError('ERR_ISTHMUS_REGION_SIZE', message, { path, needed: size, available: found });
    }
    const region = await MappedRegion.open(posixBacking(path, true, judge));
    try {
      grant(fd, path, access);
      return new Keeper('adopted', fd, region);
    } catch (error) {
      region.detach();
      throw error;
    }
  }

  /** @param fd of the file that is replaced, with the lock; not the caller's any more */
  static async #replace(fd: number, path: string, options: KeepOptions, judge: Judge): Promise<Keeper> {
    const { size, access } = options;
    try {
      const held = lockHeld(fd);
      if (held !== undefined) {
        const message = `${path}: it cannot be used, but a process of this host has it (lock on byte ${held}): end that first`;
        throw new IsthmusError('ERR_ISTHMUS_REGION_IN_USE', message, { path });
      }
      if (fstatSync(fd).size === size) {
        // In place: who has it mapped, as the QEMU of a VM, goes on sharing it.
        reserve(fd, size, path);
        const zeros = Buffer.alloc(coreLayout().FRAME);
        writeSync(fd, zeros, 0, zeros.length, 0);
        grant(fd, path, access);
        return await Keeper.#begin('replaced', fd, path, judge);
      }
    } catch (error) {
      throw closing(fd, error);
    }
    // Cutting it would end those who have it mapped: they keep the old one.
    const stranded = mappedBy(identityOf(fd));
    removeOwn(path, identityOf(fd));
    closeSync(fd);
    createPosix(path, size, access);
    return Keeper.#begin('replaced', lockFile(path, judge), path, judge, stranded);
  }

  /** A file that holds nothing yet; it goes again if that fails. */
  static async #begin(origin: Origin, fd: number, path: string, judge: Judge, stranded?: readonly Holder[]) {
    try {
      return new Keeper(origin, fd, await MappedRegion.open(posixBacking(path, true, judge)), stranded);
    } catch (error) {
      removeOwn(path, identityOf(fd));
      throw closing(fd, error);
    }
  }

  /** Find the provably dead and take back what they held. @returns whom this call has declared dead */
  reap(): Attachment[] {
    return this.region.reap();
  }

  /** Whether the path still leads to the file: somebody may have removed it. */
  get inPlace(): boolean {
    return isAt(this.path, this.region.identity);
  }

  /**
   * Let go of it, and remove it unless somebody has a slot or has it in memory. Idempotent.
   * @param always remove it all the same: whoever uses it is about to end
   */
  close(always = false): Leaving {
    if (this.#left) return this.#left;
    this.reap();
    const peers = this.region.attachments();
    const holders = mappedBy(this.region.identity);
    const unused = peers.length + holders.length === 0;
    this.#left = { removed: (unused || always) && removeOwn(this.path, this.region.identity), peers, holders };
    this.region.detach();
    closeSync(this.#fd); // And with it the lock.
    return this.#left;
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/** Also whose the file is to be may have it already, as QEMU's user. */
function judgeFor({ uid, gid }: Access): Judge {
  return (stat) => {
    const why = trusted(stat);
    const wanted = (uid === undefined || stat.uid === uid) && (gid === undefined || stat.gid === gid);
    return why !== undefined && wanted && uid !== undefined && (stat.mode & 0o002) === 0 ? undefined : why;
  };
}

/** @returns the opening that holds the lock */
function lockFile(path: string, judge: Judge): number {
  const fd = openChecked(path, judge);
  if (mapper().lock(fd, coreLayout().LOCK_SERVER)) return fd;
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
    return false; // Somebody has removed it.
  }
}
