/**
 * A worker thread that watches an eventfd, and then ends, throws, or waits to be terminated, according to `workerData`.
 */
import { workerData as how, parentPort } from 'node:worker_threads';
import type { Identity } from '../../host/device/identity.js';
import { addon } from '../../host/native/native.js';
import { Doorbells } from '../../host/region/doorbell.js';

const native = addon();
const self = { slot: 1, generation: 7 };
const doorbells = new Doorbells({ dev: 1n, ino: BigInt(process.hrtime.bigint()) } as Identity, self);
doorbells.link(self);
if (how === 'terminate') {
  setInterval(() => {}, 1000);
  parentPort?.postMessage('here');
} else if (how === 'throw') {
  const bell = native.createDoorbell();
  native.watch(bell, () => {
    throw new Error('thrown by the callback');
  });
  native.ring(bell);
  setInterval(() => {}, 1000);
}
