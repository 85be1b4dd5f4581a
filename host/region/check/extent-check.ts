/** The check of the extent table against the slots and the runs. */
import type { Core } from '../../core/core.js';
import type { Counts, Findings } from './findings.js';
import { nameOf, type SlotCheck } from './slot-check.js';

/** @param occupied extents that a run lies in */
export function checkExtents(
  { call }: Core,
  slots: SlotCheck,
  occupied: ReadonlySet<number>,
  { extents, frames }: Counts,
  findings: Findings,
): void {
  const each = call.extentFrames();
  const unswept: number[] = [];
  /** By slot: extents of its owner without a run. */
  const unused = new Map<number, number>();
  for (let extent = 0; extent < extents.total; extent++) {
    const where = `extent ${extent}`;
    const use = call.extentUse(extent);
    if (extent * each < frames.tables) {
      extents.tables++;
      if (use !== 1) findings.error(where, 'lies under header and tables and is not reserved');
      continue;
    }
    if (use === 1) {
      findings.error(where, 'is reserved, and not under header and tables');
      continue;
    }
    if (use === 0) {
      extents.free++;
      frames.free += each;
      continue;
    }
    const owner = { slot: call.extentSlot(extent), generation: call.extentGeneration(extent) >>> 0 };
    const standing = slots.standing(owner);
    if (!call.extentTagValid(extent)) findings.error(where, `its tag is none of an extent, and names ${nameOf(owner)}`);
    else if (standing === 'never') findings.error(where, `belongs to ${nameOf(owner)}, which never existed`);
    else if (standing === 'dead') {
      extents.dead++;
      slots.addRemains(owner.slot, 'extents');
    } else if (standing === 'over') {
      extents.gone++;
      if (!occupied.has(extent)) unswept.push(extent);
    } else {
      extents.held++;
      if (!occupied.has(extent)) unused.set(owner.slot, (unused.get(owner.slot) ?? 0) + 1);
    }
  }
  if (unswept.length > 0) {
    const which = unswept.length === 1 ? `extent ${unswept[0]}` : `${unswept.length} extents from ${unswept[0]} on`;
    findings.note(
      which,
      `${unswept.length * each} frames of processes that have left, in no run: they come back when a runtime attaches, or ` +
        'with the upkeep of one that is attached',
    );
  }
  for (const [slot, count] of unused) {
    const when = slots.isFenced(slot) ? 'when it leaves or is declared dead' : 'with its next upkeep';
    findings.note(`slot ${slot}`, `keeps ${count * each} frames that are in no run: they come back ${when}`);
  }
}
