/**
 * `npm run bench` installs the packages that only the benchmark needs, if they are missing, bundles bench/ into
 * .bench-build/ and runs it. The arguments go to bench/main.ts; `npm run bench -- --help` lists them.
 *
 * The bundle lies directly below the root, because the native addon finds the root of the package one folder above the
 * running file. The benchmark measures dist/index.js, which the ends load by its path.
 */
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { bundle, common, root, stop } from './build.mjs';

const bench = join(root, 'bench');
const out = join(root, '.bench-build');
const ring = join(out, 'ring.wasm');

/** Without scripts: the package of zeromq has its binary in it, and would otherwise be compiled where there is none. */
function install() {
  const lock = join(bench, 'package-lock.json');
  const stamp = join(bench, 'node_modules/.package-lock.json');
  if (existsSync(stamp) && statSync(stamp).mtimeMs >= statSync(lock).mtimeMs) return;
  console.error('bench: installing the packages that only the benchmark needs');
  const args = ['ci', '--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error'];
  const { status, error } = spawnSync('npm', args, { cwd: bench, stdio: ['ignore', 'inherit', 'inherit'] });
  if (status !== 0) {
    console.error(`bench: npm ci in ${bench} failed${error ? `: ${error.message}` : ''}; is the registry reachable?`);
    process.exit(1);
  }
}

/** The core with a loop around its ring (bench/assembly/ring.ts), where the sources have changed. */
function compileRing() {
  const inputs = [join(root, 'assembly'), join(bench, 'assembly')].flatMap((folder) =>
    readdirSync(folder).map((name) => join(folder, name)),
  );
  const made = existsSync(ring) ? statSync(ring).mtimeMs : 0;
  if (inputs.every((path) => statSync(path).mtimeMs < made)) return;
  console.error('bench: compiling the core for the micro-benchmarks');
  const { options, targets } = JSON.parse(readFileSync(join(root, 'asconfig.json'), 'utf8'));
  const { optimizeLevel, shrinkLevel } = targets.release;
  const args = [
    join(bench, 'assembly/ring.ts'),
    ...['--outFile', ring, '--runtime', options.runtime, '--importMemory'],
    ...options.enable.flatMap((feature) => ['--enable', feature]),
    ...['--optimizeLevel', String(optimizeLevel), '--shrinkLevel', String(shrinkLevel), '--converge', '--noAssert'],
  ];
  const asc = join(root, 'node_modules/assemblyscript/bin/asc.js');
  const { status } = spawnSync(process.execPath, [asc, ...args], { cwd: root, stdio: ['ignore', 'ignore', 'inherit'] });
  if (status !== 0) process.exit(1);
}

/** A comparison of two builds measures no peers and draws no plots. */
const comparison = process.argv.some((arg) => /^--(before|scarce)(=|$)/.test(arg));
if (!comparison) install();
compileRing();
await bundle({
  ...common,
  entryPoints: [
    { in: join(bench, 'main.ts'), out: 'main' },
    { in: join(bench, 'end.ts'), out: 'end' },
  ],
  outdir: out,
  outExtension: { '.js': '.mjs' },
  // The micro-benchmarks use the parts of the host directly, on the core with the loop.
  alias: { ...common.alias, '#core.wasm': ring },
  external: ['commander', 'cli-progress', 'table', 'mqtt', 'node-gyp-build', ...(comparison ? ['*/plots.js'] : [])],
});
await stop();

const child = spawn(process.execPath, ['--enable-source-maps', join(out, 'main.mjs'), ...process.argv.slice(2)], {
  stdio: 'inherit',
  env: { ...process.env, ISTHMUS_ROOT: root },
});
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => {});
child.on('exit', (code, signal) => {
  process.exitCode = signal ? 1 : (code ?? 1);
});
