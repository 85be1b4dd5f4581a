/** MPICH: a ping-pong in C (pingpong.c), compiled on this machine. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { benchFolder } from '../folder.js';
import { find, output } from './programs.js';
import type { Transport } from './transport.js';

export const mpi: Transport = {
  name: 'mpich',
  title: 'MPICH 4, ping-pong in C',
  ours: false,
  pinsItself: true,
  missing: () => (find('mpicc.mpich') && find('mpiexec.mpich') ? undefined : 'apt-get install mpich'),
  async near({ folder, cpus }) {
    const program = join(folder, 'pingpong');
    if (!existsSync(program))
      await output('mpicc.mpich', ['-O2', '-o', program, join(benchFolder(), 'transports/pingpong.c')]);
    const binding = cpus ? ['-bind-to', `user:${cpus.join(',')}`] : [];
    const run = async (what: string, size: number, batch: number, milliseconds: number) => {
      const args = [what, String(size), String(batch), String(milliseconds / 1000)];
      const text = await output('mpiexec.mpich', ['-n', '2', ...binding, program, ...args]);
      return text.trim().split('\n').map(Number);
    };
    return {
      latency: (size, milliseconds, batch) => run('latency', size, batch, milliseconds),
      throughput: async (size, milliseconds) => ({ sent: await run('throughput', size, 1, milliseconds) }),
      async close() {},
    };
  },
};
