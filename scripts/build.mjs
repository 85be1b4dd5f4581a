/**
 * The host bundle: host/index.ts → dist/index.js, test/support/hosts.ts → dist/testing.js and host/cli/main.ts →
 * dist/cli.js, with the Wasm inside.
 *
 * The two share their code through chunks, which lie directly in dist/: the native mapper finds the root of the package
 * one folder above the running file. `ISTHMUS_WASM=debug` takes the debug build of the core.
 */
import { chmodSync, existsSync, mkdirSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import * as esbuild from 'esbuild';

export const root = join(dirname(fileURLToPath(import.meta.url)), '..');

/** Which build of the core goes into the bundle. */
export const wasmTarget = process.env.ISTHMUS_WASM === 'debug' ? 'debug' : 'release';
export const wasmFile = join(root, `build/wasm/core.${wasmTarget}.wasm`);

/** What a package that uses Isthmus installs. Everything else that the CLI needs is bundled. */
const EXTERNAL = ['mqtt', 'node-gyp-build'];

/** Options that the bundle and the tests have in common. */
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

/** Like `esbuild.build`, but what it throws has the errors as esbuild prints them. */
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

/** End esbuild's process, which would go on taking its share of a processor. */
export const stop = () => esbuild.stop();

const REQUIRE_SHIM = /var __require = \/\* @__PURE__ \*\/ \(\(x\) => [\s\S]*?is not supported'\);\n\}\);\n/;

/**
 * CommonJS packages inside the bundle ask for builtins with `require`, which a module does not have: give the chunk that
 * holds esbuild's stand-in a real one.
 */
function withRequire(text, path) {
  if (!text.includes('Dynamic require of')) return text;
  // esbuild quotes with either kind of quotation mark, depending on the content.
  const shim = new RegExp(REQUIRE_SHIM.source.replace("supported'", 'supported[\'"]'));
  if (!shim.test(text))
    throw new Error(`${basename(path)}: esbuild's stand-in for require looks new; see scripts/build.mjs`);
  const [, hashbang, rest] = /^(#!.*\n)?([\s\S]*)$/.exec(
    text.replace(shim, 'var __require = /* @__PURE__ */ __isthmusCreateRequire(import.meta.url);\n'),
  );
  return `${hashbang ?? ''}import { createRequire as __isthmusCreateRequire } from 'node:module';\n${rest}`;
}

/** Build dist/. Returns what was left out, in words. */
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

  const options = { ...common, external: EXTERNAL, outdir: dist, write: false };
  if (existsSync(library)) {
    // `require('isthmus')` works only while nothing in the graph of the library awaits at top level.
    await bundle({ ...options, entryPoints: [library], supported: { 'top-level-await': false } });
  }
  const result = await bundle({ ...options, entryPoints: entries, splitting: true, chunkNames: '[name]-[hash]' });

  // Chunks first, the entries last, each by a rename: a process that starts meanwhile finds the old or the new bundle.
  mkdirSync(dist, { recursive: true });
  const files = new Map(result.outputFiles.map((file) => [basename(file.path), file.text]));
  const names = [...files.keys()].sort((a, b) => Number(isEntry(a)) - Number(isEntry(b)));
  for (const name of names) {
    let text = withRequire(files.get(name), name);
    if (name === 'cli.js' && !text.startsWith('#!')) text = `#!/usr/bin/env node\n${text}`;
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
