/**
 * ivshmem devices without a driver: PCI 1af4:1110, whose BAR 2 is the memory, which sysfs shows as `resource2`.
 *
 * This is for users that may not load modules. It is the slow path: the kernel maps `resource2` uncached-minus, whatever the
 * memory supports. `resource2_wc` is never used: stores would become visible late and in another order.
 *
 * A device that has a driver belongs to the driver. If the driver made a uio device, uio.ts handles it, and reports why it
 * cannot be opened; `resource2` is no way around that. It would be another file for the same memory, so that the locks
 * taken through one file would prove nothing to processes that use the other; the kernel refuses it, because the driver has
 * requested the memory exclusively; and root, which may open it, may open the uio device as well.
 */
import {
  closeSync,
  constants,
  fstatSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  readSync,
  writeFileSync,
} from 'node:fs';
import { basename, join } from 'node:path';
import { IsthmusError } from '../base/errors.js';
import type { Candidate } from './backing.js';
import { attribute, type Backing, checkSize, closeQuietly, openDevice, systemError, usableSize } from './backing.js';
import type { UioRoots } from './uio.js';

const VENDOR = '0x1af4';
const DEVICE = '0x1110';
/** Domain, bus, device, function. */
const ADDRESS = /^[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$/;
/** In the third column of `resource`, a line per BAR: memory; not given an address (the kernel's linux/ioport.h). */
const IORESOURCE_MEM = 0x200n;
const IORESOURCE_UNSET = 0x20000000n;
/** In the configuration space: the command register, 16 bits, and in it whether the device answers to memory accesses. */
const COMMAND = 4;
const COMMAND_MEMORY = 2;

const folderOf = (sysfs: string) => join(sysfs, 'bus/pci/devices');

/**
 * All ivshmem devices that uio.ts does not list, in the order of their addresses, each with the reason if it is not used.
 * Opens none.
 */
export function discoverPci({ sysfs = '/sys' }: UioRoots = {}): Candidate[] {
  let addresses: string[];
  try {
    addresses = readdirSync(folderOf(sysfs)).filter((name) => ADDRESS.test(name));
  } catch {
    return []; // No PCI in this machine.
  }
  return addresses
    .sort()
    .filter((address) => isIvshmem(join(folderOf(sysfs), address)))
    .flatMap((address) => {
      const folder = join(folderOf(sysfs), address);
      if (uioName(folder) !== undefined) return [];
      const path = join(folder, 'resource2');
      try {
        return { path, backing: pciBacking(address, folder, path, sysfs) };
      } catch (error) {
        // It may have been unplugged meanwhile.
        return { path, refused: error instanceof IsthmusError ? error : systemError(error, 'cannot read', folder) };
      }
    });
}

/** Name of the uio device that a driver has made for a PCI device, as `uio0`. */
export function uioOf(address: string, { sysfs = '/sys' }: UioRoots = {}): string | undefined {
  return uioName(join(folderOf(sysfs), address));
}

function isIvshmem(folder: string): boolean {
  try {
    return attribute(folder, 'vendor') === VENDOR && attribute(folder, 'device') === DEVICE;
  } catch {
    return false; // It was unplugged.
  }
}

function uioName(folder: string): string | undefined {
  try {
    return readdirSync(join(folder, 'uio')).find((name) => /^uio\d+$/.test(name));
  } catch {
    return undefined;
  }
}

function driverOf(folder: string): string | undefined {
  try {
    return basename(readlinkSync(join(folder, 'driver')));
  } catch {
    return undefined;
  }
}

/** Whether the kernel does not let even root map PCI memory, as after Secure Boot. */
function isLockedDown(sysfs: string): boolean {
  try {
    return /\[(?:integrity|confidentiality)\]/.test(attribute(sysfs, 'kernel/security/lockdown'));
  } catch {
    return false;
  }
}

function pciBacking(address: string, folder: string, path: string, sysfs: string): Backing {
  const refuse = (code: 'ERR_ISTHMUS_REGION_FOREIGN' | 'ERR_ISTHMUS_REGION_PERMISSIONS', why: string): never => {
    throw new IsthmusError(code, `${path}: ${why}`, { path });
  };
  const driver = driverOf(folder);
  if (driver !== undefined) {
    const unbind = join(sysfs, 'bus/pci/drivers', driver, 'unbind');
    refuse('ERR_ISTHMUS_REGION_FOREIGN', `belongs to driver '${driver}' (to take it: echo ${address} > ${unbind})`);
  }
  if (isLockedDown(sysfs)) {
    const why = 'the kernel is locked down (Secure Boot): only a signed driver may map PCI memory';
    refuse('ERR_ISTHMUS_REGION_PERMISSIONS', why);
  }
  const bytes = barSize(folder, path);
  checkSize(bytes, path);
  const size = usableSize(bytes);
  const open = (access: number, prepare: (folder: string, path: string) => void) => {
    const fd = openDevice(path, access);
    try {
      const { size: found } = fstatSync(fd);
      if (found < bytes) {
        const message = `${path}: ${found} bytes, its BAR 2 has ${bytes}`;
        throw new IsthmusError('ERR_ISTHMUS_REGION_TOO_SMALL', message, { path, needed: bytes, available: found });
      }
      prepare(folder, path);
      return fd;
    } catch (error) {
      closeQuietly(fd);
      throw error instanceof IsthmusError ? error : systemError(error, 'cannot read', folder);
    }
  };
  return {
    kind: 'pci',
    name: address,
    path,
    size,
    offset: 0,
    mayFormat: true,
    open: () => open(constants.O_RDWR, enable),
    openToRead: () => open(constants.O_RDONLY, checkEnabled),
  };
}

/** Size of BAR 2 in bytes, by the third line of `resource`: first and last address, flags. */
function barSize(folder: string, path: string): number {
  const line = readFileSync(join(folder, 'resource'), 'latin1').split('\n')[2] ?? '';
  const [start, end, flags] = /^0x[0-9a-f]+ 0x[0-9a-f]+ 0x[0-9a-f]+$/.test(line) ? line.split(' ').map(BigInt) : [];
  if (start === undefined || end === undefined || flags === undefined || (flags & IORESOURCE_MEM) === 0n) {
    throw new IsthmusError('ERR_ISTHMUS_REGION_FOREIGN', `${path}: the device has no memory in BAR 2 ('${line}')`, {
      path,
    });
  }
  // `resource2` of such a device would lead to address 0, which does not belong to the device.
  if (start === 0n || (flags & IORESOURCE_UNSET) !== 0n) {
    const message = `${path}: the kernel found no addresses for its memory ('${line}')`;
    throw new IsthmusError('ERR_ISTHMUS_REGION_DISABLED', message, { path });
  }
  return Number(end - start + 1n);
}

/** Whether the device answers to memory accesses: if not, reads give 0xff and writes are lost, without an error. */
function isEnabled(folder: string): boolean {
  const fd = openSync(join(folder, 'config'), constants.O_RDONLY);
  try {
    const command = Buffer.alloc(2);
    readSync(fd, command, 0, command.length, COMMAND);
    return (command.readUInt16LE() & COMMAND_MEMORY) !== 0;
  } finally {
    closeSync(fd);
  }
}

const disabled = (folder: string, path: string, why: string, cause?: unknown) => {
  const remedy = `as root: echo 1 > ${join(folder, 'enable')}`;
  return new IsthmusError('ERR_ISTHMUS_REGION_DISABLED', `${path}: its memory is switched off${why}; ${remedy}`, {
    cause,
    path,
  });
};

function checkEnabled(folder: string, path: string): void {
  if (!isEnabled(folder)) throw disabled(folder, path, ', a runtime with the right to do so switches it on');
}

/**
 * Switch the memory on. Mapping `resource2` does not. Usually it is on already: by the firmware, or by the kernel when the
 * device was plugged in (seen with Linux 6.1 on QEMU's `pc`). Otherwise a driver would do it, and there is none.
 */
function enable(folder: string, path: string): void {
  if (isEnabled(folder)) return;
  try {
    writeFileSync(join(folder, 'enable'), '1', { flag: 'r+' });
  } catch (error) {
    throw disabled(folder, path, ` and may not be switched on (${(error as NodeJS.ErrnoException).code})`, error);
  }
  if (!isEnabled(folder)) throw disabled(folder, path, ', and stays switched off');
}
