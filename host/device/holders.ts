/**
 * Whether other processes use a file: runtimes, and the QEMU of a VM that has the device, whether a process in the VM is
 * attached or not.
 *
 * What a process cannot see is not absent. /proc hides the mappings of other users' processes from all but root, and the
 * processes of other containers from all in one. The proof is a lease: the kernel gives it to the owner of the file only
 * if no other opening of it exists anywhere, and a mapping keeps its opening.
 */
import { existsSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { addon } from '../native/native.js';
import type { Identity } from './identity.js';

export interface Holder {
  readonly pid: number;
  /** As in /proc/PID/comm: the kernel keeps 15 characters. */
  readonly name: string;
}

/** The use of a file by other processes. */
export interface Users {
  /** `none`: proven. `some`: proven, though `holders` may be empty. `unknown`: this process cannot tell. */
  readonly use: 'none' | 'some' | 'unknown';
  /** Those that this process may see. */
  readonly holders: readonly Holder[];
}

/** The initial pid namespace, in which every process of the kernel is visible (PROC_PID_INIT_INO of the kernel). */
const INITIAL_PID_NAMESPACE = 'pid:[4026531836]';

/** Major and minor number of a device, as /proc/PID/maps prints them (proc(5)); glibc's encoding of dev_t. */
function deviceText(dev: bigint): string {
  const major = ((dev >> 8n) & 0xfffn) | ((dev >> 32n) & ~0xfffn);
  const minor = (dev & 0xffn) | ((dev >> 12n) & ~0xffn);
  return `${major.toString(16).padStart(2, '0')}:${minor.toString(16).padStart(2, '0')}`;
}

/**
 * Whether /proc shows all processes: no namespace and no mount option hides any. With `hidepid=2` or `hidepid=4` (proc(5)) the
 * processes that this one may not trace are missing in /proc; then process 1 is as well, which always exists.
 */
function seesAllProcesses(proc: string): boolean {
  try {
    return readlinkSync(`${proc}/self/ns/pid`) === INITIAL_PID_NAMESPACE && existsSync(`${proc}/1`);
  } catch {
    return false;
  }
}

/**
 * Other processes that have mapped the file, as /proc shows them.
 * @returns `all`: no process was hidden
 */
export function mappedBy(
  { dev, ino }: Pick<Identity, 'dev' | 'ino'>,
  proc = '/proc',
): { readonly holders: Holder[]; readonly all: boolean } {
  const wanted = ` ${deviceText(dev)} ${ino} `;
  const holders: Holder[] = [];
  let all = seesAllProcesses(proc);
  let entries: string[] = [];
  try {
    entries = readdirSync(proc);
  } catch {
    all = false;
  }
  for (const entry of entries) {
    const pid = Number(entry);
    if (!/^\d+$/.test(entry) || pid === process.pid) continue;
    try {
      if (!readFileSync(`${proc}/${pid}/maps`, 'latin1').includes(wanted)) continue;
      holders.push({ pid, name: readFileSync(`${proc}/${pid}/comm`, 'utf8').trim() });
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      // These two mean that the process has ended; others, as EACCES, that it must not be seen.
      if (code !== 'ENOENT' && code !== 'ESRCH') all = false;
    }
  }
  return { holders, all };
}

/**
 * Whether other processes have the file open or mapped.
 * @param fd the only descriptor and mapping of this process for it, open for writing
 * @param ifNone called if none has, before any can open it
 */
export function usersOf(fd: number, file: Pick<Identity, 'dev' | 'ino'>, ifNone: () => void = () => {}): Users {
  let alone: boolean | undefined;
  try {
    alone = addon().lease(fd);
  } catch {
    // The file belongs to another user, or its file system has no leases.
  }
  if (alone) {
    try {
      ifNone();
    } finally {
      addon().dropLease(fd);
    }
    return { use: 'none', holders: [] };
  }
  const { holders, all } = mappedBy(file);
  if (alone === false || holders.length > 0) return { use: 'some', holders };
  if (!all) return { use: 'unknown', holders };
  ifNone();
  return { use: 'none', holders };
}
