/** The order of the rooms of host/: each kind of violation is found on a small tree, and Biome finds circles of types. */
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { checkLayers, MAX_FLOORS_IN_FOLDER, MAX_LINES } from '../../scripts/layers.mjs';
import { timebox } from '../support/timebox.js';

const root = resolve(process.env['ISTHMUS_ROOT'] ?? '.');
const folder = mkdtempSync(join(tmpdir(), 'isthmus-layers-'));
test.after(() => rmSync(folder, { recursive: true, force: true }));

const FLOORS = [['cli'], ['index.ts'], ['runtime'], ['core', 'native'], ['base']];
const OUTSIDE = { 'bench/micro/': ['host/core/'], 'bench/': ['host/cli/units.ts'] };

/** A tree without a violation: comments, texts and packages that look like imports among the rest. */
const CLEAN: Readonly<Record<string, string>> = {
  'host/cli/main.ts':
    "import {\n  Runtime,\n} from '../index.js';\nimport './units.js';\nimport('../runtime/runtime.js');\n",
  'host/cli/units.ts': 'export const units = 1;\n',
  'host/index.ts': "export { Runtime } from './runtime/runtime.js';\nexport type * from './base/types.js';\n",
  'host/runtime/runtime.ts':
    "import type { Type } from '../base/types.js';\nimport { core } from '../core/core.js';\nimport 'node:fs';\n" +
    "/** `import('../cli/main.js')`, and\n * import { x } from '../cli/main.js'; */\n// import('../cli/main.js')\n" +
    "export class Runtime {}\nconst text = `\nfrom '../cli/main.js'`;\n",
  'host/core/core.ts': "import { base } from '../base/base.js';\nexport const core = base;\n",
  'host/native/native.ts': 'export const native = 1;\n',
  'host/base/base.ts': "import type { Type } from './types.js';\nexport const base = 1;\n",
  'host/base/types.ts': 'export type Type = number;\n',
  'bench/main.ts': "import type * as Library from '../host/index.js';\nimport { units } from '../host/cli/units.js';\n",
  'bench/micro/core.ts': "import { core } from '../../host/core/core.js';\n",
  'scripts/tool.mjs': "import { own } from './own.mjs';\n",
  'test/unit/core.test.ts': "import { core } from '../../host/core/core.js';\n",
};

let trees = 0;
/** @returns what is wrong with the tree after these changes; undefined: the file is not there */
function check(changes: Readonly<Record<string, string | undefined>>, floors = FLOORS) {
  const tree = join(folder, `${trees++}`);
  for (const [path, text] of Object.entries({ ...CLEAN, ...changes })) {
    if (text === undefined) continue;
    mkdirSync(dirname(join(tree, path)), { recursive: true });
    writeFileSync(join(tree, path), text);
  }
  return checkLayers(tree, { floors, outside: OUTSIDE });
}

const lines = (count: number) => 'export {};\n'.repeat(count);
/** Files of which each imports the next. */
const row = (length: number) =>
  Object.fromEntries(
    Array.from({ length }, (_, i) => [
      `host/base/row${i}.ts`,
      i + 1 < length ? `export * from './row${i + 1}.js';\n` : 'export {};\n',
    ]),
  );

test('a tree without a violation', () => {
  assert.equal(check({}), []);
  assert.equal(check({ 'host/base/long.ts': lines(MAX_LINES), ...row(MAX_FLOORS_IN_FOLDER) }), []);
});

