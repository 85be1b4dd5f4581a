/**
 * Whether one build is slower than another, or the difference is noise.
 *
 * Each round measures both builds in turns, in processes of their own, and gives one ratio after/before. If the builds are
 * the same, a round can as well go one way as the other by the same factor. Wilcoxon's signed ranks tell exactly how
 * seldom the ratios of so many rounds then lie on one side as far as they do, whatever the distribution of the noise; the
 * means of all pairs of their logarithms (Walsh averages) give the ratio and its interval.
 */
import { median } from './clock.js';

/** The times of the turns of one round, in nanoseconds. */
export interface Round {
  readonly before: readonly number[];
  readonly after: readonly number[];
}

export type Verdict = 'no change beyond noise' | 'slower' | 'faster';

export interface Comparison {
  /** Medians of all turns, in nanoseconds. */
  readonly before: number;
  readonly after: number;
  /** After divided by before, as the rounds tell it. */
  readonly ratio: number;
  /** Where the ratio lies; from 0 to Infinity if there are too few rounds to say. */
  readonly interval: readonly [number, number];
  /** Half of the distance between the quartiles of the turns, as a share of their median. */
  readonly noiseBefore: number;
  readonly noiseAfter: number;
  readonly verdict: Verdict;
}

/** The chance that a whole comparison of equal builds calls any row slower or faster. */
export const MAX_FALSE_ALARM = 0.05;
/** A ratio nearer to 1 than this is no change, however certain it is. */
export const MIN_CHANGE = 0.01;
/** Rounds of each comparison, at least. */
export const MIN_ROUNDS = 7;

/** @returns the rounds that a comparison with this number of rows needs before any verdict but noise is possible */
export function roundsFor(rows: number): number {
  return Math.max(MIN_ROUNDS, Math.ceil(Math.log2((2 * Math.max(1, rows)) / MAX_FALSE_ALARM)));
}

/**
 * @returns how many Walsh averages to leave out on each side, so that the others hold the ratio but for the chance `alarm`;
 * -1: even all of them do not
 */
function leftOut(rounds: number, alarm: number): number {
  // Ways in which signs of the ranks 1 to `rounds` give each sum.
  let ways = [1];
  for (let rank = 1; rank <= rounds; rank++) {
    const next = new Array<number>(ways.length + rank).fill(0);
    for (const [sum, count] of ways.entries()) {
      next[sum] = (next[sum] as number) + count;
      next[sum + rank] = (next[sum + rank] as number) + count;
    }
    ways = next;
  }
  const limit = (alarm / 2) * 2 ** rounds;
  let cut = 0;
  for (let seen = 0; cut < ways.length; cut++) {
    seen += ways[cut] as number;
    if (seen > limit) break;
  }
  return cut - 1;
}

const quantile = (sorted: readonly number[], share: number): number => {
  const at = share * (sorted.length - 1);
  const low = sorted[Math.floor(at)] as number;
  return low + (at - Math.floor(at)) * ((sorted[Math.ceil(at)] as number) - low);
};

function noise(turns: readonly number[]): number {
  const sorted = [...turns].sort((a, b) => a - b);
  return (quantile(sorted, 0.75) - quantile(sorted, 0.25)) / 2 / median(sorted);
}

/** @param rows rows of the whole comparison, of which none is to raise a false alarm */
export function compare(rounds: readonly Round[], rows: number): Comparison {
  const before = rounds.flatMap((round) => round.before);
  const after = rounds.flatMap((round) => round.after);
  const logs = rounds.map((round) => Math.log(median(round.after) / median(round.before)));
  const walsh = logs.flatMap((a, i) => logs.slice(i).map((b) => (a + b) / 2)).sort((a, b) => a - b);
  const cut = leftOut(rounds.length, MAX_FALSE_ALARM / rows);
  const ratio = Math.exp(median(walsh));
  const interval: readonly [number, number] =
    cut < 0
      ? [0, Number.POSITIVE_INFINITY]
      : [Math.exp(walsh[cut] as number), Math.exp(walsh[walsh.length - 1 - cut] as number)];
  let verdict: Verdict = 'no change beyond noise';
  if (interval[0] > 1 && ratio >= 1 + MIN_CHANGE) verdict = 'slower';
  if (interval[1] < 1 && ratio <= 1 - MIN_CHANGE) verdict = 'faster';
  return {
    before: median(before),
    after: median(after),
    ratio,
    interval,
    noiseBefore: noise(before),
    noiseAfter: noise(after),
    verdict,
  };
}

/** The rule, for the reader of the table. */
export function describeRule(rounds: number, rows: number): string {
  const alarm = MAX_FALSE_ALARM / rows;
  return [
    `${rounds} rounds; in each both builds get processes of their own and take turns (A B B A, B A A B). A turn counts with the`,
    'tenth percentile of its samples; before and after are medians of the turns. Ratio: after / before, from the rounds.',
    `Interval: where the ratio lies but for a chance of ${(alarm * 100).toPrecision(2)} % (Wilcoxon's signed ranks; ${MAX_FALSE_ALARM * 100} % for all ${rows} rows together).`,
    `Slower or faster: the interval does not hold 1, and the ratio is off by ${MIN_CHANGE * 100} % or more.`,
    "Noise: half of the distance between the quartiles of a build's turns.",
  ].join('\n');
}
