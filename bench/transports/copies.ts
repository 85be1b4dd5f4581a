/** One memcpy in and one out, in C (copies.c): not a transport, but the limit of this machine for two copies. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { benchFolder } from '../folder.js';
import { blockOf } from './pace.js';
import { find, output } from './programs.js';
import type { Transport } from './transport.js';

export const copies: Transport = {
  name: 'copies',
  title: 'only memcpy in and out, in C',
  ours: false,
  pinsItself: true,
  missing: () => (find('cc') ? undefined : 'apt-get install gcc'),
  async near({ folder, cpus = [] }) {
    const program = join(folder, 'copies');
    if (!existsSync(program)) await output('cc', ['-O2', '-o', program, join(benchFolder(), 'transports/copies.c')]);
    const run = async (what: string, size: number, batch: number, milliseconds: number) => {
      const args = [what, String(size), String(batch), String(milliseconds / 1000), ...cpus.map(String)];
      return (await output(program, args)).trim().split('\n').map(Number);
    };
    return {
      latency: (size, milliseconds, batch) => run('latency', size, batch, milliseconds),
      throughput: async (size, milliseconds) => ({
        sent: await run('throughput', size, blockOf(size), milliseconds),
      }),
      async close() {},
    };
  },
};
