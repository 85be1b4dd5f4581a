/**
 * Runs the uvu suites: bundles every test file, runs each in a Node process of its own, and adds up the results.
 *
 *   node scripts/test.mjs [FILTER…] [--all | --rest] [--again] [--node PATH] [--keep] [--list] [--brief]
 *
 * FILTER is a part of a file's path (`unit/ring`). test/suites.mjs declares what steers the runner for each file: whether
 * it runs alone, how long it may take, whether it runs only with `--all`. A mistake there ends the run with exit code 1
 * before any test. `--rest` runs the files that need `--all`, without the others. `--again` runs what failed a second
 * time, alone, at the end: what passes then counts as passed and is named. `--node` runs the files with another binary.
 * `--keep` keeps the bundles. `--list` prints the files that would run, with their settings. `--brief` prints only the files
 * that failed, and the sum.
 *
 * Two files run at a time (ISTHMUS_TEST_JOBS); the `alone` ones follow, one by one. Environment: ISTHMUS_TEST_TIMEOUT
 * (seconds per file, 120; the limit that a file declares applies if it is longer), ISTHMUS_TEST_BUDGET (seconds for all
 * files: short ones run first; a file for which no time is left is skipped and named), ISTHMUS_WASM=debug (the core with
 * its assertions), ISTHMUS_TEST_TIMES=1 (print how long each test of a long file took).
 *
 * The bundles lie in .test-build-PID/, directly below the root, because the native addon finds the root of the package
 * one folder above the running file. The files of test/children/ are programs that a test starts as a process or a worker:
 * test/children/shm.ts becomes children-shm.mjs beside the bundles of the tests (`program('shm')` of
 * test/support/process.ts). A test finds the checkout in ISTHMUS_ROOT (also its working directory), the command line in
 * ISTHMUS_CLI, the bundles in ISTHMUS_TEST_BUILD.
 */
