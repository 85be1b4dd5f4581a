/** `npm run coverage`: processes and worker threads that a test starts count, and the exit code is that of the tests. */
import { readdirSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { Child } from '../support/process.js';
import { timebox } from '../support/timebox.js';

const root = resolve(process.env['ISTHMUS_ROOT'] ?? '.');

/** Run it. @returns its exit code, what it printed, and the lines of its table: name → lines, run, in part, functions */
async function coverage(...args: string[]) {
  const before = readdirSync(root);
  const child = Child.run(join(root, 'scripts/coverage.mjs'), args);
  const { code } = await child.ended(120);
  const rows = new Map<string, string[]>();
  for (const line of child.output.split('\n')) {
    const [name, ...cells] = line.split(/[║│]/).slice(1, -1);
    if (name !== undefined)
      rows.set(
        name.trim(),
        cells.map((cell) => cell.trim()),
      );
  }
  assert.equal(
    readdirSync(root).filter((name) => /^\.test-build-/.test(name) && !before.includes(name)),
    [],
  );
  return { code, output: child.output, rows };
}

test(
  'what a test runs here, in its processes and in its threads',
  timebox(200, async () => {
    const { code, output, rows } = await coverage('unit/log', 'integration/handles', '--lines');
    assert.is(code, 0, output.slice(0, 2000));
    const share = (name: string) => Number.parseFloat(rows.get(name)?.[1] ?? 'NaN');
    assert.ok(share('log.ts') > 90, rows.get('log.ts')?.join());
    // The near end closes its connections in one process, the far end listens in another.
    assert.ok(share('endpoint.ts') > 30 && share('runtime.ts') > 30);
    assert.is(share('doctor.ts'), 0, 'known from dist/, and not run');
    assert.ok(share('all') > 5 && share('all') < 60, rows.get('all')?.join());
    assert.match(output, /^host\/cli\/\S*doctor\.ts: not run: \d+/m);
  }),
);

test(
  'no test matches: exit code 1, and --help',
  timebox(60, async () => {
    assert.is((await coverage('unit/none')).code, 1);
    const help = await coverage('--help');
    assert.is(help.code, 0);
    assert.match(help.output, /^Usage: npm run coverage/);
  }),
);

test.run();
