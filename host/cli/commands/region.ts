/** `isthmus region`: what is in a region, for people and programs that wonder. */
import { existsSync, statSync } from 'node:fs';
import { join } from 'node:path';
import type { Command } from 'commander';
import { IsthmusError } from '../../base/errors.js';
import { coreLayout } from '../../core/core.js';
import { type Backing, WAYS } from '../../device/backing.js';
import { discoverPci, uioOf } from '../../device/pci.js';
import { type Candidate, posixBacking, regionPath } from '../../device/posix.js';
import { discoverUio, type UioRoots } from '../../device/uio.js';
import { type FrameCount, Onlooker, type PeerSlot, type RingView } from '../../region/inspection.js';
import { MappedRegion } from '../../region/mapped.js';
import { integer } from '../support/args.js';
import { bytes, CliError, indent, renderTable, say } from '../support/output.js';
import { check, renderVerdict } from './region-check.js';

/** How long a heartbeat is waited for before somebody is believed dead: a busy machine is late with it. In milliseconds. */
const SILENCE = 10_000;

interface SlotReport extends PeerSlot {
  /** When its heartbeat last changed, in milliseconds; null: not while we watched. */
  readonly heartbeatAgeMs: number | null;
  /** What its lock proves: nothing of somebody on another kernel. */
  readonly lives: 'alive' | 'dead' | 'unknown';
}

interface Report {
  readonly path: string;
  readonly kind: Backing['kind'];
  readonly size: number;
  /** Of a file. */
  readonly owner: { readonly uid: number; readonly mode: string } | undefined;
  readonly state: 'formatted' | 'blank' | 'being formatted' | 'refused';
  readonly refused: { readonly code: string; readonly message: string } | undefined;
  readonly version: number | undefined;
  readonly uuid: string | undefined;
  readonly host: string | undefined;
  /** Who holds the locks beside those of the slots. */
  readonly locks: { readonly format: boolean | undefined; readonly server: boolean | undefined };
  /** Slots in all. */
  readonly slotCount: number;
  readonly slots: readonly SlotReport[];
  readonly frames: FrameCount | undefined;
  readonly rings: readonly RingView[];
}

/** A PCI address, or a path in sysfs that ends in one or in its `resource2`. */
const PCI = /^(?:\/.*\/)?([0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7])(?:\/resource2)?$/i;

function pick(path: string, candidates: readonly Candidate[]): Backing {
  const device = candidates.find((candidate) => candidate.path === path);
  if (device?.refused) throw device.refused;
  if (device?.backing) return device.backing;
  throw new IsthmusError('ERR_ISTHMUS_REGION_NOT_FOUND', `there is no device ${path}`, { path });
}

/** A device by its name, address or path; undefined: it is the name of a file. */
function findDevice(name: string, roots: UioRoots): Backing | undefined {
  const { sysfs = '/sys', dev = '/dev' } = roots;
  const address = PCI.exec(name)?.[1]?.toLowerCase();
  // Where a driver has it, by its uio device, as everybody else.
  const uio = address === undefined ? /^(?:\/dev\/)?(uio\d+)$/.exec(name)?.[1] : uioOf(address, roots);
  if (uio !== undefined && (address !== undefined || !existsSync(regionPath(uio)))) {
    return pick(join(dev, uio), discoverUio(roots));
  }
  if (address === undefined) return undefined;
  return pick(join(sysfs, 'bus/pci/devices', address, 'resource2'), discoverPci(roots));
}

function lookAt(name: string, roots: UioRoots = {}): { onlooker: Onlooker; kind: Backing['kind'] } {
  const device = findDevice(name, roots);
  if (device) return { onlooker: Onlooker.of(device), kind: device.kind };
  return { onlooker: Onlooker.ofFile(regionPath(name)), kind: 'posix' };
}

/** @param roots other places than `/sys` and `/dev`, for tests */
export async function examine(name: string, roots: UioRoots = {}): Promise<Report> {
  const { onlooker, kind } = lookAt(name, roots);
  using region = onlooker;
  const { path, size } = region;
  const { state, version, uuid, host, slots, refused } = region.overview();
  const formatted = state === 'formatted';
  const ages = formatted ? await region.heartbeats() : new Map<number, number>();
  const { LOCK_FORMAT, LOCK_SERVER } = coreLayout();
  const stat = kind === 'posix' ? statSync(path, { throwIfNoEntry: false }) : undefined;
  return {
    path,
    kind,
    size,
    owner: stat && { uid: stat.uid, mode: (stat.mode & 0o7777).toString(8) },
    state,
    refused: refused && { code: refused.code, message: refused.message },
    version,
    uuid,
    host,
    locks: { format: region.locked(LOCK_FORMAT), server: region.locked(LOCK_SERVER) },
    slotCount: slots,
    slots: formatted
      ? region
          .peers()
          .map((peer) => ({ ...peer, heartbeatAgeMs: ages.get(peer.slot) ?? null, lives: region.lives(peer) }))
      : [],
    frames: formatted ? region.frames() : undefined,
    rings: formatted ? region.rings() : [],
  };
}

