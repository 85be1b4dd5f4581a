/** `npm run lint` on a copy of the sources: it fails where one file of host/ imports from a room above. */
import { spawnSync } from 'node:child_process';
import { cpSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { timebox } from '../support/timebox.js';

const root = resolve(process.env['ISTHMUS_ROOT'] ?? '.');
const folder = mkdtempSync(join(tmpdir(), 'isthmus-lint-'));
test.after(() => rmSync(folder, { recursive: true, force: true }));

test(
  'npm run lint runs the check',
  timebox(200, () => {
    for (const path of [
      'scripts',
      'biome.json',
      'asconfig.json',
      'package.json',
      'host',
      'assembly',
      'bench/micro',
      'bench/assembly',
    ]) {
      cpSync(join(root, path), join(folder, path), { recursive: true });
    }
    symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'));
    writeFileSync(join(folder, 'host/base/up.ts'), "import '../runtime/runtime.js';\n");
    const args = ['scripts/lint.mjs'];
    const { status, stderr } = spawnSync(process.execPath, args, { cwd: folder, encoding: 'utf8' });
    assert.is(status, 1);
    assert.match(stderr, 'host/base/up.ts:1 imports host/runtime/runtime.ts: base is below runtime');
  }),
);

test.run();
