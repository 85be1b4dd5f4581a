/**
 * Limits of waits. They distinguish a hang from slow work; ISTHMUS_TEST_SLOWNESS stretches all of them for a slow machine.
 * What took longer than its limit without that factor passes, and the runner names it as a fault to be understood.
 */

/** Factor on all limits: 1, or more on a slow machine. */
export const slowness = Number(process.env['ISTHMUS_TEST_SLOWNESS'] ?? 1);

type Late = (what: string, seconds: number, limit: number) => void;

/**
 * Note how long something took that has succeeded.
 * @param started `performance.now()` at its beginning
 * @param limit seconds that it may take on a free machine
 */
export function tookFrom(started: number, what: string, limit: number): void {
  const seconds = (performance.now() - started) / 1000;
  // scripts/testing/counted.mjs; processes that a test starts have none.
  const late = (globalThis as { [key: symbol]: Late | undefined })[Symbol.for('isthmus.test.late')];
  if (seconds > limit) late?.(what, seconds, limit);
}
