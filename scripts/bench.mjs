/**
 * `npm run bench`: installs what only the benchmark needs if it is missing, bundles bench/ into .bench-build/ and runs it.
 * Arguments go to bench/main.ts; `npm run bench -- --help` tells them.
 *
 * The bundle lies directly below the root, because the native mapper finds the root of the package one folder above the
 * running file. What is measured is dist/index.js, which the ends load by its path.
 */
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { bundle, common, root, stop } from './build.mjs';

const bench = join(root, 'bench');
const out = join(root, '.bench-build');

/** Without scripts: the package of zeromq has its binary in it, and would otherwise be compiled where there is none. */
function install() {
  const lock = join(bench, 'package-lock.json');
  const stamp = join(bench, 'node_modules/.package-lock.json');
  if (existsSync(stamp) && statSync(stamp).mtimeMs >= statSync(lock).mtimeMs) return;
  console.error('bench: installing what only the benchmark needs');
  const args = ['ci', '--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error'];
  const { status, error } = spawnSync('npm', args, { cwd: bench, stdio: ['ignore', 'inherit', 'inherit'] });
  if (status !== 0) {
    console.error(`bench: npm ci in ${bench} failed${error ? `: ${error.message}` : ''}; is the registry reachable?`);
    process.exit(1);
  }
}

install();
const { dependencies } = JSON.parse(readFileSync(join(bench, 'package.json'), 'utf8'));
await bundle({
  ...common,
  entryPoints: [
    { in: join(bench, 'main.ts'), out: 'main' },
    { in: join(bench, 'end.ts'), out: 'end' },
  ],
  outdir: out,
  outExtension: { '.js': '.mjs' },
  // Found from .bench-build/ by their paths, so that they stay out of the checkout's own dependencies.
  alias: {
    ...common.alias,
    ...Object.fromEntries(Object.keys(dependencies).map((name) => [name, join(bench, 'node_modules', name)])),
  },
  external: ['commander', 'cli-progress', 'table', 'mqtt', 'node-gyp-build', join(bench, 'node_modules/*')],
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
