/** What a check of a region finds, and what it counts. */
import type { Core } from '../../core/core.js';

export interface Finding {
  /** `error`: inconsistent. `note`: consistent, and a process has yet to do something. */
  readonly severity: 'error' | 'note';
  /** `header`, `slot 3`, `extent 17`, `run at frame 4711`, `ring at frame 80`. */
  readonly where: string;
  readonly message: string;
}

export class Findings {
  readonly list: Finding[] = [];

  error(where: string, message: string): void {
    this.list.push({ severity: 'error', where, message });
  }

  note(where: string, message: string): void {
    this.list.push({ severity: 'note', where, message });
  }
}

/** Contents of a region. */
export interface Counts {
  /** `unknown`: of another kernel, or of a process that reached the memory another way, so that no lock proves anything. */
  readonly slots: { total: number; alive: number; unknown: number; dead: number };
  /** `held`: by slots alive or unknown; `dead`: by dead ones; `gone`: by ones that have left, kept for their peers. */
  readonly extents: { total: number; tables: number; free: number; held: number; dead: number; gone: number };
  /** Of 4 KiB; `runs`: in runs of which at least one half is held or offered. */
  readonly frames: { total: number; tables: number; free: number; runs: number };
  readonly runs: { total: number; rings: number; memory: number; loose: number };
  /** In rings, committed and not given back. */
  readonly records: { total: number; bytes: number };
  readonly grants: { total: number };
}

/** The totals that follow from the geometry; everything else is 0. */
export function newCounts({ call, layout }: Core): Counts {
  const total = call.regionFrames.value;
  const tables = call.tableBytes() / layout.FRAME;
  return {
    slots: { total: call.regionSlots.value, alive: 0, unknown: 0, dead: 0 },
    extents: { total: total / call.extentFrames(), tables: 0, free: 0, held: 0, dead: 0, gone: 0 },
    frames: { total, tables, free: 0, runs: 0 },
    runs: { total: 0, rings: 0, memory: 0, loose: 0 },
    records: { total: 0, bytes: 0 },
    grants: { total: 0 },
  };
}
