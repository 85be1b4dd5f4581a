/** Whether virtual machines can run here. */
import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Guest } from './guest.js';
import { disk, drive, starter } from './image.js';
import { headers, kernel } from './kernel.js';
import { cache, which } from './tools.js';

/** Debian's packages, and the file or program of each that must exist. */
export const PACKAGES: readonly (readonly [name: string, there: () => boolean])[] = [
  ['qemu-system-x86', () => which('qemu-system-x86_64') !== undefined],
  ['busybox-static', () => existsSync('/bin/busybox')],
  ['linux-headers-amd64', () => headers().length > 0],
  ['kmod', () => which('modinfo') !== undefined],
  ['e2fsprogs', () => which('mke2fs') !== undefined],
  ['util-linux', () => which('setpriv') !== undefined],
  ['gcc', () => which('gcc') !== undefined],
  ['make', () => which('make') !== undefined],
];

/** @returns why no virtual machine can run here; undefined: it can */
export function missing(): string | undefined {
  const absent = PACKAGES.filter(([, there]) => !there()).map(([name]) => name);
  if (absent.length > 0) return `apt-get install ${absent.join(' ')}`;
  try {
    kernel();
  } catch (error) {
    return `no kernel image: ${(error as Error).message.trim()}`;
  }
  return undefined;
}

/** Memory of a guest that runs applications, in MiB. */
export const MEMORY = 512;
/** Seconds that Node may take to start in a guest, so that the scenarios take minutes and not hours. */
const QUICK = 0.5;
/** How long the result is valid, in milliseconds. */
const FRESH = 3600_000;

/**
 * Whether guests are fast enough here for `npm run test:all`; `npm run test:vm` (ISTHMUS_VM=1) does not check. An
 * emulated processor is slow, and on a busy machine it may be too slow for anything.
 * @returns why not
 */
export async function tooSlow(): Promise<string | undefined> {
  if (process.env['ISTHMUS_VM'] === '1') return undefined;
  const note = join(cache, 'speed.json');
  let seconds = Number.POSITIVE_INFINITY;
  if (existsSync(note) && Date.now() - statSync(note).mtimeMs < FRESH) {
    seconds = JSON.parse(readFileSync(note, 'utf8')) as number;
  } else {
    const found = kernel();
    const guest = await Guest.start({
      kernel: found.image,
      initramfs: starter(found),
      memory: MEMORY,
      args: drive(await disk()),
    });
    try {
      // The first start reads it from the disk.
      await guest.shell('node -e 0', 300);
      const start = performance.now();
      await guest.shell('node -e 0', 300);
      seconds = (performance.now() - start) / 1000;
    } finally {
      await guest.end();
    }
    writeFileSync(note, JSON.stringify(seconds));
  }
  return seconds > QUICK
    ? `Node takes ${seconds.toFixed(1)} s to start in a guest, and ${QUICK} s are the limit; npm run test:vm does not check`
    : undefined;
}
