/** Devices for tests: a tree as in sysfs, in which devices are plain files. */
import { closeSync, ftruncateSync, mkdirSync, openSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { UioRoots } from '../../host/device/uio.js';
import { addon } from '../../host/native/native.js';
import type { RuntimeOptions } from '../../host/runtime/runtime.js';
import { MIB, newPath } from './regions.js';

/** A uio device. */
export interface Device {
  readonly name?: string | undefined;
  readonly version?: string | undefined;
  /** Contents of maps/map1/size. */
  readonly size?: string | undefined;
  /** Bytes of the file that stands for the device; -1: no file. */
  readonly file?: number;
}

/** A PCI device: ivshmem without a driver, by default. */
export interface PciDevice {
  /** Address of BAR 2. */
  readonly start?: number;
  /** Bytes of BAR 2. */
  readonly size?: number;
  /** The line of BAR 2 in `resource`, instead of the one made from start and size. */
  readonly bar2?: string;
  /** Bytes of `resource2`; -1: no file. */
  readonly file?: number;
  /** The command register; 2: memory is enabled. */
  readonly command?: number;
  readonly driver?: string;
  /** Name of the uio device that the driver created. */
  readonly uio?: string;
  /** Text of other attributes; undefined: the attribute is missing. */
  readonly attributes?: Readonly<Record<string, string | undefined>>;
}

/** Sparse, of zeros. */
function makeFile(path: string, size: number): void {
  const fd = openSync(path, 'wx+', 0o600);
  ftruncateSync(fd, size);
  closeSync(fd);
}

/** A tree as in sysfs, whose devices are plain files. */
export class Tree {
  readonly root = newPath('devices');
  readonly roots: Required<UioRoots> = { sysfs: join(this.root, 'sys'), dev: join(this.root, 'dev') };

  constructor(devices: readonly Device[] = []) {
    mkdirSync(join(this.roots.sysfs, 'class/uio'), { recursive: true });
    mkdirSync(join(this.roots.sysfs, 'bus/pci/devices'), { recursive: true });
    mkdirSync(this.roots.dev);
    for (const [number, device] of devices.entries()) this.add(`uio${number}`, device);
  }

  folder(name: string): string {
    return join(this.roots.sysfs, 'class/uio', name);
  }

  add(name: string, device: Device): string {
    // As in sysfs: the entries of a class are links.
    const real = join(this.root, 'devices', name);
    mkdirSync(join(real, 'maps/map0'), { recursive: true });
    mkdirSync(join(real, 'maps/map1'));
    const { file = addon().pageSize + 4 * MIB } = device;
    const attributes = { name: 'ivshmem', version: '0.0.1', 'maps/map1/size': `0x${(4 * MIB).toString(16)}` };
    Object.assign(attributes, 'name' in device && { name: device.name });
    Object.assign(attributes, 'version' in device && { version: device.version });
    Object.assign(attributes, 'size' in device && { 'maps/map1/size': device.size });
    for (const [path, text] of Object.entries(attributes)) {
      if (text !== undefined) writeFileSync(join(real, path), `${text}\n`);
    }
    symlinkSync(real, this.folder(name));
    const path = join(this.roots.dev, name);
    if (file >= 0) makeFile(path, file);
    return path;
  }

  /** Target of the entry of a PCI device. */
  real(address: string): string {
    return join(this.root, 'devices/pci0000:00', address);
  }

  /** @returns path of its `resource2` */
  addPci(address: string, device: PciDevice = {}): string {
    const { start = 0x3800000000, size = 4 * MIB, file = size, command = 2, driver, uio } = device;
    const real = this.real(address);
    mkdirSync(real, { recursive: true });
    const hex = (value: number) => `0x${value.toString(16).padStart(16, '0')}`;
    const bar = device.bar2 ?? `${hex(start)} ${hex(start + size - 1)} ${hex(0x14220c)}`;
    const attributes = {
      vendor: '0x1af4\n',
      device: '0x1110\n',
      enable: '0\n',
      resource: `${hex(0xfebd1000)} ${hex(0xfebd10ff)} ${hex(0x40200)}\n${hex(0)} ${hex(0)} ${hex(0)}\n${bar}\n`,
      ...device.attributes,
    };
    for (const [name, text] of Object.entries(attributes)) {
      if (text !== undefined) writeFileSync(join(real, name), text);
    }
    // Vendor and device, command, status.
    writeFileSync(join(real, 'config'), Uint8Array.of(0xf4, 0x1a, 0x10, 0x11, command, 0, 0, 0));
    if (driver !== undefined) {
      mkdirSync(join(this.roots.sysfs, 'bus/pci/drivers', driver), { recursive: true });
      symlinkSync(join(this.roots.sysfs, 'bus/pci/drivers', driver), join(real, 'driver'));
    }
    if (uio !== undefined) mkdirSync(join(real, 'uio', uio), { recursive: true });
    symlinkSync(real, join(this.roots.sysfs, 'bus/pci/devices', address));
    if (file >= 0) makeFile(join(real, 'resource2'), file);
    return join(this.roots.sysfs, 'bus/pci/devices', address, 'resource2');
  }

  options(options: RuntimeOptions = {}): RuntimeOptions {
    return { regions: '', shm: 0, uio: this.roots, debug: 0, ...options };
  }
}
