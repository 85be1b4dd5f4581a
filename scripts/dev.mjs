/**
 * `npm run dev`: watches the sources, rebuilds what a change concerns, and reruns the tests that it touches.
 *
 *   npm run dev [-- FILTER…] [--unit] [--help]
 *
 * A round: scripts/setup.mjs rebuilds the core, the addon and dist/ where their inputs changed; then esbuild's metafile says
 * which test files use a changed file or a rebuilt one (scripts/touched.mjs). The touched files of test/unit and test/wire
 * run first, then the others of `npm test`, if those passed. A file that needs --all runs only where it is changed itself.
 * A file that failed runs in each round until it passes. A change during a round ends that round and begins the next.
 *
 * Each round ends with a line that says how many files ran, what passed and what failed. SIGINT ends all of it; the exit
 * code is then 0.
 */
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, statSync, watch } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import * as esbuild from 'esbuild';
import { common, root, stop, wasmTarget } from './build.mjs';
import { suiteOf } from './suites.mjs';
import { Graph } from './touched.mjs';

const HELP = `Usage: npm run dev [-- FILTER…] [options]

Watch assembly/, host/, native/, scripts/ and test/; after each change rebuild what it concerns and rerun the tests that it
touches: units and wire first, then the others of \`npm test\`. Ctrl-C ends it.

FILTER: run only files whose path contains it.

  --unit    only test/unit and test/wire
  --help    this text

Example:
  $ npm run dev
  $ npm run dev -- --unit
  $ npm run dev -- unit/ring integration/loan`;

const { values: options, positionals: filters } = parseArgs({
  allowPositionals: true,
  options: { unit: { type: 'boolean', default: false }, help: { type: 'boolean', short: 'h', default: false } },
});
if (options.help) {
  console.log(HELP);
  process.exit(0);
}

const WATCHED = ['assembly', 'host', 'native', 'scripts', 'test'];
/** Files that scripts/setup.mjs writes; a change of one touches tests as a change of a source does. */
const BUILT = [`build/wasm/core.${wasmTarget}.wasm`, 'build/Release/isthmus.node', 'dist'];
/** Sources that scripts/setup.mjs writes after a change of assembly/: they begin no round of their own. */
const GENERATED = ['host/core/exports.ts', 'host/core/layout.ts'];
/** An editor writes a file in several steps, and often several files at once. */
const SETTLE_MS = 150;

// ── Files ────────────────────────────────────────────────────────────────────────────────────────────────────────────

/** Path → time, size and hash of the file when it was last read. */
const known = new Map();

function* filesBelow(path) {
  const stat = statSync(join(root, path), { throwIfNoEntry: false });
  if (stat?.isFile()) yield [path, `${stat.mtimeMs} ${stat.size}`];
  else if (stat?.isDirectory()) for (const name of readdirSync(join(root, path))) yield* filesBelow(`${path}/${name}`);
}

/** The files below these paths whose content differs from the last call, and the files that were removed since. */
function changedBelow(paths) {
  const changed = [];
  const there = new Set();
  for (const [path, stamp] of paths.flatMap((each) => [...filesBelow(each)])) {
    there.add(path);
    const before = known.get(path);
    if (before?.stamp === stamp) continue;
    let hash;
    try {
      hash = createHash('sha256')
        .update(readFileSync(join(root, path)))
        .digest('hex');
    } catch {
      continue; // The file was removed meanwhile.
    }
    known.set(path, { stamp, hash });
    if (before?.hash !== hash) changed.push(path);
  }
  for (const path of known.keys()) {
    if (there.has(path) || !paths.some((each) => path === each || path.startsWith(`${each}/`))) continue;
    known.delete(path);
    changed.push(path);
  }
  return changed;
}

