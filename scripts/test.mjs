/**
 * Runs the uvu suites: bundles every test file, runs each in a Node process of its own, and adds up the results.
 *
 *   node scripts/test.mjs [FILTER…] [--all | --rest] [--again] [--node PATH] [--keep] [--list] [--brief] [--results PATH]
 *
 * FILTER is a part of a file's path (`unit/ring`). test/suites.mjs declares what steers the runner for each file: whether
 * it runs alone, how long it may take, whether it runs only with `--all`. A mistake there ends the run with exit code 1
 * before any test. `--rest` runs the files that need `--all`, without the others. `--again` runs what failed a second
 * time, alone, at the end: what passes then counts as passed and is named. `--node` runs the files with another binary.
 * `--keep` keeps the bundles. `--list` prints the files that would run, with their settings. `--brief` prints only the files
 * that failed, and the sum. `--results` writes a file of JSON: the seed, the counts, and the failures by name.
 *
 * All random numbers of the tests follow from one seed, ISTHMUS_TEST_SEED; without it the run draws one, and prints it at the
 * start and with each failure. Each file has folders of its own for temporary files and control sockets, and where a mount
 * namespace can be made a /dev/shm of its own (testing/surroundings.mjs; ISTHMUS_TEST_OWN_SHM=0: the one of the machine).
 *
 * What passes, but not as it should, is named at the end as a fault to be understood: a test that failed first (`--again`),
 * and a test or a wait that took longer than its limit without ISTHMUS_TEST_SLOWNESS.
 *
 * Each test is reported when it is registered and when it has passed (testing/counted.mjs). The exit code is 0 only where
 * tests passed and none failed (testing/outcome.mjs).
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
import { randomInt } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { delimiter, dirname, join, relative, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import { bundle, common, root, stop } from './build.mjs';
import { checkSuites, suiteOf } from './suites.mjs';
import { A_HOOK, Outcome, readReport } from './testing/outcome.mjs';
import { ownFolders, separation } from './testing/surroundings.mjs';

/** From here on the process ends with 1, unless `outcome.finish` finds that tests passed and none failed. */
const outcome = new Outcome(process);
// A reader that ends early (`| head`) does not end the run, and does not change what comes of it.
for (const stream of [process.stdout, process.stderr]) stream.on('error', () => {});

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
    results: { type: 'string' },
  },
});
const defaultLimit = Number(process.env.ISTHMUS_TEST_TIMEOUT ?? 120);
/** Factor on every limit, also on those of the single tests (test/support/timebox.ts). */
const slowness = Number(process.env.ISTHMUS_TEST_SLOWNESS ?? 1);
/** Seconds between the last test of a file and the end of its process. */
const GRACE = 10;
const jobs = Number(process.env.ISTHMUS_TEST_JOBS ?? 2);
const seed = Number(process.env.ISTHMUS_TEST_SEED || randomInt(2 ** 31));
if (!Number.isInteger(seed) || seed < 0 || seed >= 2 ** 32) {
  console.error(`ISTHMUS_TEST_SEED must be a whole number from 0 to ${2 ** 32 - 1}`);
  process.exit(1);
}
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
    plugins: [reporting],
  });
}

/** The tests import `uvu`, and get testing/counted.mjs, which reports what uvu runs. */
const reporting = {
  name: 'reporting',
  setup(build) {
    const counted = join(root, 'scripts/testing/counted.mjs');
    build.onResolve({ filter: /^uvu$/ }, ({ importer }) =>
      importer === counted ? { external: true } : { path: counted },
    );
  },
};

const place = separation();

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
  ISTHMUS_TEST_SEED: String(seed),
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
  const reportPath = join(out, `${flat(path)}.report${only ? '-again' : ''}`);
  rmSync(reportPath, { force: true });
  const folders = ownFolders();
  const [program, ...args] = [...place.command, options.node, '--enable-source-maps', join(out, `${flat(path)}.mjs`)];
  const child = spawn(program, args, {
    cwd: root,
    env: {
      ...env,
      ...folders.env,
      ISTHMUS_TEST_REPORT: reportPath,
      ...(only ? { ISTHMUS_TEST_ONLY: `^(${only.map(escaped).join('|')})$` } : {}),
    },
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

  folders.remove();

  const seconds = (performance.now() - start) / 1000;
  if (timedOut && limit < own && !/ {2}FAIL {2}/.test(output)) {
    return { ...NOTHING, path, seconds, skipped: 1, trouble: `given up: the time for all tests is over` };
  }
  const { total, passed, skipped, failures, late } = readReport(
    existsSync(reportPath) ? readFileSync(reportPath, 'utf8') : '',
  );
  // What uvu has printed is asked as well: it must not know of a failure that the report does not have.
  const said = count(output, 'Total');
  let failed = Math.max(failures.length, (said ?? 0) - (count(output, 'Passed') ?? 0));
  if (timedOut) {
    trouble =
      said === undefined ? `not done after ${limit} s` : `done, but something kept it from ending for ${GRACE} s`;
  } else if (signal) trouble = `ended by ${signal}`;
  else if (said === undefined) trouble ??= `ended before its last test was over (exit code ${code})`;
  else if (said > total) trouble = `uvu counts ${said} tests, the report of the file ${total}`;
  else if (code !== 0 && failed === 0) trouble = `exit code ${code} although every test passed`;
  if (trouble) failed = Math.max(failed, 1);
  if (!trouble && slowness > 1 && seconds > limitOf(path) / slowness) {
    late.push(`the file took ${seconds.toFixed(1)} s, its limit is ${limitOf(path) / slowness} s`);
  }
  return { path, output, total, passed, skipped, failed, trouble, behind, seconds, failures, late };
}

const NOTHING = {
  output: '',
  total: 0,
  passed: 0,
  skipped: 0,
  failed: 0,
  behind: false,
  seconds: 0,
  failures: [],
  late: [],
};
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
  const shown = failed || process.env.ISTHMUS_TEST_TIMES;
  // What a file does not test here is said, also where the rest has passed.
  if (skipped && !shown) for (const [line] of output.matchAll(/^skipped: .*$/gm)) console.log(`  │ ${line}`);
  if (shown) console.log(`${output.trimEnd().replace(/^/gm, '  │ ')}\n`);
  if (failed) console.log(`  repeat it with: ISTHMUS_TEST_SEED=${seed} node scripts/test.mjs --all ${path}\n`);
}

