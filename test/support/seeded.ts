/** Random numbers that can be reproduced. */

import { randomInt } from 'node:crypto';

/**
 * ISTHMUS_TEST_SEED, which scripts/test.mjs draws for each run; a file that runs without it draws one. Printed, so that a
 * failure can be repeated.
 */
export function testSeed(): number {
  process.env['ISTHMUS_TEST_SEED'] ??= String(randomInt(2 ** 31));
  const seed = Number(process.env['ISTHMUS_TEST_SEED']) >>> 0;
  console.log(`ISTHMUS_TEST_SEED=${seed}`);
  return seed;
}

/** Bytes that cannot be compressed or guessed, and follow from the seed. */
export function seededBytes(seed: number, length: number): Buffer {
  const random = seeded(seed);
  const words = new Uint32Array(Math.ceil(length / 4));
  for (let i = 0; i < words.length; i++) words[i] = random(2 ** 32);
  return Buffer.from(words.buffer, 0, length);
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
