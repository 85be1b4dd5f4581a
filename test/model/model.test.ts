/**
 * The models of this folder, searched by spin through every interleaving: the protocols hold, and each model fails when
 * one element is removed. README.md describes how to read the models and how to run them by hand.
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test as register } from 'uvu';
import * as assert from 'uvu/assert';
import { chosen } from '../support/process.js';
import { timebox } from '../support/timebox.js';

const test = chosen(register);
const folder = join(process.env['ISTHMUS_ROOT'] ?? process.cwd(), 'test/model');

const missing = ['spin', 'gcc'].filter((program) => spawnSync(program, ['--version']).error !== undefined);

interface Model {
  readonly name: string;
  /** Sizes at which it must hold. */
  readonly holds: readonly string[];
  /** Sizes at which no sequence of steps may repeat itself, so that nothing runs for ever without progress. */
  readonly ends: readonly string[];
  /** The removed element, the size, and the expected error. */
  readonly fails: Readonly<Record<string, readonly [size: string, how: RegExp]>>;
}

/** A process sleeps for ever, or waits for something that never happens. */
const STUCK = /invalid end state/;
const WRONG = /assertion violated/;

const ONE = 'PRODUCERS=1 MESSAGES=2';
const WRAPS = 'PRODUCERS=1 WORDS=8 MESSAGES=6';

const MODELS: readonly Model[] = [
  {
    name: 'wake',
    holds: [
      'PRODUCERS=2 MESSAGES=2',
      'PRODUCERS=2 MESSAGES=1 SPLIT WANTS=2',
      'PRODUCERS=1 WORDS=8 MESSAGES=5',
      'PRODUCERS=1 WORDS=4 MESSAGES=6 WANTS=2',
      'PRODUCERS=2 MESSAGES=1 CRASH',
      'PRODUCERS=1 WORDS=8 MESSAGES=4 CRASH',
    ],
    ends: ['PRODUCERS=2 MESSAGES=1 WANTS=1', 'PRODUCERS=1 MESSAGES=4 WANTS=1'],
    fails: {
      PLAIN_PUBLISH: [ONE, STUCK],
      PLAIN_ARM: [ONE, STUCK],
      PLAIN_SLEEP: [ONE, STUCK],
      NO_RECHECK: [ONE, STUCK],
      ARM_AFTER_RECHECK: [ONE, STUCK],
      NO_SUMMARY_RECHECK: [ONE, STUCK],
      SLEEP_AFTER_RECHECK: [ONE, STUCK],
      NO_READY_BIT: [ONE, STUCK],
      SUMMARY_FIRST: [ONE, STUCK],
      SLEEPING_FIRST: [ONE, STUCK],
      BITS_FIRST: ['PRODUCERS=2 MESSAGES=1', STUCK],
      NO_RING: [ONE, STUCK],
      NO_FALLBACK_POLL: ['PRODUCERS=2 MESSAGES=1 CRASH', STUCK],
      ROOM_SLEEPS: ['PRODUCERS=1 MESSAGES=6', STUCK],
      HEAD_KEPT: [WRAPS, STUCK],
      NO_CLEAR: [WRAPS, WRONG],
      PAD_FIRST: [WRAPS, WRONG],
      NO_ROOM_BEHIND: [WRAPS, STUCK],
    },
  },
  {
    name: 'suspend',
    holds: [
      'MESSAGES=2 SUSPENDS=2 CUTS=1',
      'MESSAGES=1 SUSPENDS=3 CUTS=1',
      'MESSAGES=1 SUSPENDS=2 CUTS=1 CRASH STRANGER',
      'MESSAGES=1 SUSPENDS=3 CUTS=1 SAME_NAMES',
    ],
    ends: ['MESSAGES=1 SUSPENDS=2 CUTS=1', 'MESSAGES=1 SUSPENDS=2 CUTS=1 SAME_NAMES'],
    fails: {
      NO_ACK_WAIT: ['', WRONG],
      ACK_IN_CLASH: ['', WRONG],
      DRAIN_SKIPPED: ['', WRONG],
      NO_CONFIRM: ['', WRONG],
      NO_HURRY: ['', WRONG],
      NO_ASIDE: ['', WRONG],
      PARTIAL_KEPT: ['', WRONG],
      LATE_ACK_FORGOTTEN: ['', WRONG],
      ID_NOT_CHECKED: ['CRASH STRANGER', WRONG],
      EFFORT_FORGOTTEN: ['', WRONG],
      REFUSED_FOR_GOOD: ['MESSAGES=1 SUSPENDS=3 SAME_NAMES', WRONG],
      LEAVES_ANY_LINK: ['MESSAGES=1 SUSPENDS=3 SAME_NAMES', WRONG],
    },
  },
  {
    name: 'halves',
    holds: ['', 'CRASH', 'CRASH RECLAIMERS=1'],
    ends: [],
    fails: {
      NO_GENERATION: ['CRASH', WRONG],
      PLAIN_CLEAR: ['CRASH', WRONG],
      BOTH_CLEARED: ['CRASH', WRONG],
      HALVES_IGNORED: ['CRASH', WRONG],
      OFFER_LEFT: ['', WRONG],
      LAST_DOES_NOT_SWEEP: ['', WRONG],
    },
  },
  {
    name: 'process',
    holds: ['REQUESTS=3', 'REQUESTS=0 CALLS=3', 'REQUESTS=1 CALLS=1'],
    ends: [],
    fails: {
      GAP: ['REQUESTS=0 CALLS=3', WRONG],
      ANSWER_DROPPED: ['', WRONG],
    },
  },
];

