/** How a runtime waits: when it spins, when it asks whether it may sleep, and what wakes it. */
import { setTimeout as pause } from 'node:timers/promises';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { Wait } from '../../host/config/config.js';
import { EventLoopIdleStrategy, type TrySleep } from '../../host/polling/idle-strategy.js';
import { timebox } from '../support/timebox.js';

/** A waiter over nothing, with what it did. */
function waiter(wait: Wait, rest: ReturnType<TrySleep>) {
  const seen = { looks: 0, spins: 0, rests: 0, there: false };
  const made = new EventLoopIdleStrategy(
    wait,
    (rounds) => {
      seen.looks++;
      if (rounds > 0) seen.spins++;
      return seen.there;
    },
    () => {
      seen.rests++;
      return rest;
    },
  );
  // What wakes it keeps no process alive.
  const alive = setInterval(() => {}, 1000);
  return {
    seen,
    wake: () => made.wake(),
    stop: () => {
      clearInterval(alive);
      made.stop();
    },
  };
}

test(
  'adaptive: spins after something came, then asks once and leaves it to the doorbell, but for a net',
  timebox(20, async () => {
    const { seen, wake, stop } = waiter('adaptive', 'asleep');
    // It spins for 2 ms, in which this process may have had no processor.
    for (let tries = 0; seen.spins === 0 && tries < 100; tries++) {
      seen.rests = 0;
      wake();
      for (let i = 0; i < 1000 && seen.rests === 0; i++) await pause(1);
    }
    assert.ok(seen.spins > 0);
    const { looks } = seen;
    const since = performance.now();
    await pause(450);
    const passed = performance.now() - since;
    // Every 100 ms.
    assert.ok(seen.looks - looks <= passed / 100 + 1, `${seen.looks - looks} looks in ${passed} ms`);
    const before = seen.looks;
    wake();
    await pause(20);
    assert.ok(seen.looks > before, 'somebody rang');
    stop();
    const { looks: last } = seen;
    wake();
    await pause(20);
    assert.is(seen.looks, last, 'stopped');
  }),
);

test(
  'adaptive: where nobody rings a timer looks, less and less often',
  timebox(20, async () => {
    const { seen, wake, stop } = waiter('adaptive', 'quiet');
    wake();
    await pause(100);
    const early = seen.looks - seen.spins;
    assert.ok(early > 0);
    await pause(600);
    const { looks } = seen;
    const since = performance.now();
    await pause(300);
    const passed = performance.now() - since;
    assert.ok(seen.looks > looks, 'it goes on');
    assert.ok(seen.looks - looks <= passed / 10 + 2, `${seen.looks - looks} looks in ${passed} ms`);
    stop();
  }),
);

test(
  'block: asks at once; spin: never',
  timebox(20, async () => {
    const block = waiter('block', 'asleep');
    block.wake();
    await pause(20);
    assert.is(block.seen.spins, 0);
    assert.ok(block.seen.rests > 0);
    block.stop();
    const spin = waiter('spin', 'asleep');
    spin.wake();
    await pause(50);
    assert.is(spin.seen.rests, 0);
    assert.ok(spin.seen.spins > 0);
    spin.stop();
  }),
);

test(
  'an event loop with other things to do is looked in at, and not kept',
  timebox(20, async () => {
    for (const wait of ['adaptive', 'spin'] as const) {
      const { seen, wake, stop } = waiter(wait, 'asleep');
      let immediate: NodeJS.Immediate;
      const work = () => {
        for (const end = performance.now() + 0.1; performance.now() < end; );
        immediate = setImmediate(work);
      };
      immediate = setImmediate(work);
      // It looks for 2 ms, in which this process may have had no processor.
      for (let tries = 0; seen.looks < 5 && tries < 100; tries++) {
        wake();
        await pause(10);
      }
      assert.ok(seen.looks >= 5);
      assert.is(seen.spins, 0, wait);
      clearImmediate(immediate);
      stop();
    }
  }),
);

test(
  'busy: what has come after all is looked at without a pause',
  timebox(20, async () => {
    const { seen, wake, stop } = waiter('block', 'busy');
    wake();
    await pause(50);
    assert.ok(seen.rests > 5, String(seen.rests));
    stop();
  }),
);

test.run();
