/**
 * The native addon, typed; and the reason if it cannot be loaded.
 *
 * `native/` knows nothing of messages: it maps the pages of a file or device into a `WebAssembly.Memory` and unmaps them,
 * reserves the blocks of a file, locks bytes of it, passes doorbells to other processes, watches descriptors, and sets the
 * buffer sizes of sockets.
 */
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { IsthmusError } from '../base/errors.js';

/**
 * Pages of a file or device that are mapped into the window of a memory.
 *
 * A method that fails throws an `Error` with `code` (`'ENOSPC'`), `errno` (a number), `syscall` (`'mmap'`) and a
 * message that says what was tried. The object holds its own descriptor (a duplicate, close-on-exec) and a strong
 * reference to the `ArrayBuffer` until it is detached; a worker that is terminated detaches in its clean-up hook.
 */
export interface Mapping {
  /** False after `detach()`. */
  readonly attached: boolean;
  /**
   * False: the window has lost its pages, because the file was truncated or the device is gone; it has zeros instead.
   * Only with the option `lost`. Looks at the size of the file (one system call), so it knows before an access does.
   */
  whole(): boolean;
  /** Map anonymous pages over the window, and close the descriptor, which drops its locks. Idempotent. */
  detach(): void;
  /**
   * Take the OFD write lock on one byte of the file, which the kernel drops when the last descriptor of this opening is
   * closed. Never waits.
   * @returns false: another opening holds it
   */
  lock(byte: number): boolean;
  /** Drop the OFD lock on one byte. */
  unlock(byte: number): void;
  /** Whether another opening of the file holds a lock on the byte (`F_OFD_GETLK`). */
  locked(byte: number): boolean;
}

/** A descriptor that the event loop waits for. It does not keep the process alive. */
export interface Watch {
  /** Must be called before the descriptor is closed. Idempotent. */
  close(): void;
}

/** What `native/` exports. */
export interface Addon {
  /**
   * Map `length` bytes of `fd` from `fileOffset` over `buffer[windowOffset, windowOffset + length)`.
   *
   * `fileOffset`, `length` and the address of the window are multiples of the page size, and the window lies within the
   * buffer; anything else throws a RangeError. `fd` still belongs to the caller.
   *
   * @param options.lost offset of a u32 of the buffer outside of the window. An access to a page that the file has no
   * longer stores 1 there, and replaces the window by zeros; without `lost` it is a SIGBUS (native/faults.h)
   */
  map(
    buffer: ArrayBuffer,
    windowOffset: number,
    length: number,
    fd: number,
    fileOffset: number,
    options?: { readOnly?: boolean; lost?: number | undefined },
  ): Mapping;
  /** Reserve blocks for bytes `[0, length)` of the file (`posix_fallocate`). Throws with `code: 'ENOSPC'`. */
  reserve(fd: number, length: number): void;
  /** Take (without waiting) an OFD write lock on a byte of an open file; it lives as long as the opening. */
  lock(fd: number, byte: number): boolean;
  /** Whether another opening of the file holds a lock on the byte. */
  locked(fd: number, byte: number): boolean;
  /** Set `SO_SNDBUF` and `SO_RCVBUF` of a socket, in bytes; 0 leaves the default. The kernel reduces larger values. */
  setSocketBuffers(fd: number, send: number, receive: number): void;
  /** Buffer sizes of a socket as the kernel reports them: twice what was set (`socket(7)`). */
  socketBuffers(fd: number): { readonly send: number; readonly receive: number };
  /** Call `callback` whenever the descriptor is readable. The descriptor still belongs to the caller. */
  watch(fd: number, callback: () => void): Watch;
  /** The same for an eventfd or a timerfd, whose counter is read before each call. */
  watchCounter(fd: number, callback: () => void): Watch;
  /** An eventfd, non-blocking. The caller owns this descriptor, and those that the methods below return. */
  createDoorbell(): number;
  /** Add one to an eventfd. */
  ring(fd: number): void;
  /** A timerfd of the monotonic clock, for {@link watchCounter}. */
  createTimer(): number;
  /** Expire once, in that many microseconds; 0: disarm. */
  setTimer(fd: number, microseconds: number): void;
  /** Listen at an abstract Unix-domain name, 1 to 107 bytes. Throws with `code: 'EADDRINUSE'`. */
  listenAbstract(name: string): number;
  /** Accept the next connection of a process of the same user, or of root; -1: there is none. */
  acceptFrom(fd: number): number;
  /** Read the attachment of a caller, and send it the doorbell. @returns undefined: the caller has not sent it yet */
  answer(fd: number, doorbell: number): { readonly slot: number; readonly generation: number } | undefined;
  /** Connect to a name, and send slot and generation of this process. Throws with `code: 'ECONNREFUSED'`. */
  connectAbstract(name: string, slot: number, generation: number): number;
  /** The doorbell that was received; -1: not yet. Throws with `code: 'ECONNRESET'` if none will come. */
  receiveDoorbell(fd: number): number;
  /** Page size of this machine, in bytes. */
  readonly pageSize: number;
}

/** `node-gyp-build` takes the folder of the package, which is one above `dist/`, where all chunks of the bundle lie. */
const require = createRequire(import.meta.url);

let loaded: Addon | undefined;
let failure: IsthmusError | undefined;

function load(): Addon {
  if (process.platform !== 'linux') {
    throw new Error(`regions need Linux, this is ${process.platform}`);
  }
  const root = join(dirname(fileURLToPath(import.meta.url)), '..');
  const build = require('node-gyp-build') as (folder: string) => Addon;
  return build(root);
}

/** @throws ERR_ISTHMUS_NATIVE_MISSING with the reason */
export function addon(): Addon {
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

/** Why there is no addon; undefined: there is one. */
export function addonMissing(): IsthmusError | undefined {
  try {
    addon();
    return undefined;
  } catch (error) {
    return error as IsthmusError;
  }
}
