/**
 * `npm run test:repeat`: runs the tests again and again beside load, each time with another seed, and counts what fails.
 *
 *   npm run test:repeat -- TIMES [FILTER…] [--loops N] [--no-stranger] [--all] [--help]
 *
 * A test that fails once in twenty runs has a fault, or the code has: the table at the end names it with the seeds. The load
 * takes what the machine of a user, or of another run of the tests, would take: processors, and slots in regions.
 */
import { spawn } from 'node:child_process';
import { randomInt } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { table } from 'table';
import { root } from './build.mjs';

const HELP = `Usage: npm run test:repeat -- TIMES [FILTER…] [options]

Run the tests TIMES times beside load, each time with another seed, and count the failures by the names of the tests.
The exit code is 0 only if no test failed in any run. Ctrl-C ends it, with the table of the runs until then.

FILTER: only test files whose path contains it; without one, those of \`npm test\`.

The load: a busy loop for each processor, and a program of the same user whose runtimes come and go.

  --loops N       so many busy loops (default: ${availableParallelism()}, the number of processors)
  --no-stranger   without the other program
  --all           the files that run only with --all as well
  --help          this text

ISTHMUS_TEST_SEED: the seed of the first run; each further run adds one. Other variables: docs/testing.md.

Example:
  $ npm run test:repeat -- 20
  $ npm run test:repeat -- 50 integration/shm --all --loops 4
  $ ISTHMUS_TEST_SEED=1660702015 npm run test:repeat -- 1 unit/ring`;

// ── Arguments ────────────────────────────────────────────────────────────────────────────────────────────────────────

const usage = (problem) => {
  console.error(`${problem}\n\n${HELP}`);
  process.exit(2);
};
let parsed;
try {
  parsed = parseArgs({
    allowPositionals: true,
    options: {
      loops: { type: 'string', default: String(availableParallelism()) },
      'no-stranger': { type: 'boolean', default: false },
      all: { type: 'boolean', default: false },
      help: { type: 'boolean', short: 'h', default: false },
    },
  });
} catch (error) {
  usage(error.message);
}
const { values: options, positionals } = parsed;
if (options.help) {
  console.log(HELP);
  process.exit(0);
}
const [timesText = '', ...filters] = positionals;
const whole = (text, least, what) => {
  const number = /^\d+$/.test(text) ? Number(text) : -1;
  return number >= least ? number : usage(`${what} must be a whole number, at least ${least}, and is '${text}'`);
};
const times = whole(timesText, 1, 'TIMES');
const loops = whole(options.loops, 0, '--loops');
const first = process.env.ISTHMUS_TEST_SEED
  ? whole(process.env.ISTHMUS_TEST_SEED, 0, 'ISTHMUS_TEST_SEED')
  : randomInt(2 ** 31);

// Only the last line gives 0.
process.exitCode = 1;

// ── The load ─────────────────────────────────────────────────────────────────────────────────────────────────────────

const load = [];
/** A program that runs until the end of this one. */
function beside(...args) {
  const child = spawn(process.execPath, args, { stdio: ['pipe', 'ignore', 'inherit'] });
  child.stdin.on('error', () => {});
  load.push(child);
  // Without the load the runs would show nothing.
  child.on('exit', (code, signal) => {
    if (!over) stop(`the load ended (${signal ?? code}): ${args.at(-1)}`);
  });
}
let over = false;
let stopped;
let running;
/** End the run that is going on, and begin no further one. */
function stop(why) {
  stopped ??= why;
  running?.kill('SIGTERM');
}
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => stop(`ended by ${signal}`));
const work = mkdtempSync(join(tmpdir(), 'isthmus-repeat-'));
process.on('exit', () => {
  over = true;
  for (const child of load) child.kill('SIGKILL');
  rmSync(work, { recursive: true, force: true });
});

/** Ends with this process, whatever ends it. */
const LOOP = 'const { ppid } = process; while (process.ppid === ppid) for (let i = 0; i < 1e8; i++) {}';
for (let i = 0; i < loops; i++) beside('-e', LOOP);
if (!options['no-stranger']) beside(join(root, 'scripts/testing/stranger.mjs'));

// ── The runs ─────────────────────────────────────────────────────────────────────────────────────────────────────────

