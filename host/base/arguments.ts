/** Arguments that would otherwise be taken for something else, silently. */
import { types } from 'node:util';
import { IsthmusError } from './errors.js';

/** The longest time of a timer, 24 days; more would be taken for 1 ms. */
export const MAX_TIMER_MS = 2 ** 31 - 1;

/**
 * The options of a call. A number, bytes or an AbortSignal in their place have none of their fields: a call would go on
 * without them.
 * @param example for the message: `{ offset }`
 * @throws ERR_ISTHMUS_INVALID_ARGUMENT
 */
export function optionsOf<T extends object>(options: T | undefined, example: string): T | undefined {
  if (options === undefined || options === null) return undefined;
  const wrong =
    typeof options !== 'object' ||
    Array.isArray(options) ||
    types.isArrayBufferView(options) ||
    types.isAnyArrayBuffer(options) ||
    'aborted' in options;
  if (!wrong) return options;
  throw new IsthmusError('ERR_ISTHMUS_INVALID_ARGUMENT', `options are an object such as ${example}`);
}

/**
 * A limit of time, for a timer.
 * @returns milliseconds; Infinity becomes the longest time of a timer
 * @throws ERR_ISTHMUS_INVALID_ARGUMENT
 */
export function timeoutOf(timeout: number): number {
  if (typeof timeout === 'number' && timeout >= 0) return Math.min(timeout, MAX_TIMER_MS);
  throw new IsthmusError(
    'ERR_ISTHMUS_INVALID_ARGUMENT',
    `a timeout is a number of milliseconds, not ${String(timeout)}`,
  );
}
