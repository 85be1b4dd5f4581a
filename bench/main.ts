/** `npm run bench`: all transports in one run, in turns. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import cliProgress from 'cli-progress';
import { Command } from 'commander';
import { document } from './document.js';
import type { RunOptions } from './ends.js';
import { root } from './folder.js';
import { judge } from './goals.js';
import { watchMachine } from './machine.js';
import { runMeasures } from './measures.js';
import { chooseCpus } from './pinning.js';
import { PLANS, type Plan, race } from './race.js';
import { print } from './report.js';
import type { Results } from './results.js';

interface Options {
  readonly quick?: boolean;
  readonly json?: boolean;
  readonly only?: string[];
  readonly sizes?: number[];
  readonly out?: string;
  readonly plots: boolean;
  readonly before?: string;
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

function commit(): string {
  try {
    return execFileSync('git', ['describe', '--always', '--dirty'], { cwd: root, encoding: 'utf8' }).trim();
  } catch {
    return 'unknown';
  }
}

function planOf(options: Options): Plan {
  const plan = options.quick ? PLANS.quick : PLANS.full;
  return { ...plan, sizes: options.sizes ?? plan.sizes, only: options.only };
}

async function bench(options: Options): Promise<void> {
  if (options.from !== undefined) {
    const read = JSON.parse(readFileSync(options.from, 'utf8')) as Results;
    const results = { ...read, goals: judge(read.transports, read.measures) };
    print(results);
    await write(results, options);
    return;
  }
  const plan = planOf(options);
  const folder = mkdtempSync(join(tmpdir(), 'isthmus-bench-'));
  const cpus = chooseCpus();
  const run: RunOptions = {
    library: join(root, 'dist/index.js'),
    baseline: options.before === undefined ? undefined : resolve(options.before, 'dist/index.js'),
    cpus,
    tag: String(process.pid),
    folder,
  };
  const started = performance.now();
  const machine = watchMachine(cpus);
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
  const partial = results.quick || options.only || options.sizes || options.before;
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
  .option('--before <CHECKOUT>', 'also measure the library of another checkout, in turns with this one')
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
  $ npm run bench -- --only into --before ../other-checkout`,
  )
  .action(bench)
  .parseAsync();
