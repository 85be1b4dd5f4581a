/**
 * `npm run bench -- --before CHECKOUT`: a build that is slower is found, and what is missing is told.
 *
 * The other checkout is a folder with dist/index.js and nothing else: how its sources lie is of no interest.
 */
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { ComparedBuilds } from '../../bench/report.js';
import { timebox } from '../support/timebox.js';

const root = resolve(process.env['ISTHMUS_ROOT'] ?? '.');
const folder = mkdtempSync(join(tmpdir(), 'isthmus-before-'));
test.after(() => rmSync(folder, { recursive: true, force: true }));

function bench(...args: string[]): { status: number | null; stdout: string; stderr: string } {
  return spawnSync(process.execPath, [join(root, 'scripts/bench.mjs'), ...args], { cwd: root, encoding: 'utf8' });
}

/** Milliseconds: far more than a busy machine takes for a round trip. */
const DELAY = 200;

test(
  'a build that takes longer for messages of 8 bytes is found, in the table and as JSON',
  timebox(400, () => {
    const real = JSON.stringify(pathToFileURL(join(root, 'dist/index.js')).href);
    mkdirSync(join(folder, 'dist'));
    writeFileSync(
      join(folder, 'dist/index.js'),
      `import { setTimeout as pause } from 'node:timers/promises';
       import { Runtime } from ${real};
       export * from ${real};
       const { connect } = Runtime.prototype;
       Runtime.prototype.connect = async function (...args) {
         const connection = await connect.apply(this, args);
         const send = connection.send.bind(connection);
         connection.send = async (data, ...more) => {
           if (data.length === 8) await pause(${DELAY});
           return send(data, ...more);
         };
         return connection;
       };\n`,
    );
    const out = join(folder, 'out');
    const args = ['--before', folder, '--only', 'await', '--sizes', '8', '--rounds', '7', '--out', out];
    const { status, stdout, stderr } = bench(...args);
    assert.is(status, 0, stderr);
    const { rows } = JSON.parse(readFileSync(join(out, 'compared.json'), 'utf8')) as ComparedBuilds;
    assert.equal(
      rows.map(({ form, kind, size }) => [form, kind, size]),
      [
        ['await', 'half round trip', 8],
        ['await', 'one way', 64],
      ],
    );
    const [slowed] = rows;
    assert.is(slowed?.compared?.verdict, 'faster', stdout);
    assert.ok((slowed?.compared?.before ?? 0) >= (DELAY / 2) * 1e6 && (slowed?.compared?.ratio ?? 1) < 0.9, stdout);
    assert.match(stdout, /^before: unknown in .*\nafter: {2}\S+ in /m);
    assert.match(stdout, /load [\d.]+ at the start, [\d.]+ at the end/);
    assert.match(stdout, /^\d slower, \d faster, \d no change beyond noise$/m);
    assert.match(stdout, /Wilcoxon/);
  }),
);

test(
  'a checkout that is not built, and a form that is not there',
  timebox(100, () => {
    const empty = join(folder, 'empty');
    mkdirSync(empty);
    const unbuilt = bench('--before', empty);
    assert.is(unbuilt.status, 1);
    assert.match(unbuilt.stderr, /there is no .*empty\/dist\/index\.js: run `node scripts\/setup\.mjs` in /);
    const unknown = bench('--before', folder, '--only', 'nothing');
    assert.is(unknown.status, 1);
    assert.match(unknown.stderr, /no form of Isthmus is called nothing/);
  }),
);

test.run();