/** One watcher for each folder: a recursive one of Node 20 misses files in new folders. */
const watchers = new Map();
function watchFolders(notify) {
  const there = new Set();
  const visit = (folder) => {
    there.add(folder);
    for (const entry of readdirSync(join(root, folder), { withFileTypes: true })) {
      if (entry.isDirectory()) visit(`${folder}/${entry.name}`);
    }
    if (!watchers.has(folder))
      watchers.set(
        folder,
        watch(join(root, folder), notify).on('error', () => {}),
      );
  };
  for (const folder of WATCHED) if (existsSync(join(root, folder))) visit(folder);
  for (const [folder, watcher] of watchers) {
    if (there.has(folder)) continue;
    watcher.close();
    watchers.delete(folder);
  }
}

// ── Programs ─────────────────────────────────────────────────────────────────────────────────────────────────────────

/** The program of this round that runs, and its name. */
let running;
let runningName = '';

/** Run a script and print its output. @returns its exit code and its output */
async function script(name, args) {
  const child = spawn(process.execPath, [join(root, 'scripts', name), ...args], {
    cwd: root,
    // SIGINT of the terminal does not reach a group of its own: endRunning ends it.
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  running = child;
  runningName = name;
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text) => {
      output += text;
      process.stdout.write(text);
    });
  }
  const code = await new Promise((resolve) =>
    child.on('close', (value) => resolve(value ?? 1)).on('error', () => resolve(1)),
  );
  running = undefined;
  return { code, output };
}

/** End the script: on SIGTERM scripts/test.mjs ends its processes, and scripts/setup.mjs releases its lock. */
function endRunning() {
  try {
    if (running?.pid) process.kill(-running.pid, 'SIGTERM');
  } catch {
    // The script has just ended.
  }
}

// ── Which tests ──────────────────────────────────────────────────────────────────────────────────────────────────────

let context;
let entries = '';
let graph;

/** The graph of the sources as they are now. @throws Error if a source cannot be bundled */
async function readGraph() {
  const files = [...filesBelow('test')].map(([path]) => path);
  const found = files.filter((path) => path.endsWith('.test.ts') || /^test\/children\/[^/]+\.ts$/.test(path)).sort();
  if (found.join() !== entries) {
    await context?.dispose();
    entries = found.join();
    context = await esbuild.context({
      ...common,
      entryPoints: found,
      outdir: join(root, '.test-build-dev'),
      packages: 'external',
      write: false,
      metafile: true,
    });
  }
  try {
    const { metafile } = await context.rebuild();
    return new Graph(metafile, (path) => readFileSync(join(root, path), 'utf8'));
  } catch (error) {
    const texts = await esbuild.formatMessages(error.errors ?? [], { kind: 'error', color: process.stdout.isTTY });
    throw new Error(texts.join('') || error.message);
  }
}

/** The manifest as it is now; `import` of its path would load it only once. */
async function suites() {
  const text = readFileSync(join(root, 'test/suites.mjs'), 'utf8');
  return (await import(`data:text/javascript,${encodeURIComponent(text)}`)).suites;
}

const wanted = (path) => filters.length === 0 || filters.some((filter) => path.includes(filter));
const quick = (path) => /^test\/(unit|wire)\//.test(path);

// ── Rounds ───────────────────────────────────────────────────────────────────────────────────────────────────────────

/** Changed paths that no completed round has covered. */
const pending = new Set();
/** Test files that failed in their last run. */
const failing = new Set();
let over = false;
let changedMeanwhile = false;

const time = () => new Date().toTimeString().slice(0, 8);
const say = (text) => console.log(`── ${time()}  ${text}`);
const plural = (count, what) => `${count} ${what}${count === 1 ? '' : 's'}`;

/** Run test files. @returns the numbers of passed and failed tests; undefined if the run was interrupted */
async function runTests(paths) {
  if (over || changedMeanwhile) return undefined;
  const { output } = await script('test.mjs', ['--brief', '--all', ...paths]);
  if (over || changedMeanwhile) return undefined;
  const [, passed, failed] = /^(\d+) passed, (\d+) failed/m.exec(output.slice(output.lastIndexOf('\n\n'))) ?? [0, 0, 1];
  const bad = [...output.matchAll(/^✘ (\S+)/gm)].map(([, path]) => `test/${path}`);
  for (const path of paths) failing.delete(path);
  for (const path of bad.length > 0 || Number(failed) === 0 ? bad : paths) failing.add(path);
  return { passed: Number(passed), failed: Number(failed) };
}

