/** ivshmem devices: their files in /dev/shm, and their `<shmem>` elements in the XML of libvirt. */
import { statSync } from 'node:fs';
import { join } from 'node:path';
import { InvalidArgumentError } from 'commander';
import { SHM } from '../../device/posix.js';
import { CliError } from '../support/errors.js';
import { bytes, MIB } from '../support/units.js';

/** The file that libvirt uses as the memory of the device of that name. */
export const shmemPath = (name: string): string => join(SHM, name);

/** @param size in `unit`, as libvirt writes it */
export function shmemXml(name: string, size: number | string, unit = 'M'): string {
  return `<shmem name='${name}'>
  <model type='ivshmem-plain'/>
  <size unit='${unit}'>${size}</size>
</shmem>
`;
}

/** The name in a `<shmem>` element. */
export const shmemName = (element: string) => /^<shmem\b[^>]*?\bname=(['"])(.*?)\1/.exec(element)?.[2];

/**
 * The `<shmem>` element that detaches a device: libvirt finds the device by everything that the element says, so that it
 * needs the size, and must not have the alias and the address.
 * @param element the element in the XML of the domain
 * @throws CliError if the device is not ivshmem-plain
 */
export function detachXml(element: string, device: string): string {
  const [, unit, size] = /<size\b[^>]*\bunit=['"](\w+)['"][^>]*>\s*(\d+)\s*</.exec(element) ?? [];
  const model = /<model\b[^>]*\btype=['"]([\w-]+)['"]/.exec(element)?.[1];
  if (size === undefined || model !== 'ivshmem-plain') {
    throw new CliError(`${device} is a device of another kind (${model ?? 'without a model'}); detach it with virsh`);
  }
  return shmemXml(device, size, unit);
}

/** A name that needs no quotes in XML, and is not a path. */
export function deviceName(text: string): string {
  if (!/^[\w-][\w.-]{0,199}$/.test(text)) {
    throw new InvalidArgumentError('Expected a name in /dev/shm: letters, digits, dots, - and _.');
  }
  return text;
}

/** Whether the domain runs on another host, whose /dev/shm cannot be seen here. */
export function isRemote(connect = process.env['LIBVIRT_DEFAULT_URI'] ?? ''): boolean {
  return /^[\w+]+:\/\/[^/]/.test(connect);
}

/** @returns why the file cannot be the memory of a device of that size (in bytes; undefined: any size) */
function unusable(path: string, size: number | undefined): string | undefined {
  const stat = statSync(path, { throwIfNoEntry: false });
  if (!stat) return `there is no ${path}: QEMU would create one that no other machine shares`;
  if (!stat.isFile()) return `${path} is not a file`;
  if (size !== undefined && stat.size !== size) {
    return `${path} has ${bytes(stat.size)}, the device would have ${bytes(size)}`;
  }
  return undefined;
}

export interface SizeOptions {
  /** The file is on another host. */
  readonly remote?: boolean;
  /** Do not check the file. Undefined: the command has no such option. */
  readonly force?: boolean;
}

/**
 * The size of a device, in MiB.
 * @param size the size that the command line gives; undefined: that of the file
 * @throws CliError if QEMU would create another file, or if the size would end QEMU and with it the guest
 */
export function deviceSize(path: string, size: number | undefined, { remote = false, force }: SizeOptions): number {
  const why = remote || force ? undefined : unusable(path, size === undefined ? undefined : size * MIB);
  if (why !== undefined) {
    const skip = force === undefined ? '' : ' --force skips this check.';
    throw new CliError(why, `'isthmus server -s NAME -m MB -c migration-framework' creates the file.${skip}`);
  }
  const megabytes = size ?? (remote ? 0 : (statSync(path, { throwIfNoEntry: false })?.size ?? 0) / MIB);
  if (megabytes >= 1 && Number.isInteger(Math.log2(megabytes))) return megabytes;
  throw new CliError(
    `the size of ${path} is not a power of two, at least 1 MiB`,
    'Give the size that the device is to have.',
  );
}
