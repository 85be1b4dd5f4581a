/** Region files for tests: unique names, removed at the end of the process that made them. */
import { chmodSync, closeSync, copyFileSync, ftruncateSync, mkdirSync, openSync, rmSync, writeSync } from 'node:fs';
import { basename } from 'node:path';
import type { RuntimeOptions } from '../../host/runtime/runtime.js';

export const MIB = 0x100000;
const slowness = Number(process.env['ISTHMUS_TEST_SLOWNESS'] ?? 1);

/** Files in /dev/shm with this prefix belong to this process; it is used as a pattern for discovery. */
export const prefix = `isthmus-test-${process.pid}-${process.hrtime.bigint().toString(36)}`;

const made = new Set<string>();
let count = 0;
process.on('exit', removeRegions);

/** Remove all files that were made so far. */
export function removeRegions(): void {
  for (const path of made) rmSync(path, { force: true, recursive: true });
  made.clear();
  folder = undefined;
}

/** A folder for the files, so that no runtime finds them that was not told their paths: patterns stand for names in /dev/shm. */
let folder: string | undefined;
let named = false;

/**
 * The files of this test file lie in /dev/shm itself from now on: they are reached by name, and by pattern. Every program of
 * the same user that looks for regions finds them as well; a test that counts what is in a region leaves them in the folder.
 */
export function namedRegions(): void {
  named = true;
}

/** What the paths of the files begin with. */
function place(): string {
  if (named) return `/dev/shm/${prefix}-`;
  if (folder === undefined) {
    folder = `/dev/shm/${prefix}`;
    // Other users may go through it, to the files that are theirs.
    mkdirSync(folder, { mode: 0o711 });
    made.add(folder);
  }
  return `${folder}/`;
}

/** A path below /dev/shm without a file yet; a file created there is removed at the end. */
export function newPath(label = 'region'): string {
  const path = `${place()}${label}-${count++}x`;
  made.add(path);
  return path;
}

/**
 * A sparse file of zeros, like a device that is not formatted.
 * @param head written at its beginning
 */
export function newRegion(size = 16 * MIB, head?: Uint8Array, label?: string): string {
  const path = newPath(label);
  const fd = openSync(path, 'wx+', 0o600);
  ftruncateSync(fd, size);
  if (head) writeSync(fd, head, 0, head.length, 0);
  closeSync(fd);
  return path;
}

/** Another file with the same bytes. */
export function copyRegion(path: string, label?: string): string {
  const copy = newPath(label);
  copyFileSync(path, copy);
  chmodSync(copy, 0o600);
  return copy;
}

/**
 * Options of a runtime that uses these regions, searches for nothing else on this machine, and is not visible to
 * others; without `shm`.
 */
export function only(regions: string | readonly string[], options: RuntimeOptions = {}): RuntimeOptions {
  return {
    regions,
    shm: 0,
    uio: { sysfs: '/nonexistent', dev: '/nonexistent' },
    debug: 0,
    control: false,
    // On a busy machine a second becomes a minute; the behaviour at limits has tests of its own.
    handshakeTimeout: 10_000 * slowness,
    closeTimeout: 5_000 * slowness,
    suspendTimeout: 10_000 * slowness,
    ...options,
  };
}

/** A unique `shmName`, and the path of its file; what is left of it is removed at the end. */
export function newShm(): { shmName: string; path: string } {
  const shmName = `${prefix}-${count++}x`;
  const path = `/dev/shm/isthmus-shm-${shmName}`;
  // The next names are used where a test takes the first one.
  for (const number of ['', '~1', '~2', '~3']) made.add(path + number);
  return { shmName, path };
}

/** Options of runtimes that meet over `shm` through a file of that name, and otherwise use only tcp and loop. */
export function onlyShm(shmName: string, options: RuntimeOptions = {}): RuntimeOptions {
  return only('', { shm: 90, shmName, shmSize: 4 * MIB, handshakeTimeout: 60_000, ...options });
}

/** `isthmus-test-…-3` */
export const nameOf = (path: string) => basename(path);
