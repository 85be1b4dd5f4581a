/**
 * The host bundle: host/index.ts → dist/index.js, test/support/hosts.ts → dist/testing.js and host/cli/main.ts →
 * dist/cli.js, with the Wasm inside, and a source map beside each file.
 *
 * The entries share their code through chunks, which lie directly in dist/: the native addon finds the root of the package
 * one folder above the running file. `ISTHMUS_WASM=debug` takes the debug build of the core.
 *
 * The maps hold positions and names, not the text of the sources (`sourcesContent`), which a checkout has anyway: 0.9 MB in
 * place of 2.6. With `node --enable-source-maps` a stack trace names files and lines of host/. The package has the maps as
 * well, but for that of the broker that only `isthmus broker` loads: a trace in a report from outside then names a line
 * that a developer can look up. It costs 140 of 590 kB of the tarball.
 */
import { chmodSync, existsSync, mkdirSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import * as esbuild from 'esbuild';

export const root = join(dirname(fileURLToPath(import.meta.url)), '..');

/** The build of the core that the bundle contains. */
export const wasmTarget = process.env.ISTHMUS_WASM === 'debug' ? 'debug' : 'release';
export const wasmFile = join(root, `build/wasm/core.${wasmTarget}.wasm`);

/** The dependencies that npm installs with the package. The bundle contains every other dependency of the CLI. */
const EXTERNAL = ['mqtt', 'node-gyp-build'];

/** Options that the bundle, the tests and the benchmark have in common. */
export const common = {
  absWorkingDir: root,
  bundle: true,
  platform: 'node',
  format: 'esm',
  target: 'node20.19',
  charset: 'utf8',
  legalComments: 'none',
  logLevel: 'silent',
  alias: { '#core.wasm': wasmFile },
  loader: { '.wasm': 'binary' },
};

/** Like `esbuild.build`, but the error that it throws contains the messages as esbuild prints them. */
export async function bundle(options) {
  try {
    const result = await esbuild.build(options);
    for (const text of await esbuild.formatMessages(result.warnings, { kind: 'warning' })) process.stderr.write(text);
    return result;
  } catch (error) {
    if (!error.errors) throw error;
    throw new Error(
      (await esbuild.formatMessages(error.errors, { kind: 'error', color: process.stderr.isTTY })).join(''),
    );
  }
}

/** End esbuild's process, which keeps goroutines running on a processor until then. */
export const stop = () => esbuild.stop();

const REQUIRE_SHIM = /var __require = \/\* @__PURE__ \*\/ \(\(x\) => [\s\S]*?is not supported'\);\n\}\);\n/;

/**
 * CommonJS packages inside the bundle ask for builtins with `require`, which a module does not have: the chunk that holds
 * esbuild's stand-in gets a real one. The lines keep their numbers, because the source map has them.
 */
function withRequire(text, path) {
  if (!text.includes('Dynamic require of')) return text;
  // esbuild quotes with either kind of quotation mark, depending on the content.
  const shim = new RegExp(REQUIRE_SHIM.source.replace("supported'", 'supported[\'"]'));
  const found = shim.exec(text)?.[0];
  if (!found) throw new Error(`${basename(path)}: esbuild's stand-in for require looks new; see scripts/build.mjs`);
  const real = [
    "import { createRequire as __isthmusCreateRequire } from 'node:module';",
    'var __require = /* @__PURE__ */ __isthmusCreateRequire(import.meta.url);',
  ];
  const lines = found.split('\n').length - 1;
  return text.replace(found, () => real.join('\n') + '\n'.repeat(lines - real.length + 1));
}

/** Build dist/. @returns a sentence for each part that was left out */
export async function build() {
  const dist = join(root, 'dist');
  const library = join(root, 'host/index.ts');
  const cli = join(root, 'host/cli/main.ts');
  const testing = join(root, 'test/support/hosts.ts');
  const entries = [];
  const skipped = [];
  for (const [name, path] of [
    ['index', library],
    ['testing', testing],
    ['cli', cli],
  ]) {
    if (existsSync(path)) entries.push({ in: path, out: name });
    else skipped.push(`dist/${name}.js (there is no ${path.slice(root.length + 1)})`);
  }
  if (!existsSync(wasmFile)) return { skipped: [`the bundle (there is no build/wasm/core.${wasmTarget}.wasm)`] };
  if (entries.length === 0) return { skipped };

  const maps = { sourcemap: 'linked', sourcesContent: false };
  const options = { ...common, ...maps, external: EXTERNAL, outdir: dist, write: false };
  if (existsSync(library)) {
    // `require('isthmus')` works only while nothing in the graph of the library awaits at top level.
    await bundle({ ...options, entryPoints: [library], supported: { 'top-level-await': false } });
  }
  const result = await bundle({ ...options, entryPoints: entries, splitting: true, chunkNames: '[name]-[hash]' });

  // Maps and chunks first, the entries last, each by a rename: a process that starts meanwhile finds the old or the new
  // bundle.
  mkdirSync(dist, { recursive: true });
  const files = new Map(result.outputFiles.map((file) => [basename(file.path), file.text]));
  const names = [...files.keys()].sort((a, b) => Number(isEntry(a)) - Number(isEntry(b)));
  for (const name of names) {
    const text = withRequire(files.get(name), name);
    if (name === 'cli.js' && !text.startsWith('#!')) throw new Error('host/cli/main.ts does not begin with #!');
    const path = join(dist, name);
    writeFileSync(`${path}.new`, text);
    if (name === 'cli.js') chmodSync(`${path}.new`, 0o755);
    renameSync(`${path}.new`, path);
  }
  for (const name of readdirSync(dist)) {
    if (/\.(js|map|new)$/.test(name) && !files.has(name)) rmSync(join(dist, name), { force: true });
  }
  return { skipped };
}

function isEntry(name) {
  return name === 'index.js' || name === 'testing.js' || name === 'cli.js';
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const { skipped } = await build();
  for (const what of skipped) console.log(`build: left out ${what}`);
}
