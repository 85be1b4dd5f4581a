/** Slots of processes on this kernel, changed to look like those of processes in a virtual machine. */
import { closeSync, fstatSync, openSync, writeSync } from 'node:fs';
import { Core } from '../../host/core/core.js';
import { constant } from './core.js';

/**
 * Writes another host and another kernel into a slot of a region.
 * @param boot each byte of the boot UUID
 */
export function disguise(path: string, slot: number, host: string, boot = 0xb0): void {
  const fd = openSync(path, 'r+');
  try {
    const core = new Core(0x100000);
    core.call.geometry(fstatSync(fd).size);
    const at = core.call.slotAddress(slot) - core.layout.WINDOW;
    writeSync(fd, Buffer.alloc(16, boot), 0, 16, at + constant('SLOT_BOOT'));
    const text = Buffer.alloc(core.layout.SLOT_TEXT_LENGTH);
    text.write(host);
    writeSync(fd, text, 0, text.length, at + constant('SLOT_HOST'));
  } finally {
    closeSync(fd);
  }
}
