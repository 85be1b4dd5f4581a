/**
 * The native mapper, typed; and the reason when it is not there.
 *
 * `native/` knows nothing of messages: it puts the pages of a file or device into a `WebAssembly.Memory`, takes them out
 * again, reserves the blocks of a file, holds locks on bytes of it, passes doorbells to other processes, and sizes the
 * buffers of sockets.
 */
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { IsthmusError } from '../base/errors.js';

/**
 * Pages of a file or device in the window of a memory.
 *
 * Every failing method throws an `Error` with `code` (`'ENOSPC'`), `errno` (a number), `syscall` (`'mmap'`) and a
 * message that says what was tried. The object holds its own descriptor (a duplicate, close-on-exec) and a strong
 * reference to the `ArrayBuffer` until it is detached; a worker that is terminated detaches in its clean-up hook.
 */
export interface Mapping {
  /** False from `detach()` on. */
  readonly attached: boolean;
  /** Lay anonymous pages over the window, close the descriptor (which drops its locks). Idempotent. */
  detach(): void;
  /**
   * Take the OFD write lock on one byte of the file, which the kernel drops when the last descriptor of this opening is
   * closed. Never waits.
   * @returns false if somebody else holds it
   */
  lock(byte: number): boolean;
  /** Let go of the OFD lock on one byte. */
  unlock(byte: number): void;
  /** Whether another opening of the file holds a lock on the byte (`F_OFD_GETLK`). */
  locked(byte: number): boolean;
}

/** A descriptor that the event loop waits for. Keeps no process alive. */
export interface Watch {
  /** To be called before the descriptor is closed. Idempotent. */
  close(): void;
}

/** What `native/` exports. */
export interface Mapper {
  /**
   * Map `length` bytes of `fd` from `fileOffset` over `buffer[windowOffset, windowOffset + length)`.
   *
   * `fileOffset`, `length` and the address of the window are multiples of the page size, and the window lies within the
   * buffer; anything else throws a RangeError. `fd` stays the caller's.
   */
  map(
    buffer: ArrayBuffer,
    windowOffset: number,
    length: number,
    fd: number,
    fileOffset: number,
    options?: { readOnly?: boolean },
  ): Mapping;
  /** `posix_fallocate`: make sure that bytes `[0, length)` of the file have blocks. Throws with `code: 'ENOSPC'`. */
  reserve(fd: number, length: number): void;
  /** Take (without waiting) an OFD write lock on a byte of an open file; it lives as long as the opening. */
  lock(fd: number, byte: number): boolean;
  /** Whether another opening of the file holds a lock on the byte. */
  locked(fd: number, byte: number): boolean;
  /** `SO_SNDBUF` and `SO_RCVBUF` of a socket, in bytes; 0 leaves the kernel's own. Beyond its limit the kernel cuts. */
  setSocketBuffers(fd: number, send: number, receive: number): void;
  /** The same as the kernel has them: it doubles what was set (`socket(7)`). */
  socketBuffers(fd: number): { readonly send: number; readonly receive: number };
  /** Call `called` whenever the descriptor has something to read. It stays the caller's. */
  watch(fd: number, called: () => void): Watch;
  /** The same for an eventfd or a timer, whose counter is read away before each call. */
  watchCounter(fd: number, called: () => void): Watch;
  /** An eventfd, non-blocking. The descriptor is the caller's, as are all that follow. */
  createDoorbell(): number;
  /** Add one to an eventfd. */
  ring(fd: number): void;
  /** A timer of the monotonic clock, to be watched. */
  createTimer(): number;
  /** Once, so many microseconds from now; 0: not at all. */
  setTimer(fd: number, microseconds: number): void;
  /** Listen at an abstract Unix-domain name, 1 to 107 bytes. Throws with `code: 'EADDRINUSE'`. */
  listenAbstract(name: string): number;
  /** The next caller of the same user, or of root; -1: there is none. */
  acceptFrom(fd: number): number;
  /** Read who it is, and send him a doorbell. @returns undefined: he has not said it yet */
  answer(fd: number, doorbell: number): { readonly slot: number; readonly generation: number } | undefined;
  /** Connect, and say who we are. Throws with `code: 'ECONNREFUSED'`. */
  connectAbstract(name: string, slot: number, generation: number): number;
  /** The doorbell that came; -1: not yet. Throws with `code: 'ECONNRESET'` if none will. */
  receiveDoorbell(fd: number): number;
  /** Bytes per page of this machine. */
  readonly pageSize: number;
}

/** `node-gyp-build` wants the folder of the package: one above `dist/`, wherever the bundle was put into chunks. */
const require = createRequire(import.meta.url);

let loaded: Mapper | undefined;
let failure: IsthmusError | undefined;

function load(): Mapper {
  if (process.platform !== 'linux') {
    throw new Error(`regions need Linux, this is ${process.platform}`);
  }
  const root = join(dirname(fileURLToPath(import.meta.url)), '..');
  const build = require('node-gyp-build') as (folder: string) => Mapper;
  return build(root);
}

/** The mapper. Throws `ERR_ISTHMUS_NATIVE_MISSING` with the reason where there is none. */
export function mapper(): Mapper {
  if (loaded) return loaded;
  if (failure) throw failure;
  try {
    loaded = load();
    return loaded;
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message.split('\n')[0] : String(cause);
    failure = new IsthmusError('ERR_ISTHMUS_NATIVE_MISSING', `the native part is not there: ${reason}`, { cause });
    throw failure;
  }
}

/** Why there is no mapper, or undefined if there is one. */
export function mapperMissing(): IsthmusError | undefined {
  try {
    mapper();
    return undefined;
  } catch (error) {
    return error as IsthmusError;
  }
}
