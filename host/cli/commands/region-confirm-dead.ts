/** `isthmus region confirm-dead`: declares a peer dead whose death cannot be proven on this host. */
import type { Command } from 'commander';
import { CliError } from '../support/errors.js';
import { withExamples } from '../support/help.js';
import { print } from '../support/output.js';
import { selectPeer, withPeer } from '../support/region-peer.js';
import { counted } from '../support/units.js';

/** How long the heartbeat is watched: on a busy machine it comes late. */
const WATCH_MS = 10_000;

/** @throws CliError if the peer is alive, as far as can be seen */
async function confirmDead(name: string, slot: number, force: boolean): Promise<void> {
  using selected = selectPeer(name, slot);
  const { peer, label, view } = selected;
  if (view.lives(peer) === 'alive') {
    throw new CliError(
      `${label} is alive: it holds its lock`,
      'End the process: then its death is proven to all processes of this host.',
    );
  }
  if (!force && (await view.beats(slot, WATCH_MS))) {
    throw new CliError(
      `${label} is alive: its heartbeat changes`,
      "End the process or the VM first. '--force' declares it dead nevertheless: what it writes from now on is lost.",
    );
  }
  const { frames, connections } = selected.holdings();
  using region = await selected.map();
  if (!region.confirmDead(peer)) throw new CliError(`${label} has left in the meantime`);
  print(
    `${label}: declared dead; ${counted(frames, 'frame')} taken back, ` +
      `${counted(connections, 'connection')} will report it\n`,
  );
}

export function addConfirmDead(region: Command): void {
  const command = withPeer(region.command('confirm-dead'))
    .summary('declare a peer dead that will never run again')
    .description(
      'Declare a peer dead whose death cannot be proven on this host: a process in a VM that was killed. Its frames are ' +
        'freed, and its peers get an error. Silence is no proof: a paused VM is silent as well, and what it writes when it ' +
        'goes on would land in frames that have other owners by then. Use this only if the process will never run again. ' +
        'Refused if the process holds its lock on this host, and, without --force, if its heartbeat changes within 10 s.',
    )
    .option('--force', 'even if the heartbeat changes');
  withExamples(
    command,
    `
  $ isthmus region show ivshmem0
  # isthmus region confirm-dead ivshmem0 3`,
  ).action((name: string, slot: number, { force }: { force?: true }) => confirmDead(name, slot, force === true));
}
