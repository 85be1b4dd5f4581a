/** A peer of a region that an operator selects by its slot, to take it out of the region. */
import type { Command } from 'commander';
import type { Backing } from '../../device/backing.js';
import { posixBacking } from '../../device/posix.js';
import { MappedRegion } from '../../region/mapped.js';
import type { PeerSlot } from '../../region/peer-table.js';
import { ReadOnlyRegion } from '../../region/read-only-region.js';
import { integer } from './args.js';
import { CliError } from './errors.js';
import { findDevice, REGION_NAME } from './region-names.js';

const MAX_SLOT = 1023;

export function withPeer(command: Command): Command {
  return command
    .argument('<NAME>', REGION_NAME)
    .argument('<SLOT>', "the slot, as 'isthmus region show' and 'isthmus server' print it", integer(0, MAX_SLOT));
}

export interface SelectedPeer {
  readonly peer: PeerSlot;
  /** `slot 3 of PATH (NAME on HOST, pid PID)`. */
  readonly label: string;
  readonly view: ReadOnlyRegion;
  /** What it holds now. */
  holdings(): { readonly frames: number; readonly connections: number };
  /**
   * Map the region to change it; to be closed. The change must name `peer`, generation included: the slot may have another
   * owner by now.
   */
  map(): Promise<MappedRegion>;
  [Symbol.dispose](): void;
}

/** To be closed. @throws CliError if no peer has the slot; the reason if it is not usable as a region */
export function selectPeer(name: string, slot: number): SelectedPeer {
  const backing: Backing = findDevice(name) ?? posixBacking(name, false);
  const view = ReadOnlyRegion.of(backing);
  try {
    const { refused } = view.overview();
    if (refused) throw refused;
    const peer = view.peers().find((candidate) => candidate.slot === slot);
    if (!peer) {
      throw new CliError(`no peer has slot ${slot} of ${view.path}`, "'isthmus region show' lists the peers.");
    }
    return {
      peer,
      label: `slot ${slot} of ${view.path} (${peer.name} on ${peer.host}, pid ${peer.pid})`,
      view,
      holdings: () => view.holdings().get(slot) ?? { frames: 0, connections: 0 },
      map: () => MappedRegion.open(backing),
      [Symbol.dispose]: () => view.close(),
    };
  } catch (error) {
    view.close();
    throw error;
  }
}
