/**
 * ivshmem devices behind the UIO driver of `vendor/ivshmem/driver`: `/sys/class/uio/uioN` with name `ivshmem` and version
 * `0.0.1`. Map 0 is the registers, map 1 the memory, at file offset 1 × page size of `/dev/uioN` (a rule of the UIO core).
 */
import { fstatSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { IsthmusError } from '../base/errors.js';
import { addon } from '../native/native.js';
import type { Candidate } from './backing.js';
import {
  attribute,
  type Backing,
  checkSize,
  closeQuietly,
  openDevice,
  reserve,
  systemError,
  usableSize,
} from './backing.js';

const DRIVER_NAME = 'ivshmem';
const DRIVER_VERSION = '0.0.1';

/** Where sysfs and the devices are; a test uses trees of its own. */
export interface UioRoots {
  /** Default `/sys`. */
  readonly sysfs?: string;
  /** Default `/dev`. */
  readonly dev?: string;
}

/** All uio devices, those of other drivers included, each with the reason if it is not used. */
export function discoverUio({ sysfs = '/sys', dev = '/dev' }: UioRoots = {}): Candidate[] {
  const folder = join(sysfs, 'class/uio');
  let names: string[];
  try {
    names = readdirSync(folder).filter((name) => /^uio\d+$/.test(name));
  } catch {
    return []; // This kernel has no UIO.
  }
  names.sort((a, b) => Number(a.slice(3)) - Number(b.slice(3)));
  return names.map((name) => {
    const path = join(dev, name);
    try {
      return { path, backing: uioBacking(name, join(folder, name), path) };
    } catch (error) {
      // It may have been unplugged meanwhile.
      const refused = error instanceof IsthmusError ? error : systemError(error, 'cannot read', join(folder, name));
      return { path, refused };
    }
  });
}

function uioBacking(name: string, folder: string, path: string): Backing {
  const refuse = (why: string): never => {
    throw new IsthmusError('ERR_ISTHMUS_REGION_FOREIGN', `${path}: ${why}`, { path });
  };
  const driver = attribute(folder, 'name');
  if (driver !== DRIVER_NAME) refuse(`is a uio device of another kind ('${driver}')`);
  const version = attribute(folder, 'version');
  if (version !== DRIVER_VERSION) refuse(`has driver version '${version}', not '${DRIVER_VERSION}'`);
  const text = attribute(folder, 'maps/map1/size');
  const bytes = Number(text);
  if (!/^0x[0-9a-f]+$/i.test(text) || !Number.isSafeInteger(bytes)) refuse(`maps/map1/size is '${text}'`);
  checkSize(bytes, path);
  const size = usableSize(bytes);
  const open = () => {
    const fd = openDevice(path);
    try {
      // A regular file of a test must be complete. A device has no size of its own.
      const stat = fstatSync(fd);
      if (stat.isFile()) {
        if (stat.size < addon().pageSize + size) {
          throw new IsthmusError('ERR_ISTHMUS_REGION_TOO_SMALL', `${path}: ${stat.size} bytes`, { path });
        }
        reserve(fd, addon().pageSize + size, path);
      }
      return fd;
    } catch (error) {
      closeQuietly(fd);
      throw error;
    }
  };
  return {
    kind: 'uio',
    name,
    path,
    size,
    offset: addon().pageSize,
    mayFormat: true,
    open,
    openToRead: open,
  };
}