const violations: [what: string, changes: Record<string, string | undefined>, problems: string[]][] = [
  [
    'an import from a room above',
    { 'host/core/core.ts': "\nimport { Runtime } from '../runtime/runtime.js';\n", 'host/runtime/runtime.ts': '' },
    ['host/core/core.ts:2 imports host/runtime/runtime.ts: core is below runtime'],
  ],
  [
    'of a type',
    { 'host/base/base.ts': "import type { core } from '../core/core.js';\n", 'host/core/core.ts': '' },
    ['host/base/base.ts:1 imports host/core/core.ts: base is below core'],
  ],
  [
    'of a type, where it is used',
    { 'host/base/base.ts': "export const x:\n  import('../core/core.js').Core = 1;\n", 'host/core/core.ts': '' },
    ['host/base/base.ts:2 imports host/core/core.ts: base is below core'],
  ],
  [
    'for its effect',
    { 'host/base/base.ts': "import '../native/native.js';\n" },
    ['host/base/base.ts:1 imports host/native/native.ts: base is below native'],
  ],
  [
    'an export from a room above, over several lines',
    { 'host/base/types.ts': "export {\n  native,\n} from '../native/native.js';\n" },
    ['host/base/types.ts:3 imports host/native/native.ts: base is below native'],
  ],
  [
    'an import on one floor',
    { 'host/native/native.ts': "import { core } from '../core/core.js';\n" },
    ['host/native/native.ts:1 imports host/core/core.ts: native and core are on one floor'],
  ],
  [
    'a room that imports the public API',
    { 'host/runtime/other.ts': "import { Runtime } from '../index.js';\n" },
    [
      'host/runtime/other.ts:1 imports host/index.ts: runtime is below index.ts',
      'host → host/runtime → host is a circle of folders: host/index.ts:1, host/runtime/other.ts:1',
    ],
  ],
  [
    'a circle of folders within a room',
    {
      'host/cli/vm/a.ts': "import '../demo/b.js';\n",
      'host/cli/demo/b.ts': "\nimport '../support/c.js';\n",
      'host/cli/support/c.ts': "import '../vm/d.js';\n",
      'host/cli/vm/d.ts': '',
    },
    [
      'host/cli/demo → host/cli/support → host/cli/vm → host/cli/demo is a circle of folders: host/cli/demo/b.ts:2, ' +
        'host/cli/support/c.ts:1, host/cli/vm/a.ts:1',
    ],
  ],
  [
    'a file that is too long',
    { 'host/base/long.ts': lines(MAX_LINES + 1) },
    [`host/base/long.ts: ${MAX_LINES + 1} lines, at most ${MAX_LINES}`],
  ],
  [
    'too many floors in a folder',
    row(MAX_FLOORS_IN_FOLDER + 1),
    [`host/base: 5 floors of files (row0.ts → row1.ts → row2.ts → row3.ts → row4.ts), at most ${MAX_FLOORS_IN_FOLDER}`],
  ],
  [
    'a folder that is no room',
    { 'host/attic/old.ts': '' },
    ['host/attic: no room of FLOORS in scripts/layers.mjs; give it a floor'],
  ],
  [
    'a file that lies in none',
    { 'host/util.ts': '' },
    ['host/util.ts: no room of FLOORS in scripts/layers.mjs; give it a floor'],
  ],
  [
    'a room that is not there',
    { 'host/native/native.ts': undefined },
    ['scripts/layers.mjs: there is no host/native; remove it from FLOORS'],
  ],
  [
    'code outside that imports a part',
    {
      'bench/main.ts': "import { core } from '../host/core/core.js';\n",
      'scripts/tool.mjs': "\nimport '../host/base/base.js';\n",
    },
    [
      'bench/main.ts:1 imports host/core/core.ts: only host/index.ts, and what OUTSIDE in scripts/layers.mjs names',
      'scripts/tool.mjs:2 imports host/base/base.ts: only host/index.ts, and what OUTSIDE in scripts/layers.mjs names',
    ],
  ],
];
for (const [what, changes, problems] of violations)
  test(`a violation: ${what}`, () => assert.equal(check(changes), problems));

test('a violation: a room twice, and too many floors', () => {
  assert.equal(check({}, [...FLOORS, ['core']]), ['scripts/layers.mjs: core is there twice']);
  const many = Object.fromEntries(Array.from({ length: 12 }, (_, i) => [`host/room${i}/a.ts`, '']));
  const floors = [...FLOORS, ...Array.from({ length: 12 }, (_, i) => [`room${i}`])];
  assert.equal(check(many, floors), ['scripts/layers.mjs: 16 floors, at most 15']);
});

/** What Biome says of two files of host/, by the configuration of this checkout. */
function biome(first: string, second: string): { status: number | null; output: string } {
  const tree = join(folder, `${trees++}`);
  mkdirSync(join(tree, 'host/base'), { recursive: true });
  const config = JSON.parse(readFileSync(join(root, 'biome.json'), 'utf8'));
  delete config.$schema;
  config.vcs.enabled = false;
  writeFileSync(join(tree, 'biome.json'), JSON.stringify(config));
  writeFileSync(join(tree, 'host/base/one.ts'), first);
  writeFileSync(join(tree, 'host/base/two.ts'), second);
  const program = join(root, 'node_modules/@biomejs/biome/bin/biome');
  const args = [program, 'lint', '--error-on-warnings', '--colors=off', 'host'];
  const { status, stdout, stderr } = spawnSync(process.execPath, args, { cwd: tree, encoding: 'utf8' });
  return { status, output: stdout + stderr };
}

test(
  'Biome refuses a circle of files, of types as well',
  timebox(60, () => {
    const good = biome("import type { B } from './two.js';\n\nexport type A = B;\n", 'export type B = 1;\n');
    assert.is(good.status, 0, good.output);
    for (const what of ['import type { A }', 'import { type A }', 'export type { A }']) {
      const rest = what.startsWith('import') ? 'export type B = A[];\n' : 'export type B = 1;\n';
      const circle = biome(
        "import type { B } from './two.js';\n\nexport type A = B;\n",
        `${what} from './one.js';\n\n${rest}`,
      );
      assert.is(circle.status, 1, `${what}: ${circle.output}`);
      assert.match(circle.output, /noImportCycles/, what);
    }
  }),
);

test.run();
