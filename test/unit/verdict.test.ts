/** Whether a difference between two builds is told from noise: bench/verdict.ts, on times that a seed makes. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { type Comparison, compare, describeRule, MIN_ROUNDS, type Round, roundsFor } from '../../bench/verdict.js';
import { seeded } from '../support/seeded.js';

/** Rounds as `npm run bench -- --before` makes them, of a build and of one that takes `factor` times as long. */
function rounds(
  count: number,
  factor: number,
  { noise = 0.05, drift = 0, spikes = 0 }: { noise?: number; drift?: number; spikes?: number },
  seed: number,
): Round[] {
  const random = seeded(seed);
  const uniform = () => (random(1_000_000) + 0.5) / 1_000_000;
  const normal = () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
  return Array.from({ length: count }, (_, round) => {
    // What the machine does to both.
    const machine = 1000 * (1 + (drift * round) / count);
    const turn = () => machine * Math.exp(noise * normal()) * (uniform() < spikes ? 5 : 1);
    return { before: [turn(), turn()], after: [turn() * factor, turn() * factor] };
  });
}

function verdicts(times: number, make: (seed: number) => Comparison): Record<string, number> {
  const counts: Record<string, number> = {};
  for (let seed = 1; seed <= times; seed++) {
    const { verdict } = make(seed);
    counts[verdict] = (counts[verdict] ?? 0) + 1;
  }
  return counts;
}

test('equal builds: no row of 25 raises an alarm in 95 % of the comparisons', () => {
  const alarms = verdicts(5000, (seed) => compare(rounds(12, 1, {}, seed), 25));
  const wrong = 5000 - (alarms['no change beyond noise'] ?? 0);
  // 5 % of 200 comparisons of 25 rows would be 10 rows.
  assert.ok(wrong <= 15, JSON.stringify(alarms));
});

test('equal builds on a machine that slows down, or is busy now and then', () => {
  for (const machine of [{ drift: 3 }, { spikes: 0.1 }, { drift: 1, spikes: 0.2, noise: 0.2 }]) {
    const counts = verdicts(1000, (seed) => compare(rounds(12, 1, machine, seed), 25));
    assert.ok((counts['no change beyond noise'] ?? 0) >= 995, JSON.stringify([machine, counts]));
  }
});

test('a build that is 10 % slower, or faster, is called so in 9 of 10 comparisons of 25 rows, also where the machine slows down', () => {
  for (const machine of [{}, { drift: 3 }]) {
    const slower = verdicts(500, (seed) => compare(rounds(12, 1.1, machine, seed), 25));
    assert.ok((slower['slower'] ?? 0) >= 440 && !slower['faster'], JSON.stringify(slower));
    const faster = verdicts(500, (seed) => compare(rounds(12, 1 / 1.1, machine, seed), 25));
    assert.ok((faster['faster'] ?? 0) >= 440 && !faster['slower'], JSON.stringify(faster));
  }
});

test('the numbers: medians, ratio, interval, noise', () => {
  const { before, after, ratio, interval, noiseBefore, noiseAfter } = compare(rounds(40, 1.5, { noise: 0.02 }, 7), 1);
  assert.ok(Math.abs(before - 1000) < 20 && Math.abs(after - 1500) < 30, `${before} ${after}`);
  assert.ok(Math.abs(ratio - 1.5) < 0.02 && interval[0] < ratio && ratio < interval[1], `${ratio} ${interval}`);
  assert.ok(interval[1] - interval[0] < 0.05, String(interval));
  // The quartiles of a normal distribution are 0.674 of its deviation away.
  assert.ok(Math.abs(noiseBefore - 0.0135) < 0.005 && Math.abs(noiseAfter - 0.0135) < 0.005);
});

test('exactly: five rounds that all go one way, and the tables of the signed ranks', () => {
  const one = (ratio: number): Round => ({ before: [100, 100], after: [100 * ratio, 100 * ratio] });
  const five = [1.1, 1.2, 1.3, 1.4, 1.5].map(one);
  // All signs alike: a chance of 2 / 32. One row takes 5 %, so five rounds say nothing.
  assert.equal(compare(five, 1).interval, [0, Number.POSITIVE_INFINITY]);
  assert.is(compare(five, 1).verdict, 'no change beyond noise');
  const six = [...five, one(1.6)];
  assert.is(compare(six, 1).verdict, 'slower');
  assert.ok(Math.abs(compare(six, 1).interval[0] - 1.1) < 1e-9 && Math.abs(compare(six, 1).interval[1] - 1.6) < 1e-9);
  // Of ten rounds a sum of ranks of 8 is the critical one for 5 %: eight Walsh averages are left out on each side.
  const ten = Array.from({ length: 10 }, (_, i) => one(Math.exp((i + 1) / 100)));
  const walsh = Array.from({ length: 10 }, (_, i) => Array.from({ length: 10 - i }, (_, k) => (2 * i + k + 2) / 200));
  const sorted = walsh.flat().sort((a, b) => a - b);
  assert.ok(Math.abs(Math.log(compare(ten, 1).interval[0]) - (sorted[8] as number)) < 1e-9);
});

test('a change that is certain and tiny is none', () => {
  assert.is(compare(rounds(40, 1.005, { noise: 0.0001 }, 3), 1).verdict, 'no change beyond noise');
  assert.is(compare(rounds(40, 1.015, { noise: 0.0001 }, 3), 1).verdict, 'slower');
});

test('the rounds that so many rows need', () => {
  assert.is(roundsFor(1), MIN_ROUNDS);
  assert.is(roundsFor(25), 10);
  for (const rows of [1, 3, 25, 100]) {
    const count = roundsFor(rows);
    assert.is(compare(rounds(count, 2, { noise: 0.01 }, rows), rows).verdict, 'slower', `${rows} rows`);
  }
  assert.match(describeRule(12, 25), /0\.20 %/);
});

test.run();