// ── All of them ──────────────────────────────────────────────────────────────────────────────────────────────────────

if (options.list) {
  for (const path of tests)
    console.log(`${path}  ${JSON.stringify({ ...suiteOf(path, suites), limitSeconds: limitOf(path) })}`);
  process.exit(outcome.nothingToRun());
}
if (!options.keep) process.on('exit', () => rmSync(out, { recursive: true, force: true }));

/** The last result of each file. */
const results = new Map();
/** Tests that passed, and not as they should. */
const faults = [];
/** @param result the last one of its file */
function note(result) {
  results.set(result.path, result);
  outcome.note(result.path, result);
}

if (tests.length === 0) {
  console.log(filters.length ? `no test file matches ${filters.join(', ')}` : 'there are no test files');
} else {
  try {
    await bundleAll();
    await stop();
  } catch (error) {
    process.stderr.write(`${error.message}\n`);
    console.log('the tests could not be bundled\n');
    outcome.note('the bundles', { passed: 0, failed: 1, skipped: 0 });
    outcome.finish(process);
    process.exit();
  }
  if (!existsSync(env.ISTHMUS_CLI)) console.log('(there is no dist/cli.js)');
  console.log(`ISTHMUS_TEST_SEED=${seed}; ${place.said}\n`);
  const width = Math.max(...tests.map((path) => path.length));
  const work = async (queue) => {
    for (let path = queue.shift(); path; path = queue.shift()) {
      const result = await runFile(path);
      note(result);
      report(result, width);
    }
  };
  // With a budget the files with the shortest limits come first; without one the units, then the folders by name.
  const before = budget < Infinity ? limitOf : (path) => (folder(path) === 'unit' ? 0 : 1);
  const ordered = tests.toSorted((a, b) => before(a) - before(b));
  const together = ordered.filter((path) => !isAlone(path));
  await Promise.all(Array.from({ length: jobs }, () => work(together)));
  await work(ordered.filter(isAlone));

  const failed = [...results.values()].filter((result) => result.failed);
  if (options.again && failed.length > 0) {
    console.log('\n── The failed files, once more ──\n');
    for (const first of failed) {
      // Single tests where the file can select them by name and every failure has the name of a test.
      const names = first.failures.map(({ name }) => name);
      const named =
        names.length === first.failed &&
        !first.trouble &&
        !names.includes(A_HOOK) &&
        !suiteOf(first.path, suites).rerunWhole &&
        /\bchosen\(/.test(read(first.path));
      const second = await runFile(first.path, named ? names : undefined);
      report(second, width);
      if (second.failed || second.passed < first.failed) continue;
      note(named ? { ...first, passed: first.passed + second.passed, failed: 0 } : second);
      for (const what of names.length ? names : [first.trouble]) {
        faults.push(`passed only when run again: ${first.path}: ${what}`);
      }
    }
  }
}
for (const { path, late } of slowness > 1 ? results.values() : []) {
  for (const what of late) faults.push(`passed only with ISTHMUS_TEST_SLOWNESS=${slowness}: ${path}: ${what}`);
}
if (faults.length > 0) console.log(`\n${faults.map((text) => `fault to be understood: ${text}`).join('\n')}`);

const seconds = ((performance.now() - started) / 1000).toFixed(1);
const { sum } = outcome;
if (sum.passed + sum.failed === 0) console.log('no test ran');
if (options.keep) console.log(`the bundles are in ${relative(root, out)}`);
if (options.results) {
  const failures = [...results.values()]
    .filter((result) => result.failed)
    .map(({ path, trouble, failures }) => ({ path, trouble, failures }));
  writeFileSync(options.results, JSON.stringify({ seed, ...sum, failures, faults }));
}
console.log(`\n${tests.length} files, ${seconds} s${sum.failed ? `, ISTHMUS_TEST_SEED=${seed}` : ''}\n`);
outcome.finish(process);
