/** The count of numbered messages, by which the demo detects lost ones. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { Tally } from '../../host/cli/demo/tally.js';

function counted(numbers: readonly number[], sent: number): number[] {
  const tally = new Tally();
  for (const number of numbers) tally.take(number);
  return [tally.received, tally.lost(sent), tally.doubled, tally.disordered];
}

test('lost, duplicate and out-of-order messages are counted', () => {
  assert.equal(counted([], 0), [0, 0, 0, 0]);
  assert.equal(counted([0, 1, 2], 3), [3, 0, 0, 0]);
  assert.equal(counted([0, 1], 3), [2, 1, 0, 0], 'lost at the end');
  assert.equal(counted([2, 3], 4), [2, 2, 0, 0], 'lost at the beginning');
  assert.equal(counted([0, 2, 1, 3], 4), [4, 0, 0, 1]);
  assert.equal(counted([0, 1, 1, 2, 0], 3), [5, 0, 2, 0]);
  assert.equal(counted([0, 3, 1, 1], 5), [4, 2, 1, 1]);
});

test.run();
