/** `isthmus region check`: verifies the structures of a region. */
import type { Command } from 'commander';
import type { Counts } from '../../region/check/findings.js';
import { type Verification, verify } from '../../region/check/verification.js';
import type { ReadOnlyRegion } from '../../region/read-only-region.js';
import { type Exit, withExamples } from '../support/help.js';
import { print, printError, printJson } from '../support/output.js';
import { REGION_NAME, viewRegion } from '../support/region-names.js';
import { indent, renderTable } from '../support/table.js';
import { bytes, counted } from '../support/units.js';

/** Findings that are printed as text; --json prints all. */
const MAX_PRINTED = 40;

export interface Verdict extends Verification {
  readonly path: string;
  readonly size: number;
  /** No finding is an error. */
  readonly consistent: boolean;
}

async function check(view: ReadOnlyRegion): Promise<Verdict> {
  const { path, size } = view;
  let announced = false;
  const { state, looks, counts, findings } = await verify(view, (_, left) => {
    if (announced || left === 0 || !process.stderr.isTTY) return;
    announced = true;
    printError(`${counted(left, 'finding')} in the first pass; reading again for a second to see which of them stay\n`);
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
    [{ title: 'structure' }, { title: 'total', right: true }, { title: 'of which' }],
    [
      ['slots', slots.total, parts({ alive: slots.alive, unknown: slots.unknown, dead: slots.dead })],
      [
        'extents',
        extents.total,
        parts({
          'header and tables': extents.tables,
          free: extents.free,
          taken: extents.held,
          'of dead peers': extents.dead,
          'of peers that left': extents.gone,
        }),
      ],
      [
        'frames',
        frames.total,
        parts({ 'header and tables': frames.tables, free: frames.free, 'in runs': frames.runs }),
      ],
      [
        'runs',
        runs.total,
        parts({
          [runs.rings === 1 ? 'ring' : 'rings']: runs.rings,
          'memory of applications': runs.memory,
          'with one half released': runs.loose,
        }),
      ],
      ['records', records.total, records.total > 0 ? `${bytes(records.bytes)} in rings` : ''],
      ['grants', grants.total, ''],
    ].map((row) => row.map(String)),
  );
}

function render({ path, size, state, consistent, looks, counts, findings }: Verdict): string {
  const lines = [`${path}: ${bytes(size)}, ${state}`];
  if (counts) lines.push('', indent(renderCounts(counts)));
  const ordered = findings.toSorted((a, b) => a.severity.localeCompare(b.severity));
  for (const { severity, where, message } of ordered.slice(0, MAX_PRINTED)) {
    lines.push(`${severity}: ${where}: ${message}`);
  }
  if (ordered.length > MAX_PRINTED) lines.push(`and ${ordered.length - MAX_PRINTED} more ('--json' prints all)`);
  if (findings.length > 0) lines.push('');
  const errors = findings.filter(({ severity }) => severity === 'error').length;
  const notes = findings.length - errors;
  const passes = counted(looks, 'pass');
  const verdict = consistent ? 'consistent' : `NOT CONSISTENT: ${counted(errors, 'error')}`;
  lines.push(`${verdict}${notes > 0 ? `, ${counted(notes, 'note')}` : ''} (${passes})`);
  if (!consistent) lines.push(remedy(state));
  return `${lines.join('\n')}\n`;
}

function remedy(state: Verdict['state']): string {
  return state === 'refused'
    ? "If it is meant to be a region, 'isthmus server --force' formats it anew; otherwise leave it alone."
    : "End all processes that use it ('isthmus region show' lists them) and create it anew. Keep a copy for a bug report.";
}

export function addCheck(region: Command, exit: Exit): void {
  const command = region
    .command('check')
    .argument('<NAME>', REGION_NAME)
    .summary('verify the structures of a region')
    .description(
      'Verify that the structures of a region agree: header, slots, the owners of extents and runs, the records of each ' +
        'ring, granted memory. Takes no slot and writes nothing, so that other processes can go on using the region: a ' +
        'finding is checked again for a second, and counts only if it stays. Exit code 0 if the region is consistent ' +
        '(with or without notes, for example on dead peers whose frames were not taken back yet), 1 if it is not ' +
        'consistent or not a region.',
    )
    .option('--json', 'print one JSON object');
  withExamples(
    command,
    `
  $ isthmus region check demo               # /dev/shm/demo
  $ isthmus region check uio0 --json`,
  ).action(async (name: string, { json }: { json?: true }) => {
    using view = viewRegion(name).view;
    const verdict = await check(view);
    if (json) printJson(verdict);
    else print(render(verdict));
    if (!verdict.consistent) exit(1);
  });
}
