/** Random numbers that can be reproduced. */

/** ISTHMUS_TEST_SEED, or the same number each time; printed, so that a failure can be repeated. */
export function testSeed(): number {
  const seed = Number(process.env['ISTHMUS_TEST_SEED'] ?? 20240229) >>> 0;
  console.log(`ISTHMUS_TEST_SEED=${seed}`);
  return seed;
}

/** Mulberry32: `random(n)` is one of 0 … n - 1. */
export function seeded(seed: number): (n: number) => number {
  let state = seed >>> 0;
  return (n) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return Math.floor((((t ^ (t >>> 14)) >>> 0) / 2 ** 32) * n);
  };
}
