/** A message port between two threads of one process. The bytes are cloned, as between two programs: a transfer would remove them from the sender. */
import { once } from 'node:events';
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import { pin, threads } from '../pinning.js';
import { answer, ChannelNear } from './messages.js';
import type { Near, Transport } from './transport.js';

const ROLE = 'isthmus-bench-worker';

export const worker: Transport = {
  name: 'worker',
  title: 'worker_threads message port',
  ours: false,
  pinsItself: true,
  missing: () => undefined,
  async near({ cpus }): Promise<Near> {
    const before = new Set(threads());
    const thread = new Worker(new URL(import.meta.url), { workerData: ROLE });
    await once(thread, 'online');
    if (cpus) {
      for (const id of threads()) if (!before.has(id)) pin(id, cpus[1]);
      pin(process.pid, cpus[0]);
    }
    return new ChannelNear({
      post: (what) => thread.postMessage(what),
      listen: (heard) => thread.on('message', heard),
      close: async () => {
        await thread.terminate();
      },
    });
  },
};

/** Answer messages if this is the thread that was started above. @returns whether it is */
export function isWorker(): boolean {
  if (isMainThread || workerData !== ROLE || !parentPort) return false;
  const port = parentPort;
  answer({
    post: (what) => port.postMessage(what),
    listen: (heard) => port.on('message', heard),
    close: async () => {},
  });
  return true;
}
