/** The channel of `child_process.fork`, with `serialization: 'advanced'`: JSON cannot carry bytes. */
import { answer, ChannelNear } from './messages.js';
import type { Transport } from './transport.js';

/** The calls of the benchmark use the same channel. */
const isOurs = (what: unknown): what is Uint8Array | number => typeof what === 'number' || what instanceof Uint8Array;

export const ipc: Transport = {
  name: 'ipc',
  title: 'child_process IPC',
  ours: false,
  missing: () => undefined,
  async near(_options, start) {
    const { child } = await start();
    return new ChannelNear({
      post: (what) => child.send(what),
      listen: (heard) => child.on('message', (what) => isOurs(what) && heard(what)),
      close: async () => {},
    });
  },
  far() {
    answer({
      post: (what) => process.send?.(what),
      listen: (heard) => process.on('message', (what) => isOurs(what) && heard(what)),
      close: async () => {},
    });
    return {};
  },
};