import { spawn } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { delimiter, dirname, join, relative, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import { bundle, common, root, stop } from './build.mjs';
import { checkSuites, suiteOf } from './suites.mjs';

const { values: options, positionals: filters } = parseArgs({
  allowPositionals: true,
  options: {
    all: { type: 'boolean', default: false },
    rest: { type: 'boolean', default: false },
    again: { type: 'boolean', default: false },
    keep: { type: 'boolean', default: false },
    list: { type: 'boolean', default: false },
    brief: { type: 'boolean', default: false },
    node: { type: 'string', default: process.execPath },
  },
});
const defaultLimit = Number(process.env.ISTHMUS_TEST_TIMEOUT ?? 120);
/** Factor on every limit, also on those of the single tests (test/support/timebox.ts). */
const slowness = Number(process.env.ISTHMUS_TEST_SLOWNESS ?? 1);
/** Seconds between the last test of a file and the end of its process. */
const GRACE = 10;
const jobs = Number(process.env.ISTHMUS_TEST_JOBS ?? 2);
/** One folder per run: several runs may share a checkout. */
const out = join(root, `.test-build-${process.pid}`);

/** Seconds for all files. */
const budget = Number(process.env.ISTHMUS_TEST_BUDGET ?? Infinity);
const started = performance.now();
const timeLeft = () => budget - (performance.now() - started) / 1000;

// ── Files ────────────────────────────────────────────────────────────────────────────────────────────────────────────

const sources = readdirSync(join(root, 'test'), { recursive: true })
  .map((path) => path.replaceAll('\\', '/'))
  .sort();
const folder = (path) => path.split('/')[0];
const flat = (path) => path.replace(/\.ts$/, '').replaceAll('/', '-');

const read = (path) => readFileSync(join(root, 'test', path), 'utf8');

const suites = await declared();
const isLong = (path) => suiteOf(path, suites).onlyWithAll ?? false;
const isAlone = (path) => suiteOf(path, suites).alone ?? false;

/** The manifest; a mistake in it ends the run. */
async function declared() {
  let manifest;
  let problems;
  try {
    ({ suites: manifest } = await import(pathToFileURL(join(root, 'test/suites.mjs')).href));
    problems = checkSuites(manifest, sources, read);
  } catch (error) {
    problems = [`test/suites.mjs cannot be loaded: ${error.message}`];
  }
  if (problems.length === 0) return manifest;
  for (const problem of problems) console.error(problem);
  console.error(`\nno test ran: correct the ${problems.length === 1 ? 'line' : 'lines'} above`);
  process.exit(1);
}

/** Seconds that a file may take. */
function limitOf(path) {
  return Math.max(defaultLimit, suiteOf(path, suites).limitSeconds ?? 0) * slowness;
}

const tests = sources.filter(
  (path) =>
    path.endsWith('.test.ts') &&
    (options.rest ? isLong(path) : options.all || !isLong(path)) &&
    (filters.length === 0 || filters.some((filter) => `test/${path}`.includes(filter))),
);
const children = sources.filter((path) => path.startsWith('children/') && path.endsWith('.ts'));

async function bundleAll() {
  for (const name of readdirSync(root)) {
    const pid = /^\.test-build-(\d+)$/.exec(name)?.[1];
    if (pid && !existsSync(`/proc/${pid}`)) rmSync(join(root, name), { recursive: true, force: true });
  }
  await bundle({
    ...common,
    entryPoints: [...tests, ...children].map((path) => ({ in: join(root, 'test', path), out: flat(path) })),
    outdir: out,
    outExtension: { '.js': '.mjs' },
    packages: 'external',
    sourcemap: 'linked',
  });
}

// ── One file ─────────────────────────────────────────────────────────────────────────────────────────────────────────

const env = { ...process.env };
// The settings of the user's own shell must not change what the tests see.
for (const name of Object.keys(env)) if (/^PSP_/.test(name)) delete env[name];
delete env.FORCE_COLOR;
Object.assign(env, {
  NO_COLOR: '1',
  // A process that a test kills would leave its control socket among those of the user. Tests of the socket switch it on.
  PSP_CONTROL: '0',
  // Programs that the tests start as `node` run on the binary that runs the tests.
  PATH: [dirname(resolve(options.node)), env.PATH].filter(Boolean).join(delimiter),
  ISTHMUS_ROOT: root,
  ISTHMUS_CLI: join(root, 'dist/cli.js'),
  ISTHMUS_TEST_BUILD: out,
});

/** Process groups that run now. */
const groups = new Set();
function killGroup(pid) {
  try {
    process.kill(-pid, 'SIGKILL');
    return true;
  } catch {
    return false;
  }
}

for (const [signal, code] of [
  ['SIGINT', 130],
  ['SIGTERM', 143],
  ['SIGHUP', 129],
]) {
  process.on(signal, () => {
    for (const pid of groups) killGroup(pid);
    process.exit(code);
  });
}

/** The last `  Total: 3` of uvu's summary. */
const count = (output, word) => {
  const found = [...output.matchAll(new RegExp(`^ {2}${word}: +(\\d+)$`, 'gm'))].at(-1);
  return found && Number(found[1]);
};

/** @param only the names of the tests to run, in a second run; without it the file runs every test */
async function runFile(path, only) {
  const left = timeLeft();
  if (left <= 0) return { ...NOTHING, path, skipped: 1, trouble: 'not run: no time left' };
  const own = limitOf(path);
  const limit = Math.min(own, left);
  const start = performance.now();
  const child = spawn(options.node, ['--enable-source-maps', join(out, `${flat(path)}.mjs`)], {
    cwd: root,
    env: only ? { ...env, ISTHMUS_TEST_ONLY: `^(${only.map(escaped).join('|')})$` } : env,
    // A group of its own, so that processes that the test leaves behind can be ended.
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  let grace;
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text) => {
      output += text;
      // The last line of uvu's summary: a process that goes on after it has something left open.
      if (/^ {2}Duration: /m.test(text)) grace ??= setTimeout(giveUp, GRACE * 1000);
    });
  }
  if (child.pid) groups.add(child.pid);
  let timedOut = false;
  const giveUp = () => {
    timedOut = true;
    killGroup(child.pid);
  };
  const timer = setTimeout(giveUp, limit * 1000);
  let code = null;
  let signal = null;
  let trouble;
  let behind = false;
  await new Promise((resolve) => {
    child.on('error', (error) => {
      trouble = error.message;
      resolve();
    });
    child.on('exit', (...ended) => {
      [code, signal] = ended;
      // `close` waits for the pipes that other processes of the group have inherited.
      behind = killGroup(child.pid);
    });
    child.on('close', resolve);
  });
  clearTimeout(timer);
  clearTimeout(grace);
  groups.delete(child.pid);

  const seconds = (performance.now() - start) / 1000;
  if (timedOut && limit < own && !/ {2}FAIL {2}/.test(output)) {
    return { ...NOTHING, path, seconds, skipped: 1, trouble: `given up: the time for all tests is over` };
  }
  const total = count(output, 'Total');
  const passed = count(output, 'Passed') ?? 0;
  const skipped = count(output, 'Skipped') ?? 0;
  let failed = (total ?? 0) - passed;
  if (timedOut) {
    trouble =
      total === undefined ? `not done after ${limit} s` : `done, but something kept it from ending for ${GRACE} s`;
  } else if (signal) trouble = `ended by ${signal}`;
  else if (total === undefined) trouble ??= `printed no total (exit code ${code})`;
  else if (code !== 0 && failed === 0) trouble = `exit code ${code} although every test passed`;
  if (trouble) failed = Math.max(failed, 1);
  return {
    path,
    output,
    total: total ?? 0,
    passed,
    skipped,
    failed,
    trouble,
    behind,
    seconds,
    names: [...output.matchAll(/^ *FAIL {2}"(.*)"$/gm)].map(([, name]) => name),
  };
}

