/** What `isthmus region check` prints. */
import type { Onlooker } from '../../region/inspection.js';
import type { Counts } from '../../region/region-view.js';
import { type Verification, verify } from '../../region/verification.js';
import { bytes, complain, indent, renderTable } from '../support/output.js';

/** Findings that are printed for people; all of them with --json. */
const SHOWN = 40;

export interface Verdict extends Verification {
  readonly path: string;
  readonly size: number;
  /** No finding is an error. */
  readonly consistent: boolean;
}

export async function check(onlooker: Onlooker): Promise<Verdict> {
  const { path, size } = onlooker;
  let told = false;
  const { state, looks, counts, findings } = await verify(onlooker, (_, left) => {
    if (told || left === 0 || !process.stderr.isTTY) return;
    told = true;
    complain(`${left} findings at the first look; looking again for a second, whether they stay\n`);
  });
  const consistent = findings.every(({ severity }) => severity !== 'error');
  return { path, size, state, consistent, looks, counts, findings };
}

function renderCounts({ slots, extents, frames, runs, records, grants }: Counts): string {
  const parts = (found: Readonly<Record<string, number>>) =>
    Object.entries(found)
      .filter(([, count]) => count > 0)
      .map(([what, count]) => `${count} ${what}`)
      .join(', ');
  return renderTable(
    [{ title: 'structure' }, { title: 'there are', right: true }, { title: 'of these' }],
    [
      [
        'slots',
        slots.total,
        parts({ alive: slots.alive, 'not to be told from here': slots.unknown, dead: slots.dead }),
      ],
      [
        'extents',
        extents.total,
        parts({
          'under header and tables': extents.tables,
          free: extents.free,
          taken: extents.held,
          'of the dead': extents.dead,
          'of those who left': extents.gone,
        }),
      ],
      [
        'frames',
        frames.total,
        parts({ 'under header and tables': frames.tables, free: frames.free, 'in runs': frames.runs }),
      ],
      [
        'runs',
        runs.total,
        parts({ rings: runs.rings, "of applications' memory": runs.memory, 'that one side has left': runs.loose }),
      ],
      ['records', records.total, records.total > 0 ? `${bytes(records.bytes)} in rings` : ''],
      ['grants', grants.total, ''],
    ].map((row) => row.map(String)),
  );
}

export function renderVerdict({ path, size, state, consistent, looks, counts, findings }: Verdict): string {
  const lines = [`${path}: ${bytes(size)}, ${state}`];
  if (counts) lines.push('', indent(renderCounts(counts)));
  const ordered = findings.toSorted((a, b) => a.severity.localeCompare(b.severity));
  for (const { severity, where, message } of ordered.slice(0, SHOWN)) lines.push(`${severity}: ${where}: ${message}`);
  if (ordered.length > SHOWN) lines.push(`and ${ordered.length - SHOWN} more ('--json' prints all)`);
  if (findings.length > 0) lines.push('');
  const errors = findings.filter(({ severity }) => severity === 'error').length;
  const notes = findings.length - errors;
  const how = looks === 1 ? 'one look' : `${looks} looks`;
  const verdict = consistent ? 'consistent' : `NOT CONSISTENT: ${errors} ${errors === 1 ? 'error' : 'errors'}`;
  lines.push(`${verdict}${notes > 0 ? `, ${notes} ${notes === 1 ? 'note' : 'notes'}` : ''} (${how})`);
  if (!consistent) lines.push(remedy(state));
  return `${lines.join('\n')}\n`;
}

function remedy(state: Verdict['state']): string {
  return state === 'refused'
    ? "Leave it alone unless it is meant to be a region: then 'isthmus server --force' makes a new one of it."
    : "End everybody who uses it ('isthmus region show' names them) and make it anew; keep a copy for a report of the fault.";
}