const LIVES = {
  alive: 'alive (holds its lock)',
  dead: 'dead (its lock is free)',
  unknown: 'cannot be told from here',
} as const;

function renderSlots({ slots, slotCount }: Report): string {
  if (slots.length === 0) return `Slots: none of ${slotCount} taken\n`;
  const table = renderTable(
    [
      { title: 'slot', right: true },
      { title: 'generation', right: true },
      { title: 'state' },
      { title: 'pid', right: true },
      { title: 'name' },
      { title: 'host' },
      { title: 'heartbeat', right: true },
      { title: 'its owner is' },
    ],
    slots.map(({ slot, generation, state, pid, name, host, heartbeatAgeMs, lives }) => [
      String(slot),
      String(generation),
      state,
      String(pid),
      name,
      host,
      heartbeatAgeMs === null ? 'not seen' : `${heartbeatAgeMs} ms ago`,
      LIVES[lives],
    ]),
  );
  return `Slots: ${slots.length} of ${slotCount} taken\n${indent(table)}`;
}

function renderFrames({ frameSize, total, tables, free, taken, inUse }: FrameCount): string {
  const size = (frames: number) => `${frames} (${bytes(frames * frameSize)})`;
  return (
    `Frames of ${bytes(frameSize)}: ${size(total)}: header and tables ${size(tables)}, free ${size(free)}, ` +
    `taken by processes ${size(taken)}, of these in use ${size(inUse)}\n`
  );
}

function renderRings(rings: readonly RingView[]): string {
  if (rings.length === 0) return 'Rings: none\n';
  const table = renderTable(
    [
      { title: 'from slot', right: true },
      { title: 'to slot', right: true },
      { title: 'capacity', right: true },
      { title: 'used', right: true },
    ],
    rings.map(({ from, to, capacity, used }) => [
      from === undefined ? '-' : String(from),
      String(to),
      bytes(capacity),
      used === undefined ? '?' : bytes(used),
    ]),
  );
  return `Rings: ${rings.length}\n${indent(table)}`;
}

export function render(report: Report): string {
  const { path, kind, size, owner, state, refused, version, uuid, host, locks, frames, rings } = report;
  const where = kind === 'posix' ? owner && `owner ${owner.uid}, mode ${owner.mode}` : WAYS[kind];
  const lines = [`${path}: ${bytes(size)}${where ? `, ${where}` : ''}`];
  if (refused) lines.push(`Not a region that can be used: ${refused.message} (${refused.code})`);
  else if (uuid === undefined) lines.push(`State: ${state}`);
  else lines.push(`Layout version ${version}, UUID ${uuid}, formatted by ${host}`);
  if (locks.server) lines.push('A server holds it.');
  if (locks.format) lines.push('Somebody is formatting it.');
  const head = `${lines.join('\n')}\n`;
  return frames ? `${head}\n${renderSlots(report)}\n${renderFrames(frames)}\n${renderRings(rings)}` : head;
}

/** Whose slot that is, in a region to look at. */
function whoHas(onlooker: Onlooker, slot: number): { readonly peer: PeerSlot; readonly who: string } {
  const { refused } = onlooker.overview();
  if (refused) throw refused;
  const peer = onlooker.peers().find((candidate) => candidate.slot === slot);
  if (!peer) {
    throw new CliError(
      `nobody has slot ${slot} of ${onlooker.path}`,
      "'isthmus region show' lists those who are there.",
    );
  }
  return { peer, who: `slot ${slot} of ${onlooker.path} (${peer.name} on ${peer.host}, pid ${peer.pid})` };
}

/** Shut somebody out on the word of whoever types this. */
async function fence(name: string, slot: number): Promise<void> {
  const backing = findDevice(name, {}) ?? posixBacking(name, false);
  using onlooker = Onlooker.of(backing);
  const { peer, who } = whoHas(onlooker, slot);
  const { frames = 0, connections = 0 } = onlooker.holdings().get(slot) ?? {};
  using region = await MappedRegion.open(backing);
  // The very one that was looked at: the slot may have another owner by now.
  if (!region.fence(peer)) throw new CliError(`${who} has left meanwhile, or is dead`);
  say(`${who}: shut out; its ${frames} frames are kept for it, ${connections} connections will report it\n`);
}

/**
 * Declare somebody dead on the word of whoever types this.
 * @throws CliError if he can be seen to live
 */
