/**
 * The native part under AddressSanitizer and UndefinedBehaviorSanitizer: built with both, loaded into a Node without
 * them, and run through the tests that use it. A report in any process fails the test.
 *
 * Needs a g++ with libasan and libubsan, and the headers of Node. If something is missing, that is printed and the
 * tests are skipped.
 */
import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { timebox } from '../support/timebox.js';

const root = process.env['ISTHMUS_ROOT'] ?? '.';
const compiler = process.env['CXX'] ?? 'g++';
const folder = mkdtempSync(join(tmpdir(), 'isthmus-sanitize-'));
test.after(() => rmSync(folder, { recursive: true, force: true }));
const logs = join(folder, 'logs');

/** Tests that use the native part: pages, locks, doorbells, watches, and two processes with all of it. */
const SUITES = [
  'unit/native',
  'unit/faults',
  'unit/doorbell',
  'unit/frames',
  'integration/waiting.test',
  'integration/sockets',
];

const FLAGS = ['-std=c++17', '-fexceptions', '-fvisibility=hidden', '-fPIC', '-O1', '-g', '-fno-omit-frame-pointer'];
const SANITIZE = ['-fsanitize=address,undefined', '-fno-sanitize-recover=all'];

const headers = [dirname(dirname(process.execPath)), '/usr', '/usr/local']
  .map((prefix) => join(prefix, 'include/node'))
  .concat(process.env['npm_config_nodedir'] ? [join(process.env['npm_config_nodedir'], 'include/node')] : [])
  .find((path) => existsSync(join(path, 'node_api.h')));

/** The runtime libraries of the sanitizers, in the required order of loading. */
function libraries(): string[] {
  return ['libasan.so', 'libubsan.so'].map((name) =>
    spawnSync(compiler, [`-print-file-name=${name}`], { encoding: 'utf8' }).stdout?.trim(),
  );
}

function missing(): string | undefined {
  if (process.platform !== 'linux') return `this is ${process.platform}`;
  if (spawnSync(compiler, ['--version']).status !== 0) return `there is no ${compiler}`;
  if (!libraries().every((path) => path && existsSync(path))) return `${compiler} has no libasan or libubsan`;
  if (!headers) return "Node's headers are missing";
  return undefined;
}

function compile(output: string, sources: readonly string[], defines: readonly string[]): void {
  const addonApi = join(root, 'node_modules/node-addon-api');
  const include = [`-I${headers}`, '-isystem', addonApi];
  const args = ['-shared', ...FLAGS, ...SANITIZE, ...defines, ...include, '-o', output, ...sources];
  const { status, stderr } = spawnSync(compiler, args, { cwd: root, encoding: 'utf8' });
  assert.is(status, 0, stderr);
}

const environment = {
  // Leaks of Node at its end, and V8's own use of SIGSEGV, do not count; nor do the SIGBUS that tests want.
  ASAN_OPTIONS: `detect_leaks=0:handle_segv=0:handle_sigbus=0:allow_user_segv_handler=1:detect_stack_use_after_return=1:log_path=${logs}/report`,
  UBSAN_OPTIONS: `print_stacktrace=1:log_path=${logs}/report`,
};

/** Reports since the last call. */
function reports(): string[] {
  return readdirSync(logs).map((name) => {
    const text = readFileSync(join(logs, name), 'utf8');
    rmSync(join(logs, name));
    return text;
  });
}

const reason = missing();
if (reason) {
  console.log(`skipped: ${reason}`);
  test.skip('the native part under sanitizers', () => {});
} else {
  mkdirSync(logs);
  const preloaded = { ...environment, LD_PRELOAD: libraries().join(':') };

  test(
    'a fault in native code is reported',
    timebox(120, () => {
      const addon = join(folder, 'overflow.node');
      compile(addon, ['test/sanitize/overflow.cc'], ['-DNODE_GYP_MODULE_NAME=overflow']);
      for (const [mistake, report] of [
        ['overflow', /heap-buffer-overflow/],
        ['useAfterFree', /heap-use-after-free/],
        ['undefined', /signed integer overflow/],
      ] as const) {
        const program = `require(${JSON.stringify(addon)}).${mistake}()`;
        const { status, stderr } = spawnSync(process.execPath, ['-e', program], {
          env: { ...process.env, ...preloaded },
          encoding: 'utf8',
        });
        assert.is.not(status, 0, mistake);
        assert.match([stderr, ...reports()].join('\n'), report, mistake);
      }
    }),
  );

  test(
    'the native part: the tests that use it, without a report',
    timebox(500, () => {
      const release = join(folder, 'build/Release');
      mkdirSync(release, { recursive: true });
      const gyp = readFileSync(join(root, 'binding.gyp'), 'utf8');
      const sources = [...gyp.matchAll(/'(native\/\w+\.cc)'/g)].map(([, path]) => path as string);
      const defines = [...gyp.matchAll(/^ +'([A-Z_]+(?:=\d+)?)',$/gm)].map(([, define]) => `-D${define}`);
      assert.ok(sources.length > 5 && defines.length > 3, 'binding.gyp has changed');
      compile(join(release, 'isthmus.node'), sources, [...defines, '-DNODE_GYP_MODULE_NAME=isthmus']);

      // node-gyp-build loads the binary in this folder.
      const node = join(folder, 'node');
      const variables = Object.entries({ ...preloaded, ISTHMUS_PREBUILD: folder });
      const exported = variables.map(([name, value]) => `export ${name}='${value}'`).join('\n');
      writeFileSync(node, `#!/bin/sh\n${exported}\nexec '${resolve(process.execPath)}' "$@"\n`);
      chmodSync(node, 0o755);
      const loaded = spawnSync(node, ['-p', 'require("node-gyp-build").path(process.cwd())'], {
        cwd: root,
        encoding: 'utf8',
      });
      assert.match(loaded.stdout, folder, loaded.stderr);

      const { status, stdout, stderr } = spawnSync(process.execPath, ['scripts/test.mjs', '--node', node, ...SUITES], {
        cwd: root,
        encoding: 'utf8',
        env: { ...process.env, ISTHMUS_TEST_JOBS: '1', ISTHMUS_TEST_TIMEOUT: '240' },
      });
      const [report] = reports();
      assert.not(report, report);
      assert.is(status, 0, `${stdout}\n${stderr}`);
      console.log(stdout.trim().split('\n').at(-1));
    }),
  );
}

test.run();
