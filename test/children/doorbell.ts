/**
 * A worker thread that has every object of the native part that keeps a descriptor, and then ends, throws, exits, closes
 * everything and ends, or waits to be terminated, according to `workerData`.
 */
import { closeSync, mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { workerData as how, parentPort } from 'node:worker_threads';
import { wasm } from '../../host/core/webassembly.js';
import { addon } from '../../host/native/native.js';
import { Doorbells } from '../../host/region/doorbell.js';

const native = addon();
const self = { slot: 1, generation: 7 };
const file = { dev: 1n, ino: BigInt(process.hrtime.bigint()) };
const doorbells: Doorbells = new Doorbells(file, { slots: 16, self: () => self, doorbellOf: () => doorbells.id });
const { bell } = doorbells.link(self);
const timer = new native.Timer(() => {
  if (how === 'throw') throw new Error('thrown by the callback');
});
timer.set(50_000_000);

const folder = mkdtempSync('/dev/shm/isthmus-test-doorbell-');
const region = join(folder, 'region');
writeFileSync(region, Buffer.alloc(native.pageSize));
const fd = openSync(region, 'r+');
const memory = new wasm.Memory({ initial: 1, maximum: 1 });
const mapping = native.map(memory.buffer, 0, native.pageSize, fd, 0);
closeSync(fd);
rmSync(folder, { recursive: true });

// Until its own introduction has arrived.
const whole = setInterval(() => {
  if (!doorbells.heard) return;
  clearInterval(whole);
  bell.ring();
  if (how === 'terminate') setInterval(() => {}, 1000);
  if (how === 'throw') {
    timer.set(1);
    setInterval(() => {}, 1000);
  }
  if (how === 'close') {
    doorbells.close();
    timer.close();
    mapping.detach();
  }
  parentPort?.postMessage('here');
  if (how === 'exit') process.exit();
}, 1);