const NOTHING = { output: '', total: 0, passed: 0, skipped: 0, failed: 0, behind: false, seconds: 0, names: [] };
const escaped = (name) => name.replace(/[\\^$.*+?()[\]{}|]/g, '\\$&');

function report(result, width) {
  const { path, output, total, passed, skipped, failed, trouble, behind, seconds } = result;
  if (options.brief && !failed) return;
  const mark = failed ? '✘' : total ? '✔' : '–';
  const note = [skipped ? `${skipped} skipped` : '', trouble, behind ? 'left processes behind' : '']
    .filter(Boolean)
    .join(', ');
  console.log(
    `${mark} ${path.padEnd(width)} ${`${passed}/${total}`.padStart(9)} ${seconds.toFixed(1).padStart(6)} s  ${note}`.trimEnd(),
  );
  if (failed || process.env.ISTHMUS_TEST_TIMES) console.log(`${output.trimEnd().replace(/^/gm, '  │ ')}\n`);
}

// ── All of them ──────────────────────────────────────────────────────────────────────────────────────────────────────

if (options.list) {
  for (const path of tests)
    console.log(`${path}  ${JSON.stringify({ ...suiteOf(path, suites), limitSeconds: limitOf(path) })}`);
  process.exit(0);
}
if (!options.keep) process.on('exit', () => rmSync(out, { recursive: true, force: true }));
const sum = { passed: 0, failed: 0, skipped: 0 };
if (tests.length === 0) {
  console.log(filters.length ? `no test file matches ${filters.join(', ')}` : 'there are no test files');
} else {
  try {
    await bundleAll();
    await stop();
  } catch (error) {
    process.stderr.write(`${error.message}\n`);
    console.log('the tests could not be bundled\n\n0 passed, 1 failed');
    process.exit(1);
  }
  if (!existsSync(env.ISTHMUS_CLI)) console.log('(there is no dist/cli.js)');
  const width = Math.max(...tests.map((path) => path.length));
  const failures = [];
  const work = async (queue) => {
    for (let path = queue.shift(); path; path = queue.shift()) {
      const result = await runFile(path);
      report(result, width);
      for (const what of Object.keys(sum)) sum[what] += result[what];
      if (result.failed) failures.push(result);
    }
  };
  // With a budget the files with the shortest limits come first; without one the units, then the folders by name.
  const before = budget < Infinity ? limitOf : (path) => (folder(path) === 'unit' ? 0 : 1);
  const ordered = tests.toSorted((a, b) => before(a) - before(b));
  const together = ordered.filter((path) => !isAlone(path));
  await Promise.all(Array.from({ length: jobs }, () => work(together)));
  await work(ordered.filter(isAlone));

  if (options.again && failures.length > 0) {
    console.log('\n── The failed files, once more ──\n');
    for (const first of failures) {
      // Single tests where the file can select them by name and every failure has the name of a test.
      const named =
        first.names.length === first.failed &&
        !suiteOf(first.path, suites).rerunWhole &&
        /\bchosen\(/.test(read(first.path));
      const second = await runFile(first.path, named ? first.names : undefined);
      report(second, width);
      if (second.failed || second.passed < first.failed) continue;
      sum.failed -= first.failed;
      sum.passed += named ? second.passed : second.passed - first.passed;
      for (const what of first.names.length ? first.names : [first.trouble]) {
        console.log(`passed when run again: ${first.path}: ${what}`);
      }
    }
  }
}
const seconds = ((performance.now() - started) / 1000).toFixed(1);
const nothing = sum.passed + sum.failed === 0;
if (nothing) console.log('no test ran');
if (options.keep) console.log(`the bundles are in ${relative(root, out)}`);
console.log(`\n${tests.length} files, ${seconds} s\n`);
console.log(`${sum.passed} passed, ${sum.failed} failed${sum.skipped ? `, ${sum.skipped} skipped` : ''}`);
process.exitCode = sum.failed || nothing ? 1 : 0;
