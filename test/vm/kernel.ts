/**
 * The kernel of the guests: a Debian kernel, only unpacked and not installed, and the driver built for exactly this
 * kernel.
 *
 * `ISTHMUS_VM_KERNEL=6.1.0-56-amd64` chooses among the kernels whose headers are installed; the default is the newest.
 */
import { execFileSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { cache, cached, hash, root, run } from './tools.js';

/** Kernels whose headers are installed, the newest first. */
export function headers(): string[] {
  const folder = '/lib/modules';
  if (!existsSync(folder)) return [];
  return readdirSync(folder)
    .filter((version) => existsSync(join(folder, version, 'build/Module.symvers')))
    .sort((a, b) => b.localeCompare(a, 'en', { numeric: true }));
}

export interface Kernel {
  readonly version: string;
  readonly image: string;
  /** lib/modules/VERSION */
  readonly modules: string;
}

function kernelAt(folder: string, version: string): Kernel | undefined {
  const image = join(folder, 'boot', `vmlinuz-${version}`);
  const modules = join(folder, 'lib/modules', version);
  return existsSync(image) && existsSync(join(modules, 'kernel')) ? { version, image, modules } : undefined;
}

/** Installed, or unpacked earlier, or downloaded and unpacked now. */
export function kernel(version = process.env['ISTHMUS_VM_KERNEL'] ?? headers()[0] ?? ''): Kernel {
  const folder = join(cache, `kernel-${version}`);
  const there = kernelAt('/', version) ?? kernelAt(folder, version);
  if (there) return there;
  mkdirSync(cache, { recursive: true });
  const scratch = mkdtempSync(join(cache, 'fetch-'));
  try {
    run('apt-get', ['download', '-qq', `linux-image-${version}`], 300, scratch);
    const [archive = ''] = readdirSync(scratch);
    run('dpkg', ['-x', join(scratch, archive), join(scratch, 'root')], 300);
    rmSync(folder, { recursive: true, force: true });
    renameSync(join(scratch, 'root'), folder);
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
  const unpacked = kernelAt(folder, version);
  if (!unpacked) throw new Error(`linux-image-${version} has no kernel ${version}`);
  return unpacked;
}

/** The driver for that kernel. */
export function driver(version: string): string {
  const source = join(root, 'vendor/ivshmem/driver');
  const files = ['uio_ivshmem.c', 'Kbuild', 'Makefile'];
  const key = hash(version, ...files.slice(0, 2).map((name) => readFileSync(join(source, name))));
  return cached(`uio_ivshmem-${version}`, key, (path) => {
    const scratch = mkdtempSync(join(tmpdir(), 'isthmus-driver-'));
    try {
      for (const name of files) cpSync(join(source, name), join(scratch, name));
      run('make', [`KVER=${version}`], 300, scratch);
      cpSync(join(scratch, 'uio_ivshmem.ko'), path);
    } finally {
      rmSync(scratch, { recursive: true, force: true });
    }
  });
}

/** A module of the kernel, preceded by its dependencies; each not compressed, by name. */
export function modules({ modules }: Kernel, ...names: readonly string[]): Map<string, Buffer> {
  const places = new Map<string, string>();
  for (const path of readdirSync(join(modules, 'kernel'), { recursive: true }) as string[]) {
    const name = /([^/]+)\.ko(\.xz)?$/.exec(path)?.[1];
    if (name !== undefined) places.set(name.replaceAll('-', '_'), join(modules, 'kernel', path));
  }
  const found = new Map<string, Buffer>();
  const take = (name: string): void => {
    const path = places.get(name);
    // A module that is built into the kernel has no dependencies.
    if (path === undefined || found.has(name)) return;
    const needs = run('modinfo', ['-F', 'depends', path], 30).trim();
    for (const other of needs.split(',').filter(Boolean)) take(other.replaceAll('-', '_'));
    found.set(
      name,
      path.endsWith('.xz') ? execFileSync('xz', ['-dc', path], { maxBuffer: 64 << 20 }) : readFileSync(path),
    );
  };
  for (const name of names) take(name);
  return found;
}
