/** Taking samples: the common part of all near ends that are written in JavaScript. */
import { now } from '../clock.js';

/** Of more samples in one measurement, this many at even distances are kept. */
const MAX_SAMPLES = 5000;

/**
 * Measure batches for some time, the first tenth of it as a warm-up.
 * @param play plays a number of round trips
 * @param between called between two batches, about once in a millisecond
 * @returns half round trips in nanoseconds, each the mean of a batch
 */
export async function sample(
  milliseconds: number,
  batch: number,
  play: (rounds: number) => Promise<void> | void,
  between?: () => Promise<void>,
): Promise<number[]> {
  const begin = now();
  const warm = begin + milliseconds * 1e5;
  const end = begin + milliseconds * 1e6;
  const samples: number[] = [];
  let rested = begin;
  for (let after = begin; after < end || samples.length === 0; ) {
    const before = now();
    const played = play(batch);
    if (played) await played;
    after = now();
    if (before >= warm || after >= end) samples.push((after - before) / batch / 2);
    if (between && after - rested > 1e6) {
      await between();
      rested = after;
    }
  }
  if (samples.length <= MAX_SAMPLES) return samples;
  return Array.from(
    { length: MAX_SAMPLES },
    (_, i) => samples[Math.floor((i * samples.length) / MAX_SAMPLES)] as number,
  );
}
