// @ts-check
/** Which test files a changed file touches, for scripts/dev.mjs. */

/**
 * The part of esbuild's metafile that is read here.
 *
 * @typedef {object} Metafile
 * @property {Record<string, { entryPoint?: string, inputs: Record<string, unknown> }>} outputs
 */

/** Programs of test/children that a file starts (test/support/process.ts). */
const PROGRAM = /\bprogram\('([\w-]+)'\)/g;
/** Files and folders of the checkout that a file names in a string: read or started when the test runs. */
const NAMED = /['"`/]((?:assembly|build|dist|host|native|scripts|test)(?:\/[\w.-]+)+)/g;
/** The command line: test/support and scripts/test.mjs. */
const COMMAND_LINE = 'ISTHMUS_CLI';
/** Files that no bundle holds, and the source that loads them. @type {Readonly<Record<string, string>>} */
const LOADED_BY = { 'build/Release/isthmus.node': 'host/native/native.ts' };

/** The files that each test uses: in its bundle, in the programs that it starts, by name. */
export class Graph {
  /** Test file → files of its bundle and of the bundles of the programs that it starts. @type {Map<string, Set<string>>} */
  #inputs = new Map();
  /** Test file → files and folders that it names. @type {Map<string, Set<string>>} */
  #named = new Map();

  /**
   * @param {Metafile} metafile of a build whose entry points are the test files and the programs of test/children
   * @param {(path: string) => string} read the text of a file of the checkout
   */
  constructor(metafile, read) {
    /** @type {Map<string, string[]>} */
    const bundles = new Map();
    for (const { entryPoint, inputs } of Object.values(metafile.outputs)) {
      if (entryPoint !== undefined) bundles.set(entryPoint, Object.keys(inputs));
    }
    /** @type {Map<string, { programs: string[], named: string[] }>} */
    const seen = new Map();
    /** @param {string} path */
    const mentions = (path) => {
      let found = seen.get(path);
      if (!found) {
        const text = /^test\/.*\.ts$/.test(path) ? read(path) : '';
        found = {
          programs: [...text.matchAll(PROGRAM)].map(([, name]) => `test/children/${name}.ts`),
          named: [...text.matchAll(NAMED)].map(([, name]) => /** @type {string} */ (name)),
        };
        if (text.includes(COMMAND_LINE)) found.named.push('dist/cli.js');
        seen.set(path, found);
      }
      return found;
    };
    for (const entry of bundles.keys()) {
      if (!entry.endsWith('.test.ts')) continue;
      const inputs = new Set([entry]);
      const named = new Set();
      // The loop also visits inputs that it adds: programs may start programs.
      for (const path of inputs) {
        for (const input of bundles.get(path) ?? []) inputs.add(input);
        for (const program of mentions(path).programs) if (bundles.has(program)) inputs.add(program);
        for (const name of mentions(path).named) named.add(name);
      }
      this.#inputs.set(entry, inputs);
      this.#named.set(entry, named);
    }
  }

  /**
   * @param {Iterable<string>} changed paths below the root of the checkout
   * @returns {string[]} the test files that use one of them, sorted
   */
  touchedBy(changed) {
    /** @type {Set<string>} */
    const touched = new Set();
    for (const changedPath of changed) {
      const path = LOADED_BY[changedPath] ?? changedPath;
      const before = touched.size;
      for (const [test, inputs] of this.#inputs) {
        if (inputs.has(path) || this.#names(test, path)) touched.add(test);
      }
      // A test may read data by listing its own folder.
      if (touched.size === before && path.startsWith('test/') && !path.endsWith('.ts')) {
        const folder = path.slice(0, path.lastIndexOf('/') + 1);
        for (const test of this.#inputs.keys()) if (test.startsWith(folder)) touched.add(test);
      }
    }
    return [...touched].sort();
  }

  /** @param {string} test @param {string} path */
  #names(test, path) {
    return [...(this.#named.get(test) ?? [])].some((name) => path === name || path.startsWith(`${name}/`));
  }
}
