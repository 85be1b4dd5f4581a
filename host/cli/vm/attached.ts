/**
 * Processes of a guest that are attached to the memory of a device: they have it mapped, whatever they or others have said
 * over MQTT. Read from the peer table of the region, on the host.
 */
import { existsSync } from 'node:fs';
import { IsthmusError } from '../../base/errors.js';
import { printable } from '../../base/printable.js';
import { kernelOf, type PeerSlot } from '../../region/peer-table.js';
import { ReadOnlyRegion } from '../../region/read-only-region.js';
import { CliError } from '../support/errors.js';
import { counted } from '../support/units.js';
import { qemuOf } from './domain-process.js';

/** How many slots a message names. */
const MAX_NAMED = 8;

export interface Guest {
  /** The name that the guest has for itself, as its processes write it into their slots. */
  readonly host: string;
  /** UUID of the virtual machine, where it is known: finds its QEMU on this host. */
  readonly uuid?: string | undefined;
}

export interface Attached {
  /** Slots of the guest, each with whether its heartbeat was seen to change. */
  readonly slots: readonly (PeerSlot & { readonly beats: boolean })[];
  /** Slots of other machines; perhaps one of them is the guest under another name. */
  readonly others: readonly PeerSlot[];
  /** Why nothing can be said; undefined: the slots were read. */
  readonly unknown: string | undefined;
}

const nothing = (unknown?: string): Attached => ({ slots: [], others: [], unknown });

/**
 * The slots of a guest in the region of that file. A slot has the host name and the boot UUID of the kernel of its process:
 * a slot belongs to the guest if it has its name, or the kernel of one that has (a container in the guest has a name of its
 * own). If no other QEMU on this host has mapped the file, every slot of another kernel belongs to the guest.
 * @param path undefined: the file is on another host
 */
export async function attachedOf(path: string | undefined, { host, uuid }: Guest): Promise<Attached> {
  if (path === undefined) return nothing('its memory is on another host');
  if (!existsSync(path)) return nothing(`there is no ${path}`);
  try {
    using region = ReadOnlyRegion.ofFile(path);
    const { state, refused } = region.overview();
    if (state === 'blank') return nothing();
    if (state !== 'formatted') return nothing(refused?.message ?? `it is ${state}`);
    const kernelAt = (slot: number) => kernelOf(region.core, slot);
    const own = Buffer.from(region.identity.boot).toString('hex');
    const remote = region.peers().filter(({ slot, state }) => state !== 'dead' && kernelAt(slot) !== own);
    const kernels = new Set(remote.filter((peer) => peer.host === host).map(({ slot }) => kernelAt(slot)));
    const alone = uuid !== undefined && qemuOf(uuid, region.identity).alone;
    const belongs = (peer: PeerSlot) => alone || peer.host === host || kernels.has(kernelAt(peer.slot));
    const slots = remote.filter(belongs);
    const ages = slots.length > 0 ? await region.heartbeats() : new Map<number, number>();
    // Those that have left meanwhile are no longer attached.
    const now = new Map(region.peers().map((peer) => [peer.slot, peer]));
    return {
      slots: slots
        .filter(({ slot, generation }) => now.get(slot)?.generation === generation)
        .map((peer) => ({ ...peer, beats: ages.has(peer.slot) })),
      others: remote.filter((peer) => !belongs(peer)),
      unknown: undefined,
    };
  } catch (error) {
    if (error instanceof IsthmusError) return nothing(error.message);
    throw error;
  }
}

const label = ({ slot, host, name, pid }: PeerSlot) => `slot ${slot} (${name || 'no name'}, pid ${pid} on ${host})`;

/**
 * The check before a device is detached.
 * @returns what could not be checked, for people; empty: all was
 * @throws CliError if processes of the guest are attached
 */
export async function checkReleased(device: string, path: string | undefined, guest: Guest): Promise<string> {
  const { slots, others, unknown } = await attachedOf(path, guest);
  if (slots.length > 0) {
    const named = slots.slice(0, MAX_NAMED).map((peer) => label(peer) + (peer.beats ? '' : ' without a heartbeat'));
    const more = slots.length > MAX_NAMED ? `, and ${slots.length - MAX_NAMED} more` : '';
    const silent = slots.find(({ beats }) => !beats);
    throw new CliError(
      `${counted(slots.length, 'process')} of '${guest.host}' still ${slots.length === 1 ? 'has' : 'have'} ${device} mapped: ${named.join(', ')}${more}`,
      `Suspend them ('isthmus suspend --host ${guest.host}').` +
        (silent ? ` One that has died: 'isthmus region confirm-dead ${device} ${silent.slot}'.` : '') +
        ' --force detaches nevertheless: the next access ends such a process (SIGBUS).',
    );
  }
  if (unknown !== undefined) return `not checked which processes have ${device} mapped: ${unknown}`;
  if (others.length === 0) return '';
  const hosts = [...new Set(others.map(({ host }) => host))].slice(0, MAX_NAMED).join(', ');
  return printable(`no process of '${guest.host}' has ${device} mapped; processes of other machines have: ${hosts}`);
}
