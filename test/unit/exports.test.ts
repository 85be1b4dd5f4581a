/** The generated types of the core's exports (scripts/exports.mjs): they agree with the module, and tsc enforces them. */
import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import binaryen from 'assemblyscript/binaryen';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import bytes from '#core.wasm';
import { BROKEN, coreLayout, NOTHING } from '../../host/core/core.js';
import { newCore } from '../support/core.js';
import { timebox } from '../support/timebox.js';

const root = process.env['ISTHMUS_ROOT'] ?? '.';

/** The declarations of a generated file: `name(number of arguments): result`, `variable name`, `constant name`. */
function declared(path: string): string[] {
  const text = readFileSync(join(root, path), 'utf8').replace(/\/\*\*[\s\S]*?\*\//g, '');
  const functions = [...text.matchAll(/^ {2}(\w+)\(([^)]*)\): (number|0 \| 1|void);$/gm)].map(
    ([, name, list = '', result]) =>
      `${name}(${list.match(/\w+: /g)?.length ?? 0}): ${result === 'void' ? 'nothing' : 'i32'}`,
  );
  const variables = [...text.matchAll(/^ {2}readonly (\w+): \{ readonly value: number \};$/gm)];
  const constants = [...text.matchAll(/^ {2}readonly (\w+): number;$/gm)];
  return [
    ...functions,
    ...variables.map(([, name]) => `variable ${name}`),
    ...constants.map(([, name]) => `constant ${name}`),
  ].sort();
}

/** The exports of the compiled module, in the same words. */
function compiled(): string[] {
  const module = binaryen.readBinary(bytes);
  const found: string[] = [];
  for (let i = 0; i < module.getNumExports(); i++) {
    const { kind, name, value } = binaryen.getExportInfo(module.getExportByIndex(i));
    if (kind === binaryen.ExternalFunction) {
      const { params, results } = binaryen.getFunctionInfo(module.getFunction(value));
      const types = binaryen.expandType(params);
      for (const type of [...types, ...binaryen.expandType(results)]) {
        assert.is(type, binaryen.i32, `${name} takes and gives nothing but i32`);
      }
      found.push(`${name}(${types.length}): ${results === binaryen.none ? 'nothing' : 'i32'}`);
    } else if (kind === binaryen.ExternalGlobal) {
      const { type, mutable } = binaryen.getGlobalInfo(module.getGlobal(value));
      if (mutable || type === binaryen.i32) found.push(`${mutable ? 'variable' : 'constant'} ${name}`);
    } else assert.is(name, 'memory');
  }
  module.dispose();
  return found.sort();
}

test(
  'the generated types agree with the compiled module: names, arguments and results',
  timebox(20, () => {
    const found = compiled();
    assert.ok(found.length > 300, `${found.length} exports`);
    assert.equal([...declared('host/core/exports.ts'), ...declared('host/core/layout.ts')].sort(), found);
  }),
);

test(
  'the layout has every constant of the module, with its value',
  timebox(5, () => {
    const values = Object.entries(newCore().call).flatMap(([name, { value }]) =>
      typeof value === 'number' && !name.startsWith('region') ? [[name, value >>> 0] as const] : [],
    );
    assert.equal(coreLayout(), Object.fromEntries(values));
    assert.equal(
      Object.keys(coreLayout())
        .map((name) => `constant ${name}`)
        .sort(),
      declared('host/core/layout.ts'),
    );
    assert.equal([NOTHING, BROKEN >>> 0], [coreLayout().NOTHING, coreLayout().BROKEN]);
  }),
);

/** Run tsc on a module in a temporary folder. @returns line → code of the error */
async function typecheck(lines: readonly string[]): Promise<Map<number, string>> {
  const folder = mkdtempSync(join(tmpdir(), 'isthmus-exports-'));
  try {
    writeFileSync(join(folder, 'calls.mts'), lines.join('\n'));
    const options = { extends: join(root, 'tsconfig.json'), compilerOptions: { types: [] }, include: [] };
    writeFileSync(join(folder, 'tsconfig.json'), JSON.stringify({ ...options, files: ['calls.mts'] }));
    const tsc = join(root, 'node_modules/typescript/bin/tsc');
    const output = await new Promise<string>((resolve) => {
      execFile(process.execPath, [tsc, '-p', folder, '--pretty', 'false'], { timeout: 30_000 }, (_, stdout, stderr) =>
        resolve(stdout + stderr),
      );
    });
    const errors = [...output.matchAll(/^(.*)\((\d+),\d+\): error (TS\d+): /gm)];
    assert.ok(errors.length > 0, `tsc found nothing: ${output}`);
    for (const [whole, path = ''] of errors) assert.match(path, /calls\.mts$/, whole);
    return new Map(errors.map(([, , line, code]) => [Number(line), code!]));
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

test(
  'tsc refuses a wrong name, a wrong number of arguments and a wrong type',
  timebox(40, async () => {
    const missing = ['TS2339', 'TS2551'];
    const cases: readonly (readonly [string, readonly string[]])[] = [
      [`import type { CoreExports } from '${root}/host/core/exports.js';`, []],
      [`import type { Layout } from '${root}/host/core/layout.js';`, []],
      ['declare const call: CoreExports;', []],
      ['declare const layout: Layout;', []],
      ['export const right: number = call.claim(0, layout.MESSAGE_USER, 0, 8) + call.regionFrames.value;', []],
      ['call.clame(0, layout.MESSAGE_USER, 0, 8);', missing],
      ['call.claim(0, 0, 8);', ['TS2554']],
      ['call.claim(0, 0, 0, 8, 0);', ['TS2554']],
      ["call.claim('0', 0, 0, 8);", ['TS2345']],
      ['call.claim(0n, 0, 0, 8);', ['TS2345']],
      ['call.wantRoom(0, 1);', []],
      ['call.wantRoom(0, 2);', ['TS2345']],
      ['call.wantRoom(0, true);', ['TS2345']],
      ['export const nothing: number = call.release(0);', ['TS2322']],
      ['layout.MESSAGE_USERS;', missing],
      ['layout.MAGIC;', missing],
      ['layout.FRAME = 1;', ['TS2540']],
      ['call.regionFrames.value = 1;', ['TS2540']],
    ];
    const errors = await typecheck(cases.map(([line]) => line));
    for (const [i, [line, codes]] of cases.entries()) {
      const code = errors.get(i + 1);
      if (codes.length === 0) assert.is(code, undefined, line);
      else assert.ok(code && codes.includes(code), `${line}: ${code ?? 'no error'}`);
    }
  }),
);

test.run();
