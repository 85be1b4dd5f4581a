// @ts-check
/**
 * Reads and checks the manifest of the test files, test/suites.mjs, for scripts/test.mjs.
 *
 * A mistake in the manifest ends the run: a setting that nothing reads would let a file run beside others, too early or
 * with too short a limit, and no test would tell.
 */

/**
 * What the manifest may say of a file, or of all files of a folder.
 *
 * @typedef {object} Suite
 * @property {boolean} [alone] The file runs after the others, with no other file beside it.
 * @property {number} [limitSeconds] The run of the file may take so long. ISTHMUS_TEST_TIMEOUT applies where it is longer.
 * @property {boolean} [onlyWithAll] The file runs only with `--all` or `--rest`.
 * @property {boolean} [rerunWhole] `--again` runs the whole file, never single tests: each test needs the one before.
 */

/**
 * The manifest: paths below test/. The name of a folder ends with a slash. What an entry of a file says overrides what
 * the entries of its folders say.
 *
 * @typedef {Record<string, Suite>} Manifest
 */

/** The settings and what each takes. */
const SETTINGS = {
  alone: isBoolean,
  limitSeconds: isSeconds,
  onlyWithAll: isBoolean,
  rerunWhole: isBoolean,
};

/** @param {unknown} value */
function isBoolean(value) {
  return typeof value === 'boolean' ? undefined : 'must be true or false';
}

/** @param {unknown} value */
function isSeconds(value) {
  return Number.isInteger(value) && Number(value) > 0 ? undefined : 'must be a whole number of seconds above 0';
}

/** Comments that steered the runner before there was a manifest. */
const MAGIC_COMMENT = /^\s*\/\/\s*(alone\b|only with\b|time limit\b).{0,30}$/i;

/** @param {unknown} value */
const show = (value) => JSON.stringify(value) ?? String(value);

/** @param {string} path @param {unknown} suite @param {readonly string[]} tests @returns {string[]} */
function checkEntry(path, suite, tests) {
  const problems = [];
  const known = path.endsWith('/') ? tests.some((test) => test.startsWith(path)) : tests.includes(path);
  if (!known) {
    const what = path.endsWith('/') ? 'this folder of test/ has no *.test.ts' : 'there is no such file in test/';
    problems.push(`${show(path)}: ${what}; correct the path, or remove the entry (a folder ends with '/')`);
  }
  if (typeof suite !== 'object' || suite === null || Array.isArray(suite)) {
    return [...problems, `${show(path)}: ${show(suite)} is no object of settings`];
  }
  const settings = Object.entries(suite);
  if (settings.length === 0) problems.push(`${show(path)}: the entry sets nothing; remove it`);
  for (const [name, value] of settings) {
    if (!Object.hasOwn(SETTINGS, name)) {
      problems.push(`${show(path)}: unknown setting '${name}'; known are ${Object.keys(SETTINGS).join(', ')}`);
      continue;
    }
    const wrong = SETTINGS[/** @type {keyof typeof SETTINGS} */ (name)](value);
    if (wrong) problems.push(`${show(path)}: ${name} ${wrong}, and is ${show(value)}`);
  }
  return problems;
}

/**
 * @param {string} path
 * @param {Manifest} manifest
 * @returns {Suite} the settings of one file: those of its folders from the outermost inwards, then its own
 */
export function suiteOf(path, manifest) {
  const folders = path.split('/').slice(0, -1);
  const names = folders.map((_, depth) => `${folders.slice(0, depth + 1).join('/')}/`);
  return Object.assign({}, ...[...names, path].map((name) => (Object.hasOwn(manifest, name) ? manifest[name] : {})));
}

/**
 * Check a manifest.
 *
 * @param {unknown} manifest what test/suites.mjs exports
 * @param {readonly string[]} files every file below test/, by its path there
 * @param {(path: string) => string} read the text of one of them
 * @returns {string[]} what is wrong and what to do about it; empty: nothing is wrong
 */
export function checkSuites(manifest, files, read) {
  if (typeof manifest !== 'object' || manifest === null || Array.isArray(manifest)) {
    return ["test/suites.mjs: must export 'suites', an object of paths and settings"];
  }
  const tests = files.filter((path) => path.endsWith('.test.ts'));
  const problems = Object.entries(manifest).flatMap(([path, suite]) =>
    checkEntry(path, suite, tests).map((problem) => `test/suites.mjs: ${problem}`),
  );
  if (problems.length === 0) {
    for (const path of tests.filter((test) => test.endsWith('.slow.test.ts'))) {
      if (!suiteOf(path, /** @type {Manifest} */ (manifest)).onlyWithAll) {
        problems.push(`test/${path}: a *.slow.test.ts runs only with --all; give it onlyWithAll in test/suites.mjs`);
      }
    }
  }
  for (const path of files.filter((file) => file.endsWith('.ts'))) {
    for (const [index, line] of read(path).split('\n').entries()) {
      if (!MAGIC_COMMENT.test(line)) continue;
      problems.push(
        `test/${path}:${index + 1}: the runner does not read the comment '${line.trim()}'; declare it in ` +
          'test/suites.mjs and remove the comment',
      );
    }
  }
  return problems;
}