/** Rebuild, and test the pending changes. @throws Error if a file cannot be read */
async function round() {
  const changed = [...pending];
  const start = performance.now();
  say(changed.length > 4 ? `${changed.slice(0, 4).join(', ')} and ${changed.length - 4} more` : changed.join(', '));
  if ((await script('setup.mjs', [])).code !== 0) {
    if (!over && !changedMeanwhile) say('the build failed; no test ran');
    return;
  }
  // Rebuilt files are pending as well, until a round has tested them.
  for (const path of changedBelow(BUILT)) pending.add(path);
  const before = graph;
  try {
    graph = await readGraph();
  } catch (error) {
    if (over) return;
    process.stdout.write(`${error.message}\n`);
    say('the tests cannot be bundled; no test ran');
    return;
  }
  if (over || changedMeanwhile) return;
  const touched = new Set([...graph.touchedBy(pending), ...(before?.touchedBy(pending) ?? []), ...failing]);
  const manifest = await suites();
  const files = [...touched].filter(
    (path) =>
      existsSync(join(root, path)) &&
      wanted(path) &&
      (pending.has(path) || failing.has(path) || !suiteOf(path.slice('test/'.length), manifest).onlyWithAll),
  );
  const stages = [files.filter(quick), options.unit ? [] : files.filter((path) => !quick(path))];
  const sum = { files: 0, passed: 0, failed: 0 };
  for (const stage of stages.filter((paths) => paths.length > 0)) {
    if (sum.failed > 0) break;
    const result = await runTests(stage);
    if (!result) return;
    sum.files += stage.length;
    sum.passed += result.passed;
    sum.failed += result.failed;
  }
  pending.clear();
  for (const path of failing) if (!existsSync(join(root, path))) failing.delete(path);
  const left = stages.flat().length - sum.files;
  say(
    sum.files === 0
      ? 'no test uses a changed file'
      : `${plural(sum.files, 'test file')}: ${sum.passed} passed, ${sum.failed} failed, ` +
          `${((performance.now() - start) / 1000).toFixed(1)} s${left > 0 ? `; ${left} more wait until these pass` : ''}`,
  );
}

let wake = () => {};
let settle;
function noticed() {
  clearTimeout(settle);
  settle = setTimeout(() => {
    const changed = changedBelow(WATCHED);
    if (changed.length === 0 || over) return;
    for (const path of changed) pending.add(path);
    if (running && runningName === 'setup.mjs' && changed.every((path) => GENERATED.includes(path))) return;
    changedMeanwhile = true;
    try {
      watchFolders(noticed);
    } catch {
      noticed(); // A folder was removed meanwhile.
    }
    endRunning();
    wake();
  }, SETTLE_MS);
}

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
  process.on(signal, () => {
    over = true;
    clearTimeout(settle);
    endRunning();
    wake();
  });
}

if ((await script('setup.mjs', [])).code !== 0 && !over) say('the build failed');
changedBelow([...WATCHED, ...BUILT]);
watchFolders(noticed);
try {
  graph = await readGraph();
} catch (error) {
  process.stdout.write(`${error.message}\n`);
}
if (!over) say(`watching ${WATCHED.join(', ')}; Ctrl-C ends it`);
while (!over) {
  if (!changedMeanwhile) {
    await new Promise((resolve) => {
      wake = resolve;
    });
  }
  if (over) break;
  changedMeanwhile = false;
  try {
    await round();
  } catch (error) {
    // A file was removed before it was read, or the manifest cannot be loaded: the next change may correct it.
    process.stdout.write(`${error.message}\n`);
    say('no test ran');
  }
}
for (const watcher of watchers.values()) watcher.close();
await context?.dispose();
await stop();
