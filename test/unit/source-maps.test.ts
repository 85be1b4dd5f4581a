/** The source maps beside dist/*.js: each line of the bundle leads to the line of host/ that it was made of. */
import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { SourceMap } from 'node:module';
import { join, resolve } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { timebox } from '../support/timebox.js';

const root = resolve(process.env['ISTHMUS_ROOT'] ?? '.');
const dist = join(root, 'dist');
const scripts = readdirSync(dist).filter((name) => name.endsWith('.js'));
const text = (...path: string[]) => readFileSync(join(...path), 'utf8');

test('every file of the bundle has a map, without the text of the sources', () => {
  assert.ok(scripts.includes('index.js') && scripts.includes('cli.js'));
  for (const name of scripts) {
    assert.match(text(dist, name), new RegExp(`^//# sourceMappingURL=${name}\\.map$`, 'm'));
    const map = JSON.parse(text(dist, `${name}.map`));
    assert.is(map.sourcesContent, undefined, name);
  }
});

test('a function or class of the bundle is found at its line of host/', () => {
  let found = 0;
  for (const name of scripts) {
    const map = new SourceMap(JSON.parse(text(dist, `${name}.map`)));
    for (const [index, line] of text(dist, name).split('\n').entries()) {
      const declared = /^(?:async )?function (\w+)\(|^var (\w+) = class /.exec(line);
      const entry = declared && map.findEntry(index, 0);
      if (!declared || !entry || !('originalSource' in entry) || !/^\.\.\/host\//.test(entry.originalSource)) continue;
      const source = text(dist, entry.originalSource).split('\n')[entry.originalLine] ?? '';
      // esbuild appends a number where two files use a name.
      const declaration = (declared[1] ?? declared[2] ?? '').replace(/\d+$/, '');
      assert.ok(
        source.includes(declaration),
        `${name}:${index + 1}, ${declaration}: ${entry.originalSource} has ${source}`,
      );
      found++;
    }
  }
  assert.ok(found > 300, `${found} declarations`);
});

test(
  'with --enable-source-maps the stack of an error names a file and a line of host/',
  timebox(20, () => {
    const program = `
      import { Runtime } from ${JSON.stringify(join(dist, 'index.js'))};
      await Runtime.create({ retry: 'never' }).catch((error) => console.log(error.stack));`;
    const args = ['--enable-source-maps', '--input-type=module', '--eval', program];
    const { stdout, stderr } = spawnSync(process.execPath, args, { encoding: 'utf8' });
    const [, path, line] = /\((\S+\/host\/config\/\w+\.ts):(\d+):\d+\)/.exec(stdout) ?? [];
    assert.ok(path && line, `${stdout}${stderr}`);
    assert.match(text(path).split('\n')[Number(line) - 1] as string, /IsthmusError|configError|\w+\(/);
  }),
);

test.run();
