/**
 * `npm run coverage`: which lines and functions of host/ the tests run, with a table by folder and file.
 *
 *   npm run coverage [-- FILTER…] [--lines] [options of scripts/test.mjs]
 *
 * V8 counts in every process that the tests start, worker threads included (NODE_V8_COVERAGE); a process that is killed
 * writes no counts. scripts/mapped-coverage.mjs maps the counts of the tests' bundles and of dist/ to host/*.ts by their source
 * maps. Without FILTER it is the coverage of `npm test`. The branches of the core are counted by
 * test/hostile/branches.test.ts.
 *
 * The exit code is that of the tests.
 */
import { spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { table } from 'table';
import { root } from './build.mjs';
import { Bundle, SourceCoverage } from './mapped-coverage.mjs';

const HELP = `Usage: npm run coverage [-- FILTER…] [options]

Run tests, and print which share of the lines and functions of host/ they ran, by folder and file.

FILTER: only test files whose path contains it; without one, those of \`npm test\`.

  --lines   name the lines that did not run, and those that ran in part (an untaken branch)
  --help    this text
  --all, --rest, --again, --node PATH: as of node scripts/test.mjs

Example:
  $ npm run coverage
  $ npm run coverage -- unit/ --lines`;

const args = process.argv.slice(2);
if (args.includes('--help') || args.includes('-h')) {
  console.log(HELP);
  process.exit(0);
}
const showLines = args.includes('--lines');

// ── The run ──────────────────────────────────────────────────────────────────────────────────────────────────────────

const counts = mkdtempSync(join(tmpdir(), 'isthmus-coverage-'));
const tests = spawn(
  process.execPath,
  [join(root, 'scripts/test.mjs'), '--keep', ...args.filter((arg) => arg !== '--lines')],
  {
    stdio: 'inherit',
    // V8 runs slower while it counts.
    env: { ISTHMUS_TEST_SLOWNESS: '3', ...process.env, NODE_V8_COVERAGE: counts },
  },
);
/** Of scripts/test.mjs. */
const bundles = join(root, `.test-build-${tests.pid}`);
process.on('exit', () => {
  for (const folder of [counts, bundles]) rmSync(folder, { recursive: true, force: true });
});
// The runner ends the tests; the table then shows what has run.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => tests.kill(signal));
process.exitCode = await new Promise((resolve) => tests.on('exit', (code) => resolve(code ?? 1)));

// ── Counts to sources ────────────────────────────────────────────────────────────────────────────────────────────────

/** Path of a script → its bundle; undefined: the script has no map. */
const scripts = new Map();
function bundleAt(path) {
  if (!scripts.has(path)) {
    let bundle;
    try {
      bundle = new Bundle(readFileSync(path, 'utf8'), JSON.parse(readFileSync(`${path}.map`, 'utf8')));
    } catch (error) {
      if (error.code !== 'ENOENT') throw error;
    }
    scripts.set(path, bundle);
  }
  return scripts.get(path);
}

const dist = join(root, 'dist');
// dist/ contains all of host/, also the files that no test loads.
for (const name of readdirSync(dist)) if (name.endsWith('.js')) bundleAt(join(dist, name));

let broken = 0;
/** Each bundle of which some process has written counts, with its functions. */
function* counted(folder) {
  for (const name of readdirSync(folder)) {
    let result;
    try {
      ({ result } = JSON.parse(readFileSync(join(folder, name), 'utf8')));
    } catch {
      broken++; // The process was killed while it wrote.
      continue;
    }
    for (const { url, functions } of result) {
      const path = url.startsWith('file:') ? fileURLToPath(url) : '';
      const bundle = dirname(path) === dist || dirname(path) === bundles ? bundleAt(path) : undefined;
      if (bundle) yield { bundle, functions };
    }
  }
}
for (const { bundle, functions } of counted(counts)) bundle.add(functions);

// V8 lists the functions of a script only where the script was loaded. One process loads dist/ for this list; its counts
// are ignored.
const names = join(counts, 'names');
const loaded = spawnSync(process.execPath, [join(dist, 'cli.js'), '--version'], {
  env: { ...process.env, NODE_V8_COVERAGE: names },
});
if (loaded.status !== 0) throw new Error(`dist/cli.js --version: ${loaded.stderr}`);
for (const { bundle, functions } of counted(names)) bundle.declare(functions);

/** Path below the root → coverage. */
const sources = new Map();
for (const [path, bundle] of scripts) {
  bundle?.addTo((source) => {
    const name = relative(root, resolve(dirname(path), source));
    if (!name.startsWith('host/')) return undefined;
    if (!sources.has(name)) sources.set(name, new SourceCoverage());
    return sources.get(name);
  });
}

// ── The table ────────────────────────────────────────────────────────────────────────────────────────────────────────

const files = [...sources]
  .map(([path, coverage]) => ({ path, ...coverage.summary(readFileSync(join(root, path), 'utf8')) }))
  .filter(({ lines }) => lines > 0)
  .sort((a, b) => (a.path < b.path ? -1 : 1));

const share = (missed, all) => (all === 0 ? '–' : `${(Math.floor(((all - missed) / all) * 1000) / 10).toFixed(1)} %`);

/** `3, 7-9` */
function ranges(lines) {
  const found = [];
  for (const line of lines) {
    const last = found.at(-1);
    if (last && last[1] === line - 1) last[1] = line;
    else found.push([line, line]);
  }
  return found.map(([from, to]) => (from === to ? `${from}` : `${from}-${to}`)).join(', ');
}

/** A row of the table, of one file or of several. */
function row(title, some) {
  const sum = (of) => some.reduce((all, one) => all + of(one), 0);
  const lines = sum((one) => one.lines);
  const functions = sum((one) => one.functions);
  const uncalled = sum((one) => one.uncalled);
  return [
    title,
    String(lines),
    share(
      sum((one) => one.missed.length),
      lines,
    ),
    String(sum((one) => one.partly.length)),
    share(uncalled, functions),
  ];
}

const folders = new Map();
for (const one of files) folders.set(dirname(one.path), [...(folders.get(dirname(one.path)) ?? []), one]);
const rows = [['', 'lines', 'run', 'in part', 'functions called']];
for (const [folder, some] of [...folders].sort(([a], [b]) => (a < b ? -1 : 1))) {
  rows.push(row(`${folder}/`, some));
  for (const one of some) rows.push(row(`  ${one.path.slice(folder.length + 1)}`, [one]));
}
rows.push(row('all', files));
process.stdout.write(
  `\n${table(rows, {
    columns: {
      1: { alignment: 'right' },
      2: { alignment: 'right' },
      3: { alignment: 'right' },
      4: { alignment: 'right' },
    },
    drawHorizontalLine: (index, count) => index === 0 || index === 1 || index === count - 1 || index === count,
  })}`,
);
if (showLines) {
  for (const { path, missed, partly } of files) {
    if (missed.length > 0) console.log(`${path}: not run: ${ranges(missed)}`);
    if (partly.length > 0) console.log(`${path}: in part: ${ranges(partly)}`);
  }
}
if (broken > 0) console.log(`(${broken} processes were killed while they wrote their counts)`);
