/** All checks of `isthmus doctor`. They attach nothing, and write nothing into a region. */
import { basename } from 'node:path';
import { IsthmusError } from '../../base/errors.js';
import { type ConfigRow, explain } from '../../config/resolve.js';
import type { Candidate } from '../../device/backing.js';
import { discoverPci } from '../../device/pci.js';
import { isOwnOrRoots } from '../../device/posix.js';
import { discoverPosix, unnamedRegions } from '../../device/posix-discovery.js';
import { discoverUio } from '../../device/uio.js';
import { checkDevice, checkHeartbeats, checkRegion, type DeviceRoots } from './check-devices.js';
import { checkAddresses, checkBroker, checkNative, checkProcessors, checkSharedMemory } from './check-machine.js';
import { type Finding, failed, good, none, note, type Setting } from './findings.js';

/** Other places than those of this machine, for tests. */
export interface DoctorRoots extends DeviceRoots {
  /** Default `/proc`. */
  readonly proc?: string;
}

function checkFile({ path, backing, refused, sameAs }: Candidate): Finding[] {
  const what = `region ${basename(path)}`;
  if (sameAs !== undefined) return [none(what, `the same file as ${sameAs}`)];
  if (!backing) return [failed(what, refused ?? new IsthmusError('ERR_ISTHMUS_REGION_NOT_FOUND', path))];
  const { owner } = backing;
  if (owner === undefined || isOwnOrRoots({ uid: owner })) return checkRegion(backing);
  const action = 'Name it only if that user is trusted: the owner of a file decides on its contents and its length.';
  return [...checkRegion(backing), note(what, `belongs to uid ${owner}; it is used because it is named`, action)];
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
  // An explicit setting says which files are meant.
  const unnamed = rows.some(({ name, origin }) => name === 'regions' && origin === 'default')
    ? unnamedRegions(files)
    : [];
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
    ...files.flatMap(checkFile),
    ...unnamed.map(({ path, refused }) => none(`region ${basename(path)}`, `not used: ${refused?.message}`)),
    ...(await checkHeartbeats(backings)),
    await checkBroker(setting),
  ];
}
