/** What `isthmus doctor` checks of devices and regions: driver, permissions, mapping, contents, heartbeats. */
import { accessSync, constants, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { IsthmusError } from '../../base/errors.js';
import { attribute, type Backing, type Candidate } from '../../device/backing.js';
import type { UioRoots } from '../../device/uio.js';
import { ReadOnlyRegion } from '../../region/read-only-region.js';
import { type Finding, failed, good, none, note, readSystemFile } from './findings.js';
import { bytes } from './units.js';

const DRIVER = 'uio_ivshmem';
/** Driver and udev rule; the folder lies beside `dist/` in the package and in the sources. */
const KIT = fileURLToPath(new URL('../vendor/ivshmem', import.meta.url));

/** Other places than those of this machine, for tests. */
export interface DeviceRoots extends UioRoots {
  /** Folders that hold `udev/rules.d`; default `/etc`, `/usr/lib`, `/lib` and `/run`. */
  readonly rules?: readonly string[];
}

/** Whether this user may open the device node of UIO, and other users may not. */
function checkPermissions(path: string, rules: readonly string[]): Finding {
  const what = `permissions of ${path}`;
  const mode = statSync(path).mode & 0o777;
  const ruled = rules.some((root) => {
    try {
      return readdirSync(join(root, 'udev/rules.d')).some((name) => name.includes('ivshmem'));
    } catch {
      return false;
    }
  });
  const rule = ruled ? 'udev rule installed' : 'no udev rule for ivshmem';
  const text = `mode ${mode.toString(8).padStart(4, '0')}, ${rule}`;
  try {
    accessSync(path, constants.R_OK | constants.W_OK);
  } catch {
    const install = ruled
      ? "Add the user to the group of the device ('usermod -aG isthmus USER') and log in again."
      : `Use 'make -C ${KIT} install-udev', and add the user to the group isthmus.`;
    return { what, verdict: 'bad', finding: `this user may not open it; ${text}`, action: install };
  }
  if (mode & 0o006) {
    const install = `Use 'make -C ${KIT} install-udev', which sets mode 0660.`;
    return note(what, `${text}: all users of this machine may open it`, install);
  }
  return good(what, text);
}

/**
 * How the kernel maps the memory of a device, which debugfs says while the memory is mapped. Format of a line of
 * pat_memtype_list (Linux 5.6 and later): `PAT: [mem 0x0000000100000000-0x0000000104000000] write-back`.
 */
function checkMapping({ name, path }: Backing, { sysfs = '/sys' }: UioRoots): Finding {
  const what = `mapping of ${path}`;
  const list = readSystemFile(sysfs, 'kernel/debug/x86/pat_memtype_list');
  if (list === undefined) {
    const action = "As root, use 'mount -t debugfs none /sys/kernel/debug', and run this command again.";
    return none(what, 'unknown: debugfs cannot be read, or this is not x86', action);
  }
  const address = BigInt(attribute(sysfs, 'class/uio', name, 'maps/map1/addr'));
  for (const [, from, to, type] of list.matchAll(/\[mem (0x[0-9a-f]+)-(0x[0-9a-f]+)\] (\S+)/gi)) {
    if (BigInt(from as string) > address || address >= BigInt(to as string)) continue;
    if (type === 'write-back') return good(what, 'write-back');
    const action = `Use the driver in ${KIT}, which moves the memory above 4 GiB; see 'dmesg | grep ivshmem'.`;
    return note(what, `${type}: slow, no access uses the caches`, action);
  }
  return none(what, 'unknown: the kernel does not list it');
}

export function checkDevice(candidate: Candidate, kind: 'uio' | 'pci', roots: DeviceRoots): Finding[] {
  const { path, backing, refused } = candidate;
  if (!backing) {
    const foreign = refused?.code === 'ERR_ISTHMUS_REGION_FOREIGN' && kind === 'uio';
    if (foreign) return [none('device', refused.message)];
    return [failed(`device ${path}`, refused ?? new IsthmusError('ERR_ISTHMUS_REGION_NOT_FOUND', path))];
  }
  const findings: Finding[] = [];
  if (kind === 'pci') {
    const loaded = readSystemFile(roots.sysfs ?? '/sys', 'module', DRIVER, 'uevent') !== undefined;
    const driver = loaded ? 'bound to another driver' : 'no driver';
    findings.push(
      note(
        `device ${backing.name}`,
        `${bytes(backing.size)}, ${driver}: used through resource2, slow (uncached)`,
        `Use 'make -C ${KIT} install-driver', then 'modprobe ${DRIVER}'.`,
      ),
    );
  } else {
    findings.push(good(`device ${path}`, `${bytes(backing.size)}, driver loaded`));
    findings.push(checkPermissions(path, roots.rules ?? ['/etc', '/usr/lib', '/lib', '/run']));
  }
  return [...findings, ...checkRegion(backing, kind === 'uio' ? () => checkMapping(backing, roots) : undefined)];
}

/** @param whileMapped a check that needs the memory to be mapped */
export function checkRegion(backing: Backing, whileMapped?: () => Finding): Finding[] {
  const what = `region ${backing.path}`;
  try {
    using view = ReadOnlyRegion.of(backing);
    const findings = whileMapped ? [whileMapped()] : [];
    const { state, refused } = view.overview();
    if (refused) return [...findings, failed(what, refused)];
    if (state !== 'formatted') return [...findings, good(what, `${state}: the first peer formats it`)];
    const { free, total, tables, frameSize } = view.frames();
    const room = `${bytes(free * frameSize)} of ${bytes((total - tables) * frameSize)} free`;
    const peers = view.peers();
    const dead = peers.filter((peer) => view.lives(peer) === 'dead').length;
    const text = `healthy, ${room}, ${peers.length} attached`;
    findings.push(
      dead === 0
        ? good(what, text)
        : note(what, `${text}, ${dead} of them dead`, 'The next peer to attach, or the server, frees what they held.'),
    );
    return findings;
  } catch (error) {
    return [failed(what, error)];
  }
}

/** Peers that showed no heartbeat during the check, and are not known to be dead. */
export async function checkHeartbeats(backings: readonly Backing[]): Promise<Finding[]> {
  const findings = await Promise.all(
    backings.map(async (backing): Promise<Finding[]> => {
      try {
        using view = ReadOnlyRegion.of(backing);
        if (view.overview().state !== 'formatted') return [];
        const ages = await view.heartbeats();
        return view
          .peers()
          .filter((peer) => !ages.has(peer.slot) && view.lives(peer) !== 'dead')
          .map(({ slot, name, host, pid }) =>
            note(
              `peer ${slot} of ${backing.path}`,
              `${name} on ${host}, pid ${pid}: no heartbeat during this check`,
              "The process is stopped, paused, or dead. If it will never run again: 'isthmus region confirm-dead'.",
            ),
          );
      } catch {
        return []; // checkRegion reports it.
      }
    }),
  );
  return findings.flat();
}
