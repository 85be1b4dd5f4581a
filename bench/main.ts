/** `npm run bench`: all transports in one run, in turns. */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { loadavg, tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import cliProgress from 'cli-progress';
import { Command } from 'commander';
import { COMPARE_PLANS, prepareComparison } from './compare.js';
import { document } from './document.js';
import type { RunOptions } from './ends.js';
import { root } from './folder.js';
import { judge } from './goals.js';
import { watchMachine } from './machine.js';
import { runMeasures } from './measures.js';
import { chooseCpus } from './pinning.js';
import { PLANS, type Plan, race } from './race.js';
import { type ComparedBuilds, print, printComparison, printScarce } from './report.js';
import type { Results, ScarceResults } from './results.js';
import { prepareScarce, SCARCE_PLANS } from './scarce/scarce.js';

interface Options {
  readonly quick?: boolean;
  readonly json?: boolean;
  readonly only?: string[];
  readonly sizes?: number[];
  readonly out?: string;
  readonly plots: boolean;
  readonly before?: string;
  readonly scarce?: boolean;
  readonly rounds?: number;
  readonly from?: string;
}

/** Progress, on standard error so that the output of `--json` is only JSON. */
function progress(total: number): { step(what: string): void; stop(): void } {
  if (!process.stderr.isTTY) {
    let done = 0;
    let told = 0;
    return {
      step(what) {
        const tenth = Math.floor((++done / total) * 10);
        if (tenth > told) process.stderr.write(`${String(tenth * 10).padStart(3)} %  ${what}\n`);
        told = Math.max(told, tenth);
      },
      stop() {},
    };
  }
  const bar = new cliProgress.SingleBar(
    {
      format: '{bar} {percentage} %  {duration_formatted}  {what}',
      hideCursor: true,
      stream: process.stderr,
      noTTYOutput: false,
    },
    cliProgress.Presets.shades_classic,
  );
  bar.start(total, 0, { what: '' });
  return { step: (what) => bar.increment(1, { what }), stop: () => bar.stop() };
}

function commit(cwd = root): string {
  try {
    return execFileSync('git', ['describe', '--always', '--dirty'], { cwd, encoding: 'utf8' }).trim();
  } catch {
    return 'unknown';
  }
}

function planOf(options: Options): Plan {
  const plan = options.quick ? PLANS.quick : PLANS.full;
  return { ...plan, sizes: options.sizes ?? plan.sizes, only: options.only };
}

function runOptions(folder: string, baseline?: string): RunOptions {
  return { library: join(root, 'dist/index.js'), baseline, cpus: chooseCpus(), tag: String(process.pid), folder };
}

/** `--before`: this build against that of another checkout. */
async function compareBuilds(checkout: string, options: Options): Promise<void> {
  const baseline = resolve(checkout, 'dist/index.js');
  if (!existsSync(baseline)) {
    process.stderr.write(`bench: there is no ${baseline}: run \`node scripts/setup.mjs\` in ${resolve(checkout)}\n`);
    process.exitCode = 1;
    return;
  }
  const folder = mkdtempSync(join(tmpdir(), 'isthmus-bench-'));
  const run = runOptions(folder, baseline);
  const watched = watchMachine(run.cpus);
  const started = performance.now();
  try {
    const plan = options.quick ? COMPARE_PLANS.quick : COMPARE_PLANS.full;
    const comparison = prepareComparison(
      { ...plan, sizes: options.sizes ?? plan.sizes, rounds: options.rounds ?? plan.rounds, only: options.only },
      run,
    );
    if (comparison.rows === 0) throw new Error(`no form of Isthmus is called ${options.only?.join(' or ')}`);
    const bar = progress(comparison.total);
    const rows = await comparison.run(bar.step).finally(() => bar.stop());
    const results: ComparedBuilds = {
      made: new Date().toISOString(),
      before: { checkout: resolve(checkout), commit: commit(checkout) },
      after: { checkout: root, commit: commit() },
      seconds: Math.round((performance.now() - started) / 1000),
      machine: watched(),
      loadAfter: Math.round((loadavg()[0] as number) * 100) / 100,
      rounds: comparison.rounds,
      rows,
    };
    if (options.json) process.stdout.write(`${JSON.stringify(results)}\n`);
    else printComparison(results);
    const out = options.out ?? join(root, 'build/bench');
    mkdirSync(out, { recursive: true });
    writeFileSync(join(out, 'compared.json'), `${JSON.stringify(results, undefined, 2)}\n`);
    process.stderr.write(`Written: ${join(out, 'compared.json')}\n`);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** `--scarce`: request and answer where processors are scarce. */
async function benchScarce(options: Options): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'isthmus-bench-'));
  const run = runOptions(folder);
  const watched = watchMachine(run.cpus);
  const started = performance.now();
  try {
    const plan = options.quick ? SCARCE_PLANS.quick : SCARCE_PLANS.full;
    const scarce = prepareScarce({ ...plan, rounds: options.rounds ?? plan.rounds, only: options.only }, run);
    if (scarce.settings === 0) throw new Error(`no setting is called ${options.only?.join(' or ')}`);
    const bar = progress(scarce.total);
    const found = await scarce.run(bar.step).finally(() => bar.stop());
    const results: ScarceResults = {
      made: new Date().toISOString(),
      commit: commit(),
      seconds: Math.round((performance.now() - started) / 1000),
      machine: watched(),
      ...found,
    };
    if (options.json) process.stdout.write(`${JSON.stringify(results)}\n`);
    else printScarce(results);
    const out = options.out ?? join(root, 'build/bench');
    mkdirSync(out, { recursive: true });
    writeFileSync(join(out, 'scarce.json'), `${JSON.stringify(results, undefined, 2)}\n`);
    process.stderr.write(`Written: ${join(out, 'scarce.json')}\n`);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

async function bench(options: Options): Promise<void> {
  if (options.scarce) return benchScarce(options);
  if (options.before !== undefined) return compareBuilds(options.before, options);
  if (options.from !== undefined) {
    const read = JSON.parse(readFileSync(options.from, 'utf8')) as Results;
    const results = { ...read, goals: judge(read.transports, read.measures) };
    print(results);
    await write(results, options);
    return;
  }
  const plan = planOf(options);
  const folder = mkdtempSync(join(tmpdir(), 'isthmus-bench-'));
  const run = runOptions(folder);
  const started = performance.now();
  const machine = watchMachine(run.cpus);
  try {
    const { total, transports } = await race.prepare(plan, run);
    const measures = runMeasures.prepare(plan, run);
    const bar = progress(total + measures.total);
    let results: Results;
    try {
      const raced = await transports(bar.step);
      const measured = await measures.run(bar.step);
      results = {
        made: new Date().toISOString(),
        commit: commit(),
        quick: options.quick ?? false,
        seconds: Math.round((performance.now() - started) / 1000),
        machine: machine(),
        transports: raced,
        measures: measured.measures,
        failed: measured.failed,
        goals: judge(raced, measured.measures),
      };
    } finally {
      bar.stop();
    }
    if (options.json) process.stdout.write(`${JSON.stringify(results)}\n`);
    else print(results);
    await write(results, options);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** A whole run replaces the files that the documentation shows; any other run writes to another folder. */
async function write(results: Results, options: Options): Promise<void> {
  const partial = results.quick || options.only || options.sizes;
  const out = options.out ?? (partial ? join(root, 'build/bench') : undefined);
  const json = join(out ?? join(root, 'bench'), 'results.json');
  const plots = out ?? join(root, 'docs/plots');
  mkdirSync(out ?? plots, { recursive: true });
  writeFileSync(json, `${JSON.stringify(results, undefined, 2)}\n`);
  const written = [json];
  if (options.plots) {
    mkdirSync(plots, { recursive: true });
    const { plot } = await import('./plots.js');
    for (const [name, svg] of Object.entries(await plot(results))) {
      const path = join(plots, `${name}.svg`);
      writeFileSync(path, svg);
      written.push(path);
    }
  }
  if (out === undefined) {
    const path = join(root, 'docs/performance.md');
    document(path, results);
    written.push(path);
  }
  process.stderr.write(`Written: ${written.join(', ')}\n`);
}

const list = (text: string) => text.split(',').filter((part) => part !== '');

await new Command('npm run bench --')
  .description(
    'Compare Isthmus with other transports, in one run, in turns: ping-pong and one-way streams over message size, and ' +
      'micro-benchmarks. Prints tables; a whole run also writes bench/results.json and docs/plots/*.svg.',
  )
  .option('--quick', 'one to two minutes: fewer sizes, shorter measurements, results in build/bench/')
  .option('--json', 'print the results as JSON instead of tables')
  .option(
    '--only <NAMES>',
    'only these transports and measures, separated by commas: names, or the beginning of a name and *',
    list,
  )
  .option('--sizes <BYTES>', 'only these sizes, separated by commas', (text) => list(text).map(Number))
  .option('--before <CHECKOUT>', 'compare this build with that of another checkout, in turns, and nothing else')
  .option(
    '--scarce',
    'request and answer on one processor, beside load and with a quota, beside a Unix socket, and nothing else',
  )
  .option('--rounds <COUNT>', 'of these two; of a comparison more where the number of rows needs it', Number)
  .option('--out <FOLDER>', 'write results.json and the plots there')
  .option('--from <FILE>', 'measure nothing; print and plot the results in this file')
  .option('--no-plots', 'draw no plots')
  .addHelpText(
    'after',
    `
Examples:
  $ npm run bench                                  # 6 to 8 minutes; replaces the results in docs/
  $ npm run bench -- --quick
  $ npm run bench -- --only into,ucx,mpich --sizes 8,65536
  $ npm run bench -- --scarce                      # five minutes: where processors are scarce
  $ npm run bench -- --scarce --only one,load12
  $ npm run bench -- --before ../other-checkout    # four minutes: slower, faster, or no change beyond noise
  $ npm run bench -- --before ../other-checkout --only into,await --sizes 8`,
  )
  .action(bench)
  .parseAsync();
