/** `isthmus region`: commands that inspect a region, or take a peer out of it. */
import type { Command } from 'commander';
import { type Exit, withExamples } from '../support/help.js';
import { addCheck } from './region-check.js';
import { addConfirmDead } from './region-confirm-dead.js';
import { addFence } from './region-fence.js';
import { addShow } from './region-show.js';

export function addRegion(program: Command, exit: Exit): void {
  const region = program
    .command('region')
    .summary('inspect or verify a region, or take a lost peer out of it')
    .description('Inspect or verify a region, or take a peer out of it that is dead or paused.');
  addShow(region, exit);
  addCheck(region, exit);
  addConfirmDead(region);
  addFence(region);
  withExamples(
    region,
    `
  $ isthmus region show demo                # /dev/shm/demo
  $ isthmus region check demo
  # isthmus region confirm-dead ivshmem0 3  # slot 3`,
  );
}
