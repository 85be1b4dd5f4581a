/** All checks of `isthmus doctor`. They attach nothing, and write nothing into a region. */
import { basename } from 'node:path';
import { IsthmusError } from '../../base/errors.js';
import { type ConfigRow, explain } from '../../config/resolve.js';
import { discoverPci } from '../../device/pci.js';
import { discoverPosix } from '../../device/posix-discovery.js';
import { discoverUio } from '../../device/uio.js';
import { checkDevice, checkHeartbeats, checkRegion, type DeviceRoots } from './check-devices.js';
import { checkAddresses, checkBroker, checkNative, checkProcessors, checkSharedMemory } from './check-machine.js';
import { type Finding, failed, good, none, type Setting } from './findings.js';

/** Other places than those of this machine, for tests. */
export interface DoctorRoots extends DeviceRoots {
  /** Default `/proc`. */
  readonly proc?: string;
}

/** @returns the findings, in the order in which they are printed */
export async function diagnose(roots: DoctorRoots = {}): Promise<Finding[]> {
  const { proc = '/proc' } = roots;
  let rows: readonly ConfigRow[];
  try {
    rows = explain();
  } catch (error) {
    return [failed('configuration', error)];
  }
  const setting: Setting = (name) => rows.find((row) => row.name === name)?.value;
  const uio = discoverUio(roots);
  const pci = setting('pci') ? discoverPci(roots) : [];
  const files = discoverPosix(String(setting('regions')));
  const devices = [...uio, ...pci].filter(({ refused }) => refused?.code !== 'ERR_ISTHMUS_REGION_FOREIGN');
  const absent = none(
    'device',
    'no ivshmem device: this is not a VM, or the VM has none',
    "On the host, use 'isthmus device attach DOMAIN', or '-device ivshmem-plain' of QEMU.",
  );
  const backings = [...uio, ...pci, ...files].flatMap(({ backing }) => (backing ? [backing] : []));
  return [
    good('Node.js', process.version),
    checkNative(),
    checkProcessors(proc, roots.sysfs),
    ...checkAddresses(proc),
    ...checkSharedMemory(setting),
    ...(devices.length === 0 ? [absent] : []),
    ...uio.flatMap((candidate) => checkDevice(candidate, 'uio', roots)),
    ...pci.flatMap((candidate) => checkDevice(candidate, 'pci', roots)),
    ...files.flatMap(({ path, backing, refused }) =>
      backing
        ? checkRegion(backing)
        : [failed(`region ${basename(path)}`, refused ?? new IsthmusError('ERR_ISTHMUS_REGION_NOT_FOUND', path))],
    ),
    ...(await checkHeartbeats(backings)),
    await checkBroker(setting),
  ];
}
