// @ts-check
/**
 * Stands for `uvu` in the bundles of the tests: the same functions, and a report of each test to scripts/test.mjs.
 *
 * uvu counts in the text that it prints at the end, and this text says nothing where a file ends too early, where a second
 * `run()` follows when the first has been printed, or where a hook throws. So each test is reported when it is registered
 * and again when it has passed. What was registered and has not passed has failed, whatever happened in between.
 *
 * The report is a file with one object of JSON in each line (ISTHMUS_TEST_REPORT); `Entry` of outcome.mjs is its shape.
 * Processes that a test starts do not report.
 */
import { appendFileSync } from 'node:fs';
import { isMainThread } from 'node:worker_threads';
import { exec, suite as plainSuite } from 'uvu';

export { exec };

const path = isMainThread ? process.env['ISTHMUS_TEST_REPORT'] : undefined;
delete process.env['ISTHMUS_TEST_REPORT'];

/** @param {import('./outcome.mjs').Entry} entry */
function say(entry) {
  if (path) appendFileSync(path, `${JSON.stringify(entry)}\n`);
}

let registered = 0;
/** Number of the test that runs, or ran last; -1: none. */
let current = -1;

/** @typedef {(context: any) => unknown} Body */

/** @param {unknown} error */
const textOf = (error) => (error instanceof Error ? error.message : String(error));

/** @param {number} id @param {() => unknown} body */
async function reported(id, body) {
  try {
    return await body();
  } catch (error) {
    say({ failed: id, error: textOf(error) });
    throw error;
  }
}

/** Failures of a hook that belongs to no test are those of the file. @param {Body} body @returns {Body} */
const hook = (body) => (context) => reported(-1, () => body(context));
/** @param {Body} body @returns {Body} */
const eachHook = (body) => (context) => reported(current, () => body(context));
/** A test whose first hook throws does not run, so that it has not passed. @param {Body} body @returns {Body} */
const firstHook = (body) => (context) => {
  current = -1;
  return body(context);
};

/** @param {any} inner a suite of uvu */
function counted(inner) {
  /** @param {any} add */
  const registering = (add) => (/** @type {string} */ name, /** @type {Body} */ body) => {
    const id = registered++;
    say({ test: id, name: String(name) });
    add(name, async (/** @type {any} */ context) => {
      const start = performance.now();
      current = id;
      await reported(id, () => body(context));
      say({ passed: id, seconds: (performance.now() - start) / 1000 });
    });
  };
  const before = Object.assign((/** @type {Body} */ body) => inner.before(hook(body)), {
    each: (/** @type {Body} */ body) => inner.before.each(firstHook(body)),
  });
  const after = Object.assign((/** @type {Body} */ body) => inner.after(hook(body)), {
    each: (/** @type {Body} */ body) => inner.after.each(eachHook(body)),
  });
  return Object.assign(registering(inner), {
    before,
    after,
    only: registering(inner.only),
    skip: (/** @type {unknown} */ name) => {
      say({ skipped: String(name ?? '') });
      inner.skip();
    },
    run: () => inner.run(),
  });
}

export const suite = (/** @type {string} */ name = '', state = {}) => counted(plainSuite(name, state));
export const test = suite();

// For test/support/limits.ts: a wait that took longer than its limit without ISTHMUS_TEST_SLOWNESS.
Object.defineProperty(globalThis, Symbol.for('isthmus.test.late'), {
  value: (/** @type {string} */ what, /** @type {number} */ seconds, /** @type {number} */ limit) =>
    say({ late: current, what, seconds, limit }),
});
