/** Who has a file in memory: processes that the kernel lets us look at. */
import { readdirSync, readFileSync } from 'node:fs';
import type { Identity } from './backing.js';

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
 * Processes but this one that have mapped the file: runtimes, and the QEMU of a VM that has the device, whether anybody in
 * there is attached or not. Of other users' processes only root sees it.
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
      // Ended meanwhile, or somebody else's.
    }
  }
  return found;
}
