/** Expected failures, and conditions that become true. */
import { setTimeout as pause } from 'node:timers/promises';
import type { IsthmusError } from '../../host/base/errors.js';
import { slowness, tookFrom } from './limits.js';

/** @returns the reason of its rejection; the test checks it */
export async function rejection(promise: Promise<unknown>): Promise<IsthmusError> {
  try {
    await promise;
  } catch (error) {
    return error as IsthmusError;
  }
  throw new Error('it did not reject');
}

/** @returns the error that it throws */
export function thrownBy<E = IsthmusError>(body: () => unknown): E {
  try {
    body();
  } catch (error) {
    return error as E;
  }
  throw new Error('it did not throw');
}

/** Waits for a condition. @throws with `what` if it does not become true */
export async function eventually(
  what: string,
  condition: () => boolean | Promise<boolean>,
  seconds = 30,
): Promise<void> {
  const start = performance.now();
  const end = start + seconds * 1000 * slowness;
  while (!(await condition())) {
    if (performance.now() > end) throw new Error(`${what}: not within ${seconds * slowness} s`);
    await pause(2);
  }
  tookFrom(start, what, seconds);
}
