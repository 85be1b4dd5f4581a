/** Memories with a window into which files are mapped, for the tests of the native addon. */
import { closeSync, openSync, readdirSync, readFileSync } from 'node:fs';
import * as assert from 'uvu/assert';
import { type WasmMemory, wasm } from '../../host/core/webassembly.js';
import { addon, type Mapping } from '../../host/native/native.js';

const { pageSize } = addon();
/** Every window here is four pages, and starts one page above the bottom. */
export const SIZE = 4 * pageSize;
export const BOTTOM = pageSize;

export type Memory = WasmMemory & { grow(pages: number): number };

export function newMemory(): Memory {
  const pages = Math.ceil((BOTTOM + SIZE + pageSize) / 65536);
  return new wasm.Memory({ initial: pages, maximum: pages }) as Memory;
}

export function windowOf(memory: Memory): Uint8Array {
  return new Uint8Array(memory.buffer, BOTTOM, SIZE);
}

/** Map the first pages of a file into the window of a memory. */
export function mapFile(
  memory: Memory,
  path: string,
  flags = 'r+',
  options?: { readOnly?: boolean; lost?: number },
): Mapping {
  const fd = openSync(path, flags);
  try {
    return addon().map(memory.buffer, BOTTOM, SIZE, fd, 0, options);
  } finally {
    closeSync(fd);
  }
}

/** How often the file is mapped into this process. */
export function timesMapped(path: string): number {
  return readFileSync('/proc/self/maps', 'utf8')
    .split('\n')
    .filter((line) => line.includes(path)).length;
}

export const openDescriptors = () => readdirSync('/proc/self/fd').length;

export type SystemError = Error & { code?: string; errno?: number; syscall?: string };

export function assertUsable(bytes: Uint8Array): void {
  for (const value of [0x5a, 0xa5]) {
    bytes.fill(value);
    assert.ok(bytes.every((byte) => byte === value));
  }
}
