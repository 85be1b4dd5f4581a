/** State of the devices, as a guest sees it. */
import type { Result } from './shell.js';

/** Runs commands in a guest: the guest itself, or its shell alone. */
export interface Inside {
  run(command: string): Promise<Result>;
  until(command: string, fits: (output: string) => boolean): Promise<string>;
}

/** For commands that must succeed. */
async function good(guest: Inside, command: string): Promise<string> {
  const { code, output } = await guest.run(command);
  if (code !== 0) throw new Error(`${command}: exit code ${code}\n${output}`);
  return output.trim();
}

/** ivshmem devices on the PCI bus: folders in sysfs. */
export async function pciDevices(guest: Inside): Promise<string[]> {
  const { output } = await guest.run('grep -l 0x1110 /sys/bus/pci/devices/*/device');
  return output
    .split('\n')
    .filter((path) => path.startsWith('/'))
    .map((path) => path.slice(0, -'/device'.length));
}

/** First and last address of BAR 2. */
export async function memoryOf(guest: Inside, device: string): Promise<[number, number]> {
  const line = (await good(guest, `sed -n 3p ${device}/resource`)).split(' ');
  return [Number(line[0]), Number(line[1])];
}

/** Memory type of this address according to debugfs, mapped or reserved. */
export async function typeOf(guest: Inside, address: number): Promise<string | undefined> {
  const list = await good(guest, 'cat /sys/kernel/debug/x86/pat_memtype_list');
  for (const [, from, to, type] of list.matchAll(/\[mem 0x([0-9a-f]+)-0x([0-9a-f]+)\] (\S+)/g)) {
    if (address >= Number.parseInt(from as string, 16) && address < Number.parseInt(to as string, 16)) return type;
  }
  return undefined;
}

/** Memory type of each device. */
export async function memoryTypes(guest: Inside): Promise<(string | undefined)[]> {
  const types: (string | undefined)[] = [];
  for (const device of await pciDevices(guest)) types.push(await typeOf(guest, (await memoryOf(guest, device))[0]));
  return types;
}

/** Waits until the driver has this many devices. */
export async function driven(guest: Inside, count: number): Promise<void> {
  const list = (output: string) => output.split('\n').filter((line) => /^uio\d+$/.test(line));
  await guest.until('ls -1 /sys/class/uio 2>/dev/null', (output) => list(output).length === count);
}

/** No errors in the kernel's log. */
export async function complaints(guest: Inside): Promise<string[]> {
  const log = await good(guest, 'dmesg');
  return log.split('\n').filter((line) => /BUG:|WARNING:|Oops|Call Trace|general protection|SIGBUS/.test(line));
}
