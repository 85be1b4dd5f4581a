/** Coverage of sources from V8's counts of bundles: real processes run a small bundle, and each line is where it should be. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { Bundle, decode, SourceCoverage } from '../../scripts/mapped-coverage.mjs';
import { timebox } from '../support/timebox.js';

const esbuild = resolve(process.env['ISTHMUS_ROOT'] ?? '.', 'node_modules/esbuild/bin/esbuild');
const folder = mkdtempSync(join(tmpdir(), 'isthmus-coverage-'));
test.after(() => rmSync(folder, { recursive: true, force: true }));

/** With types, comments, and characters that are not ASCII. */
const SOURCE = `/** A comment. */
export interface Unused { readonly a: number }
export class Sign {
  #word(n: number): string { return n < 0 ? '−' : '+'; }
  of(n: number): string {
    if (n === 0) return 'zero';
    if (n > 0) {
      return this.#word(n);
    }
    return this.#word(n);
  }
}
export function never(): void {
  console.log('not called');
}
`;
const ENTRY = `import { Sign, never } from './source.js';
const [, , which] = process.argv;
if (which === 'call') never();
else console.log(new Sign().of(Number(which)));
`;

/** What the bundles tell of source.ts after each was run with these arguments. */
function covered(runs: readonly (readonly string[])[]) {
  const source = new SourceCoverage();
  for (const [i, values] of runs.entries()) {
    const out = join(folder, `bundle-${i}`);
    // Another bundle: its places lie elsewhere.
    const banner = `--banner:js=${'// …\n'.repeat(i)}`;
    const flags = ['--bundle', '--format=esm', '--target=node20', '--charset=utf8', '--sourcemap', '--log-level=error'];
    const args = [esbuild, 'entry.ts', ...flags, banner, `--outfile=${join(out, 'entry.mjs')}`];
    const built = spawnSync(process.execPath, args, { cwd: folder, encoding: 'utf8' });
    assert.is(built.status, 0, built.stderr);
    const path = join(out, 'entry.mjs');
    const bundle = new Bundle(readFileSync(path, 'utf8'), JSON.parse(readFileSync(`${path}.map`, 'utf8')));
    for (const value of values) {
      const counts = join(out, `counts ${value}`);
      const env = { ...process.env, NODE_V8_COVERAGE: counts };
      assert.is(spawnSync(process.execPath, [path, value], { env }).status, 0);
      for (const name of readdirSync(counts)) {
        const { result } = JSON.parse(readFileSync(join(counts, name), 'utf8'));
        for (const { url, functions } of result) if (url === pathToFileURL(path).href) bundle.add(functions);
      }
    }
    bundle.addTo((name) => (name.endsWith('source.ts') ? source : undefined));
    rmSync(out, { recursive: true });
  }
  return source.summary(SOURCE);
}

test.before(() => {
  writeFileSync(join(folder, 'source.ts'), SOURCE);
  writeFileSync(join(folder, 'entry.ts'), ENTRY);
});

test(
  'one process: the lines behind a return, and a function that is not called, did not run',
  timebox(30, () => {
    const { missed, partly, functions, uncalled } = covered([['5']]);
    assert.equal(missed, [10, 13, 14]);
    assert.ok(partly.includes(4) && partly.includes(6), `in part: ${partly}`);
    assert.equal([functions, uncalled], [3, 1]);
  }),
);

test(
  'several processes of several bundles: what one of them ran has run',
  timebox(30, () => {
    const { missed, partly, uncalled } = covered([['5', '0'], ['-5', 'call'], []]);
    assert.equal(missed, []);
    assert.equal(partly, []);
    assert.is(uncalled, 0);
  }),
);

test(
  'nothing was run: every line with code is one that did not',
  timebox(30, () => {
    const { lines, missed } = covered([[]]);
    assert.is(lines, missed.length);
    assert.equal(
      missed.filter((line) => [1, 2, 9, 11, 12, 15].includes(line)),
      [],
      'comments, types and brackets are no code',
    );
    assert.ok(missed.includes(8));
  }),
);

test('positions that span lines, go back, and leave a source', () => {
  const script = 'ab\ncdef\n\ngh';
  // Line 1: column 1 → source 0, 1:0. Line 2: column 0 → 3:4; column 2 ends the source. Line 4: column 1 → source 1, 2:1.
  assert.equal(decode('CAAA;AAEI,E;;CCDH', script), [
    { offset: 1, source: 0, line: 1, column: 0 },
    { offset: 3, source: 0, line: 3, column: 4 },
    { offset: 10, source: 1, line: 2, column: 1 },
  ]);
  assert.throws(() => decode('A*', script), /'A\*' is no segment/);
});

test.run();
