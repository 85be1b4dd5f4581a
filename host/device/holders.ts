/** Processes that have mapped a file, as far as the kernel shows them to this one. */
import { readdirSync, readFileSync } from 'node:fs';
import type { Identity } from './identity.js';

export interface Holder {
  readonly pid: number;
  /** As in /proc/PID/comm: the kernel keeps 15 characters. */
  readonly name: string;
}

/** Major and minor number of a device, as /proc/PID/maps prints them (proc(5)); glibc's encoding of dev_t. */
function deviceText(dev: bigint): string {
  const major = ((dev >> 8n) & 0xfffn) | ((dev >> 32n) & ~0xfffn);
  const minor = (dev & 0xffn) | ((dev >> 12n) & ~0xffn);
  return `${major.toString(16).padStart(2, '0')}:${minor.toString(16).padStart(2, '0')}`;
}

/**
 * Other processes that have mapped the file: runtimes, and the QEMU of a VM that has the device, whether a process in the VM
 * is attached or not. Only root sees the mappings of other users' processes.
 */
export function mappedBy({ dev, ino }: Pick<Identity, 'dev' | 'ino'>): Holder[] {
  const wanted = ` ${deviceText(dev)} ${ino} `;
  const found: Holder[] = [];
  for (const entry of readdirSync('/proc')) {
    const pid = Number(entry);
    if (!/^\d+$/.test(entry) || pid === process.pid) continue;
    try {
      if (!readFileSync(`/proc/${pid}/maps`, 'latin1').includes(wanted)) continue;
      found.push({ pid, name: readFileSync(`/proc/${pid}/comm`, 'utf8').trim() });
    } catch {
      // The process has ended, or belongs to another user.
    }
  }
  return found;
}