async function confirmDead(name: string, slot: number, force: boolean): Promise<void> {
  const backing = findDevice(name, {}) ?? posixBacking(name, false);
  using onlooker = Onlooker.of(backing);
  const { peer, who } = whoHas(onlooker, slot);
  if (onlooker.lives(peer) === 'alive') {
    throw new CliError(`${who} lives: it holds its lock`, 'End the process: then everybody on this host can see it.');
  }
  if (!force && (await onlooker.beats(slot, SILENCE))) {
    throw new CliError(
      `${who} lives: its heartbeat goes on`,
      "End the process or the VM first. '--force' believes you all the same: what it writes from now on is lost.",
    );
  }
  const { frames = 0, connections = 0 } = onlooker.holdings().get(slot) ?? {};
  using region = await MappedRegion.open(backing);
  // The very one that was looked at: the slot may have another owner by now.
  if (!region.bury(peer)) throw new CliError(`${who} has left meanwhile`);
  say(`${who}: declared dead; ${frames} frames taken back, ${connections} connections will report it\n`);
}

export function addRegion(program: Command, exit: (code: number) => void): void {
  const example = `
Example:
  $ isthmus region show demo                # /dev/shm/demo
  $ isthmus region show uio0 --json
  $ isthmus region show 0000:00:05.0        # a PCI device, as 'isthmus info' shows it
  $ isthmus region show isthmus-shm-$(id -u)`;
  const region = program
    .command('region')
    .summary('look into a region, verify it, or give up the dead in it')
    .addHelpText('after', example);
  region
    .command('show')
    .argument('<NAME>', 'name in /dev/shm, a path, a uio device, or a PCI address')
    .summary('header, peers, frames and rings')
    .description(
      'Print what is in a region: header, peer table, frames and rings. Takes no slot and writes nothing; watches the ' +
        'heartbeats for two seconds at most. Exit code 1 if it is not a region that can be used.',
    )
    .option('--json', 'print one JSON object')
    .addHelpText('after', example)
    .action(async (name: string, { json }: { json?: true }) => {
      const report = await examine(name);
      say(json ? `${JSON.stringify(report, null, 2)}\n` : render(report));
      if (report.refused) exit(1);
    });
  region
    .command('check')
    .argument('<NAME>', 'name in /dev/shm, a path, a uio device, or a PCI address')
    .summary('verify the structures of a region')
    .description(
      'Verify that the structures of a region agree with each other: header, slots, who has which extents and runs, the ' +
        'records of every ring, what memory is granted. Writes nothing and takes no slot, so others may go on using it: ' +
        'what is found is looked at again for a second, and counts only if it stays. Exit code 0 if the region is ' +
        'consistent (there may be notes, about the dead whose frames nobody has taken back yet), 1 if it is not, or is ' +
        'no region.',
    )
    .option('--json', 'print one JSON object')
    .addHelpText(
      'after',
      `
Example:
  $ isthmus region check demo               # /dev/shm/demo
  $ isthmus region check uio0 --json`,
    )
    .action(async (name: string, { json }: { json?: true }) => {
      const { onlooker } = lookAt(name);
      using checked = onlooker;
      const verdict = await check(checked);
      say(json ? `${JSON.stringify(verdict, null, 2)}\n` : renderVerdict(verdict));
      if (!verdict.consistent) exit(1);
    });
  region
    .command('confirm-dead')
    .argument('<NAME>', 'name in /dev/shm, a path, a uio device, or a PCI address')
    .argument('<SLOT>', "the slot, as 'isthmus region show' and 'isthmus server' print it", integer(0, 1023, 'A slot'))
    .summary('give up somebody who is known to be dead')
    .description(
      'Declare the owner of a slot dead of whom nothing can be proven from here: a process in a VM that was killed. Its ' +
        'frames come back, and its peers get an error. Silence is no proof: a VM that is paused is silent as well, and ' +
        'what it still writes when it goes on would land in frames that belong to others by then. So do it only if it ' +
        'will never run again. Refused for whoever holds his lock on this host, and, without --force, for one whose ' +
        'heartbeat changes while we watch.',
    )
    .option('--force', 'although the heartbeat changes')
    .addHelpText(
      'after',
      `
Example:
  $ isthmus region show ivshmem0
  # isthmus region confirm-dead ivshmem0 3`,
    )
    .action((name: string, slot: number, { force }: { force?: true }) => confirmDead(name, slot, force === true));
  region
    .command('fence')
    .argument('<NAME>', 'name in /dev/shm, a path, a uio device, or a PCI address')
    .argument('<SLOT>', "the slot, as 'isthmus region show' and 'isthmus server' print it", integer(0, 1023, 'A slot'))
    .summary('shut somebody out who may only be paused')
    .description(
      'Give somebody up who may go on some day: a process that was stopped, a VM that is paused. Its peers get an error at ' +
        'once. Its frames are kept for it, so that what it was about to write harms nobody: when it goes on, it finds that ' +
        'it was shut out, begins nothing any more, and gives them back. They come back as well when its death is proven, ' +
        "or by 'isthmus region confirm-dead'.",
    )
    .addHelpText(
      'after',
      `
Example:
  $ isthmus region show ivshmem0
  $ isthmus region fence ivshmem0 3`,
    )
    .action((name: string, slot: number) => fence(name, slot));
}
