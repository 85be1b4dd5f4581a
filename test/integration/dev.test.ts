/**
 * `npm run dev` on a copy of the checkout with two small tests: a change reruns the test that uses the changed file and no
 * other, a failure is told and repeated until it is mended, and SIGINT ends it and leaves nothing.
 */
import type { ChildProcess } from 'node:child_process';
import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { eventually } from '../support/outcomes.js';
import { Child } from '../support/process.js';
import { timebox } from '../support/timebox.js';

const root = resolve(process.env['ISTHMUS_ROOT'] ?? '.');
const folder = mkdtempSync(join(tmpdir(), 'isthmus-dev-'));
process.on('exit', () => rmSync(folder, { recursive: true, force: true }));

/** What scripts/setup.mjs reads and writes: with its stamps, so that nothing is built again. */
const COPIED = ['assembly', 'host', 'native', 'scripts', 'build', 'dist', 'package.json', 'package-lock.json'];
const CONFIGURATION = [
  'bench/assembly',
  'bench/micro',
  'asconfig.json',
  'binding.gyp',
  'tsconfig.json',
  'tsconfig.types.json',
  'test/support',
];

const suite = (name: string, module: string, expression: string) => `
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import * as module from '../../${module}';
test('${name}', () => assert.ok(${expression}));
test.run();
`;
const write = (path: string, text: string) => writeFileSync(join(folder, path), text);
const read = (path: string) => readFileSync(join(folder, path), 'utf8');

/** Processes of this one's group, and those that run in the copy: none is left at the end. */
function others(): string[] {
  const group = (pid: string) => readFileSync(`/proc/${pid}/stat`, 'latin1').split(') ')[1]?.split(' ')[2];
  const own = group('self');
  return readdirSync('/proc').filter((pid) => {
    if (!/^\d+$/.test(pid) || Number(pid) === process.pid) return false;
    try {
      return group(pid) === own || readlinkSync(`/proc/${pid}/cwd`).startsWith(folder);
    } catch {
      return false; // It has ended, or is another user's.
    }
  });
}

/** What it prints from one call to the next. */
class Watching {
  readonly process: ChildProcess;
  readonly #child: Child;
  #from = 0;

  constructor(child: Child) {
    this.#child = child;
    this.process = child.process;
  }

  /** Up to a line like this one. */
  async until(line: RegExp): Promise<string> {
    const from = this.#from;
    await this.#child.printed(new RegExp(`(?<=^[^]{${from},})${line.source}.*\n`, 'm'), 100);
    this.#from = this.#child.output.length;
    return this.#child.output.slice(from);
  }
}

test(
  'a change reruns what it touches; a failure stays until it is mended; SIGINT ends all of it',
  timebox(300, async () => {
    mkdirSync(join(folder, 'test/unit'), { recursive: true });
    for (const path of [...COPIED, ...CONFIGURATION]) {
      cpSync(join(root, path), join(folder, path), { recursive: true, preserveTimestamps: true });
    }
    symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'));
    write('test/suites.mjs', 'export const suites = {};\n');
    write('host/base/one.ts', 'export const one: number = 1;\n');
    write('host/base/two.ts', 'export const two: number = 2;\n');
    write('test/unit/one.test.ts', suite('one', 'host/base/one.js', 'module.one === 1'));
    write('test/unit/two.test.ts', suite('two', 'host/base/two.js', 'module.two === 2'));

    const child = Child.run(join(folder, 'scripts/dev.mjs'));
    const dev = new Watching(child);
    try {
      await dev.until(/watching assembly, host/);

      write('host/base/one.ts', 'export const one: number = 2 - 1;\n');
      let said = await dev.until(/── .* test files?: /);
      assert.match(said, /── \S+ {2}host\/base\/one\.ts\n/);
      assert.match(said, /── \S+ {2}1 test file: 1 passed, 0 failed, /);

      write('host/base/two.ts', 'export const two: number = 3;\n');
      said = await dev.until(/── .* test files?: /);
      assert.match(said, /^✘ unit\/two\.test\.ts/m);
      assert.match(said, /FAIL {2}"two"/);
      assert.match(said, / {2}1 test file: 0 passed, 1 failed, /);

      // The failed one runs again, although it does not use what changed.
      write('host/base/one.ts', read('host/base/one.ts').replace('2 - 1', '3 - 2'));
      said = await dev.until(/── .* test files?: /);
      assert.match(said, / {2}2 test files: 1 passed, 1 failed, /);

      write('host/base/two.ts', 'export const two: number = 2;\n');
      said = await dev.until(/── .* test files?: /);
      assert.match(said, / {2}1 test file: 1 passed, 0 failed, /);

      write('host/base/one.ts', 'export const one: number = ;\n');
      said = await dev.until(/the build failed|cannot be bundled/);
      write('host/base/one.ts', 'export const one: number = 1;\n');
      said = await dev.until(/── .* test files?: /);
      assert.match(said, / {2}1 test file: 1 passed, 0 failed, /);

      // A new test in a new folder, which waits to be ended.
      mkdirSync(join(folder, 'test/wire'));
      write('test/wire/long.test.ts', "console.log('began');\nsetInterval(() => {}, 1000);\n");
      await dev.until(/── \S+ {2}test\/wire\/long\.test\.ts/);
      while (!readdirSync(folder).some((name) => /^\.test-build-\d+$/.test(name))) {
        await new Promise((next) => setTimeout(next, 50));
      }
      dev.process.kill('SIGINT');
      assert.equal(await child.ended(60), { code: 0, signal: null });
      assert.equal(
        readdirSync(folder).filter((name) => name.startsWith('.test-build')),
        [],
      );
    } finally {
      // Not SIGKILL: it ends the programs that it has started.
      dev.process.kill('SIGTERM');
      await child.ended();
      await eventually('no process left', () => others().length === 0, 20);
    }
  }),
);

test(
  '--help',
  timebox(20, async () => {
    const child = Child.run(join(root, 'scripts/dev.mjs'), ['--help']);
    assert.is((await child.ended()).code, 0);
    assert.match(child.output, /^Usage: npm run dev/);
  }),
);

test.run();
