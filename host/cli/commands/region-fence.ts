/** `isthmus region fence`: shuts out a peer that may go on later. */
import type { Command } from 'commander';
import { CliError } from '../support/errors.js';
import { withExamples } from '../support/help.js';
import { print } from '../support/output.js';
import { selectPeer, withPeer } from '../support/region-peer.js';
import { counted } from '../support/units.js';

async function fence(name: string, slot: number): Promise<void> {
  using selected = selectPeer(name, slot);
  const { peer, label } = selected;
  const { frames, connections } = selected.holdings();
  using region = await selected.map();
  if (!region.fence(peer)) throw new CliError(`${label} has left in the meantime, or is dead`);
  print(
    `${label}: shut out; its ${counted(frames, 'frame')} are kept for it, ` +
      `${counted(connections, 'connection')} will report it\n`,
  );
}

export function addFence(region: Command): void {
  const command = withPeer(region.command('fence'))
    .summary('shut out a peer that may only be paused')
    .description(
      'Shut out a peer that may go on later: a process that was stopped, a VM that is paused. Its peers get an error at ' +
        'once. Its frames stay its own, so that a write that it was about to do harms no other peer. When it goes on, it ' +
        'finds that it was shut out, begins nothing in the region any more, and frees its frames. They are also freed once ' +
        "its death is proven, or by 'isthmus region confirm-dead'.",
    );
  withExamples(
    command,
    `
  $ isthmus region show ivshmem0
  $ isthmus region fence ivshmem0 3`,
  ).action(fence);
}
