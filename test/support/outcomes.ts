/** What was to fail, and what was to become true. */
import { setTimeout as pause } from 'node:timers/promises';
import type { IsthmusError } from '../../host/base/errors.js';

/** @returns what it rejects with; it is the test's business to look at it */
export async function rejection(promise: Promise<unknown>): Promise<IsthmusError> {
  try {
    await promise;
  } catch (error) {
    return error as IsthmusError;
  }
  throw new Error('it did not reject');
}

/** @returns what it throws */
export function thrownBy<E = IsthmusError>(body: () => unknown): E {
  try {
    body();
  } catch (error) {
    return error as E;
  }
  throw new Error('it did not throw');
}

const slowness = Number(process.env['ISTHMUS_TEST_SLOWNESS'] ?? 1);

/** Waits for it. @throws with `what` if it does not come */
export async function eventually(
  what: string,
  condition: () => boolean | Promise<boolean>,
  seconds = 30,
): Promise<void> {
  const end = performance.now() + seconds * 1000 * slowness;
  while (!(await condition())) {
    if (performance.now() > end) throw new Error(`${what}: not within ${seconds * slowness} s`);
    await pause(2);
  }
}
