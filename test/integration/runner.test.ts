/**
 * scripts/test.mjs on made test files: whatever goes wrong in one, the run counts it and ends with another code than 0. And
 * the seed, the surroundings of a file, and what passes although it should not.
 */
import { spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { A_HOOK, readReport } from '../../scripts/testing/outcome.mjs';
import { type MadeRun, ONE_TEST, runMade } from '../support/made-suites.js';
import { timebox } from '../support/timebox.js';

const root = resolve(process.env['ISTHMUS_ROOT'] ?? '.');

/** Helpers of the tests that made files use. */
const SUPPORT = Object.fromEntries(
  ['support/timebox.ts', 'support/limits.ts'].map((path) => [path, readFileSync(join(root, 'test', path), 'utf8')]),
);
/** The text of a test file. */
const file = (body: string) => `
import { suite, test } from 'uvu';
import * as assert from 'uvu/assert';
${body}
`;
const made = (body: string, args: readonly string[] = [], env: NodeJS.ProcessEnv = {}) =>
  runMade({ 'unit/made.test.ts': file(body) }, args, env);
const said = ({ code, stdout, stderr }: MadeRun) => `exit code ${code}\n${stdout}${stderr}`;
const lastLine = ({ stdout }: MadeRun) => stdout.trimEnd().split('\n').at(-1);

/** What goes wrong, in which file, and what the run counts. */
const WRONG: readonly (readonly [what: string, body: string, counts: string])[] = [
  ['a test that fails', "test('a', () => {}); test('b', () => assert.is(1, 2)); test.run();", '1 passed, 1 failed'],
  [
    'a hook before the tests that throws',
    "test.before(() => { throw new Error('no'); }); test('a', () => {}); test('b', () => {}); test.run();",
    '0 passed, 3 failed',
  ],
  [
    'a hook after the tests that throws',
    "test.after(() => { throw new Error('no'); }); test('a', () => {}); test.run();",
    '1 passed, 1 failed',
  ],
  [
    'a hook before each test that throws once',
    "let n = 0; test.before.each(() => { if (n++) throw new Error('no'); }); test('a', () => {}); test('b', () => {}); test.run();",
    '1 passed, 1 failed',
  ],
  [
    'a hook after each test that throws',
    "let n = 0; test.after.each(() => { if (n++ === 0) throw new Error('no'); }); test('a', () => {}); test('b', () => {}); test.run();",
    '1 passed, 1 failed',
  ],
  [
    'a hook after each test that throws after a failure: uvu drops both errors',
    "test.after.each(() => { throw new Error('no'); }); test('a', () => assert.ok(false)); test('b', () => {}); test.run();",
    '0 passed, 2 failed',
  ],
  [
    'process.exit(0) in the middle',
    "test('a', () => {}); test('b', () => process.exit(0)); test('c', () => {}); test.run();",
    '1 passed, 2 failed',
  ],
  ['process.exit(0) before the first test', "test('a', () => {}); test.run(); process.exit(0);", '0 passed, 1 failed'],
  [
    'process.exit(0) in a hook after the last test',
    "test.after(() => process.exit(0)); test('a', () => {}); test.run();",
    '1 passed, 1 failed',
  ],
  [
    'a second run, which passes, when the first has failed and is over',
    "test('a', () => assert.ok(false)); test.run(); setTimeout(() => { const late = suite('late'); late('b', () => {}); late('c', () => {}); late.run(); }, 300);",
    '2 passed, 1 failed',
  ],
  [
    'a suite that is never run',
    "test('a', () => {}); test.run(); const other = suite('other'); other('b', () => {});",
    '1 passed, 1 failed',
  ],
  ['test.only that was left', "test('a', () => {}); test.only('b', () => {}); test.run();", '1 passed, 1 failed'],
  [
    'a rejection without a handler',
    "test('a', () => { Promise.reject(new Error('no')); }); test('b', () => new Promise((done) => setTimeout(done, 100))); test.run();",
    '1 passed, 1 failed',
  ],
  [
    'an error that no test catches, after the last test',
    "test('a', () => { setTimeout(() => { throw new Error('no'); }, 300); }); test.run();",
    '1 passed, 1 failed',
  ],
  [
    'a test that waits for what never comes',
    "test('a', () => new Promise(() => {})); test.run();",
    '0 passed, 1 failed',
  ],
  [
    'the end by a signal',
    "test('a', () => {}); test('b', () => process.kill(process.pid, 'SIGKILL')); test.run();",
    '1 passed, 1 failed',
  ],
  ['an error while the file is loaded', "test('a', () => {}); throw new Error('no');", '0 passed, 1 failed'],
  ['a file without a test that says so', "console.log('nothing to do here');", '0 passed, 1 failed'],
  [
    'a summary in the words of uvu, and no test',
    String.raw`console.log('\n  Total:     9\n  Passed:    9\n  Skipped:   0\n  Duration:  1ms\n');`,
    '0 passed, 1 failed',
  ],
  ['a file that cannot be bundled', "import './not-there.js';", '0 passed, 1 failed'],
];

for (const [what, body, counts] of WRONG) {
  test(
    `exit code 1 and its count: ${what}`,
    timebox(60, async () => {
      const run = await made(body);
      assert.is(lastLine(run), counts, said(run));
      assert.is(run.code, 1, said(run));
      assert.equal(run.left, []);
    }),
  );
}

test(
  'exit code 1 and its count: a file that does not end in its time, beside one that passes',
  timebox(60, async () => {
    const hangs = file(
      "test('a', () => {}); test('b', () => new Promise(() => setInterval(() => {}, 1000))); test.run();",
    );
    const files = { 'unit/hangs.test.ts': hangs, 'unit/one.test.ts': ONE_TEST };
    const run = await runMade(files, [], { ISTHMUS_TEST_TIMEOUT: '3', ISTHMUS_TEST_SLOWNESS: '1' });
    assert.is(lastLine(run), '2 passed, 1 failed', said(run));
    assert.match(run.stdout, /hangs\.test\.ts .*not done after 3 s/);
    assert.is(run.code, 1);
  }),
);

test(
  'the exit code does not depend on a reader of the output',
  timebox(60, async () => {
    const fails = file("test('a', () => assert.ok(false)); test.run();");
    assert.is((await runMade({ 'unit/a.test.ts': fails }, [], {}, true)).code, 1);
    assert.is((await runMade({ 'unit/a.test.ts': ONE_TEST }, [], {}, true)).code, 0);
    assert.is((await runMade({ 'unit/a.test.ts': ONE_TEST })).code, 0);
  }),
);

test(
  'what a run has come to decides on the exit code, whatever it is told afterwards or before',
  timebox(60, () => {
    const good = "outcome.note('a', { passed: 1, failed: 0, skipped: 0 });";
    const bad = "outcome.note('b', { passed: 758, failed: 1, skipped: 0 });";
    const code = (body: string) => {
      const program = `import { Outcome } from './scripts/testing/outcome.mjs';\nconst outcome = new Outcome(process);\n${body}`;
      return spawnSync(process.execPath, ['--input-type=module', '-e', program], { cwd: root }).status;
    };
    for (const end of ['', 'process.exit(0);', 'process.exitCode = 0;', 'setTimeout(() => process.exit(0));']) {
      assert.is(code(`${good} ${bad} outcome.finish(process); ${end}`), 1, end);
      assert.is(code(`${good} ${end}`), 1, `not finished; ${end}`);
      assert.is(code(`outcome.finish(process); ${end}`), 1, `no test; ${end}`);
      assert.is(code(`${good} outcome.finish(process); ${end}`), 0, end);
      // A second run of a file replaces its first.
      assert.is(code(`${bad} ${bad.replace('failed: 1', 'failed: 0')} outcome.finish(process); ${end}`), 0, end);
    }
    assert.is(code(`${good} outcome.finish(process); process.exit(3);`), 3);
    assert.is(code(`${good} ${bad} throw new Error('no');`), 1);
  }),
);

test('a report that was cut off, and the last word on each test', () => {
  const lines = [
    { test: 0, name: 'a' },
    { test: 1, name: 'b' },
    { test: 2, name: 'c' },
    { passed: 0, seconds: 1 },
    { failed: 0, error: 'in a hook' },
    { passed: 1, seconds: 1 },
    { failed: -1, error: 'after all' },
    { late: 1, what: 'a wait', seconds: 4, limit: 2 },
    { skipped: 'd' },
  ].map((line) => JSON.stringify(line));
  const { total, passed, skipped, failures, late } = readReport(`${lines.join('\n')}\n{"passed":2,"sec`);
  assert.equal({ total, passed, skipped }, { total: 3, passed: 1, skipped: 1 });
  assert.equal(failures, [
    { name: 'a', error: 'in a hook' },
    { name: 'c', error: 'it was not run to its end' },
    { name: A_HOOK, error: 'after all' },
  ]);
  assert.equal(late, ['b: a wait took 4.0 s, its limit is 2 s']);
  assert.equal(readReport('').failures, []);
});

test(
  'a seed for each run: drawn and printed, or the one that is given; with each failure the line that repeats it',
  timebox(60, async () => {
    const body = "test('a', () => assert.is(process.env.ISTHMUS_TEST_SEED, 'other')); test.run();";
    const seedOf = ({ stdout }: MadeRun) => /^ISTHMUS_TEST_SEED=(\d+);/m.exec(stdout)?.[1];
    const runs = await Promise.all([
      made(body, [], { ISTHMUS_TEST_SEED: '' }),
      made(body, [], { ISTHMUS_TEST_SEED: '' }),
      made(body, [], { ISTHMUS_TEST_SEED: '777001' }),
    ]);
    const seeds = runs.map(seedOf);
    assert.ok(seeds.every((seed) => seed !== undefined) && seeds[0] !== seeds[1], runs.map(said).join('\n'));
    assert.is(seeds[2], '777001');
    for (const [i, run] of runs.entries()) {
      assert.match(run.stdout, `ISTHMUS_TEST_SEED=${seeds[i]} node scripts/test.mjs --all unit/made.test.ts`);
      assert.match(run.stdout, new RegExp(`--- *${seeds[i]}|Actual:\n.*${seeds[i]}|${seeds[i]}`));
    }
    const wrong = await made(body, [], { ISTHMUS_TEST_SEED: 'now' });
    assert.is(wrong.code, 1);
    assert.match(wrong.stderr, /ISTHMUS_TEST_SEED must be a whole number/);
  }),
);

test(
  'each file has folders of its own, and nothing of them is left',
  timebox(60, async () => {
    const body = `
import { readdirSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
test('a', () => {
  const run = process.env['XDG_RUNTIME_DIR'];
  assert.equal(readdirSync(run), []);
  assert.is(statSync(run).mode & 0o777, 0o700);
  assert.equal(readdirSync(tmpdir()), []);
  assert.is(statSync(tmpdir()).mode & 0o7777, 0o1777);
  writeFileSync(tmpdir() + '/left', '');
  console.log('folders: ' + tmpdir() + ' ' + run);
  if (process.env.OWN) assert.equal(readdirSync('/dev/shm'), []);
});
test.run();`;
    const files = { 'unit/a.test.ts': file(body), 'unit/b.test.ts': file(body) };
    const own = await runMade(files, [], { ISTHMUS_TEST_TIMES: '1' });
    assert.is(own.code, 0, said(own));
    const folders = [...own.stdout.matchAll(/folders: (\S+) (\S+)/g)].flatMap(([, ...paths]) => paths);
    assert.is(new Set(folders).size, 4, said(own));
    const gone = spawnSync('ls', ['-d', ...folders], { encoding: 'utf8' });
    assert.is(gone.stdout, '');

    const shared = await runMade(files, [], { ISTHMUS_TEST_OWN_SHM: '0' });
    assert.match(
      shared.stdout,
      /the files share \/dev\/shm with all processes of this machine: ISTHMUS_TEST_OWN_SHM=0/,
    );
    assert.is(shared.code, 0, said(shared));
    if (!/each file has a \/dev\/shm of its own/.test(own.stdout)) {
      console.log('skipped: no mount namespace can be made');
      return;
    }
    const empty = await runMade(files, [], { OWN: '1' });
    assert.is(empty.code, 0, said(empty));
  }),
);

test(
  'what passes only when it is run again, or only with more time, is a fault to be understood',
  timebox(60, async () => {
    const body = `
import { existsSync, writeFileSync } from 'node:fs';
import { timebox } from '../support/timebox.js';
test('slow', timebox(0.2, () => new Promise((done) => setTimeout(done, 500))));
test('flaky', () => { const there = existsSync('ran'); writeFileSync('ran', ''); assert.ok(there); });
test.run();`;
    const files = { 'unit/made.test.ts': file(body), ...SUPPORT };
    const run = await runMade(files, ['--again', '--results', 'results.json'], { ISTHMUS_TEST_SLOWNESS: '10' });
    assert.is(run.code, 0, said(run));
    const faults = [...run.stdout.matchAll(/^fault to be understood: (.*)$/gm)].map(([, text]) => text as string);
    assert.is(faults.length, 2, said(run));
    assert.is(faults[0], 'passed only when run again: unit/made.test.ts: flaky');
    assert.match(
      faults[1] as string,
      /^passed only with ISTHMUS_TEST_SLOWNESS=10: unit\/made\.test\.ts: slow: the test took .* its limit is 0\.2 s$/,
    );
    const strict = await runMade(files, [], { ISTHMUS_TEST_SLOWNESS: '1' });
    assert.is(lastLine(strict), '0 passed, 2 failed', said(strict));
  }),
);

test(
  'npm run test:repeat: failures are counted by name, with their seeds, and one is enough for another exit code than 0',
  timebox(120, async () => {
    const body = `
const seed = Number(process.env.ISTHMUS_TEST_SEED);
test('even', () => assert.is(seed % 2, 0, 'an odd seed'));
test('first', () => assert.is(seed, 10));
test('always', () => {});
test.run();`;
    const repeat = (args: readonly string[], env: NodeJS.ProcessEnv = { ISTHMUS_TEST_SEED: '10' }) =>
      runMade({ 'unit/made.test.ts': file(body), 'unit/one.test.ts': ONE_TEST }, args, env, false, 'repeat');
    const run = await repeat(['4', '--no-stranger', '--loops', '1']);
    assert.is(run.code, 1, said(run));
    assert.match(run.stdout, /^✔ run 1 of 4: 4 passed, 0 failed, \d+ s, ISTHMUS_TEST_SEED=10$/m);
    assert.match(run.stdout, /^✘ run 2 of 4: 2 passed, 2 failed, \d+ s, ISTHMUS_TEST_SEED=11$/m);
    assert.match(run.stdout, /║ 3 of 4 +│ unit\/made\.test\.ts: first +│ 11 12 13 /);
    assert.match(run.stdout, /║ 2 of 4 +│ unit\/made\.test\.ts: even +│ 11 13 +│ an odd seed/);
    assert.is(lastLine(run), '4 of 4 runs, 5 failures of 2 tests');
    assert.equal(run.left, []);

    const good = await repeat(['2', 'unit/one', '--no-stranger', '--loops', '0']);
    assert.is(good.code, 0, said(good));
    assert.is(lastLine(good), '2 of 2 runs, 0 failures of 0 tests');
    // There is no dist/ here: without the load the runs would show nothing.
    const bare = await repeat(['2', 'unit/one', '--loops', '0']);
    assert.is(bare.code, 1, said(bare));
    assert.match(bare.stdout, /the load ended .*stranger/);
    assert.is((await repeat(['1', 'unit/none', '--no-stranger', '--loops', '0'])).code, 1);
    for (const wrong of [[], ['0'], ['many'], ['1', '--loops', '-1'], ['1', '--nothing']]) {
      assert.is((await repeat(wrong)).code, 2, wrong.join(' '));
    }
    const help = await repeat(['--help']);
    assert.is(help.code, 0);
    assert.match(help.stdout, /^Example:\n {2}\$ npm run test:repeat -- 20$/m);
  }),
);

/** `.ci/run` where npm, node and git are scripts: what it makes of the output of its steps. */
function gate(npmTest: string): { code: number | null; output: string } {
  const folder = mkdtempSync(join(tmpdir(), 'isthmus-gate-'));
  try {
    const script = (name: string, text: string) => {
      writeFileSync(join(folder, 'bin', name), `#!/bin/sh\n${text}\n`, { mode: 0o755 });
    };
    for (const name of ['bin', '.ci']) mkdirSync(join(folder, name));
    cpSync(join(root, '.ci/run'), join(folder, '.ci/run'));
    for (const name of ['apt-get', 'node'])
      script(name, 'echo "1 passed, 0 failed ($ISTHMUS_TEST_SEED)"; echo "1 passed, 0 failed"');
    script('git', 'echo 00000ff1234567890');
    script('npm', `if [ "$1" = test ]; then echo "seed $ISTHMUS_TEST_SEED"; ${npmTest}; fi; echo "2 passed, 0 failed"`);
    const env = { ...process.env, PATH: `${join(folder, 'bin')}:${process.env['PATH']}` };
    const { ISTHMUS_TEST_SEED, ...others } = env as NodeJS.ProcessEnv;
    const { status, stdout } = spawnSync('bash', ['.ci/run'], { cwd: folder, env: others, encoding: 'utf8' });
    return { code: status, output: stdout };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

test(
  '.ci/run: a seed that follows from the commit, the seeds that found faults, and what is to be understood at the end',
  timebox(60, () => {
    const fault = 'passed only when run again: unit/a.test.ts: b';
    const good = gate(`echo "fault to be understood: ${fault}"; echo "7 passed, 0 failed"; exit 0`);
    assert.is(good.code, 0, good.output);
    assert.match(good.output, /^seed 255$/m);
    for (const seed of [777001, 424242, 987654]) assert.match(good.output, `1 passed, 0 failed (${seed})`);
    const end = good.output.slice(good.output.lastIndexOf('━━ 1 faults to be understood'));
    assert.match(end, new RegExp(`^━━ 1 faults.*\nnpm test: ${fault}$`, 'm'));
    assert.not.match(gate('echo "7 passed, 0 failed"; exit 0').output, /to be understood/);
    for (const bad of [
      'echo "7 passed, 0 failed"; exit 1',
      'echo "758 passed, 1 failed"; exit 0',
      'exit 0',
      'echo "0 passed, 0 failed"; exit 0',
      'kill -9 $$',
    ]) {
      const { code, output } = gate(bad);
      assert.is(code, 1, `${bad}\n${output}`);
      assert.match(output, /^\d+ passed, 1 failed$/m, bad);
    }
  }),
);

test.run();
