/**
 * `node --import`: replaces the core by the build of instrument.mjs in the folder ISTHMUS_BRANCHES. At the end, the
 * number of times that each condition went either way is written there: [false, true] by number. A function that a test
 * stores in `globalThis.atAnyMoment` is called after each load of a word of the region.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

const folder = process.env.ISTHMUS_BRANCHES;
const { Module, Instance } = WebAssembly;
const core = new Module(readFileSync(join(folder, 'core.wasm')));
const count = JSON.parse(readFileSync(join(folder, 'branches.json'), 'utf8')).length;
const taken = Array.from({ length: count }, () => [0, 0]);

const branch = (number, way) => {
  taken[number][way]++;
  return way;
};
globalThis.atAnyMoment = undefined;
const moment = () => globalThis.atAnyMoment?.();
const isCore = (module) => Module.exports(module).some(({ name }) => name === 'beginFormat');

WebAssembly.Module = class extends Module {
  constructor(bytes) {
    super(bytes);
    // biome-ignore lint/correctness/noConstructorReturn: every load of the core gets this one
    if (isCore(this)) return core;
  }
};
WebAssembly.Instance = class extends Instance {
  constructor(module, imports) {
    super(module, module === core ? { ...imports, env: { ...imports.env, branch, moment } } : imports);
  }
};

process.on('exit', () => {
  writeFileSync(join(folder, `taken-${process.pid}.json`), JSON.stringify(taken));
});
