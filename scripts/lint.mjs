/**
 * Lint and format with Biome: `node scripts/lint.mjs [--write]`. Warnings count as errors. The script also checks that the
 * types of the core's exports agree with `assembly/` (`exports.mjs`), and the order of the rooms of host/ (`layers.mjs`).
 *
 * Biome reads AssemblyScript, except decorators on functions and variables, which are parse errors to it. So it checks a
 * copy of assembly/ in which a line with only such a decorator is a comment. Lines keep their numbers, and with `--write`
 * the formatted copy replaces the original.
 */
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { check as checkExports } from './exports.mjs';
import { checkLayers } from './layers.mjs';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const biome = createRequire(import.meta.url).resolve('@biomejs/biome/bin/biome');
const write = process.argv.includes('--write');

function check(cwd, ...args) {
  const options = ['check', '--error-on-warnings', '--max-diagnostics=200', ...(write ? ['--write'] : []), ...args];
  return spawnSync(process.execPath, [biome, ...options], { cwd, stdio: 'inherit' }).status === 0;
}

const mask = (text) => text.replace(/^@(?=\w+(\(.*\))?$)/gm, '//@');
const unmask = (text) => text.replace(/^\/\/@(?=\w+(\(.*\))?$)/gm, '@');

function checkAssembly() {
  const sources = readdirSync(join(root, 'assembly'), { recursive: true }).filter((path) => path.endsWith('.ts'));
  if (sources.length === 0) return true;
  const copy = mkdtempSync(join(tmpdir(), 'isthmus-lint-'));
  try {
    const config = JSON.parse(readFileSync(join(root, 'biome.json'), 'utf8'));
    delete config.$schema;
    config.vcs.enabled = false;
    config.files.includes = ['assembly/**'];
    writeFileSync(join(copy, 'biome.json'), JSON.stringify(config));
    for (const path of sources) {
      const target = join(copy, 'assembly', path);
      mkdirSync(dirname(target), { recursive: true });
      writeFileSync(target, mask(readFileSync(join(root, 'assembly', path), 'utf8')));
    }
    const good = check(copy, 'assembly');
    if (write) {
      for (const path of sources) {
        const before = readFileSync(join(root, 'assembly', path), 'utf8');
        const after = unmask(readFileSync(join(copy, 'assembly', path), 'utf8'));
        if (after !== before) writeFileSync(join(root, 'assembly', path), after);
      }
    }
    return good;
  } finally {
    rmSync(copy, { recursive: true, force: true });
  }
}

/** The order of the rooms of host/ (scripts/layers.mjs). */
function checkRooms() {
  const problems = checkLayers(root);
  for (const problem of problems) console.error(problem);
  return problems.length === 0;
}

const results = [check(root, '.'), checkAssembly(), await checkExports(write), checkRooms()];
if (results.includes(false)) process.exitCode = 1;
