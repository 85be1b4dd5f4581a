/** Taking samples: what all near ends that are written in JavaScript have in common. */
import { now } from '../clock.js';

/** Most samples of one measurement; of more, so many at even distances are kept. */
const SAMPLES = 5000;

/**
 * Measure batches for some time, the first tenth of it as a warm-up.
 * @param play so many round trips
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
  if (samples.length <= SAMPLES) return samples;
  return Array.from({ length: SAMPLES }, (_, i) => samples[Math.floor((i * samples.length) / SAMPLES)] as number);
}
