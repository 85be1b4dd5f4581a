/** What a region lies in: a file or a device that can be opened and mapped. */
import { closeSync, constants, fstatSync, lstatSync, openSync, readFileSync, statfsSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { type ErrorCode, IsthmusError } from '../base/errors.js';
import { coreLayout } from '../core/core.js';
import { mapper } from '../native/native.js';

/** Something that a region can be mapped from. Opening it again gives the same memory. */
export interface Backing {
  /** A file; a device behind the UIO driver; a PCI device without a driver, by its `resource2`. */
  readonly kind: 'posix' | 'uio' | 'pci';
  /** For people: `ivshmem0`, `uio0`, `0000:00:05.0`. */
  readonly name: string;
  readonly path: string;
  /** Bytes of the region. */
  readonly size: number;
  /** Where it begins in the file, in bytes. */
  readonly offset: number;
  /** Whether it may be formatted when it is all zeros: a device, or a file that was named explicitly. */
  readonly mayFormat: boolean;
  /**
   * Open it for reading and writing, close-on-exec, after checking that it may be trusted and that it is whole.
   * @returns a file descriptor, the caller's to close
   * @throws ERR_ISTHMUS_REGION_… or ERR_ISTHMUS_SYSCALL
   */
  open(): number;
  /**
   * Only of a device, whose bytes can be mapped and not read: open it to look, changing nothing.
   * @returns a file descriptor, the caller's to close
   * @throws as {@link open}
   */
  look?(): number;
}

/** How a device is reached, for people. */
export const WAYS = { uio: 'uio driver', pci: 'PCI resource2, slow: uncached' } as const;

const MIB = 0x100000;

/** @throws ERR_ISTHMUS_REGION_TOO_SMALL, ERR_ISTHMUS_REGION_SIZE */
export function checkSize(size: number, path: string): void {
  if (size < MIB) {
    throw new IsthmusError('ERR_ISTHMUS_REGION_TOO_SMALL', `${path}: ${size} bytes; a region has at least 1 MiB`, {
      path,
      needed: MIB,
      available: size,
    });
  }
  if (!Number.isInteger(Math.log2(size))) {
    throw new IsthmusError('ERR_ISTHMUS_REGION_SIZE', `${path}: ${size} bytes is not a power of two`, { path });
  }
}

/** How many bytes of a larger backing are used: the first ones, whole MiB, as far as a window reaches. */
export function usableSize(bytes: number): number {
  return Math.min(bytes, Math.floor(coreLayout().REGION_MAX / MIB) * MIB);
}

/** Wrap an error of a system call. */
export function systemError(
  error: unknown,
  what: string,
  path: string,
  code: ErrorCode = 'ERR_ISTHMUS_SYSCALL',
): IsthmusError {
  const cause = error as NodeJS.ErrnoException;
  return new IsthmusError(code, `${what} ${path}: ${cause.code ?? cause.message}`, {
    cause,
    errno: cause.code,
    syscall: cause.syscall,
    path,
  });
}

/** Text of an attribute in sysfs. */
export function attribute(...path: string[]): string {
  return readFileSync(join(...path), 'latin1').trim();
}

/**
 * Open a device, or the plain file that stands for one in a test's tree.
 * @param access O_RDWR or O_RDONLY
 * @throws ERR_ISTHMUS_REGION_PERMISSIONS, ERR_ISTHMUS_REGION_NOT_FOUND
 */
export function openDevice(path: string, access = constants.O_RDWR): number {
  try {
    return openSync(path, access | constants.O_NONBLOCK);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'EACCES' || code === 'EPERM') {
      throw systemError(error, 'may not open', path, 'ERR_ISTHMUS_REGION_PERMISSIONS');
    }
    throw systemError(error, 'cannot open', path, 'ERR_ISTHMUS_REGION_NOT_FOUND');
  }
}

/**
 * Make sure that every page of a file has a block: touching one that has none, on a full tmpfs, is a SIGBUS.
 * @param part how much of it now, from the beginning
 * @throws ERR_ISTHMUS_REGION_NO_SPACE with what is needed and what there is, in bytes
 */
export function reserve(fd: number, size: number, path: string, part = size): void {
  try {
    mapper().reserve(fd, part);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') throw wrap(error, 'cannot reserve', path);
    const { bavail, bsize } = statfsSync(path);
    const missing = size - fstatSync(fd).blocks * 512;
    throw new IsthmusError(
      'ERR_ISTHMUS_REGION_NO_SPACE',
      `${path}: ${missing} of ${size} bytes have no block yet, and its file system has ${bavail * bsize} bytes free`,
      { cause: error, errno: 'ENOSPC', syscall: 'posix_fallocate', path, needed: missing, available: bavail * bsize },
    );
  }
}

function wrap(error: unknown, what: string, path: string): unknown {
  return error instanceof IsthmusError ? error : systemError(error, what, path);
}

/** Close a descriptor that may be closed already, in a clean-up path. */
export function closeQuietly(fd: number): void {
  try {
    closeSync(fd);
  } catch {
    // Nothing is left to do about it.
  }
}

/** Which kernel this is, and which file on it: two attachments with the same identity see each other's locks. */
export interface Identity {
  readonly boot: Uint8Array;
  readonly dev: bigint;
  readonly ino: bigint;
  /** 24-bit hash over all of it. */
  readonly hash: number;
}

let boot: Uint8Array | undefined;

/** UUID of this boot of the kernel, 16 bytes (proc(5)); zeros where there is none. */
function bootId(): Uint8Array {
  if (!boot) {
    let text = '';
    try {
      text = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8');
    } catch {
      // No /proc: then nothing can be proven about others, and nothing is.
    }
    boot = new Uint8Array(16);
    boot.set(Buffer.from(text.replaceAll('-', '').trim(), 'hex').subarray(0, 16));
  }
  return boot;
}

/** 24 bits over kernel and file; never 0, which stands for nobody. */
export function identityHash({ boot, dev, ino }: Omit<Identity, 'hash'>): number {
  const bytes = Buffer.alloc(32);
  bytes.set(boot);
  bytes.writeBigUInt64LE(dev, 16);
  bytes.writeBigUInt64LE(ino, 24);
  // FNV-1a, folded.
  let hash = 0x811c9dc5;
  for (const byte of bytes) hash = Math.imul(hash ^ byte, 0x01000193) >>> 0;
  return ((hash >>> 24) ^ hash) & 0xffffff || 1;
}

export function identityOf(fd: number): Identity {
  const stat = fstatSync(fd, { bigint: true });
  const file = { boot: bootId(), dev: BigInt.asUintN(64, stat.dev), ino: BigInt.asUintN(64, stat.ino) };
  return { ...file, hash: identityHash(file) };
}

/** Whether this very file is what the path leads to now; not through a link. */
export function isAt(path: string, { dev, ino }: Pick<Identity, 'dev' | 'ino'>): boolean {
  try {
    const found = lstatSync(path, { bigint: true });
    return BigInt.asUintN(64, found.dev) === dev && BigInt.asUintN(64, found.ino) === ino;
  } catch {
    return false;
  }
}

/** Number of this process' pid namespace, 0 where there is none: for people. */
export function pidNamespace(): bigint {
  try {
    return statSync('/proc/self/ns/pid', { bigint: true }).ino;
  } catch {
    return 0n;
  }
}
