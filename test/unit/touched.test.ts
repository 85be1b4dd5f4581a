/** Which tests a changed file touches: by bundle, by the programs that a test starts, by the paths that it names. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { Graph, type Metafile } from '../../scripts/touched.mjs';

/** Entry points, and the files of their bundles. */
const BUNDLES: Readonly<Record<string, readonly string[]>> = {
  'test/unit/queue.test.ts': ['host/base/queue.ts'],
  'test/integration/shm.test.ts': ['test/support/start.ts', 'host/runtime.ts'],
  'test/integration/cli.test.ts': [],
  'test/wire/captures.test.ts': ['host/wire.ts', 'host/native/native.ts'],
  'test/children/peer.ts': ['host/peer.ts', 'build/wasm/core.release.wasm'],
  'test/children/again.ts': ['host/again.ts'],
};
const TEXTS: Readonly<Record<string, string>> = {
  'test/support/start.ts': "export const start = () => Child.start(program('peer'), 'role');",
  'test/children/peer.ts': "new Worker(program('again'));",
  'test/unit/queue.test.ts': "a text with program('nothing') in it",
  'test/integration/cli.test.ts': "const CLI = process.env['ISTHMUS_CLI']; join(root, 'test/support/branches');",
};
const metafile: Metafile = {
  outputs: Object.fromEntries(
    Object.entries(BUNDLES).map(([entryPoint, inputs]) => [
      `out/${entryPoint}`,
      { entryPoint, inputs: Object.fromEntries([entryPoint, ...inputs].map((path) => [path, {}])) },
    ]),
  ),
};
const present = new Set(Object.entries(BUNDLES).flatMap(([entry, inputs]) => [entry, ...inputs]));
const graph = new Graph(metafile, (path) => {
  assert.ok(present.has(path), `${path} is not there`);
  return TEXTS[path] ?? '';
});

for (const [what, changed, touched] of [
  ['a file of a bundle', ['host/base/queue.ts'], ['test/unit/queue.test.ts']],
  ['the test itself', ['test/unit/queue.test.ts'], ['test/unit/queue.test.ts']],
  ['a program that a helper of the test starts', ['test/children/peer.ts'], ['test/integration/shm.test.ts']],
  ['a file of the bundle of that program', ['host/peer.ts'], ['test/integration/shm.test.ts']],
  ['the core in it', ['build/wasm/core.release.wasm'], ['test/integration/shm.test.ts']],
  ['a program of a program', ['host/again.ts'], ['test/integration/shm.test.ts']],
  ['the addon', ['build/Release/isthmus.node'], ['test/wire/captures.test.ts']],
  ['the command line', ['dist/cli.js'], ['test/integration/cli.test.ts']],
  ['a file in a folder that the test names', ['test/support/branches/preload.mjs'], ['test/integration/cli.test.ts']],
  ['a folder that only begins like it', ['test/support/branches2/x.ts'], []],
  ['data in the folder of a test', ['test/wire/tcp.jsonl'], ['test/wire/captures.test.ts']],
  ['what no test uses', ['host/cli/demo.ts'], []],
  ['several', ['host/wire.ts', 'host/base/queue.ts'], ['test/unit/queue.test.ts', 'test/wire/captures.test.ts']],
] as const) {
  test(`touched by ${what}`, () => assert.equal(graph.touchedBy(changed), touched));
}

test.run();
