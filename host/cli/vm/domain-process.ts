/** The QEMU of a virtual machine on this host, as /proc shows it. */
import { readFileSync } from 'node:fs';
import { mappedBy } from '../../device/holders.js';
import type { Identity } from '../../device/identity.js';

/** The UUID of the machine that a QEMU runs, by its command line; undefined: it is no QEMU, or has none. */
function machineOf(pid: number): string | undefined {
  try {
    const words = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
    const at = words.findIndex((word) => /^--?uuid$/.test(word));
    return at < 0 ? undefined : words[at + 1]?.toLowerCase();
  } catch {
    return undefined; // It has ended.
  }
}

/** Whether the program is a QEMU. */
const isQemu = ({ name }: { readonly name: string }) => /qemu|kvm/.test(name);

export interface FileUse {
  /** The QEMU of the machine has the file mapped. */
  readonly maps: boolean;
  /** It does, and no other QEMU that can be seen. */
  readonly alone: boolean;
}

/**
 * Whether the QEMU of a machine has mapped a file. Only root, or the user that QEMU runs as, can see that: others get false.
 * @param uuid of the machine: libvirt passes it to QEMU
 */
export function qemuOf(uuid: string, file: Pick<Identity, 'dev' | 'ino'>): FileUse {
  const machines = mappedBy(file).holders.filter(isQemu);
  const maps = machines.some(({ pid }) => machineOf(pid) === uuid.toLowerCase());
  return { maps, alone: maps && machines.length === 1 };
}