function run(program: string, args: readonly string[], cwd: string): string {
  const { status, stdout, stderr, error } = spawnSync(program, args, { cwd, encoding: 'utf8', maxBuffer: 1 << 26 });
  if (error) throw error;
  const output = `${stdout}${stderr}`;
  if (status !== 0) throw new Error(`${program} ${args.join(' ')}: ${output}`);
  return output;
}

/**
 * Search a model completely, or until the first error.
 * @param how `long`: compile a fast program; `cycles`: search for steps that repeat themselves
 * @returns the output of the search
 */
function search(name: string, macros: string, how?: 'long' | 'cycles'): string {
  const build = mkdtempSync(join(tmpdir(), 'isthmus-model-'));
  try {
    const defines = macros.split(' ').flatMap((macro) => (macro ? [`-D${macro}`] : []));
    run('spin', ['-a', ...defines, join(folder, `${name}.pml`)], build);
    const what = how === 'cycles' ? '-DNP' : '-DSAFETY';
    run('gcc', [how === 'long' ? '-O1' : '-O0', '-w', what, '-DNOFAIR', '-DMEMLIM=1500', '-o', 'pan', 'pan.c'], build);
    return run('./pan', ['-m200000', ...(how === 'cycles' ? ['-l'] : [])], build);
  } finally {
    rmSync(build, { recursive: true, force: true });
  }
}

/** Check that the search was complete and found no error. */
function flawless(said: string): void {
  assert.match(said, / errors: 0$/m, said);
  assert.not.match(said, /max search depth too small|out of memory|Search not completed|aborted/, said);
}

/** Lines of the file with a state that was not reached. */
const unreached = (said: string): Set<number> =>
  new Set([...said.matchAll(/\.pml:(\d+), state \d+, "(?!-end-)/g)].map(([, line]) => Number(line)));

/** The steps with a name, and the line where each begins. */
function steps(name: string): Map<string, number> {
  const lines = readFileSync(join(folder, `${name}.pml`), 'utf8').split('\n');
  const found = new Map<string, number>();
  for (const [index, line] of lines.entries()) {
    const label = /^(?!end:)([a-z_]+):$/.exec(line)?.[1];
    if (!label) continue;
    let at = index + 1;
    while (/^ *(#.*|\/\*.*\*\/|atomic \{)?$/.test(lines[at] ?? '')) at++;
    found.set(label, at + 1);
  }
  return found;
}

if (missing.length > 0) {
  test.skip(`the models (no ${missing.join(', no ')} here)`);
  console.log(`! no ${missing.join(', no ')} here: the models are NOT checked (Debian packages spin and gcc)`);
} else {
  for (const { name, holds, ends, fails } of MODELS) {
    test(
      `${name}.pml holds, and every named step is taken`,
      timebox(120, () => {
        const never = steps(name);
        assert.ok(never.size > 3);
        for (const size of holds) {
          const said = search(name, size, 'long');
          flawless(said);
          const missed = unreached(said);
          for (const [step, line] of never) if (!missed.has(line)) never.delete(step);
        }
        assert.equal([...never.keys()], [], 'steps that were never taken');
      }),
    );

    for (const size of ends) {
      test(
        `${name}.pml has no cycle without progress: ${size}`,
        timebox(60, () => flawless(search(name, size, 'cycles'))),
      );
    }

    for (const [macro, [size, how]] of Object.entries(fails)) {
      test(
        `${name}.pml fails with ${macro}`,
        timebox(30, () => {
          const said = search(name, `${size} ${macro}`);
          assert.match(said, / errors: 1$/m, said);
          assert.match(said, how, said);
        }),
      );
    }
  }

  test('every macro of a model is tested', () => {
    const sizes = ['SPLIT', 'CRASH', 'SAME_NAMES', 'STRANGER'];
    for (const { name, fails } of MODELS) {
      const text = readFileSync(join(folder, `${name}.pml`), 'utf8');
      const macros = [...text.matchAll(/^#ifn?def ([A-Z_]+)\n(?!#define \1\b)|defined\(([A-Z_]+)\)/gm)];
      const names = new Set(macros.map(([, first, second]) => (first ?? second) as string));
      for (const tried of [...Object.keys(fails), ...sizes]) names.delete(tried);
      assert.equal([...names], [], name);
    }
  });
}

test.run();
