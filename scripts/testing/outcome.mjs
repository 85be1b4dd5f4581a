// @ts-check
/**
 * What a run of tests has come to, and the exit code that follows from it: in one place, so that no path through the runner
 * prints a failure and ends with 0.
 */

/**
 * A line of the report that a test file writes (counted.mjs). Numbers of tests count from 0; -1: the file itself.
 *
 * @typedef {{ test: number, name: string }
 *   | { passed: number, seconds: number }
 *   | { failed: number, error: string }
 *   | { skipped: string }
 *   | { late: number, what: string, seconds: number, limit: number }} Entry
 */

/**
 * What the report of one file says.
 *
 * @typedef {object} Reported
 * @property {number} total tests that were registered
 * @property {number} passed
 * @property {number} skipped
 * @property {{ name: string, error: string }[]} failures registered tests that have not passed, and hooks that threw
 * @property {string[]} late what took longer than its limit without ISTHMUS_TEST_SLOWNESS
 */

/** Stands for the name of a test where a hook of the whole file threw. */
export const A_HOOK = '(a hook)';

/**
 * Read a report. A last line that was cut off, because the process was killed while it wrote, counts for nothing.
 *
 * @param {string} text
 * @returns {Reported}
 */
export function readReport(text) {
  /** @type {{ name: string, state: 'open' | 'passed' | 'failed', error: string }[]} */
  const tests = [];
  const hooks = [];
  const late = [];
  let skipped = 0;
  for (const line of text.split('\n')) {
    /** @type {any} */
    let entry;
    try {
      entry = JSON.parse(line);
    } catch {
      continue;
    }
    if ('test' in entry) tests[entry.test] = { name: entry.name, state: 'open', error: 'it was not run to its end' };
    else if ('skipped' in entry) skipped++;
    else if ('late' in entry) {
      const name = tests[entry.late]?.name ?? 'outside of a test';
      late.push(`${name}: ${entry.what} took ${entry.seconds.toFixed(1)} s, its limit is ${entry.limit} s`);
    } else if ('passed' in entry) {
      const test = tests[entry.passed];
      if (test && test.state !== 'failed') test.state = 'passed';
    } else if ('failed' in entry) {
      const test = tests[entry.failed];
      if (test) Object.assign(test, { state: 'failed', error: entry.error });
      else hooks.push({ name: A_HOOK, error: entry.error });
    }
  }
  const passed = tests.filter(({ state }) => state === 'passed').length;
  const failures = tests.filter(({ state }) => state !== 'passed').map(({ name, error }) => ({ name, error }));
  return { total: tests.length, passed, skipped, failures: [...failures, ...hooks], late };
}

/** Counts of one file, or of all. @typedef {{ passed: number, failed: number, skipped: number }} Counts */

/**
 * The counts of a run, and its exit code. From the construction on the process ends with 1, or with another code than 0
 * that it already has, however it ends: `finish` is the only way to 0, and only where tests passed and none failed.
 */
export class Outcome {
  /** @type {Map<string, Counts>} */
  #files = new Map();
  #finished = false;
  #listed = false;

  /** @param {NodeJS.Process} process */
  constructor(process) {
    process.exitCode = 1;
    // The last to be asked: what `process.exit(0)` was called with does not count.
    process.on('exit', (code) => {
      process.exitCode = this.good ? code : code || 1;
    });
  }

  /** Note what a file has come to; a second run of it replaces the first. @param {string} path @param {Counts} counts */
  note(path, { passed, failed, skipped }) {
    this.#files.set(path, { passed, failed, skipped });
  }

  /** @returns {Counts} */
  get sum() {
    const sum = { passed: 0, failed: 0, skipped: 0 };
    for (const counts of this.#files.values()) {
      sum.passed += counts.passed;
      sum.failed += counts.failed;
      sum.skipped += counts.skipped;
    }
    return sum;
  }

  /** All files have been noted, and something passed and nothing failed. */
  get good() {
    if (this.#listed) return true;
    const { passed, failed } = this.sum;
    return this.#finished && passed > 0 && failed === 0;
  }

  /** There is no test to run, and that is right: `--list`. @returns 0 */
  nothingToRun() {
    this.#listed = true;
    return 0;
  }

  /** All files have been noted: print the last line. @param {NodeJS.Process} process */
  finish(process) {
    this.#finished = true;
    const { passed, failed, skipped } = this.sum;
    process.exitCode = this.good ? 0 : 1;
    console.log(`${passed} passed, ${failed} failed${skipped ? `, ${skipped} skipped` : ''}`);
  }
}
