/**
 * The server of a region file: it creates or adopts the file, reclaims what dead peers held, and removes the file in the
 * end. It takes no slot.
 *
 * A server holds the lock on byte LOCK_SERVER of the file, which the kernel drops when the server dies. So a file has one
 * server at a time, and a file that is served can be told from one that was left over.
 */
import { closeSync, fstatSync, lstatSync, unlinkSync, writeSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { type ErrorCode, IsthmusError } from '../base/errors.js';
import { coreLayout } from '../core/core.js';
import { reserve, systemError } from '../device/backing.js';
import { type Users, usersOf } from '../device/holders.js';
import { type Identity, identityOf, isAt } from '../device/identity.js';
import {
  type Access,
  createPosix,
  grant,
  isOwnOrRoots,
  type Judge,
  openChecked,
  posixBacking,
  regionPath,
  trustedByName,
  trustedByOwner,
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

/** What became of the file, the slots that are taken in it, and the processes that have it open or mapped. */
export interface CloseResult extends Users {
  readonly removed: boolean;
  readonly peers: readonly Attachment[];
  /** Why it could not be removed, though it might have been. */
  readonly failure: IsthmusError | undefined;
}

const UNUSED: Users = { use: 'none', holders: [] };

export class RegionServer implements Disposable {
  readonly path: string;
  readonly origin: Origin;
  /** The use of the file that was replaced, by processes that see nothing of the new one. */
  readonly stranded: Users;
  readonly region: MappedRegion;
  readonly #fd: number;
  #result: CloseResult | undefined;

  private constructor(origin: Origin, fd: number, region: MappedRegion, stranded = UNUSED) {
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
        return await RegionServer.#replace(fd, path, options, judge);
      }
    }
    return RegionServer.#beginNew('created', path, judge);
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
    let stranded: Users;
    try {
      const held = lockHeld(fd);
      if (held !== undefined) {
        const message = `${path}: it cannot be used, but a process of this host has it (lock on byte ${held}): end that first`;
        throw new IsthmusError('ERR_ISTHMUS_REGION_IN_USE', message, { path });
      }
      if (fstatSync(fd).size === size) {
        // In place: a process that has mapped it, as the QEMU of a VM, goes on sharing it. So it stays if this fails.
        reserve(fd, size, path);
        const zeros = Buffer.alloc(coreLayout().FRAME);
        writeSync(fd, zeros, 0, zeros.length, 0);
        grant(fd, path, access);
        return new RegionServer('replaced', fd, await MappedRegion.open(posixBacking(path, true, judge)));
      }
      // Truncating the file would end the processes that have mapped it: they keep the old file.
      stranded = usersOf(fd, identityOf(fd));
      const failure = removeOwn(path, identityOf(fd));
      if (failure instanceof IsthmusError) throw failure;
    } catch (error) {
      throw closing(fd, error);
    }
    closeSync(fd);
    createPosix(path, size, access);
    return RegionServer.#beginNew('replaced', path, judge, stranded);
  }

  /** Format a file that this server has created; remove it if that fails. */
  static async #beginNew(origin: Origin, path: string, judge: Judge, stranded?: Users): Promise<RegionServer> {
    const fd = lockFile(path, judge);
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
   * Stop serving the file, and remove it if no slot is taken and no process has it open or mapped, as far as that can be
   * proven. Idempotent.
   * @param always remove it in any case: its users are about to end
   */
  close(always = false): CloseResult {
    if (this.#result) return this.#result;
    const lost = this.region.whyLost() !== undefined;
    if (!lost) this.reap();
    // In a file that was truncated there are no slots.
    const peers = lost ? [] : this.region.attachments();
    // Now #fd is the only opening of this process.
    this.region.detach();
    const { identity } = this.region;
    let outcome = false as ReturnType<typeof removeOwn>;
    const remove = () => {
      outcome = removeOwn(this.path, identity);
    };
    const users = usersOf(this.#fd, identity, peers.length === 0 ? remove : undefined);
    if (always && users.use !== 'none') remove();
    closeSync(this.#fd); // Drops the lock.
    const failure = typeof outcome === 'boolean' ? undefined : outcome;
    this.#result = { ...users, removed: outcome === true, peers, failure };
    return this.#result;
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/**
 * A server changes a file and lets others rely on it: it takes one of root, of its own user, or of the user that the file is
 * given to, as that of QEMU, and asks for more than the name.
 */
function judgeFor({ uid, gid }: Access): Judge {
  return (stat) => {
    const given = uid !== undefined && stat.uid === uid && (gid === undefined || stat.gid === gid);
    if (given) return trustedByName(stat);
    const why = trustedByOwner(stat);
    return isOwnOrRoots(stat) ? why : `${why} ('--owner' and '--group' say what a server is to expect)`;
  };
}

/** @returns the descriptor that holds the lock */
function lockFile(path: string, judge: Judge): number {
  const fd = openChecked(path, judge);
  try {
    if (addon().lock(fd, coreLayout().LOCK_SERVER)) return fd;
  } catch (error) {
    throw closing(fd, error);
  }
  throw closing(fd, new IsthmusError('ERR_ISTHMUS_REGION_IN_USE', `${path} is served by another server`, { path }));
}

/** For an error after which a descriptor is not needed any more. Its owner calls this once. */
function closing(fd: number, error: unknown): unknown {
  closeSync(fd);
  return error;
}

/** Remove the file if it is still that one. @returns false: it is not there any more; an error: this process may not */
function removeOwn(path: string, { dev, ino }: Identity): boolean | IsthmusError {
  try {
    const found = lstatSync(path, { bigint: true });
    if (BigInt.asUintN(64, found.dev) !== dev || BigInt.asUintN(64, found.ino) !== ino) return false;
    unlinkSync(path);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false;
    return systemError(error, 'may not remove', path, 'ERR_ISTHMUS_REGION_PERMISSIONS');
  }
}