/** Name of a test → seeds of the runs in which it failed, and what it said first. */
const failures = new Map();
/** Faults that the runner names: text → number. */
const faults = new Map();
const add = (name, seed, error) => {
  const known = failures.get(name);
  if (known) known.seeds.push(seed);
  else failures.set(name, { seeds: [seed], error });
};

/** @returns what the runner has written, and how it ended */
async function run(seed) {
  const path = join(work, 'results.json');
  rmSync(path, { force: true });
  const args = [
    join(root, 'scripts/test.mjs'),
    '--brief',
    '--results',
    path,
    ...(options.all ? ['--all'] : []),
    ...filters,
  ];
  const child = spawn(process.execPath, args, {
    stdio: ['ignore', 'pipe', 'pipe'],
    // A group of its own: Ctrl-C reaches this process, which ends it.
    detached: true,
    env: { ...process.env, ISTHMUS_TEST_SEED: String(seed) },
  });
  running = child;
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text) => {
      output += text;
    });
  }
  const code = await new Promise((resolve) => {
    child.on('close', (value, signal) => resolve(signal ?? value)).on('error', (error) => resolve(error.message));
  });
  running = undefined;
  return { code, output, results: existsSync(path) ? JSON.parse(readFileSync(path, 'utf8')) : undefined };
}

const said = options['no-stranger'] ? 'no other program' : 'a program whose runtimes come and go';
console.log(`${times} runs beside ${loops} busy loops and ${said}\n`);
let done = 0;
for (let i = 0; i < times && !stopped; i++) {
  const seed = (first + i) % 2 ** 32;
  const start = performance.now();
  const { code, output, results } = await run(seed);
  if (stopped) break;
  done++;
  const seconds = ((performance.now() - start) / 1000).toFixed(0);
  const { passed = 0, failed = 1 } = results ?? {};
  const bad = failed > 0 || code !== 0;
  console.log(
    `${bad ? '✘' : '✔'} run ${i + 1} of ${times}: ${passed} passed, ${failed} failed, ${seconds} s, ISTHMUS_TEST_SEED=${seed}`,
  );
  if (bad) console.log(`${output.trimEnd().replace(/^/gm, '  │ ')}\n`);
  for (const { path, trouble, failures: some } of results?.failures ?? []) {
    for (const { name, error } of some) add(`${path}: ${name}`, seed, error);
    if (trouble || some.length === 0) add(path, seed, trouble ?? 'failed');
  }
  if (!results || (failed === 0) !== (code === 0)) add('(the run itself)', seed, `it ended with ${code}`);
  for (const fault of results?.faults ?? []) faults.set(fault, (faults.get(fault) ?? 0) + 1);
}
over = true;
// The stranger closes its runtimes, which leaves nothing in /dev/shm.
for (const child of load.splice(0, loops)) child.kill('SIGKILL');
for (const child of load) {
  child.stdin.end();
  const patience = setTimeout(() => child.kill('SIGKILL'), 10_000);
  if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
  clearTimeout(patience);
}

// ── What came of them ────────────────────────────────────────────────────────────────────────────────────────────────

if (stopped) console.log(`\n${stopped}`);
if (failures.size > 0) {
  const rows = [...failures].sort(([, a], [, b]) => b.seeds.length - a.seeds.length);
  console.log(
    `\n${table(
      [
        ['failed', 'test', 'ISTHMUS_TEST_SEED', 'first error'],
        ...rows.map(([name, { seeds, error }]) => [
          `${seeds.length} of ${done}`,
          printable(name),
          `${seeds.slice(0, 5).join(' ')}${seeds.length > 5 ? ' …' : ''}`,
          printable(error.split('\n')[0].slice(0, 200)),
        ]),
      ],
      {
        columns: {
          1: { width: 60, wrapWord: true },
          2: { width: 11, wrapWord: true },
          3: { width: 40, wrapWord: true },
        },
      },
    )}`,
  );
}
function printable(text) {
  // The table counts columns, and refuses control characters.
  return text.replace(/\p{Cc}/gu, '?');
}
for (const [fault, count] of faults) console.log(`fault to be understood, ${count} of ${done} runs: ${fault}`);
const sum = [...failures.values()].reduce((all, { seeds }) => all + seeds.length, 0);
console.log(`\n${done} of ${times} runs, ${sum} ${sum === 1 ? 'failure' : 'failures'} of ${failures.size} tests`);
process.exit(sum === 0 && done === times ? 0 : 1);
