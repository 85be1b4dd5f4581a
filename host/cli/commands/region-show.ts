/** `isthmus region show`: what is in a region. */
import type { Command } from 'commander';
import { WAYS } from '../../device/backing.js';
import type { FrameCount, RingView } from '../../region/usage.js';
import { type Exit, withExamples } from '../support/help.js';
import { print, printJson } from '../support/output.js';
import { REGION_NAME } from '../support/region-names.js';
import { examine, type RegionReport } from '../support/region-report.js';
import { indent, renderTable } from '../support/table.js';
import { bytes } from '../support/units.js';

const LIVES = {
  alive: 'alive (its lock is held)',
  dead: 'dead (its lock is free)',
  unknown: 'unknown (another kernel)',
} as const;

function renderSlots({ slots, slotCount }: RegionReport): string {
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
      { title: 'its process is' },
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
    `taken by processes ${size(taken)}, of which in use ${size(inUse)}\n`
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

export function render(report: RegionReport): string {
  const { path, kind, size, owner, state, refused, version, uuid, host, locks, frames, rings } = report;
  const where = kind === 'posix' ? owner && `owner ${owner.uid}, mode ${owner.mode}` : WAYS[kind];
  const lines = [`${path}: ${bytes(size)}${where ? `, ${where}` : ''}`];
  if (refused) lines.push(`Not usable as a region: ${refused.message} (${refused.code})`);
  else if (uuid === undefined) lines.push(`State: ${state}`);
  else lines.push(`Layout version ${version}, UUID ${uuid}, formatted by host ${host}`);
  if (locks.server) lines.push('A server keeps this region.');
  if (locks.format) lines.push('A process is formatting it.');
  const head = `${lines.join('\n')}\n`;
  return frames ? `${head}\n${renderSlots(report)}\n${renderFrames(frames)}\n${renderRings(rings)}` : head;
}

export function addShow(region: Command, exit: Exit): void {
  const command = region
    .command('show')
    .argument('<NAME>', REGION_NAME)
    .summary('print header, peers, frames and rings')
    .description(
      'Print what is in a region: header, peer table, frames and rings. Takes no slot and writes nothing. Watches the ' +
        'heartbeats for at most two seconds. Exit code 1 if it is not usable as a region.',
    )
    .option('--json', 'print one JSON object');
  withExamples(
    command,
    `
  $ isthmus region show demo                # /dev/shm/demo
  $ isthmus region show uio0 --json
  $ isthmus region show 0000:00:05.0        # a PCI device, as 'isthmus info' prints it
  $ isthmus region show isthmus-shm-$(id -u)`,
  ).action(async (name: string, { json }: { json?: true }) => {
    const report = await examine(name);
    if (json) printJson(report);
    else print(render(report));
    if (report.refused) exit(1);
  });
}
