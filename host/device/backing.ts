/** The file or device that a region lies in. */
import { closeSync, constants, fstatSync, openSync, readFileSync, statfsSync } from 'node:fs';
import { join } from 'node:path';
import { type ErrorCode, IsthmusError } from '../base/errors.js';
import { coreLayout } from '../core/core.js';
import { addon } from '../native/native.js';
import type { Identity } from './identity.js';

/** A file or device that a region can be mapped from. Each opening gives the same memory. */
export interface Backing {
  /** A file; a device behind the UIO driver; a PCI device without a driver, by its `resource2`. */
  readonly kind: 'posix' | 'uio' | 'pci';
  /** For people: `ivshmem0`, `uio0`, `0000:00:05.0`. */
  readonly name: string;
  readonly path: string;
  /** Bytes of the region. */
  readonly size: number;
  /** Offset of the region in the file, in bytes. */
  readonly offset: number;
  /** Whether it may be formatted when it is all zeros: a device, or a file that was named explicitly. */
  readonly mayFormat: boolean;
  /** Of a file: which one it is, whatever its names are; and the user that it belongs to. */
  readonly file?: Pick<Identity, 'dev' | 'ino'>;
  readonly owner?: number;
  /**
   * Open it for reading and writing, close-on-exec, after a check that it may be trusted and is complete.
   * @returns a file descriptor, which the caller closes
   * @throws ERR_ISTHMUS_REGION_… or ERR_ISTHMUS_SYSCALL
   */
  open(): number;
  /**
   * Only of a device, whose bytes can be mapped but not read with read(2): open it without changing anything.
   * @returns a file descriptor, which the caller closes
   * @throws as {@link open}
   */
  openToRead?(): number;
}

/** A file or device that discovery has found. */
export interface Candidate {
  readonly path: string;
  readonly backing?: Backing;
  /** Why it is not used. */
  readonly refused?: IsthmusError;
  /** Path of a candidate before this one that is the same file: a file takes one slot, whatever the number of its names. */
  readonly sameAs?: string;
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

/** How many bytes of a backing are used: whole MiB from its beginning, as many as a window holds. */
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

/** The text of an attribute in sysfs, without white space around it. */
export function attribute(...path: string[]): string {
  return readFileSync(join(...path), 'latin1').trim();
}

/**
 * Open a device, or the regular file that stands for one in a test.
 * @param access O_RDWR or O_RDONLY
 * @throws ERR_ISTHMUS_REGION_PERMISSIONS, ERR_ISTHMUS_REGION_NOT_FOUND, ERR_ISTHMUS_SYSCALL
 */
export function openDevice(path: string, access = constants.O_RDWR): number {
  try {
    return openSync(path, access | constants.O_NONBLOCK);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'EACCES' || code === 'EPERM') {
      throw systemError(error, 'may not open', path, 'ERR_ISTHMUS_REGION_PERMISSIONS');
    }
    const missing = code === 'ENOENT' || code === 'ENXIO' || code === 'ENODEV';
    throw systemError(error, 'cannot open', path, missing ? 'ERR_ISTHMUS_REGION_NOT_FOUND' : undefined);
  }
}

/**
 * Reserve a block for every page of a file: on a full tmpfs, touching a page without one is a SIGBUS.
 * @param part how many bytes to reserve now, from the beginning
 * @throws ERR_ISTHMUS_REGION_NO_SPACE with the missing and the available bytes
 */
export function reserve(fd: number, size: number, path: string, part = size): void {
  try {
    addon().reserve(fd, part);
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

/** Close a descriptor in a clean-up path, where it may be closed already. */
export function closeQuietly(fd: number): void {
  try {
    closeSync(fd);
  } catch {
    // It was closed.
  }
}
