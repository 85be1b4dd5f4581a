/** The queue of unread messages: its order, and the age of the oldest. */
import { setTimeout as pause } from 'node:timers/promises';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { AgedQueue } from '../../host/matching/aged-queue.js';
import { timebox } from '../support/timebox.js';

test(
  'first in, first out, across the points where the queue compacts',
  timebox(10, () => {
    const queue = new AgedQueue<number>();
    let next = 0;
    let expected = 0;
    for (let round = 0; round < 50; round++) {
      for (let i = 0; i < 137; i++) queue.push(next++);
      for (let i = 0; i < 101; i++) assert.is(queue.shift(), expected++);
      assert.is(queue.length, next - expected);
      assert.is(queue.peek(), expected);
    }
    while (queue.length > 0) assert.is(queue.shift(), expected++);
    assert.is(expected, next);
    assert.is(queue.shift(), undefined);
    assert.is(queue.age(), 0);
  }),
);

test(
  'the age is the age of the oldest message left',
  timebox(10, async () => {
    const queue = new AgedQueue<string>();
    const start = performance.now();
    assert.is(queue.age(), 0);
    queue.push('a');
    queue.push('b');
    const first = performance.now();
    await pause(60);
    queue.tick();
    const second = performance.now();
    queue.push('c');
    queue.push('d');
    const third = performance.now();
    await pause(60);
    // Exact bounds at a chosen instant: nothing here depends on the speed of the machine.
    const now = performance.now();
    const between = (from: number, to: number, what: string) => {
      const age = queue.age(now);
      assert.ok(age >= now - to && age <= now - from, `${what}: ${age}, not ${now - to} to ${now - from}`);
    };
    between(start, first, 'a');
    queue.shift();
    between(start, first, 'b arrived with a');
    queue.shift();
    between(second, third, 'c');
    queue.push('e');
    between(second, third, 'c is still there');
    queue.shift();
    between(second, third, 'd arrived with c');
    queue.clear();
    assert.is(queue.age(), 0);
    const again = performance.now();
    queue.push('f');
    assert.ok(queue.age(now + 1e6) <= now + 1e6 - again, 'an empty queue starts again');
  }),
);

test.run();
