/** How a runtime waits: when it spins, when it asks whether it may sleep, and what wakes it. */
import { setTimeout as pause } from 'node:timers/promises';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { Wait } from '../../host/config/config.js';
import { EventLoopIdleStrategy, type TrySleep } from '../../host/polling/idle-strategy.js';
import { timebox } from '../support/timebox.js';

/** A waiter without connections, with counts of its calls. */
function waiter(wait: Wait, rest: ReturnType<TrySleep>) {
  const seen = { passes: 0, spins: 0, rests: 0, there: false };
  const made = new EventLoopIdleStrategy(
    wait,
    (rounds) => {
      seen.passes++;
      if (rounds > 0) seen.spins++;
      return seen.there;
    },
    () => {
      seen.rests++;
      return rest;
    },
  );
  // The waiter's own wake-ups keep no process alive.
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
  'adaptive: spins after a message, then asks once and waits for the doorbell, with a fallback poll',
  timebox(20, async () => {
    const { seen, wake, stop } = waiter('adaptive', 'asleep');
    // It spins for 2 ms, during which this process may have had no processor.
    for (let tries = 0; seen.spins === 0 && tries < 100; tries++) {
      seen.rests = 0;
      wake();
      for (let i = 0; i < 1000 && seen.rests === 0; i++) await pause(1);
    }
    assert.ok(seen.spins > 0);
    const { passes } = seen;
    const since = performance.now();
    await pause(450);
    const passed = performance.now() - since;
    // Every 100 ms.
    assert.ok(seen.passes - passes <= passed / 100 + 1, `${seen.passes - passes} passes in ${passed} ms`);
    const before = seen.passes;
    wake();
    await pause(20);
    assert.ok(seen.passes > before, 'the doorbell wakes it');
    stop();
    const { passes: last } = seen;
    wake();
    await pause(20);
    assert.is(seen.passes, last, 'stopped');
  }),
);

test(
  'adaptive: without a peer that rings, a timer polls, less and less often',
  timebox(20, async () => {
    const { seen, wake, stop } = waiter('adaptive', 'quiet');
    wake();
    await pause(100);
    const early = seen.passes - seen.spins;
    assert.ok(early > 0);
    await pause(600);
    const { passes } = seen;
    const since = performance.now();
    await pause(300);
    const passed = performance.now() - since;
    assert.ok(seen.passes > passes, 'it continues');
    assert.ok(seen.passes - passes <= passed / 10 + 2, `${seen.passes - passes} passes in ${passed} ms`);
    stop();
  }),
);

test(
  'block: asks at once; spin: never asks',
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
  'a busy event loop is polled, and not kept from its work',
  timebox(20, async () => {
    for (const wait of ['adaptive', 'spin'] as const) {
      const { seen, wake, stop } = waiter(wait, 'asleep');
      let immediate: NodeJS.Immediate;
      const work = () => {
        for (const end = performance.now() + 0.1; performance.now() < end; );
        immediate = setImmediate(work);
      };
      immediate = setImmediate(work);
      // It polls for 2 ms, during which this process may have had no processor.
      for (let tries = 0; seen.passes < 5 && tries < 100; tries++) {
        wake();
        await pause(10);
      }
      assert.ok(seen.passes >= 5);
      assert.is(seen.spins, 0, wait);
      clearImmediate(immediate);
      stop();
    }
  }),
);

test(
  'busy: a record that arrived after all is polled without a pause',
  timebox(20, async () => {
    const { seen, wake, stop } = waiter('block', 'busy');
    wake();
    await pause(50);
    assert.ok(seen.rests > 5, String(seen.rests));
    stop();
  }),
);

test.run();
