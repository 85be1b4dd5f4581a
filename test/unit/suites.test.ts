/** The manifest that steers the runner of the tests: each kind of mistake is found, and ends the run. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { checkSuites, type Manifest, suiteOf } from '../../scripts/suites.mjs';
import { ONE_TEST, runMade } from '../support/made-suites.js';
import { timebox } from '../support/timebox.js';

/** A small tree of tests: paths below test/, and texts. */
const FILES: Readonly<Record<string, string>> = {
  'unit/ring.test.ts': '/** The ring. */\n',
  'soak/long.slow.test.ts':
    '/** Hours. */\n// alone in the region: a comment that steers nothing, because more follows it here\n',
  'vm/guest.test.ts': '',
  'vm/guest.ts': '',
};
const GOOD: Manifest = {
  'soak/long.slow.test.ts': { onlyWithAll: true, alone: false },
  'vm/': { alone: true, limitSeconds: 900 },
  'vm/guest.test.ts': { limitSeconds: 1500 },
};

const check = (manifest: unknown, files = FILES) =>
  checkSuites(manifest, Object.keys(files), (path) => files[path] as string);

test('a manifest without a mistake passes, and the entry of a file overrides that of its folder', () => {
  assert.equal(check(GOOD), []);
  assert.equal(suiteOf('vm/guest.test.ts', GOOD), { alone: true, limitSeconds: 1500 });
  assert.equal(suiteOf('unit/ring.test.ts', GOOD), {});
  assert.equal(suiteOf('a/b/c.test.ts', { 'a/': { alone: true }, 'a/b/': { alone: false } }), { alone: false });
});

const mistakes: [what: string, manifest: unknown, problem: RegExp][] = [
  ['no manifest', undefined, /must export 'suites'/],
  ['a list', [], /must export 'suites'/],
  ['an unknown setting', { ...GOOD, 'unit/ring.test.ts': { alon: true } }, /unknown setting 'alon'; known are alone,/],
  ['a name of Object.prototype', { ...GOOD, 'unit/ring.test.ts': { toString: true } }, /unknown setting 'toString'/],
  ['a wrong type', { ...GOOD, 'unit/ring.test.ts': { alone: 'yes' } }, /alone must be true or false, and is "yes"/],
  ['a limit as text', { ...GOOD, 'vm/': { limitSeconds: '900 s' } }, /limitSeconds must be a whole number/],
  ['a limit of nothing', { ...GOOD, 'vm/': { limitSeconds: 0 } }, /limitSeconds must be a whole number/],
  [
    'a limit that is no number',
    { ...GOOD, 'vm/': { limitSeconds: Number.NaN } },
    /limitSeconds must be a whole number/,
  ],
  ['no settings', { ...GOOD, 'vm/': true }, /"vm\/": true is no object of settings/],
  ['an entry that sets nothing', { ...GOOD, 'unit/ring.test.ts': {} }, /the entry sets nothing; remove it/],
  [
    'a file that is not there',
    { ...GOOD, 'unit/rung.test.ts': { alone: true } },
    /"unit\/rung\.test\.ts": there is no/,
  ],
  ['a file that is no test', { ...GOOD, 'vm/guest.ts': { alone: true } }, /"vm\/guest\.ts": there is no such file/],
  ['a folder that is not there', { ...GOOD, 'vms/': { alone: true } }, /"vms\/": this folder of test\/ has no/],
  ['a folder without its slash', { ...GOOD, vm: { alone: true } }, /"vm": there is no such file.*ends with '\/'/],
  ['a slow file in npm test', { 'vm/': { alone: true } }, /long\.slow\.test\.ts: .* give it onlyWithAll/],
];
for (const [what, manifest, problem] of mistakes) {
  test(`a mistake: ${what}`, () => {
    const problems = check(manifest);
    assert.is(problems.length, 1, problems.join('\n'));
    assert.match(problems[0] as string, problem);
  });
}

test('a steering comment that is left in a test is a mistake, wherever in the file it stands', () => {
  for (const comment of [
    '// alone',
    '// Alone',
    '//alone',
    '  // only with --all',
    '// time limit: 600 s',
    '// time limit: 6 min',
  ]) {
    const problems = check(GOOD, { ...FILES, 'unit/ring.test.ts': `/** The ring. */\n${comment}\nimport 'uvu';\n` });
    assert.is(problems.length, 1, comment);
    assert.match(
      problems[0] as string,
      `test/unit/ring.test.ts:2: the runner does not read the comment '${comment.trim()}'`,
    );
  }
});

/** Run the runner on these files with a manifest. */
const runner = (manifest: string) =>
  runMade({ ...FILES, 'unit/ring.test.ts': ONE_TEST, 'suites.mjs': manifest }, ['unit/ring']);

test(
  'the runner runs what a good manifest declares; a mistake ends it with 1 before any test',
  timebox(60, async () => {
    const good = await runner(`export const suites = ${JSON.stringify(GOOD)};`);
    assert.is(good.code, 0, `${good.stdout}${good.stderr}`);
    assert.match(good.stdout, /^1 passed, 0 failed$/m);
    for (const [manifest, said] of [
      [`export const suites = ${JSON.stringify({ ...GOOD, 'unit/': { alon: true } })};`, /unknown setting 'alon'/],
      ['export const suites = {', /test\/suites\.mjs cannot be loaded: /],
      ['export const suits = {};', /must export 'suites'/],
    ] as const) {
      const bad = await runner(manifest);
      assert.is(bad.code, 1, bad.stdout);
      assert.match(bad.stderr, said);
      assert.match(bad.stderr, /no test ran: correct the line above/);
      assert.not.match(bad.stdout, /passed/);
    }
  }),
);

test.run();
