import { slowness, tookFrom } from './limits.js';

/**
 * A time limit for one test, since uvu has none: `test('…', timebox(5, async () => { … }))`.
 *
 * Operations that the body has started continue when the time is over; the test fails, and its file is ended soon after
 * if nothing else ends it (`scripts/test.mjs` has a limit per file). A body that never yields cannot be timed out from
 * inside.
 *
 * @param seconds may be stretched for a slow machine with ISTHMUS_TEST_SLOWNESS (a factor)
 */
export function timebox(seconds: number, body: () => void | Promise<void>): () => Promise<void> {
  const limit = seconds * slowness;
  return async () => {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_, reject) => {
      // Created here, so that its stack is that of the test.
      const error = new Error(`not done after ${limit} s`);
      timer = setTimeout(() => reject(error), limit * 1000);
    });
    const start = performance.now();
    const done = (async () => body())();
    // If the body fails after its time was over, that is not an unhandled rejection of its own.
    done.catch(() => {});
    try {
      await Promise.race([done, late]);
      tookFrom(start, 'the test', seconds);
    } finally {
      clearTimeout(timer);
    }
  };
}
