/**
 * Whether the structures of a region agree with each other: slots; extents against slots; halves of runs against extents
 * and slots; and what the runs contain.
 *
 * Other processes go on using the region meanwhile, and a copy of the tables is no picture of one instant. So a finding
 * counts only if each of many passes at irregular intervals finds it again in the very same words, which include the
 * values: a structure that is in transition has other values by then. For the same reason a note about the dead remains
 * only where no process reclaims what they held.
 *
 * An error is a state that no order of steps leads to, death between any two steps included. A note is what a process has
 * yet to do, or what cannot be told from here. One thing looks like an error and is none: a process that is alive and stands
 * still between two steps during all passes, as in a virtual machine that is paused.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { refusal } from '../header.js';
import type { ReadOnlyRegion } from '../read-only-region.js';
import type { RegionView } from '../region-view.js';
import { checkExtents } from './extent-check.js';
import { type Counts, type Finding, Findings, newCounts } from './findings.js';
import { RunCheck } from './run-check.js';
import { checkHeader, SlotCheck } from './slot-check.js';

/** Passes that a finding has to outlive. */
const MAX_PASSES = 24;
/** The longest pause between two passes: they outlast several rounds of upkeep, two a second. */
const MAX_PAUSE_MS = 100;

export interface Verification {
  readonly state: 'formatted' | 'blank' | 'being formatted' | 'refused';
  /** The number of passes. */
  readonly looks: number;
  readonly counts: Counts | undefined;
  readonly findings: readonly Finding[];
}

/** One pass. Where other processes use the region, a finding may be a transition. */
export function verifyOnce(view: RegionView): Omit<Verification, 'looks'> {
  const { core, path, size } = view;
  const { call, layout } = core;
  const state = call.inspect();
  switch (state) {
    case layout.INSPECT_READY:
      return { state: 'formatted', ...checkTables(view) };
    case layout.INSPECT_BLANK:
      return { state: 'blank', counts: undefined, findings: blank(view) };
    case layout.INSPECT_FORMATTING:
      return { state: 'being formatted', counts: undefined, findings: [formatting(view)] };
    default: {
      const message = refusal(core, path, size, state).message.replace(`${path}: `, '');
      return { state: 'refused', counts: undefined, findings: [{ severity: 'error', where: 'header', message }] };
    }
  }
}

function checkTables(view: RegionView): Pick<Verification, 'counts' | 'findings'> {
  const findings = new Findings();
  const counts = newCounts(view.core);
  checkHeader(view, findings);
  const slots = new SlotCheck(view, counts, findings);
  const { occupied } = new RunCheck(view, slots, counts, findings);
  checkExtents(view.core, slots, occupied, counts, findings);
  slots.noteDeadAndFenced();
  return { counts, findings: findings.list };
}

/** No process can have a slot in a region that is not formatted. */
function blank(view: RegionView): Finding[] {
  const slots = Array.from({ length: view.core.call.regionSlots.value }, (_, slot) => slot);
  const first = slots.find((slot) => view.locked(slot));
  if (first === undefined) {
    return [
      { severity: 'note', where: 'header', message: 'blank: it is not formatted yet, there is nothing to verify' },
    ];
  }
  const message = `is blank, but the lock on byte ${first} is held: a process has a slot in what was here`;
  return [{ severity: 'error', where: 'header', message }];
}

function formatting(view: RegionView): Finding {
  const { core, identity } = view;
  const abandoned = core.call.formattingKernel() === identity.hash && view.locked(core.layout.LOCK_FORMAT) === false;
  const message = abandoned
    ? 'a process began to format it and died: the next runtime that attaches does it again'
    : 'a process is formatting it, or has begun to';
  return { severity: 'note', where: 'header', message };
}

const keyOf = ({ severity, where, message }: Finding) => `${severity} ${where}: ${message}`;

/**
 * Repeat passes until the remaining findings have been found in each of them, or none is left. That takes about a second
 * where there are findings, and two more where the life of a process cannot be proven from here.
 * @param onPass called after each pass, with the number of passes and of the findings that are left
 */
export async function verify(
  region: ReadOnlyRegion,
  onPass?: (passes: number, left: number) => void,
): Promise<Verification> {
  let { state, counts, findings } = verifyOnce(region);
  let passes = 1;
  onPass?.(passes, findings.length);
  while (findings.length > 0 && passes < MAX_PASSES) {
    await sleep(1 + Math.random() * MAX_PAUSE_MS);
    region.refresh();
    const again = verifyOnce(region);
    const found = new Set(again.findings.map(keyOf));
    // A finding in another state of the header has other words, and does not count.
    ({ state, counts } = again);
    findings = findings.filter((finding) => found.has(keyOf(finding)));
    passes++;
    onPass?.(passes, findings.length);
  }
  const silent = state === 'formatted' ? await silentPeers(region) : [];
  return { state, looks: passes, counts, findings: [...findings, ...silent] };
}

/** Notes about peers whose life nothing proves, and that show no sign of it: what they hold stays theirs. */
async function silentPeers(region: ReadOnlyRegion): Promise<Finding[]> {
  const unknown = () => region.peers().filter((peer) => peer.state !== 'dead' && region.lives(peer) === 'unknown');
  if (unknown().length === 0) return [];
  const heartbeats = await region.heartbeats();
  const holdings = region.holdings();
  return unknown()
    .filter(({ slot }) => !heartbeats.has(slot))
    .map(({ slot, name, host }) => ({
      severity: 'note',
      where: `slot ${slot}`,
      message:
        `${name} on ${host} is silent, and nothing proves it dead from here: its ${holdings.get(slot)?.frames ?? 0} ` +
        `frames are kept for it. If it will never run again: isthmus region confirm-dead ${region.path} ${slot}`,
    }));
}
